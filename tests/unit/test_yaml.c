/* SPDX-License-Identifier: Apache-2.0
 * test_yaml.c: YAML to the same tree as JSON; what is refused and with which line.
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
#include "lib/format/yaml.h"

static const char *const kind[DOC_N] = {
	[DOC_NULL] = "null", [DOC_BOOL] = "bool", [DOC_NUMBER] = "num",
	[DOC_TEXT] = "text", [DOC_LIST] = "list", [DOC_MAP] = "map",
};

static void show(struct strbuf *out, const struct doc *d)
{
	if (d->key.n != 0)
		strbuf_printf(out, "%.*s=", STR_FMT(d->key));
	if (d->tag.n != 0)
		strbuf_printf(out, "!%.*s ", STR_FMT(d->tag));
	strbuf_puts(out, kind[d->kind]);
	if (d->kind == DOC_TEXT || d->kind == DOC_NUMBER)
		strbuf_printf(out, ":%.*s", STR_FMT(d->text));
	if (d->kind == DOC_BOOL)
		strbuf_puts(out, d->truth ? ":yes" : ":no");
	if (d->kind != DOC_LIST && d->kind != DOC_MAP)
		return;
	strbuf_putc(out, '(');
	for (const struct doc *c = d->child; c != NULL; c = c->next) {
		show(out, c);
		if (c->next != NULL)
			strbuf_putc(out, ' ');
	}
	strbuf_putc(out, ')');
}

/* NULL when refused; the caller frees. */
static char *shown(struct str in, struct err *err)
{
	struct arena *a = arena_new();
	struct strbuf out = {0};
	const struct doc *d = NULL;

	if (yaml_parse(in, a, &d, err) == 0)
		show(&out, d);
	arena_free(a);
	return out.p;
}

static void yaml_parse__accepts(void **state)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
		{"", "null"},
		{"---\n", "null"},
		{"# only a comment\n", "null"},
		{"a: 1\nb: x\n", "map(a=num:1 b=text:x)"},
		{"---\na: 1\n---\n", "map(a=num:1)"},
		{"---\n---\na: 1\n", "map(a=num:1)"},
		{"- ~\n- null\n- Null\n-\n", "list(null null null null)"},
		{"[true, True, FALSE, yes, no, on]",
		 "list(bool:yes bool:yes bool:no text:yes text:no text:on)"},
		{"[1, -2, +3, 1.5, .5, 1., 1e3, 007]",
		 "list(num:1 num:-2 num:+3 num:1.5 num:.5 num:1. num:1e3 num:007)"},
		{"[0x10, 0o7, .inf, .nan, 1_000, 10.0.0.1, '1', \"2\", 1e, .]",
		 "list(text:0x10 text:0o7 text:.inf text:.nan text:1_000 text:10.0.0.1 text:1 "
		 "text:2 "
		 "text:1e text:.)"},
		{"a: \"\"\nb: ''\nc:\n", "map(a=text: b=text: c=null)"},
		{"a: !Exact foo\nb: !Prefix 12\nc: !Exact true\n",
		 "map(a=!Exact text:foo b=!Prefix text:12 c=!Exact text:true)"},
		{"a: !!str 12\nb: ! 12\n", "map(a=text:12 b=text:12)"},
		{"a: !Range {x: 1}\n", "map(a=!Range map(x=num:1))"},
		{"a: |\n  l1\n  l2\nb: >\n  f1\n  f2\n", "map(a=text:l1\nl2\n b=text:f1 f2\n)"},
		{"{\"a\": [1, {\"b\": null}], \"c\": \"\\u00e4\"}",
		 "map(a=list(num:1 map(b=null)) c=text:\xc3\xa4)"},
		{"1: x\ntrue: y\n", "map(1=text:x true=text:y)"},
		{"<<: x\n", "map(<<=text:x)"},
		{"2026-01-02", "text:2026-01-02"},
		{"just text", "text:just text"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		_cleanup_free_ char *got = shown(str_of(rows[i].in), &e);

		if (got == NULL)
			fail_msg("%s: %s", rows[i].in, e.msg);
		assert_string_equal(got, rows[i].out);
	}
}

