/* SPDX-License-Identifier: Apache-2.0
 * ops.c: a symbolic rule as the steps that nf_tables executes. Pure. Steps and their order are
 * those that nft itself writes for the stock agent's text, so that a set programmed by either reads
 * back equal.
 */
#include "nft/model.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>

#include "lib/base/bug.h"
#include "lib/base/str.h"

static struct nft_op *add(struct nft_ops *o, enum nft_op_kind kind)
{
	struct nft_op *p = &o->op[o->n];

	bug_on(o->n >= NFT_OPS_MAX);
	o->n++;
	p->kind = (uint8_t)kind;
	return p;
}

static void load_key(struct nft_ops *o, enum nft_op_kind kind, uint32_t key)
{
	add(o, kind)->key = key;
}

static void cmp(struct nft_ops *o, bool differs, const void *p, size_t n)
{
	struct nft_op *c = add(o, NFT_OP_CMP);

	bug_on(n > sizeof(c->data));
	c->flag = differs ? NFT_CMP_NEQ : NFT_CMP_EQ;
	c->len = (uint8_t)n;
	memcpy(c->data, p, n);
}

static void load_payload(struct nft_ops *o, uint8_t base, uint32_t offset, uint8_t len)
{
	struct nft_op *p = add(o, NFT_OP_PAYLOAD);

	p->base = base;
	p->key = offset;
	p->len = len;
}

static void bitwise(struct nft_ops *o, uint32_t mask, uint32_t xor)
{
	struct nft_op *p = add(o, NFT_OP_BITWISE);

	p->len = sizeof(mask);
	memcpy(p->data, &mask, sizeof(mask));
	memcpy(p->data2, &xor, sizeof(xor));
}

static void immediate(struct nft_ops *o, const void *data, size_t n)
{
	struct nft_op *p = add(o, NFT_OP_IMMEDIATE);

	p->len = (uint8_t)n;
	memcpy(p->data, data, n);
}

/* An inet table sees both families: what looks at an address first asks which one it is, or an IPv6
 * packet would satisfy "daddr != 127.0.0.1". */
static void load_address(struct nft_ops *o, bool dest, uint8_t len)
{
	uint8_t family = len == 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
	uint32_t offset = len == 4 ? (dest ? 16 : 12) : (dest ? 24 : 8);

	load_key(o, NFT_OP_META, NFT_META_NFPROTO);
	cmp(o, false, &family, sizeof(family));
	load_payload(o, NFT_PAYLOAD_NETWORK_HEADER, offset, len);
}

static void match_ops(const struct nft_match *m, struct nft_ops *o)
{
	char ifname[16] = {0};
	uint8_t proto = (uint8_t)m->v;
	uint16_t port = htons((uint16_t)m->v);
	struct nft_op *p;

	switch (m->kind) {
	case NFT_M_IIFNAME:
	case NFT_M_OIFNAME:
		load_key(o, NFT_OP_META,
			 m->kind == NFT_M_IIFNAME ? NFT_META_IIFNAME : NFT_META_OIFNAME);
		memcpy(ifname, m->name, sizeof(ifname) - 1);
		cmp(o, m->differs, ifname, sizeof(ifname));
		break;
	case NFT_M_L4PROTO:
		load_key(o, NFT_OP_META, NFT_META_L4PROTO);
		cmp(o, m->differs, &proto, sizeof(proto));
		break;
	case NFT_M_SADDR:
	case NFT_M_DADDR:
		load_address(o, m->kind == NFT_M_DADDR, m->ip.len);
		cmp(o, m->differs, m->ip.b, m->ip.len);
		break;
	case NFT_M_DADDR_SET:
		load_address(o, true, m->ip.len);
		p = add(o, NFT_OP_LOOKUP);
		memcpy(p->name, m->name, sizeof(m->name));
		break;
	case NFT_M_SPORT:
	case NFT_M_DPORT:
		load_payload(o, NFT_PAYLOAD_TRANSPORT_HEADER, m->kind == NFT_M_SPORT ? 0 : 2, 2);
		cmp(o, m->differs, &port, sizeof(port));
		break;
	case NFT_M_MARK:
		load_key(o, NFT_OP_META, NFT_META_MARK);
		bitwise(o, NFT_MARK_MASK, 0);
		cmp(o, m->differs, &m->v, sizeof(m->v));
		break;
	case NFT_M_CTMARK:
		load_key(o, NFT_OP_CT, NFT_CT_MARK);
		bitwise(o, NFT_MARK_MASK, 0);
		cmp(o, m->differs, &m->v, sizeof(m->v));
		break;
	case NFT_M_SKUID:
		load_key(o, NFT_OP_META, NFT_META_SKUID);
		cmp(o, m->differs, &m->v, sizeof(m->v));
		break;
	case NFT_M_N:
		bug_on(m->kind == NFT_M_N);
	}
}

static void verdict_ops(const struct nft_rule *r, struct nft_ops *o)
{
	uint16_t port = htons((uint16_t)r->v), zone = (uint16_t)r->v;
	struct nft_op *p;

	switch (r->verdict) {
	case NFT_V_ACCEPT:
		add(o, NFT_OP_VERDICT)->key = NF_ACCEPT;
		break;
	case NFT_V_RETURN:
		add(o, NFT_OP_VERDICT)->key = (uint32_t)NFT_RETURN;
		break;
	case NFT_V_JUMP:
		p = add(o, NFT_OP_VERDICT);
		p->key = (uint32_t)NFT_JUMP;
		memcpy(p->name, r->jump, strlen(r->jump));
		break;
	case NFT_V_REDIRECT:
		immediate(o, &port, sizeof(port));
		add(o, NFT_OP_REDIRECT);
		break;
	case NFT_V_SNAT:
		immediate(o, r->ip.b, r->ip.len);
		p = add(o, NFT_OP_NAT);
		p->key = NFT_NAT_SNAT;
		p->base = r->ip.len == 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
		break;
	case NFT_V_CTMARK_SET:
		load_key(o, NFT_OP_CT, NFT_CT_MARK);
		bitwise(o, ~NFT_MARK_MASK, r->v);
		load_key(o, NFT_OP_CT_SET, NFT_CT_MARK);
		break;
	case NFT_V_MARK_FROM_CT:
		load_key(o, NFT_OP_CT, NFT_CT_MARK);
		load_key(o, NFT_OP_META_SET, NFT_META_MARK);
		break;
	case NFT_V_CTZONE:
		immediate(o, &zone, sizeof(zone));
		load_key(o, NFT_OP_CT_SET, NFT_CT_ZONE);
		break;
	case NFT_V_N:
		bug_on(r->verdict == NFT_V_N);
	}
}

void nft_rule_ops(const struct nft_rule *r, struct nft_ops *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (size_t i = 0; i < r->nmatches; i++)
		match_ops(&r->match[i], ret);
	if (r->verdict != NFT_V_JUMP)
		add(ret, NFT_OP_COUNTER);
	verdict_ops(r, ret);
}

bool nft_ops_eq(const struct nft_ops *a, const struct nft_ops *b)
{
	return a->n == b->n && a->n <= NFT_OPS_MAX &&
	       memcmp(a->op, b->op, a->n * sizeof(a->op[0])) == 0;
}
