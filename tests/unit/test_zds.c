/* SPDX-License-Identifier: Apache-2.0
 * test_zds.c: ZDS packets, byte for byte (cni-spec 4.8), and what is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/wire/zds.h"

#define UID  "9b2c3a51-1b2d-4c6e-8f00-0123456789ab"
#define UID2 "00000000-1111-2222-3333-444444444444"

static int decode_as(enum zds_kind kind, const uint8_t *p, size_t n, struct zds_msg *ret,
		     struct err *err)
{
	if (kind == ZDS_HELLO)
		return zds_decode_hello(p, n, ret, err);
	if (kind == ZDS_ACK || kind == ZDS_HELD || kind == ZDS_DRAINING || kind == ZDS_CREDENTIAL)
		return zds_decode_response(p, n, ret, err);
	return zds_decode_request(p, n, ret, err);
}

#define BYTES(lit) (lit), sizeof(lit) - 1
static const struct {
	struct zds_msg m;
	const char *bytes;
	size_t n;
} fixtures[] = {
	{{.kind = ZDS_HELLO, .version = ZDS_V1}, BYTES("\x08\x01")},
	{{.kind = ZDS_ADD,
	  .uid = UID,
	  .has_info = true,
	  .name = "app",
	  .ns = "default",
	  .sa = "default"},
	 BYTES("\x0a\x3f\x0a\x24" UID "\x12\x17\x0a\x03"
	       "app\x12\x07"
	       "default\x1a\x07"
	       "default")},
	{{.kind = ZDS_ACK}, BYTES("\x0a\x00")},
	{{.kind = ZDS_ACK, .error = "no"}, BYTES("\x0a\x04\x0a\x02no")},
	{{.kind = ZDS_KEEP, .uid = UID2}, BYTES("\x2a\x26\x0a\x24" UID2)},
	{{.kind = ZDS_SNAPSHOT_SENT}, BYTES("\x1a\x00")},
	{{.kind = ZDS_DEL, .uid = UID}, BYTES("\x12\x26\x12\x24" UID)},
	/* info with empty texts is present all the same (cni-spec 4.2) */
	{{.kind = ZDS_ADD, .uid = "u", .has_info = true}, BYTES("\x0a\x05\x0a\x01u\x12\x00")},
	{{.kind = ZDS_ADD, .uid = "u"}, BYTES("\x0a\x03\x0a\x01u")},
	/* version 2, ours */
	{{.kind = ZDS_HELLO, .version = ZDS_V2_CUSTODY, .held = 3}, BYTES("\x08\x02\x80\x01\x03")},
	{{.kind = ZDS_ADD, .uid = "u", .has_info = true, .ports = {15001, 15008}, .nports = 2},
	 BYTES("\x0a\x0c\x0a\x01u\x12\x00\x82\x01\x04\x99\x75\xa0\x75")},
	{{.kind = ZDS_HELD, .uid = "u", .ports = {15001}, .nports = 1},
	 BYTES("\x82\x01\x07\x0a\x01u\x12\x02\x99\x75")},
	{{.kind = ZDS_DRAINING}, BYTES("\x8a\x01\x00")},
	/* version 3, ours */
	{{.kind = ZDS_HELLO, .version = ZDS_V3_KEYS}, BYTES("\x08\x03")},
	{{.kind = ZDS_ADD,
	  .uid = "u",
	  .has_info = true,
	  .ports = {15001},
	  .nports = 1,
	  .agent_version = ZDS_V3_KEYS,
	  .credential = true},
	 BYTES("\x0a\x10\x0a\x01u\x12\x00\x82\x01\x02\x99\x75\x88\x01\x03\x90\x01\x01")},
	{{.kind = ZDS_CREDENTIAL, .identity = "spiffe://a/ns/b/sa/c"},
	 BYTES("\x92\x01\x16\x0a\x14spiffe://a/ns/b/sa/c")},
	{{.kind = ZDS_HELLO, .version = 2, .held = 1, .dns = true},
	 BYTES("\x08\x02\x80\x01\x01\x88\x01\x01")},
	{{.kind = ZDS_ADD, .uid = "u", .dns_not_captured = true},
	 BYTES("\x0a\x06\x0a\x01u\x98\x01\x01")},
};

