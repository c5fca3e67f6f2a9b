/* SPDX-License-Identifier: Apache-2.0
 * test_nft_readback.c: what is written reads back equal; differences by name; the kernel's errors
 * as sentences. No kernel: the messages we would send are read as if they were its answers.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "nft/batch.h"
#include "nft/encode.h"
#include "nft/extack.h"
#include "nft/nft.h"
#include "nft/ns.h"
#include "nft/readback.h"

/* Rows of the test's rule sets that a case leaves out, repeats or replaces. */
struct edit {
	size_t without; /* number of a rule of the set, from 1 */
	size_t twice;
	size_t accept; /* its verdict becomes accept */
	bool no_raw;
	uint32_t drop_from; /* table whose chain istio-output is not there, from 1 */
};

static void put_edited(struct nft_batch *b, struct nft_ruleset *rs, const struct edit *x)
{
	for (size_t t = 0; t < rs->ntables; t++) {
		const struct nft_table_def *def = &rs->tables[t];

		if (x->no_raw && t == NFT_T_RAW)
			continue;
		nft_put_table(b, def);
		for (size_t c = 0; c < def->nchains; c++)
			if (!(x->drop_from == t + 1 && c + 1 == def->nchains))
				nft_put_chain(b, def, &def->chains[c]);
		for (size_t i = 0; i < rs->nrules; i++) {
			struct nft_rule r = rs->rules[i];

			if (r.table != t || i + 1 == x->without)
				continue;
			if (i + 1 == x->accept)
				r.verdict = NFT_V_ACCEPT;
			nft_put_rule(b, rs, &r, 1);
			if (i + 1 == x->twice)
				nft_put_rule(b, rs, &r, 1);
		}
	}
}

static void feed(struct nft_found *f, const struct nft_batch *b)
{
	int left = (int)b->len;

	*f = (struct nft_found){.tables = nft_pod_tables, .ntables = NFT_TABLES_N};
	for (const struct nlmsghdr *n = (const void *)b->buf; mnl_nlmsg_ok(n, left);
	     n = mnl_nlmsg_next(n, &left))
		if (n->nlmsg_type >= NLMSG_MIN_TYPE && n->nlmsg_type != NFNL_MSG_BATCH_BEGIN)
			assert_int_equal(nft_found_take(f, n), 0);
}

static void found_of(const struct nft_pod_opts *o, bool ipv6, const struct edit *x,
		     struct nft_found *f)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_batch_ struct nft_batch b = {0};
	struct nft_ns ns = {0};

	nft_pod_rules(o, ipv6, rs);
	nft_batch_begin(&b, &ns, 0);
	put_edited(&b, rs, x);
	feed(f, &b);
}

static void roundtrip__every_option(void **state)
{
	(void)state;
	for (unsigned int k = 0; k < 16; k++) {
		_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
		_cleanup_strbuf_ struct strbuf out = {0};
		_cleanup_found_ struct nft_found f = {0};
		struct nft_pod_opts o = {.dns_capture = k & 1, .ingress_mode = k & 2};

		if (k & 8)
			assert_int_equal(nft_parse_ifaces(STR("br0,1234567890abcde"), &o, NULL), 0);
		found_of(&o, k & 4, &(struct edit){0}, &f);
		nft_pod_rules(&o, k & 4, rs);
		if (nft_diff(rs, &f, &out) != 0)
			fail_msg("%u: %s", k, out.p);
		for (size_t t = 0; t < rs->ntables; t++)
			assert_true(nft_shape_eq(&f, t));
	}
}

/* Numbers of rules as listed by nft_pod_rules() without DNS and IPv6: jumps are 1-4. */
static const struct {
	struct edit x;
	bool want_dns, have_dns;
	size_t n;
	const char *text;
} diffs[] = {
	{.x = {.without = 11},
	 .n = 1,
	 .text = "missing: istio-ambient-mangle istio-prerouting rule 1: mark 0x539/0xfff ct mark "
		 "set 0x111/0xfff\n"},
	{.x = {.without = 8},
	 .n = 1,
	 .text = "missing: istio-ambient-nat istio-output rule 2: tcp mark 0x111/0xfff accept\n"},
	{.x = {.twice = 8},
	 .n = 1,
	 .text = "unexpected: istio-ambient-nat istio-output rule 3: meta l4proto == 0x06 meta "
		 "mark & 0xff0f0000 ^ 0x00000000 == 0x11010000 counter accept\n"},
	{.x = {.accept = 6},
	 .n = 1,
	 .text = "changed: istio-ambient-nat istio-prerouting rule 2: wanted: daddr != 127.0.0.1 "
		 "tcp dport != 15008 mark != 0x539/0xfff redirect :15006; found: meta nfproto == "
		 "0x02 header 1 byte 16+4 != 0x7f000001 meta l4proto == 0x06 header 2 byte 2+2 != "
		 "0x3aa0 meta mark & 0xff0f0000 ^ 0x00000000 != 0x39050000 counter accept\n"},
	{.x = {.no_raw = true},
	 .want_dns = true,
	 .have_dns = true,
	 .n = 1,
	 .text = "missing: table istio-ambient-raw\n"},
	{.x = {.drop_from = 1}, .n = 1, .text = "missing: istio-ambient-nat chain istio-output\n"},
};

