/* SPDX-License-Identifier: Apache-2.0
 * host.c: the node's side of the probe exemption (cni-spec 6): the address sets and the SNAT rule.
 *
 * The sets outlive the rule: applying again keeps their elements. Each element carries the UID of
 * its pod as a comment in the form that nft(8) reads. The kernel keeps the old comment when an
 * existing element is added again, so an address that a new pod has taken over is deleted and added
 * within one transaction.
 */
#include "nft/nft.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/set.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "nft/batch.h"
#include "nft/encode.h"
#include "nft/model.h"
#include "nft/ns.h"
#include "nft/readback.h"

#define COMMIT_ROUNDS  16  /* kube-proxy rewrites the host's rules now and then */
#define ELEMS_PER_MSG  32  /* 32 elements with comments stay far below NFT_STEP_BYTES_MAX */
#define UID_MAX	       127 /* NFTNL_UDATA_COMMENT_MAXLEN less the NUL */
#define TYPE_IPV4_ADDR 7   /* nft(8)'s numbers for the types of its language */
#define TYPE_IPV6_ADDR 8
#define BYTEORDER_BIG  2 /* likewise; without it nft(8) prints the elements reversed */
#define SET_COMMENT    "pods of the mesh on this node, by address; comment: pod uid"

static const char *set_name(uint8_t len)
{
	return len == 4 ? NFT_SET_V4 : NFT_SET_V6;
}

static void *need(void *p)
{
	bug_on(p == NULL);
	return p;
}

/* A set without @elems is enough to name it in an element message. */
static struct nftnl_set *new_set(uint8_t len)
{
	struct nftnl_set *s = need(nftnl_set_alloc());

	bug_on(nftnl_set_set_str(s, NFTNL_SET_TABLE, nft_host_table.name) < 0 ||
	       nftnl_set_set_str(s, NFTNL_SET_NAME, set_name(len)) < 0);
	nftnl_set_set_u32(s, NFTNL_SET_FAMILY, NFPROTO_INET);
	return s;
}

static void put_set(struct nft_batch *b, uint8_t len)
{
	struct nlmsghdr *nlh =
		nft_batch_msg(b, NFT_MSG_NEWSET, NLM_F_CREATE, "nf_tables sets (CONFIG_NF_TABLES)",
			      "add set inet %s %s", nft_host_table.name, set_name(len));
	struct nftnl_udata_buf *ud = need(nftnl_udata_buf_alloc(256));
	struct nftnl_set *s = new_set(len);

	nftnl_set_set_u32(s, NFTNL_SET_ID, len);
	nftnl_set_set_u32(s, NFTNL_SET_KEY_TYPE, len == 4 ? TYPE_IPV4_ADDR : TYPE_IPV6_ADDR);
	nftnl_set_set_u32(s, NFTNL_SET_KEY_LEN, len);
	bug_on(!nftnl_udata_put_u32(ud, NFTNL_UDATA_SET_KEYBYTEORDER, BYTEORDER_BIG) ||
	       !nftnl_udata_put_strz(ud, NFTNL_UDATA_SET_COMMENT, SET_COMMENT));
	bug_on(nftnl_set_set_data(s, NFTNL_SET_USERDATA, nftnl_udata_buf_data(ud),
				  nftnl_udata_buf_len(ud)) < 0);
	nftnl_set_nlmsg_build_payload(nlh, s);
	nftnl_set_free(s);
	nftnl_udata_buf_free(ud);
	nft_batch_push(b, nlh);
}

static int read_host(struct nft_ns *ns, enum nft_depth depth, struct nft_found *f, struct err *err)
{
	return nft_read(ns, &nft_host_table, 1, depth, f, err);
}

/* Chains that are not as they should be go; the sets stay. */
static void put_chains(struct nft_batch *b, const struct nft_found *f)
{
	for (size_t i = 0; i < f->nchains; i++)
		if (!nft_chain_wanted(f, &f->chains[i]))
			nft_put_chain_del(b, &nft_host_table, f->chains[i].name);
	for (size_t i = 0; i < nft_host_table.nchains; i++)
		nft_put_chain(b, &nft_host_table, &nft_host_table.chains[i]);
}