static void zds__fixtures_both_ways(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++) {
		uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
		struct zds_msg back;
		struct err e = {0};
		int n = zds_encode(&fixtures[i].m, buf, &e);

		if (n != (int)fixtures[i].n)
			fail_msg("fixture %zu: %d bytes, expected %zu %s", i, n, fixtures[i].n,
				 e.msg);
		assert_memory_equal(buf, fixtures[i].bytes, fixtures[i].n);
		assert_int_equal(decode_as(fixtures[i].m.kind, buf, (size_t)n, &back, &e), 0);
		assert_memory_equal(&back, &fixtures[i].m, sizeof(back));
	}
}

static void zds_decode__every_truncation_is_refused_or_shorter(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++)
		for (size_t n = 0; n < fixtures[i].n; n++) {
			const uint8_t *p = (const uint8_t *)fixtures[i].bytes;
			struct zds_msg back = {.kind = ZDS_KIND_N};

			/* a hello may end after its version, or what is held; nothing else may */
			if (decode_as(fixtures[i].m.kind, p, n, &back, NULL) == 0)
				assert_true(fixtures[i].m.kind == ZDS_HELLO && (n == 2 || n == 5));
			else
				assert_int_equal(back.kind, ZDS_KIND_N);
		}
}

static void zds_decode__refuses(void **state)
{
	static const struct {
		enum zds_kind as;
		const char *bytes;
		size_t n;
		const char *part;
	} rows[] = {
		{ZDS_HELLO, BYTES(""), "packet of 0 bytes"},
		{ZDS_HELLO, BYTES("\x08\x00"), "hello without a version"},
		{ZDS_HELLO, BYTES("\x10\x01"), "hello without a version"},
		{ZDS_HELLO, BYTES("GET /"), "cannot be decoded"},
		{ZDS_ADD, BYTES(""), "packet of 0 bytes"},
		{ZDS_ADD, BYTES("\x0a\x00"), "uid is empty"},
		{ZDS_ADD, BYTES("\x12\x00"), "uid is empty"},
		{ZDS_ADD, BYTES("\x2a\x00"), "uid is empty"},
		{ZDS_ADD, BYTES("\x22\x00"), "without a known payload"}, /* field 4 is nobody's */
		{ZDS_ADD, BYTES("\x08\x01"), "cannot be decoded"},	 /* a hello is no request */
		{ZDS_ADD, BYTES("\x78\x01"), "without a known payload"},
		{ZDS_ADD,
		 BYTES("\x0a\x05\x0a\x03"
		       "a\0b"),
		 "uid has a NUL byte"},
		{ZDS_ADD, BYTES("\x0a\x04\x0a\x02\xff\xfe"), "uid has a NUL byte or is not UTF-8"},
		{ZDS_ADD, BYTES("\x0a\x0a\x0a\x01u\x12\x05\x0a\x03x\0y"),
		 "workload_info.name has a NUL"},
		{ZDS_ADD, BYTES("\x0a\x0a\x0a\x01u\x12\x05\x12\x03x\0y"),
		 "workload_info.namespace has a NUL"},
		{ZDS_ADD, BYTES("\x0a\x0a\x0a\x01u\x12\x05\x1a\x03x\0y"),
		 "workload_info.service_account has a NUL"},
		{ZDS_ADD, BYTES("\x0a\x07\x0a\x01u\x82\x01\x01\x00"), "listener port 0"},
		{ZDS_ADD, BYTES("\x0a\x09\x0a\x01u\x82\x01\x03\x80\x80\x04"),
		 "listener port 65536"},
		{ZDS_ADD, BYTES("\x0a\x0e\x0a\x01u\x82\x01\x08\x01\x01\x01\x01\x01\x01\x01\x01"),
		 "8 listener ports, the limit is 7"},
		{ZDS_ADD, BYTES("\x0a\x7f\x0a\x01u"), "cannot be decoded"},
		{ZDS_ADD, BYTES("\x0b\x00"), "cannot be decoded"},
		{ZDS_ACK, BYTES("\x12\x00"), "without a known payload"},
		{ZDS_ACK, BYTES("\x82\x01\x00"), "uid is empty"},
		{ZDS_ACK, BYTES("\x0a\x05\x0a\x03x\0y"), "error has a NUL"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct zds_msg m;
		struct err e = {0};

		assert_int_equal(
			decode_as(rows[i].as, (const uint8_t *)rows[i].bytes, rows[i].n, &m, &e),
			-EINVAL);
		if (strstr(e.msg, rows[i].part) == NULL)
			fail_msg("row %zu: %s", i, e.msg);
	}
}

static void zds_decode__too_long_texts(void **state)
{
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES + 1] = {0x0a, 0x42, 0x0a, 0x40};
	struct zds_msg m;
	struct err e = {0};

	(void)state;
	memset(buf + 4, 'u', 64);
	assert_int_equal(zds_decode_request(buf, 68, &m, &e), -EINVAL);
	assert_string_equal(e.msg, "zds: uid has 64 bytes, the limit is 63");
	buf[1] = 0x41;
	buf[3] = 0x3f;
	assert_int_equal(zds_decode_request(buf, 67, &m, &e), 0);
	assert_int_equal(strlen(m.uid), 63);
	assert_int_equal(zds_decode_request(buf, sizeof(buf), &m, &e), -EINVAL);
	assert_string_equal(e.msg, "zds: packet of 1025 bytes, expected 1 to 1024");
}

