/* SPDX-License-Identifier: Apache-2.0
 * test_base.c: strings, numbers, errors, hash table, arena.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

static void err_wrap__adds_context_in_front(void **state)
{
	struct err e = {0};

	(void)state;
	assert_int_equal(err_set(&e, ENOENT, "no file %d", 7), -ENOENT);
	assert_int_equal(err_wrap(&e, "load %s", "x"), -ENOENT);
	assert_string_equal(e.msg, "load x: no file 7");
	assert_int_equal(err_set(NULL, EPERM, "ignored"), -EPERM);
}

static void err_wrap__cuts_long_text(void **state)
{
	struct err e = {0};
	char big[600];

	(void)state;
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	(void)err_set(&e, EIO, "%s", big);
	(void)err_wrap(&e, "%.300s", big);
	assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
}

static void parse_u16__table(void **state)
{
	static const struct {
		const char *in;
		int r;
		uint16_t v;
	} rows[] = {
		{"0", 0, 0},	       {"65535", 0, 65535},
		{"65536", -ERANGE, 0}, {"", -EINVAL, 0},
		{"-1", -EINVAL, 0},    {"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},    {"01", -EINVAL, 0},
		{"1x", -EINVAL, 0},    {"99999999999999999999999", -ERANGE, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint16_t v = 0;

		assert_int_equal(parse_u16(str_of(rows[i].in), 0, UINT16_MAX, &v), rows[i].r);
		assert_int_equal(v, rows[i].v);
	}
}

static void parse_duration__table(void **state)
{
	static const struct {
		const char *in;
		int r;
		uint64_t ms;
	} rows[] = {
		{"10s", 0, 10000},  {"1m30s", 0, 90000}, {"500ms", 0, 500},
		{"2h", 0, 7200000}, {"7", 0, 7000},	 {"", -EINVAL, 0},
		{"s", -EINVAL, 0},  {"10x", -EINVAL, 0}, {"1m5", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 0;

		assert_int_equal(parse_duration_ms(str_of(rows[i].in), &v), rows[i].r);
		assert_int_equal(v, rows[i].ms);
	}
}

static void str_is_utf8__table(void **state)
{
	static const struct {
		const char *in;
		size_t n;
		bool ok;
	} rows[] = {
		{"abc", 3, true},
		{"a\0b", 3, false},
		{"\xc3\xa4", 2, true},
		{"\xc0\x80", 2, false},
		{"\xed\xa0\x80", 3, false},
		{"\xf4\x90\x80\x80", 4, false},
		{"\xf0\x9f\x98\x80", 4, true},
		{"\xc3", 1, false},
		{"\x80", 1, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(str_is_utf8((struct str){rows[i].in, rows[i].n}), rows[i].ok);
}

/* Every place in texts of several words of the machine. */
static void str_is_utf8__every_place(void **state)
{
	static const struct {
		unsigned char c;
		bool ok;
	} rows[] = {{0, false},	   {1, true},	  {0x7f, true},
		    {0x80, false}, {0xc3, false}, {0xff, false}};
	char text[27];

	(void)state;
	for (size_t n = 1; n <= sizeof(text); n++)
		for (size_t at = 0; at < n; at++)
			for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
				memset(text, 'a', sizeof(text));
				text[at] = (char)rows[i].c;
				assert_int_equal(str_is_utf8((struct str){text, n}), rows[i].ok);
			}
	for (size_t at = 0; at + 1 < sizeof(text); at++) {
		memset(text, 1, sizeof(text));
		memcpy(text + at, "\xc3\xa4", 2);
		assert_true(str_is_utf8((struct str){text, sizeof(text)}));
	}
}

