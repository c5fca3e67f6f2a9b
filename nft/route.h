/* SPDX-License-Identifier: Apache-2.0
 * route.h: the policy rule and the local route that bring the replies of a pod's application back
 * to ztunnel (cni-spec 5.3, 5.4 row 11), and what rtnetlink knows about IPv6. Private to nft/.
 *
 * A family's rule and route are handled on their own: an existing IPv4 one says nothing about IPv6.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"

struct err;
struct nft_ns;

enum nft_route_kind { NFT_ROUTE, NFT_POLICY, NFT_ROUTE_KIND_N };
/* [family: 0 IPv4, 1 IPv6][kind] */
struct nft_routes {
	bool there[2][NFT_ROUTE_KIND_N];
};
extern const char *const nft_route_text[2][NFT_ROUTE_KIND_N];

/* -errno for an error number of libnl. Pure. */
int nft_nl_errno(int nle);

/* Does any interface of the namespace have IPv6 switched on, and does lo? Independent of whether lo
 * is up yet. */
int nft_ipv6_read(const struct nft_ns *ns, bool *ret_any, bool *ret_lo, struct err *err)
	_must_check_;
/* What this namespace should have. */
struct nft_routes nft_routes_wanted(const struct nft_ns *ns);
int nft_routes_read(const struct nft_ns *ns, struct nft_routes *ret, struct err *err) _must_check_;
/* Adds what is wanted and not there; brings lo up where it is down. *ret_added: what this call
 * added, also on failure. */
int nft_routes_add(const struct nft_ns *ns, struct nft_routes *ret_added, struct err *err)
	_must_check_;
/* Takes @which away again, policy rules first. What is gone already is fine. */
int nft_routes_del(const struct nft_ns *ns, const struct nft_routes *which, struct err *err)
	_must_check_;
