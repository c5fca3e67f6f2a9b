/* SPDX-License-Identifier: Apache-2.0
 * log_pick.h: which logs are ours, and how much of them. Pure.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

/* The folder of a pod's logs, NAMESPACE_NAME_UID (kubelet, "BuildPodLogsDirectory"): true for the
 * names that our charts and Istio's give their pods, and for the pod whose UID is in @cgroup, what
 * /proc/PID/cgroup says of one of our processes; "" when that is not known. */
bool ctl_log_pod_is_ours(struct str folder, struct str cgroup);
/* Its name; the whole folder's name when it is of another form. */
struct str ctl_log_pod_name(struct str folder);

/* The systemd service that @cgroup belongs to ("ztunnel@2.service"); empty for none. */
struct str ctl_log_unit(struct str cgroup);

/* The last @max bytes of @text from the start of a line on. Half of a private key would not be
 * recognised as one any more: when its beginning is cut off, the rest of it goes as well. */
struct str ctl_log_tail(struct str text, size_t max);
