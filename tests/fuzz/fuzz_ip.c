/* SPDX-License-Identifier: Apache-2.0
 * fuzz_ip.c: any text as address, address with port and prefix. Properties: format and parse agree;
 * a mapped address never stays IPv6; an address is inside its own block.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/format/ip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_addr(const struct ip_addr *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct ip_addr again;
	char buf[IP_TEXT_MAX];

	bug_on(a->len != 4 && a->len != 16);
	bug_on(a->len == 16 && memcmp(a->b, mapped, sizeof(mapped)) == 0);
	bug_on(ip_parse(str_of(ip_format(a, buf)), &again) != 0);
	bug_on(!ip_eq(a, &again) || ip_hash(a) != ip_hash(&again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str s = {(const char *)data, size};
	struct ip_addr a;
	struct ip_port p, again;
	struct ip_cidr c;
	char buf[IP_PORT_TEXT_MAX];

	if (ip_parse(s, &a) == 0)
		check_addr(&a);
	if (ip_port_parse(s, &p) == 0) {
		check_addr(&p.ip);
		bug_on(ip_port_parse(str_of(ip_port_format(&p, buf)), &again) != 0);
		bug_on(!ip_port_eq(&p, &again));
	}
	if (ip_cidr_parse(s, &c) == 0) {
		check_addr(&c.ip);
		bug_on(c.prefix > c.ip.len * 8 || !ip_in_cidr(&c.ip, &c));
	}
	/* the first 4 or 16 bytes as a raw address */
	if (ip_from_bytes(data, size >= 16 ? 16 : size, &a) == 0)
		check_addr(&a);
	return 0;
}
