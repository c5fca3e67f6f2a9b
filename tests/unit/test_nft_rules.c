/* SPDX-License-Identifier: Apache-2.0
 * test_nft_rules.c: interface lists, the rule sets as text, and a rule's steps.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "nft/branch.h"
#include "nft/model.h"
#include "nft/nft.h"

static void nft_parse_ifaces__table(void **state)
{
	static const struct {
		const char *in;
		int r;
		size_t n;
		const char *first, *last, *says;
	} rows[] = {
		{"", 0, 0, "", "", ""},
		{" , ,", 0, 0, "", "", ""},
		{"br0", 0, 1, "br0", "br0", ""},
		{" br0 ,\ttap1,", 0, 2, "br0", "tap1", ""},
		{"a,b,c,d,e,f,g,h", 0, 8, "a", "h", ""},
		{"123456789012345", 0, 1, "123456789012345", "123456789012345", ""},
		{"br0,1234567890123456", -EINVAL, 0, "", "", "'1234567890123456' is longer"},
		{"a,b,c,d,e,f,g,h,i", -EINVAL, 0, "", "", "'i' is too many"},
		{"br 0", -EINVAL, 0, "", "", "'br 0'"},
		{"br0/1", -EINVAL, 0, "", "", "'br0/1'"},
		{"eth0:1", -EINVAL, 0, "", "", "'eth0:1'"},
		{"x,..", -EINVAL, 0, "", "", "'..'"},
		{"br0\n", -EINVAL, 0, "", "", "character"},
		{"br0\x7f", -EINVAL, 0, "", "", "character"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nft_pod_opts o = {.nifaces = 1, .ifaces = {"old"}};
		struct err e = {0};

		assert_int_equal(nft_parse_ifaces(str_of(rows[i].in), &o, &e), rows[i].r);
		assert_non_null(strstr(e.msg, rows[i].says));
		if (rows[i].r < 0) { /* untouched */
			assert_int_equal(o.nifaces, 1);
			assert_string_equal(o.ifaces[0], "old");
			continue;
		}
		assert_int_equal(o.nifaces, rows[i].n);
		assert_string_equal(o.ifaces[0], rows[i].first);
		if (o.nifaces != 0)
			assert_string_equal(o.ifaces[o.nifaces - 1], rows[i].last);
	}
}