int nft_host_apply(int netns_fd, uint32_t kubelet_uid, const struct nft_pod_opts *o,
		   struct err *err)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	int r = nft_ns_open(netns_fd, &ns, err);

	if (r < 0)
		return r;
	nft_host_rules(kubelet_uid, o, ns.ipv6, rs);
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_found_ struct nft_found f = {0};

		r = read_host(&ns, NFT_READ_SHAPE, &f, err);
		if (r < 0)
			return r;
		nft_batch_begin(&b, &ns, f.genid);
		nft_put_table(&b, &nft_host_table);
		nft_put_flush(&b, &nft_host_table);
		put_set(&b, 4);
		if (ns.ipv6)
			put_set(&b, 16);
		put_chains(&b, &f);
		nft_put_rules(&b, rs, 0);
		r = nft_batch_commit(&b, &ns, err);
	}
	return r;
}

int nft_host_check(int netns_fd, uint32_t kubelet_uid, const struct nft_pod_opts *o,
		   enum nft_state *ret, struct strbuf *ret_diff, struct err *err)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_found_ struct nft_found f = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	size_t sets = 0;
	int r = nft_ns_open(netns_fd, &ns, err);

	if (r == 0)
		r = read_host(&ns, NFT_READ_ALL, &f, err);
	if (r < 0)
		return r;
	nft_host_rules(kubelet_uid, o, ns.ipv6, rs);
	sets = ns.ipv6 ? 2 : 1;
	if (f.table[0].others == sets)
		f.table[0].others = 0;
	*ret = nft_diff(rs, &f, f.table[0].there ? ret_diff : NULL) == 0 ? NFT_PRESENT
	       : f.table[0].there					 ? NFT_DIFFERENT
									 : NFT_ABSENT;
	return 0;
}

int nft_host_remove(int netns_fd, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	int r = nft_ns_open(netns_fd, &ns, err);

	if (r < 0)
		return r;
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_found_ struct nft_found f = {0};

		r = read_host(&ns, NFT_READ_NAMES, &f, err);
		if (r < 0 || !f.table[0].there)
			return r;
		nft_batch_begin(&b, &ns, f.genid);
		nft_put_table_del(&b, &nft_host_table);
		r = nft_batch_commit(&b, &ns, err);
	}
	return r;
}

/* Elements */

struct entry {
	struct ip_addr ip;
	char uid[UID_MAX + 1];
};
struct entries {
	struct entry *e;
	size_t n, cap;
};

static void entries_fini(struct entries *x)
{
	free(x->e);
}

struct nftnl_set_elem;

static int read_comment(const struct nftnl_udata *attr, void *ctx)
{
	struct entry *e = ctx;

	if (nftnl_udata_type(attr) == NFTNL_UDATA_SET_ELEM_COMMENT) {
		size_t n = strnlen(nftnl_udata_get(attr), nftnl_udata_len(attr));

		memcpy(e->uid, nftnl_udata_get(attr), n < UID_MAX ? n : UID_MAX);
	}
	return 0;
}

static int take_elem(struct nftnl_set_elem *elem, void *ctx)
{
	struct entries *x = ctx;
	struct entry e = {0};
	uint32_t n = 0;
	const void *p = nftnl_set_elem_get(elem, NFTNL_SET_ELEM_KEY, &n);

	if (p == NULL || ip_from_bytes(p, n, &e.ip) < 0)
		return 0;
	p = nftnl_set_elem_get(elem, NFTNL_SET_ELEM_USERDATA, &n);
	if (p != NULL && nftnl_udata_parse(p, n, read_comment, &e) < 0)
		return 0;
	if (x->n == x->cap) {
		x->cap = x->cap * 2 + 8;
		x->e = xrealloc_array(x->e, x->cap, sizeof(*x->e));
	}
	x->e[x->n++] = e;
	return 0;
}

