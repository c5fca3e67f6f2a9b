/* SPDX-License-Identifier: Apache-2.0
 * test_doc.c: typed getters name the field, the line and what was expected.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

static const char text[] =
	"{\n"
	"\"name\": \"web\", \"on\": true, \"n\": 7, \"big\": 4294967296, \"neg\": -1,\n"
	"\"half\": 1.5, \"none\": null, \"list\": [\"a\", {\"x\": 1}],\n"
	"\"map\": {\"k.1\": \"v\"}\n"
	"}";

struct fixture {
	struct arena *a;
	const struct doc *d;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	f->a = arena_new();
	*state = f;
	return json_parse(STR(text), f->a, &f->d, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->a = arena_free(f->a);
	free(f);
	return 0;
}

static void doc_get__is_null_safe(void **state)
{
	const struct doc *d = ((struct fixture *)*state)->d;

	assert_null(doc_get(NULL, "a"));
	assert_null(doc_get(d, "absent"));
	assert_null(doc_get(doc_get(d, "list"), "a"));
	assert_null(doc_get(doc_get(doc_get(d, "x"), "y"), "z"));
	assert_non_null(doc_get(doc_get(d, "map"), "k.1"));
}

static void doc_path__table(void **state)
{
	const struct doc *d = ((struct fixture *)*state)->d;
	char buf[64], tiny[8];

	assert_string_equal(doc_path(d, buf, sizeof(buf)), "top level");
	assert_string_equal(doc_path(doc_get(d, "name"), buf, sizeof(buf)), "name");
	assert_string_equal(
		doc_path(doc_get(doc_get(d, "list")->child->next, "x"), buf, sizeof(buf)),
		"list[1].x");
	assert_string_equal(
		doc_path(doc_get(doc_get(d, "list")->child->next, "x"), tiny, sizeof(tiny)),
		"list[1]");
}

static void doc_need_text__errors(void **state)
{
	const struct doc *d = ((struct fixture *)*state)->d;
	struct str s = {0};
	struct err e = {0};

	assert_int_equal(doc_need_text(d, "name", &s, &e), 0);
	assert_true(str_eqc(s, "web"));
	assert_int_equal(doc_need_text(d, "n", &s, &e), -EINVAL);
	assert_string_equal(e.msg, "n (line 2): expected text, got number (put it in quotes)");
	assert_int_equal(doc_need_text(d, "list", &s, &e), -EINVAL);
	assert_string_equal(e.msg, "list (line 3): expected text, got list");
	assert_int_equal(doc_need_text(doc_get(d, "map"), "k", &s, &e), -EINVAL);
	assert_string_equal(e.msg, "map (line 4): field k is missing");
	assert_int_equal(doc_need_text(d, "none", &s, &e), -EINVAL);
	assert_string_equal(e.msg, "top level (line 1): field none is missing");
	assert_int_equal(doc_need_text(doc_get(d, "list"), "k", &s, &e), -EINVAL);
	assert_string_equal(e.msg, "list (line 3): expected map, got list");
	assert_int_equal(doc_need_text(NULL, "k", &s, &e), -EINVAL);
	assert_true(str_eqc(s, "web")); /* untouched by failures */
}

static void doc_opt__absent_and_null_leave_the_default(void **state)
{
	const struct doc *d = ((struct fixture *)*state)->d, *l = d, *m = d;
	struct str s = STR("default");
	uint32_t n = 9;
	bool b = true;

	for (int i = 0; i < 2; i++) {
		const char *key = i == 0 ? "absent" : "none";

		assert_int_equal(doc_opt_text(d, key, &s, NULL), 0);
		assert_int_equal(doc_opt_u32(d, key, 0, 10, &n, NULL), 0);
		assert_int_equal(doc_opt_bool(d, key, &b, NULL), 0);
		assert_int_equal(doc_opt_list(d, key, &l, NULL), 0);
		assert_int_equal(doc_opt_map(d, key, &m, NULL), 0);
	}
	assert_true(str_eqc(s, "default"));
	assert_int_equal(n, 9);
	assert_true(b && l == d && m == d);
}

