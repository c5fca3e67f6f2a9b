/* SPDX-License-Identifier: Apache-2.0
 * encode.c: see encode.h. encode and decode are each other's inverse, step by step; register 1 is
 * the only data register in use.
 */
#include "nft/encode.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

/* libnftnl allocates tens of bytes at a time on our control path */
static void *need(void *p)
{
	bug_on(p == NULL);
	return p;
}

void nft_put_table(struct nft_batch *b, const struct nft_table_def *t)
{
	struct nlmsghdr *nlh = nft_batch_msg(b, NFT_MSG_NEWTABLE, NLM_F_CREATE,
					     "nf_tables for family inet (CONFIG_NF_TABLES_INET)",
					     "add table inet %s", t->name);

	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, t->name);
	mnl_attr_put_u32(nlh, NFTA_TABLE_FLAGS, 0);
	nft_batch_push(b, nlh);
}

void nft_put_table_del(struct nft_batch *b, const struct nft_table_def *t)
{
	struct nlmsghdr *nlh =
		nft_batch_msg(b, NFT_MSG_DELTABLE, 0, NULL, "delete table inet %s", t->name);

	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, t->name);
	nft_batch_push(b, nlh);
}

void nft_put_flush(struct nft_batch *b, const struct nft_table_def *t)
{
	struct nlmsghdr *nlh =
		nft_batch_msg(b, NFT_MSG_DELRULE, 0, NULL, "flush table inet %s", t->name);

	mnl_attr_put_strz(nlh, NFTA_RULE_TABLE, t->name);
	nft_batch_push(b, nlh);
}

static const char *chain_needs(const struct nft_chain_def *c)
{
	if (c->type == NULL)
		return NULL;
	if (strcmp(c->type, "nat") == 0)
		return "nf_tables inet nat chains (CONFIG_NFT_NAT, modules nft_chain_nat and "
		       "nf_nat; Linux 5.2 or later)";
	if (strcmp(c->type, "route") == 0)
		return "nf_tables inet route chains (Linux 5.2 or later)";
	return "nf_tables inet filter chains (CONFIG_NF_TABLES_INET)";
}

void nft_put_chain(struct nft_batch *b, const struct nft_table_def *t,
		   const struct nft_chain_def *c)
{
	struct nlmsghdr *nlh = nft_batch_msg(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain_needs(c),
					     "add chain inet %s %s", t->name, c->name);
	struct nftnl_chain *x = need(nftnl_chain_alloc());

	bug_on(nftnl_chain_set_str(x, NFTNL_CHAIN_TABLE, t->name) < 0 ||
	       nftnl_chain_set_str(x, NFTNL_CHAIN_NAME, c->name) < 0);
	if (c->type != NULL) {
		bug_on(nftnl_chain_set_str(x, NFTNL_CHAIN_TYPE, c->type) < 0);
		nftnl_chain_set_u32(x, NFTNL_CHAIN_HOOKNUM, c->hook);
		nftnl_chain_set_s32(x, NFTNL_CHAIN_PRIO, c->prio);
		nftnl_chain_set_u32(x, NFTNL_CHAIN_POLICY, NF_ACCEPT);
	}
	nftnl_chain_nlmsg_build_payload(nlh, x);
	nftnl_chain_free(x);
	nft_batch_push(b, nlh);
}

void nft_put_chain_del(struct nft_batch *b, const struct nft_table_def *t, const char *name)
{
	struct nlmsghdr *nlh = nft_batch_msg(b, NFT_MSG_DELCHAIN, 0, NULL,
					     "delete chain inet %s %s", t->name, name);

	mnl_attr_put_strz(nlh, NFTA_CHAIN_TABLE, t->name);
	mnl_attr_put_strz(nlh, NFTA_CHAIN_NAME, name);
	nft_batch_push(b, nlh);
}

static const char *const expr_name[NFT_OP_N] = {
	[NFT_OP_META] = "meta",		[NFT_OP_CT] = "ct",
	[NFT_OP_PAYLOAD] = "payload",	[NFT_OP_CMP] = "cmp",
	[NFT_OP_BITWISE] = "bitwise",	[NFT_OP_LOOKUP] = "lookup",
	[NFT_OP_COUNTER] = "counter",	[NFT_OP_IMMEDIATE] = "immediate",
	[NFT_OP_VERDICT] = "immediate", [NFT_OP_REDIRECT] = "redir",
	[NFT_OP_NAT] = "nat",		[NFT_OP_META_SET] = "meta",
	[NFT_OP_CT_SET] = "ct",
};

