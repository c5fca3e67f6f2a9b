/* SPDX-License-Identifier: Apache-2.0
 * logs.h: recent logs of agent and ztunnel: from the journal under systemd, from the kubelet's
 * files of their pods under Kubernetes.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

#define CTL_POD_LOGS "/var/log/pods"

/* Gets each log: @name in the archive, @source (path, or "journal: UNIT"), its last part in @text,
 * @cut when there was more. Without it @why says what could not be had. */
struct ctl_logs_sink {
	void (*log)(void *ctx, const char *name, const char *source, struct str text, bool cut);
	void (*missing)(void *ctx, const char *name, const char *source, const char *why);
	void *ctx;
};

/* @cgroups: what /proc/PID/cgroup says of our processes, one after the other; @pod_logs: the
 * kubelet's folder. */
void ctl_logs_collect(struct str cgroups, const char *pod_logs, const struct ctl_logs_sink *to);
