/* SPDX-License-Identifier: Apache-2.0
 * export_read.c: see export_read.h. Policies are in export_policy.c.
 */
#include "ctl/export_read.h"

#include <errno.h>
#include <stdlib.h>

#include "ctl/export_policy.h"
#include "ctl/export_reader.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

/* Of Kubernetes' kinds here: a DNS name. The API server has checked it; what it becomes a part of
 * (identities, keys) relies on it. */
static bool is_name(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '0' && s.p[i] <= '9') ||
		      s.p[i] == '-' || s.p[i] == '.'))
			return false;
	return s.n != 0 && s.n <= 253;
}

static void mix_ip(struct ex_reader *r, const struct ip_addr *ip)
{
	ex_rd_mix(r, hash_bytes(ip->b, ip->len));
}

/* --- pods --- */

/* The name of what made the pod: a Deployment rather than its ReplicaSet, a CronJob rather than its
 * Job (istiod-ambient-spec 4.1, workload_name). */
static struct str without_hash(struct str name, struct str hash)
{
	if (hash.n == 0 || name.n <= hash.n + 1 || !str_has_suffix(name, hash) ||
	    name.p[name.n - hash.n - 1] != '-')
		return name;
	return (struct str){name.p, name.n - hash.n - 1};
}

/* "-<8 to 10 digits>" at the end: the time of a CronJob's run. */
static struct str without_time(struct str name)
{
	size_t digits = 0;

	while (digits < name.n && name.p[name.n - 1 - digits] >= '0' &&
	       name.p[name.n - 1 - digits] <= '9')
		digits++;
	if (digits < 8 || digits > 10 || name.n < digits + 2 || name.p[name.n - digits - 1] != '-')
		return name;
	return (struct str){name.p, name.n - digits - 1};
}

static const struct doc *controller_of(struct ex_reader *r, const struct doc *meta)
{
	const struct doc *l = ex_rd_list(r, meta, "ownerReferences");

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		if (ex_rd_bool(r, c, "controller", false))
			return c;
	return NULL;
}

static struct str workload_name(struct ex_reader *r, const struct doc *meta,
				const struct doc *labels)
{
	struct str own = ex_rd_text(r, labels, "service.istio.io/workload-name"), kind, name;
	const struct doc *owner = controller_of(r, meta);

	if (own.n != 0)
		return own;
	if (owner == NULL || ex_rd_text(r, meta, "generateName").n == 0)
		return ex_rd_text(r, meta, "name");
	kind = ex_rd_text(r, owner, "kind");
	name = ex_rd_text(r, owner, "name");
	if (str_eqc(kind, "ReplicaSet")) {
		struct str hash = ex_rd_text(r, labels, "pod-template-hash");

		return without_hash(
			name,
			hash.n != 0 ? hash : ex_rd_text(r, labels, "rollouts-pod-template-hash"));
	}
	if (str_eqc(kind, "ReplicationController")) {
		struct str config = ex_rd_text(r, labels, "deploymentconfig");

		return config.n != 0 ? config : name;
	}
	return str_eqc(kind, "Job") ? without_time(name) : name;
}

static struct str first_label(struct ex_reader *r, const struct doc *labels,
			      const char *const *keys, struct str absent)
{
	for (; *keys != NULL; keys++) {
		struct str s = ex_rd_text(r, labels, *keys);

		if (s.n != 0)
			return s;
	}
	return absent;
}

/* False: no address, or one that is none. */
static bool read_ips(struct ex_reader *r, const struct doc *status, struct ex_pod *p)
{
	const struct doc *l = ex_rd_list(r, status, "podIPs");
	struct str one = ex_rd_text(r, status, "podIP");
	size_t room = l != NULL && l->count != 0 ? l->count : 1;

	p->ip = xcalloc(room, sizeof(*p->ip));
	if (l == NULL || l->count == 0) {
		p->nips = one.n != 0;
		return one.n != 0 && ip_parse(one, &p->ip[0]) == 0;
	}
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		size_t i = 0;

		if (ip_parse(ex_rd_text(r, c, "ip"), &p->ip[p->nips]) != 0)
			return false;
		while (i < p->nips && !ip_eq(&p->ip[i], &p->ip[p->nips]))
			i++;
		p->nips += i == p->nips;
	}
	return true;
}

