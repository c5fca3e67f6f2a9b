/* SPDX-License-Identifier: Apache-2.0
 * spiffe.h: workload identities spiffe://<trust domain>/ns/<namespace>/sa/<service account>. Pure.
 * Source: ztunnel-spec 8.1; security.md T1 (compare bytes, no NUL, no wildcard).
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

struct spiffe_id { /* slices of the text it was parsed from */
	struct str trust_domain, ns, sa;
};
/* Exactly five parts after the scheme's "//"; parts must be non-empty, printable ASCII without '/'.
 * 0 or -EINVAL. */
int spiffe_parse(struct str uri, struct spiffe_id *ret) _must_check_;
bool spiffe_eq(const struct spiffe_id *a, const struct spiffe_id *b);
void spiffe_format(const struct spiffe_id *id, struct strbuf *out); /* full URI text */
