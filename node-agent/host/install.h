/* SPDX-License-Identifier: Apache-2.0
 * install.h: the agent puts the plugin and its configuration on the node, and keeps them there.
 *
 * Off unless asked for. The program goes in first, the configuration that names it after it; both
 * are watched and put back when somebody changes or removes them, at most once in
 * INSTALL_PACE_MS. Whatever fails is tried again and told in GET /v1/status; nothing ends the agent
 * but a second installer, and a directory that was removed under a mount (install_lost). Stopping
 * removes nothing (see uninstall.h). Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/err.h"

struct config;
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
/* True when runtimes find the plugin, or when that is not our business. @ret_reason (ERR_MSG_MAX,
 * or NULL) says why not. */
bool install_ready(const struct install *in, char *ret_reason);
/* True once a directory was removed under the mount through which we see it (a container's, or a
 * unit's with its own view of the node). A process that is started anew sees what is there then. */
bool install_lost(const struct install *in);
struct install_counts {
	unsigned long done, no_program, no_conf; /* attempts by how they ended */
};
struct install_counts install_counts(const struct install *in);
/* The "install" object of GET /v1/status. */
void install_print(const struct install *in, struct jsonw *w);

/* The name of our program in --cni-bin-dir. */
const char *install_program(const struct config *cfg);
/* The file beside the agent's sockets in which Istio's agent leaves its token for its plugin
 * (cni-spec 2.5); ours needs none. Removes it where we stand in for Istio's. */
void install_drop_token(const struct config *cfg);

/* Pure: how often something may be put back. Zeroed at the start. */
struct install_pace {
	uint64_t tried_ms, done_ms; /* of the last attempt and success, 0: none */
	unsigned int fights;	    /* successes in a row, each soon after the one before */
	struct err failed;	    /* why the last attempt failed; code 0: it did not */
};
/* Milliseconds to wait before the next attempt; 0: go ahead. */
uint64_t install_pace_wait(const struct install_pace *p, uint64_t now_ms);
/* Notes a success; true when it is time to warn that somebody fights us. */
bool install_pace_done(struct install_pace *p, uint64_t now_ms);
