/* SPDX-License-Identifier: Apache-2.0
 * test_spiffe.c: workload identities as text (ztunnel-spec 8.1, security.md T1).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/wire/spiffe.h"

static void spiffe_parse__accepts_and_formats_back(void **state)
{
	static const char *const rows[] = {
		"spiffe://cluster.local/ns/default/sa/web",
		"spiffe://td/ns/ns/sa/sa",
		"spiffe://a.b-c_d/ns/x.y/sa/~!*",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		struct spiffe_id id;

		assert_int_equal(spiffe_parse(str_of(rows[i]), &id), 0);
		spiffe_format(&id, &out);
		assert_string_equal(out.p, rows[i]);
	}
}

static void spiffe_parse__slices(void **state)
{
	struct spiffe_id id;

	(void)state;
	assert_int_equal(spiffe_parse(STR("spiffe://td/ns/shop/sa/till"), &id), 0);
	assert_true(str_eqc(id.trust_domain, "td"));
	assert_true(str_eqc(id.ns, "shop"));
	assert_true(str_eqc(id.sa, "till"));
}

static void spiffe_parse__refuses(void **state)
{
	static const char *const rows[] = {
		"",
		"spiffe://",
		"spiffe:///ns/a/sa/b",
		"spiffe://td",
		"spiffe://td/",
		"spiffe://td/ns",
		"spiffe://td/ns/a",
		"spiffe://td/ns/a/sa",
		"spiffe://td/ns/a/sa/",
		"spiffe://td/ns//sa/b",
		"spiffe://td/ns/a/sa/b/",
		"spiffe://td/ns/a/sa/b/c",
		"spiffe://td//ns/a/sa/b",
		"spiffe://td/sa/a/ns/b",
		"spiffe://td/NS/a/sa/b",
		"spiffe://td/ns/a/SA/b",
		"SPIFFE://td/ns/a/sa/b",
		"https://td/ns/a/sa/b",
		" spiffe://td/ns/a/sa/b",
		"spiffe://td/ns/a/sa/b ",
		"spiffe://t d/ns/a/sa/b",
		"spiffe://td/ns/a\t/sa/b",
		"spiffe://td/ns/a/sa/b\x7f",
		"spiffe://td/ns/a/sa/\xc3\xa4",
	};
	struct spiffe_id id;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (spiffe_parse(str_of(rows[i]), &id) != -EINVAL)
			fail_msg("accepted: %s", rows[i]);
	assert_int_equal(spiffe_parse((struct str){"spiffe://td/ns/a/sa/b\0c", 23}, &id), -EINVAL);
	assert_int_equal(spiffe_parse((struct str){"spiffe://td/ns/a/sa/b\0", 22}, &id), -EINVAL);
}

static void spiffe_eq__compares_every_part(void **state)
{
	static const char *const others[] = {
		"spiffe://te/ns/a/sa/b",  "spiffe://td/ns/c/sa/b", "spiffe://td/ns/a/sa/c",
		"spiffe://td/ns/a/sa/bb", "spiffe://td/ns/a/sa/B",
	};
	struct spiffe_id id, same, other;

	(void)state;
	assert_int_equal(spiffe_parse(STR("spiffe://td/ns/a/sa/b"), &id), 0);
	assert_int_equal(spiffe_parse(STR("spiffe://td/ns/a/sa/b"), &same), 0);
	assert_true(spiffe_eq(&id, &same));
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		assert_int_equal(spiffe_parse(str_of(others[i]), &other), 0);
		assert_false(spiffe_eq(&id, &other));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spiffe_parse__accepts_and_formats_back),
		cmocka_unit_test(spiffe_parse__slices),
		cmocka_unit_test(spiffe_parse__refuses),
		cmocka_unit_test(spiffe_eq__compares_every_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
