/* SPDX-License-Identifier: Apache-2.0
 * addresses.h: the addresses of a name, out of a hosts file or a resolver's answer, and for how
 * long they hold. Pure. Source: hosts(5); RFC 1035 4.1.3; ztunnel-spec 4.6, step 4.
 */
#pragma once
#include "ztunnel/dns/msg.h"

#define ADDRESSES_TTL_MIN_S  1
#define ADDRESSES_TTL_MAX_S  300
#define ADDRESSES_NONE_MS    5000 /* the name has none */
#define ADDRESSES_FAILED_MS  1000 /* nobody could tell */
#define ADDRESSES_STALE_MS   (5 * 60 * 1000)
#define ADDRESSES_RECHECK_MS 5000

/* Those of @host in the text of a hosts file: letters without case, a final dot means nothing. At
 * most @max go to @ret. Returns how many. */
size_t hosts_addresses(struct str text, struct str host, struct ip_addr *ret, size_t max);

/* Those of @type (DNS_A, DNS_AAAA) in an answer, at most @max; @ret_ttl_s gets the shortest
 * lifetime on the way to them. Returns how many; 0 also for a message that is broken. */
size_t dns_addresses(const uint8_t *p, size_t n, uint16_t type, struct ip_addr *ret, size_t max,
		     uint32_t *ret_ttl_s);

/* What is known of a name. Zeroed at first: nothing. */
struct known {
	uint64_t until_ms; /* it is looked up again then */
	uint64_t stale_ms; /* found addresses may still be used until then, when nobody can tell */
	bool stale;	   /* the last look-up failed, those of before it stand */
};
enum looked_up { LOOKED_UP_FOUND, LOOKED_UP_NONE, LOOKED_UP_FAILED };
/* A look-up has ended. True: what it says takes the place of what was known. False: it failed, and
 * the addresses of before stand for a while (RFC 8767), @have says that there are some. */
bool known_update(struct known *k, enum looked_up what, uint32_t ttl_s, bool have, uint64_t now_ms);
/* Whether what is known may be used; @ret_again: it must be looked up, too. */
bool known_usable(const struct known *k, uint64_t now_ms, bool *ret_again);
