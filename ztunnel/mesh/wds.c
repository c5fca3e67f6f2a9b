/* SPDX-License-Identifier: Apache-2.0
 * wds.c: see wds.h: workloads and services. Policies are in wds_policy.c.
 */
#include "ztunnel/mesh/wds.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "proto/workload.pb-c.h"
#include "ztunnel/mesh/wds_internal.h"

#define HBONE_PORT 15008

int wds_text(struct arena *a, ProtobufCBinaryData b, const char *field, struct str *ret,
	     struct err *err)
{
	struct str s = {(const char *)b.data, b.len};

	if (!str_is_utf8(s))
		return err_set(err, EINVAL, "%s: %s is no text", field, str_shown(s));
	*ret = model_text(a, s);
	return 0;
}

int wds_enum(int32_t v, int n, const char *field, struct err *err)
{
	if (v >= 0 && v < n)
		return 0;
	return err_set(err, EINVAL, "%s: unknown value %d", field, v);
}

static int take_ip(ProtobufCBinaryData b, const char *field, struct ip_addr *ret, struct err *err)
{
	if (ip_from_bytes(b.data, b.len, ret) == 0)
		return 0;
	return err_set(err, EINVAL, "%s: an address of %zu bytes, expected 4 or 16", field, b.len);
}

static int take_ports(struct arena *a, Istio__Workload__Port *const *v, size_t n, const char *field,
		      struct port_map **ret, size_t *ret_n, struct err *err)
{
	*ret = n != 0 ? arena_alloc(a, n * sizeof(**ret)) : NULL;
	for (size_t i = 0; i < n; i++) {
		if (v[i]->service_port < 1 || v[i]->service_port > UINT16_MAX ||
		    v[i]->target_port > UINT16_MAX)
			return err_set(err, EINVAL, "%s: service port %u with target port %u",
				       field, v[i]->service_port, v[i]->target_port);
		(*ret)[i] = (struct port_map){(uint16_t)v[i]->service_port,
					      (uint16_t)v[i]->target_port};
	}
	*ret_n = n;
	return 0;
}

static int take_gateway(struct arena *a, const Istio__Workload__GatewayAddress *g,
			const char *field, struct gateway_ref *ret, struct err *err)
{
	if (g == NULL)
		return 0;
	if (g->hbone_mtls_port > UINT16_MAX)
		return err_set(err, EINVAL, "%s: port %u", field, g->hbone_mtls_port);
	ret->set = true;
	ret->hbone_port = g->hbone_mtls_port != 0 ? (uint16_t)g->hbone_mtls_port : HBONE_PORT;
	if (g->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS &&
	    g->address != NULL) {
		if (wds_text(a, g->address->network, field, &ret->addr.network, err) != 0)
			return -EINVAL;
		return take_ip(g->address->address, field, &ret->addr.ip, err);
	}
	if (g->destination_case != ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME ||
	    g->hostname == NULL)
		return err_set(err, EINVAL, "%s: neither an address nor a host name", field);
	ret->by_host = true;
	if (wds_text(a, g->hostname->namespace_, field, &ret->ns, err) != 0)
		return -EINVAL;
	return wds_text(a, g->hostname->hostname, field, &ret->hostname, err);
}

/* Memory only for those that have one. */
static int own_gateway(struct arena *a, const Istio__Workload__GatewayAddress *g, const char *field,
		       const struct gateway_ref **ret, struct err *err)
{
	struct gateway_ref *own;

	if (g == NULL)
		return 0;
	own = arena_alloc(a, sizeof(*own));
	*ret = own;
	return take_gateway(a, g, field, own, err);
}

/* ---- workloads ---- */

