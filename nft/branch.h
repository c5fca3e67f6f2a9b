/* SPDX-License-Identifier: Apache-2.0
 * branch.h: policy rules of the node for a pod whose address is on a branch interface of AWS
 * (security groups for pods). Private to nft/ but for what nft.h declares.
 *
 * The VPC CNI sends what comes from such a pod's veth through a table of its own, also the answers
 * to the kubelet's probes when net.ipv4.tcp_early_demux is off. Source: cni-spec 3.11, after which
 * two rules are needed: packets to the pod look into that table, and packets from its veth look for
 * a local address first.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/format/ip.h"
#include "nft/nft.h"

#define NFT_BRANCH_PRIORITY 512

/* What of the kernel's lists matters. */
struct nft_branch_rule {
	char iif[NFT_IFNAME_MAX];
	uint32_t dev; /* its number; 0: no interface, or it is gone */
	uint32_t table, priority;
};
struct nft_branch_route { /* to one address */
	struct ip_addr to;
	uint32_t table, dev;
};

/* Pure: the first rule with an interface and a table that is none of the kernel's own, in whose
 * table a route to @ip leaves by that interface. False without one. */
bool nft_branch_pick(const struct nft_branch_rule *rules, size_t nrules,
		     const struct nft_branch_route *routes, size_t nroutes,
		     const struct ip_addr *ip, struct nft_branch *ret);
