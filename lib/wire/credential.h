/* SPDX-License-Identifier: Apache-2.0
 * credential.h: certificate, key and roots of one identity as one text, for the agent to keep.
 * Pure.
 *
 *   ambient-credential 1\n
 *   <SPIFFE identity>\n
 *   <end of validity, seconds since 1970> <bytes of key> <bytes of chain> <bytes of roots>\n
 *   key, chain and roots, PEM each
 *
 * The agent reads the first three lines, to know whose it is and for how long; ztunnel all of it,
 * and believes the certificate.
 */
#pragma once
#include <stdint.h>
#include "lib/base/str.h"

struct err;

struct credential { /* slices of the text */
	struct str spiffe;
	int64_t not_after;
	struct str key, chain, roots;
};
/* Appends; the key is in it: the caller wipes. */
void credential_put(struct strbuf *out, const struct credential *c);
/* 0 or -EINVAL; the identity is a SPIFFE identity, the parts are as long as they say. */
int credential_parse(struct str text, struct credential *ret, struct err *err) _must_check_;
