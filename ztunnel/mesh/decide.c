/* SPDX-License-Identifier: Apache-2.0
 * decide.c: see decide.h. Outbound: where a captured connection goes. Choosing an endpoint of a
 * service is pick.c's, finding waypoints and gateways gateway.c's.
 */
#include "ztunnel/mesh/decide.h"

#include <stdarg.h>
#include <stdio.h>

#include "ztunnel/mesh/authority.h"
#include "ztunnel/mesh/gateway.h"

#define PORT_HBONE    15008
#define PORT_PLAIN    15006
#define PORT_OUTBOUND 15001

bool decide_port_is_ours(uint16_t port)
{
	return port == PORT_HBONE || port == PORT_PLAIN || port == PORT_OUTBOUND;
}

bool decide_outbound_loops(const struct ip_port *orig_dst)
{
	return ip_is_loopback(&orig_dst->ip) && decide_port_is_ours(orig_dst->port);
}

static void _printf_(2, 3) refuse(struct route *r, const char *fmt, ...)
{
	va_list ap;

	r->kind = ROUTE_REFUSE;
	va_start(ap, fmt);
	(void)vsnprintf(r->error, sizeof(r->error), fmt, ap);
	va_end(ap);
}

static void passthrough(struct route *r, const struct ip_port *dst)
{
	r->kind = ROUTE_PASSTHROUGH;
	r->dial = *dst;
}

/* The workload's own identity first: if the service by which it was found lists more names than
 * fit, the rest is not trusted. */
static void expect_identities(struct route *r, const struct service *s)
{
	r->identities[r->nidentities++] = r->dst->identity;
	for (size_t i = 0; s != NULL && i < s->nsans && r->nidentities < ROUTE_IDENTITIES_MAX; i++)
		r->identities[r->nidentities++] = s->subject_alt_names[i].p;
}

/* The route leads to @g itself. False: it has no address, and nothing that leads to one. */
static bool dial_gateway(struct route *r, const struct gateway *g)
{
	if (g->dial.ip.len == 0 && g->wl->hostname.n == 0) {
		refuse(r, "no valid routing destination for workload: %.*s", STR_FMT(g->wl->uid));
		return false;
	}
	r->dst = g->wl;
	r->dial = g->dial;
	if (g->dial.ip.len == 0)
		r->lookup = g->wl->hostname;
	expect_identities(r, g->service);
	return true;
}

/* ztunnel-spec 4.7: @dst, which @supplier gave us, is on another network: through its gateway,
 * where the service is asked for by its name. */
static void cross_network(const struct mesh *m, const struct workload *src,
			  const struct workload *dst, struct service *supplier,
			  const struct ip_port *orig_dst, uint64_t random, struct route *r)
{
	struct gateway g;
	char text[320];

	if (!dst->network_gateway->set) {
		refuse(r,
		       "no valid routing destination for workload: %.*s (on another network, "
		       "without a gateway)",
		       STR_FMT(dst->uid));
		return;
	}
	if (supplier == NULL || supplier->nsans == 0) {
		refuse(r,
		       "no valid routing destination for workload: %.*s (on another network, and "
		       "no service says who may answer there)",
		       STR_FMT(dst->uid));
		return;
	}
	if (!gateway_resolve(m, dst->network_gateway, PICK_STANDARD, src, &orig_dst->ip, random,
			     &g)) {
		r->missing = MISSING_GATEWAY;
		r->missing_ref = *dst->network_gateway;
		refuse(r, "unknown network gateway: %s",
		       gateway_text(dst->network_gateway, text, sizeof(text)));
		return;
	}
	if (!authority_is_hostname(r->service->hostname)) { /* it becomes an authority */
		refuse(r, "no valid routing destination for workload: %.*s (service name %s)",
		       STR_FMT(dst->uid), str_shown(r->service->hostname));
		return;
	}
	if (!dial_gateway(r, &g))
		return;
	r->kind = ROUTE_DOUBLE_HBONE;
	r->authority = (struct ip_port){.port = orig_dst->port};
	r->inner = supplier;
}

/* ztunnel-spec 4.3 steps 5 and 8: HBONE to the waypoint, which is told the original address. */
static void via_waypoint(const struct mesh *m, const struct gateway_ref *ref,
			 const struct workload *src, const struct ip_port *orig_dst,
			 uint64_t random, struct route *r)
{
	struct gateway g;
	char text[320];

	if (!gateway_resolve(m, ref, PICK_WAYPOINT, src, &orig_dst->ip, random, &g)) {
		r->missing = MISSING_GATEWAY;
		r->missing_ref = *ref;
		refuse(r, "unknown waypoint: %s", gateway_text(ref, text, sizeof(text)));
		return;
	}
	r->via_waypoint = true;
	if (!str_eq(g.wl->network, src->network) && r->service == NULL) {
		refuse(r, "no service for target address: %s", ip_port_format(orig_dst, text));
		return;
	}
	if (!str_eq(g.wl->network, src->network)) {
		cross_network(m, src, g.wl, g.service, orig_dst, hash_mix(random, 2), r);
		return;
	}
	if (!dial_gateway(r, &g))
		return;
	r->kind = ROUTE_HBONE;
	r->authority = *orig_dst;
}