static bool is_ready(struct ex_reader *r, const struct doc *meta, const struct doc *status)
{
	const struct doc *l = ex_rd_list(r, status, "conditions");

	if (ex_rd_text(r, meta, "deletionTimestamp").n != 0)
		return false;
	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		if (str_eqc(ex_rd_text(r, c, "type"), "Ready"))
			return str_eqc(ex_rd_text(r, c, "status"), "True");
	return false;
}

static bool is_tcp(struct ex_reader *r, const struct doc *port)
{
	struct str protocol = ex_rd_text(r, port, "protocol");

	return protocol.n == 0 || str_eqc(protocol, "TCP");
}

static void container_ports(struct ex_reader *r, const struct doc *container, struct ex_pod *p)
{
	const struct doc *l = ex_rd_list(r, container, "ports");

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next) {
		struct str name = ex_rd_text(r, c, "name");
		uint16_t port = ex_rd_port(r, c, "containerPort");

		if (name.n == 0 || port == 0 || !is_tcp(r, c))
			continue;
		p->port = xrealloc_array(p->port, p->nports + 1, sizeof(*p->port));
		p->port[p->nports++] = (struct ex_port){ex_rd_keep(r, name), port};
		ex_rd_mix(r, port);
	}
}

/* Containers, and init containers that go on running (restartPolicy: Always). */
static void pod_ports(struct ex_reader *r, const struct doc *spec, struct ex_pod *p)
{
	const struct doc *l = ex_rd_list(r, spec, "containers");
	const struct doc *init = ex_rd_list(r, spec, "initContainers");

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		container_ports(r, c, p);
	for (const struct doc *c = init != NULL ? init->child : NULL; c != NULL; c = c->next)
		if (str_eqc(ex_rd_text(r, c, "restartPolicy"), "Always"))
			container_ports(r, c, p);
}

/* "http" in the comma list of networking.istio.io/tunnel. */
static bool lists_http(struct str s)
{
	struct str part;

	while (str_cut(&s, ',', &part))
		if (str_eqc(str_trim(part), "http"))
			return true;
	return str_eqc(str_trim(s), "http");
}

static bool read_pod(struct ex_reader *r, const struct doc *d, struct ex_pod *p)
{
	static const char *const canonical[] = {"service.istio.io/canonical-name",
						"app.kubernetes.io/name", "app", NULL};
	static const char *const revision[] = {"service.istio.io/canonical-revision",
					       "app.kubernetes.io/version", "version", NULL};
	const struct doc *meta = ex_rd_map(r, d, "metadata"), *spec = ex_rd_map(r, d, "spec");
	const struct doc *status = ex_rd_map(r, d, "status");
	const struct doc *labels = ex_rd_map(r, meta, "labels");
	const struct doc *notes = ex_rd_map(r, meta, "annotations");
	struct str phase = ex_rd_text(r, status, "phase"), account, workload;

	if (str_eqc(phase, "Succeeded") || str_eqc(phase, "Failed") || !read_ips(r, status, p))
		return false;
	for (size_t i = 0; i < p->nips; i++)
		mix_ip(r, &p->ip[i]);
	workload = workload_name(r, meta, labels);
	account = ex_rd_text(r, spec, "serviceAccountName");
	if (account.n != 0 && !is_name(account))
		ex_rd_bad(r, doc_get(spec, "serviceAccountName"), "expected a name");
	p->uid = ex_rd_keep(r, ex_rd_text(r, meta, "uid"));
	p->node = ex_rd_keep(r, ex_rd_text(r, spec, "nodeName"));
	p->account = ex_rd_keep(r, account.n != 0 ? account : STR("default"));
	p->workload = ex_rd_keep(r, workload);
	p->canonical = ex_rd_keep(r, first_label(r, labels, canonical, workload));
	p->revision = ex_rd_keep(r, first_label(r, labels, revision, STR("latest")));
	ex_rd_labels(r, labels, &p->labels);
	pod_ports(r, spec, p);
	p->ready = is_ready(r, meta, status);
	p->host_network = ex_rd_bool(r, spec, "hostNetwork", false);
	p->native_tunnel = lists_http(ex_rd_text(r, labels, "networking.istio.io/tunnel"));
	p->hbone = p->native_tunnel ||
		   str_eqc(ex_rd_text(r, notes, "ambient.istio.io/redirection"), "enabled");
	ex_rd_mix(r, p->ready | p->host_network << 1 | p->native_tunnel << 2 | p->hbone << 3);
	return true;
}

