/* SPDX-License-Identifier: Apache-2.0
 * health.h: what a DaemonSet's probe and a scrape ask over TCP: /healthz, /readyz (port 8000 in a
 * pod) and /metrics (15014), names and meaning as stock's (cni-spec 3.13). Reads only; nothing in
 * a request but its path counts. Loop thread only.
 */
#pragma once
#include "lib/base/attr.h"

struct err;
struct events;
struct health;
struct loop;
struct status_from;

/* Serves on the ports that are configured, which may be none. @from and @events must outlive it.
 * NULL with @err when a port is taken. */
struct health *health_new(struct loop *l, const struct status_from *from,
			  const struct events *events, struct err *err) _must_check_;
struct health *health_free(struct health *h);