static void yaml_parse__refuses(void **state)
{
	static const struct {
		const char *in, *part;
	} rows[] = {
		{"a: &x 1\n", "line 1, column 4: anchors are not supported"},
		{"a: &x {}\n", "line 1, column 4: anchors are not supported"},
		{"a: &x []\n", "line 1, column 4: anchors are not supported"},
		{"a: 1\nb: *x\n", "line 2, column 4: aliases are not supported"},
		{"a: 1\nb: 2\na: 3\n", "line 3: field a appears twice"},
		{"o:\n  k: 1\n  \"k\": 3\n", "line 3: field o.k appears twice"},
		{"? [a]\n: 1\n", "line 1, column 3: a key must be plain text"},
		{"? {a: b}\n: 1\n", "a key must be plain text"},
		{"!T k: 1\n", "a key must not have a tag"},
		{"a: !!int 1\n", "this tag is not supported"},
		{"a: !!binary aGk=\n", "this tag is not supported"},
		{"a: !!set {x}\n", "this tag is not supported"},
		{"a: \"x\\0y\"\n", "text with a NUL byte"},
		{"a: [1, 2\n", "line 2"},
		{"a: b: c\n", "line 1, column 5: mapping values are not allowed"},
		{"a:\n\t- 1\n", "line 2, column 1"},
		{"\"x", "unexpected end of stream"},
		{"a: 1\n---\nb: 2\n",
		 "top level (line 3): expected one document, this is the second"},
		{"%YAML 2.0\n--- a\n", "incompatible YAML document"},
		{"a: \xff\n", "YAML offset 3: invalid leading UTF-8 octet"},
		{"\xff\xfe"
		 "a\x01",
		 "invalid leading UTF-8 octet"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		_cleanup_free_ char *got = shown(str_of(rows[i].in), &e);

		if (got != NULL)
			fail_msg("accepted: %s", rows[i].in);
		assert_int_equal(e.code, EINVAL);
		if (strstr(e.msg, rows[i].part) == NULL)
			fail_msg("%s: %s", rows[i].in, e.msg);
	}
}

static void yaml_parse__depth(void **state)
{
	static const size_t depths[] = {LIMIT_DOC_DEPTH, LIMIT_DOC_DEPTH + 1, 100000};

	(void)state;
	alarm(60);
	for (size_t i = 0; i < ARRAY_LEN(depths); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		_cleanup_free_ char *got = NULL;
		struct err e = {0};

		for (size_t k = 0; k < depths[i]; k++)
			strbuf_putc(&b, '[');
		for (size_t k = 0; k < depths[i]; k++)
			strbuf_putc(&b, ']');
		got = shown((struct str){b.p, b.n}, &e);
		assert_int_equal(got != NULL, depths[i] <= LIMIT_DOC_DEPTH);
		assert_int_equal(e.code, depths[i] <= LIMIT_DOC_DEPTH ? 0 : E2BIG);
	}
	alarm(0);
}

struct seen {
	struct strbuf out;
	unsigned int calls, fail_at;
};

static int on_doc(void *ctx, const struct doc *root, struct err *err)
{
	struct seen *s = ctx;

	if (++s->calls == s->fail_at)
		return err_set(err, EPERM, "enough");
	show(&s->out, root);
	strbuf_printf(&s->out, "@%u;", root->line);
	return 0;
}

static void yaml_parse_all__every_document(void **state)
{
	static const char in[] = "a: 1\n---\n# nothing\n---\n- x\n...\n---\n\"t\"\n";
	struct arena *a = arena_new();
	struct seen s = {0}, stop = {.fail_at = 2};
	struct err e = {0};

	(void)state;
	assert_int_equal(yaml_parse_all(str_of(in), a, on_doc, &s, &e), 0);
	assert_string_equal(s.out.p, "map(a=num:1)@1;list(text:x)@5;text:t@8;");
	assert_int_equal(yaml_parse_all(str_of(in), a, on_doc, &stop, &e), -EPERM);
	assert_int_equal(stop.calls, 2);
	assert_string_equal(e.msg, "enough");
	strbuf_fini(&s.out);
	strbuf_fini(&stop.out);
	arena_free(a);
}

static int on_item(void *ctx, const struct doc *d, struct err *err)
{
	struct seen *s = ctx;
	char path[80];

	if (++s->calls == s->fail_at)
		return err_set(err, EPERM, "enough");
	strbuf_printf(&s->out, "%s ", doc_path(d, path, sizeof(path)));
	show(&s->out, d);
	strbuf_putc(&s->out, ';');
	return 0;
}

static void yaml_parse_items__elements_of_the_roots_lists(void **state)
{
	static const char in[] = "a: [1, [2, 3]]\nb: {c: [4]}\nd:\n- e: f\n- g\nh: []\n";
	struct arena *a = arena_new();
	struct seen s = {0}, stop = {.fail_at = 3};
	const struct doc *root = NULL;
	_cleanup_strbuf_ struct strbuf rest = {0};
	struct err e = {0};

	(void)state;
	assert_int_equal(yaml_parse_items(str_of(in), a, on_item, &s, &root, &e), 0);
	assert_string_equal(s.out.p, "a[0] num:1;a[1] list(num:2 num:3);d[0] map(e=text:f);"
				     "d[1] text:g;");
	show(&rest, root);
	assert_string_equal(rest.p, "map(a=list() b=map(c=list(num:4)) d=list() h=list())");
	assert_int_equal(doc_get(root, "d")->count, 2);
	assert_int_equal(yaml_parse_items(str_of(in), a, on_item, &stop, &root, &e), -EPERM);
	assert_int_equal(stop.calls, 3);
	strbuf_fini(&s.out);
	strbuf_fini(&stop.out);
	arena_free(a);
}

static void yaml_parse_items__other_roots(void **state)
{
	static const char *const in[] = {"- 1\n- [2]\n", "x", "", "a: 1\n"};
	struct seen s = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(in); i++) {
		struct arena *a = arena_new();
		const struct doc *root = NULL, *want = NULL;
		_cleanup_strbuf_ struct strbuf one = {0}, two = {0};

		assert_int_equal(yaml_parse_items(str_of(in[i]), a, on_item, &s, &root, NULL), 0);
		assert_int_equal(yaml_parse(str_of(in[i]), a, &want, NULL), 0);
		show(&one, root);
		show(&two, want);
		assert_string_equal(one.p, two.p);
		arena_free(a);
	}
	assert_int_equal(s.calls, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(yaml_parse__accepts),
		cmocka_unit_test(yaml_parse__refuses),
		cmocka_unit_test(yaml_parse__depth),
		cmocka_unit_test(yaml_parse_all__every_document),
		cmocka_unit_test(yaml_parse_items__elements_of_the_roots_lists),
		cmocka_unit_test(yaml_parse_items__other_roots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