static int workload_texts(struct workload *w, const Istio__Workload__Workload *p, struct err *err)
{
	const struct {
		ProtobufCBinaryData from;
		const char *field;
		struct str *to;
	} t[] = {
		{p->uid, "uid", &w->uid},
		{p->name, "name", &w->name},
		{p->namespace_, "namespace", &w->ns},
		{p->service_account, "service_account", &w->sa},
		{p->trust_domain, "trust_domain", &w->trust_domain},
		{p->network, "network", &w->network},
		{p->node, "node", &w->node},
		{p->cluster_id, "cluster_id", &w->cluster},
		{p->workload_name, "workload_name", &w->workload_name},
		{p->canonical_name, "canonical_name", &w->canonical_name},
		{p->canonical_revision, "canonical_revision", &w->canonical_revision},
		{p->hostname, "hostname", &w->hostname},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		if (wds_text(w->arena, t[i].from, t[i].field, t[i].to, err) != 0)
			return -EINVAL;
	if (p->locality == NULL)
		return 0;
	if (wds_text(w->arena, p->locality->region, "locality.region", &w->region, err) != 0 ||
	    wds_text(w->arena, p->locality->zone, "locality.zone", &w->zone, err) != 0)
		return -EINVAL;
	return wds_text(w->arena, p->locality->subzone, "locality.subzone", &w->subzone, err);
}

static int workload_flags(struct workload *w, const Istio__Workload__Workload *p, struct err *err)
{
	if (p->tunnel_protocol == 2)
		return err_set(err, EINVAL, "tunnel_protocol: LEGACY_ISTIO_MTLS is not spoken");
	if (wds_enum(p->tunnel_protocol, WL_PROTOCOL_N, "tunnel_protocol", err) != 0 ||
	    wds_enum(p->workload_type, WL_TYPE_N, "workload_type", err) != 0 ||
	    wds_enum(p->status, 2, "status", err) != 0 ||
	    wds_enum(p->network_mode, 2, "network_mode", err) != 0)
		return -EINVAL;
	w->protocol = (enum workload_protocol)p->tunnel_protocol;
	w->type = (enum wl_type)p->workload_type;
	w->unhealthy = p->status == 1;
	w->host_network = p->network_mode == 1;
	w->native_tunnel = p->native_tunnel != 0;
	w->capacity = p->capacity != NULL ? p->capacity->value : 1;
	if (p->application_tunnel == NULL)
		return 0;
	if (wds_enum(p->application_tunnel->protocol, 2, "application_tunnel.protocol", err) != 0)
		return -EINVAL;
	if (p->application_tunnel->port > UINT16_MAX)
		return err_set(err, EINVAL, "application_tunnel.port: %u",
			       p->application_tunnel->port);
	w->app_tunnel.set = true;
	w->app_tunnel.proxy = p->application_tunnel->protocol == 1;
	w->app_tunnel.port = (uint16_t)p->application_tunnel->port;
	return 0;
}

static int workload_ips(struct workload *w, const Istio__Workload__Workload *p, struct err *err)
{
	if (p->n_addresses == 0)
		return 0;
	w->ips = arena_alloc(w->arena, p->n_addresses * sizeof(*w->ips));
	for (size_t i = 0; i < p->n_addresses; i++)
		if (take_ip(p->addresses[i], "addresses", &w->ips[w->nips++], err) != 0)
			return -EINVAL;
	return 0;
}

/* The entry for @name: in a map the last one of a key counts. */
static struct wl_service *membership(struct workload *w, struct str name)
{
	for (size_t i = 0; i < w->nservices; i++)
		if (str_eq(w->services[i].name, name))
			return &w->services[i];
	return &w->services[w->nservices++];
}

static int workload_services(struct workload *w, const Istio__Workload__Workload *p,
			     struct err *err)
{
	if (p->n_services == 0)
		return 0;
	if (p->n_services > LIMIT_XDS_MEMBERSHIPS)
		return err_set(err, EINVAL, "services: %zu entries, the limit is %d", p->n_services,
			       LIMIT_XDS_MEMBERSHIPS);
	w->services = arena_alloc(w->arena, p->n_services * sizeof(*w->services));
	for (size_t i = 0; i < p->n_services; i++) {
		const Istio__Workload__ServiceEntry *e = p->services[i];
		struct str name, host, ns;
		struct wl_service *s;

		if (wds_text(w->arena, e->key, "services", &name, err) != 0)
			return -EINVAL;
		host = name;
		if (!str_cut(&host, '/', &ns) || host.n == 0)
			return err_set(err, EINVAL, "services: %s is not namespace/hostname",
				       str_shown(name));
		s = membership(w, name);
		s->name = name;
		s->nports = 0;
		if (e->value != NULL && take_ports(w->arena, e->value->ports, e->value->n_ports,
						   "services", &s->ports, &s->nports, err) != 0)
			return -EINVAL;
	}
	return 0;
}

static int workload_policies(struct workload *w, const Istio__Workload__Workload *p,
			     struct err *err)
{
	if (p->n_authorization_policies == 0)
		return 0;
	w->policies = arena_alloc(w->arena, p->n_authorization_policies * sizeof(*w->policies));
	for (size_t i = 0; i < p->n_authorization_policies; i++)
		if (wds_text(w->arena, p->authorization_policies[i], "authorization_policies",
			     &w->policies[w->npolicies++], err) != 0)
			return -EINVAL;
	return 0;
}

static int fill_workload(struct workload *w, const Istio__Workload__Workload *p, struct err *err)
{
	if (workload_texts(w, p, err) != 0 || workload_flags(w, p, err) != 0 ||
	    workload_ips(w, p, err) != 0 || workload_services(w, p, err) != 0 ||
	    workload_policies(w, p, err) != 0 ||
	    own_gateway(w->arena, p->waypoint, "waypoint", &w->waypoint, err) != 0 ||
	    own_gateway(w->arena, p->network_gateway, "network_gateway", &w->network_gateway,
			err) != 0)
		return -EINVAL;
	return workload_complete(w, err);
}

static int take_workload(struct str name, const Istio__Workload__Workload *p, struct workload **ret,
			 struct err *err)
{
	struct workload *w = workload_new();
	int r = fill_workload(w, p, err);

	if (r == 0 && (w->uid.n == 0 || !str_eq(w->uid, name)))
		r = err_set(err, EINVAL, "the resource is named differently than its uid %s",
			    str_shown(w->uid));
	if (r == 0)
		*ret = w;
	else
		workload_unref(w);
	return r;
}

/* ---- services ---- */

static int service_vips(struct service *s, const Istio__Workload__Service *p, struct err *err)
{
	if (p->n_addresses == 0)
		return 0;
	s->vips = arena_alloc(s->arena, p->n_addresses * sizeof(*s->vips));
	s->cidr_vips = arena_alloc(s->arena, p->n_addresses * sizeof(*s->cidr_vips));
	for (size_t i = 0; i < p->n_addresses; i++) {
		const Istio__Workload__NetworkAddress *n = p->addresses[i];
		bool whole = n->prefix_case != ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
		struct net_ip vip;

		if (wds_text(s->arena, n->network, "addresses", &vip.network, err) != 0 ||
		    take_ip(n->address, "addresses", &vip.ip, err) != 0)
			return -EINVAL;
		if (!whole && n->length > vip.ip.len * 8u)
			return err_set(err, EINVAL, "addresses: a prefix of %u bits", n->length);
		if (whole || n->length == vip.ip.len * 8u) {
			s->vips[s->nvips++] = vip;
			continue;
		}
		s->cidr_vips[s->ncidr_vips].network = vip.network;
		s->cidr_vips[s->ncidr_vips++].cidr = (struct ip_cidr){vip.ip, (uint8_t)n->length};
	}
	return 0;
}

/* Names that are no workload identity (DNS names of a ServiceEntry) can answer for nobody here. */
static int service_sans(struct service *s, const Istio__Workload__Service *p, struct err *err)
{
	struct spiffe_id id;
	struct str t;

	if (p->n_subject_alt_names == 0)
		return 0;
	s->subject_alt_names =
		arena_alloc(s->arena, p->n_subject_alt_names * sizeof(*s->subject_alt_names));
	for (size_t i = 0; i < p->n_subject_alt_names; i++) {
		if (wds_text(s->arena, p->subject_alt_names[i], "subject_alt_names", &t, err) != 0)
			return -EINVAL;
		if (spiffe_parse(t, &id) == 0)
			s->subject_alt_names[s->nsans++] = t;
	}
	return 0;
}

static int service_balancing(struct service *s, const Istio__Workload__LoadBalancing *lb,
			     struct err *err)
{
	if (lb == NULL)
		return 0;
	if (wds_enum(lb->mode, LB_MODE_N, "load_balancing.mode", err) != 0 ||
	    wds_enum(lb->health_policy, 2, "load_balancing.health_policy", err) != 0)
		return -EINVAL;
	s->lb_mode = (enum lb_mode)lb->mode;
	s->allow_unhealthy = lb->health_policy == 1;
	if (lb->n_routing_preference > LB_SCOPE_N)
		return err_set(err, EINVAL, "load_balancing.routing_preference: %zu entries",
			       lb->n_routing_preference);
	for (size_t i = 0; i < lb->n_routing_preference; i++) {
		int32_t v = lb->routing_preference[i];

		if (v < 1 || v > LB_SCOPE_N)
			return err_set(err, EINVAL,
				       "load_balancing.routing_preference: unknown value %d", v);
		s->lb_pref[s->nlb_pref++] = (enum lb_scope)(v - 1);
	}
	return 0;
}

static int service_waypoints(struct service *s, const Istio__Workload__Service *p, struct err *err)
{
	if (take_gateway(s->arena, p->waypoint, "waypoint", &s->waypoint, err) != 0)
		return -EINVAL;
	if (p->n_weighted_waypoints == 0)
		return 0;
	s->waypoints = arena_alloc(s->arena, p->n_weighted_waypoints * sizeof(*s->waypoints));
	for (size_t i = 0; i < p->n_weighted_waypoints; i++) {
		const Istio__Workload__WeightedWaypoint *from = p->weighted_waypoints[i];
		struct weighted_ref *w = &s->waypoints[s->nwaypoints++];

		w->weight = from->weight;
		if (from->destination == NULL)
			return err_set(err, EINVAL,
				       "weighted_waypoints: one without a destination");
		if (take_gateway(s->arena, from->destination, "weighted_waypoints", &w->ref, err) !=
		    0)
			return -EINVAL;
	}
	return 0;
}

static int fill_service(struct service *s, const Istio__Workload__Service *p, struct err *err)
{
	static const int families[] = {0, 4, 6, 10};

	if (wds_text(s->arena, p->name, "name", &s->name, err) != 0 ||
	    wds_text(s->arena, p->namespace_, "namespace", &s->ns, err) != 0 ||
	    wds_text(s->arena, p->hostname, "hostname", &s->hostname, err) != 0 ||
	    service_vips(s, p, err) != 0 ||
	    take_ports(s->arena, p->ports, p->n_ports, "ports", &s->ports, &s->nports, err) != 0 ||
	    service_sans(s, p, err) != 0 || service_waypoints(s, p, err) != 0 ||
	    service_balancing(s, p->load_balancing, err) != 0 ||
	    wds_enum(p->ip_families, ARRAY_LEN(families), "ip_families", err) != 0)
		return -EINVAL;
	s->ip_families = families[p->ip_families];
	s->canonical = p->canonical != 0;
	s->private_to_ns = p->visibility == 1; /* another value is public, as in stock */
	return 0;
}

static int take_service(struct str name, const Istio__Workload__Service *p, struct service **ret,
			struct err *err)
{
	struct service *s = service_new();
	int r = fill_service(s, p, err);
	struct str host = name, ns;

	if (r == 0 && (!str_cut(&host, '/', &ns) || host.n == 0 || !str_eq(ns, s->ns) ||
		       !str_eq(host, s->hostname)))
		r = err_set(err, EINVAL, "the resource is named differently than its service %s/%s",
			    str_shown(s->ns), str_shown(s->hostname));
	if (r == 0)
		*ret = s;
	else
		service_unref(s);
	return r;
}

int wds_address(struct str name, struct str value, struct wds_address *ret, struct err *err)
{
	Istio__Workload__Address *p =
		istio__workload__address__unpack(NULL, value.n, (const uint8_t *)value.p);
	int r;

	*ret = (struct wds_address){0};
	if (p == NULL)
		return err_set(err, EINVAL, "not an istio.workload.Address");
	if (p->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD && p->workload != NULL)
		r = take_workload(name, p->workload, &ret->workload, err);
	else if (p->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE && p->service != NULL)
		r = take_service(name, p->service, &ret->service, err);
	else
		r = err_set(err, EINVAL, "neither a workload nor a service");
	istio__workload__address__free_unpacked(p, NULL);
	return r;
}
