/* SPDX-License-Identifier: Apache-2.0
 * test_dns_msg.c: reading and writing DNS messages (RFC 1035, RFC 6891; ztunnel-spec 11.1, 11.4),
 * and resolv.conf.
 */
#include "tests/unit/dns_helper.h"
#include "ztunnel/dns/resolv_conf.h"

#define HEAD(flags, qd, an, ns, ar) "\x12\x34" flags "\0" qd "\0" an "\0" ns "\0" ar
#define QUESTION		    "\3www\2ab\0\0\1\0\1"
#define OPT			    "\0\0\x29\x10\0\0\0\0\0\0\0"
#define ROW(s)			    s, sizeof(s) - 1

static void dns_parse__rows(void **state)
{
	static const struct {
		const char *title, *bytes;
		size_t n;
		enum dns_kind want;
	} rows[] = {
		{"a query", ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") QUESTION), DNS_KIND_QUERY},
		{"with EDNS", ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION OPT),
		 DNS_KIND_QUERY},
		{"nothing", ROW(""), DNS_KIND_NONE},
		{"half a header", ROW("\x12\x34\1\0\0\1\0\0\0\0\0"), DNS_KIND_NONE},
		{"a response", ROW(HEAD("\x81\0", "\1", "\0", "\0", "\0") QUESTION),
		 DNS_KIND_RESPONSE},
		{"an update", ROW(HEAD("\x28\0", "\1", "\0", "\0", "\0") QUESTION),
		 DNS_KIND_NOTIMP},
		{"no question", ROW(HEAD("\1\0", "\0", "\0", "\0", "\0")), DNS_KIND_BROKEN},
		{"two questions", ROW(HEAD("\1\0", "\2", "\0", "\0", "\0") QUESTION QUESTION),
		 DNS_KIND_BROKEN},
		{"question cut", ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3www\2ab\0\0\1\0"),
		 DNS_KIND_BROKEN},
		{"label cut", ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3ww"), DNS_KIND_BROKEN},
		{"a pointer in the question",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3www\xc0\0\0\1\0\1"), DNS_KIND_BROKEN},
		{"label type 0x40", ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") "\x41www\0\0\1\0\1"),
		 DNS_KIND_BROKEN},
		{"two OPT", ROW(HEAD("\1\0", "\1", "\0", "\0", "\2") QUESTION OPT OPT),
		 DNS_KIND_BROKEN},
		{"OPT as answer", ROW(HEAD("\1\0", "\1", "\1", "\0", "\0") QUESTION OPT),
		 DNS_KIND_BROKEN},
		{"OPT of another name",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\1a\0\0\x29\x10\0\0\0\0\0\0\0"),
		 DNS_KIND_BROKEN},
		{"OPT cut",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\0\0\x29\x10\0\0\0\0"),
		 DNS_KIND_BROKEN},
		{"record longer than the message",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\0\0\1\0\1\0\0\0\0\0\1"),
		 DNS_KIND_BROKEN},
		{"record by a pointer",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\xc0\x0c\0\1\0\1\0\0\0\0\0\0"),
		 DNS_KIND_QUERY},
		{"pointer to itself",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\xc0\x18\0\1\0\1\0\0\0\0\0\0"),
		 DNS_KIND_BROKEN},
		{"pointer forwards",
		 ROW(HEAD("\1\0", "\1", "\0", "\0", "\1") QUESTION "\xc0\x20\0\1\0\1\0\0\0\0\0\0"),
		 DNS_KIND_BROKEN},
		{"records promised, none there",
		 ROW(HEAD("\1\0", "\1", "\xff", "\xff", "\xff") QUESTION), DNS_KIND_BROKEN},
		{"something behind it", ROW(HEAD("\1\0", "\1", "\0", "\0", "\0") QUESTION "junk"),
		 DNS_KIND_QUERY},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct dns_query q = {0};

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_parse((const uint8_t *)rows[i].bytes, rows[i].n, &q),
				 rows[i].want);
		if (rows[i].want != DNS_KIND_NONE)
			assert_int_equal(q.id, 0x1234);
	}
}

static void dns_parse__fields(void **state)
{
	uint8_t buf[512];
	struct dns_query q;
	size_t n = query_bytes(buf, 7, RD, "Www.Ab", DNS_AAAA, 1232);
	char text[DNS_TEXT_MAX];

	(void)state;
	memcpy(buf + n, "junk", 4);
	assert_int_equal(dns_parse(buf, n + 4, &q), DNS_KIND_QUERY);
	assert_int_equal(q.end, n); /* what means nothing is not forwarded */
	assert_true(q.rd && q.edns && q.dnssec_ok && q.question);
	assert_int_equal(q.type, DNS_AAAA);
	assert_int_equal(q.payload, 1232);
	assert_int_equal(q.name.n, 8);
	assert_true(dns_name_text(&q.name, text));
	assert_string_equal(text, "www.ab");
	n = query_bytes(buf, 7, RD, "a", DNS_A, 100);
	assert_int_equal(dns_parse(buf, n, &q), DNS_KIND_QUERY);
	assert_int_equal(q.payload, DNS_UDP_BYTES); /* ztunnel-spec 11.4: max(512, client's) */
}

static void dns_parse__longest_name(void **state)
{
	uint8_t buf[600];
	struct dns_query q;
	char text[DNS_TEXT_MAX];
	size_t at = DNS_HEADER_BYTES;

	(void)state;
	(void)query_bytes(buf, 1, 0, "", DNS_A, 0);
	for (int i = 0; i < 4; i++) { /* 3 x 64 + 62 + 1 = 255 */
		size_t label = i < 3 ? 63 : 61;

		buf[at] = (uint8_t)label;
		memset(buf + at + 1, 'a', label);
		at += 1 + label;
	}
	memcpy(buf + at, "\0\0\1\0\1", 5);
	assert_int_equal(dns_parse(buf, at + 5, &q), DNS_KIND_QUERY);
	assert_int_equal(q.name.n, 255);
	assert_true(dns_name_text(&q.name, text));
	assert_int_equal(strlen(text), 253);
	buf[at - 62] = 62; /* one more */
	memcpy(buf + at, "a\0\0\1\0\1", 6);
	assert_int_equal(dns_parse(buf, at + 6, &q), DNS_KIND_BROKEN);
}

static void dns_name_text__no_host(void **state)
{
	static const struct {
		const char *title;
		struct dns_name name;
	} rows[] = {
		{"root", {1, {0}}},
		{"a dot in a label", {5, {3, 'a', '.', 'b', 0}}},
		{"a blank", {5, {3, 'a', ' ', 'b', 0}}},
		{"NUL", {5, {3, 'a', 0, 'b', 0}}},
		{"not ASCII", {5, {3, 'a', 0xc3, 'b', 0}}},
	};
	char text[DNS_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		print_message("row: %s\n", rows[i].title);
		assert_false(dns_name_text(&rows[i].name, text));
	}
}

/* ztunnel-spec 11.4: flags, TTL, EDNS, one CNAME, truncation. */
static void dns_reply_write__rows(void **state)
{
	struct ip_addr a = {4, {1, 2, 3, 4}};
	struct {
		const char *title, *name;
		unsigned int flags;
		uint16_t type, payload;
		struct dns_reply r;
		const char *want;
	} rows[] = {
		{"an address",
		 "www.ab",
		 RD,
		 DNS_A,
		 0,
		 {.authoritative = true, .addrs = &a, .naddrs = 1, .ttl = 30},
		 "0 aa rd ra | www.ab. 30 1.2.3.4"},
		{"RD is copied",
		 "www.ab",
		 0,
		 DNS_A,
		 0,
		 {.authoritative = true, .addrs = &a, .naddrs = 1, .ttl = 30},
		 "0 aa ra | www.ab. 30 1.2.3.4"},
		{"EDNS is echoed",
		 "www.ab",
		 RD,
		 DNS_A,
		 4096,
		 {.authoritative = true, .addrs = &a, .naddrs = 1, .ttl = 30},
		 "0 aa rd ra | www.ab. 30 1.2.3.4 | OPT 4096 do"},
		{"an alias",
		 "WWW.ab.cd.ef",
		 RD,
		 DNS_A,
		 0,
		 {.authoritative = true, .alias_labels = 2, .addrs = &a, .naddrs = 1, .ttl = 30},
		 "0 aa rd ra | WWW.ab.cd.ef. 30 CNAME WWW.ab. | WWW.ab. 30 1.2.3.4"},
		{"nothing", "www.ab", RD, DNS_AAAA, 0, {.authoritative = true}, "0 aa rd ra"},
		{"an error", "www.ab", RD, DNS_A, 0, {.rcode = DNS_SERVFAIL}, "2 rd ra"},
		{"another EDNS version",
		 "www.ab",
		 RD,
		 DNS_A,
		 1232,
		 {.rcode = DNS_BADVERS},
		 "0 rd ra | OPT 1232 do badvers"},
	};
	_cleanup_strbuf_ struct strbuf out = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t buf[512], to[512];
		size_t n = query_bytes(buf, 0xabcd, rows[i].flags, rows[i].name, rows[i].type,
				       rows[i].payload);
		struct dns_query q;

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_parse(buf, n, &q), DNS_KIND_QUERY);
		n = dns_reply_write(&q, &rows[i].r, to, sizeof(to));
		assert_string_equal(show_answer(to, n, &out), rows[i].want);
		assert_memory_equal(to, "\xab\xcd", 2);
	}
}

