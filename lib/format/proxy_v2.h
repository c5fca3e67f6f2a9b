/* SPDX-License-Identifier: Apache-2.0
 * proxy_v2.h: the header of the PROXY protocol, version 2, that goes before a connection's bytes.
 * Pure. Source: "The PROXY protocol", versions 1 & 2, section 2.2; ztunnel-spec 5.6.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/format/ip.h"

#define PROXY_V2_TLV_PEER 0xd0 /* SPIFFE identity of the peer, text (istio.workload) */
#define PROXY_V2_ID_MAX	  2048
#define PROXY_V2_MAX	  (16 + 36 + 3 + PROXY_V2_ID_MAX)

/* PROXY over TCP from @src to @dst; addresses of two families are left out ("unspecified"). @peer:
 * one TLV, none when it is empty; at most PROXY_V2_ID_MAX bytes. Returns the length. */
size_t proxy_v2_write(uint8_t buf[PROXY_V2_MAX], const struct ip_port *src,
		      const struct ip_port *dst, struct str peer);
