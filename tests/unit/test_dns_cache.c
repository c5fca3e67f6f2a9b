/* SPDX-License-Identifier: Apache-2.0
 * test_dns_cache.c: which answers are kept, for whom and for how long.
 */
#include "dns_helper.h"

#include <stdlib.h>

#include "ztunnel/dns/cache.h"

#define ROW(bytes) bytes, sizeof(bytes) - 1
/* Records behind a question for www.ab: owner, type, class, TTL, data. */
#define A_DATA(ttl, last) "\0\1\0\1" ttl "\0\4\1\2\3" last
#define A(ttl, last)	  "\xc0\x0c" A_DATA(ttl, last)
#define OF_AB(record)	  "\xc0\x10" record
#define CHAOS(ttl, last)  "\xc0\x0c\0\1\0\3" ttl "\0\4\1\2\3" last
#define CNAME(ttl)	  "\xc0\x0c\0\5\0\1" ttl "\0\4\1x\xc0\x10"
#define NS(ttl)		  "\xc0\x10\0\2\0\1" ttl "\0\2\xc0\x10"
#define SOA(ttl, minimum)                                                                          \
	"\xc0\x10\0\6\0\1" ttl "\0\x16\0\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4" minimum
#define OPT(high, flags) "\0\0\x29\x10\0" high "\0" flags "\0\0\0"
#define OPT_WITH_OPTION	 "\0\0\x29\x10\0\0\0\0\0\0\4\0\x0a\0\0"
#define TSIG		 "\0\0\xfa\0\xff\0\0\0\0\0\0"
#define SIG0		 "\0\0\x18\0\xff\0\0\0\0\0\0"
#define S10		 "\0\0\0\x0a"
#define S60		 "\0\0\0\x3c"
#define DAY		 "\0\1\x51\x80"
#define NEGATIVE_TTL	 "\x80\0\0\1"

static struct dns_query query(const char *name, uint16_t type, unsigned int flags, uint16_t payload)
{
	uint8_t buf[512];
	struct dns_query q;

	assert_int_equal(dns_parse(buf, query_bytes(buf, 7, flags, name, type, payload), &q),
			 DNS_KIND_QUERY);
	return q;
}

/* An answer to @q: records, counted by section. */
static size_t answer_bytes(uint8_t *p, const char *name, uint16_t type, unsigned int flags,
			   const uint8_t counts[3], const void *records, size_t n)
{
	size_t at = query_bytes(p, 9, 0x8180 | flags, name, type, 0);

	p[7] = counts[0];
	p[9] = counts[1];
	p[11] = counts[2];
	memcpy(p + at, records, n);
	return at + n;
}