static void str_eqc__table(void **state)
{
	static const struct {
		struct str a;
		const char *b;
		bool eq;
	} rows[] = {
		{STR("abc"), "abc", true}, {STR("abc"), "abd", false}, {STR("abc"), "xbc", false},
		{STR("abc"), "ab", false}, {STR("ab"), "abc", false},  {STR(""), "", true},
		{STR(""), "a", false},	   {STR("a"), "", false},      {STR("\0"), "", false},
		{{NULL, 0}, "", true},	   {{NULL, 0}, NULL, true},    {STR("a"), NULL, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(str_eqc(rows[i].a, rows[i].b), rows[i].eq);
}

static void str_eq_nocase__table(void **state)
{
	static const struct {
		struct str a, b;
		bool eq;
	} rows[] = {
		{STR("Content-Length"), STR("content-lENGTH"), true},
		{STR("az"), STR("AZ"), true},
		{STR("@["), STR("`{"), false},	   /* beside the letters */
		{STR("\xc4"), STR("\xe4"), false}, /* not ASCII */
		{STR("a\0b"), STR("A\0B"), true},
		{STR("a\0b"), STR("a\0c"), false}, /* a NUL ends nothing */
		{STR("ab"), STR("abc"), false},
		{STR(""), {NULL, 0}, true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(str_eq_nocase(rows[i].a, rows[i].b), rows[i].eq);
}

static void str_show__escapes_and_cuts(void **state)
{
	char buf[16];

	(void)state;
	assert_string_equal(str_show(STR("a\"\n"), buf, sizeof(buf)), "a\\x22\\x0a");
	assert_string_equal(str_show(STR("aaaaaaaaaaaaaaaaaaaaaaaa"), buf, sizeof(buf)),
			    "aaaaaaaaaaaa...");
}

struct item {
	struct hnode node;
	uint64_t key;
};

static void htab__finds_what_was_inserted(void **state)
{
	struct item items[500];
	struct htab t;
	size_t seen = 0;

	(void)state;
	htab_init(&t);
	for (uint64_t i = 0; i < ARRAY_LEN(items); i++) {
		items[i].key = i;
		htab_insert(&t, &items[i].node, hash_bytes(&i, sizeof(i)));
	}
	for (uint64_t i = 0; i < ARRAY_LEN(items); i++) {
		struct hnode *n = htab_first(&t, hash_bytes(&i, sizeof(i)));

		assert_non_null(n);
		assert_int_equal(container_of(n, struct item, node)->key, i);
	}
	htab_for_each (it, &t) {
		if (container_of(it, struct item, node)->key % 2 == 0)
			htab_remove(&t, it);
	}
	htab_for_each (it, &t)
		seen++;
	assert_int_equal(seen, 250);
	assert_int_equal(t.count, 250);
	htab_fini(&t);
}

static void arena__zeroes_and_aligns(void **state)
{
	struct arena *a = arena_new();

	(void)state;
	for (size_t i = 1; i < 9000; i = i * 3 + 1) {
		char *p = arena_alloc(a, i);

		assert_int_equal((uintptr_t)p % 16, 0);
		for (size_t k = 0; k < i; k++)
			assert_int_equal(p[k], 0);
		memset(p, 0xff, i);
	}
	arena_free(a);
}

/* Texts lie close together, whatever else is around them. */
static void arena__packs_texts(void **state)
{
	struct arena *a = arena_new();
	const char *first = arena_strndup(a, "one", 3), *second = arena_strndup(a, "two", 3);
	void *p = arena_alloc(a, 8);
	const char *third = arena_strndup(a, "", 0);

	(void)state;
	assert_ptr_equal(second, first + 4);
	assert_int_equal((uintptr_t)p % 16, 0);
	assert_string_equal(first, "one");
	assert_string_equal(second, "two");
	assert_string_equal(third, "");
	memset(p, 0xff, 8);
	assert_string_equal(second, "two");
	assert_string_equal(third, "");
	for (int i = 0; i < 5000; i++)
		second = arena_strndup(a, "abcdefg", 7);
	assert_string_equal(second, "abcdefg");
	assert_in_range(arena_bytes(a), 40000, 45000);
	assert_string_equal(first, "one");
	arena_free(a);
}

static void log_format__escapes_what_commands_a_terminal(void **state)
{
	static const struct {
		const char *msg, *text, *json;
	} rows[] = {
		{"plain key=\"value\" c:\\x", "plain key=\"value\" c:\\x",
		 "plain key=\\\"value\\\" c:\\\\x"},
		{"one\ntwo\r\nthree", "one two  three", "one\\u000atwo\\u000d\\u000athree"},
		{"a\tb", "a\tb", "a\\u0009b"},
		{"\x1b[31mred\x07", "\\x1b[31mred\\x07", "\\u001b[31mred\\u0007"},
		{"del\x7f", "del\\x7f", "del\\u007f"},
		{"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
		 "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
		 "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
		{"csi\xc2\x9b"
		 "2J nbsp\xc2\xa0.",
		 "csi\\xc2\\x9b2J nbsp\xc2\xa0.", "csi\\u00c2\\u009b2J nbsp\xc2\xa0."},
		{"bad\x9b\xff\xc3", "bad\\x9b\\xff\\xc3", "bad\\u009b\\u00ff\\u00c3"},
		{"overlong\xc0\xaf", "overlong\\xc0\\xaf", "overlong\\u00c0\\u00af"},
	};

	(void)state;
	for (int json = 0; json < 2; json++) {
		assert_int_equal(setenv("LOG_FORMAT", json ? "json" : "text", 1), 0);
		log_init();
		for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
			const char *want = json ? rows[i].json : rows[i].text;
			char buf[512];
			size_t n = log_format(buf, sizeof(buf) - 1, 1, LOG_LV_INFO, "s",
					      rows[i].msg, strlen(rows[i].msg));
			char *at;

			buf[n] = '\0';
			at = strstr(buf, json ? "\"message\":\"" : "\ts\t");
			assert_non_null(at);
			at += json ? 11 : 3;
			if (strncmp(at, want, strlen(want)) != 0 ||
			    strcmp(at + strlen(want), json ? "\"}\n" : "\n") != 0)
				fail_msg("row %zu: wanted %s, got %s", i, want, at);
		}
	}
	assert_int_equal(unsetenv("LOG_FORMAT"), 0);
	log_init();
}

/* Every size of buffer: the line stays whole, and inside of it. */
static void log_format__fits(void **state)
{
	static const char msg[] = "\x1b\xc2\x9b\xe2\x82\xac\"\\\n\x01\xf0\x9f\x98\x80 end";

	(void)state;
	for (int json = 0; json < 2; json++) {
		assert_int_equal(setenv("LOG_FORMAT", json ? "json" : "text", 1), 0);
		log_init();
		for (size_t cap = 120; cap < 220; cap++) {
			char *buf = xmalloc(cap);
			size_t n = log_format(buf, cap, 1, LOG_LV_INFO, "s", msg, sizeof(msg) - 1);

			assert_true(n <= cap && n > 0 && buf[n - 1] == '\n');
			free(buf);
		}
	}
	assert_int_equal(unsetenv("LOG_FORMAT"), 0);
	log_init();
}

static void log_filter__last_match_wins(void **state)
{
	(void)state;
	assert_int_equal(log_set_filter("warn,access=off,zds=debug"), 0);
	assert_false(log_enabled(LOG_LV_INFO, "agent"));
	assert_true(log_enabled(LOG_LV_WARN, "agent"));
	assert_false(log_enabled(LOG_LV_ERROR, "access"));
	assert_true(log_enabled(LOG_LV_DEBUG, "zds"));
	assert_int_equal(log_set_filter("loud"), -EINVAL);
	assert_true(log_enabled(LOG_LV_DEBUG, "zds"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(err_wrap__adds_context_in_front),
		cmocka_unit_test(err_wrap__cuts_long_text),
		cmocka_unit_test(parse_u16__table),
		cmocka_unit_test(parse_duration__table),
		cmocka_unit_test(str_is_utf8__table),
		cmocka_unit_test(str_is_utf8__every_place),
		cmocka_unit_test(str_eqc__table),
		cmocka_unit_test(str_eq_nocase__table),
		cmocka_unit_test(str_show__escapes_and_cuts),
		cmocka_unit_test(htab__finds_what_was_inserted),
		cmocka_unit_test(arena__zeroes_and_aligns),
		cmocka_unit_test(arena__packs_texts),
		cmocka_unit_test(log_filter__last_match_wins),
		cmocka_unit_test(log_format__escapes_what_commands_a_terminal),
		cmocka_unit_test(log_format__fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
