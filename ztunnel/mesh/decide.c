/* SPDX-License-Identifier: Apache-2.0
 * decide.c: see decide.h. Outbound: where a captured connection goes. Inbound: what a CONNECT may
 * reach. Choosing an endpoint of a service is pick.c's.
 */
#include "ztunnel/mesh/decide.h"

#include <stdarg.h>
#include <stdio.h>

#include "ztunnel/mesh/pick.h"

#define PORT_HBONE    15008
#define PORT_PLAIN    15006
#define PORT_OUTBOUND 15001
#define HOST_MAX      253 /* RFC 1035 2.3.4 */
#define FORWARDED_MAX 1024

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

static void gateway_text(const struct gateway_ref *g, char *buf, size_t cap)
{
	char ip[IP_TEXT_MAX];

	if (g->by_host)
		(void)snprintf(buf, cap, "%.*s/%.*s", STR_FMT(g->ns), STR_FMT(g->hostname));
	else
		(void)snprintf(buf, cap, "%.*s/%s", STR_FMT(g->addr.network),
			       ip_format(&g->addr.ip, ip));
}

static void refuse_waypoint(struct route *r, const struct gateway_ref *g)
{
	char text[96];

	gateway_text(g, text, sizeof(text));
	refuse(r, "unknown waypoint: %s (this version does not route through waypoints)", text);
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
static bool is_behind(const struct mesh *m, const struct gateway_ref *g, const struct workload *w)
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

/* ztunnel-spec 4.6, steps 1 and 2. */
static bool choose_ip(const struct workload *w, const struct service *s, const struct ip_addr *orig,
		      struct ip_addr *ret)
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

/* The workload's own identity first: if a service lists more names than fit, the rest is not
 * trusted. */
static void expect_identities(struct route *r)
{
	r->identities[r->nidentities++] = r->dst->identity;
	for (size_t i = 0;
	     r->service != NULL && i < r->service->nsans && r->nidentities < ROUTE_IDENTITIES_MAX;
	     i++)
		r->identities[r->nidentities++] = r->service->subject_alt_names[i].p;
}

/* ztunnel-spec 4.3 step 9. */
static void direct(struct route *r, const struct ip_addr *orig, uint16_t port)
{
	const struct workload *w = r->dst;
	struct ip_port target = {.port = port};

	if (!choose_ip(w, r->service, orig, &target.ip)) {
		refuse(r, "no valid routing destination for workload: %.*s%s", STR_FMT(w->uid),
		       w->hostname.n != 0 ? " (this version does not resolve its hostname)" : "");
		return;
	}
	if (w->protocol != WL_HBONE) {
		passthrough(r, &target);
		return;
	}
	r->kind = ROUTE_HBONE;
	r->authority = target;
	r->dial = (struct ip_port){target.ip, PORT_HBONE};
	expect_identities(r);
}

static void to_service(const struct mesh *m, const struct workload *src,
		       const struct ip_port *orig_dst, uint64_t random, struct route *r)
{
	char text[IP_PORT_TEXT_MAX];
	struct picked p;

	if (r->service->waypoint.set) {
		refuse_waypoint(r, &r->service->waypoint);
		return;
	}
	if (r->service->lb_mode == LB_PASSTHROUGH) {
		passthrough(r, orig_dst);
		return;
	}
	if (!pick_endpoint(m, r->service, src, orig_dst->port, random, &p)) {
		refuse(r, "no healthy upstream: %s", ip_port_format(orig_dst, text));
		return;
	}
	r->dst = p.wl;
	if (!str_eq(p.wl->network, src->network)) {
		refuse(r,
		       "no valid routing destination for workload: %.*s (this version does not "
		       "cross networks)",
		       STR_FMT(p.wl->uid));
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
		passthrough(ret, orig_dst);
		return;
	}
	if (ret->dst->waypoint.set && !is_behind(m, &ret->dst->waypoint, src)) {
		refuse_waypoint(ret, &ret->dst->waypoint);
		return;
	}
	direct(ret, &orig_dst->ip, orig_dst->port);
}

static void _printf_(3, 4)
	answer(struct inbound_target *t, unsigned int status, const char *fmt, ...)
{
	va_list ap;

	t->status = status;
	va_start(ap, fmt);
	(void)vsnprintf(t->error, sizeof(t->error), fmt, ap);
	va_end(ap);
}

/* A DNS name, and nothing that could be read as an address: letters, digits, '-', '_' and inner
 * dots; the last label is not a number in any base (octal, short and hex forms of IPv4). */
static bool is_hostname(struct str s)
{
	size_t label = 0, last = 0;

	if (s.n == 0 || s.n > HOST_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (c == '.') {
			if (label == 0)
				return false;
			label = 0;
			last = i + 1;
			continue;
		}
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_'))
			return false;
		label++;
	}
	return label != 0 && !(s.p[last] >= '0' && s.p[last] <= '9');
}

/* "host:port", port 1-65535. */
static bool split_host_port(struct str authority, struct str *ret_host, uint16_t *ret_port)
{
	struct str rest = authority, host;

	if (!str_cut(&rest, ':', &host) || parse_u16(rest, 1, UINT16_MAX, ret_port) != 0)
		return false;
	*ret_host = host;
	return is_hostname(host);
}

static bool ip_is_unacceptable(const struct ip_addr *ip)
{
	return ip->len == 0 || ip_is_loopback(ip) || ip_is_link_local(ip) || ip_is_multicast(ip) ||
	       ip_is_unspecified(ip);
}

static bool ns_host(struct str name, struct str *ret_ns, struct str *ret_host)
{
	*ret_host = name;
	return str_cut(ret_host, '/', ret_ns);
}

/* The service called @host that @local backs: its own namespace > canonical > first. */
static struct service *backed_service(const struct mesh *m, const struct workload *local,
				      struct str host, const struct wl_service **ret_member)
{
	struct service *best = NULL;
	int best_rank = -1;

	for (size_t i = 0; i < local->nservices; i++) {
		struct str ns, name;
		struct service *s;
		int rank;

		if (!ns_host(local->services[i].name, &ns, &name) || !str_eq(name, host))
			continue;
		s = mesh_service_by_host(m, ns, name);
		if (s == NULL || (s->private_to_ns && !str_eq(s->ns, local->ns)))
			continue;
		rank = str_eq(s->ns, local->ns) ? 2 : s->canonical ? 1 : 0;
		if (rank > best_rank) {
			best = s;
			best_rank = rank;
			*ret_member = &local->services[i];
		}
	}
	return best;
}

static bool map_port(const struct port_map *v, size_t n, uint16_t service_port, uint16_t *ret)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].service_port == service_port && v[i].target_port != 0) {
			*ret = v[i].target_port;
			return true;
		}
	return false;
}

