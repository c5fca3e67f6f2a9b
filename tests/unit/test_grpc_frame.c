/* SPDX-License-Identifier: Apache-2.0
 * test_grpc_frame.c: gRPC framing, status texts and protobuf fields, cut at every place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#include "lib/base/attr.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/wire/grpc_frame.h"

#define BYTES(s)                                                                                   \
	{                                                                                          \
		(s), sizeof(s) - 1                                                                 \
	}

/* Feeds @in in pieces of @step bytes; texts of the messages joined by '|'. Returns the last result.
 */
static int take_all(struct str in, size_t step, size_t max, char *got, size_t cap, bool *partial)
{
	struct grpc_reader r = {.max = max};
	struct err err = {0};
	int rc = 0;

	got[0] = '\0';
	while (in.n != 0 && rc >= 0) {
		struct str piece = {in.p, in.n < step ? in.n : step}, m;

		in.p += piece.n;
		in.n -= piece.n;
		while ((rc = grpc_reader_take(&r, &piece, &m, &err)) == 1) {
			assert_non_null(m.p);
			assert_true(strlen(got) + m.n + 2 < cap);
			if (m.n != 0)
				strncat(got, m.p, m.n);
			strcat(got, "|");
		}
		if (rc == 0)
			assert_int_equal(piece.n, 0);
		else
			assert_string_not_equal(err.msg, "");
	}
	*partial = grpc_reader_partial(&r);
	grpc_reader_fini(&r);
	return rc;
}

