/* SPDX-License-Identifier: Apache-2.0
 * fuzz_dns_upstream.c: any bytes as a resolver's answer. Properties: only what repeats the question
 * and the id is believed; what is kept comes out with the same length, bytes but for lifetimes and
 * the order of addresses, and none that is longer; what is handed on fits, has the client's id, and
 * is not authoritative.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "ztunnel/dns/addresses.h"
#include "ztunnel/dns/cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void keep(const struct dns_query *q, const uint8_t *p, size_t n)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	struct dns_cache_sum sum = {0};
	struct dns_records was, is;
	struct dns_record a, b;
	struct dns_cache c;
	uint32_t ttl = dns_answer_lifetime(q, p, n);
	size_t got;

	bug_on(ttl > DNS_CACHE_MAX_S);
	dns_cache_init(&c, 1 << 20, &sum);
	dns_cache_put(&c, q, p, n, 1000);
	got = dns_cache_get(&c, q, 1000 + ttl * 1000ull - 1, out, DNS_MESSAGE_MAX);
	bug_on(got != 0 && (got != n || ttl == 0 || dns_truncated(out)));
	bug_on(got == 0 && ttl != 0 && dns_same_letters(p, q));
	dns_records_init(&was, p, n);
	dns_records_init(&is, out, got);
	while (got != 0 && dns_records_next(&was, &a)) {
		bug_on(!dns_records_next(&is, &b) || a.at != b.at || a.len != b.len);
		bug_on(a.type != b.type || (a.type != DNS_OPT && b.ttl != a.ttl - (ttl - 1)));
	}
	bug_on(dns_cache_get(&c, q, 1000 + ttl * 1000ull, out, DNS_MESSAGE_MAX) != 0 ||
	       sum.entries != 0);
	dns_cache_fini(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buf[DNS_MESSAGE_MAX];
	static const char name[] = "\3www\2ab";
	struct dns_query q = {.id = 0xbeef,
			      .type = DNS_A,
			      .class = DNS_CLASS_IN,
			      .question = true,
			      .plain = true,
			      .rd = true,
			      .edns = size % 2 != 0,
			      .payload = DNS_UDP_BYTES};
	struct ip_addr addr[4];
	uint32_t ttl = UINT32_MAX;
	size_t n;

	if (size > sizeof(buf) || size < DNS_HEADER_BYTES)
		return 0;
	memcpy(buf, data, size);
	q.name.n = sizeof(name);
	memcpy(q.name.b, name, sizeof(name));
	if (!dns_is_answer(buf, size, &q, 0x1234))
		return 0;
	bug_on(buf[0] != 0x12 || buf[1] != 0x34 || (buf[2] & 0x80) == 0);
	keep(&q, buf, size);
	n = dns_addresses(buf, size, DNS_A, addr, ARRAY_LEN(addr), &ttl);
	bug_on(n > ARRAY_LEN(addr) ||
	       (n != 0 && (addr[n - 1].len != 4 || ttl > ADDRESSES_TTL_MAX_S)));
	n = dns_forwarded(buf, size, &q, DNS_UDP_BYTES);
	bug_on(n > DNS_UDP_BYTES || n < DNS_HEADER_BYTES || n > size + 11 + sizeof(name) + 4);
	bug_on(buf[0] != 0xbe || buf[1] != 0xef || (buf[2] & 0x84) != 0x80 || (buf[3] & 0x80) == 0);
	bug_on(dns_rcode_of(buf) != (data[3] & 15));
	return 0;
}