static struct nftnl_expr *encode_op(const struct nft_op *p)
{
	struct nftnl_expr *e = need(nftnl_expr_alloc(expr_name[p->kind]));

	switch ((enum nft_op_kind)p->kind) {
	case NFT_OP_META:
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, NFT_REG_1);
		break;
	case NFT_OP_META_SET:
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, NFT_REG_1);
		break;
	case NFT_OP_CT:
		nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, NFT_REG_1);
		break;
	case NFT_OP_CT_SET:
		nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_CT_SREG, NFT_REG_1);
		break;
	case NFT_OP_PAYLOAD:
		nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, p->base);
		nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, p->len);
		nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
		break;
	case NFT_OP_CMP:
		nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
		nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, p->flag);
		nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, p->data, p->len);
		break;
	case NFT_OP_BITWISE:
		nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
		nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
		nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, p->len);
		nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, p->data, p->len);
		nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, p->data2, p->len);
		break;
	case NFT_OP_LOOKUP:
		nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
		bug_on(nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, p->name) < 0);
		break;
	case NFT_OP_COUNTER:
		break;
	case NFT_OP_IMMEDIATE:
		nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
		nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, p->data, p->len);
		break;
	case NFT_OP_VERDICT:
		nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
		nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, p->key);
		if (p->name[0] != '\0')
			bug_on(nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, p->name) < 0);
		break;
	case NFT_OP_REDIRECT:
		nftnl_expr_set_u32(e, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG_1);
		break;
	case NFT_OP_NAT:
		nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, p->key);
		nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, p->base);
		nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, NFT_REG_1);
		break;
	case NFT_OP_OTHER:
	case NFT_OP_N:
		bug_on(p->kind >= NFT_OP_OTHER);
	}
	return e;
}

/* The module behind a rule's verdict: the one most often missing from a trimmed kernel. */
static const char *rule_needs(const struct nft_rule *r)
{
	switch (r->verdict) {
	case NFT_V_REDIRECT:
		return "nf_tables redirect (CONFIG_NFT_REDIR, module nft_redir)";
	case NFT_V_SNAT:
		return "nf_tables snat (CONFIG_NFT_NAT, module nft_nat)";
	case NFT_V_CTMARK_SET:
	case NFT_V_MARK_FROM_CT:
		return "nf_tables ct mark (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_MARK)";
	case NFT_V_CTZONE:
		return "nf_tables ct zone (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_ZONES)";
	case NFT_V_ACCEPT:
	case NFT_V_RETURN:
		return "nf_tables expressions meta, payload, cmp, bitwise, counter "
		       "(CONFIG_NF_TABLES)";
	case NFT_V_JUMP:
	case NFT_V_N:
		break;
	}
	return NULL;
}

void nft_put_ops(struct nft_batch *b, const struct nft_table_def *t, const char *chain,
		 const struct nft_ops *ops, const char *needs, size_t n)
{
	struct nlmsghdr *nlh = nft_batch_msg(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, needs,
					     "add rule inet %s %s rule %zu", t->name, chain, n);
	struct nftnl_rule *x = need(nftnl_rule_alloc());

	bug_on(nftnl_rule_set_str(x, NFTNL_RULE_TABLE, t->name) < 0 ||
	       nftnl_rule_set_str(x, NFTNL_RULE_CHAIN, chain) < 0);
	for (size_t i = 0; i < ops->n; i++)
		nftnl_rule_add_expr(x, encode_op(&ops->op[i]));
	nftnl_rule_nlmsg_build_payload(nlh, x);
	nftnl_rule_free(x);
	nft_batch_push(b, nlh);
}

void nft_put_rule(struct nft_batch *b, const struct nft_ruleset *rs, const struct nft_rule *r,
		  size_t n)
{
	const struct nft_table_def *t = &rs->tables[r->table];
	struct nft_ops ops;

	nft_rule_ops(r, &ops);
	nft_put_ops(b, t, t->chains[r->chain].name, &ops, rule_needs(r), n);
}

