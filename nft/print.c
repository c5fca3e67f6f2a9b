/* SPDX-License-Identifier: Apache-2.0
 * print.c: rules as text for people, wanted ones from their symbolic form, foreign ones from what
 * the kernel executes. Pure. The text is never parsed by anything.
 */
#include "nft/model.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "nft/nft.h"
#include "nft/route.h"

static void print_match(const struct nft_match *m, struct strbuf *out)
{
	const char *no = m->differs ? "!= " : "";
	char ip[IP_TEXT_MAX];

	switch (m->kind) {
	case NFT_M_IIFNAME:
		strbuf_printf(out, "iifname %s\"%s\" ", no, m->name);
		break;
	case NFT_M_OIFNAME:
		strbuf_printf(out, "oifname %s\"%s\" ", no, m->name);
		break;
	case NFT_M_L4PROTO:
		strbuf_printf(out, "%s%s ", no, m->v == NFT_TCP ? "tcp" : "udp");
		break;
	case NFT_M_SADDR:
		strbuf_printf(out, "saddr %s%s ", no, ip_format(&m->ip, ip));
		break;
	case NFT_M_DADDR:
		strbuf_printf(out, "daddr %s%s ", no, ip_format(&m->ip, ip));
		break;
	case NFT_M_DADDR_SET:
		strbuf_printf(out, "daddr %s@%s ", no, m->name);
		break;
	case NFT_M_SPORT:
		strbuf_printf(out, "sport %s%u ", no, m->v);
		break;
	case NFT_M_DPORT:
		strbuf_printf(out, "dport %s%u ", no, m->v);
		break;
	case NFT_M_MARK:
		strbuf_printf(out, "mark %s0x%x/0x%x ", no, m->v, NFT_MARK_MASK);
		break;
	case NFT_M_CTMARK:
		strbuf_printf(out, "ct mark %s0x%x/0x%x ", no, m->v, NFT_MARK_MASK);
		break;
	case NFT_M_SKUID:
		strbuf_printf(out, "skuid %s%u ", no, m->v);
		break;
	case NFT_M_N:
		break;
	}
}

void nft_rule_print(const struct nft_rule *r, struct strbuf *out)
{
	char ip[IP_TEXT_MAX];

	for (size_t i = 0; i < r->nmatches; i++)
		print_match(&r->match[i], out);
	switch (r->verdict) {
	case NFT_V_ACCEPT:
		strbuf_puts(out, "accept");
		break;
	case NFT_V_RETURN:
		strbuf_puts(out, "return");
		break;
	case NFT_V_JUMP:
		strbuf_printf(out, "jump %s", r->jump);
		break;
	case NFT_V_REDIRECT:
		strbuf_printf(out, "redirect :%u", r->v);
		break;
	case NFT_V_SNAT:
		strbuf_printf(out, "snat %s", ip_format(&r->ip, ip));
		break;
	case NFT_V_CTMARK_SET:
		strbuf_printf(out, "ct mark set 0x%x/0x%x", r->v, NFT_MARK_MASK);
		break;
	case NFT_V_MARK_FROM_CT:
		strbuf_puts(out, "mark set ct mark");
		break;
	case NFT_V_CTZONE:
		strbuf_printf(out, "ct zone set %u", r->v);
		break;
	case NFT_V_N:
		break;
	}
}

static void print_hex(const uint8_t *p, size_t n, struct strbuf *out)
{
	strbuf_puts(out, "0x");
	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "%02x", p[i]);
}

static const char *const op_name[NFT_OP_N] = {
	[NFT_OP_META] = "meta",	      [NFT_OP_CT] = "ct",
	[NFT_OP_PAYLOAD] = "payload", [NFT_OP_CMP] = "cmp",
	[NFT_OP_BITWISE] = "&",	      [NFT_OP_LOOKUP] = "lookup",
	[NFT_OP_COUNTER] = "counter", [NFT_OP_IMMEDIATE] = "immediate",
	[NFT_OP_VERDICT] = "verdict", [NFT_OP_REDIRECT] = "redirect",
	[NFT_OP_NAT] = "nat",	      [NFT_OP_META_SET] = "set meta",
	[NFT_OP_CT_SET] = "set ct",   [NFT_OP_OTHER] = "other",
};

static const char *meta_name(uint32_t key)
{
	switch (key) {
	case NFT_META_MARK:
		return "mark";
	case NFT_META_NFPROTO:
		return "nfproto";
	case NFT_META_L4PROTO:
		return "l4proto";
	case NFT_META_IIFNAME:
		return "iifname";
	case NFT_META_OIFNAME:
		return "oifname";
	case NFT_META_SKUID:
		return "skuid";
	default:
		return NULL;
	}
}

