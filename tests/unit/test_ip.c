/* SPDX-License-Identifier: Apache-2.0
 * test_ip.c: addresses, ports and prefixes as values; hostile texts (security.md C1).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/format/ip.h"

/* @out NULL: refused. */
struct row {
	const char *in, *out;
};

static void ip_parse__table(void **state)
{
	static const struct row rows[] = {
		{"1.2.3.4", "1.2.3.4"},
		{"0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255"},
		{"::", "::"},
		{"::1", "::1"},
		{"FE80::A", "fe80::a"},
		{"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
		{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
		{"1:0:0:2:0:0:0:3", "1:0:0:2::3"},
		{"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"::ffff:10.1.2.3", "10.1.2.3"},
		{"::ffff:a01:203", "10.1.2.3"},
		{"::ffff:0:0", "0.0.0.0"},
		{"::10.1.2.3", "::a01:203"}, /* compatible, not mapped: stays IPv6 */
		{"64:ff9b::1.2.3.4", "64:ff9b::102:304"},
		{"", NULL},
		{"1.2.3", NULL},
		{"1.2.3.4.5", NULL},
		{"01.2.3.4", NULL}, /* octal */
		{"1.2.3.04", NULL},
		{"0x1.2.3.4", NULL},
		{"16909060", NULL},
		{"1.2.3.256", NULL},
		{"1.2.3.4.", NULL}, /* trailing dot */
		{".1.2.3.4", NULL},
		{"1..3.4", NULL},
		{" 1.2.3.4", NULL},
		{"1.2.3.4 ", NULL},
		{"1.2.3.4\n", NULL},
		{"+1.2.3.4", NULL},
		{"-1.2.3.4", NULL},
		{"1.2.3.4/32", NULL},
		{"1.2.3.4:80", NULL},
		{"[::1]", NULL},
		{"fe80::1%eth0", NULL}, /* zone */
		{"fe80::1%1", NULL},
		{":::", NULL},
		{":1", NULL},
		{"1:", NULL},
		{"1::2::3", NULL},
		{"1:2:3:4:5:6:7", NULL},
		{"1:2:3:4:5:6:7:8:9", NULL},
		{"12345::", NULL},
		{"00001::", NULL},
		{"::ffff:1.2.3", NULL},
		{"::ffff:01.2.3.4", NULL},
		{"g::", NULL},
		{"localhost", NULL},
		{"0000:0000:0000:0000:0000:ffff:255.255.255.2555", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_addr a = {0};
		char buf[IP_TEXT_MAX];
		int r = ip_parse(str_of(rows[i].in), &a);

		if (r != (rows[i].out != NULL ? 0 : -EINVAL))
			fail_msg("%s: %d", rows[i].in, r);
		if (rows[i].out != NULL)
			assert_string_equal(ip_format(&a, buf), rows[i].out);
		else
			assert_int_equal(a.len, 0); /* untouched on failure */
	}
}

static void ip_parse__refuses_embedded_nul(void **state)
{
	struct ip_addr a;

	(void)state;
	assert_int_equal(ip_parse((struct str){"1.2.3.4\0x", 9}, &a), -EINVAL);
	assert_int_equal(ip_parse((struct str){"::1\0", 4}, &a), -EINVAL);
}

static void ip_port_parse__table(void **state)
{
	static const struct row rows[] = {
		{"1.2.3.4:80", "1.2.3.4:80"},
		{"1.2.3.4:0", "1.2.3.4:0"},
		{"1.2.3.4:65535", "1.2.3.4:65535"},
		{"[::1]:15008", "[::1]:15008"},
		{"[::ffff:1.2.3.4]:80", "1.2.3.4:80"},
		{"1.2.3.4:65536", NULL},
		{"1.2.3.4:", NULL},
		{"1.2.3.4", NULL},
		{"1.2.3.4:080", NULL},
		{"1.2.3.4:+80", NULL},
		{"1.2.3.4: 80", NULL},
		{"1.2.3.4:80 ", NULL},
		{"1.2.3.4:80:80", NULL},
		{"::1:80", NULL}, /* no brackets */
		{"[::1]", NULL},
		{"[::1]80", NULL},
		{"[::1]:", NULL},
		{"[::1:80", NULL},
		{"[1.2.3.4]:80", NULL},
		{"[fe80::1%eth0]:80", NULL},
		{"user@1.2.3.4:80", NULL},
		{"1.2.3.4.:80", NULL},
		{"host:80", NULL},
		{":80", NULL},
		{"[]:80", NULL},
		{"[", NULL},
		{"", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port a = {0};
		char buf[IP_PORT_TEXT_MAX];
		int r = ip_port_parse(str_of(rows[i].in), &a);

		if (r != (rows[i].out != NULL ? 0 : -EINVAL))
			fail_msg("%s: %d", rows[i].in, r);
		if (rows[i].out != NULL)
			assert_string_equal(ip_port_format(&a, buf), rows[i].out);
	}
}

static void ip_cidr_parse__table(void **state)
{
	static const struct {
		const char *in;
		int r;
		uint8_t len, prefix;
	} rows[] = {
		{"10.0.0.0/8", 0, 4, 8},
		{"10.1.2.3/8", 0, 4, 8},
		{"10.1.2.3", 0, 4, 32},
		{"0.0.0.0/0", 0, 4, 0},
		{"::/0", 0, 16, 0},
		{"fd00::1", 0, 16, 128},
		{"fd00::/48", 0, 16, 48},
		{"::ffff:10.0.0.0/104", 0, 4, 8},
		{"::ffff:10.0.0.0/95", -EINVAL, 0, 0},
		{"10.0.0.0/33", -EINVAL, 0, 0},
		{"fd00::/129", -EINVAL, 0, 0},
		{"10.0.0.0/", -EINVAL, 0, 0},
		{"10.0.0.0/08", -EINVAL, 0, 0},
		{"10.0.0.0/-1", -EINVAL, 0, 0},
		{"10.0.0.0/8/8", -EINVAL, 0, 0},
		{"/8", -EINVAL, 0, 0},
		{"10/8", -EINVAL, 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_cidr c = {0};

		assert_int_equal(ip_cidr_parse(str_of(rows[i].in), &c), rows[i].r);
		assert_int_equal(c.ip.len, rows[i].len);
		assert_int_equal(c.prefix, rows[i].prefix);
	}
}

static void ip_in_cidr__table(void **state)
{
	static const struct {
		const char *ip, *cidr;
		bool in;
	} rows[] = {
		{"10.1.2.3", "10.0.0.0/8", true},
		{"11.1.2.3", "10.0.0.0/8", false},
		{"10.1.2.3", "10.1.2.3", true},
		{"10.1.2.4", "10.1.2.3", false},
		{"10.1.2.127", "10.1.2.0/25", true},
		{"10.1.2.128", "10.1.2.0/25", false},
		{"10.1.2.128", "10.1.2.64/25", false},
		{"1.2.3.4", "0.0.0.0/0", true},
		{"::1", "0.0.0.0/0", false},
		{"1.2.3.4", "::/0", false},
		{"fd00::1", "fd00::/8", true},
		{"fe00::1", "fd00::/8", false},
		{"fd00::1", "fd00::1/128", true},
		{"fd00::2", "fd00::1/128", false},
		{"::ffff:10.1.2.3", "10.0.0.0/8", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_addr a;
		struct ip_cidr c;

		assert_int_equal(ip_parse(str_of(rows[i].ip), &a), 0);
		assert_int_equal(ip_cidr_parse(str_of(rows[i].cidr), &c), 0);
		if (ip_in_cidr(&a, &c) != rows[i].in)
			fail_msg("%s in %s", rows[i].ip, rows[i].cidr);
	}
}

static void ip_is__table(void **state)
{
	static const struct {
		const char *ip;
		bool loopback, link_local, multicast, unspecified;
	} rows[] = {
		{"127.0.0.1", true, false, false, false},
		{"127.255.0.9", true, false, false, false},
		{"128.0.0.1", false, false, false, false},
		{"::1", true, false, false, false},
		{"::2", false, false, false, false},
		{"::ffff:127.0.0.1", true, false, false, false},
		{"169.254.7.127", false, true, false, false},
		{"169.253.7.127", false, false, false, false},
		{"fe80::1", false, true, false, false},
		{"febf::1", false, true, false, false},
		{"fec0::1", false, false, false, false},
		{"224.0.0.1", false, false, true, false},
		{"239.255.255.255", false, false, true, false},
		{"240.0.0.1", false, false, false, false},
		{"ff02::1", false, false, true, false},
		{"0.0.0.0", false, false, false, true},
		{"::", false, false, false, true},
		{"::ffff:0.0.0.0", false, false, false, true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_addr a;

		assert_int_equal(ip_parse(str_of(rows[i].ip), &a), 0);
		assert_int_equal(ip_is_loopback(&a), rows[i].loopback);
		assert_int_equal(ip_is_link_local(&a), rows[i].link_local);
		assert_int_equal(ip_is_multicast(&a), rows[i].multicast);
		assert_int_equal(ip_is_unspecified(&a), rows[i].unspecified);
	}
	assert_false(ip_is_unspecified(&(struct ip_addr){0})); /* no address is not 0.0.0.0 */
}

static void ip_eq__mapped_equals_plain(void **state)
{
	struct ip_addr a, b, c;

	(void)state;
	assert_int_equal(ip_parse(STR("::ffff:1.2.3.4"), &a), 0);
	assert_int_equal(ip_parse(STR("1.2.3.4"), &b), 0);
	assert_int_equal(ip_parse(STR("102:304::"), &c), 0);
	assert_true(ip_eq(&a, &b));
	assert_int_equal(ip_hash(&a), ip_hash(&b));
	assert_false(ip_eq(&b, &c));
	assert_int_not_equal(ip_hash(&b), ip_hash(&c));
	assert_int_equal(ip_from_bytes("\1\2\3", 3, &a), -EINVAL);
	assert_int_equal(ip_from_bytes("\1\2\3\4", 4, &a), 0);
	assert_true(ip_eq(&a, &b));
}

static void ip_port_hash__port_counts(void **state)
{
	struct ip_port a, b;

	(void)state;
	assert_int_equal(ip_port_parse(STR("1.2.3.4:80"), &a), 0);
	assert_int_equal(ip_port_parse(STR("1.2.3.4:81"), &b), 0);
	assert_false(ip_port_eq(&a, &b));
	assert_int_not_equal(ip_port_hash(&a), ip_port_hash(&b));
	b.port = 80;
	assert_true(ip_port_eq(&a, &b));
	assert_int_equal(ip_port_hash(&a), ip_port_hash(&b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ip_parse__table),
		cmocka_unit_test(ip_parse__refuses_embedded_nul),
		cmocka_unit_test(ip_port_parse__table),
		cmocka_unit_test(ip_cidr_parse__table),
		cmocka_unit_test(ip_in_cidr__table),
		cmocka_unit_test(ip_is__table),
		cmocka_unit_test(ip_eq__mapped_equals_plain),
		cmocka_unit_test(ip_port_hash__port_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
