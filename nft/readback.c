/* SPDX-License-Identifier: Apache-2.0
 * readback.c: see readback.h.
 *
 * Theory of operation. A dump is several packets, and several dumps make a picture; the kernel
 * counts generations of the whole rule set. The number is read before and after: equal means one
 * picture. It also goes into the transaction that follows, which the kernel refuses when somebody
 * changed the rules in between.
 */
#include "nft/readback.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <assert.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "nft/batch.h"
#include "nft/encode.h"
#include "nft/ns.h"

#define READ_ROUNDS 16

static int table_index(const struct nft_found *f, const char *name)
{
	for (size_t i = 0; name != NULL && i < f->ntables; i++)
		if (strcmp(f->tables[i].name, name) == 0)
			return (int)i;
	return -1;
}

static uint8_t family_of(const struct nlmsghdr *nlh)
{
	const struct nfgenmsg *g = mnl_nlmsg_get_payload(nlh);

	return nlh->nlmsg_len >= NLMSG_HDRLEN + sizeof(*g) ? g->nfgen_family : NFPROTO_UNSPEC;
}

static int take_table(struct nft_found *f, const struct nlmsghdr *nlh)
{
	struct nftnl_table *t = nftnl_table_alloc();
	int i, r = -EBADMSG;

	if (t != NULL && nftnl_table_nlmsg_parse(nlh, t) == 0) {
		r = 0;
		i = table_index(f, nftnl_table_get_str(t, NFTNL_TABLE_NAME));
		if (i >= 0)
			f->table[i] = (struct nft_found_table){
				.there = true,
				.flags = nftnl_table_get_u32(t, NFTNL_TABLE_FLAGS),
			};
	}
	nftnl_table_free(t);
	return r;
}

static void copy_str(char *to, size_t cap, const char *s)
{
	size_t n = s != NULL ? strnlen(s, cap - 1) : 0;

	memcpy(to, s != NULL ? s : "", n);
	to[n] = '\0';
}

static void add_chain(struct nft_found *f, int table, const struct nftnl_chain *c)
{
	struct nft_found_chain *x;

	if (f->nchains == NFT_FOUND_CHAINS_MAX) {
		f->chains_more++;
		return;
	}
	if (f->chains == NULL)
		f->chains = xcalloc(NFT_FOUND_CHAINS_MAX, sizeof(*f->chains));
	x = &f->chains[f->nchains++];
	x->table = (uint8_t)table;
	copy_str(x->name, sizeof(x->name), nftnl_chain_get_str(c, NFTNL_CHAIN_NAME));
	x->base = nftnl_chain_is_set(c, NFTNL_CHAIN_HOOKNUM);
	if (!x->base)
		return;
	copy_str(x->type, sizeof(x->type), nftnl_chain_get_str(c, NFTNL_CHAIN_TYPE));
	x->hook = nftnl_chain_get_u32(c, NFTNL_CHAIN_HOOKNUM);
	x->prio = nftnl_chain_get_s32(c, NFTNL_CHAIN_PRIO);
	x->accepts = nftnl_chain_get_u32(c, NFTNL_CHAIN_POLICY) == NF_ACCEPT;
}

static int take_chain(struct nft_found *f, const struct nlmsghdr *nlh)
{
	struct nftnl_chain *c = nftnl_chain_alloc();
	int i, r = -EBADMSG;

	if (c != NULL && nftnl_chain_nlmsg_parse(nlh, c) == 0) {
		r = 0;
		i = table_index(f, nftnl_chain_get_str(c, NFTNL_CHAIN_TABLE));
		if (i >= 0)
			add_chain(f, i, c);
	}
	nftnl_chain_free(c);
	return r;
}

static void add_rule(struct nft_found *f, int table, const struct nftnl_rule *r)
{
	struct nft_found_rule *x;

	if (f->nrules == NFT_FOUND_RULES_MAX) {
		f->rules_more++;
		return;
	}
	if ((f->nrules & (f->nrules - 1)) == 0) /* grows at 1, 2, 4, ... */
		f->rules = xrealloc_array(f->rules, f->nrules == 0 ? 1 : f->nrules * 2,
					  sizeof(*f->rules));
	x = &f->rules[f->nrules++];
	x->table = (uint8_t)table;
	copy_str(x->chain, sizeof(x->chain), nftnl_rule_get_str(r, NFTNL_RULE_CHAIN));
	nft_decode_rule(r, &x->ops);
}

static int take_rule(struct nft_found *f, const struct nlmsghdr *nlh)
{
	struct nftnl_rule *x = nftnl_rule_alloc();
	int i, r = -EBADMSG;

	if (x != NULL && nftnl_rule_nlmsg_parse(nlh, x) == 0) {
		r = 0;
		i = table_index(f, nftnl_rule_get_str(x, NFTNL_RULE_TABLE));
		if (i >= 0)
			add_rule(f, i, x);
	}
	nftnl_rule_free(x);
	return r;
}

struct wanted_attr {
	int type;
	const struct nlattr *found;
};

static int match_attr(const struct nlattr *attr, void *ctx)
{
	struct wanted_attr *w = ctx;

	if (mnl_attr_get_type(attr) == w->type)
		w->found = attr;
	return MNL_CB_OK;
}