/* --- services --- */

static enum ex_distribution distribution(struct str s)
{
	static const struct {
		const char *name;
		enum ex_distribution is;
	} names[] = {{"PreferClose", EX_CLOSE},
		     {"PreferSameZone", EX_CLOSE},
		     {"PreferSameNode", EX_SAME_NODE}};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (str_eq_nocase(s, str_of(names[i].name)))
			return names[i].is;
	return EX_ANYWHERE;
}

#define DISTRIBUTION "networking.istio.io/traffic-distribution"

static void add_vip(struct ex_reader *r, struct str s, struct ex_service *v)
{
	struct ip_addr ip;

	if (s.n == 0 || str_eqc(s, "None") || ip_parse(s, &ip) != 0)
		return;
	for (size_t i = 0; i < v->nvips; i++)
		if (ip_eq(&v->vip[i], &ip))
			return;
	v->vip = xrealloc_array(v->vip, v->nvips + 1, sizeof(*v->vip));
	v->vip[v->nvips++] = ip;
	mix_ip(r, &ip);
}

static void read_vips(struct ex_reader *r, const struct doc *spec, struct ex_service *v)
{
	const struct doc *l = ex_rd_list(r, spec, "clusterIPs");

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		if (c->kind == DOC_TEXT)
			add_vip(r, c->text, v);
	if (l == NULL || l->count == 0)
		add_vip(r, ex_rd_text(r, spec, "clusterIP"), v);
}

/* targetPort is a number, a name, or the port itself when it is absent. */
static void read_target(struct ex_reader *r, const struct doc *d, struct ex_service_port *p)
{
	const struct doc *t = doc_get(d, "targetPort");

	p->target_port = p->port;
	if (t == NULL || t->kind == DOC_NULL)
		return;
	if (t->kind == DOC_TEXT) {
		p->target_port = 0;
		p->target = ex_rd_keep(r, t->text);
		return;
	}
	if (t->kind == DOC_NUMBER && str_eqc(t->text, "0"))
		return;
	p->target_port = ex_rd_port(r, d, "targetPort");
}

static void read_service_ports(struct ex_reader *r, const struct doc *spec, struct ex_service *v)
{
	const struct doc *l = ex_rd_list(r, spec, "ports");

	v->port = l != NULL && l->count != 0 ? xcalloc(l->count, sizeof(*v->port)) : NULL;
	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next) {
		struct ex_service_port *p = &v->port[v->nports];
		size_t i = 0;

		p->port = ex_rd_port(r, c, "port");
		while (i < v->nports && v->port[i].port != p->port)
			i++;
		if (!is_tcp(r, c) || p->port == 0 || i != v->nports)
			continue;
		v->nports++;
		p->name = ex_rd_keep(r, ex_rd_text(r, c, "name"));
		read_target(r, c, p);
		ex_rd_mix(r, (uint64_t)p->port << 16 | p->target_port);
	}
}

