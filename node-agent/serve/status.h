/* SPDX-License-Identifier: Apache-2.0
 * status.h: what the agent says about itself: GET /v1/status, /v1/rules and /v1/node
 * (docs/agent-api.md). Loop thread only.
 */
#pragma once

#include <stdbool.h>

struct config;
struct enrol;
struct http1_req;
struct install;
struct pods;
struct source;

/* Where the answers come from; must outlive every request. */
struct status_from {
	const struct config *cfg;
	struct enrol *enrol;
	const struct pods *pods;
	const struct source *src;
	const struct install *install; /* NULL until it is there */
};

/* Can pods be taken now? @ret_reason (ERR_MSG_MAX) says why not: pods are not known, no ztunnel, or
 * the plugin is not where runtimes find it. What STATUS says. */
bool status_ready(const struct status_from *f, char *ret_reason);
/* The same without ztunnel: what readiness says. */
bool status_installed(const struct status_from *f, char *ret_reason);

/* Each answers @req, now or later. */
void status_answer(const struct status_from *f, struct http1_req *req);
void status_answer_rules(const struct status_from *f, struct http1_req *req);
void status_answer_node(const struct status_from *f, struct http1_req *req);
