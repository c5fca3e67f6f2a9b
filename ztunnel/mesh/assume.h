/* SPDX-License-Identifier: Apache-2.0
 * assume.h: a pod that the agent has told of and the mesh state does not hold yet, as a source of
 * connections. Pure.
 *
 * What it may say of itself comes from the agent: namespace, name and service account. What all
 * pods of a node have in common (trust domain, cluster, network, locality) comes from another
 * workload of this node. It has no addresses and no policies, so it must not be used as a
 * destination: what is allowed to come in is known with the real workload only. Source:
 * ztunnel-spec 3.9, where stock waits for it.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

struct err;

struct assume_node {
	const char *node, *network;
	const char *trust_domain; /* NULL: not configured; then only another workload can tell */
};
/* NULL when the trust domain cannot be known, or the names form no identity. */
struct workload *assume_workload(const struct mesh *m, const struct assume_node *n, struct str name,
				 struct str ns, struct str sa) _must_check_;
