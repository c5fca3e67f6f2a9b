/* SPDX-License-Identifier: Apache-2.0
 * local_state.c: the local YAML state: top level, workloads, services. Policies are in
 * local_policy.c. Everything is checked before anything is used: a value that cannot be taken
 * literally is an error with its field and line, never dropped.
 */
#include "ztunnel/mesh/local_state.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/yaml.h"
#include "ztunnel/mesh/local_internal.h"

#define ITEMS_MAX (1u << 20) /* of one kind; the file size limit is reached first */

int local_enum(const struct doc *map, const char *key, const char *const *names, int n, int *ret,
	       struct err *err)
{
	struct str s = {NULL, 0};
	_cleanup_strbuf_ struct strbuf all = {0};
	int r = doc_opt_text(map, key, &s, err);

	if (r != 0 || s.p == NULL)
		return r;
	for (int i = 0; i < n; i++)
		if (names[i] != NULL && str_eqc(s, names[i])) {
			*ret = i;
			return 0;
		}
	for (int i = 0; i < n; i++)
		if (names[i] != NULL)
			strbuf_printf(&all, "%s%s", all.n != 0 ? ", " : "", names[i]);
	return doc_err(doc_get(map, key), err, "expected one of %s, got %s", all.p, str_shown(s));
}

int local_text(struct arena *a, const struct doc *map, const char *key, struct str *ret,
	       struct err *err)
{
	struct str s = {NULL, 0};
	int r = doc_opt_text(map, key, &s, err);

	if (r == 0 && s.p != NULL)
		*ret = model_text(a, s);
	return r;
}

int local_need_text(struct arena *a, const struct doc *map, const char *key, struct str *ret,
		    struct err *err)
{
	struct str s;
	int r = doc_need_text(map, key, &s, err);

	if (r != 0)
		return r;
	if (s.n == 0)
		return doc_err(doc_get(map, key), err, "must not be empty");
	*ret = model_text(a, s);
	return 0;
}

int local_item_text(const struct doc *d, struct str *ret, struct err *err)
{
	if (d->kind != DOC_TEXT)
		return doc_err(d, err, "expected text");
	*ret = d->text;
	return 0;
}

/* "network/rest"; the network may be empty ("/10.0.0.1"). */
static int split_slash(const struct doc *d, struct str s, struct str *ret_head,
		       struct str *ret_rest, const char *what, struct err *err)
{
	*ret_rest = s;
	if (!str_cut(ret_rest, '/', ret_head) || ret_rest->n == 0)
		return doc_err(d, err, "expected %s, got %s", what, str_shown(s));
	return 0;
}

static int parse_net_ip(struct arena *a, const struct doc *d, struct net_ip *ret, struct err *err)
{
	struct str s, net, ip;

	if (local_item_text(d, &s, err) != 0 ||
	    split_slash(d, s, &net, &ip, "network/ip", err) != 0)
		return -EINVAL;
	if (ip_parse(ip, &ret->ip) != 0)
		return doc_err(d, err, "expected network/ip, but %s is not an IP address",
			       str_shown(ip));
	ret->network = model_text(a, net);
	return 0;
}

/* A map {service port: target port}. Target 0 means "named port". */
static int parse_ports(struct arena *a, const struct doc *map, struct port_map **ret, size_t *ret_n,
		       struct err *err)
{
	size_t n = 0;

	if (doc_map(map, err) != 0)
		return -EINVAL;
	*ret = arena_alloc(a, map->count * sizeof(**ret));
	for (const struct doc *c = map->child; c != NULL; c = c->next) {
		struct port_map *p = &(*ret)[n++];

		if (parse_u16(c->key, 1, UINT16_MAX, &p->service_port) != 0)
			return doc_err(c, err, "service port %s is not a number from 1 to 65535",
				       str_shown(c->key));
		if (c->kind != DOC_NUMBER ||
		    parse_u16(c->text, 0, UINT16_MAX, &p->target_port) != 0)
			return doc_err(c, err, "expected a target port from 0 to 65535");
	}
	*ret_n = n;
	return 0;
}

static const char *const gateway_keys[] = {"destination", "hboneMtlsPort", NULL};