/* ztunnel-spec 15.3: 256 addresses: TCP all; UDP with EDNS: TC and 74. */
static void dns_reply_write__truncation(void **state)
{
	static const struct {
		const char *title;
		uint16_t payload;
		size_t max, want;
		bool cut;
	} rows[] = {
		{"UDP without EDNS", 0, 512, 29, true},
		{"UDP with EDNS 1232", 1232, 1232, 74, true},
		{"TCP", 0, DNS_MESSAGE_MAX, 256, false},
	};
	static uint8_t to[DNS_MESSAGE_MAX];
	static struct ip_addr a[256];

	(void)state;
	for (size_t i = 0; i < 256; i++)
		a[i] = (struct ip_addr){4, {10, 0, 0, (uint8_t)i}};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t buf[512];
		size_t n = query_bytes(buf, 1, RD, "large.ns1.example", DNS_A, rows[i].payload);
		struct dns_reply r = {.addrs = a, .naddrs = 256, .ttl = 30};
		struct dns_query q;

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_parse(buf, n, &q), DNS_KIND_QUERY);
		n = dns_reply_write(&q, &r, to, rows[i].max);
		assert_true(n <= rows[i].max);
		assert_int_equal((to[2] & 2) != 0, rows[i].cut);
		assert_int_equal(to[6] << 8 | to[7], rows[i].want);
	}
}

