/* SPDX-License-Identifier: Apache-2.0
 * addresses.c: see addresses.h.
 */
#include "ztunnel/dns/addresses.h"

static struct str without_dot(struct str s)
{
	return s.n > 1 && s.p[s.n - 1] == '.' ? (struct str){s.p, s.n - 1} : s;
}

static bool names_it(struct str line, struct str host)
{
	for (struct str w = str_word(&line); w.n != 0; w = str_word(&line))
		if (str_eq_nocase(without_dot(w), host))
			return true;
	return false;
}

size_t hosts_addresses(struct str text, struct str host, struct ip_addr *ret, size_t max)
{
	struct str line, said;
	size_t n = 0;
	bool more = true;

	host = without_dot(host);
	while (more && n < max) {
		more = str_cut(&text, '\n', &line);
		if (!more)
			line = text;
		if (str_cut(&line, '#', &said))
			line = said;
		if (ip_parse(str_word(&line), &ret[n]) == 0 && names_it(line, host))
			n++;
	}
	return n;
}

size_t dns_addresses(const uint8_t *p, size_t n, uint16_t type, struct ip_addr *ret, size_t max,
		     uint32_t *ret_ttl_s)
{
	size_t len = type == DNS_A ? 4 : 16, found = 0;
	uint32_t ttl = ADDRESSES_TTL_MAX_S;
	struct dns_records it;
	struct dns_record r;

	dns_records_init(&it, p, n);
	while (dns_records_next(&it, &r)) {
		if (r.section != DNS_ANSWERS || r.class != DNS_CLASS_IN)
			continue;
		ttl = r.ttl < ttl ? r.ttl : ttl;
		if (r.type == type && r.len == len && found < max &&
		    ip_from_bytes(p + r.at, len, &ret[found]) == 0)
			found++;
	}
	if (it.broken || found == 0)
		return 0;
	*ret_ttl_s = ttl;
	return found;
}

bool known_update(struct known *k, enum looked_up what, uint32_t ttl_s, bool have, uint64_t now_ms)
{
	uint32_t ttl = ttl_s < ADDRESSES_TTL_MIN_S   ? ADDRESSES_TTL_MIN_S
		       : ttl_s > ADDRESSES_TTL_MAX_S ? ADDRESSES_TTL_MAX_S
						     : ttl_s;

	if (what == LOOKED_UP_FAILED && have && now_ms < k->stale_ms) {
		k->stale = true;
		k->until_ms = now_ms + ADDRESSES_RECHECK_MS;
		return false;
	}
	*k = (struct known){.until_ms = now_ms + (what == LOOKED_UP_FOUND  ? ttl * 1000ull
						  : what == LOOKED_UP_NONE ? ADDRESSES_NONE_MS
									   : ADDRESSES_FAILED_MS)};
	if (what == LOOKED_UP_FOUND)
		k->stale_ms = k->until_ms + ADDRESSES_STALE_MS;
	return true;
}

bool known_usable(const struct known *k, uint64_t now_ms, bool *ret_again)
{
	*ret_again = now_ms >= k->until_ms;
	return !*ret_again || (k->stale && now_ms < k->stale_ms);
}
