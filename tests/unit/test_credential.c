/* SPDX-License-Identifier: Apache-2.0
 * test_credential.c: a certificate with its key as the text that the agent keeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/wire/credential.h"

#define ID "spiffe://cluster.local/ns/shop/sa/cart"

static void credential__round_trip(void **state)
{
	struct credential c = {STR(ID), 1234567890123, STR("key\n"), STR("chain"), STR("r")}, got;
	struct strbuf b = {0};
	struct err err = {0};

	(void)state;
	credential_put(&b, &c);
	assert_string_equal(b.p, "ambient-credential 1\n" ID "\n1234567890123 4 5 1\nkey\nchainr");
	assert_int_equal(credential_parse((struct str){b.p, b.n}, &got, &err), 0);
	assert_true(str_eqc(got.spiffe, ID) && got.not_after == c.not_after);
	assert_true(str_eq(got.key, c.key) && str_eq(got.chain, c.chain) &&
		    str_eq(got.roots, c.roots));
	for (size_t n = 0; n < b.n; n++)
		assert_true(credential_parse((struct str){b.p, n}, &got, &err) < 0);
	strbuf_fini(&b);
}

static void credential__refuses(void **state)
{
	static const struct {
		const char *text, *why;
	} rows[] = {
		{"", "expected the heading"},
		{"ambient-credential 2\n" ID "\n1 1 1 1\nabc", "expected the heading"},
		{"ambient-credential 1\nspiffe://a/ns/b/sa/c/d\n1 1 1 1\nabc", "SPIFFE"},
		{"ambient-credential 1\n\n1 1 1 1\nabc", "SPIFFE"},
		{"ambient-credential 1\n" ID "\n-1 1 1 1\nabc", "expected its end"},
		{"ambient-credential 1\n" ID "\n1 1 1\nabc", "expected its end"},
		{"ambient-credential 1\n" ID "\n1 1 1 1 1\nabc", "expected its end"},
		{"ambient-credential 1\n" ID "\n99999999999999999999 1 1 1\nabc",
		 "expected its end"},
		{"ambient-credential 1\n" ID "\n1 1 1 1\nab", "not as long"},
		{"ambient-credential 1\n" ID "\n1 1 1 1\nabcd", "not as long"},
		{"ambient-credential 1\n" ID "\n1 0 1 2\nabc", "not as long"},
		{"ambient-credential 1\n" ID "\n1 18446744073709551615 2 2\nabc", "not as long"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct credential c;
		struct err err = {0};

		assert_true(credential_parse(str_of(rows[i].text), &c, &err) < 0);
		if (strstr(err.msg, rows[i].why) == NULL)
			fail_msg("row %zu: %s", i, err.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(credential__round_trip),
		cmocka_unit_test(credential__refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
