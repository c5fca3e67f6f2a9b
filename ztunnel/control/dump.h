/* SPDX-License-Identifier: Apache-2.0
 * dump.h: the /config_dump document in the stock shape (ztunnel-spec 13.6, cni-spec 9.1). Pure but
 * for reading certificates.
 */
#pragma once
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
};
void dump_write(const struct dump_in *in, struct strbuf *out);
