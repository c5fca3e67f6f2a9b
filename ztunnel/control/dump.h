/* SPDX-License-Identifier: Apache-2.0
 * dump.h: the /config_dump document in the stock shape (ztunnel-spec 13.6, cni-spec 9.1). Pure but
 * for reading certificates.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct certs;
struct config;
struct mesh;

struct dump_in {
	const struct config *config;
	const struct mesh *mesh;
	struct certs *certs;
	const char *state_error;   /* "" when the state file is as it is used */
	struct str workload_state; /* JSON object of workers_dump() */
	/* With a state from istiod: */
	bool xds, stale;
	uint64_t stale_s;
	bool on_demand;		       /* Address is asked for by name */
	size_t asked;		       /* names that wait for istiod's answer */
	const char *kept, *keep_error; /* where it outlives us; what is wrong with that, or "" */
};
void dump_write(const struct dump_in *in, struct strbuf *out);