static unsigned int read_families(struct ex_reader *r, const struct doc *spec)
{
	const struct doc *l = ex_rd_list(r, spec, "ipFamilies");
	unsigned int sum = 0;

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		if (c->kind == DOC_TEXT && str_eqc(c->text, "IPv4"))
			sum |= 1;
		else if (c->kind == DOC_TEXT && str_eqc(c->text, "IPv6"))
			sum |= 2;
	return sum == 3 ? 10 : sum == 2 ? 6 : sum == 1 ? 4 : 0;
}

static bool read_service(struct ex_reader *r, const struct doc *d, struct ex_service *v)
{
	const struct doc *meta = ex_rd_map(r, d, "metadata"), *spec = ex_rd_map(r, d, "spec");
	const struct doc *notes = ex_rd_map(r, meta, "annotations");
	struct str wish = ex_rd_text(r, spec, "trafficDistribution");

	if (str_eqc(ex_rd_text(r, spec, "type"), "ExternalName"))
		return false;
	read_vips(r, spec, v);
	read_service_ports(r, spec, v);
	ex_rd_labels(r, ex_rd_map(r, spec, "selector"), &v->selector);
	v->families = read_families(r, spec);
	v->node_local = str_eqc(ex_rd_text(r, spec, "internalTrafficPolicy"), "Local");
	v->not_ready_too = ex_rd_bool(r, spec, "publishNotReadyAddresses", false);
	if (wish.n == 0)
		wish = ex_rd_text(r, notes, DISTRIBUTION);
	v->distribution = distribution(wish);
	v->own_distribution = wish.n != 0;
	ex_rd_mix(r, v->families << 8 | v->distribution << 4 | v->own_distribution << 2 |
			     v->not_ready_too << 1 | v->node_local);
	return true;
}

/* --- endpoint slices --- */

static void read_endpoint(struct ex_reader *r, const struct doc *d, struct ex_slice *s)
{
	const struct doc *addresses = ex_rd_list(r, d, "addresses");
	const struct doc *pod = ex_rd_map(r, d, "targetRef");
	struct ex_endpoint *e = &s->endpoint[s->nendpoints];

	/* Kubernetes writes one address for each endpoint */
	if (addresses == NULL || addresses->count == 0 || addresses->child->kind != DOC_TEXT ||
	    ip_parse(addresses->child->text, &e->ip) != 0)
		return;
	s->nendpoints++;
	mix_ip(r, &e->ip);
	e->ready = ex_rd_bool(r, ex_rd_map(r, d, "conditions"), "ready", true);
	ex_rd_mix(r, e->ready);
	if (!str_eqc(ex_rd_text(r, pod, "kind"), "Pod"))
		return;
	e->pod_ns = ex_rd_keep(r, ex_rd_text(r, pod, "namespace"));
	e->pod = ex_rd_keep(r, ex_rd_text(r, pod, "name"));
	e->uid = ex_rd_keep(r, ex_rd_text(r, pod, "uid"));
}

static void read_slice_ports(struct ex_reader *r, const struct doc *d, struct ex_slice *s)
{
	const struct doc *l = ex_rd_list(r, d, "ports");

	s->port = l != NULL && l->count != 0 ? xcalloc(l->count, sizeof(*s->port)) : NULL;
	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next) {
		uint16_t port = ex_rd_port(r, c, "port");

		if (port == 0 || !is_tcp(r, c))
			continue;
		s->port[s->nports++] =
			(struct ex_port){ex_rd_keep(r, ex_rd_text(r, c, "name")), port};
		ex_rd_mix(r, port);
	}
}