static bool has_target(const struct port_map *v, size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].target_port == port)
			return true;
	return false;
}

/* ztunnel-spec 5.7: the service whose hostname was forwarded, else the first with this port. */
static struct service *label_service(const struct mesh *m, const struct workload *local,
				     struct str forwarded_host, uint16_t port)
{
	struct service *by_port = NULL;

	for (size_t i = 0; i < local->nservices; i++) {
		const struct wl_service *ws = &local->services[i];
		struct str ns, host;
		struct service *s;

		if (!ns_host(ws->name, &ns, &host))
			continue;
		s = mesh_service_by_host(m, ns, host);
		if (s == NULL)
			continue;
		if (forwarded_host.n != 0 && str_eq(host, forwarded_host))
			return s;
		if (by_port == NULL && (has_target(ws->ports, ws->nports, port) ||
					has_target(s->ports, s->nports, port)))
			by_port = s;
	}
	return by_port;
}

/* ztunnel-spec 5.4: which addresses may be asked for. False: answered. */
static bool ip_authority(const struct workload *local, const struct ip_port *authority,
			 const struct ip_port *conn_dst, struct inbound_target *t)
{
	char a[IP_TEXT_MAX], b[IP_TEXT_MAX];

	if (authority->port == 0) {
		answer(t, 400, "no valid authority pseudo header: port 0");
		return false;
	}
	if (ip_is_unacceptable(&authority->ip) ||
	    (!ip_eq(&authority->ip, &conn_dst->ip) && !local->app_tunnel.set)) {
		answer(t, 400, "ip mismatch: %s != %s", ip_format(&conn_dst->ip, a),
		       ip_format(&authority->ip, b));
		return false;
	}
	t->app.port = authority->port;
	return true;
}