static int take_elems(const struct nlmsghdr *nlh, void *ctx)
{
	struct nftnl_set *s = nftnl_set_alloc();
	int r = -EBADMSG;

	if (NFNL_MSG_TYPE(nlh->nlmsg_type) != NFT_MSG_NEWSETELEM)
		r = 0;
	else if (s != NULL && nftnl_set_elems_nlmsg_parse(nlh, s) == 0)
		r = nftnl_set_elem_foreach(s, take_elem, ctx);
	nftnl_set_free(s);
	return r;
}

static void add_elem(struct nftnl_set *s, const struct entry *e, bool with_comment)
{
	struct nftnl_set_elem *x = need(nftnl_set_elem_alloc());

	bug_on(nftnl_set_elem_set(x, NFTNL_SET_ELEM_KEY, e->ip.b, e->ip.len) < 0);
	if (with_comment) {
		struct nftnl_udata_buf *ud = need(nftnl_udata_buf_alloc(256));

		bug_on(!nftnl_udata_put_strz(ud, NFTNL_UDATA_SET_ELEM_COMMENT, e->uid));
		bug_on(nftnl_set_elem_set(x, NFTNL_SET_ELEM_USERDATA, nftnl_udata_buf_data(ud),
					  nftnl_udata_buf_len(ud)) < 0);
		nftnl_udata_buf_free(ud);
	}
	nftnl_set_elem_add(s, x);
}

/* The elements of one set: the one at @ip, or all of them (@ip NULL). A set or element that is not
 * there is an empty answer. */
static int read_elems(struct nft_ns *ns, uint8_t len, const struct ip_addr *ip, struct entries *ret,
		      struct err *err)
{
	char buf[NFT_QUERY_MAX];
	struct nlmsghdr *nlh = nft_query(buf, ns, NFT_MSG_GETSETELEM, ip == NULL ? NLM_F_DUMP : 0);
	struct nftnl_set *s = new_set(len);
	struct err local = {0};
	int r;

	if (ip != NULL)
		add_elem(s, &(struct entry){.ip = *ip}, false);
	nftnl_set_elems_nlmsg_build_payload(nlh, s);
	nftnl_set_free(s);
	r = nft_ask(ns, nlh, ip != NULL ? "read probe set element" : "list probe set", take_elems,
		    ret, &local);
	if (r == -ENOENT)
		return 0;
	if (r < 0 && err != NULL)
		*err = local;
	return r;
}

static void put_elems(struct nft_batch *b, bool add, const struct entry *const *e, size_t n)
{
	uint8_t len = e[0]->ip.len;
	char ip[IP_TEXT_MAX];
	struct nftnl_set *s = new_set(len);
	struct nlmsghdr *nlh =
		nft_batch_msg(b, add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM,
			      add ? NLM_F_CREATE | NLM_F_EXCL : 0, NULL, "%s %s%s in set %s %s",
			      add ? "add" : "delete", ip_format(&e[0]->ip, ip),
			      n > 1 ? " and others" : "", nft_host_table.name, set_name(len));

	for (size_t i = 0; i < n; i++)
		add_elem(s, e[i], add);
	nftnl_set_elems_nlmsg_build_payload(nlh, s);
	nftnl_set_free(s);
	nft_batch_push(b, nlh);
}

static int entry_of(const struct ip_addr *ip, struct str uid, struct entry *ret, struct err *err)
{
	if (ip->len != 4 && ip->len != 16)
		return err_set(err, EINVAL, "probe set: no address given");
	*ret = (struct entry){.ip = *ip};
	if (uid.n == 0)
		return err_set(err, EINVAL, "probe set: pod uid is empty");
	if (str_to_cstr(uid, ret->uid, sizeof(ret->uid), err) < 0)
		return err_wrap(err, "probe set: pod uid '%s'", str_shown(uid));
	return 0;
}

