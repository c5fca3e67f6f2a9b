/* SPDX-License-Identifier: Apache-2.0
 * test_dns_answer.c: which names the mesh answers, and with what (ztunnel-spec 11.2 to 11.4; the
 * rows of its list of tests in 15.3 under their own names). The client is in ns1, on network nw1.
 */
#include "tests/unit/dns_helper.h"

#include "tests/unit/zt_helper.h"
#include "ztunnel/dns/answer.h"

static const struct {
	const char *name, *ips, *service, *rest;
} workloads[] = {
	{"client", "10.0.0.1", "", ""},
	{"pod0", "30.30.30.30, 'fd00::30'", "ns1/headless.ns1.svc.cluster.local", ""},
	{"pod1", "30.30.30.31", "ns1/headless.ns1.svc.cluster.local", ""},
	{"pod6", "'fd00::66'", "ns1/headless6.ns1.svc.cluster.local", ""},
	{"ill", "30.30.30.99", "ns1/headless.ns1.svc.cluster.local", "status: Unhealthy,"},
	{"other", "40.40.40.40", "ns1/far.ns1.svc.cluster.local", "network: nw2,"},
};

static const struct {
	const char *ns, *hostname, *vips, *rest;
} services[] = {
	{"ns1", "www.google.com", "nw1/1.1.1.1", ""},
	{"ns1", "productpage.ns1.svc.cluster.local", "nw1/9.9.9.9", ""},
	{"ns1", "one.sub.ns1.svc.cluster.local", "nw1/9.9.9.8", ""},
	{"ns2", "example.ns2.svc.cluster.local", "nw1/10.10.10.10", ""},
	{"ns2", "private.ns2.svc.cluster.local", "nw1/10.10.10.11", "visibility: Namespace,"},
	{"ns1", "private.ns1.svc.cluster.local", "nw1/10.10.10.12", "visibility: Namespace,"},
	{"ns2", "details.ns2.svc.cluster.remote",
	 "nw1/11.0.0.1, nw1/11.0.0.2, nw1/11.0.0.3, nw1/11.0.0.4", ""},
	{"ns1", "dual.localhost", "nw1/127.0.0.9, 'nw1/::9'", "ipFamilies: Dual,"},
	{"ns1", "ipv6.localhost", "'nw1/::6'", "ipFamilies: IPv6,"},
	{"ns1", "ipv4.localhost", "nw1/127.0.0.4", "ipFamilies: IPv4,"},
	{"ns1", "*.wildcard", "nw1/2.2.2.1", ""},
	{"ns1", "*.b.wildcard", "nw1/2.2.2.2", ""},
	{"ns1", "*.svc.mesh.company.net", "nw1/2.2.2.3", ""},
	{"ns1", "*.foons.svc.mesh.company.net", "nw1/2.2.2.4", ""},
	{"ns1", "nw2.ns1.svc.cluster.local", "nw2/3.3.3.3", ""},
	{"ns1", "both.ns1.svc.cluster.local", "nw2/3.3.3.4, nw1/3.3.3.5", ""},
	{"ns1", "headless.ns1.svc.cluster.local", "", ""},
	{"ns1", "headless6.ns1.svc.cluster.local", "", ""},
	{"ns1", "empty.ns1.svc.cluster.local", "", ""},
	{"ns1", "far.ns1.svc.cluster.local", "", ""},
	{"ns1", "headless.example", "", ""},
	{"ns8", "preferred.io", "nw1/5.0.0.1", ""},
	{"preferred", "preferred.io", "nw1/5.0.0.2", ""},
	{"preferred", "everywhere.io", "nw1/6.0.0.1", ""},
	{"ns1", "everywhere.io", "nw1/6.0.0.2", ""},
	{"preferred", "canonical.svc", "nw1/7.0.0.1", ""},
	{"ns9", "canonical.svc", "nw1/7.0.0.2", "canonical: true,"},
	{"ns10", "canonical.svc", "nw1/7.0.0.3", "canonical: true,"},
	{"ns9", "canonical.with.local", "nw1/8.0.0.1", "canonical: true,"},
	{"ns1", "canonical.with.local", "nw1/8.0.0.2", ""},
	{"ns8", "first.io", "nw1/8.1.0.1", ""},
	{"ns9", "first.io", "nw1/8.1.0.2", ""},
	{"ns1", "Upper.Example.com", "nw1/4.4.4.4", ""},
	{"ns1", "cidr.example", "", "cidrVips: [nw1/20.0.0.0/8],"},
};