/* The attribute @type of a message, of the right form, or NULL. */
static const struct nlattr *find_attr(const struct nlmsghdr *nlh, int type,
				      enum mnl_attr_data_type form)
{
	struct wanted_attr w = {.type = type};

	if (mnl_attr_parse(nlh, sizeof(struct nfgenmsg), match_attr, &w) < 0 || w.found == NULL ||
	    mnl_attr_validate(w.found, form) < 0)
		return NULL;
	return w.found;
}

/* Sets, objects and flow tables all name their table in the same attribute. */
static int take_other(struct nft_found *f, const struct nlmsghdr *nlh)
{
	const struct nlattr *attr = find_attr(nlh, NFTA_SET_TABLE, MNL_TYPE_NUL_STRING);
	int i;

	if (attr == NULL)
		return -EBADMSG;
	i = table_index(f, mnl_attr_get_str(attr));
	if (i >= 0)
		f->table[i].others++;
	return 0;
}
static_assert((int)NFTA_SET_TABLE == (int)NFTA_OBJ_TABLE &&
		      (int)NFTA_SET_TABLE == (int)NFTA_FLOWTABLE_TABLE,
	      "one attribute number for all three");

static int take_generation(struct nft_found *f, const struct nlmsghdr *nlh)
{
	const struct nlattr *attr = find_attr(nlh, NFTA_GEN_ID, MNL_TYPE_U32);

	if (attr == NULL)
		return -EBADMSG;
	f->genid = ntohl(mnl_attr_get_u32(attr));
	return 0;
}

int nft_found_take(struct nft_found *f, const struct nlmsghdr *nlh)
{
	int type = NFNL_MSG_TYPE(nlh->nlmsg_type);

	if (nlh->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nfgenmsg))
		return -EBADMSG;
	if (type == NFT_MSG_NEWGEN)
		return take_generation(f, nlh);
	if (family_of(nlh) != NFPROTO_INET)
		return 0;
	switch (type) {
	case NFT_MSG_NEWTABLE:
		return take_table(f, nlh);
	case NFT_MSG_NEWCHAIN:
		return take_chain(f, nlh);
	case NFT_MSG_NEWRULE:
		return take_rule(f, nlh);
	case NFT_MSG_NEWSET:
	case NFT_MSG_NEWOBJ:
	case NFT_MSG_NEWFLOWTABLE:
		return take_other(f, nlh);
	default:
		return 0;
	}
}

static int take(const struct nlmsghdr *nlh, void *ctx)
{
	return nft_found_take(ctx, nlh);
}

static int list(struct nft_ns *ns, struct nft_found *f, uint16_t type, const char *what,
		struct err *err)
{
	char buf[NFT_QUERY_MAX];

	return nft_ask(ns, nft_query(buf, ns, type, NLM_F_DUMP), what, take, f, err);
}

static int read_generation(struct nft_ns *ns, struct nft_found *f, struct err *err)
{
	char buf[NFT_QUERY_MAX];

	return nft_ask(ns, nft_query(buf, ns, NFT_MSG_GETGEN, 0), "read rule set generation", take,
		       f, err);
}

int nft_read_genid(struct nft_ns *ns, uint32_t *ret, struct err *err)
{
	struct nft_found f = {0};
	int r = read_generation(ns, &f, err);

	if (r == 0)
		*ret = f.genid;
	return r;
}

static bool any_there(const struct nft_found *f)
{
	for (size_t i = 0; i < f->ntables; i++)
		if (f->table[i].there)
			return true;
	return false;
}

static int read_once(struct nft_ns *ns, enum nft_depth depth, struct nft_found *f, struct err *err)
{
	uint32_t before;
	int r = read_generation(ns, f, err);

	if (r == 0)
		r = list(ns, f, NFT_MSG_GETTABLE, "list tables", err);
	if (r < 0 || depth == NFT_READ_NAMES || !any_there(f))
		return r;
	before = f->genid;
	r = list(ns, f, NFT_MSG_GETCHAIN, "list chains", err);
	if (r == 0)
		r = list(ns, f, NFT_MSG_GETSET, "list sets", err);
	if (r == 0)
		r = list(ns, f, NFT_MSG_GETOBJ, "list objects", err);
	if (r == 0)
		r = list(ns, f, NFT_MSG_GETFLOWTABLE, "list flow tables", err);
	if (r == 0 && depth == NFT_READ_ALL)
		r = list(ns, f, NFT_MSG_GETRULE, "list rules", err);
	if (r == 0)
		r = read_generation(ns, f, err);
	return r < 0 ? r : f->genid == before ? 0 : -EINTR;
}

int nft_read(struct nft_ns *ns, const struct nft_table_def *tables, size_t ntables,
	     enum nft_depth depth, struct nft_found *ret, struct err *err)
{
	for (int i = 0; i < READ_ROUNDS; i++) {
		struct nft_found f = {.tables = tables, .ntables = ntables};
		int r = read_once(ns, depth, &f, err);

		if (r == 0) {
			*ret = f;
			return 0;
		}
		nft_found_fini(&f);
		if (r != -EINTR)
			return r;
	}
	return err_set(err, EAGAIN, "the rule set changed during each of %d attempts to read it",
		       READ_ROUNDS);
}

void nft_found_fini(struct nft_found *f)
{
	free(f->chains);
	free(f->rules);
	*f = (struct nft_found){0};
}