/* cni-spec 3.11 */
static void nft_branch_pick__table(void **state)
{
	static const struct ip_addr pod = {.len = 4, .b = {10, 0, 0, 7}};
	static const struct ip_addr other = {.len = 4, .b = {10, 0, 0, 8}};
	static const struct ip_addr pod6 = {.len = 16, .b = {0xfd, [15] = 7}};
	static const struct nft_branch_rule rules[] = {
		{.table = 255, .priority = 0},				/* local */
		{.iif = "lo", .dev = 1, .table = 254, .priority = 5},	/* main's */
		{.table = 101, .priority = 20},				/* no interface */
		{.iif = "gone", .dev = 0, .table = 102, .priority = 9}, /* no such one */
		{.iif = "vlan1", .dev = 11, .table = 101, .priority = 10},
		{.iif = "vlan2", .dev = 12, .table = 300, .priority = 0},
		{.iif = "vlan3", .dev = 13, .table = 0, .priority = 7},
	};
	const struct {
		struct nft_branch_route route;
		struct ip_addr ip;
		uint32_t table, priority;
		const char *iif;
	} rows[] = {
		{{pod, 101, 11}, pod, 101, 9, "vlan1"},
		{{pod, 300, 12}, pod, 300, 0, "vlan2"}, /* never below 0 */
		{{pod6, 101, 11}, pod6, 101, 9, "vlan1"},
		{{pod, 101, 12}, pod, 0, 0, ""},   /* by another interface */
		{{pod, 300, 11}, pod, 0, 0, ""},   /* in another table */
		{{other, 101, 11}, pod, 0, 0, ""}, /* to another address */
		{{pod, 254, 1}, pod, 0, 0, ""},	   /* an ordinary pod */
		{{pod, 102, 0}, pod, 0, 0, ""},
		{{pod, 0, 13}, pod, 0, 0, ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nft_branch b = {0};
		bool found = nft_branch_pick(rules, ARRAY_LEN(rules), &rows[i].route, 1,
					     &rows[i].ip, &b);

		if (found != (rows[i].table != 0) || b.table != rows[i].table ||
		    b.priority != rows[i].priority || strcmp(b.iif, rows[i].iif) != 0)
			fail_msg("row %zu: table %u priority %u %s", i, b.table, b.priority, b.iif);
	}
}

static void nft_parse_ifaces__embedded_nul(void **state)
{
	struct nft_pod_opts o = {0};

	(void)state;
	assert_int_equal(nft_parse_ifaces((struct str){"a\0b", 3}, &o, NULL), -EINVAL);
}

#define N "istio-ambient-nat "
#define MANGLE                                                                                     \
	"istio-ambient-mangle prerouting rule 1: jump istio-prerouting\n"                          \
	"istio-ambient-mangle output rule 1: jump istio-output\n"                                  \
	"istio-ambient-mangle istio-prerouting rule 1: mark 0x539/0xfff ct mark set 0x111/0xfff\n" \
	"istio-ambient-mangle istio-output rule 1: ct mark 0x111/0xfff mark set ct mark\n"
#define JUMPS N "prerouting rule 1: jump istio-prerouting\n" N "output rule 1: jump istio-output\n"
#define ROUTES4                                                                                    \
	"ip route (IPv4): local default dev lo table 100\n"                                        \
	"ip rule (IPv4): fwmark 0x111/0xfff lookup 100 priority 32764\n"
#define ROUTES6                                                                                    \
	"ip route (IPv6): local default dev lo table 100\n"                                        \
	"ip rule (IPv6): fwmark 0x111/0xfff lookup 100 priority 32764\n"
#define PROBE6 "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"

static const struct {
	struct nft_pod_opts o;
	bool ipv6;
	const char *text;
} prints[] = {
	{.text = JUMPS N "istio-prerouting rule 1: tcp saddr 169.254.7.127 accept\n" N
			 "istio-prerouting rule 2: daddr != 127.0.0.1 tcp dport != 15008 mark != "
			 "0x539/0xfff redirect :15006\n" N
			 "istio-output rule 1: tcp daddr 169.254.7.127 accept\n" N
			 "istio-output rule 2: tcp mark 0x111/0xfff accept\n" N
			 "istio-output rule 3: oifname \"lo\" daddr != 127.0.0.1 accept\n" N
			 "istio-output rule 4: tcp daddr != 127.0.0.1 mark != 0x539/0xfff redirect "
			 ":15001\n" MANGLE ROUTES4},
	/* ingress mode keeps the mangle rules: dropping them broke inbound HBONE (58577) */
	{.o = {.ingress_mode = true, .nifaces = 1, .ifaces = {"br0"}},
	 .ipv6 = true,
	 .text = JUMPS N "istio-prerouting rule 1: iifname \"br0\" tcp redirect :15001\n" N
			 "istio-prerouting rule 2: iifname \"br0\" tcp return\n" N
			 "istio-output rule 1: tcp daddr 169.254.7.127 accept\n" N
			 "istio-output rule 2: tcp daddr " PROBE6 " accept\n" N
			 "istio-output rule 3: tcp mark 0x111/0xfff accept\n" N
			 "istio-output rule 4: oifname \"lo\" daddr != 127.0.0.1 accept\n" N
			 "istio-output rule 5: oifname \"lo\" daddr != ::1 accept\n" N
			 "istio-output rule 6: tcp daddr != 127.0.0.1 mark != 0x539/0xfff redirect "
			 ":15001\n" N
			 "istio-output rule 7: tcp daddr != ::1 mark != 0x539/0xfff redirect "
			 ":15001\n" MANGLE ROUTES4 ROUTES6},
	{.o = {.dns_capture = true, .probe_v4 = {4, {10, 0, 0, 9}}},
	 .text = JUMPS N
	 "istio-prerouting rule 1: tcp saddr 10.0.0.9 accept\n" N
	 "istio-prerouting rule 2: daddr != 127.0.0.1 tcp dport != 15008 mark != "
	 "0x539/0xfff redirect :15006\n" N "istio-output rule 1: tcp daddr 10.0.0.9 accept\n" N
	 "istio-output rule 2: oifname != \"lo\" mark != 0x539/0xfff udp dport 53 "
	 "redirect :15053\n" N
	 "istio-output rule 3: daddr != 127.0.0.1 tcp dport 53 mark != 0x539/0xfff "
	 "redirect :15053\n" N "istio-output rule 4: tcp mark 0x111/0xfff accept\n" N
	 "istio-output rule 5: oifname \"lo\" daddr != 127.0.0.1 accept\n" N
	 "istio-output rule 6: tcp daddr != 127.0.0.1 mark != 0x539/0xfff redirect "
	 ":15001\n" MANGLE "istio-ambient-raw prerouting rule 1: jump istio-prerouting\n"
	 "istio-ambient-raw output rule 1: jump istio-output\n"
	 "istio-ambient-raw istio-prerouting rule 1: udp sport 53 mark != "
	 "0x539/0xfff ct zone set 1\n"
	 "istio-ambient-raw istio-output rule 1: udp dport 53 mark 0x539/0xfff ct "
	 "zone set 1\n" ROUTES4},
};

static void nft_pod_print__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(prints); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};

		nft_pod_print(&prints[i].o, prints[i].ipv6, &out);
		assert_string_equal(out.p, prints[i].text);
	}
}

