/* SPDX-License-Identifier: Apache-2.0
 * test_dns_addresses.c: addresses out of hosts files and answers, and how long they hold.
 */
#include "dns_helper.h"

#include "lib/base/mem.h"
#include "ztunnel/dns/addresses.h"

#define ROW(bytes) bytes, sizeof(bytes) - 1

static const char *show(const struct ip_addr *a, size_t n, struct strbuf *out)
{
	char text[IP_TEXT_MAX];

	out->n = 0;
	strbuf_puts(out, "");
	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "%s ", ip_format(&a[i], text));
	return out->p;
}

static void hosts_addresses__rows(void **state)
{
	static const struct {
		const char *title, *text, *host, *want;
	} rows[] = {
		{"nothing", "", "a.b", ""},
		{"one", "10.0.0.1 a.b\n", "a.b", "10.0.0.1 "},
		{"no end of line", "10.0.0.1 a.b", "a.b", "10.0.0.1 "},
		{"an alias, tabs", "10.0.0.1\t x  a.b \t y\r\n", "a.b", "10.0.0.1 "},
		{"both families, in order", "::1 a.b\n10.0.0.1 a.b\n", "a.b", "::1 10.0.0.1 "},
		{"letters and a dot", "10.0.0.1 A.b.\n", "a.B.", "10.0.0.1 "},
		{"a comment", "# 10.0.0.1 a.b\n10.0.0.2 x # a.b\n10.0.0.3 a.b#c\n", "a.b",
		 "10.0.0.3 "},
		{"part of a name", "10.0.0.1 aa.b a.bb\n", "a.b", ""},
		{"no address", "nowhere a.b\n10.0.0.300 a.b\n", "a.b", ""},
		{"the address is no name", "10.0.0.1\n", "10.0.0.1", ""},
		{"no more than there is room", "1.0.0.1 a\n1.0.0.2 a\n1.0.0.3 a\n", "a",
		 "1.0.0.1 1.0.0.2 "},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		struct ip_addr a[2];
		size_t n;

		print_message("row: %s\n", rows[i].title);
		n = hosts_addresses(str_of(rows[i].text), str_of(rows[i].host), a, 2);
		assert_string_equal(show(a, n, &out), rows[i].want);
	}
}

static void dns_addresses__rows(void **state)
{
	static const struct {
		const char *title;
		uint8_t counts[2]; /* answers, additional */
		const char *records;
		size_t n;
		uint16_t type;
		const char *want;
		uint32_t ttl;
	} rows[] = {
		{"one", {1}, ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4"), DNS_A, "1.2.3.4 ", 10},
		{"the shortest lifetime",
		 {2},
		 ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4\xc0\x0c\0\1\0\1\0\0\0\x09\0\4\1\2\3"
		     "\5"),
		 DNS_A,
		 "1.2.3.4 1.2.3.5 ",
		 9},
		{"by an alias",
		 {2},
		 ROW("\xc0\x0c\0\5\0\1\0\0\0\2\0\3\1x\0\1x\0\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4"),
		 DNS_A,
		 "1.2.3.4 ",
		 2},
		{"at most",
		 {1},
		 ROW("\xc0\x0c\0\1\0\1\0\1\0\0\0\4\1\2\3\4"),
		 DNS_A,
		 "1.2.3.4 ",
		 ADDRESSES_TTL_MAX_S},
		{"a negative lifetime is none",
		 {1},
		 ROW("\xc0\x0c\0\1\0\1\x80\0\0\1\0\4\1\2\3\4"),
		 DNS_A,
		 "1.2.3.4 ",
		 0},
		{"another type",
		 {1},
		 ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4"),
		 DNS_AAAA,
		 "",
		 7},
		{"another class", {1}, ROW("\xc0\x0c\0\1\0\3\0\0\0\x0a\0\4\1\2\3\4"), DNS_A, "", 7},
		{"another length", {1}, ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\3\1\2\3"), DNS_A, "", 7},
		{"beside the answer",
		 {0, 1},
		 ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4"),
		 DNS_A,
		 "",
		 7},
		{"broken behind it",
		 {2},
		 ROW("\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\1\2\3\4\xc0"),
		 DNS_A,
		 "",
		 7},
		{"none", {0}, ROW(""), DNS_A, "", 7},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		uint8_t buf[512];
		uint32_t ttl = 7;
		struct ip_addr a[2];
		size_t n = query_bytes(buf, 1, 0x8180, "www.ab", rows[i].type, 0);

		print_message("row: %s\n", rows[i].title);
		buf[7] = rows[i].counts[0];
		buf[11] = rows[i].counts[1];
		memcpy(buf + n, rows[i].records, rows[i].n);
		n = dns_addresses(buf, n + rows[i].n, rows[i].type, a, 2, &ttl);
		assert_string_equal(show(a, n, &out), rows[i].want);
		assert_int_equal(ttl, rows[i].ttl);
	}
}

/* From found at 1,000 ms for 10 s, or from nothing: what a look-up that ends at @at changes. */
static void known_update__rows(void **state)
{
	static const struct {
		const char *title;
		bool found_before;
		uint64_t at;
		enum looked_up what;
		uint32_t ttl;
		bool taken;
		uint64_t fresh_ms, usable_ms; /* after @at */
	} rows[] = {
		{"found", false, 5000, LOOKED_UP_FOUND, 60, true, 60000, 60000},
		{"found, TTL 0", false, 5000, LOOKED_UP_FOUND, 0, true, 1000, 1000},
		{"found, for a day", false, 5000, LOOKED_UP_FOUND, 86400, true, 300000, 300000},
		{"none", false, 5000, LOOKED_UP_NONE, 0, true, 5000, 5000},
		{"failed", false, 5000, LOOKED_UP_FAILED, 0, true, 1000, 1000},
		{"found again", true, 12000, LOOKED_UP_FOUND, 3, true, 3000, 3000},
		{"gone", true, 12000, LOOKED_UP_NONE, 0, true, 5000, 5000},
		{"nobody can tell", true, 12000, LOOKED_UP_FAILED, 0, false, 5000, 299000},
		{"for too long", true, 311000, LOOKED_UP_FAILED, 0, true, 1000, 1000},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct known k = {0};
		bool again;

		print_message("row: %s\n", rows[i].title);
		assert_false(known_usable(&k, 1000, &again));
		assert_true(again);
		if (rows[i].found_before)
			assert_true(known_update(&k, LOOKED_UP_FOUND, 10, false, 1000));
		assert_int_equal(known_update(&k, rows[i].what, rows[i].ttl, rows[i].found_before,
					      rows[i].at),
				 rows[i].taken);
		assert_true(known_usable(&k, rows[i].at + rows[i].fresh_ms - 1, &again) && !again);
		assert_int_equal(known_usable(&k, rows[i].at + rows[i].fresh_ms, &again),
				 rows[i].usable_ms > rows[i].fresh_ms);
		assert_true(again);
		assert_true(known_usable(&k, rows[i].at + rows[i].usable_ms - 1, &again));
		assert_false(known_usable(&k, rows[i].at + rows[i].usable_ms, &again));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hosts_addresses__rows),
		cmocka_unit_test(dns_addresses__rows),
		cmocka_unit_test(known_update__rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
