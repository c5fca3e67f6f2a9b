/* SPDX-License-Identifier: Apache-2.0
 * test_proxy_v2.c: the PROXY protocol's header, byte for byte ("The PROXY protocol" 2.2;
 * ztunnel-spec 5.6).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "lib/format/proxy_v2.h"

#define SIGNATURE "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"

static struct ip_port addr(const char *text)
{
	struct ip_port a;

	assert_int_equal(ip_port_parse(str_of(text), &a), 0);
	return a;
}

static void write__table(void **state)
{
	static const struct {
		const char *src, *dst, *peer, *want;
		size_t n;
	} rows[] = {
		{"10.0.0.1:4660", "10.1.0.2:80", "",
		 SIGNATURE "\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x01\x00\x02\x12\x34\x00\x50", 28},
		{"10.0.0.1:4660", "10.1.0.2:80", "spiffe",
		 SIGNATURE "\x21\x11\x00\x15\x0a\x00\x00\x01\x0a\x01\x00\x02\x12\x34\x00\x50"
			   "\xd0\x00\x06spiffe",
		 37},
		{"[fd00::1]:1", "[fd00::2]:65535", "",
		 SIGNATURE "\x21\x21\x00\x24"
			   "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
			   "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x00\x01\xff\xff",
		 52},
		/* of two families: left out */
		{"10.0.0.1:1", "[fd00::2]:80", "x", SIGNATURE "\x21\x01\x00\x04\xd0\x00\x01x", 20},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port src = addr(rows[i].src), dst = addr(rows[i].dst);
		uint8_t buf[PROXY_V2_MAX];
		size_t n = proxy_v2_write(buf, &src, &dst, str_of(rows[i].peer));

		assert_int_equal(n, rows[i].n);
		assert_memory_equal(buf, rows[i].want, n);
	}
}

static void write__longest(void **state)
{
	struct ip_port src = addr("[fd00::1]:1"), dst = addr("[fd00::2]:2");
	char peer[PROXY_V2_ID_MAX];
	uint8_t buf[PROXY_V2_MAX];
	size_t n;

	(void)state;
	memset(peer, 'p', sizeof(peer));
	n = proxy_v2_write(buf, &src, &dst, (struct str){peer, sizeof(peer)});
	assert_int_equal(n, PROXY_V2_MAX);
	assert_int_equal(buf[14] << 8 | buf[15], n - 16);
	assert_int_equal(buf[n - 1], 'p');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(write__table),
		cmocka_unit_test(write__longest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