static void nft_diff__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(diffs); i++) {
		_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
		_cleanup_strbuf_ struct strbuf out = {0};
		_cleanup_found_ struct nft_found f = {0};

		found_of(&(struct nft_pod_opts){.dns_capture = diffs[i].have_dns}, false,
			 &diffs[i].x, &f);
		nft_pod_rules(&(struct nft_pod_opts){.dns_capture = diffs[i].want_dns}, false, rs);
		assert_int_equal(nft_diff(rs, &f, &out), diffs[i].n);
		assert_string_equal(out.p, diffs[i].text);
		assert_int_equal(nft_diff(rs, &f, NULL), diffs[i].n);
	}
}

static void nft_diff__superfluous_dns_table(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_found_ struct nft_found f = {0};

	(void)state;
	found_of(&(struct nft_pod_opts){.dns_capture = true}, false, &(struct edit){0}, &f);
	nft_pod_rules(&(struct nft_pod_opts){0}, false, rs);
	assert_int_equal(nft_diff(rs, &f, &out), 3); /* two rules in nat, one table */
	assert_non_null(strstr(out.p, "unexpected: table istio-ambient-raw\n"));
}

static void nft_diff__everything_missing(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_strbuf_ struct strbuf out = {0};
	struct nft_found f = {.tables = nft_pod_tables, .ntables = NFT_TABLES_N};

	(void)state;
	nft_pod_rules(&(struct nft_pod_opts){0}, true, rs);
	assert_int_equal(nft_diff(rs, &f, &out), 2);
	assert_string_equal(out.p, "missing: table istio-ambient-nat\n"
				   "missing: table istio-ambient-mangle\n");
}

static size_t count(const char *text, const char *part)
{
	size_t n = 0;

	for (const char *p = text; p != NULL && (p = strstr(p, part)) != NULL; p += strlen(part))
		n++;
	return n;
}

/* Every wanted rule has its line, whatever is missing around it. */
static void nft_list__each_rule(void **state)
{
	static const struct {
		struct edit x;
		bool nothing;
		size_t rules, others; /* lines "missing" */
	} rows[] = {
		{.rules = 0},
		{.x = {.drop_from = 1}, .others = 1},
		{.nothing = true, .rules = 17, .others = 2 + 8}, /* tables, chains */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
		_cleanup_strbuf_ struct strbuf out = {0};
		_cleanup_found_ struct nft_found f = {.tables = nft_pod_tables,
						      .ntables = NFT_TABLES_N};

		if (!rows[i].nothing)
			found_of(&(struct nft_pod_opts){0}, true, &rows[i].x, &f);
		nft_pod_rules(&(struct nft_pod_opts){0}, true, rs);
		assert_int_equal(rs->nrules, 17);
		assert_int_equal(nft_list(rs, &f, &out), rows[i].rules + rows[i].others);
		assert_int_equal(count(out.p, "missing: "), rows[i].rules + rows[i].others);
		assert_int_equal(count(out.p, "present: "), rs->nrules - rows[i].rules);
	}
}

/* More than is kept is counted and never equal. */
static void nft_found_take__bounded(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_found_ struct nft_found f = {0};
	struct nft_ns ns = {0};

	(void)state;
	nft_pod_rules(&(struct nft_pod_opts){0}, false, rs);
	nft_batch_begin(&b, &ns, 0);
	put_edited(&b, rs, &(struct edit){0});
	for (size_t i = 0; i < NFT_FOUND_RULES_MAX; i++)
		nft_put_rule(&b, rs, &rs->rules[0], 1);
	feed(&f, &b);
	assert_int_equal(f.nrules, NFT_FOUND_RULES_MAX);
	assert_int_equal(f.rules_more, rs->nrules);
	assert_true(nft_diff(rs, &f, NULL) > 0);
}

