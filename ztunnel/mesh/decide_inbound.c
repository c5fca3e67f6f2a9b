/* SPDX-License-Identifier: Apache-2.0
 * decide_inbound.c: see decide.h. What a CONNECT may reach in the pod that it came to.
 */
#include <stdarg.h>
#include <stdio.h>

#include "ztunnel/mesh/authority.h"
#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/gateway.h"

#define FORWARDED_MAX 1024

static void _printf_(3, 4)
	answer(struct inbound_target *t, unsigned int status, const char *fmt, ...)
{
	va_list ap;

	t->status = status;
	va_start(ap, fmt);
	(void)vsnprintf(t->error, sizeof(t->error), fmt, ap);
	va_end(ap);
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

struct service *decide_service_label(const struct mesh *m, const struct workload *local,
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

/* Is the service's waypoint here? A canary's waypoints count as well: a client that drew one of
 * them must find it (ztunnel-spec 5.4; 17, item 8). */
static bool is_waypoint_of_service(const struct mesh *m, const struct workload *local,
				   const struct service *s)
{
	if (s->waypoint.set && gateway_is_behind(m, &s->waypoint, local))
		return true;
	for (size_t i = 0; i < s->nwaypoints; i++)
		if (s->waypoints[i].weight != 0 &&
		    gateway_is_behind(m, &s->waypoints[i].ref, local))
			return true;
	return false;
}

/* Does the address that was asked for have its waypoint here? */
static bool is_waypoint_of(const struct mesh *m, const struct workload *local, struct str network,
			   const struct ip_addr *ip)
{
	static const struct str any = {NULL, 0};
	const struct workload *w = mesh_workload_by_ip(m, network, ip);
	const struct service *s;

	if (w != NULL)
		return w->waypoint->set && gateway_is_behind(m, w->waypoint, local);
	s = mesh_service_by_vip(m, network, ip, any);
	return s != NULL && is_waypoint_of_service(m, local, s);
}

/* Which of the service's waypoints to ask for: one that the state does not hold. */
static const struct gateway_ref *missing_waypoint(const struct mesh *m, const struct service *s)
{
	for (size_t i = 0; i < s->nwaypoints; i++)
		if (s->waypoints[i].weight != 0 && !gateway_known(m, &s->waypoints[i].ref))
			return &s->waypoints[i].ref;
	return &s->waypoint;
}

/* What could make an address acceptable, and is not here. */
static void note_missing(const struct mesh *m, struct str network, const struct ip_addr *ip,
			 struct inbound_target *t)
{
	static const struct str any = {NULL, 0};
	const struct workload *w = mesh_workload_by_ip(m, network, ip);
	const struct service *s = w == NULL ? mesh_service_by_vip(m, network, ip, any) : NULL;
	const struct gateway_ref *ref;

	if (w == NULL && s == NULL) {
		t->missing = MISSING_ADDRESS;
		t->missing_ref = gateway_at(network, ip);
		return;
	}
	ref = w != NULL ? w->waypoint : missing_waypoint(m, s);
	if (ref->set) {
		t->missing = MISSING_GATEWAY;
		t->missing_ref = *ref;
	}
}

/* ztunnel-spec 5.4: which addresses may be asked for. False: answered. */
static bool ip_authority(const struct mesh *m, const struct workload *local, struct str network,
			 const struct ip_port *authority, const struct ip_port *conn_dst,
			 struct inbound_target *t)
{
	char a[IP_TEXT_MAX], b[IP_TEXT_MAX];

	if (authority->port == 0) {
		answer(t, 400, "no valid authority pseudo header: port 0");
		return false;
	}
	if (ip_is_unacceptable(&authority->ip) ||
	    (!ip_eq(&authority->ip, &conn_dst->ip) && !local->app_tunnel.set &&
	     !is_waypoint_of(m, local, network, &authority->ip))) {
		if (!ip_is_unacceptable(&authority->ip))
			note_missing(m, network, &authority->ip, t);
		answer(t, 400, "ip mismatch: %s != %s", ip_format(&conn_dst->ip, a),
		       ip_format(&authority->ip, b));
		return false;
	}
	t->app.port = authority->port;
	return true;
}

/* Which service is meant by @host here: one that the workload backs, or, where it is somebody who
 * stands before others (a waypoint, an application with a tunnel), any that it may know of. */
static struct service *asked_service(const struct mesh *m, const struct workload *local,
				     struct str host, const struct wl_service **ret_member)
{
	struct service *s = backed_service(m, local, host, ret_member);

	if (s != NULL)
		return s;
	s = mesh_service_by_name(m, host, local->ns);
	if (s == NULL || !(local->app_tunnel.set || is_waypoint_of_service(m, local, s)))
		return NULL;
	return s;
}

/* What a PROXY header can say about a service: an address of it, in our network and IPv4 if there
 * is one (ztunnel-spec 5.6). */
static bool tunnel_address(const struct service *s, struct str network, struct ip_addr *ret)
{
	int best = -1;

	for (size_t i = 0; i < s->nvips; i++) {
		int rank = (str_eq(s->vips[i].network, network) ? 2 : 0) +
			   (s->vips[i].ip.len == 4 ? 1 : 0);

		if (rank > best) {
			best = rank;
			*ret = s->vips[i].ip;
		}
	}
	return best >= 0;
}

static bool host_authority(const struct mesh *m, const struct workload *local, struct str network,
			   struct str host, uint16_t port, struct inbound_target *t)
{
	static const struct wl_service none;
	const struct wl_service *member = &none;
	struct service *s = asked_service(m, local, host, &member);

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
	if (local->app_tunnel.proxy && !tunnel_address(s, network, &t->tunnel.ip)) {
		answer(t, 503, "requested service %s found, but has no IP addresses",
		       str_shown(host));
		return false;
	}
	t->tunnel.port = port;
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

	*ret = (struct inbound_target){.app.ip = conn_dst->ip};
	if (ip_is_unacceptable(&conn_dst->ip)) {
		answer(ret, 400, "no valid authority pseudo header: not a pod address");
		return;
	}
	if (ip_port_parse(authority, &addr) == 0) {
		ret->tunnel = addr;
		if (!ip_authority(m, local, network, &addr, conn_dst, ret))
			return;
	} else if (authority_split(authority, &host, &port)) {
		if (!host_authority(m, local, network, host, port, ret))
			return;
	} else {
		answer(ret, 400, "no valid authority pseudo header: %s", str_shown(authority));
		return;
	}
	if (decide_port_is_ours(ret->app.port)) {
		answer(ret, 503, "attempted recursive call to ourselves");
		return;
	}
	ret->proxy = local->app_tunnel.set && local->app_tunnel.proxy;
	if (ret->service == NULL)
		ret->service = decide_service_label(m, local, forwarded_host, ret->app.port);
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