static const struct dns_settings settings = {
	.cluster_domain = {"cluster.local", 13}, .prefered_ns = {"preferred", 9}, .ipv6 = true};
static struct mesh *mesh;

/* Answers as the proxy would: "forward", or the message for people. */
static const char *ask(const struct dns_settings *s, const char *name, uint16_t type,
		       struct strbuf *out)
{
	const struct workload *client = mesh_workload_by_uid(mesh, STR("client"));
	struct ip_addr addrs[16];
	uint8_t buf[512], to[DNS_MESSAGE_MAX];
	size_t n = query_bytes(buf, 1, RD, name, type, 0);
	struct dns_query q;
	struct dns_answer a;
	struct dns_reply r;

	assert_non_null(client);
	assert_int_equal(dns_parse(buf, n, &q), DNS_KIND_QUERY);
	a = dns_answer(s, mesh, client, &q, addrs, ARRAY_LEN(addrs), 1);
	if (a.found == DNS_FORWARD) {
		assert_null(a.service);
		return "forward";
	}
	assert_non_null(a.service);
	assert_int_equal(a.found == DNS_SUCCESS, a.naddrs != 0);
	r = (struct dns_reply){.authoritative = true,
			       .alias_labels = a.alias_labels,
			       .addrs = addrs,
			       .naddrs = a.naddrs,
			       .ttl = 30};
	n = dns_reply_write(&q, &r, to, sizeof(to));
	return show_answer(to, n, out);
}

#define EMPTY		    "0 aa rd ra"
#define IS(name, ip)	    EMPTY " | " name ". 30 " ip
#define ALIAS(name, to, ip) EMPTY " | " name ". 30 CNAME " to ". | " to ". 30 " ip
#define LOCAL		    "svc.cluster.local"

