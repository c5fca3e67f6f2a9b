/* SPDX-License-Identifier: Apache-2.0
 * fuzz_nft_readback.c: any rules in our chains, written and read back. The input is a list of
 * steps, not netlink bytes: libnftnl ends the process on a malformed attribute, and only the kernel
 * can send one. Properties: reading gives what was written; a difference is found exactly when the
 * rules are not the wanted ones; counting and printing agree.
 */
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "nft/encode.h"
#include "nft/nft.h"
#include "nft/ns.h"
#include "nft/readback.h"

#define RULES_MAX 40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t n;
};

static uint8_t byte(struct input *in)
{
	if (in->n == 0)
		return 0;
	in->n--;
	return *in->p++;
}

static void bytes(struct input *in, uint8_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = byte(in);
}

static const int32_t verdicts[] = {NF_ACCEPT, NF_DROP,	NF_QUEUE, NFT_CONTINUE,
				   NFT_BREAK, NFT_JUMP, NFT_GOTO, NFT_RETURN};

static struct nft_op step(struct input *in)
{
	struct nft_op p = {.kind = byte(in) % NFT_OP_OTHER};

	switch (p.kind) {
	case NFT_OP_CMP:
		p.flag = byte(in) % 6;
		p.len = (uint8_t)(1 + byte(in) % 16);
		bytes(in, p.data, p.len);
		break;
	case NFT_OP_IMMEDIATE:
		p.len = (uint8_t)(1 + byte(in) % 16);
		bytes(in, p.data, p.len);
		break;
	case NFT_OP_BITWISE:
		p.len = 4;
		bytes(in, p.data, 4);
		bytes(in, p.data2, 4);
		break;
	case NFT_OP_PAYLOAD:
		p.base = byte(in);
		p.len = byte(in);
		p.key = byte(in);
		break;
	case NFT_OP_LOOKUP:
		p.name[0] = (char)(byte(in) | 1);
		break;
	case NFT_OP_VERDICT:
		p.key = (uint32_t)verdicts[byte(in) % ARRAY_LEN(verdicts)];
		if (p.key == (uint32_t)NFT_JUMP || p.key == (uint32_t)NFT_GOTO)
			p.name[0] = (char)(byte(in) | 1);
		break;
	case NFT_OP_NAT:
		p.base = byte(in);
		p.key = byte(in);
		break;
	case NFT_OP_META:
	case NFT_OP_META_SET:
	case NFT_OP_CT:
	case NFT_OP_CT_SET:
		p.key = byte(in);
		break;
	default:
		break;
	}
	return p;
}

/* One rule: wanted one number k as it is (high bit), or steps from the input. */
static void rule(struct input *in, const struct nft_ruleset *rs, size_t at, struct nft_ops *ret)
{
	uint8_t how = byte(in);

	*ret = (struct nft_ops){0};
	if (how & 0x80) {
		nft_rule_ops(&rs->rules[at % rs->nrules], ret);
		if (how & 0x40)
			ret->op[0].key ^= 1; /* a load or a verdict */
		return;
	}
	ret->n = how % NFT_OPS_MAX;
	for (size_t i = 0; i < ret->n; i++)
		ret->op[i] = step(in);
}

static bool is_wanted(const struct nft_ruleset *rs, const struct nft_ops *ops, size_t n)
{
	struct nft_ops want;

	if (n != rs->nrules)
		return false;
	for (size_t i = 0; i < n; i++) {
		nft_rule_ops(&rs->rules[i], &want);
		if (!nft_ops_eq(&want, &ops[i]))
			return false;
	}
	return true;
}

static void read_back(const struct nft_batch *b, struct nft_found *f)
{
	int left = (int)b->len;

	for (const struct nlmsghdr *m = (const void *)b->buf; mnl_nlmsg_ok(m, left);
	     m = mnl_nlmsg_next(m, &left))
		if (m->nlmsg_type != NFNL_MSG_BATCH_BEGIN)
			bug_on(nft_found_take(f, m) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_free_ struct nft_ops *ops = xcalloc(RULES_MAX, sizeof(*ops));
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_found_ struct nft_found f = {.tables = nft_pod_tables, .ntables = NFT_TABLES_N};
	struct input in = {data, size};
	struct nft_ns ns = {0};
	size_t n = 0, ndiff;

	nft_pod_rules(&(struct nft_pod_opts){.dns_capture = true}, false, rs);
	nft_batch_begin(&b, &ns, 0);
	for (size_t t = 0; t < rs->ntables; t++) {
		nft_put_table(&b, &rs->tables[t]);
		for (size_t c = 0; c < rs->tables[t].nchains; c++)
			nft_put_chain(&b, &rs->tables[t], &rs->tables[t].chains[c]);
	}
	for (; in.n != 0 && n < RULES_MAX; n++) {
		const struct nft_rule *r = &rs->rules[n % rs->nrules];

		rule(&in, rs, n, &ops[n]);
		nft_put_ops(&b, &rs->tables[r->table], rs->tables[r->table].chains[r->chain].name,
			    &ops[n], NULL, 1);
	}
	read_back(&b, &f);
	bug_on(f.nrules != n);
	for (size_t i = 0; i < n; i++)
		bug_on(!nft_ops_eq(&ops[i], &f.rules[i].ops));
	ndiff = nft_diff(rs, &f, &out);
	bug_on(ndiff != nft_diff(rs, &f, NULL));
	bug_on((ndiff == 0) != is_wanted(rs, ops, n));
	return 0;
}