static void dns_answer_lifetime__rows(void **state)
{
	static const struct {
		const char *title;
		unsigned int flags;
		uint8_t counts[3];
		const char *records;
		size_t n;
		uint32_t want;
	} rows[] = {
		{"an address", 0, {1}, ROW(A(S60, "\4")), 60},
		{"the shortest of all", 0, {2}, ROW(A(S60, "\4") A(S10, "\5")), 10},
		{"by an alias", 0, {2}, ROW(CNAME(S10) A(S60, "\4")), 10},
		{"of other sections too", 0, {1, 1}, ROW(A(S60, "\4") NS(S10)), 10},
		{"at most an hour", 0, {1}, ROW(A(DAY, "\4")), DNS_CACHE_MAX_S},
		{"TTL 0", 0, {1}, ROW(A("\0\0\0\0", "\4")), 0},
		{"a negative TTL", 0, {1}, ROW(A(NEGATIVE_TTL, "\4")), 0},
		{"EDNS", 0, {1, 0, 1}, ROW(A(S60, "\4") OPT("\0", "\x80")), 60},
		{"an option of EDNS", 0, {1, 0, 1}, ROW(A(S60, "\4") OPT_WITH_OPTION), 0},
		{"an extended error", 0, {1, 0, 1}, ROW(A(S60, "\4") OPT("\1", "\0")), 0},
		{"a transaction's signature", 0, {1, 0, 1}, ROW(A(S60, "\4") TSIG), 0},
		{"SIG(0)", 0, {1, 0, 1}, ROW(A(S60, "\4") SIG0), 0},
		{"truncated", 0x200, {1}, ROW(A(S60, "\4")), 0},
		{"SERVFAIL", 2, {0}, ROW(""), 0},
		{"REFUSED", 5, {0, 1}, ROW(SOA(S60, S60)), 0},
		{"NXDOMAIN", 3, {0, 1}, ROW(SOA(S60, S10)), 10},
		{"NXDOMAIN, the SOA's own lifetime", 3, {0, 1}, ROW(SOA(S10, S60)), 10},
		{"NXDOMAIN, at most", 3, {0, 1}, ROW(SOA(DAY, DAY)), DNS_CACHE_NEGATIVE_MAX_S},
		{"NXDOMAIN without SOA", 3, {0}, ROW(""), 0},
		{"NXDOMAIN, SOA in the wrong place", 3, {1}, ROW(SOA(S60, S60)), 0},
		{"NXDOMAIN behind an alias", 3, {1, 1}, ROW(CNAME(S10) SOA(S60, S60)), 10},
		{"NXDOMAIN with an address", 3, {1}, ROW(A(S60, "\4")), 0},
		{"no data", 0, {0, 1}, ROW(SOA(S60, S10)), 10},
		{"no data behind an alias", 0, {1, 1}, ROW(CNAME(S60) SOA(S60, S10)), 10},
		{"no data, no SOA", 0, {0}, ROW(""), 0},
		{"an alias that leads nowhere", 0, {1}, ROW(CNAME(S60)), 0},
		{"a referral", 0, {0, 1}, ROW(NS(S60)), 0},
		{"the address only beside it", 0, {0, 0, 1}, ROW(A(S60, "\4")), 0},
		{"SOA cut", 3, {0, 1}, ROW("\xc0\x10\0\6\0\1" S60 "\0\4\0\0\0\1"), 0},
		{"a record too few", 0, {2}, ROW(A(S60, "\4")), 0},
		{"something behind it", 0, {1}, ROW(A(S60, "\4") "x"), 0},
		{"a record cut", 0, {1}, ROW("\xc0\x0c\0\1\0\1" S60 "\0\4\1\2\3"), 0},
	};
	struct dns_query q = query("www.ab", DNS_A, RD, 0);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t buf[1024];
		size_t n = answer_bytes(buf, "www.ab", DNS_A, rows[i].flags, rows[i].counts,
					rows[i].records, rows[i].n);

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_answer_lifetime(&q, buf, n), rows[i].want);
	}
}

/* Which questions are answered with the answer to www.ab, A, RD. */
static void dns_question_same__rows(void **state)
{
	static const struct {
		const char *title, *name;
		uint16_t type, payload;
		unsigned int flags;
		bool want;
	} rows[] = {
		{"itself", "www.ab", DNS_A, 0, RD, true},
		{"other letters", "WwW.aB", DNS_A, 0, RD, true},
		{"another name", "www.ac", DNS_A, 0, RD, false},
		{"a longer one", "x.www.ab", DNS_A, 0, RD, false},
		{"another type", "www.ab", DNS_AAAA, 0, RD, false},
		{"CD", "www.ab", DNS_A, 0, RD | 0x10, false},
		{"AD", "www.ab", DNS_A, 0, RD | 0x20, false},
		{"EDNS with DO", "www.ab", DNS_A, 1232, RD, false},
	};
	struct dns_query a = query("www.ab", DNS_A, RD, 0);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct dns_query q =
			query(rows[i].name, rows[i].type, rows[i].flags, rows[i].payload);

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(dns_question_same(&a, &q), rows[i].want);
		assert_int_equal(dns_question_hash(&a) == dns_question_hash(&q), rows[i].want);
		assert_true(dns_question_shared(&q));
	}
	/* the room of a client does not matter: an answer is cut for each */
	a = query("www.ab", DNS_A, RD, 1232);
	assert_true(
		dns_question_same(&a, &(struct dns_query[]){query("www.ab", DNS_A, RD, 4096)}[0]));
}