static void nft_found_take__malformed(void **state)
{
	struct nft_found f = {.tables = nft_pod_tables, .ntables = NFT_TABLES_N};
	union {
		struct nlmsghdr h;
		char b[64];
	} m = {0};

	(void)state;
	m.h.nlmsg_len = NLMSG_HDRLEN;
	m.h.nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWTABLE;
	assert_int_equal(nft_found_take(&f, &m.h), -EBADMSG); /* no family */
	m.h.nlmsg_len = NLMSG_HDRLEN + sizeof(struct nfgenmsg);
	m.h.nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWGEN;
	assert_int_equal(nft_found_take(&f, &m.h), -EBADMSG); /* no generation */
}

/* An NLMSG_ERROR as the kernel sends it with NETLINK_CAP_ACK. */
union answer {
	struct nlmsghdr h;
	char b[256];
};

static void error_message(union answer *m, uint16_t flags, const char *text, uint16_t attr_len)
{
	struct nlmsgerr e = {.error = -ENOENT, .msg.nlmsg_len = NLMSG_HDRLEN + 40};
	struct nlattr a = {.nla_len = attr_len, .nla_type = NLMSGERR_ATTR_MSG};
	size_t at = NLMSG_HDRLEN;

	memset(m, 0, sizeof(*m));
	memcpy(m->b + at, &e, sizeof(e));
	at += sizeof(e) + (flags & NLM_F_CAPPED ? 0 : 40);
	memcpy(m->b + at, &a, sizeof(a));
	memcpy(m->b + at + sizeof(a), text, strlen(text) + 1);
	at += sizeof(a) + strlen(text) + 1;
	m->h = (struct nlmsghdr){
		.nlmsg_len = (uint32_t)at, .nlmsg_type = NLMSG_ERROR, .nlmsg_flags = flags};
}

static void nft_extack_text__table(void **state)
{
	union answer m;

	(void)state;
	error_message(&m, NLM_F_CAPPED | NLM_F_ACK_TLVS, "no such", 4 + 8);
	assert_string_equal(nft_extack_text(&m.h), "no such");
	error_message(&m, NLM_F_ACK_TLVS, "behind the request", 4 + 19);
	assert_string_equal(nft_extack_text(&m.h), "behind the request");
	error_message(&m, NLM_F_CAPPED, "no attributes announced", 4 + 24);
	assert_null(nft_extack_text(&m.h));
	error_message(&m, NLM_F_CAPPED | NLM_F_ACK_TLVS, "length beyond", 200);
	assert_null(nft_extack_text(&m.h));
	error_message(&m, NLM_F_CAPPED | NLM_F_ACK_TLVS, "no end", 4 + 6);
	assert_null(nft_extack_text(&m.h));
	error_message(&m, NLM_F_CAPPED | NLM_F_ACK_TLVS, "cut", 4 + 4);
	m.h.nlmsg_len = NLMSG_HDRLEN + 2;
	assert_null(nft_extack_text(&m.h));
}

static void nft_kernel_error__sentences(void **state)
{
	struct err e = {0};

	(void)state;
	assert_int_equal(nft_kernel_error(&e, ENOENT, "", "x (CONFIG_X)", "add rule %d", 4),
			 -ENOENT);
	assert_string_equal(e.msg, "kernel lacks x (CONFIG_X): add rule 4: No such file or "
				   "directory");
	(void)nft_kernel_error(&e, EBUSY, "in use", "x (CONFIG_X)", "delete chain c");
	assert_string_equal(e.msg, "delete chain c: Device or resource busy [kernel: in use]");
	(void)nft_kernel_error(&e, EPERM, "", NULL, "commit");
	assert_non_null(strstr(e.msg, "CAP_NET_ADMIN"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(roundtrip__every_option),
		cmocka_unit_test(nft_diff__table),
		cmocka_unit_test(nft_diff__superfluous_dns_table),
		cmocka_unit_test(nft_diff__everything_missing),
		cmocka_unit_test(nft_list__each_rule),
		cmocka_unit_test(nft_found_take__bounded),
		cmocka_unit_test(nft_found_take__malformed),
		cmocka_unit_test(nft_extack_text__table),
		cmocka_unit_test(nft_kernel_error__sentences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
