/* SPDX-License-Identifier: Apache-2.0
 * export_peer.h: PeerAuthentication as policies of ztunnel (istiod-ambient-spec 7.4). Pure.
 *
 * STRICT becomes one DENY of everything that comes without an identity. A workload's object with
 * exceptions for ports becomes a DENY of its own. DISABLE counts as PERMISSIVE: ztunnel cannot
 * refuse mTLS. At each level the oldest object wins, then the first by name.
 */
#pragma once
#include <stdbool.h>
#include "ctl/export_store.h"
#include "lib/base/str.h"

struct ex_config;

#define EX_STRICT_NAME	    "istio_converted_static_strict"
#define EX_CONVERTED_PREFIX "converted_peer_authentication_"

struct ex_peers {
	const struct ex_object **v; /* sorted; owned */
	size_t n;
	const char *root_ns;
};
void ex_peers_init(struct ex_peers *p, const struct ex_store *s, const struct ex_config *c);
void ex_peers_fini(struct ex_peers *p);

struct ex_peer_names {
	bool strict;		     /* the one for everything */
	const struct ex_peer *ports; /* its converted policy; NULL: none */
};
/* What applies to a pod of namespace @ns with @labels. */
struct ex_peer_names ex_peers_of(const struct ex_peers *p, const char *ns,
				 const struct ex_labels *labels);
/* The rules of @peer's own policy (lines for "rules:"), false when it needs none. */
bool ex_peer_rules(const struct ex_peers *p, const struct ex_peer *peer, struct strbuf *out);
