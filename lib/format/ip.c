/* SPDX-License-Identifier: Apache-2.0
 * ip.c: see ip.h. Pure: inet_pton() is used as a parser of text, nothing here touches a socket.
 */
#include "lib/format/ip.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/hash.h"

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

int ip_from_bytes(const void *p, size_t n, struct ip_addr *ret)
{
	const uint8_t *b = p;
	struct ip_addr a = {0};

	if (n != 4 && n != 16)
		return -EINVAL;
	if (n == 16 && memcmp(b, mapped_prefix, sizeof(mapped_prefix)) == 0) {
		b += sizeof(mapped_prefix);
		n = 4;
	}
	a.len = (uint8_t)n;
	memcpy(a.b, b, n);
	*ret = a;
	return 0;
}

/* As written: @ret_len is 4 or 16 before mapping, which prefixes need. */
static int parse_bytes(struct str s, uint8_t buf[16], size_t *ret_len)
{
	char text[IP_TEXT_MAX];

	if (str_to_cstr(s, text, sizeof(text), NULL) != 0)
		return -EINVAL;
	if (strchr(text, ':') == NULL) {
		*ret_len = 4;
		return inet_pton(AF_INET, text, buf) == 1 ? 0 : -EINVAL;
	}
	*ret_len = 16;
	return inet_pton(AF_INET6, text, buf) == 1 ? 0 : -EINVAL;
}

int ip_parse(struct str s, struct ip_addr *ret)
{
	uint8_t buf[16];
	size_t n;

	if (parse_bytes(s, buf, &n) != 0)
		return -EINVAL;
	return ip_from_bytes(buf, n, ret);
}

int ip_port_parse(struct str s, struct ip_port *ret)
{
	struct ip_port v = {0};
	struct str host;

	if (s.n != 0 && s.p[0] == '[') {
		s.p++;
		s.n--;
		if (!str_cut(&s, ']', &host) || s.n == 0 || s.p[0] != ':' ||
		    memchr(host.p, ':', host.n) == NULL)
			return -EINVAL;
		s.p++;
		s.n--;
	} else if (!str_cut(&s, ':', &host)) {
		return -EINVAL;
	}
	if (ip_parse(host, &v.ip) != 0 || parse_u16(s, 0, UINT16_MAX, &v.port) != 0)
		return -EINVAL;
	*ret = v;
	return 0;
}

int ip_cidr_parse(struct str s, struct ip_cidr *ret)
{
	struct str addr = s;
	struct ip_cidr v = {0};
	uint8_t buf[16];
	size_t n;
	uint16_t bits;
	bool with_prefix = str_cut(&s, '/', &addr);

	if (parse_bytes(addr, buf, &n) != 0 || ip_from_bytes(buf, n, &v.ip) != 0)
		return -EINVAL;
	bits = (uint16_t)(n * 8);
	if (with_prefix && parse_u16(s, 0, bits, &bits) != 0)
		return -EINVAL;
	if (n == 16 && v.ip.len == 4) {
		if (bits < 96) /* a block that is wider than the mapped addresses is no IPv4 block
				*/
			return -EINVAL;
		bits = (uint16_t)(bits - 96);
	}
	v.prefix = (uint8_t)bits;
	*ret = v;
	return 0;
}

bool ip_eq(const struct ip_addr *a, const struct ip_addr *b)
{
	return a->len == b->len && memcmp(a->b, b->b, a->len) == 0;
}

bool ip_port_eq(const struct ip_port *a, const struct ip_port *b)
{
	return a->port == b->port && ip_eq(&a->ip, &b->ip);
}

bool ip_in_cidr(const struct ip_addr *a, const struct ip_cidr *c)
{
	size_t whole = c->prefix / 8;
	unsigned int rest = c->prefix % 8;
	uint8_t mask = (uint8_t)(0xff00u >> rest);

	if (a->len == 0 || a->len != c->ip.len || c->prefix > a->len * 8)
		return false;
	if (memcmp(a->b, c->ip.b, whole) != 0)
		return false;
	return rest == 0 || ((a->b[whole] ^ c->ip.b[whole]) & mask) == 0;
}

struct ip_addr ip_loopback(uint8_t len)
{
	struct ip_addr a = {.len = len};

	if (len == 4)
		a.b[0] = 127;
	a.b[len - 1] = 1;
	return a;
}

bool ip_is_loopback(const struct ip_addr *a)
{
	static const uint8_t one[16] = {[15] = 1};

	return (a->len == 4 && a->b[0] == 127) || (a->len == 16 && memcmp(a->b, one, 16) == 0);
}

bool ip_is_link_local(const struct ip_addr *a)
{
	return (a->len == 4 && a->b[0] == 169 && a->b[1] == 254) ||
	       (a->len == 16 && a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80);
}

bool ip_is_multicast(const struct ip_addr *a)
{
	return (a->len == 4 && (a->b[0] & 0xf0) == 0xe0) || (a->len == 16 && a->b[0] == 0xff);
}

bool ip_is_unspecified(const struct ip_addr *a)
{
	static const uint8_t zero[16];

	return a->len != 0 && memcmp(a->b, zero, a->len) == 0;
}

uint64_t ip_hash(const struct ip_addr *a)
{
	/* the length is part of the key: 1.2.3.4 and 102:304:: share their first bytes */
	return hash_bytes(a, sizeof(a->len) + a->len);
}

uint64_t ip_port_hash(const struct ip_port *a)
{
	return hash_mix(ip_hash(&a->ip), a->port);
}

/* The longest run of at least two zero groups, the first one of equals (RFC 5952 section 4.2). */
static void zero_run(const uint16_t g[8], int *ret_at, int *ret_n)
{
	*ret_at = -1;
	*ret_n = 1;
	for (int i = 0; i < 8; i++) {
		int n = 0;

		while (i + n < 8 && g[i + n] == 0)
			n++;
		if (n > *ret_n) {
			*ret_at = i;
			*ret_n = n;
		}
		i += n;
	}
}

const char *ip_format(const struct ip_addr *a, char buf[IP_TEXT_MAX])
{
	uint16_t g[8];
	int at, n;
	size_t o = 0;

	if (a->len == 4) {
		(void)snprintf(buf, IP_TEXT_MAX, "%u.%u.%u.%u", a->b[0], a->b[1], a->b[2], a->b[3]);
		return buf;
	}
	if (a->len != 16) {
		(void)snprintf(buf, IP_TEXT_MAX, "none");
		return buf;
	}
	for (int i = 0; i < 8; i++)
		g[i] = (uint16_t)(a->b[2 * i] << 8 | a->b[2 * i + 1]);
	zero_run(g, &at, &n);
	for (int i = 0; i < 8; i++) {
		bug_on(o + 6 > IP_TEXT_MAX);
		if (i == at) {
			buf[o++] = ':';
			buf[o++] = ':';
			i += n - 1;
			continue;
		}
		if (i != 0 && buf[o - 1] != ':')
			buf[o++] = ':';
		o += (size_t)snprintf(buf + o, IP_TEXT_MAX - o, "%x", g[i]);
	}
	buf[o] = '\0';
	return buf;
}

const char *ip_port_format(const struct ip_port *a, char buf[IP_PORT_TEXT_MAX])
{
	char ip[IP_TEXT_MAX];

	(void)snprintf(buf, IP_PORT_TEXT_MAX, a->ip.len == 16 ? "[%s]:%u" : "%s:%u",
		       ip_format(&a->ip, ip), a->port);
	return buf;
}
