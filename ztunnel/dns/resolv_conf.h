/* SPDX-License-Identifier: Apache-2.0
 * resolv_conf.h: the resolvers that /etc/resolv.conf names. Pure. Source: resolv.conf(5);
 * ztunnel-spec 11.5: search list and ndots have no meaning for a forwarder.
 */
#pragma once
#include <stddef.h>
#include "lib/base/str.h"
#include "lib/format/ip.h"

#define DNS_SERVERS_MAX 8

struct resolv_conf {
	struct ip_port servers[DNS_SERVERS_MAX]; /* in order of preference */
	size_t n;
	uint64_t timeout_ms;   /* for one answer: option timeout, 5 s, at most 30 */
	unsigned int attempts; /* rounds over all servers: option attempts, 2, at most 5 */
};
/* What does not parse is left out, as in libc. */
void resolv_conf_parse(struct str text, struct resolv_conf *ret);