static void nft_host_rules__print(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_strbuf_ struct strbuf out = {0};

	(void)state;
	nft_host_rules(1000, &(struct nft_pod_opts){0}, true, rs);
	assert_int_equal(rs->nrules, 2);
	for (size_t i = 0; i < rs->nrules; i++) {
		nft_rule_print(&rs->rules[i], &out);
		strbuf_putc(&out, '\n');
	}
	assert_string_equal(out.p,
			    "tcp skuid 1000 daddr @istio-inpod-probes-v4 snat 169.254.7.127\n"
			    "tcp skuid 1000 daddr @istio-inpod-probes-v6 snat " PROBE6 "\n");
	nft_host_rules(0, &(struct nft_pod_opts){0}, false, rs);
	assert_int_equal(rs->nrules, 1);
}

/* The longest set fits, and no rule reaches the bound of steps. */
static void nft_pod_rules__bounds(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	struct nft_pod_opts o = {.dns_capture = true};
	struct nft_ops ops;

	(void)state;
	assert_int_equal(nft_parse_ifaces(STR("a,b,c,d,e,f,g,h"), &o, NULL), 0);
	nft_pod_rules(&o, true, rs);
	assert_int_equal(rs->nrules, 6 + 16 + 4 + 10 + 2 + 2);
	for (size_t i = 0; i < rs->nrules; i++) {
		nft_rule_ops(&rs->rules[i], &ops);
		assert_in_range(ops.n, 1, NFT_OPS_MAX);
	}
}

/* Jumps carry no counter, everything else does (cni-spec 5.2); whatever looks at an address asks
 * for the family first (5.9). */
static void nft_rule_ops__counters_and_families(void **state)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));

	(void)state;
	nft_pod_rules(&(struct nft_pod_opts){.dns_capture = true}, true, rs);
	for (size_t i = 0; i < rs->nrules; i++) {
		struct nft_ops ops;
		size_t counters = 0;

		nft_rule_ops(&rs->rules[i], &ops);
		for (size_t k = 0; k < ops.n; k++) {
			const struct nft_op *p = &ops.op[k];

			counters += p->kind == NFT_OP_COUNTER;
			if (p->kind != NFT_OP_PAYLOAD || p->base != 1)
				continue;
			assert_true(k >= 2);
			assert_int_equal(ops.op[k - 2].kind, NFT_OP_META);
			assert_int_equal(ops.op[k - 1].kind, NFT_OP_CMP);
			assert_int_equal(ops.op[k - 1].data[0], p->len == 4 ? 2 : 10);
		}
		assert_int_equal(counters, rs->rules[i].verdict == NFT_V_JUMP ? 0 : 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nft_parse_ifaces__table),
		cmocka_unit_test(nft_parse_ifaces__embedded_nul),
		cmocka_unit_test(nft_pod_print__table),
		cmocka_unit_test(nft_branch_pick__table),
		cmocka_unit_test(nft_host_rules__print),
		cmocka_unit_test(nft_pod_rules__bounds),
		cmocka_unit_test(nft_rule_ops__counters_and_families),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