static void reader__table(void **state)
{
	static const struct {
		struct str in;
		size_t max;
		int rc;
		const char *got;
		bool partial;
	} rows[] = {
		{BYTES(""), 9, 0, "", false},
		{BYTES("\0\0\0\0\0"), 9, 0, "|", false},
		{BYTES("\0\0\0\0\3abc"), 9, 0, "abc|", false},
		{BYTES("\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\1x"), 9, 0, "abc||x|", false},
		{BYTES("\0\0\0\0\3ab"), 9, 0, "", true},
		{BYTES("\0\0\0"), 9, 0, "", true},
		{BYTES("\0\0\0\0\11abcdefghi"), 9, 0, "abcdefghi|", false},
		{BYTES("\0\0\0\0\12abcdefghij"), 9, -EMSGSIZE, "", false},
		{BYTES("\0\377\377\377\377"), 200u << 20, -EMSGSIZE, "", false},
		{BYTES("\1\0\0\0\1a"), 9, -EPROTO, "", false},
		{BYTES("\0\0\0\0\1a\2\0\0\0\0"), 9, -EPROTO, "a|", false},
	};
	char got[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (size_t step = 1; step <= rows[i].in.n + 1; step++) {
			bool partial;

			assert_int_equal(
				take_all(rows[i].in, step, rows[i].max, got, sizeof(got), &partial),
				rows[i].rc);
			assert_string_equal(got, rows[i].got);
			if (rows[i].rc == 0)
				assert_int_equal(partial, rows[i].partial);
		}
}

/* A promise of much costs nothing until it is kept. */
static void reader__grows_with_what_came(void **state)
{
	struct grpc_reader r = {.max = 200u << 20};
	struct str in = BYTES("\0\14\200\0\0abc"), m;

	(void)state;
	assert_int_equal(grpc_reader_take(&r, &in, &m, NULL), 0);
	assert_true(r.cap <= 4096);
	grpc_reader_fini(&r);
}

static void frame__reads_back(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char got[64];
	bool partial;

	(void)state;
	grpc_frame_add(&b, "hello", 5);
	grpc_frame_add(&b, "", 0);
	grpc_frame_add(&b, "x", 1);
	assert_int_equal(take_all((struct str){b.p, b.n}, 3, 100, got, sizeof(got), &partial), 0);
	assert_string_equal(got, "hello||x|");
}

static void code__table(void **state)
{
	static const struct {
		const char *text;
		enum grpc_code code;
		const char *name;
	} rows[] = {
		{"0", GRPC_OK, "OK"},
		{"1", GRPC_CANCELLED, "CANCELLED"},
		{"2", GRPC_UNKNOWN, "UNKNOWN"},
		{"3", GRPC_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
		{"4", GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
		{"5", GRPC_NOT_FOUND, "NOT_FOUND"},
		{"6", GRPC_ALREADY_EXISTS, "ALREADY_EXISTS"},
		{"7", GRPC_PERMISSION_DENIED, "PERMISSION_DENIED"},
		{"8", GRPC_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
		{"9", GRPC_FAILED_PRECONDITION, "FAILED_PRECONDITION"},
		{"10", GRPC_ABORTED, "ABORTED"},
		{"11", GRPC_OUT_OF_RANGE, "OUT_OF_RANGE"},
		{"12", GRPC_UNIMPLEMENTED, "UNIMPLEMENTED"},
		{"13", GRPC_INTERNAL, "INTERNAL"},
		{"14", GRPC_UNAVAILABLE, "UNAVAILABLE"},
		{"15", GRPC_DATA_LOSS, "DATA_LOSS"},
		{"16", GRPC_UNAUTHENTICATED, "UNAUTHENTICATED"},
		{"17", GRPC_UNKNOWN, "UNKNOWN"},
		{"", GRPC_UNKNOWN, "UNKNOWN"},
		{"00", GRPC_UNKNOWN, "UNKNOWN"},
		{"-1", GRPC_UNKNOWN, "UNKNOWN"},
		{"OK", GRPC_UNKNOWN, "UNKNOWN"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(grpc_code_parse(str_of(rows[i].text)), rows[i].code);
		assert_string_equal(grpc_code_name(rows[i].code), rows[i].name);
	}
	assert_string_equal(grpc_code_name((enum grpc_code)99), "UNKNOWN");
	assert_int_equal(grpc_code_of_http(401), GRPC_UNAUTHENTICATED);
	assert_int_equal(grpc_code_of_http(403), GRPC_PERMISSION_DENIED);
	assert_int_equal(grpc_code_of_http(404), GRPC_UNIMPLEMENTED);
	assert_int_equal(grpc_code_of_http(503), GRPC_UNAVAILABLE);
	assert_int_equal(grpc_code_of_http(302), GRPC_UNKNOWN);
}

static void message__table(void **state)
{
	static const struct {
		struct str in;
		size_t cap;
		const char *want;
	} rows[] = {
		{BYTES(""), 16, ""},
		{BYTES("plain text"), 16, "plain text"},
		{BYTES("a%20b%2Fc%2fd"), 16, "a b/c/d"},
		{BYTES("100%"), 16, "100%"},
		{BYTES("%4"), 16, "%4"},
		{BYTES("%zz"), 16, "%zz"},
		{BYTES("line%0Aend%00\x1b["), 16, "line end  ["},
		{BYTES("cut here"), 4, "cut"},
		{BYTES("%C3%A9"), 16, "\303\251"},
		{BYTES("ab%C3%A9"), 4, "ab"},
		{BYTES("x%FF"), 16, "x"},
	};
	char buf[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_string_equal(grpc_message_decode(rows[i].in, buf, rows[i].cap),
				    rows[i].want);
}

static void pb__table(void **state)
{
	static const struct {
		struct str in;
		int rc;
		uint32_t number;
		uint64_t value;
		const char *bytes;
		size_t left;
	} rows[] = {
		{BYTES(""), 0, 0, 0, "", 0},
		{BYTES("\10\1"), 1, 1, 1, "", 0},
		{BYTES("\10\254\2x"), 1, 1, 300, "", 1},
		{BYTES("\22\3abc"), 1, 2, 0, "abc", 0},
		{BYTES("\22\0\22"), 1, 2, 0, "", 1},
		{BYTES("\22\4abc"), -EINVAL, 0, 0, "", 0},
		{BYTES("\22"), -EINVAL, 0, 0, "", 0},
		{BYTES("\15abcdX"), 1, 1, 0, "abcd", 1},
		{BYTES("\11abcdefgh"), 1, 1, 0, "abcdefgh", 0},
		{BYTES("\11abc"), -EINVAL, 0, 0, "", 0},
		{BYTES("\13"), -EINVAL, 0, 0, "", 0},  /* groups are gone since proto3 */
		{BYTES("\0\1"), -EINVAL, 0, 0, "", 0}, /* field 0 */
		{BYTES("\200"), -EINVAL, 0, 0, "", 0},
		{BYTES("\10\377\377\377\377\377\377\377\377\377\1"), 1, 1, UINT64_MAX, "", 0},
		{BYTES("\10\377\377\377\377\377\377\377\377\377\2"), -EINVAL, 0, 0, "", 0},
		{BYTES("\22\377\377\377\377\377\377\377\377\377\1a"), -EINVAL, 0, 0, "", 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct str in = rows[i].in;
		struct pb_field f;

		assert_int_equal(pb_next(&in, &f), rows[i].rc);
		if (rows[i].rc != 1)
			continue;
		assert_int_equal(f.number, rows[i].number);
		assert_int_equal(f.value, rows[i].value);
		assert_true(str_eqc(f.bytes, rows[i].bytes));
		assert_int_equal(in.n, rows[i].left);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reader__table),     cmocka_unit_test(reader__grows_with_what_came),
		cmocka_unit_test(frame__reads_back), cmocka_unit_test(code__table),
		cmocka_unit_test(message__table),    cmocka_unit_test(pb__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
