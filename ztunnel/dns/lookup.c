/* SPDX-License-Identifier: Apache-2.0
 * lookup.c: see lookup.h.
 *
 * getaddrinfo() does not tell how long an answer holds. So the resolver of libc only sends the
 * question, by resolv.conf(5), with its servers, time limits and TCP, and its answer is read here.
 */
#include "ztunnel/dns/lookup.h"

#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/resolve.h"
#include "ztunnel/dns/addresses.h"

#define HOSTS	     "/etc/hosts"
#define HOSTS_MAX    (4u << 20)
#define HOSTS_TTL_S  5 /* the file changes without telling */
#define FAMILY_ADDRS (RESOLVE_ADDRS_MAX / 2)

static bool by_hosts(const char *host, struct resolve_answer *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	if (file_read(HOSTS, HOSTS_MAX, &text, &n, NULL) != 0)
		return false;
	ret->n = hosts_addresses((struct str){text, n}, str_of(host), ret->addr, RESOLVE_ADDRS_MAX);
	ret->ttl_s = HOSTS_TTL_S;
	return ret->n != 0;
}

/* Adds the addresses of one type that host.domain has (@domain NULL: the host). Returns what the
 * resolver said, as h_errno has it; 0: addresses. */
static int ask(res_state st, const char *host, const char *domain, uint16_t type, uint8_t *buf,
	       struct resolve_answer *ret)
{
	uint32_t ttl;
	size_t found;
	int n;

	memset(buf, 0, DNS_HEADER_BYTES); /* what it has afterwards is an answer's */
	n = res_nquerydomain(st, host, domain, ns_c_in, type, buf, DNS_MESSAGE_MAX);
	if (n < 0)
		return st->res_h_errno != 0 ? st->res_h_errno : NO_RECOVERY;
	if (n > DNS_MESSAGE_MAX)
		return NO_RECOVERY;
	found = dns_addresses(buf, (size_t)n, type, ret->addr + ret->n, FAMILY_ADDRS, &ttl);
	if (found == 0)
		return NO_DATA;
	ret->ttl_s = ret->n == 0 || ttl < ret->ttl_s ? ttl : ret->ttl_s;
	ret->n += found;
	return 0;
}

/* Both types of one name. */
static int of_name(res_state st, const char *host, const char *domain, uint8_t *buf,
		   struct resolve_answer *ret)
{
	int why = ask(st, host, domain, DNS_A, buf, ret), other;

	/* a name that does not exist, or resolvers that are away, would give the same again */
	if (why != 0 && why != NO_DATA)
		return why;
	other = ask(st, host, domain, DNS_AAAA, buf, ret);
	return ret->n != 0 ? 0 : other == HOST_NOT_FOUND ? NO_DATA : other;
}

static bool is_absent(int why)
{
	return why == NO_DATA || why == HOST_NOT_FOUND;
}

/* The search list of resolv.conf(5), whose first name with any address is the one. Not
 * res_nsearch(): it goes on for each type by itself, so a name of one family would get the other
 * from whoever owns such a name further on. */
static int search(res_state st, const char *host, uint8_t *buf, struct resolve_answer *ret)
{
	size_t len = strlen(host), dots = 0;
	bool final = len != 0 && host[len - 1] == '.', as_is;
	int said = HOST_NOT_FOUND, why;

	for (size_t i = 0; i < len; i++)
		dots += host[i] == '.';
	as_is = final || dots >= st->ndots;
	if (as_is) {
		said = of_name(st, host, NULL, buf, ret);
		if (final || !is_absent(said))
			return said;
	}
	for (size_t i = 0; i < MAXDNSRCH && st->dnsrch[i] != NULL; i++) {
		const char *domain = st->dnsrch[i];

		why = of_name(st, host, domain[0] == '.' ? domain + 1 : domain, buf, ret);
		if (why == 0)
			return 0;
		if (!is_absent(why) || said == HOST_NOT_FOUND)
			said = why;
		if (!is_absent(why) && dns_rcode_of(buf) != DNS_SERVFAIL)
			break; /* nobody answers, and would not for the next one */
	}
	if (as_is)
		return said;
	why = of_name(st, host, NULL, buf, ret);
	return why == HOST_NOT_FOUND ? said : why;
}

static void by_resolvers(res_state st, const char *host, struct resolve_answer *ret)
{
	_cleanup_free_ uint8_t *buf = malloc(DNS_MESSAGE_MAX);
	int why = buf != NULL ? search(st, host, buf, ret) : NO_RECOVERY;

	if (ret->n != 0)
		return;
	ret->none = is_absent(why);
	(void)snprintf(ret->why, sizeof(ret->why), "%s",
		       gai_strerror(why == HOST_NOT_FOUND ? EAI_NONAME
				    : why == NO_DATA	  ? EAI_NODATA
				    : why == TRY_AGAIN	  ? EAI_AGAIN
							  : EAI_FAIL));
}

void lookup_addresses(const char *host, struct resolve_answer *ret)
{
	struct __res_state st = {0};

	if (by_hosts(host, ret))
		return;
	if (res_ninit(&st) != 0) {
		(void)snprintf(ret->why, sizeof(ret->why), "/etc/resolv.conf cannot be used");
		return;
	}
	by_resolvers(&st, host, ret);
	res_nclose(&st);
}
