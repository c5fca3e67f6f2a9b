/* SPDX-License-Identifier: Apache-2.0
 * proxy_v2.c: see proxy_v2.h.
 */
#include "lib/format/proxy_v2.h"

#include <string.h>

#include "lib/base/bug.h"

#define COMMAND_PROXY 0x21 /* version 2, not LOCAL */
#define TRANSPORT_TCP 0x01
#define FAMILY_IPV4   0x10
#define FAMILY_IPV6   0x20
#define HEAD_BYTES    16
#define LENGTH_AT     14

static const uint8_t signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
				      0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

static uint8_t *put_u16(uint8_t *p, size_t v)
{
	*p++ = (uint8_t)(v >> 8);
	*p++ = (uint8_t)v;
	return p;
}

static uint8_t *put(uint8_t *p, const void *from, size_t n)
{
	memcpy(p, from, n);
	return p + n;
}

size_t proxy_v2_write(uint8_t buf[PROXY_V2_MAX], const struct ip_port *src,
		      const struct ip_port *dst, struct str peer)
{
	bool same = src->ip.len == dst->ip.len && src->ip.len != 0;
	uint8_t *p = put(buf, signature, sizeof(signature));

	bug_on(peer.n > PROXY_V2_ID_MAX);
	*p++ = COMMAND_PROXY;
	*p++ = (uint8_t)(TRANSPORT_TCP | (!same		     ? 0
					  : src->ip.len == 4 ? FAMILY_IPV4
							     : FAMILY_IPV6));
	p = buf + HEAD_BYTES;
	if (same) {
		p = put(p, src->ip.b, src->ip.len);
		p = put(p, dst->ip.b, dst->ip.len);
		p = put_u16(p, src->port);
		p = put_u16(p, dst->port);
	}
	if (peer.n != 0) {
		*p++ = PROXY_V2_TLV_PEER;
		p = put_u16(p, peer.n);
		p = put(p, peer.p, peer.n);
	}
	(void)put_u16(buf + LENGTH_AT, (size_t)(p - buf) - HEAD_BYTES);
	return (size_t)(p - buf);
}