static void dns_is_answer__rows(void **state)
{
	uint8_t ask[512];
	struct dns_query q;
	static const struct {
		const char *title;
		uint16_t id;
		unsigned int flags;
		const char *name;
		uint16_t type;
		bool want;
	} rows[] = {
		{"the answer", 9, 0x8180, "www.ab", DNS_A, true},
		{"other letters", 9, 0x8180, "WWW.aB", DNS_A, true},
		{"NXDOMAIN", 9, 0x8183, "www.ab", DNS_A, true},
		{"another id", 8, 0x8180, "www.ab", DNS_A, false},
		{"a query", 9, 0x0100, "www.ab", DNS_A, false},
		{"another name", 9, 0x8180, "www.ac", DNS_A, false},
		{"a longer name", 9, 0x8180, "www.ab.c", DNS_A, false},
		{"another type", 9, 0x8180, "www.ab", DNS_AAAA, false},
		{"another operation", 9, 0xa980, "www.ab", DNS_A, false},
	};

	(void)state;
	assert_int_equal(dns_parse(ask, query_bytes(ask, 1, RD, "www.ab", DNS_A, 0), &q),
			 DNS_KIND_QUERY);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t buf[512];
		size_t n =
			query_bytes(buf, rows[i].id, rows[i].flags, rows[i].name, rows[i].type, 0);

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_is_answer(buf, n, &q, 9), rows[i].want);
		assert_false(dns_is_answer(buf, n - 1, &q, 9));
	}
	/* without a question only an error is believed */
	assert_true(dns_is_answer((const uint8_t *)"\0\x09\x81\x81\0\0\0\0\0\0\0\0", 12, &q, 9));
	assert_false(dns_is_answer((const uint8_t *)"\0\x09\x81\x80\0\0\0\0\0\0\0\0", 12, &q, 9));
	assert_false(dns_is_answer((const uint8_t *)"\0\x09\x81\x83\0\0\0\0\0\0\0\0", 12, &q, 9));
}

