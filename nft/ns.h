/* SPDX-License-Identifier: Apache-2.0
 * ns.h: the two netlink sockets into one network namespace. Private to nft/.
 *
 * Closing the one to nf_tables waits for the kernel after a removal: then it happens on another
 * thread (closer.h), and the namespace lives until it did.
 *
 * Only opening them happens inside the namespace; a netlink socket stays with the namespace it was
 * opened in, so everything else runs at home.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct err;
struct mnl_socket;
struct nl_sock;

struct nft_ns {
	struct mnl_socket *nf; /* nf_tables */
	struct nl_sock *rt;    /* routes and policy rules */
	uint32_t seq;	       /* of the last nf_tables message */
	bool ipv6;	       /* some interface has IPv6 */
	bool ipv6_lo;	       /* lo has */
	bool removed;	       /* something was removed through it: closing it waits */
};

int nft_ns_open(int netns_fd, struct nft_ns *ns, struct err *err) _must_check_;
void nft_ns_fini(struct nft_ns *ns);
#define _cleanup_ns_ _cleanup_(nft_ns_fini)
