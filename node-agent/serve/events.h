/* SPDX-License-Identifier: Apache-2.0
 * events.h: the agent's event socket (docs/agent-api.md) and the stock plugin's log socket.
 * Loop thread only.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct config;
struct enrol;
struct err;
struct events;
struct install;
struct loop;
struct pods;
struct source;
struct status_from;

/* Both descriptors are listening sockets and move here, also on failure. */
struct events *events_new(struct loop *l, int event_fd, int log_fd, const struct config *cfg,
			  struct enrol *enrol, const struct pods *pods, const struct source *src,
			  struct err *err) _must_check_;
/* Shown in GET /v1/status; must outlive @e. */
void events_set_install(struct events *e, const struct install *in);
/* What it knows; lives as long as @e. */
const struct status_from *events_from(const struct events *e);

/* How often requests of the plugin were answered with a status. */
#define EVENTS_CODES 16
struct events_count {
	unsigned int http; /* 0: this entry and those after it are free */
	uint64_t n;
};
size_t events_counts(const struct events *e, const struct events_count **ret);
struct events *events_free(struct events *e);