int nft_host_probe_add(int netns_fd, const struct ip_addr *ip, struct str uid, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	struct entry want;
	const struct entry *p = &want;
	int r = entry_of(ip, uid, &want, err);

	if (r == 0)
		r = nft_ns_open(netns_fd, &ns, err);
	if (r < 0)
		return r;
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_(entries_fini) struct entries have = {0};
		uint32_t genid;

		r = nft_read_genid(&ns, &genid, err);
		if (r == 0)
			r = read_elems(&ns, ip->len, ip, &have, err);
		if (r < 0)
			return r;
		if (have.n != 0 && strcmp(have.e[0].uid, want.uid) == 0)
			return 0;
		nft_batch_begin(&b, &ns, genid);
		if (have.n != 0)
			put_elems(&b, false, &p, 1);
		put_elems(&b, true, &p, 1);
		r = nft_batch_commit(&b, &ns, err);
	}
	if (r == -ENOENT)
		return err_set(err, ENOENT,
			       "probe set inet %s %s is not there: the host's rules are not in "
			       "place%s",
			       nft_host_table.name, set_name(ip->len),
			       ip->len == 16 ? ", or this host has no IPv6" : "");
	return r;
}

int nft_host_probe_del(int netns_fd, const struct ip_addr *ip, struct str uid, bool *ret_removed,
		       struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	struct entry want;
	const struct entry *p = &want;
	int r = entry_of(ip, uid, &want, err);

	if (r == 0)
		r = nft_ns_open(netns_fd, &ns, err);
	if (r < 0)
		return r;
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_(entries_fini) struct entries have = {0};
		uint32_t genid;

		r = nft_read_genid(&ns, &genid, err);
		if (r == 0)
			r = read_elems(&ns, ip->len, ip, &have, err);
		if (r < 0)
			return r;
		if (have.n == 0 || strcmp(have.e[0].uid, want.uid) != 0) {
			*ret_removed = false;
			return 0;
		}
		nft_batch_begin(&b, &ns, genid);
		put_elems(&b, false, &p, 1);
		r = nft_batch_commit(&b, &ns, err);
	}
	if (r == 0)
		*ret_removed = true;
	return r;
}

/* Deletes of one set, ELEMS_PER_MSG at a time, all in the same transaction. */
static void put_pruned(struct nft_batch *b, const struct entries *x,
		       bool (*keep)(void *, const struct ip_addr *, struct str), void *ctx)
{
	const struct entry *gone[ELEMS_PER_MSG];
	size_t n = 0;

	for (size_t i = 0; i < x->n; i++) {
		if (keep(ctx, &x->e[i].ip, str_of(x->e[i].uid)))
			continue;
		gone[n++] = &x->e[i];
		if (n == ELEMS_PER_MSG) {
			put_elems(b, false, gone, n);
			n = 0;
		}
	}
	if (n != 0)
		put_elems(b, false, gone, n);
}

static int prune_once(struct nft_ns *ns, struct nft_batch *b,
		      bool (*keep)(void *, const struct ip_addr *, struct str), void *ctx,
		      struct err *err)
{
	uint32_t genid;
	int r = nft_read_genid(ns, &genid, err);

	if (r < 0)
		return r;
	nft_batch_begin(b, ns, genid);
	for (uint8_t len = 4; len <= 16; len = (uint8_t)(len + 12)) {
		_cleanup_(entries_fini) struct entries x = {0};

		r = read_elems(ns, len, NULL, &x, err);
		if (r < 0)
			return r == -EINTR ? -ERESTART : r;
		put_pruned(b, &x, keep, ctx);
	}
	return b->nsteps != 0 ? nft_batch_commit(b, ns, err) : 0;
}

int nft_host_probe_prune(int netns_fd, bool (*keep)(void *, const struct ip_addr *, struct str),
			 void *ctx, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	int r = nft_ns_open(netns_fd, &ns, err);

	if (r < 0)
		return r;
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++)
		r = prune_once(&ns, &b, keep, ctx, err);
	return r;
}