static void dns_question_shared__rows(void **state)
{
	static const struct {
		const char *title;
		uint8_t flags[2], additional;
		const char *tail; /* behind the name */
		size_t n;
		bool want;
	} rows[] = {
		{"A", "\1\0", 0, ROW("\0\1\0\1"), true},
		{"MX", "\1\0", 0, ROW("\0\x0f\0\1"), true},
		{"CAA", "\1\0", 0, ROW("\1\1\0\1"), true},
		{"no recursion", "\0\0", 0, ROW("\0\1\0\1"), false},
		{"a flag that has no name", "\1\x40", 0, ROW("\0\1\0\1"), false},
		{"TC", "\3\0", 0, ROW("\0\1\0\1"), false},
		{"ANY", "\1\0", 0, ROW("\0\xff\0\1"), false},
		{"AXFR", "\1\0", 0, ROW("\0\xfc\0\1"), false},
		{"class CH", "\1\0", 0, ROW("\0\x10\0\3"), false},
		{"EDNS", "\1\0", 1, ROW("\0\1\0\1" OPT("\0", "\0")), true},
		{"EDNS with a client's subnet or a cookie", "\1\0", 1,
		 ROW("\0\1\0\1" OPT_WITH_OPTION), false},
		{"EDNS with a flag that has no name", "\1\0", 1, ROW("\0\1\0\1" OPT("\0", "\x40")),
		 false},
		{"TSIG", "\1\0", 1, ROW("\0\1\0\1" TSIG), false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t buf[512] = {0, 7, rows[i].flags[0], rows[i].flags[1], 0, 1};
		struct dns_query q;

		print_message("row: %s\n", rows[i].title);
		buf[11] = rows[i].additional;
		memcpy(buf + 12, "\3www\2ab", 8);
		memcpy(buf + 20, rows[i].tail, rows[i].n);
		assert_int_equal(dns_parse(buf, 20 + rows[i].n, &q), DNS_KIND_QUERY);
		assert_int_equal(dns_question_shared(&q), rows[i].want);
	}
}

/* Keeps an answer with two addresses, and shows what comes out. */
static void dns_cache_get__counts_down_and_takes_turns(void **state)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	_cleanup_strbuf_ struct strbuf text = {0};
	struct dns_query q = query("www.ab", DNS_A, RD, 0), other = query("WWW.AB", DNS_A, RD, 0);
	struct dns_cache_sum sum = {0};
	struct dns_cache c;
	uint8_t buf[512];
	size_t n = answer_bytes(buf, "www.ab", DNS_A, 0, (uint8_t[3]){2},
				ROW(A(S60, "\4") A(S10, "\5")));

	(void)state;
	dns_cache_init(&c, 4096, &sum);
	assert_int_equal(dns_cache_get(&c, &q, 5000, out, DNS_MESSAGE_MAX), 0);
	dns_cache_put(&c, &q, buf, n, 5000);
	assert_int_equal(sum.entries, 1);
	assert_int_equal(dns_cache_get(&c, &q, 5000, out, n - 1), 0); /* it does not fit */
	n = dns_cache_get(&c, &q, 5000, out, n);
	assert_string_equal(show_answer(out, n, &text),
			    "0 rd ra | www.ab. 60 1.2.3.4 | www.ab. 10 1.2.3.5");
	n = dns_cache_get(&c, &other, 8999, out,
			  DNS_MESSAGE_MAX); /* its letters are repeated: 0x20 */
	assert_string_equal(show_answer(out, n, &text),
			    "0 rd ra | WWW.AB. 57 1.2.3.5 | WWW.AB. 7 1.2.3.4");
	n = dns_cache_get(&c, &q, 14999, out, DNS_MESSAGE_MAX);
	assert_string_equal(show_answer(out, n, &text),
			    "0 rd ra | www.ab. 51 1.2.3.4 | www.ab. 1 1.2.3.5");
	assert_int_equal(dns_cache_get(&c, &q, 15000, out, DNS_MESSAGE_MAX), 0);
	assert_int_equal(sum.entries, 0);
	assert_int_equal(sum.bytes, 0);
	dns_cache_fini(&c);
}

/* What somebody put beside the answer stays under the name it came with. */
static void dns_cache_get__turns_of_one_owner(void **state)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	_cleanup_strbuf_ struct strbuf text = {0};
	struct dns_query q = query("www.ab", DNS_A, RD, 0);
	struct dns_cache_sum sum = {0};
	struct dns_cache c;
	uint8_t buf[512];
	size_t n = answer_bytes(
		buf, "www.ab", DNS_A, 0, (uint8_t[3]){4},
		ROW(A(S60, "\4") OF_AB(A_DATA(S60, "\5")) CHAOS(S60, "\6") A(S60, "\7")));

	(void)state;
	dns_cache_init(&c, 4096, &sum);
	dns_cache_put(&c, &q, buf, n, 5000);
	n = dns_cache_get(&c, &q, 5000, out, DNS_MESSAGE_MAX);
	assert_string_equal(show_answer(out, n, &text),
			    "0 rd ra | www.ab. 60 1.2.3.4 | ab. 60 1.2.3.5 | www.ab. 60 1.2.3.6 | "
			    "www.ab. 60 1.2.3.7");
	n = dns_cache_get(&c, &q, 5000, out, DNS_MESSAGE_MAX);
	assert_string_equal(show_answer(out, n, &text),
			    "0 rd ra | www.ab. 60 1.2.3.7 | ab. 60 1.2.3.5 | www.ab. 60 1.2.3.6 | "
			    "www.ab. 60 1.2.3.4");
	dns_cache_fini(&c);
}

