/* SPDX-License-Identifier: Apache-2.0
 * test_json.c: strict JSON in (style 4.5: what jsmn alone accepts must be refused), JSON out.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

static void dump(struct jsonw *w, const struct doc *d, bool keyed)
{
	if (keyed) /* the writer takes keys with the value only: write the key as the value's */
		switch (d->kind) {
		case DOC_MAP:
			jsonw_obj_k(w, d->key);
			break;
		case DOC_LIST:
			jsonw_list_k(w, d->key);
			break;
		case DOC_TEXT:
			jsonw_str_k(w, d->key, d->text);
			return;
		case DOC_NULL:
		case DOC_BOOL:
		case DOC_NUMBER:
		case DOC_N: {
			char key[64];

			assert_int_equal(str_to_cstr(d->key, key, sizeof(key), NULL), 0);
			jsonw_raw(w, key, d->raw);
			return;
		}
		}
	else if (d->kind == DOC_MAP)
		jsonw_obj(w, NULL);
	else if (d->kind == DOC_LIST)
		jsonw_list(w, NULL);
	else if (d->kind == DOC_TEXT) {
		jsonw_str(w, NULL, d->text);
		return;
	} else {
		jsonw_raw(w, NULL, d->raw);
		return;
	}
	for (const struct doc *c = d->child; c != NULL; c = c->next)
		dump(w, c, d->kind == DOC_MAP);
	if (d->kind == DOC_MAP)
		jsonw_end_obj(w);
	else
		jsonw_end_list(w);
}

/* Parses and writes compactly; NULL when refused. The caller frees. */
static char *round_trip(struct str in, struct err *err)
{
	struct arena *a = arena_new();
	struct strbuf out = {0};
	const struct doc *d = NULL;
	struct jsonw w;

	if (json_parse(in, a, &d, err) == 0) {
		jsonw_init(&w, &out, false);
		dump(&w, d, false);
	}
	arena_free(a);
	return out.p;
}

static void json_parse__accepts(void **state)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
		{"{}", "{}"},
		{"[]", "[]"},
		{" \t\r\n{ } \n", "{}"},
		{"null", "null"},
		{" true ", "true"},
		{"false", "false"},
		{"0", "0"},
		{"-0", "-0"},
		{"-12.50e+3", "-12.50e+3"},
		{"1E400", "1E400"},
		{"\"x\"", "\"x\""},
		{"\"\"", "\"\""},
		{"[1,2 , 3]", "[1,2,3]"},
		{"{\"a\":{\"b\":[null,true,{}]}}", "{\"a\":{\"b\":[null,true,{}]}}"},
		{"{\"\":1}", "{\"\":1}"},
		{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\u0008\\u000c\\n\\u000d\\u0009\""},
		{"\"\\u0041\\u00e4\\u20ac\\uD83D\\ude00\"",
		 "\"A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""},
		{"{\"\\u0061\":1,\"b\":2}", "{\"a\":1,\"b\":2}"},
		{"\"\xc3\xa4\xf0\x9f\x98\x80\"", "\"\xc3\xa4\xf0\x9f\x98\x80\""},
		{"\"{[]}:,\"", "\"{[]}:,\""},
		{"[\"\\\\\",\"\\\"\"]", "[\"\\\\\",\"\\\"\"]"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		_cleanup_free_ char *got = round_trip(str_of(rows[i].in), &e);

		if (got == NULL)
			fail_msg("%s: %s", rows[i].in, e.msg);
		assert_string_equal(got, rows[i].out);
	}
}

