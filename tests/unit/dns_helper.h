/* SPDX-License-Identifier: Apache-2.0
 * dns_helper.h: for tests of DNS: a query from text, and an answer to text, by a reader of their
 * own.
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "ztunnel/dns/msg.h"

#define UNUSED_FN __attribute__((unused))
#define RD	  0x0100

/* Bytes of a query; @payload 0: without EDNS. Returns the length. */
static UNUSED_FN size_t query_bytes(uint8_t *p, uint16_t id, unsigned int flags, const char *name,
				    uint16_t type, uint16_t payload)
{
	struct str rest = str_of(name), label;
	size_t n = DNS_HEADER_BYTES;

	memset(p, 0, DNS_HEADER_BYTES);
	p[0] = (uint8_t)(id >> 8);
	p[1] = (uint8_t)id;
	p[2] = (uint8_t)(flags >> 8);
	p[3] = (uint8_t)flags;
	p[5] = 1;
	p[11] = payload != 0;
	while (rest.n != 0) {
		if (!str_cut(&rest, '.', &label)) {
			label = rest;
			rest.n = 0;
		}
		p[n++] = (uint8_t)label.n;
		memcpy(p + n, label.p, label.n);
		n += label.n;
	}
	memcpy(p + n, (uint8_t[]){0, (uint8_t)(type >> 8), (uint8_t)type, 0, 1}, 5);
	n += 5;
	if (payload != 0) {
		memcpy(p + n,
		       (uint8_t[]){0, 0, 41, (uint8_t)(payload >> 8), (uint8_t)payload, 0, 0, 0x80,
				   0, 0, 0},
		       11);
		n += 11;
	}
	return n;
}

/* A name with pointers, for people. Returns the offset behind it. */
static size_t show_name(const uint8_t *p, size_t n, size_t at, struct strbuf *out)
{
	size_t behind = 0;

	for (int hops = 0;;) {
		assert_true(at < n);
		if ((p[at] & 0xc0) == 0xc0) {
			assert_true(at + 1 < n && hops++ < 8);
			behind = behind != 0 ? behind : at + 2;
			at = (size_t)(p[at] & 0x3f) << 8 | p[at + 1];
			continue;
		}
		if (p[at] == 0)
			break;
		assert_true(at + 1 + p[at] < n);
		strbuf_add(out, p + at + 1, p[at]);
		at += 1u + p[at];
		strbuf_putc(out, '.');
	}
	return behind != 0 ? behind : at + 1;
}

static size_t show_record(const uint8_t *p, size_t n, size_t at, struct strbuf *out)
{
	char text[IP_TEXT_MAX];
	struct ip_addr ip;
	unsigned int type, len;

	strbuf_puts(out, " | ");
	at = show_name(p, n, at, out);
	assert_true(at + 10 <= n);
	type = (unsigned int)p[at] << 8 | p[at + 1];
	len = (unsigned int)p[at + 8] << 8 | p[at + 9];
	assert_true(at + 10 + len <= n);
	if (type == DNS_OPT) {
		strbuf_printf(out, "OPT %u%s%s", (unsigned int)p[at + 2] << 8 | p[at + 3],
			      (p[at + 6] & 0x80) != 0 ? " do" : "",
			      p[at + 4] == 1 ? " badvers" : "");
		return at + 10 + len;
	}
	strbuf_printf(out, " %u ", (unsigned int)p[at + 6] << 8 | p[at + 7]); /* TTL, small */
	if (type == DNS_CNAME) {
		strbuf_puts(out, "CNAME ");
		(void)show_name(p, n, at + 10, out);
	} else {
		assert_int_equal(type == DNS_A ? 4 : type == DNS_AAAA ? 16 : 0, len);
		assert_int_equal(ip_from_bytes(p + at + 10, len, &ip), 0);
		strbuf_printf(out, "%s", ip_format(&ip, text));
	}
	return at + 10 + len;
}

/* "0 aa rd ra | name. 30 A 1.2.3.4 ...": the rcode, flags that are set, then every record. */
static UNUSED_FN const char *show_answer(const uint8_t *p, size_t n, struct strbuf *out)
{
	static const struct {
		unsigned int bit;
		const char *name;
	} flags[] = {{0x400, " aa"}, {0x200, " tc"}, {0x100, " rd"}, {0x80, " ra"}};
	unsigned int f = (unsigned int)p[2] << 8 | p[3], questions = p[5], records;
	size_t at = DNS_HEADER_BYTES;
	struct strbuf name = {0};

	assert_true(n >= DNS_HEADER_BYTES && (f & 0x8000) != 0);
	out->n = 0;
	strbuf_printf(out, "%u", f & 15);
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if ((f & flags[i].bit) != 0)
			strbuf_puts(out, flags[i].name);
	for (; questions > 0; questions--)
		at = show_name(p, n, at, &name) + 4;
	strbuf_fini(&name);
	records = ((unsigned int)p[6] << 8 | p[7]) + ((unsigned int)p[8] << 8 | p[9]) +
		  ((unsigned int)p[10] << 8 | p[11]);
	for (; records > 0; records--)
		at = show_record(p, n, at, out);
	assert_int_equal(at, n);
	return out->p;
}
