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
		cmocka_unit_test(str_show__escapes_and_cuts),
		cmocka_unit_test(htab__finds_what_was_inserted),
		cmocka_unit_test(arena__zeroes_and_aligns),
		cmocka_unit_test(log_filter__last_match_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
