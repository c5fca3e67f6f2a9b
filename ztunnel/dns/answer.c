/* SPDX-License-Identifier: Apache-2.0
 * answer.c: see answer.h.
 *
 * Theory of operation. The name that was asked becomes a short list of aliases: itself, what
 * Kubernetes' search list makes of it, and what is left when a search domain is taken off (a client
 * tries those first). The first alias that is a service's hostname, or falls under a wildcard of
 * one, decides. The list and the walk over a name's labels are bounded by the name's 255 octets.
 */
#include "ztunnel/dns/answer.h"

#include <stdio.h>

#include "lib/base/bug.h"

#define ALIASES_MAX 12
#define DOMAINS_N   3

struct alias {
	char text[DNS_TEXT_MAX];
	size_t stripped_labels; /* not 0: a search domain was taken off; what is left has these */
};

struct search {
	const struct dns_settings *s;
	struct str ns; /* the client's */
	struct alias v[ALIASES_MAX];
	size_t n;
};

static size_t count_labels(struct str name)
{
	size_t n = 1;

	for (size_t i = 0; i < name.n; i++)
		n += name.p[i] == '.';
	return n;
}

/* Adds the parts, joined with dots; one that is there already, or too long for a name, is not. */
static void add(struct search *k, size_t stripped, struct str name, const char *middle, bool ns,
		bool domain)
{
	struct alias *a = &k->v[k->n];
	int n = snprintf(a->text, sizeof(a->text), "%.*s%s%.*s%s%s%.*s", STR_FMT(name),
			 ns ? "." : "", ns ? (int)k->ns.n : 0, k->ns.p, middle, domain ? "." : "",
			 domain ? (int)k->s->cluster_domain.n : 0, k->s->cluster_domain.p);

	bug_on(k->n == ALIASES_MAX);
	if (n < 0 || (size_t)n >= sizeof(a->text))
		return;
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->v[i].text, a->text) == 0)
			return;
	a->stripped_labels = stripped;
	k->n++;
}

/* ztunnel-spec 11.3, the table. */
static void add_expansions(struct search *k, size_t stripped, struct str name)
{
	bool svc = str_has_suffix(name, STR(".svc"));

	switch (count_labels(name)) {
	case 1:
		add(k, stripped, name, ".svc", true, true);
		break;
	case 2:
		add(k, stripped, name, ".svc", false, true);
		add(k, stripped, name, ".svc", true, true);
		break;
	case 3:
		if (svc)
			add(k, stripped, name, "", false, true);
		add(k, stripped, name, ".svc", false, true);
		break;
	case 4:
		if (svc)
			add(k, stripped, name, "", false, true);
		break;
	default:
		break;
	}
}

static void add_aliases(struct search *k, struct str name)
{
	static const char *const middle[DOMAINS_N] = {".svc.", ".svc.", "."};
	struct str cd = k->s->cluster_domain;

	add(k, 0, name, "", false, false);
	add_expansions(k, 0, name);
	for (size_t i = 0; i < DOMAINS_N; i++) {
		char domain[3 * DNS_TEXT_MAX];
		struct str d, left = name;

		(void)snprintf(domain, sizeof(domain), "%s%.*s%s%.*s", i == 0 ? "." : "",
			       i == 0 ? (int)k->ns.n : 0, k->ns.p, middle[i], STR_FMT(cd));
		d = str_of(domain);
		if (name.n <= d.n || !str_has_suffix(name, d))
			continue;
		left.n -= d.n;
		add(k, count_labels(left), left, "", false, false);
		add_expansions(k, count_labels(left), left);
	}
}

/* ---- services ---- */

/* Only these are answered: others would be answered by nobody but the real DNS. */
static bool is_served(const struct service *svc, const struct dns_settings *s)
{
	char suffix[DNS_TEXT_MAX + 8];

	if (svc->nvips != 0)
		return true;
	(void)snprintf(suffix, sizeof(suffix), ".svc.%.*s", STR_FMT(s->cluster_domain));
	return str_has_suffix(svc->hostname, str_of(suffix));
}

