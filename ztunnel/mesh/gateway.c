/* SPDX-License-Identifier: Apache-2.0
 * gateway.c: see gateway.h.
 */
#include "ztunnel/mesh/gateway.h"

#include <stdio.h>

const char *gateway_text(const struct gateway_ref *ref, char *buf, size_t cap)
{
	char ip[IP_TEXT_MAX];

	if (ref->by_host)
		(void)snprintf(buf, cap, "%.*s/%.*s", STR_FMT(ref->ns), STR_FMT(ref->hostname));
	else
		(void)snprintf(buf, cap, "%.*s/%s", STR_FMT(ref->addr.network),
			       ip_format(&ref->addr.ip, ip));
	return buf;
}

static bool has_endpoint(const struct mesh *m, const struct service *s, const struct workload *w)
{
	size_t n;
	const struct endpoint *e = s != NULL ? mesh_endpoints(m, s, &n) : NULL;

	for (size_t i = 0; e != NULL && i < n; i++)
		if (e[i].wl == w)
			return true;
	return false;
}

/* Is @w itself behind the reference (the waypoint calling its own destination)? */
bool gateway_is_behind(const struct mesh *m, const struct gateway_ref *g, const struct workload *w)
{
	const struct service *s;

	if (g->by_host) {
		if (w->hostname.n != 0 && str_eq(w->hostname, g->hostname) && str_eq(w->ns, g->ns))
			return true;
		return has_endpoint(m, mesh_service_by_host(m, g->ns, g->hostname), w);
	}
	s = mesh_service_by_vip(m, g->addr.network, &g->addr.ip, (struct str){NULL, 0});
	if (s != NULL)
		return has_endpoint(m, s, w);
	return mesh_workload_by_ip(m, g->addr.network, &g->addr.ip) == w;
}

static bool family_allowed(const struct service *s, const struct ip_addr *ip)
{
	if (s == NULL || s->ip_families == 0 || s->ip_families == 10)
		return true;
	return ip->len == (s->ip_families == 4 ? 4 : 16);
}

bool gateway_choose_ip(const struct workload *w, const struct service *s,
		       const struct ip_addr *orig, struct ip_addr *ret)
{
	const struct ip_addr *best = NULL;

	for (size_t i = 0; i < w->nips; i++) {
		const struct ip_addr *ip = &w->ips[i];

		if (ip_eq(ip, orig)) {
			*ret = *ip;
			return true;
		}
		if (!family_allowed(s, ip))
			continue;
		if (best == NULL || (best->len != orig->len && ip->len == orig->len))
			best = ip;
	}
	if (best == NULL)
		return false;
	*ret = *best;
	return true;
}

const struct gateway_ref *gateway_of_service(const struct service *s, uint64_t random)
{
	uint64_t total = 0;

	for (size_t i = 0; i < s->nwaypoints; i++)
		total += s->waypoints[i].weight;
	if (total == 0)
		return s->waypoint.set ? &s->waypoint : NULL;
	random %= total;
	for (size_t i = 0; i < s->nwaypoints; i++) {
		if (random < s->waypoints[i].weight)
			return &s->waypoints[i].ref;
		random -= s->waypoints[i].weight;
	}
	return NULL;
}

/* The address of @w to dial; or none, when only a look-up of its hostname can tell, or when the way
 * to it is a gateway. */
static bool address_of(const struct workload *w, const struct service *s,
		       const struct ip_addr *family, struct ip_addr *ret)
{
	*ret = (struct ip_addr){0};
	return gateway_choose_ip(w, s, family, ret) || w->hostname.n != 0 ||
	       w->network_gateway->set;
}

struct asked {
	const struct mesh *m;
	const struct gateway_ref *ref;
	enum pick_mode mode;
	const struct workload *src;
	const struct ip_addr *family;
	uint64_t random;
};

static bool at_service(const struct asked *q, struct service *s, struct gateway *ret)
{
	struct picked p;

	/* mode PASSTHROUGH would mean the address itself, behind which is nobody that we know */
	if (s->lb_mode == LB_PASSTHROUGH ||
	    !pick_endpoint(q->m, s, q->src, q->ref->hbone_port, q->mode, q->random, &p) ||
	    !address_of(p.wl, s, q->family, &ret->dial.ip))
		return false;
	ret->service = s;
	ret->wl = p.wl;
	ret->dial.port = p.port;
	return true;
}

static bool at_workload(const struct asked *q, struct workload *w, struct gateway *ret)
{
	if (w == NULL || !address_of(w, NULL, q->family, &ret->dial.ip))
		return false;
	ret->wl = w;
	ret->dial.port = q->ref->hbone_port;
	return true;
}

static struct service *named_service(const struct mesh *m, const struct gateway_ref *ref)
{
	static const struct str any = {NULL, 0};

	return ref->by_host ? mesh_service_by_host(m, ref->ns, ref->hostname)
			    : mesh_service_by_vip(m, ref->addr.network, &ref->addr.ip, any);
}

static struct workload *named_workload(const struct mesh *m, const struct gateway_ref *ref)
{
	return ref->by_host ? mesh_workload_by_host(m, ref->ns, ref->hostname)
			    : mesh_workload_by_ip(m, ref->addr.network, &ref->addr.ip);
}

bool gateway_known(const struct mesh *m, const struct gateway_ref *ref)
{
	return named_service(m, ref) != NULL || named_workload(m, ref) != NULL;
}

struct gateway_ref gateway_at(struct str network, const struct ip_addr *ip)
{
	return (struct gateway_ref){.set = true, .addr = {.network = network, .ip = *ip}};
}

bool gateway_resolve(const struct mesh *m, const struct gateway_ref *ref, enum pick_mode mode,
		     const struct workload *src, const struct ip_addr *orig, uint64_t random,
		     struct gateway *ret)
{
	const struct asked q = {.m = m,
				.ref = ref,
				.mode = mode,
				.src = src,
				.family = ref->by_host ? orig : &ref->addr.ip,
				.random = random};
	struct service *s;

	*ret = (struct gateway){0};
	if (!ref->set)
		return false;
	s = named_service(m, ref);
	return s != NULL ? at_service(&q, s, ret) : at_workload(&q, named_workload(m, ref), ret);
}
