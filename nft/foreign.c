/* SPDX-License-Identifier: Apache-2.0
 * foreign.c: takes out what Istio's agent puts into a namespace in its iptables mode (cni-spec 5.7,
 * 6.3): its chains, in tables of both kinds of iptables, and its address sets.
 *
 * Nothing is asked that would make the kernel load what nobody uses: a legacy table is looked at
 * only where the namespace has it, sets only where the kernel has them.
 */
#include "nft/nft.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "nft/batch.h"
#include "nft/model.h"
#include "nft/ns.h"
#include "nft/readback.h"
#include "nft/xt.h"

#define ROUNDS		16 /* somebody else changes rules at the same time */
#define NAMES_MAX	4096
#define TABLE_BYTES_MAX (64u << 20)
#define CHAINS_MAX	16

/* --- legacy --- */

struct legacy { /* of one family */
	bool v6;
	const char *names; /* the namespace's tables */
	int proto, info, entries, replace, counters;
};
static const struct legacy families[2] = {
	{false, "/proc/thread-self/net/ip_tables_names", IPPROTO_IP, IPT_SO_GET_INFO,
	 IPT_SO_GET_ENTRIES, IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS},
	{true, "/proc/thread-self/net/ip6_tables_names", IPPROTO_IPV6, IP6T_SO_GET_INFO,
	 IP6T_SO_GET_ENTRIES, IP6T_SO_SET_REPLACE, IP6T_SO_SET_ADD_COUNTERS},
};

static void table_fini(struct xt_table *t)
{
	free(t->entries);
}

/* struct ipt_getinfo and ip6t_getinfo are one, and so are the others up to their entries. */
static int read_table(int s, const struct legacy *f, const char *name, struct xt_table *t,
		      struct err *err)
{
	struct ipt_getinfo info = {0};
	socklen_t len = sizeof(info);
	_cleanup_free_ struct ipt_get_entries *get = NULL;

	(void)snprintf(info.name, sizeof(info.name), "%s", name);
	if (getsockopt(s, f->proto, f->info, &info, &len) < 0)
		return err_errno(err, errno, "read table %s of iptables", name);
	if (info.size > TABLE_BYTES_MAX)
		return err_set(err, E2BIG, "table %s of iptables has %u bytes", name, info.size);
	get = xcalloc(1, sizeof(*get) + info.size);
	memcpy(get->name, info.name, sizeof(get->name));
	get->size = info.size;
	len = (socklen_t)(sizeof(*get) + info.size);
	if (getsockopt(s, f->proto, f->entries, get, &len) < 0)
		return err_errno(err, errno, "read the rules of table %s of iptables", name);
	t->valid_hooks = info.valid_hooks;
	memcpy(t->hook_entry, info.hook_entry, sizeof(t->hook_entry));
	memcpy(t->underflow, info.underflow, sizeof(t->underflow));
	t->size = info.size;
	t->n = info.num_entries;
	t->entries = xmalloc(info.size + 1);
	memcpy(t->entries, get->entrytable, info.size);
	return 0;
}

static int write_table(int s, const struct legacy *f, const char *name, const struct xt_table *t,
		       uint32_t n_before, struct err *err)
{
	size_t len = sizeof(struct ipt_replace) + t->size;
	_cleanup_free_ struct ipt_replace *r = xcalloc(1, len);
	_cleanup_free_ struct xt_counters *old = xcalloc(n_before, sizeof(*old));

	(void)snprintf(r->name, sizeof(r->name), "%s", name);
	r->valid_hooks = t->valid_hooks;
	r->num_entries = t->n;
	r->size = t->size;
	memcpy(r->hook_entry, t->hook_entry, sizeof(r->hook_entry));
	memcpy(r->underflow, t->underflow, sizeof(r->underflow));
	r->num_counters = n_before; /* the kernel compares: another number is another's change */
	r->counters = old;
	memcpy((uint8_t *)r + sizeof(*r), t->entries, t->size);
	if (setsockopt(s, f->proto, f->replace, r, (socklen_t)len) < 0)
		return err_errno(err, errno, "replace table %s of iptables", name);
	return 0;
}

/* Replacing a table sets its counters to zero; the rules of others keep theirs. */
static void restore_counters(int s, const struct legacy *f, const char *name,
			     const struct xt_table *t)
{
	size_t len = sizeof(struct xt_counters_info) + t->n * sizeof(struct xt_counters);
	_cleanup_free_ struct xt_counters_info *c = xcalloc(1, len);
	_cleanup_free_ uint64_t *pairs = xcalloc(t->n, 2 * sizeof(*pairs));

	(void)snprintf(c->name, sizeof(c->name), "%s", name);
	c->num_counters = t->n;
	xt_counters_of(t, f->v6, pairs);
	memcpy((uint8_t *)c + sizeof(*c), pairs, t->n * sizeof(struct xt_counters));
	(void)setsockopt(s, f->proto, f->counters, c, (socklen_t)len); /* numbers for people */
}

