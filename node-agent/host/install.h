/* SPDX-License-Identifier: Apache-2.0
 * install.h: the agent puts the plugin and its configuration on the node, and keeps them there.
 *
 * Off unless asked for. The program goes in first, the configuration that names it after it; both
 * are watched and put back when somebody changes or removes them, at most once in
 * INSTALL_PACE_MS. Whatever fails is tried again and told in GET /v1/status; nothing but a second
 * installer ends the agent. Stopping removes nothing (see uninstall.h). Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct config;
struct err;
struct install;
struct jsonw;
struct loop;

#define INSTALL_PACE_MS	 5000
#define INSTALL_CALM_MS	 60000 /* rewrites further apart than this are no fight */
#define INSTALL_FIGHT_AT 3     /* rewrites of one fight before a warning, and between warnings */

/* NULL when another agent uses the same run directory or edits the same configuration directory,
 * with the sentence in @err. With --install-cni=off it only marks the run directory as in use, and
 * never fails. The agent's sockets must be listening: a runtime may call at once. */
struct install *install_new(struct loop *l, const struct config *cfg, struct err *err) _must_check_;
struct install *install_free(struct install *in);
/* The "install" object of GET /v1/status. */
void install_print(const struct install *in, struct jsonw *w);

/* Pure: how often something may be put back. Zeroed at the start. */
struct install_pace {
	uint64_t tried_ms, done_ms; /* of the last attempt and success, 0: none */
	unsigned int fights;	    /* successes in a row, each soon after the one before */
};
/* Milliseconds to wait before the next attempt; 0: go ahead. */
uint64_t install_pace_wait(const struct install_pace *p, uint64_t now_ms);
/* Notes a success; true when it is time to warn that somebody fights us. */
bool install_pace_done(struct install_pace *p, uint64_t now_ms);