static bool read_slice(struct ex_reader *r, const struct doc *d, struct ex_slice *s)
{
	const struct doc *labels = ex_rd_map(r, ex_rd_map(r, d, "metadata"), "labels");
	struct str service = ex_rd_text(r, labels, "kubernetes.io/service-name");
	const struct doc *l = ex_rd_list(r, d, "endpoints");

	if (!is_name(service) || str_eqc(ex_rd_text(r, d, "addressType"), "FQDN"))
		return false;
	s->service = ex_rd_keep(r, service);
	read_slice_ports(r, d, s);
	s->endpoint = l != NULL && l->count != 0 ? xcalloc(l->count, sizeof(*s->endpoint)) : NULL;
	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next)
		read_endpoint(r, c, s);
	return true;
}

/* --- namespaces and nodes --- */

static void read_namespace(struct ex_reader *r, const struct doc *d, struct ex_namespace *n)
{
	const struct doc *meta = ex_rd_map(r, d, "metadata");
	struct str wish = ex_rd_text(r, ex_rd_map(r, meta, "annotations"), DISTRIBUTION);
	struct str network =
		ex_rd_text(r, ex_rd_map(r, meta, "labels"), "topology.istio.io/network");

	if (network.n != 0 && memchr(network.p, '/', network.n) != NULL)
		ex_rd_bad(r, d, "label topology.istio.io/network: expected a name without /");
	n->network = ex_rd_keep(r, network);
	n->distribution = distribution(wish);
	ex_rd_mix(r, n->distribution);
}

static void read_node(struct ex_reader *r, const struct doc *d, struct ex_node *n)
{
	const struct doc *labels = ex_rd_map(r, ex_rd_map(r, d, "metadata"), "labels");

	n->region = ex_rd_keep(r, ex_rd_text(r, labels, "topology.kubernetes.io/region"));
	n->zone = ex_rd_keep(r, ex_rd_text(r, labels, "topology.kubernetes.io/zone"));
	n->subzone = ex_rd_keep(r, ex_rd_text(r, labels, "topology.istio.io/subzone"));
}

/* --- all --- */

/* False: not for the mesh. */
static bool read_kind(struct ex_reader *r, const struct doc *d, struct ex_object *o)
{
	switch (o->kind) {
	case EX_POD:
		return read_pod(r, d, (struct ex_pod *)o);
	case EX_SERVICE:
		return read_service(r, d, (struct ex_service *)o);
	case EX_SLICE:
		return read_slice(r, d, (struct ex_slice *)o);
	case EX_NAMESPACE:
		read_namespace(r, d, (struct ex_namespace *)o);
		return true;
	case EX_NODE:
		read_node(r, d, (struct ex_node *)o);
		return true;
	case EX_POLICY:
		ex_read_policy(r, d, (struct ex_policy *)o);
		return true;
	case EX_PEER:
		ex_read_peer(r, d, (struct ex_peer *)o);
		return true;
	case EX_KIND_N:
	default:
		return false;
	}
}

int ex_read(enum ex_kind kind, const struct doc *d, struct ex_texts *t, struct ex_object **ret,
	    struct err *err)
{
	struct ex_reader r = {.texts = t, .err = err};
	struct ex_object *o = ex_object_new(kind);
	const struct doc *meta = ex_rd_map(&r, d, "metadata");
	struct str name = ex_rd_text(&r, meta, "name"), ns = ex_rd_text(&r, meta, "namespace");
	bool in_ns = kind != EX_NAMESPACE && kind != EX_NODE, use;

	if (!is_name(name))
		ex_rd_bad(&r, d, "metadata.name: expected a name, got %s", str_shown(name));
	if (in_ns ? !is_name(ns) : ns.n != 0)
		ex_rd_bad(&r, d, "metadata.namespace: expected %s, got %s",
			  in_ns ? "a name" : "none", str_shown(ns));
	o->ns = ex_text(t, ns);
	o->name = ex_text(t, name);
	use = !r.bad && read_kind(&r, d, o);
	o->digest = r.digest;
	if (r.bad || !use)
		o = ex_object_free(t, o);
	if (r.bad)
		return -EINVAL;
	*ret = o;
	return 0;
}