static void print_verdict(const struct nft_op *p, struct strbuf *out)
{
	if (p->key == NF_ACCEPT)
		strbuf_puts(out, "accept");
	else if (p->key == NF_DROP)
		strbuf_puts(out, "drop");
	else if ((int32_t)p->key == NFT_RETURN)
		strbuf_puts(out, "return");
	else if ((int32_t)p->key == NFT_JUMP)
		strbuf_printf(out, "jump %s", p->name);
	else if ((int32_t)p->key == NFT_GOTO)
		strbuf_printf(out, "goto %s", p->name);
	else
		strbuf_printf(out, "verdict %d", (int32_t)p->key);
}

static void print_key(const struct nft_op *p, struct strbuf *out)
{
	bool meta = p->kind == NFT_OP_META || p->kind == NFT_OP_META_SET;
	const char *name = meta ? meta_name(p->key) : p->key == NFT_CT_MARK ? "mark" : NULL;

	if (name != NULL)
		strbuf_printf(out, "%s %s", op_name[p->kind], name);
	else
		strbuf_printf(out, "%s key %u", op_name[p->kind], p->key);
}

static void print_op(const struct nft_op *p, struct strbuf *out)
{
	switch ((enum nft_op_kind)p->kind) {
	case NFT_OP_META:
	case NFT_OP_CT:
	case NFT_OP_META_SET:
	case NFT_OP_CT_SET:
		print_key(p, out);
		break;
	case NFT_OP_PAYLOAD:
		strbuf_printf(out, "header %u byte %u+%u", p->base, p->key, p->len);
		break;
	case NFT_OP_CMP:
		strbuf_puts(out, p->flag == NFT_CMP_EQ	  ? "== "
				 : p->flag == NFT_CMP_NEQ ? "!= "
							  : "?? ");
		print_hex(p->data, p->len, out);
		break;
	case NFT_OP_BITWISE:
		strbuf_puts(out, "& ");
		print_hex(p->data, sizeof(p->data2), out);
		strbuf_puts(out, " ^ ");
		print_hex(p->data2, sizeof(p->data2), out);
		break;
	case NFT_OP_LOOKUP:
		strbuf_printf(out, "%s@%s", p->flag != 0 ? "not in " : "in ", p->name);
		break;
	case NFT_OP_IMMEDIATE:
		strbuf_puts(out, "load ");
		print_hex(p->data, p->len, out);
		break;
	case NFT_OP_VERDICT:
		print_verdict(p, out);
		break;
	case NFT_OP_OTHER:
		strbuf_printf(out, "[%s]", p->name);
		break;
	case NFT_OP_COUNTER:
	case NFT_OP_REDIRECT:
	case NFT_OP_NAT:
	case NFT_OP_N:
		strbuf_puts(out, p->kind < NFT_OP_N ? op_name[p->kind] : "?");
		break;
	}
}

void nft_ops_print(const struct nft_ops *o, struct strbuf *out)
{
	if (o->n == 0)
		strbuf_puts(out, "(empty)");
	for (size_t i = 0; i < o->n && i < NFT_OPS_MAX; i++) {
		if (i != 0)
			strbuf_putc(out, ' ');
		print_op(&o->op[i], out);
	}
	if (o->n > NFT_OPS_MAX)
		strbuf_puts(out, " ...");
}

void nft_pod_print(const struct nft_pod_opts *o, bool ipv6, struct strbuf *out)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));

	nft_pod_rules(o, ipv6, rs);
	for (size_t t = 0; t < rs->ntables; t++) {
		const struct nft_table_def *tab = &rs->tables[t];

		for (size_t c = 0; c < tab->nchains; c++) {
			size_t n = 0;

			for (size_t i = 0; i < rs->nrules; i++) {
				const struct nft_rule *r = &rs->rules[i];

				if (r->table != t || r->chain != c)
					continue;
				strbuf_printf(out, "%s %s rule %zu: ", tab->name,
					      tab->chains[c].name, ++n);
				nft_rule_print(r, out);
				strbuf_putc(out, '\n');
			}
		}
	}
	for (int f = 0; f < (ipv6 ? 2 : 1); f++)
		for (enum nft_route_kind k = 0; k < NFT_ROUTE_KIND_N; k++)
			strbuf_printf(out, "%s\n", nft_route_text[f][k]);
}