/* Client's namespace > canonical (the last one) > preferred namespace > first. */
static const struct service *best(const struct mesh *m, const struct search *k, struct str host)
{
	const struct service *found = NULL;
	int found_rank = -1;
	size_t n;
	struct service *const *v = mesh_services_by_name(m, host, &n);

	for (size_t i = 0; i < n; i++) {
		const struct service *svc = v[i];
		int rank;

		if (!is_served(svc, k->s) || (svc->private_to_ns && !str_eq(svc->ns, k->ns)))
			continue;
		rank = str_eq(svc->ns, k->ns)						? 3
		       : svc->canonical							? 2
		       : k->s->prefered_ns.n != 0 && str_eq(svc->ns, k->s->prefered_ns) ? 1
											: 0;
		if (rank > found_rank || (rank == 2 && found_rank == 2)) {
			found = svc;
			found_rank = rank;
		}
	}
	return found;
}

/* The name itself, then '*' in the place of more and more of its first labels. */
static const struct service *find(const struct mesh *m, const struct search *k,
				  const struct alias *a, bool *ret_wildcard)
{
	struct str rest = str_of(a->text), label;
	const struct service *svc = best(m, k, rest);
	char host[DNS_TEXT_MAX + 2];

	*ret_wildcard = false;
	if (svc != NULL || !mesh_has_wildcards(m))
		return svc;
	*ret_wildcard = true;
	while (str_cut(&rest, '.', &label)) {
		(void)snprintf(host, sizeof(host), "*.%.*s", STR_FMT(rest));
		svc = best(m, k, str_of(host));
		if (svc != NULL)
			return svc;
	}
	return NULL;
}

/* ---- addresses ---- */

struct picker {
	struct ip_addr *v;
	size_t n, max, seen;
	uint64_t random;
};

/* splitmix64 */
static uint64_t next_random(struct picker *p)
{
	uint64_t z = p->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* Keeps an even choice of @max out of all, in random order: shuffling and reservoir in one. */
static void pick(struct picker *p, const struct ip_addr *a)
{
	size_t at = (size_t)(next_random(p) % ++p->seen);

	if (p->n < p->max) {
		p->v[p->n] = p->v[at];
		p->v[at] = *a;
		p->n++;
	} else if (at < p->max) {
		p->v[at] = *a;
	}
}

static void pick_all(struct picker *p, const struct mesh *m, const struct service *svc,
		     struct str network, uint8_t len)
{
	const struct endpoint *eps;
	size_t n;

	for (size_t i = 0; i < svc->nvips; i++)
		if (svc->vips[i].ip.len == len && str_eq(svc->vips[i].network, network))
			pick(p, &svc->vips[i].ip);
	if (svc->nvips != 0)
		return;
	eps = mesh_endpoints(m, svc, &n);
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < eps[i].wl->nips; j++)
			if (eps[i].wl->ips[j].len == len) {
				pick(p, &eps[i].wl->ips[j]);
				break;
			}
}

static bool has_family(const struct dns_settings *s, const struct service *svc, uint16_t type)
{
	if (type == DNS_A)
		return svc->ip_families != 6;
	return s->ipv6 && svc->ip_families != 4;
}

struct dns_answer dns_answer(const struct dns_settings *s, const struct mesh *m,
			     const struct workload *client, const struct dns_query *q,
			     struct ip_addr *addrs, size_t max, uint64_t random)
{
	struct search k = {.s = s, .ns = client->ns};
	struct picker p = {.v = addrs, .max = max, .random = random};
	struct dns_answer a = {.found = DNS_FORWARD};
	char name[DNS_TEXT_MAX];
	bool wildcard = false;
	size_t i;

	if ((q->type != DNS_A && q->type != DNS_AAAA) || q->class != DNS_CLASS_IN ||
	    !dns_name_text(&q->name, name))
		return a;
	add_aliases(&k, str_of(name));
	for (i = 0; i < k.n && a.service == NULL; i++)
		a.service = find(m, &k, &k.v[i], &wildcard);
	if (a.service == NULL)
		return a;
	a.found = DNS_NO_SUPPORT;
	if (!has_family(s, a.service, q->type))
		return a;
	pick_all(&p, m, a.service, client->network, q->type == DNS_A ? 4 : 16);
	a.naddrs = p.n;
	a.found = p.n != 0 ? DNS_SUCCESS : DNS_NO_RECORDS;
	if (p.n != 0 && !wildcard)
		a.alias_labels = k.v[i - 1].stripped_labels;
	return a;
}
