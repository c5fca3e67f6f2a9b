/* SPDX-License-Identifier: Apache-2.0
 * rbac.h: L4 authorization of one connection. Pure. Source: ztunnel-spec 10; security.md A1.
 * A policy that the workload names but the snapshot does not hold denies (architecture.md invariant
 * 1).
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

struct rbac_conn {
	bool has_identity; /* false: plaintext */
	struct spiffe_id identity;
	struct ip_addr src;
	struct ip_port dst; /* after port translation */
};

enum rbac_verdict {
	RBAC_ALLOW,
	RBAC_DENY_EXPLICIT, /* a DENY policy matched: .policy */
	RBAC_DENY_NO_ALLOW, /* ALLOW policies exist, none matched */
	RBAC_DENY_MISSING,  /* a referenced policy is not known yet: .missing */
	RBAC_VERDICT_N
};
struct rbac_result {
	enum rbac_verdict verdict;
	const struct policy *policy; /* the one that decided; NULL for default allow / no allow */
	struct str missing;
};
/* @dst: the local workload (never NULL). */
struct rbac_result rbac_evaluate(const struct mesh *m, const struct workload *dst,
				 const struct rbac_conn *c);
/* What the log says of the decision @r, one @fn call per line (ztunnel-spec 10.4): the enforced
 * policy that decided, and every dry-run policy whose effect it would have been. @policy: its key;
 * empty for lines about no policy in particular. Evaluates the dry-run policies, so it costs. */
void rbac_explain(const struct mesh *m, const struct workload *dst, const struct rbac_conn *c,
		  const struct rbac_result *r,
		  void (*fn)(void *ctx, const char *message, struct str policy), void *ctx);
/* Text for the access log: "connection closed due to policy rejection: explicitly denied by:
 * ns/name" etc. (ztunnel-spec 4.10, 10.2). Returns @buf. */
const char *rbac_reason(const struct rbac_result *r, char *buf, size_t cap);