static void zds_decode__skips_unknown_fields(void **state)
{
	struct zds_msg m;

	(void)state;
	assert_int_equal(zds_decode_hello((const uint8_t *)"\x08\x01\x7a\x02hi", 6, &m, NULL), 0);
	assert_int_equal(m.version, 1);
	assert_int_equal(
		zds_decode_request((const uint8_t *)"\x0a\x06\x0a\x01u\x22\x01x", 8, &m, NULL), 0);
	assert_string_equal(m.uid, "u");
}

static void zds_encode__largest_add_fits(void **state)
{
	struct zds_msg m = {.kind = ZDS_ADD, .has_info = true, .nports = ZDS_PORTS_MAX}, back;
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
	int n;

	(void)state;
	memset(m.uid, 'u', sizeof(m.uid) - 1);
	memset(m.name, 'n', sizeof(m.name) - 1);
	memset(m.ns, 's', sizeof(m.ns) - 1);
	memset(m.sa, 'a', sizeof(m.sa) - 1);
	for (size_t i = 0; i < ZDS_PORTS_MAX; i++)
		m.ports[i] = UINT16_MAX;
	n = zds_encode(&m, buf, NULL);
	assert_true(n > 800);
	assert_int_equal(zds_decode_request(buf, (size_t)n, &back, NULL), 0);
	assert_memory_equal(&back, &m, sizeof(m));
}

static void zds_encode__refuses_what_peers_would(void **state)
{
	struct zds_msg m = {.kind = ZDS_DEL}, hello = {.kind = ZDS_HELLO};
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
	struct err e = {0};

	(void)state;
	assert_int_equal(zds_encode(&m, buf, &e), -EINVAL);
	assert_string_equal(e.msg, "zds: uid is empty");
	assert_int_equal(zds_encode(&hello, buf, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zds__fixtures_both_ways),
		cmocka_unit_test(zds_decode__every_truncation_is_refused_or_shorter),
		cmocka_unit_test(zds_decode__refuses),
		cmocka_unit_test(zds_decode__too_long_texts),
		cmocka_unit_test(zds_decode__skips_unknown_fields),
		cmocka_unit_test(zds_encode__largest_add_fits),
		cmocka_unit_test(zds_encode__refuses_what_peers_would),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
