/* SPDX-License-Identifier: Apache-2.0
 * nft.h: the mesh's rules in a pod's network namespace and on the host: apply, read back, remove.
 *
 * Rule sets are data (rules.c); one apply is one atomic netlink transaction through
 * libnftnl/libmnl; routes and policy rules go through libnl. Nothing is executed, no text is pasted
 * into a rule language. Kernel errors come back with the kernel's extended-ack text. This room
 * knows no pods and no Kubernetes. Source: cni-spec 5 (in-pod), 6 (host). Needs CAP_NET_ADMIN; the
 * calling thread, synchronous.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/format/ip.h"

struct err;

#define NFT_IFACES_MAX 8
#define NFT_IFNAME_MAX 16

/* What a pod's rules depend on (cni-spec 5.1). */
struct nft_pod_opts {
	bool dns_capture;
	bool ingress_mode; /* ambient.istio.io/bypass-inbound-capture */
	char ifaces[NFT_IFACES_MAX]
		   [NFT_IFNAME_MAX]; /* istio.io/reroute-virtual-interfaces, validated */
	size_t nifaces;
	struct ip_addr probe_v4, probe_v6; /* len 0: the defaults of cni-spec 0 */
};

/* Parses the comma list of the annotation: blanks dropped, each name checked (1-15 bytes, no '/',
 * no white space). -EINVAL naming the bad one; @o is untouched then. */
int nft_parse_ifaces(struct str list, struct nft_pod_opts *o, struct err *err) _must_check_;

/* All of these act on the network namespace @netns_fd. IPv6 rules are present exactly where the
 * namespace has IPv6 (decided inside). */

/* Puts tables, rules, route and policy rules in place. Idempotent: repeating it, or applying over
 * an older set (also one by the stock agent), ends in the same state. Atomic for the tables: on
 * error the former rules are untouched; routes that this call added are taken back. Brings lo up
 * if it is down, for good: runtimes run the loopback plugin beside the chain, not before it. */
int nft_pod_apply(int netns_fd, const struct nft_pod_opts *o, struct err *err) _must_check_;
/* Stops capturing new connections while those that are captured go on: they live by address
 * translation, which ends with the tables. For un-enrolment: release, let ztunnel drain, remove.
 * The state is NFT_DIFFERENT until then; an apply captures again. Nothing there is success. */
int nft_pod_release(int netns_fd, struct err *err) _must_check_;
/* What the mesh carries in the namespace: @ret_all counts the TCP sockets with ztunnel's mark that
 * are not listeners; @ret_apps leaves out those between two ztunnels, which are kept open after the
 * connections that they carried. For the waits between release and remove. */
int nft_pod_carried(int netns_fd, size_t *ret_all, size_t *ret_apps, struct err *err) _must_check_;
/* Removes everything nft_pod_apply() may have added, in reverse order. Nothing there is success. */
int nft_pod_remove(int netns_fd, struct err *err) _must_check_;

/* Removes what Istio's agent has put there in its iptables mode: its chains with the jumps to them,
 * of both kinds of iptables and both families; with @sets its address sets, too (the node's).
 * Rules of others stay, with their counters. *ret_found: how many tables and sets had something.
 * Looking costs about as much as nft_pod_present(). */
int nft_foreign_remove(int netns_fd, bool sets, size_t *ret_found, struct err *err) _must_check_;

enum nft_state { NFT_ABSENT, NFT_PRESENT, NFT_DIFFERENT, NFT_STATE_N };
/* Reads the namespace back and compares with what nft_pod_apply() would put there. For
 * NFT_DIFFERENT
 * @ret_diff (may be NULL) gets one line per difference, naming table, chain and rule:
 * "missing: istio-ambient-nat istio-output rule 4: tcp mark 0x111/0xfff accept". */
int nft_pod_check(int netns_fd, const struct nft_pod_opts *o, enum nft_state *ret,
		  struct strbuf *ret_diff, struct err *err) _must_check_;
/* Everything that is wanted or found, one line each: "present: ...", "missing: ...", "changed: ...
 * wanted: ...; found: ...", "unexpected: ...", rules and then routes. @o NULL: nothing is wanted.
 */
int nft_pod_list(int netns_fd, const struct nft_pod_opts *o, struct strbuf *out, struct err *err)
	_must_check_;
/* True in *ret if the namespace has any of our tables (discovery after a restart). */
int nft_pod_present(int netns_fd, bool *ret, struct err *err) _must_check_;
/* Human list of the wanted rules, one per line (documentation, `ambientctl rules`, tests). Pure. */
void nft_pod_print(const struct nft_pod_opts *o, bool ipv6, struct strbuf *out);

/* Host side (cni-spec 6), in the namespace @netns_fd of the node: table inet istio-ambient-nat with
 * the probe sets and the SNAT rule for @kubelet_uid. Sets are created empty or kept. */
int nft_host_apply(int netns_fd, uint32_t kubelet_uid, const struct nft_pod_opts *o,
		   struct err *err) _must_check_;
/* Reads the table back and compares; the elements of the sets are not looked at. */
int nft_host_check(int netns_fd, uint32_t kubelet_uid, const struct nft_pod_opts *o,
		   enum nft_state *ret, struct strbuf *ret_diff, struct err *err) _must_check_;
int nft_host_remove(int netns_fd, struct err *err) _must_check_;
/* Adds one address with the pod UID as comment; an entry with another UID is replaced. */
int nft_host_probe_add(int netns_fd, const struct ip_addr *ip, struct str uid, struct err *err)
	_must_check_;
/* Removes it only if the comment is @uid; anything else is success without action (*ret_removed).
 */
int nft_host_probe_del(int netns_fd, const struct ip_addr *ip, struct str uid, bool *ret_removed,
		       struct err *err) _must_check_;
/* Removes every entry for which keep() is false. */
int nft_host_probe_prune(int netns_fd,
			 bool (*keep)(void *ctx, const struct ip_addr *ip, struct str uid),
			 void *ctx, struct err *err) _must_check_;

/* Branch interfaces of AWS, in the namespace @netns_fd of the node (branch.h). */
struct nft_branch {		  /* the two rules of one address; table 0: it needs none */
	uint32_t table, priority; /* of the VPC CNI's table; of the rule for its interface */
	char iif[NFT_IFNAME_MAX];
};
/* Whether this node needs such rules at all: net.ipv4.tcp_early_demux is off. */
bool nft_branch_needed(int netns_fd);
/* Looks whether @ip is on one, changing nothing. */
int nft_branch_find(int netns_fd, const struct ip_addr *ip, struct nft_branch *ret, struct err *err)
	_must_check_;
/* The same, and adds both rules or, on failure, none; what is there already is fine. */
int nft_branch_add(int netns_fd, const struct ip_addr *ip, struct nft_branch *ret, struct err *err)
	_must_check_;
/* Takes them away again. Nothing there is success. */
int nft_branch_del(int netns_fd, const struct ip_addr *ip, const struct nft_branch *b,
		   struct err *err) _must_check_;