static int parse_gateway(struct arena *a, const struct doc *g, struct gateway_ref *ret,
			 struct err *err)
{
	struct str dest, head, rest;
	uint32_t port = 15008;
	const struct doc *d;

	if (doc_map(g, err) != 0 || doc_only_keys(g, gateway_keys, err) != 0 ||
	    doc_need_text(g, "destination", &dest, err) != 0 ||
	    doc_opt_u32(g, "hboneMtlsPort", 1, UINT16_MAX, &port, err) != 0)
		return -EINVAL;
	d = doc_get(g, "destination");
	if (split_slash(d, dest, &head, &rest, "network/ip or namespace/hostname", err) != 0)
		return -EINVAL;
	ret->hbone_port = (uint16_t)port;
	ret->set = true;
	if (ip_parse(rest, &ret->addr.ip) == 0) {
		ret->addr.network = model_text(a, head);
		return 0;
	}
	if (head.n == 0 || (rest.p[0] >= '0' && rest.p[0] <= '9'))
		return doc_err(d, err, "expected network/ip or namespace/hostname, got %s",
			       str_shown(dest));
	ret->by_host = true;
	ret->ns = model_text(a, head);
	ret->hostname = model_text(a, rest);
	return 0;
}

static int opt_gateway(struct arena *a, const struct doc *map, const char *key,
		       struct gateway_ref *ret, struct err *err)
{
	const struct doc *g = NULL;

	if (doc_opt_map(map, key, &g, err) != 0)
		return -EINVAL;
	return g != NULL ? parse_gateway(a, g, ret, err) : 0;
}

/* Memory only for those that have one. */
static int own_gateway(struct arena *a, const struct doc *map, const char *key,
		       const struct gateway_ref **ret, struct err *err)
{
	const struct doc *g = NULL;
	struct gateway_ref *own;

	if (doc_opt_map(map, key, &g, err) != 0)
		return -EINVAL;
	if (g == NULL)
		return 0;
	own = arena_alloc(a, sizeof(*own));
	*ret = own;
	return parse_gateway(a, g, own, err);
}

static const char *const workload_keys[] = {"workloadIps",
					    "namespace",
					    "services",
					    "uid",
					    "name",
					    "serviceAccount",
					    "trustDomain",
					    "network",
					    "protocol",
					    "networkMode",
					    "waypoint",
					    "networkGateway",
					    "workloadName",
					    "workloadType",
					    "canonicalName",
					    "canonicalRevision",
					    "hostname",
					    "node",
					    "nativeTunnel",
					    "applicationTunnel",
					    "authorizationPolicies",
					    "status",
					    "clusterId",
					    "locality",
					    "capacity",
					    NULL};
static const char *const locality_keys[] = {"region", "zone", "subzone", NULL};
static const char *const tunnel_keys[] = {"protocol", "port", NULL};
static const char *const protocol_names[] = {"TCP", "HBONE"};
static const char *const mode_names[] = {"Standard", "HostNetwork"};
static const char *const status_names[] = {"Healthy", "Unhealthy"};
static const char *const tunnel_names[] = {"NONE", "PROXY"};

static int parse_ips(struct workload *w, const struct doc *d, struct err *err)
{
	const struct doc *l = doc_get(d, "workloadIps");
	struct str s;

	if (l == NULL)
		return doc_err(d, err, "field workloadIps is missing");
	if (doc_list(l, err) != 0)
		return -EINVAL;
	w->ips = arena_alloc(w->arena, l->count * sizeof(*w->ips));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		if (local_item_text(c, &s, err) != 0)
			return -EINVAL;
		if (ip_parse(s, &w->ips[w->nips]) != 0)
			return doc_err(c, err, "expected an IP address, got %s", str_shown(s));
		w->nips++;
	}
	return 0;
}

static int parse_memberships(struct workload *w, const struct doc *d, struct err *err)
{
	const struct doc *map = doc_get(d, "services");
	struct str ns, host;

	if (map == NULL)
		return doc_err(d, err,
			       "field services is missing (write \"services: {}\" for none)");
	if (doc_map(map, err) != 0)
		return -EINVAL;
	w->services = arena_alloc(w->arena, map->count * sizeof(*w->services));
	for (const struct doc *c = map->child; c != NULL; c = c->next) {
		struct wl_service *s = &w->services[w->nservices++];

		host = c->key;
		if (!str_cut(&host, '/', &ns) || ns.n == 0 || host.n == 0)
			return doc_err(c, err, "expected namespace/hostname as the key, got %s",
				       str_shown(c->key));
		s->name = model_text(w->arena, c->key);
		if (parse_ports(w->arena, c, &s->ports, &s->nports, err) != 0)
			return -EINVAL;
	}
	return 0;
}