static void dns_forwarded__rows(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	uint8_t ask[512], buf[2048] = {0};
	struct dns_query q;
	size_t n;

	(void)state;
	assert_int_equal(dns_parse(ask, query_bytes(ask, 0x4321, RD, "www.ab", DNS_A, 0), &q),
			 DNS_KIND_QUERY);
	/* authoritative, no recursion: NXDOMAIN */
	n = query_bytes(buf, 9, 0x8503, "www.ab", DNS_A, 0);
	n = dns_forwarded(buf, n, &q, 512);
	assert_string_equal(show_answer(buf, n, &out), "3 rd ra");
	assert_memory_equal(buf, "\x43\x21", 2);
	/* more than the client takes */
	(void)query_bytes(buf, 9, 0x8580, "www.ab", DNS_A, 0);
	n = dns_forwarded(buf, 600, &q, 512);
	assert_string_equal(show_answer(buf, n, &out), "0 tc rd ra");
	assert_int_equal(n, DNS_HEADER_BYTES + 8 + 4);
}

static void resolv_conf_parse__rows(void **state)
{
	static const struct {
		const char *title, *text, *servers;
		uint64_t timeout_ms;
		unsigned int attempts;
	} rows[] = {
		{"empty", "", "", 5000, 2},
		{"one", "nameserver 10.96.0.10\n", "10.96.0.10:53 ", 5000, 2},
		{"no end of line", "nameserver 10.96.0.10", "10.96.0.10:53 ", 5000, 2},
		{"comments, search, blanks",
		 "# nameserver 1.1.1.1\n;x\nsearch a b\n  nameserver\t 1.2.3.4  \nnameserver ::1\n",
		 "1.2.3.4:53 [::1]:53 ", 5000, 2},
		{"options", "options ndots:5 timeout:1 attempts:3\nnameserver 1.1.1.1\n",
		 "1.1.1.1:53 ", 1000, 3},
		{"bounds", "options timeout:300 attempts:99", "", 30000, 5},
		{"nonsense",
		 "options timeout:0 attempts:x rotate\nnameserver nowhere\nnameserver\n", "", 5000,
		 2},
		{"nine",
		 "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\n"
		 "nameserver 1.0.0.4\nnameserver 1.0.0.5\nnameserver 1.0.0.6\n"
		 "nameserver 1.0.0.7\nnameserver 1.0.0.8\nnameserver 1.0.0.9\n",
		 "1.0.0.1:53 1.0.0.2:53 1.0.0.3:53 1.0.0.4:53 1.0.0.5:53 1.0.0.6:53 1.0.0.7:53 "
		 "1.0.0.8:53 ",
		 5000, 2},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		char text[IP_PORT_TEXT_MAX];
		struct resolv_conf c;

		print_message("row: %s\n", rows[i].title);
		resolv_conf_parse(str_of(rows[i].text), &c);
		strbuf_puts(&out, "");
		for (size_t k = 0; k < c.n; k++)
			strbuf_printf(&out, "%s ", ip_port_format(&c.servers[k], text));
		assert_string_equal(out.p, rows[i].servers);
		assert_int_equal(c.timeout_ms, rows[i].timeout_ms);
		assert_int_equal(c.attempts, rows[i].attempts);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dns_parse__rows),
		cmocka_unit_test(dns_parse__fields),
		cmocka_unit_test(dns_parse__longest_name),
		cmocka_unit_test(dns_name_text__no_host),
		cmocka_unit_test(dns_reply_write__rows),
		cmocka_unit_test(dns_reply_write__truncation),
		cmocka_unit_test(dns_is_answer__rows),
		cmocka_unit_test(dns_forwarded__rows),
		cmocka_unit_test(resolv_conf_parse__rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