void nft_put_rules(struct nft_batch *b, const struct nft_ruleset *rs, size_t t)
{
	size_t n[8] = {0};

	for (size_t i = 0; i < rs->nrules; i++) {
		const struct nft_rule *r = &rs->rules[i];

		bug_on(r->chain >= ARRAY_LEN(n));
		if (r->table == t)
			nft_put_rule(b, rs, r, ++n[r->chain]);
	}
}

/* Back. An attribute that the kernel left out reads as 0 and then differs from ours. */

static void copy_data(const struct nftnl_expr *e, uint16_t attr, uint8_t *to, size_t cap,
		      uint8_t *ret_len)
{
	uint32_t n = 0;
	const void *p = nftnl_expr_get(e, attr, &n);

	if (p == NULL)
		n = 0;
	/* too long for any step of ours: keep the length, which then differs */
	memcpy(to, p != NULL ? p : "", n < cap ? n : cap);
	*ret_len = (uint8_t)(n < 255 ? n : 255);
}

static void copy_name(const struct nftnl_expr *e, uint16_t attr, struct nft_op *op)
{
	const char *s = nftnl_expr_is_set(e, attr) ? nftnl_expr_get_str(e, attr) : NULL;

	if (s != NULL)
		memcpy(op->name, s, strnlen(s, sizeof(op->name) - 1));
}

static void other(const struct nftnl_expr *e, struct nft_op *op)
{
	*op = (struct nft_op){.kind = NFT_OP_OTHER};
	copy_name(e, NFTNL_EXPR_NAME, op);
}

/* Registers: 1, or its 32-bit alias. A step through any other one is foreign. */
static bool reg1(const struct nftnl_expr *e, uint16_t attr)
{
	uint32_t r = nftnl_expr_get_u32(e, attr);

	return r == NFT_REG_1 || r == NFT_REG32_00;
}

static void decode_key(const struct nftnl_expr *e, struct nft_op *op, uint16_t key, uint16_t dreg,
		       uint16_t sreg, enum nft_op_kind load, enum nft_op_kind store)
{
	bool set = nftnl_expr_is_set(e, sreg);

	op->kind = (uint8_t)(set ? store : load);
	op->key = nftnl_expr_get_u32(e, key);
	if (!reg1(e, set ? sreg : dreg))
		other(e, op);
}

static void decode_immediate(const struct nftnl_expr *e, struct nft_op *op)
{
	if (nftnl_expr_is_set(e, NFTNL_EXPR_IMM_VERDICT)) {
		op->kind = NFT_OP_VERDICT;
		op->key = nftnl_expr_get_u32(e, NFTNL_EXPR_IMM_VERDICT);
		copy_name(e, NFTNL_EXPR_IMM_CHAIN, op);
		return;
	}
	op->kind = NFT_OP_IMMEDIATE;
	copy_data(e, NFTNL_EXPR_IMM_DATA, op->data, sizeof(op->data), &op->len);
	if (!reg1(e, NFTNL_EXPR_IMM_DREG))
		other(e, op);
}

static void decode_bitwise(const struct nftnl_expr *e, struct nft_op *op)
{
	uint8_t xor_len;

	op->kind = NFT_OP_BITWISE;
	copy_data(e, NFTNL_EXPR_BITWISE_MASK, op->data, sizeof(op->data), &op->len);
	copy_data(e, NFTNL_EXPR_BITWISE_XOR, op->data2, sizeof(op->data2), &xor_len);
	if (nftnl_expr_get_u32(e, NFTNL_EXPR_BITWISE_OP) != NFT_BITWISE_BOOL ||
	    op->len != sizeof(op->data2) || xor_len != op->len ||
	    !reg1(e, NFTNL_EXPR_BITWISE_SREG) || !reg1(e, NFTNL_EXPR_BITWISE_DREG))
		other(e, op);
}

/* The port is a single one in register 1; the kernel sets "ports given" (2) itself. */
static void decode_redirect(const struct nftnl_expr *e, struct nft_op *op)
{
	op->kind = NFT_OP_REDIRECT;
	if (!reg1(e, NFTNL_EXPR_REDIR_REG_PROTO_MIN) ||
	    (nftnl_expr_is_set(e, NFTNL_EXPR_REDIR_REG_PROTO_MAX) &&
	     !reg1(e, NFTNL_EXPR_REDIR_REG_PROTO_MAX)) ||
	    (nftnl_expr_get_u32(e, NFTNL_EXPR_REDIR_FLAGS) & ~2u) != 0)
		other(e, op);
}