static int strip_table(int s, const struct legacy *f, const char *name, size_t *found,
		       struct err *err)
{
	int r = -EAGAIN;

	for (int i = 0; i < ROUNDS && r == -EAGAIN; i++) {
		_cleanup_(table_fini) struct xt_table t = {0};
		uint32_t before;

		r = read_table(s, f, name, &t, err);
		before = t.n;
		if (r == 0)
			r = xt_strip(&t, f->v6, err);
		if (r == -EAGAIN)
			continue; /* it changed while it was read */
		if (r <= 0)
			return r;
		r = write_table(s, f, name, &t, before, err);
		if (r == 0) {
			restore_counters(s, f, name, &t);
			++*found;
		}
	}
	return r;
}

static int strip_family(const struct legacy *f, size_t *found, struct err *err)
{
	_cleanup_free_ char *names = NULL;
	_cleanup_close_ int s = -1;
	struct str rest, name;
	int r = 0;

	/* the file is not there without the module, and empty in a namespace without tables */
	if (file_read(f->names, NAMES_MAX, &names, NULL, NULL) < 0 || names[0] == '\0')
		return 0;
	s = socket(f->v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (s < 0)
		return err_errno(err, errno, "open a socket to iptables");
	rest = str_of(names);
	while (r == 0 && str_cut(&rest, '\n', &name)) {
		char text[XT_TABLE_MAXNAMELEN];

		if (str_to_cstr(name, text, sizeof(text), NULL) == 0)
			r = strip_table(s, f, text, found, err);
	}
	return r;
}

static int strip_legacy(void *ctx, struct err *err)
{
	int r = strip_family(&families[0], ctx, err);

	return r < 0 ? r : strip_family(&families[1], ctx, err);
}

/* --- iptables over nf_tables --- */

struct nf_rule {
	char table[32], chain[32];
	uint64_t handle;
};
struct nf_found {
	uint32_t family;
	struct nf_rule chains[CHAINS_MAX], jumps[CHAINS_MAX]; /* of chains no handle is needed */
	size_t nchains, njumps;
};

static int take_chain(const struct nlmsghdr *nlh, void *ctx)
{
	struct nftnl_chain *c = nftnl_chain_alloc();
	struct nf_found *f = ctx;
	int r = 0;

	if (c == NULL || nftnl_chain_nlmsg_parse(nlh, c) < 0) {
		r = -EBADMSG;
	} else if (nftnl_chain_get_u32(c, NFTNL_CHAIN_FAMILY) == f->family &&
		   xt_is_istio_chain(str_of(nftnl_chain_get_str(c, NFTNL_CHAIN_NAME))) &&
		   f->nchains < CHAINS_MAX) {
		struct nf_rule *x = &f->chains[f->nchains++];

		(void)snprintf(x->table, sizeof(x->table), "%s",
			       nftnl_chain_get_str(c, NFTNL_CHAIN_TABLE));
		(void)snprintf(x->chain, sizeof(x->chain), "%s",
			       nftnl_chain_get_str(c, NFTNL_CHAIN_NAME));
	}
	if (c != NULL)
		nftnl_chain_free(c);
	return r;
}

static int is_jump_to_istio(struct nftnl_expr *e, void *ctx)
{
	const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME), *chain;

	if (strcmp(name, "immediate") != 0 || !nftnl_expr_is_set(e, NFTNL_EXPR_IMM_CHAIN))
		return 0;
	chain = nftnl_expr_get_str(e, NFTNL_EXPR_IMM_CHAIN);
	*(bool *)ctx = *(bool *)ctx || xt_is_istio_chain(str_of(chain));
	return 0;
}

static int take_rule(const struct nlmsghdr *nlh, void *ctx)
{
	struct nftnl_rule *x = nftnl_rule_alloc();
	struct nf_found *f = ctx;
	bool jumps = false;
	int r = 0;

	if (x == NULL || nftnl_rule_nlmsg_parse(nlh, x) < 0)
		r = -EBADMSG;
	else if (nftnl_rule_get_u32(x, NFTNL_RULE_FAMILY) == f->family)
		r = nftnl_expr_foreach(x, is_jump_to_istio, &jumps);
	if (jumps && f->njumps < CHAINS_MAX) {
		struct nf_rule *to = &f->jumps[f->njumps++];

		(void)snprintf(to->table, sizeof(to->table), "%s",
			       nftnl_rule_get_str(x, NFTNL_RULE_TABLE));
		(void)snprintf(to->chain, sizeof(to->chain), "%s",
			       nftnl_rule_get_str(x, NFTNL_RULE_CHAIN));
		to->handle = nftnl_rule_get_u64(x, NFTNL_RULE_HANDLE);
	}
	if (x != NULL)
		nftnl_rule_free(x);
	return r;
}