static int parse_policies_of(struct workload *w, const struct doc *d, struct err *err)
{
	const struct doc *l = NULL;
	struct str s;

	if (doc_opt_list(d, "authorizationPolicies", &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	w->policies = arena_alloc(w->arena, (l->count + 1) * sizeof(*w->policies));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		if (local_item_text(c, &s, err) != 0)
			return -EINVAL;
		if (memchr(s.p, '/', s.n) == NULL)
			return doc_err(c, err, "expected namespace/name, got %s", str_shown(s));
		w->policies[w->npolicies++] = model_text(w->arena, s);
	}
	return 0;
}

static int parse_tunnel(struct workload *w, const struct doc *d, struct err *err)
{
	const struct doc *t = NULL;
	uint32_t port = 0;
	int proto = 0;

	if (doc_opt_map(d, "applicationTunnel", &t, err) != 0)
		return -EINVAL;
	if (t == NULL)
		return 0;
	if (doc_only_keys(t, tunnel_keys, err) != 0 ||
	    local_enum(t, "protocol", tunnel_names, 2, &proto, err) != 0 ||
	    doc_opt_u32(t, "port", 0, UINT16_MAX, &port, err) != 0)
		return -EINVAL;
	w->app_tunnel.set = true;
	w->app_tunnel.proxy = proto == 1;
	w->app_tunnel.port = (uint16_t)port;
	return 0;
}

static int parse_workload_texts(struct workload *w, const struct doc *d, struct err *err)
{
	struct {
		const char *key;
		struct str *to;
	} t[] = {
		{"uid", &w->uid},
		{"name", &w->name},
		{"serviceAccount", &w->sa},
		{"trustDomain", &w->trust_domain},
		{"network", &w->network},
		{"node", &w->node},
		{"clusterId", &w->cluster},
		{"workloadName", &w->workload_name},
		{"canonicalName", &w->canonical_name},
		{"canonicalRevision", &w->canonical_revision},
		{"hostname", &w->hostname},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		if (local_text(w->arena, d, t[i].key, t[i].to, err) != 0)
			return -EINVAL;
	return local_need_text(w->arena, d, "namespace", &w->ns, err);
}

static int parse_workload_place(struct workload *w, const struct doc *d, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_map(d, "locality", &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	if (doc_only_keys(l, locality_keys, err) != 0 ||
	    local_text(w->arena, l, "region", &w->region, err) != 0 ||
	    local_text(w->arena, l, "zone", &w->zone, err) != 0 ||
	    local_text(w->arena, l, "subzone", &w->subzone, err) != 0)
		return -EINVAL;
	return 0;
}

static int parse_workload_flags(struct workload *w, const struct doc *d, struct err *err)
{
	int protocol = 0, mode = 0, status = 0, type = WL_TYPE_DEPLOYMENT;

	w->capacity = 1;
	if (local_enum(d, "protocol", protocol_names, 2, &protocol, err) != 0 ||
	    local_enum(d, "networkMode", mode_names, 2, &mode, err) != 0 ||
	    local_enum(d, "status", status_names, 2, &status, err) != 0 ||
	    local_enum(d, "workloadType", wl_type_name, WL_TYPE_N, &type, err) != 0 ||
	    doc_opt_bool(d, "nativeTunnel", &w->native_tunnel, err) != 0 ||
	    doc_opt_u32(d, "capacity", 0, UINT32_MAX, &w->capacity, err) != 0)
		return -EINVAL;
	w->protocol = (enum workload_protocol)protocol;
	w->host_network = mode == 1;
	w->unhealthy = status == 1;
	w->type = (enum wl_type)type;
	return 0;
}

/* The file may leave out the uid: made from what identifies the workload to a reader. */
static int make_uid(struct workload *w, const struct doc *d, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char ip[IP_TEXT_MAX];

	if (w->uid.n != 0)
		return 0;
	if (w->name.n != 0)
		strbuf_printf(&b, "%.*s//Pod/%.*s/%.*s", STR_FMT(w->cluster), STR_FMT(w->ns),
			      STR_FMT(w->name));
	else if (w->nips != 0)
		strbuf_printf(&b, "%.*s//Address/%.*s/%s", STR_FMT(w->cluster), STR_FMT(w->ns),
			      ip_format(&w->ips[0], ip));
	else
		return doc_err(d, err, "a workload without workloadIps and name needs a uid");
	w->uid = model_text(w->arena, (struct str){b.p, b.n});
	return 0;
}

static int fill_workload(struct workload *w, const struct doc *d, struct err *err)
{
	struct err why = {0};

	if (doc_map(d, err) != 0 || doc_only_keys(d, workload_keys, err) != 0 ||
	    parse_workload_texts(w, d, err) != 0 || parse_ips(w, d, err) != 0 ||
	    parse_memberships(w, d, err) != 0 || parse_policies_of(w, d, err) != 0 ||
	    parse_tunnel(w, d, err) != 0 || parse_workload_place(w, d, err) != 0 ||
	    parse_workload_flags(w, d, err) != 0 ||
	    own_gateway(w->arena, d, "waypoint", &w->waypoint, err) != 0 ||
	    own_gateway(w->arena, d, "networkGateway", &w->network_gateway, err) != 0)
		return -EINVAL;
	if (workload_complete(w, &why) != 0)
		return doc_err(d, err, "%s", why.msg);
	return make_uid(w, d, err);
}

static const char *const service_keys[] = {
	"name",		"namespace",  "hostname",	 "vips",       "ports",
	"cidrVips",	"endpoints",  "subjectAltNames", "waypoint",   "weightedWaypoints",
	"loadBalancer", "ipFamilies", "canonical",	 "visibility", NULL};
static const char *const cidr_keys[] = {"network", "cidr", NULL};
static const char *const weighted_keys[] = {"destination", "weight", NULL};
static const char *const lb_keys[] = {"routingPreferences", "mode", "healthPolicy", NULL};
static const char *const lb_mode_names[LB_MODE_N] = {"Standard", "Strict", "Failover",
						     "Passthrough"};
static const char *const lb_scope_names[LB_SCOPE_N] = {"Region", "Zone",    "Subzone",
						       "Node",	 "Cluster", "Network"};
static const char *const health_names[] = {"OnlyHealthy", "AllowAll"};
static const char *const visibility_names[] = {"Public", "Namespace"};
static const char *const family_names[11] = {
	[0] = "Automatic", [4] = "IPv4", [6] = "IPv6", [10] = "Dual"};

static int parse_vips(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *l = doc_get(d, "vips");

	if (l == NULL)
		return doc_err(d, err, "field vips is missing (write \"vips: []\" for none)");
	if (doc_list(l, err) != 0)
		return -EINVAL;
	s->vips = arena_alloc(s->arena, (l->count + 1) * sizeof(*s->vips));
	for (const struct doc *c = l->child; c != NULL; c = c->next)
		if (parse_net_ip(s->arena, c, &s->vips[s->nvips++], err) != 0)
			return -EINVAL;
	return 0;
}

/* "network/cidr" or {network, cidr}. */
static int parse_cidr_vip(struct service *s, const struct doc *c, struct err *err)
{
	struct str net = {"", 0}, cidr, whole;
	size_t i = s->ncidr_vips;

	if (c->kind == DOC_MAP) {
		if (doc_only_keys(c, cidr_keys, err) != 0 ||
		    doc_opt_text(c, "network", &net, err) != 0 ||
		    doc_need_text(c, "cidr", &cidr, err) != 0)
			return -EINVAL;
	} else if (local_item_text(c, &whole, err) != 0 ||
		   split_slash(c, whole, &net, &cidr, "network/address/prefix", err) != 0) {
		return -EINVAL;
	}
	if (memchr(cidr.p, '/', cidr.n) == NULL || ip_cidr_parse(cidr, &s->cidr_vips[i].cidr) != 0)
		return doc_err(c, err, "expected network/address/prefix, but %s is not a CIDR",
			       str_shown(cidr));
	s->cidr_vips[i].network = model_text(s->arena, net);
	s->ncidr_vips++;
	return 0;
}

static int parse_cidr_vips(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(d, "cidrVips", &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	s->cidr_vips = arena_alloc(s->arena, (l->count + 1) * sizeof(*s->cidr_vips));
	for (const struct doc *c = l->child; c != NULL; c = c->next)
		if (parse_cidr_vip(s, c, err) != 0)
			return -EINVAL;
	return 0;
}

static int parse_sans(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *l = NULL;
	struct spiffe_id id;
	struct str t;

	if (doc_opt_list(d, "subjectAltNames", &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	s->subject_alt_names = arena_alloc(s->arena, (l->count + 1) * sizeof(struct str));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		if (local_item_text(c, &t, err) != 0)
			return -EINVAL;
		if (spiffe_parse(t, &id) != 0)
			return doc_err(
				c, err,
				"expected spiffe://<trust domain>/ns/<namespace>/sa/<service "
				"account>, got %s",
				str_shown(t));
		s->subject_alt_names[s->nsans++] = model_text(s->arena, t);
	}
	return 0;
}

static int parse_prefs(struct service *s, const struct doc *lb, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(lb, "routingPreferences", &l, err) != 0)
		return -EINVAL;
	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next) {
		size_t i = 0;

		if (c->kind != DOC_TEXT)
			return doc_err(c, err, "expected text");
		while (i < LB_SCOPE_N && !str_eqc(c->text, lb_scope_names[i]))
			i++;
		if (i == LB_SCOPE_N)
			return doc_err(c, err,
				       "expected one of Region, Zone, Subzone, Node, Cluster, "
				       "Network, got %s",
				       str_shown(c->text));
		if (s->nlb_pref == LB_SCOPE_N)
			return doc_err(c, err, "too many preferences");
		s->lb_pref[s->nlb_pref++] = (enum lb_scope)i;
	}
	return 0;
}

static int parse_lb(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *lb = NULL;
	int mode = 0, health = 0;

	if (doc_opt_map(d, "loadBalancer", &lb, err) != 0)
		return -EINVAL;
	if (lb == NULL)
		return 0;
	if (doc_only_keys(lb, lb_keys, err) != 0 || parse_prefs(s, lb, err) != 0 ||
	    local_enum(lb, "mode", lb_mode_names, LB_MODE_N, &mode, err) != 0 ||
	    local_enum(lb, "healthPolicy", health_names, 2, &health, err) != 0)
		return -EINVAL;
	s->lb_mode = (enum lb_mode)mode;
	s->allow_unhealthy = health == 1;
	return 0;
}

static int parse_weighted(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(d, "weightedWaypoints", &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	s->waypoints = arena_alloc(s->arena, (l->count + 1) * sizeof(*s->waypoints));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		struct weighted_ref *w = &s->waypoints[s->nwaypoints];

		*w = (struct weighted_ref){0};
		if (doc_map(c, err) != 0 || doc_only_keys(c, weighted_keys, err) != 0 ||
		    doc_opt_u32(c, "weight", 0, UINT32_MAX, &w->weight, err) != 0 ||
		    opt_gateway(s->arena, c, "destination", &w->ref, err) != 0)
			return -EINVAL;
		if (!w->ref.set)
			return doc_err(c, err, "field destination is missing");
		s->nwaypoints++;
	}
	return 0;
}

static int refuse_endpoints(const struct doc *d, struct err *err)
{
	const struct doc *e = doc_get(d, "endpoints");

	if (e == NULL || e->kind == DOC_NULL || e->count == 0)
		return 0;
	return doc_err(e, err,
		       "endpoints come from the workloads: name this service in each "
		       "workload's \"services\" instead");
}

static int fill_service(struct service *s, const struct doc *d, struct err *err)
{
	const struct doc *ports;
	int family = 0, visibility = 0;

	if (doc_map(d, err) != 0 || doc_only_keys(d, service_keys, err) != 0 ||
	    local_need_text(s->arena, d, "name", &s->name, err) != 0 ||
	    local_need_text(s->arena, d, "namespace", &s->ns, err) != 0 ||
	    local_need_text(s->arena, d, "hostname", &s->hostname, err) != 0)
		return -EINVAL;
	ports = doc_get(d, "ports");
	if (ports == NULL)
		return doc_err(d, err, "field ports is missing");
	if (parse_ports(s->arena, ports, &s->ports, &s->nports, err) != 0 ||
	    parse_vips(s, d, err) != 0 || parse_cidr_vips(s, d, err) != 0 ||
	    parse_sans(s, d, err) != 0 || parse_lb(s, d, err) != 0 ||
	    refuse_endpoints(d, err) != 0 ||
	    opt_gateway(s->arena, d, "waypoint", &s->waypoint, err) != 0 ||
	    parse_weighted(s, d, err) != 0 ||
	    doc_opt_bool(d, "canonical", &s->canonical, err) != 0 ||
	    local_enum(d, "ipFamilies", family_names, ARRAY_LEN(family_names), &family, err) != 0 ||
	    local_enum(d, "visibility", visibility_names, 2, &visibility, err) != 0)
		return -EINVAL;
	s->ip_families = family;
	s->private_to_ns = visibility == 1;
	return 0;
}

static int load_workload(struct mesh_builder *b, const struct doc *d, struct err *err)
{
	struct workload *w = workload_new();
	struct err why = {0};

	if (fill_workload(w, d, err) != 0) {
		workload_unref(w);
		return -EINVAL;
	}
	return mesh_builder_workload(b, w, &why) != 0 ? doc_err(d, err, "%s", why.msg) : 0;
}

static int load_service(struct mesh_builder *b, const struct doc *d, struct err *err)
{
	struct service *s = service_new();
	struct err why = {0};

	if (fill_service(s, d, err) != 0) {
		service_unref(s);
		return -EINVAL;
	}
	return mesh_builder_service(b, s, &why) != 0 ? doc_err(d, err, "%s", why.msg) : 0;
}

static int load_policy(struct mesh_builder *b, const struct doc *d, struct err *err)
{
	struct policy *p = policy_new();
	struct err why = {0};

	if (local_policy_fill(p, d, err) != 0) {
		policy_unref(p);
		return -EINVAL;
	}
	return mesh_builder_policy(b, p, &why) != 0 ? doc_err(d, err, "%s", why.msg) : 0;
}

static const char *const root_keys[] = {"workloads", "services", "policies", NULL};

/* One element of one of the root's lists. */
static int load_item(void *ctx, const struct doc *d, struct err *err)
{
	static int (*const load[])(struct mesh_builder *, const struct doc *,
				   struct err *) = {load_workload, load_service, load_policy};

	if (d->parent->count > ITEMS_MAX)
		return doc_err(d->parent, err, "too many entries (at most %u)", ITEMS_MAX);
	for (size_t i = 0; i < ARRAY_LEN(load); i++)
		if (str_eqc(d->parent->key, root_keys[i]))
			return load[i](ctx, d, err);
	return doc_only_keys(d->parent->parent, root_keys, err);
}

/* What is not in the lists: nothing else may be there. */
static int check_root(const struct doc *root, struct err *err)
{
	const struct doc *l;

	if (root->kind == DOC_NULL)
		return err_set(err, EINVAL, "the file is empty (write \"{}\" for an empty mesh)");
	if (doc_map(root, err) != 0 || doc_only_keys(root, root_keys, err) != 0)
		return -EINVAL;
	for (size_t i = 0; root_keys[i] != NULL; i++)
		if (doc_opt_list(root, root_keys[i], &l, err) != 0)
			return -EINVAL;
	return 0;
}

static void arena_freep(struct arena **a)
{
	(void)arena_free(*a);
}

struct mesh *local_state_parse(struct str yaml, struct str node, uint64_t generation,
			       struct err *err)
{
	_cleanup_(arena_freep) struct arena *a = arena_new();
	struct mesh_builder *b = mesh_builder_new(node);
	const struct doc *root;

	/* 100,000 workloads as a tree are 300 MB; their elements one by one are 10 kB */
	if (yaml_parse_items(yaml, a, load_item, b, &root, err) != 0 ||
	    check_root(root, err) != 0) {
		(void)mesh_builder_free(b);
		return NULL;
	}
	return mesh_builder_finish(b, generation);
}