static bool host_authority(const struct mesh *m, const struct workload *local, struct str host,
			   uint16_t port, struct inbound_target *t)
{
	const struct wl_service *member = NULL;
	struct service *s = backed_service(m, local, host, &member);

	if (s == NULL) {
		answer(t, 503, "no service or workload for hostname: %s", str_shown(host));
		return false;
	}
	if (!map_port(member->ports, member->nports, port, &t->app.port) &&
	    !map_port(s->ports, s->nports, port, &t->app.port)) {
		answer(t, 503, "requested service %s:%u found, but cannot resolve port",
		       str_shown(host), port);
		return false;
	}
	t->service = s;
	return true;
}

void decide_inbound(const struct mesh *m, const struct workload *local, struct str network,
		    struct str authority, const struct ip_port *conn_dst, struct str forwarded_host,
		    struct inbound_target *ret)
{
	struct ip_port addr;
	struct str host;
	uint16_t port;

	(void)network; /* lookups by address come with waypoints */
	*ret = (struct inbound_target){.app.ip = conn_dst->ip};
	if (ip_is_unacceptable(&conn_dst->ip)) {
		answer(ret, 400, "no valid authority pseudo header: not a pod address");
		return;
	}
	if (ip_port_parse(authority, &addr) == 0) {
		if (!ip_authority(local, &addr, conn_dst, ret))
			return;
	} else if (split_host_port(authority, &host, &port)) {
		if (!host_authority(m, local, host, port, ret))
			return;
	} else {
		answer(ret, 400, "no valid authority pseudo header: %s", str_shown(authority));
		return;
	}
	if (decide_port_is_ours(ret->app.port)) {
		answer(ret, 503, "attempted recursive call to ourselves");
		return;
	}
	if (local->app_tunnel.set && local->app_tunnel.proxy) {
		answer(ret, 503, "the workload's PROXY application tunnel is not supported yet");
		return;
	}
	if (ret->service == NULL)
		ret->service = label_service(m, local, forwarded_host, ret->app.port);
	if (local->app_tunnel.set && local->app_tunnel.port != 0)
		ret->app.port = local->app_tunnel.port;
	if (decide_port_is_ours(ret->app.port))
		answer(ret, 503, "attempted recursive call to ourselves");
}

static struct str unquote(struct str s)
{
	if (s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"')
		return (struct str){s.p + 1, s.n - 2};
	return s;
}

static bool is_plain_ascii(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < 0x20 || s.p[i] > 0x7e)
			return false;
	return true;
}

void decide_parse_forwarded(struct str value, struct ip_port *ret_for, struct str *ret_host)
{
	static const struct str k_for = {"for=", 4}, k_host = {"host=", 5};
	bool have_for = false, have_host = false, more = true;

	*ret_for = (struct ip_port){0};
	*ret_host = (struct str){"", 0};
	if (value.n > FORWARDED_MAX || !is_plain_ascii(value))
		return;
	while (more) {
		struct str part, rest = value;

		more = str_cut(&value, ';', &part);
		part = str_trim(more ? part : rest);
		if (!have_for && str_has_prefix(part, k_for)) {
			part = unquote((struct str){part.p + k_for.n, part.n - k_for.n});
			if (ip_port_parse(part, ret_for) != 0)
				*ret_for = (struct ip_port){0};
			have_for = true;
		} else if (!have_host && str_has_prefix(part, k_host)) {
			*ret_host = unquote((struct str){part.p + k_host.n, part.n - k_host.n});
			have_host = true;
		}
	}
}
