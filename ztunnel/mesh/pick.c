/* SPDX-License-Identifier: Apache-2.0
 * pick.c: see pick.h. Two passes over the endpoints and no allocation: the first finds the best
 * rank and the sum of weights, the second walks to the drawn weight.
 */
#include "ztunnel/mesh/pick.h"

static bool scope_matches(enum lb_scope scope, const struct workload *a, const struct workload *b)
{
	switch (scope) {
	case LB_REGION:
		return str_eq(a->region, b->region);
	case LB_ZONE:
		return str_eq(a->zone, b->zone);
	case LB_SUBZONE:
		return str_eq(a->subzone, b->subzone);
	case LB_NODE:
		return str_eq(a->node, b->node);
	case LB_CLUSTER:
		return str_eq(a->cluster, b->cluster);
	case LB_NETWORK:
		return str_eq(a->network, b->network);
	case LB_SCOPE_N:
		break;
	}
	return false;
}

/* Preferences matched one after another from the first. NETWORK as the first preference does not
 * stop the walk when it differs, and outranks all others when it matches. @ret_count: matched
 * preferences without that adjustment. */
static size_t rank_of(const struct service *s, const struct workload *src,
		      const struct workload *dst, size_t *ret_count)
{
	bool network_first = s->nlb_pref != 0 && s->lb_pref[0] == LB_NETWORK, bonus = false;
	size_t n = 0;

	for (size_t i = 0; i < s->nlb_pref; i++) {
		if (scope_matches(s->lb_pref[i], src, dst)) {
			n++;
			bonus = bonus || (i == 0 && network_first);
		} else if (!(i == 0 && network_first)) {
			break;
		}
	}
	*ret_count = n;
	return bonus ? n + s->nlb_pref - 1 : n;
}

static const struct port_map *find_port(const struct port_map *v, size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].service_port == port)
			return &v[i];
	return NULL;
}

/* Endpoint's own mapping > service target port > the service port with an application tunnel. */
static uint16_t target_port(const struct service *s, const struct endpoint *e, uint16_t port,
			    enum pick_mode mode)
{
	const struct port_map *sp = find_port(s->ports, s->nports, port), *ep;

	if (sp == NULL && !(mode == PICK_WAYPOINT && e->wl->app_tunnel.set))
		return 0;
	ep = find_port(e->ports, e->nports, port);
	if (ep != NULL && ep->target_port != 0)
		return ep->target_port;
	if (sp != NULL && sp->target_port != 0)
		return sp->target_port;
	return e->wl->app_tunnel.set && e->wl->app_tunnel.port != 0 ? port : 0;
}

struct query {
	const struct service *s;
	const struct workload *src;
	uint16_t port;
	enum pick_mode mode;
	bool stranded_too; /* those on other networks that name no gateway */
};

/* Target port of a usable endpoint and its rank; 0 when it cannot be chosen. */
static uint16_t usable(const struct query *q, const struct endpoint *e, size_t *ret_rank)
{
	const struct workload *w = e->wl;
	bool remote = !str_eq(w->network, q->src->network);
	size_t count;

	if (w->nips == 0 && w->hostname.n == 0 && !(remote && w->network_gateway->set))
		return 0;
	if (remote && !w->network_gateway->set && !q->stranded_too)
		return 0;
	*ret_rank = rank_of(q->s, q->src, w, &count);
	if (q->s->lb_mode == LB_STRICT && count != q->s->nlb_pref)
		return 0;
	return target_port(q->s, e, q->port, q->mode);
}

static bool pick_among(const struct query *q, const struct endpoint *v, size_t n, uint64_t random,
		       struct picked *ret)
{
	bool by_rank = q->s->lb_mode == LB_FAILOVER;
	uint64_t total = 0;
	size_t best = 0, rank;

	for (size_t i = 0; i < n; i++) {
		if (v[i].wl->capacity == 0 || usable(q, &v[i], &rank) == 0)
			continue;
		if (by_rank && rank < best)
			continue;
		if (by_rank && rank > best) {
			best = rank;
			total = 0;
		}
		total += v[i].wl->capacity;
	}
	if (total == 0)
		return false;
	random %= total;
	for (size_t i = 0; i < n; i++) {
		uint16_t port = v[i].wl->capacity != 0 ? usable(q, &v[i], &rank) : 0;

		if (port == 0 || (by_rank && rank != best))
			continue;
		if (random < v[i].wl->capacity) {
			*ret = (struct picked){v[i].wl, port};
			return true;
		}
		random -= v[i].wl->capacity;
	}
	return false;
}

bool pick_endpoint(const struct mesh *m, const struct service *s, const struct workload *src,
		   uint16_t service_port, enum pick_mode mode, uint64_t random, struct picked *ret)
{
	struct query q = {.s = s, .src = src, .port = service_port, .mode = mode};
	size_t n;
	const struct endpoint *v = mesh_endpoints(m, s, &n);

	if (v == NULL)
		return false;
	if (pick_among(&q, v, n, random, ret))
		return true;
	q.stranded_too = true;
	return pick_among(&q, v, n, random, ret);
}