static void json_parse__refuses(void **state)
{
	static const char *const rows[] = {
		"",
		" ",
		"{",
		"}",
		"[",
		"]",
		"{]",
		"[}",
		"[[]",
		"[]]",
		"{\"a\":}",
		"{\"a\" \"b\"}",
		"{\"a\"}",
		"{\"a\":1,}",
		"{,}",
		"[,]",
		"[1,]",
		"[,1]",
		"[1,,2]",
		"[1 2 3]",
		"{\"a\":1 \"b\":2}",
		"{\"a\":1:2}",
		"[1:2]",
		"{1:2}",
		"{null:1}",
		"{[]:1}",
		"{\"a\":1}{}",
		"[] []",
		"1 2",
		"{\"a\":01}",
		"[01]",
		"-",
		"[-]",
		"[+1]",
		"[.5]",
		"[5.]",
		"[1.e1]",
		"[1e]",
		"[1e+]",
		"[0x10]",
		"[tru]",
		"[truee]",
		"[True]",
		"[nul]",
		"NaN",
		"[Infinity]",
		"[-Infinity]",
		"[undefined]",
		"['a']",
		"{a:1}",
		"\"a",
		"\"a\\\"",
		"\"\\x\"",
		"\"\\u12\"",
		"\"\\u12g4\"",
		"\"\\u0000\"",
		"\"\\ud800\"",
		"\"\\udc00\"",
		"\"\\udc00\\udc00\"",
		"\"\\ud800x\"",
		"\"\\ud800\\ud800\"",
		"\"\\ud800\\u0041\"",
		"\"a\nb\"",
		"\"\x01\"",
		"\"\xff\"",
		"\"\xc3\"",
		"\"\xed\xa0\x80\"",
		"\xef\xbb\xbf{}",
		"// c\n{}",
		"/* c */{}",
		"{}x",
		"{}\x01",
		"[1]\x0b",
		"{\"a\":1,\"a\":2}",
		"{\"a\":1,\"\\u0061\":2}",
		"{\"a\":{\"b\":1,\"b\":1}}",
		"[{\"a\":1,\"a\":1}]",
		"{\"a\":\"b\"\"c\"}",
		"{\"a\"::1}",
		"{:1}",
		"[\"a\":1]",
		"{\"a\":\"b\":\"c\"}",
		"[1\"a\"]",
		"[\"a\"1]",
		"[true[]]",
		"[1{}]",
		"{\"a\":1]",
		"[\"a\\",
		"[\"a\\u",
		"\\",
		"1\"",
		"1[",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		_cleanup_free_ char *got = round_trip(str_of(rows[i]), &e);

		if (got != NULL)
			fail_msg("accepted: %s", rows[i]);
		assert_int_equal(e.code, EINVAL);
		assert_non_null(strstr(e.msg, "line"));
	}
}

static void json_parse__refuses_nul_bytes(void **state)
{
	static const struct str rows[] = {
		{"{}\0", 3},  {"\0{}", 3},     {"{}\0{}", 5},
		{"[1\0]", 4}, {"\"a\0b\"", 5}, {"[\"a\"\0]", 6},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_null(round_trip(rows[i], NULL));
}

static void json_parse__error_has_line_and_offset(void **state)
{
	struct err e = {0};

	(void)state;
	assert_null(round_trip(STR("{\n\"a\": 1,\n\"b\": tru\n}"), &e));
	assert_string_equal(e.msg, "JSON line 3, offset 15: expected a value");
	assert_null(round_trip(STR("{\"a\":\n{\"k\":1,\n\"k\":2}}"), &e));
	assert_string_equal(e.msg, "JSON line 3: field a.k appears twice");
	assert_null(round_trip(STR("{\"a\": [1"), &e));
	assert_string_equal(e.msg, "JSON line 1, offset 8: the text ends too early");
}

static char *nested(size_t depth, const char *open, const char *mid, const char *close)
{
	struct strbuf b = {0};

	for (size_t i = 0; i < depth; i++)
		strbuf_puts(&b, open);
	strbuf_puts(&b, mid);
	for (size_t i = 0; i < depth; i++)
		strbuf_puts(&b, close);
	return strbuf_take(&b);
}

static void json_parse__depth(void **state)
{
	static const char *const open[] = {"[", "{\"a\":"}, *const close[] = {"]", "}"};

	(void)state;
	for (size_t k = 0; k < 2; k++) {
		_cleanup_free_ char *ok = nested(LIMIT_DOC_DEPTH, open[k], "1", close[k]);
		_cleanup_free_ char *deep = nested(LIMIT_DOC_DEPTH + 1, open[k], "1", close[k]);
		_cleanup_free_ char *bomb = nested(200000, open[k], "1", close[k]);
		_cleanup_free_ char *got = NULL;
		struct err e = {0};

		got = round_trip(str_of(ok), &e);
		assert_string_equal(got, ok);
		assert_null(round_trip(str_of(deep), &e));
		assert_int_equal(e.code, E2BIG);
		assert_null(round_trip(str_of(bomb), &e));
		assert_int_equal(e.code, E2BIG);
	}
}

/* Every text here takes jsmn without parent links, or the walk with a naive key check, minutes. The
 * alarm kills a quadratic version; a linear one needs milliseconds. */
static void json_parse__linear_time(void **state)
{
	static const struct {
		const char *first, *more, *last;
		bool ok;
	} rows[] = {
		{"[{}", ",{}", "]", true},
		{"[[]", ",[]", "]", true},
		{"[\"a\"", ":\"a\"", "]]]]]]]]", false},
		{"[[[[[[[[\"a\"", ":\"a\"", "]]]]]]]]", false},
		{"[", "\"a\" ", "]", false},
		{"[0", ",\"\\u00e4\\ud83d\\ude00\"", "]", true},
	};

	(void)state;
	alarm(60);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		_cleanup_free_ char *got = NULL;

		strbuf_puts(&b, rows[i].first);
		for (int k = 0; k < 200000; k++)
			strbuf_puts(&b, rows[i].more);
		strbuf_puts(&b, rows[i].last);
		got = round_trip((struct str){b.p, b.n}, NULL);
		assert_int_equal(got != NULL, rows[i].ok);
	}
	alarm(0);
}

