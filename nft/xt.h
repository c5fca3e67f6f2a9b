/* SPDX-License-Identifier: Apache-2.0
 * xt.h: a table of the older packet filter (iptables, the kind called legacy), with the chains that
 * Istio's agent makes there left out. Pure. Private to nft/.
 *
 * The kernel hands a table out as one block of entries that point at each other by offset, and
 * takes it back the same way; rules of others go through as bytes. The layouts are the kernel's
 * (linux/netfilter_ipv4/ip_tables.h, ip6_tables.h, x_tables.h). Chains: cni-spec 5.7, 6.3.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;

#define XT_HOOKS 5

struct xt_table {
	uint32_t hook_entry[XT_HOOKS], underflow[XT_HOOKS]; /* offsets; of @valid_hooks only */
	uint32_t valid_hooks;
	uint8_t *entries; /* @size bytes, aligned as malloc() does */
	uint32_t size, n; /* @n: entries */
};

/* Is this one of the chains that Istio's agent makes? */
bool xt_is_istio_chain(struct str name);
/* Takes the chains and the jumps to them out of @t, in place; @t->n tells how many entries are
 * left. @v6: entries are of ip6_tables. 1: something was there, 0: nothing; -EBADMSG: the block is
 * not what a kernel hands out, and @t is unusable. */
int xt_strip(struct xt_table *t, bool v6, struct err *err) _must_check_;
/* Copies the counters of all entries, in order, into @out (@t->n pairs of packets and bytes). */
void xt_counters_of(const struct xt_table *t, bool v6, uint64_t *out);