static int ask_family(struct nft_ns *ns, uint16_t type, struct nf_found *f,
		      int (*fn)(const struct nlmsghdr *, void *), struct err *err)
{
	char buf[NFT_QUERY_MAX];
	struct nlmsghdr *nlh = nft_query(buf, ns, type, NLM_F_DUMP);

	((struct nfgenmsg *)mnl_nlmsg_get_payload(nlh))->nfgen_family = (uint8_t)f->family;
	return nft_ask(ns, nlh, "list the rules of iptables", fn, f, err);
}

static void put(struct nft_batch *b, uint16_t type, const struct nf_found *f,
		const struct nf_rule *x, bool chain)
{
	struct nlmsghdr *nlh =
		nft_batch_msg(b, type, 0, NULL, "delete %s %s %s of iptables",
			      type == NFT_MSG_DELCHAIN ? "chain" : "rules in", x->table, x->chain);

	((struct nfgenmsg *)mnl_nlmsg_get_payload(nlh))->nfgen_family = (uint8_t)f->family;
	if (chain) {
		mnl_attr_put_strz(nlh, NFTA_CHAIN_TABLE, x->table);
		mnl_attr_put_strz(nlh, NFTA_CHAIN_NAME, x->chain);
	} else {
		mnl_attr_put_strz(nlh, NFTA_RULE_TABLE, x->table);
		mnl_attr_put_strz(nlh, NFTA_RULE_CHAIN, x->chain);
		if (x->handle != 0)
			mnl_attr_put_u64(nlh, NFTA_RULE_HANDLE, htobe64(x->handle));
	}
	nft_batch_push(b, nlh);
}

static int strip_nf_once(struct nft_ns *ns, uint32_t family, size_t *found, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	struct nf_found f = {.family = family};
	uint32_t genid;
	int r = nft_read_genid(ns, &genid, err);

	if (r == 0)
		r = ask_family(ns, NFT_MSG_GETCHAIN, &f, take_chain, err);
	if (r == 0 && f.nchains != 0)
		r = ask_family(ns, NFT_MSG_GETRULE, &f, take_rule, err);
	if (r < 0 || f.nchains == 0)
		return r == -EINTR ? -ERESTART : r;
	nft_batch_begin(&b, ns, genid);
	for (size_t i = 0; i < f.njumps; i++)
		if (!xt_is_istio_chain(str_of(f.jumps[i].chain)))
			put(&b, NFT_MSG_DELRULE, &f, &f.jumps[i], false);
	for (size_t i = 0; i < f.nchains; i++)
		put(&b, NFT_MSG_DELRULE, &f, &f.chains[i], false);
	for (size_t i = 0; i < f.nchains; i++)
		put(&b, NFT_MSG_DELCHAIN, &f, &f.chains[i], true);
	r = nft_batch_commit(&b, ns, err);
	if (r == 0)
		++*found;
	return r;
}

static int strip_nf(struct nft_ns *ns, size_t *found, struct err *err)
{
	static const uint32_t family[] = {NFPROTO_IPV4, NFPROTO_IPV6};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(family); i++) {
		r = -ERESTART;
		for (int k = 0; k < ROUNDS && r == -ERESTART; k++)
			r = strip_nf_once(ns, family[i], found, err);
	}
	return r;
}

/* --- sets --- */

static int destroy_set(struct nft_ns *ns, const char *name, size_t *found, struct err *err)
{
	char buf[NFT_QUERY_MAX];
	struct err local = {0};
	struct nlmsghdr *nlh =
		nft_query(buf, ns, 0, NLM_F_ACK | NLM_F_EXCL); /* say so if there is none */
	int r;

	nlh->nlmsg_type = (NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_DESTROY;
	((struct nfgenmsg *)mnl_nlmsg_get_payload(nlh))->nfgen_family = NFPROTO_IPV4;
	mnl_attr_put_u8(nlh, IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL_MIN);
	mnl_attr_put_strz(nlh, IPSET_ATTR_SETNAME, name);
	r = nft_ask(ns, nlh, "remove an address set", NULL, NULL, &local);
	if (r == -ENOENT)
		return 0;
	if (r < 0 && err != NULL)
		*err = local;
	if (r == 0)
		++*found;
	return r;
}

int nft_foreign_remove(int netns_fd, bool sets, size_t *ret_found, struct err *err)
{
	_cleanup_ns_ struct nft_ns ns = {0};
	int r;

	*ret_found = 0;
	r = netns_call(netns_fd, strip_legacy, ret_found, err);
	if (r == 0)
		r = nft_ns_open(netns_fd, &ns, err);
	if (r == 0)
		r = strip_nf(&ns, ret_found, err);
	/* rules that look into them are gone; without the module there are none */
	if (r == 0 && sets && access("/sys/module/ip_set", F_OK) == 0)
		r = destroy_set(&ns, NFT_SET_V4, ret_found, err);
	if (r == 0 && sets && access("/sys/module/ip_set", F_OK) == 0)
		r = destroy_set(&ns, NFT_SET_V6, ret_found, err);
	return r;
}