static void json_parse__many_keys(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	_cleanup_free_ char *got = NULL;
	struct err e = {0};

	(void)state;
	alarm(60);
	strbuf_puts(&b, "{\"k\":0");
	for (int i = 0; i < 100000; i++)
		strbuf_printf(&b, ",\"k%d\":0", i);
	strbuf_putc(&b, '}');
	got = round_trip((struct str){b.p, b.n}, &e);
	assert_string_equal(got, b.p);
	b.n--;
	strbuf_puts(&b, ",\"k77777\":0}");
	assert_null(round_trip((struct str){b.p, b.n}, &e));
	assert_string_equal(e.msg, "JSON line 1: field k77777 appears twice");
	alarm(0);
}

static void json_parse__raw_and_positions(void **state)
{
	static const char in[] = "{\"a\" : [ 1 , {\"b\":\"\\n\"} ],\n \"c\":\"d\"}";
	struct arena *a = arena_new();
	const struct doc *d = NULL, *l, *c;

	(void)state;
	assert_int_equal(json_parse(str_of(in), a, &d, NULL), 0);
	l = doc_get(d, "a");
	assert_true(str_eqc(d->raw, in));
	assert_true(str_eqc(l->raw, "[ 1 , {\"b\":\"\\n\"} ]"));
	assert_int_equal(l->count, 2);
	assert_int_equal(l->child->next->index, 1);
	assert_true(l->child->next->parent == l);
	assert_true(str_eqc(doc_get(l->child->next, "b")->raw, "\"\\n\""));
	c = doc_get(d, "c");
	assert_int_equal(c->line, 2);
	assert_true(c->text.p > in && c->text.p < in + sizeof(in)); /* no copy without escapes */
	arena_free(a);
}

static void jsonw__compact_and_pretty(void **state)
{
	static const char *const want[] = {
		"{\"a\":1,\"l\":[true,null,{}],\"e\":[],\"o\":{\"s\":\"x\",\"n\":null},\"r\":[0]}",
		"{\n  \"a\": 1,\n  \"l\": [\n    true,\n    null,\n    {}\n  ],\n  \"e\": [],\n"
		"  \"o\": {\n    \"s\": \"x\",\n    \"n\": null\n  },\n  \"r\": [0]\n}",
	};

	(void)state;
	for (int pretty = 0; pretty < 2; pretty++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		struct jsonw w;

		jsonw_init(&w, &out, pretty);
		jsonw_obj(&w, NULL);
		jsonw_int(&w, "a", 1);
		jsonw_list(&w, "l");
		jsonw_bool(&w, NULL, true);
		jsonw_null(&w, NULL);
		jsonw_obj(&w, NULL);
		jsonw_end_obj(&w);
		jsonw_end_list(&w);
		jsonw_list(&w, "e");
		jsonw_end_list(&w);
		jsonw_obj_k(&w, STR("o"));
		jsonw_cstr(&w, "s", "x");
		jsonw_cstr(&w, "n", NULL);
		jsonw_end_obj(&w);
		jsonw_raw(&w, "r", STR("[0]"));
		jsonw_end_obj(&w);
		assert_string_equal(out.p, want[pretty]);
	}
}

static void jsonw_str__always_valid(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_free_ char *again = NULL;
	struct jsonw w;

	(void)state;
	jsonw_init(&w, &out, false);
	jsonw_list(&w, NULL);
	jsonw_str(&w, NULL, (struct str){"\x01\x1f\x7f\"\\\xff\xc3(\xed\xa0\x80\xe2\x82", 13});
	jsonw_end_list(&w);
	assert_string_equal(out.p,
			    "[\"\\u0001\\u001f\\u007f\\\"\\\\\\ufffd\\ufffd(\\ufffd\\ufffd\\ufffd"
			    "\\ufffd\\ufffd\"]");
	again = round_trip((struct str){out.p, out.n}, NULL);
	assert_non_null(again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_parse__accepts),
		cmocka_unit_test(json_parse__refuses),
		cmocka_unit_test(json_parse__refuses_nul_bytes),
		cmocka_unit_test(json_parse__error_has_line_and_offset),
		cmocka_unit_test(json_parse__depth),
		cmocka_unit_test(json_parse__linear_time),
		cmocka_unit_test(json_parse__many_keys),
		cmocka_unit_test(json_parse__raw_and_positions),
		cmocka_unit_test(jsonw__compact_and_pretty),
		cmocka_unit_test(jsonw_str__always_valid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