static void doc_opt__present(void **state)
{
	const struct doc *d = ((struct fixture *)*state)->d, *l = NULL, *m = NULL;
	struct str s = {0};
	uint32_t n = 0;
	bool b = false;

	assert_int_equal(doc_opt_text(d, "name", &s, NULL), 0);
	assert_int_equal(doc_opt_u32(d, "n", 7, 7, &n, NULL), 0);
	assert_int_equal(doc_opt_bool(d, "on", &b, NULL), 0);
	assert_int_equal(doc_opt_list(d, "list", &l, NULL), 0);
	assert_int_equal(doc_opt_map(d, "map", &m, NULL), 0);
	assert_true(str_eqc(s, "web") && n == 7 && b);
	assert_int_equal(l->count, 2);
	assert_int_equal(m->count, 1);
}

static void doc_opt_u32__table(void **state)
{
	static const struct {
		const char *key, *msg;
	} rows[] = {
		{"n", "n (line 2): expected a whole number from 8 to 9, got 7"},
		{"big", "big (line 2): expected a whole number from 8 to 9, got 4294967296"},
		{"neg", "neg (line 2): expected a whole number from 8 to 9, got -1"},
		{"half", "half (line 3): expected a whole number from 8 to 9, got 1.5"},
		{"name", "name (line 2): expected number, got text"},
		{"on", "on (line 2): expected number, got true or false"},
	};
	const struct doc *d = ((struct fixture *)*state)->d;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		uint32_t n = 5;

		assert_int_equal(doc_opt_u32(d, rows[i].key, 8, 9, &n, &e), -EINVAL);
		assert_string_equal(e.msg, rows[i].msg);
		assert_int_equal(n, 5);
	}
}

static void doc_only_keys__suggests(void **state)
{
	static const struct {
		const char *in, *msg;
	} rows[] = {
		{"{\"name\":1,\"port\":2}", NULL},
		{"{}", NULL},
		{"{\"nam\":1}", "nam (line 1): unknown field, did you mean name?"},
		{"{\"names\":1}", "names (line 1): unknown field, did you mean name?"},
		{"{\"nmae\":1}", "nmae (line 1): unknown field, did you mean name?"},
		{"{\"NAME\":1}", "NAME (line 1): unknown field, did you mean name?"},
		{"{\"port\":1,\"part\":1}", "part (line 1): unknown field, did you mean port?"},
		{"{\"other\":1}", "other (line 1): unknown field"},
		{"{\"\":1}", "\"\" (line 1): unknown field"},
		{"[]", "top level (line 1): expected map, got list"},
	};
	static const char *const allowed[] = {"name", "port", NULL};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct arena *a = arena_new();
		const struct doc *d = NULL;
		struct err e = {0};

		assert_int_equal(json_parse(str_of(rows[i].in), a, &d, NULL), 0);
		assert_int_equal(doc_only_keys(d, allowed, &e), rows[i].msg != NULL ? -EINVAL : 0);
		if (rows[i].msg != NULL)
			assert_string_equal(e.msg, rows[i].msg);
		arena_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(doc_get__is_null_safe, setup, teardown),
		cmocka_unit_test_setup_teardown(doc_path__table, setup, teardown),
		cmocka_unit_test_setup_teardown(doc_need_text__errors, setup, teardown),
		cmocka_unit_test_setup_teardown(doc_opt__absent_and_null_leave_the_default, setup,
						teardown),
		cmocka_unit_test_setup_teardown(doc_opt__present, setup, teardown),
		cmocka_unit_test_setup_teardown(doc_opt_u32__table, setup, teardown),
		cmocka_unit_test(doc_only_keys__suggests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