/* ztunnel-spec 4.3 step 9. */
static void direct(struct route *r, const struct ip_addr *orig, uint16_t port)
{
	const struct workload *w = r->dst;
	struct ip_port target = {.port = port};

	if (!gateway_choose_ip(w, r->service, orig, &target.ip)) {
		if (w->hostname.n == 0) {
			refuse(r, "no valid routing destination for workload: %.*s",
			       STR_FMT(w->uid));
			return;
		}
		r->lookup = w->hostname;
	}
	if (w->protocol != WL_HBONE) {
		passthrough(r, &target);
		return;
	}
	r->kind = ROUTE_HBONE;
	r->authority = target;
	r->dial = (struct ip_port){target.ip, PORT_HBONE};
	expect_identities(r, r->service);
}

void decide_resolved(struct route *r, const struct ip_addr *v, size_t n, const struct ip_addr *orig,
		     uint64_t random)
{
	size_t same = 0;

	for (size_t i = 0; i < n; i++)
		same += v[i].len == orig->len;
	random %= same != 0 ? same : n;
	for (size_t i = 0; i < n; i++) {
		if ((same != 0 && v[i].len != orig->len) || random-- != 0)
			continue;
		r->dial.ip = v[i];
		break;
	}
	r->lookup = (struct str){NULL, 0};
	if (r->kind == ROUTE_HBONE && r->authority.ip.len == 0)
		r->authority.ip = r->dial.ip;
	/* the name is somebody else's to define */
	if (r->kind == ROUTE_PASSTHROUGH && decide_outbound_loops(&r->dial))
		refuse(r, "attempted recursive call to ourselves");
}

static void to_service(const struct mesh *m, const struct workload *src,
		       const struct ip_port *orig_dst, uint64_t random, struct route *r)
{
	const struct gateway_ref *ref = gateway_of_service(r->service, random);
	char text[IP_PORT_TEXT_MAX];
	struct picked p;

	random = hash_mix(random, 1); /* the next choice is another one */
	if (ref != NULL) {
		via_waypoint(m, ref, src, orig_dst, random, r);
		return;
	}
	if (r->service->lb_mode == LB_PASSTHROUGH) {
		passthrough(r, orig_dst);
		return;
	}
	if (!pick_endpoint(m, r->service, src, orig_dst->port, PICK_STANDARD, random, &p)) {
		r->missing = MISSING_ENDPOINTS;
		r->missing_ref = (struct gateway_ref){
			.by_host = true, .ns = r->service->ns, .hostname = r->service->hostname};
		refuse(r, "no healthy upstream: %s", ip_port_format(orig_dst, text));
		return;
	}
	r->dst = p.wl;
	if (!str_eq(p.wl->network, src->network)) {
		cross_network(m, src, p.wl, r->service, orig_dst, hash_mix(random, 2), r);
		return;
	}
	direct(r, &orig_dst->ip, p.port);
}

void decide_outbound(const struct mesh *m, const struct workload *src, struct str network,
		     const struct ip_port *orig_dst, uint64_t random, struct route *ret)
{
	*ret = (struct route){.kind = ROUTE_REFUSE, .error = "undecided"};
	/* Services first, for both questions of ztunnel-spec 4.3 (step 4 and 6): a workload that
	 * owns the same address must not hide the service's waypoint (spec 17, item 7). */
	ret->service = mesh_service_by_vip(m, src->network, &orig_dst->ip, src->ns);
	if (ret->service == NULL && !str_eq(network, src->network))
		ret->service = mesh_service_by_vip(m, network, &orig_dst->ip, src->ns);
	if (ret->service != NULL) {
		to_service(m, src, orig_dst, random, ret);
		return;
	}
	ret->dst = mesh_workload_by_ip(m, src->network, &orig_dst->ip);
	if (ret->dst == NULL) {
		ret->missing = MISSING_ADDRESS;
		ret->missing_ref = gateway_at(src->network, &orig_dst->ip);
		passthrough(ret, orig_dst);
		return;
	}
	if (ret->dst->waypoint->set && !gateway_is_behind(m, ret->dst->waypoint, src)) {
		via_waypoint(m, ret->dst->waypoint, src, orig_dst, random, ret);
		return;
	}
	direct(ret, &orig_dst->ip, orig_dst->port);
}