static void dns_answer__rows(void **state)
{
	static const struct {
		const char *name;
		uint16_t type;
		const char *want;
	} rows[] = {
		/* 11.2: A and AAAA only */
		{"productpage.ns1", 2, "forward"},
		{"productpage.ns1", 255, "forward"},
		{"productpage.ns1", 65, "forward"},
		{"www.google.com", DNS_A, IS("www.google.com", "1.1.1.1")},
		{"www.google.com.ns1." LOCAL, DNS_A,
		 ALIAS("www.google.com.ns1." LOCAL, "www.google.com", "1.1.1.1")},
		{"www.google.com." LOCAL, DNS_A,
		 ALIAS("www.google.com." LOCAL, "www.google.com", "1.1.1.1")},
		{"www.google.com.cluster.local", DNS_A,
		 ALIAS("www.google.com.cluster.local", "www.google.com", "1.1.1.1")},
		{"www.google.com.ns2." LOCAL, DNS_A, "forward"}, /* not a search domain of ours */
		{"www.bing.com", DNS_A, "forward"},
		{"google.com", DNS_A, "forward"},
		/* 11.3: the table of expansions, by number of labels */
		{"productpage", DNS_A, IS("productpage", "9.9.9.9")},
		{"productpage.ns1", DNS_A, IS("productpage.ns1", "9.9.9.9")},
		{"productpage.ns1.svc", DNS_A, IS("productpage.ns1.svc", "9.9.9.9")},
		{"productpage.ns1." LOCAL, DNS_A, IS("productpage.ns1." LOCAL, "9.9.9.9")},
		{"productpage.ns1.ns1." LOCAL, DNS_A,
		 ALIAS("productpage.ns1.ns1." LOCAL, "productpage.ns1", "9.9.9.9")},
		{"productpage.ns1.ns1." LOCAL, DNS_AAAA, EMPTY},
		{"productpage.ns1.svc.ns1." LOCAL, DNS_A,
		 ALIAS("productpage.ns1.svc.ns1." LOCAL, "productpage.ns1.svc", "9.9.9.9")},
		{"PRODUCTPAGE.Ns1", DNS_A, IS("PRODUCTPAGE.Ns1", "9.9.9.9")},
		{"one.sub.ns1.svc", DNS_A, IS("one.sub.ns1.svc", "9.9.9.8")},
		{"one.sub.ns1", DNS_A, IS("one.sub.ns1", "9.9.9.8")},
		{"example.ns2", DNS_A, IS("example.ns2", "10.10.10.10")},
		{"example.ns2.svc", DNS_A, IS("example.ns2.svc", "10.10.10.10")},
		{"example.ns2." LOCAL, DNS_A, IS("example.ns2." LOCAL, "10.10.10.10")},
		{"example", DNS_A, "forward"},
		{"example.ns2.svc.cluster", DNS_A, "forward"},
		/* visibility */
		{"private.ns2." LOCAL, DNS_A, "forward"},
		{"private.ns1." LOCAL, DNS_A, IS("private.ns1." LOCAL, "10.10.10.12")},
		{"private", DNS_A, IS("private", "10.10.10.12")},
		/* another cluster's domain */
		{"details.ns2", DNS_A, "forward"},
		/* families */
		{"dual.localhost", DNS_A, IS("dual.localhost", "127.0.0.9")},
		{"dual.localhost", DNS_AAAA, IS("dual.localhost", "::9")},
		{"ipv6.localhost", DNS_AAAA, IS("ipv6.localhost", "::6")},
		{"ipv6.localhost", DNS_A, EMPTY},
		{"ipv4.localhost", DNS_A, IS("ipv4.localhost", "127.0.0.4")},
		{"ipv4.localhost", DNS_AAAA, EMPTY},
		/* wildcards, most specific first; never a CNAME */
		{"foo.wildcard", DNS_A, IS("foo.wildcard", "2.2.2.1")},
		{"a.b.wildcard", DNS_A, IS("a.b.wildcard", "2.2.2.2")},
		{"a.c.wildcard", DNS_A, IS("a.c.wildcard", "2.2.2.1")},
		{"wildcard", DNS_A, "forward"},
		{"foo.svc.mesh.company.net", DNS_A, IS("foo.svc.mesh.company.net", "2.2.2.3")},
		{"foo.foons.svc.mesh.company.net", DNS_A,
		 IS("foo.foons.svc.mesh.company.net", "2.2.2.4")},
		{"foo.svc.mesh.company.net.ns1." LOCAL, DNS_A,
		 IS("foo.svc.mesh.company.net.ns1." LOCAL, "2.2.2.3")},
		/* 11.4: networks */
		{"nw2", DNS_A, EMPTY},
		{"both", DNS_A, IS("both", "3.3.3.5")},
		/* headless */
		{"headless6", DNS_AAAA, IS("headless6", "fd00::66")},
		{"headless6", DNS_A, EMPTY},
		{"headless", DNS_AAAA, IS("headless", "fd00::30")},
		{"empty", DNS_A, EMPTY},
		{"far", DNS_A, IS("far", "40.40.40.40")},	/* every network */
		{"pod0.headless.ns1." LOCAL, DNS_A, "forward"}, /* StatefulSet pods: the real DNS */
		{"headless.example", DNS_A, "forward"}, /* a ServiceEntry without addresses */
		{"cidr.example", DNS_A, "forward"},	/* CIDR addresses answer for no name */
		/* which of several: own namespace > canonical (last) > preferred > first */
		{"preferred.io", DNS_A, IS("preferred.io", "5.0.0.2")},
		{"everywhere.io", DNS_A, IS("everywhere.io", "6.0.0.2")},
		{"canonical.svc", DNS_A, IS("canonical.svc", "7.0.0.3")},
		{"canonical.with.local", DNS_A, IS("canonical.with.local", "8.0.0.2")},
		{"first.io", DNS_A, IS("first.io", "8.1.0.1")},
		/* letters */
		{"upper.example.com", DNS_A, IS("upper.example.com", "4.4.4.4")},
		{"UPPER.EXAMPLE.COM", DNS_A, IS("UPPER.EXAMPLE.COM", "4.4.4.4")},
		{"", DNS_A, "forward"},
	};
	_cleanup_strbuf_ struct strbuf out = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		print_message("row: %s %s\n", rows[i].name, dns_type_text(rows[i].type));
		assert_string_equal(ask(&settings, rows[i].name, rows[i].type, &out), rows[i].want);
	}
}

static void dns_answer__several_addresses(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	const char *a = ask(&settings, "details.ns2.svc.cluster.remote", DNS_A, &out);

	(void)state;
	for (int i = 1; i <= 4; i++) {
		char want[64];

		(void)snprintf(want, sizeof(want), "cluster.remote. 30 11.0.0.%d", i);
		assert_non_null(strstr(a, want));
	}
	a = ask(&settings, "headless", DNS_A, &out); /* the healthy ones */
	assert_non_null(strstr(a, "30.30.30.30"));
	assert_non_null(strstr(a, "30.30.30.31"));
	assert_null(strstr(a, "30.30.30.99"));
}