static void decode_nat(const struct nftnl_expr *e, struct nft_op *op)
{
	op->kind = NFT_OP_NAT;
	op->key = nftnl_expr_get_u32(e, NFTNL_EXPR_NAT_TYPE);
	op->base = (uint8_t)nftnl_expr_get_u32(e, NFTNL_EXPR_NAT_FAMILY);
	if (!reg1(e, NFTNL_EXPR_NAT_REG_ADDR_MIN) ||
	    nftnl_expr_is_set(e, NFTNL_EXPR_NAT_REG_PROTO_MIN) ||
	    (nftnl_expr_get_u32(e, NFTNL_EXPR_NAT_FLAGS) & ~1u) != 0)
		other(e, op);
}

static void decode_op(const struct nftnl_expr *e, struct nft_op *op)
{
	const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);

	if (strcmp(name, "meta") == 0) {
		decode_key(e, op, NFTNL_EXPR_META_KEY, NFTNL_EXPR_META_DREG, NFTNL_EXPR_META_SREG,
			   NFT_OP_META, NFT_OP_META_SET);
	} else if (strcmp(name, "ct") == 0) {
		decode_key(e, op, NFTNL_EXPR_CT_KEY, NFTNL_EXPR_CT_DREG, NFTNL_EXPR_CT_SREG,
			   NFT_OP_CT, NFT_OP_CT_SET);
		if (nftnl_expr_is_set(e, NFTNL_EXPR_CT_DIR))
			other(e, op);
	} else if (strcmp(name, "payload") == 0 && !nftnl_expr_is_set(e, NFTNL_EXPR_PAYLOAD_SREG) &&
		   reg1(e, NFTNL_EXPR_PAYLOAD_DREG)) {
		op->kind = NFT_OP_PAYLOAD;
		op->base = (uint8_t)nftnl_expr_get_u32(e, NFTNL_EXPR_PAYLOAD_BASE);
		op->key = nftnl_expr_get_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET);
		op->len = (uint8_t)nftnl_expr_get_u32(e, NFTNL_EXPR_PAYLOAD_LEN);
	} else if (strcmp(name, "cmp") == 0 && reg1(e, NFTNL_EXPR_CMP_SREG)) {
		op->kind = NFT_OP_CMP;
		op->flag = (uint8_t)nftnl_expr_get_u32(e, NFTNL_EXPR_CMP_OP);
		copy_data(e, NFTNL_EXPR_CMP_DATA, op->data, sizeof(op->data), &op->len);
	} else if (strcmp(name, "bitwise") == 0) {
		decode_bitwise(e, op);
	} else if (strcmp(name, "lookup") == 0 && reg1(e, NFTNL_EXPR_LOOKUP_SREG) &&
		   !nftnl_expr_is_set(e, NFTNL_EXPR_LOOKUP_DREG)) {
		op->kind = NFT_OP_LOOKUP;
		op->flag = (uint8_t)(nftnl_expr_get_u32(e, NFTNL_EXPR_LOOKUP_FLAGS) &
				     NFT_LOOKUP_F_INV);
		copy_name(e, NFTNL_EXPR_LOOKUP_SET, op);
	} else if (strcmp(name, "counter") == 0) {
		op->kind = NFT_OP_COUNTER;
	} else if (strcmp(name, "immediate") == 0) {
		decode_immediate(e, op);
	} else if (strcmp(name, "redir") == 0) {
		decode_redirect(e, op);
	} else if (strcmp(name, "nat") == 0) {
		decode_nat(e, op);
	} else {
		other(e, op);
	}
}

struct decode_ctx {
	struct nft_ops *ops;
};

static int decode_one(struct nftnl_expr *e, void *data)
{
	struct nft_ops *o = ((struct decode_ctx *)data)->ops;

	if (o->n < NFT_OPS_MAX)
		decode_op(e, &o->op[o->n]);
	if (o->n <= NFT_OPS_MAX)
		o->n++;
	return 0;
}

void nft_decode_rule(const struct nftnl_rule *r, struct nft_ops *ret)
{
	struct decode_ctx x = {.ops = ret};

	memset(ret, 0, sizeof(*ret));
	/* the library's iterators take a pointer to non-const and do not write */
	(void)nftnl_expr_foreach((struct nftnl_rule *)(uintptr_t)r, decode_one, &x);
}