static void dns_cache_put__refuses(void **state)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	struct dns_query q = query("www.ab", DNS_A, RD, 0), letters = query("wWw.ab", DNS_A, RD, 0),
			 bare = query("www.ab", DNS_A, 0, 0);
	struct dns_cache_sum sum = {0};
	struct dns_cache c, off;
	uint8_t buf[512];
	size_t n = answer_bytes(buf, "www.ab", DNS_A, 0, (uint8_t[3]){1}, ROW(A(S60, "\4")));

	(void)state;
	dns_cache_init(&c, 4096, &sum);
	dns_cache_init(&off, 0, &sum);
	dns_cache_put(&c, &letters, buf, n, 1); /* the question came back with other letters */
	dns_cache_put(&c, &bare, buf, n, 1);
	dns_cache_put(&off, &q, buf, n, 1);
	assert_int_equal(sum.entries, 0);
	dns_cache_put(&c, &q, buf, n, 1);
	assert_int_equal(sum.entries, 1);
	assert_int_equal(dns_cache_get(&c, &bare, 1, out, DNS_MESSAGE_MAX), 0);
	assert_int_equal(dns_cache_get(&off, &q, 1, out, DNS_MESSAGE_MAX), 0);
	/* a newer answer takes the place of the older one */
	n = answer_bytes(buf, "www.ab", DNS_A, 3, (uint8_t[3]){0, 1}, ROW(SOA(S60, S10)));
	dns_cache_put(&c, &q, buf, n, 2);
	assert_int_equal(sum.entries, 1);
	assert_int_equal(dns_cache_get(&c, &q, 2, out, DNS_MESSAGE_MAX), n);
	assert_int_equal(dns_rcode_of(out), DNS_NXDOMAIN);
	dns_cache_clear(&c);
	assert_int_equal(sum.bytes, 0);
	dns_cache_fini(&c);
	dns_cache_fini(&off);
}

/* The bound holds in bytes; what was asked for stays, what was not goes. */
static void dns_cache_put__makes_room(void **state)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	struct dns_query first = query("n0.ab", DNS_A, RD, 0), q;
	struct dns_cache_sum sum = {0};
	struct dns_cache c;
	uint8_t buf[1024];
	size_t n, kept = 0;
	char name[32];

	(void)state;
	dns_cache_init(&c, 8192, &sum);
	for (int i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "n%d.ab", i);
		q = query(name, DNS_A, RD, 0);
		n = answer_bytes(buf, name, DNS_A, 0, (uint8_t[3]){1}, ROW(A(S60, "\4")));
		dns_cache_put(&c, &q, buf, n, 1);
		assert_true(sum.bytes == c.bytes && c.bytes <= 8192);
		assert_int_not_equal(dns_cache_get(&c, &first, 1, out, DNS_MESSAGE_MAX), 0);
	}
	for (int i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "n%d.ab", i);
		q = query(name, DNS_A, RD, 0);
		kept += dns_cache_get(&c, &q, 1, out, DNS_MESSAGE_MAX) != 0;
	}
	assert_int_equal(kept, sum.entries);
	assert_true(kept > 30 && kept + sum.evicted == 500);
	/* what is over goes before what is not */
	(void)snprintf(name, sizeof(name), "late.ab");
	q = query(name, DNS_A, RD, 0);
	n = answer_bytes(buf, name, DNS_A, 0, (uint8_t[3]){1}, ROW(A(S60, "\4")));
	kept = sum.evicted;
	dns_cache_put(&c, &q, buf, n, 100000);
	assert_int_equal(sum.evicted, kept);
	while (dns_cache_evict(&c))
		;
	assert_int_equal(sum.bytes, 0);
	dns_cache_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dns_answer_lifetime__rows),
		cmocka_unit_test(dns_question_same__rows),
		cmocka_unit_test(dns_question_shared__rows),
		cmocka_unit_test(dns_cache_get__counts_down_and_takes_turns),
		cmocka_unit_test(dns_cache_get__turns_of_one_owner),
		cmocka_unit_test(dns_cache_put__refuses),
		cmocka_unit_test(dns_cache_put__makes_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