static void dns_answer__settings(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct dns_settings s = settings;

	(void)state;
	s.ipv6 = false;
	assert_string_equal(ask(&s, "dual.localhost", DNS_AAAA, &out), EMPTY);
	assert_string_equal(ask(&s, "dual.localhost", DNS_A, &out),
			    IS("dual.localhost", "127.0.0.9"));
	s = settings;
	s.prefered_ns = STR("");
	assert_string_equal(ask(&s, "preferred.io", DNS_A, &out), IS("preferred.io", "5.0.0.1"));
	s.cluster_domain = STR("cluster.remote");
	assert_non_null(strstr(ask(&s, "details.ns2", DNS_A, &out), "11.0.0.1"));
	assert_string_equal(ask(&s, "headless.ns1.svc.cluster.local", DNS_A, &out), "forward");
}

/* 11.4: shuffled, and with more than there is room for every one has its chance. */
static void dns_answer__order_and_choice(void **state)
{
	const struct workload *client = mesh_workload_by_uid(mesh, STR("client"));
	unsigned int first[5] = {0}, chosen[5] = {0};
	struct ip_addr addrs[4];
	struct dns_query q;
	uint8_t buf[512];
	size_t n = query_bytes(buf, 1, RD, "details.ns2.svc.cluster.remote", DNS_A, 0);

	(void)state;
	assert_int_equal(dns_parse(buf, n, &q), DNS_KIND_QUERY);
	for (uint64_t seed = 0; seed < 400; seed++) {
		struct dns_answer a = dns_answer(&settings, mesh, client, &q, addrs, 4, seed);
		unsigned int seen = 0;

		assert_int_equal(a.naddrs, 4);
		for (int i = 0; i < 4; i++)
			seen |= 1u << addrs[i].b[3];
		assert_int_equal(seen, 0x1e); /* each once */
		first[addrs[0].b[3]]++;
		a = dns_answer(&settings, mesh, client, &q, addrs, 2, seed);
		assert_int_equal(a.naddrs, 2);
		assert_false(ip_eq(&addrs[0], &addrs[1]));
		chosen[addrs[0].b[3]]++;
		chosen[addrs[1].b[3]]++;
	}
	for (int i = 1; i <= 4; i++) {
		assert_true(first[i] > 60 && first[i] < 140);
		assert_true(chosen[i] > 140 && chosen[i] < 260);
	}
}

/* What a pod asks cannot make the list of names longer than it may be. */
static void dns_answer__longest_names(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	char name[256] = "";
	size_t n = 0;

	(void)state;
	while (n + 2 + sizeof("ns1." LOCAL) < 253) {
		memcpy(name + n, "a.", 3);
		n += 2;
	}
	memcpy(name + n, "ns1." LOCAL, sizeof("ns1." LOCAL));
	assert_string_equal(ask(&settings, name, DNS_A, &out), "forward");
	memset(name, 'a', 63);
	name[63] = '\0';
	assert_string_equal(ask(&settings, name, DNS_A, &out), "forward");
}

static int set_up(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	(void)state;
	strbuf_puts(&b, "workloads:\n");
	for (size_t i = 0; i < ARRAY_LEN(workloads); i++)
		strbuf_printf(&b,
			      "  - {%s uid: %s, name: %s, namespace: ns1, %s workloadIps: [%s], "
			      "services: {%s%s}}\n",
			      workloads[i].rest, workloads[i].name, workloads[i].name,
			      strstr(workloads[i].rest, "network") != NULL ? "" : "network: nw1,",
			      workloads[i].ips, workloads[i].service,
			      workloads[i].service[0] != '\0' ? ": {80: 80}" : "");
	strbuf_puts(&b, "services:\n");
	for (size_t i = 0; i < ARRAY_LEN(services); i++)
		strbuf_printf(&b,
			      "  - {%s name: s%zu, namespace: %s, hostname: '%s', vips: [%s], "
			      "ports: {80: 80}}\n",
			      services[i].rest, i, services[i].ns, services[i].hostname,
			      services[i].vips);
	mesh = mesh_from(b.p);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	mesh_unref(mesh);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dns_answer__rows),
		cmocka_unit_test(dns_answer__several_addresses),
		cmocka_unit_test(dns_answer__settings),
		cmocka_unit_test(dns_answer__order_and_choice),
		cmocka_unit_test(dns_answer__longest_names),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
