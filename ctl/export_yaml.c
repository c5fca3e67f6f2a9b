/* SPDX-License-Identifier: Apache-2.0
 * export_yaml.c: see export_yaml.h.
 */
#include "ctl/export_yaml.h"

#include <stdlib.h>
#include <strings.h>

#include "ctl/export_peer.h"
#include "lib/base/mem.h"

/* --- text --- */

static bool is_word_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '/';
}

/* Without quotes it stays a text: begins with a letter, and is no word that YAML 1.1 or 1.2 gives a
 * meaning of its own. */
static bool is_plain(const char *s)
{
	static const char *const words[] = {"true", "false", "yes", "no", "on",
					    "off",  "null",  "y",   "n"};

	if (!((s[0] >= 'a' && s[0] <= 'z') || (s[0] >= 'A' && s[0] <= 'Z')))
		return false;
	for (const char *p = s; *p != '\0'; p++)
		if (!is_word_char(*p))
			return false;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcasecmp(s, words[i]) == 0)
			return false;
	return true;
}

/* Not every character may stand in YAML as it is, but each may be written by its number. @s is
 * valid UTF-8, as JSON was. Returns the next one. */
static const char *put_char(struct strbuf *out, const char *s)
{
	unsigned char c = (unsigned char)*s++;
	unsigned int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
	uint32_t code = more == 0 ? c : c & (0x3fu >> more);

	for (; more != 0 && *s != '\0'; more--)
		code = code << 6 | ((unsigned char)*s++ & 0x3f);
	if (c == '"' || c == '\\')
		strbuf_printf(out, "\\%c", c);
	else if (code < ' ' || code >= 127)
		strbuf_printf(out, "\\U%08x", code);
	else
		strbuf_putc(out, (char)c);
	return s;
}

void ex_yaml_text(struct strbuf *out, const char *s)
{
	if (is_plain(s)) {
		strbuf_puts(out, s);
		return;
	}
	strbuf_putc(out, '"');
	while (*s != '\0')
		s = put_char(out, s);
	strbuf_putc(out, '"');
}

static void field(struct strbuf *out, const char *key, const char *value)
{
	strbuf_puts(out, key);
	ex_yaml_text(out, value);
	strbuf_putc(out, '\n');
}

static void field_if(struct strbuf *out, const char *key, const char *value)
{
	if (value != NULL && value[0] != '\0')
		field(out, key, value);
}

/* --- the picture --- */

/* An endpoint of a slice that is a pod, by pod. */
struct member {
	const struct ex_endpoint *endpoint;
	const struct ex_slice *slice;
};

struct picture {
	const struct ex_store *store;
	const struct ex_config *cfg;
	const struct ex_object **pods, **services, **slices, **policies;
	size_t npods, nservices, nslices, npolicies;
	struct member *members; /* sorted by namespace and pod */
	size_t nmembers;
	struct ex_peers peers;
	const char *network;
	struct strbuf *out;
	struct ex_counts counts;
};

static int pod_order(const char *ns, const char *name, const struct member *m)
{
	int d = strcmp(ns, m->endpoint->pod_ns);

	return d != 0 ? d : strcmp(name, m->endpoint->pod);
}

static int by_pod(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	int d = pod_order(x->endpoint->pod_ns, x->endpoint->pod, y);

	return d != 0 ? d : strcmp(x->slice->o.name, y->slice->o.name);
}

static const struct ex_service *service_of(const struct picture *p, const struct ex_slice *s)
{
	return (const struct ex_service *)ex_store_get(p->store, EX_SERVICE, str_of(s->o.ns),
						       str_of(s->service));
}

/* Only for services without a selector: the others know their pods by labels. */
static void collect_members(struct picture *p)
{
	size_t room = 0;

	for (size_t i = 0; i < p->nslices; i++)
		room += ((const struct ex_slice *)p->slices[i])->nendpoints;
	p->members = xcalloc(room + 1, sizeof(*p->members));
	for (size_t i = 0; i < p->nslices; i++) {
		const struct ex_slice *s = (const struct ex_slice *)p->slices[i];
		const struct ex_service *v = service_of(p, s);

		if (v == NULL || v->selector.n != 0)
			continue;
		for (size_t k = 0; k < s->nendpoints; k++)
			if (s->endpoint[k].pod != NULL)
				p->members[p->nmembers++] = (struct member){&s->endpoint[k], s};
	}
	qsort(p->members, p->nmembers, sizeof(*p->members), by_pod);
}

static size_t first_of_ns(const struct ex_object *const *v, size_t n, const char *ns)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (strcmp(v[mid]->ns, ns) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static size_t first_member(const struct picture *p, const struct ex_pod *pod)
{
	size_t low = 0, high = p->nmembers;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (pod_order(pod->o.ns, pod->o.name, &p->members[mid]) > 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* --- workloads --- */

static void put_service_key(struct picture *p, const char *ns, const char *name)
{
	_cleanup_free_ char *key = xasprintf("%s/%s.%s.svc.%s", ns, name, ns, p->cfg->domain);

	ex_yaml_text(p->out, key);
}

/* "  services:" once, then one line for each. */
static void begin_membership(struct picture *p, bool *any, const struct ex_service *v)
{
	if (!*any)
		strbuf_puts(p->out, "  services:\n");
	*any = true;
	strbuf_puts(p->out, "    ");
	put_service_key(p, v->o.ns, v->o.name);
	strbuf_puts(p->out, ": {");
}

static uint16_t named_port(const struct ex_port *v, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].name == name)
			return v[i].port;
	return 0;
}

static void put_port(struct strbuf *out, bool *any, uint16_t port, uint16_t target)
{
	strbuf_printf(out, "%s%u: %u", *any ? ", " : "", port, target);
	*any = true;
}

static void put_selected(struct picture *p, bool *any, const struct ex_service *v,
			 const struct ex_pod *pod)
{
	bool ports = false;

	begin_membership(p, any, v);
	for (size_t i = 0; i < v->nports; i++) {
		const struct ex_service_port *s = &v->port[i];
		uint16_t target = s->target == NULL ? s->target_port
						    : named_port(pod->port, pod->nports, s->target);

		if (target != 0)
			put_port(p->out, &ports, s->port, target);
	}
	strbuf_puts(p->out, "}\n");
}

/* Ports of a slice have the names of the service's ports. */
static void put_by_slice(struct picture *p, bool *any, const struct ex_service *v,
			 const struct ex_slice *s)
{
	bool ports = false;

	begin_membership(p, any, v);
	for (size_t i = 0; i < v->nports; i++) {
		uint16_t target = named_port(s->port, s->nports, v->port[i].name);

		if (target != 0)
			put_port(p->out, &ports, v->port[i].port, target);
	}
	strbuf_puts(p->out, "}\n");
}

static void put_memberships(struct picture *p, const struct ex_pod *pod)
{
	const char *last = NULL;
	bool any = false;

	for (size_t i = first_of_ns(p->services, p->nservices, pod->o.ns);
	     i < p->nservices && strcmp(p->services[i]->ns, pod->o.ns) == 0; i++) {
		const struct ex_service *v = (const struct ex_service *)p->services[i];

		if (v->selector.n != 0 && ex_labels_match(&v->selector, &pod->labels))
			put_selected(p, &any, v, pod);
	}
	for (size_t i = first_member(p, pod);
	     i < p->nmembers && pod_order(pod->o.ns, pod->o.name, &p->members[i]) == 0; i++) {
		const struct member *m = &p->members[i];

		/* a slice may name a pod of the same name that is gone; several may name this one
		 */
		if (m->endpoint->uid != pod->uid || strcmp(m->slice->o.ns, pod->o.ns) != 0 ||
		    m->slice->service == last)
			continue;
		last = m->slice->service;
		put_by_slice(p, &any, service_of(p, m->slice), m->slice);
	}
	if (!any)
		strbuf_puts(p->out, "  services: {}\n");
}

static void put_policy_name(struct picture *p, bool *any, const char *ns, const char *name)
{
	_cleanup_free_ char *key = xasprintf("%s/%s", ns, name);

	strbuf_puts(p->out, *any ? ", " : "  authorizationPolicies: [");
	*any = true;
	ex_yaml_text(p->out, key);
}

/* Policies that choose by labels are named; those of a namespace and of the mesh are not. */
static void put_policies_of(struct picture *p, const struct ex_pod *pod)
{
	struct ex_peer_names peers = ex_peers_of(&p->peers, pod->o.ns, &pod->labels);
	bool any = false;

	for (size_t i = 0; i < p->npolicies; i++) {
		const struct ex_policy *x = (const struct ex_policy *)p->policies[i];

		if (!x->omitted && x->selective &&
		    (strcmp(x->o.ns, pod->o.ns) == 0 || strcmp(x->o.ns, p->cfg->root_ns) == 0) &&
		    ex_labels_match(&x->selector, &pod->labels))
			put_policy_name(p, &any, x->o.ns, x->o.name);
	}
	if (peers.strict)
		put_policy_name(p, &any, p->cfg->root_ns, EX_STRICT_NAME);
	if (peers.ports != NULL) {
		_cleanup_free_ char *name =
			xasprintf("%s%s", EX_CONVERTED_PREFIX, peers.ports->o.name);

		put_policy_name(p, &any, pod->o.ns, name);
	}
	if (any)
		strbuf_puts(p->out, "]\n");
}

static void put_ip(struct strbuf *out, const struct ip_addr *ip)
{
	char text[IP_TEXT_MAX];

	strbuf_printf(out, "\"%s\"", ip_format(ip, text));
}

static void put_locality(struct picture *p, const char *node)
{
	const struct ex_node *n = (const struct ex_node *)ex_store_get(
		p->store, EX_NODE, (struct str){"", 0}, str_of(node));

	if (n == NULL || (n->region[0] == '\0' && n->zone[0] == '\0' && n->subzone[0] == '\0'))
		return;
	strbuf_puts(p->out, "  locality: {region: ");
	ex_yaml_text(p->out, n->region);
	strbuf_puts(p->out, ", zone: ");
	ex_yaml_text(p->out, n->zone);
	strbuf_puts(p->out, ", subzone: ");
	ex_yaml_text(p->out, n->subzone);
	strbuf_puts(p->out, "}\n");
}

/* What every workload has. stock ztunnel gives no defaults in this file, so nothing is left to
 * them. */
static void put_head(struct picture *p, const char *uid, const char *name, const char *ns,
		     const char *account)
{
	struct strbuf *out = p->out;

	if (p->counts.workloads++ == 0)
		strbuf_puts(out, "workloads:\n");
	field(out, "- uid: ", uid);
	field(out, "  name: ", name);
	field(out, "  namespace: ", ns);
	field(out, "  trustDomain: ", p->cfg->trust_domain);
	field(out, "  serviceAccount: ", account);
	field(out, "  clusterId: ", p->cfg->cluster);
	field_if(out, "  network: ", p->network);
}

static void put_pod(struct picture *p, const struct ex_pod *pod)
{
	struct strbuf *out = p->out;
	_cleanup_free_ char *uid =
		xasprintf("%s//Pod/%s/%s", p->cfg->cluster, pod->o.ns, pod->o.name);

	put_head(p, uid, pod->o.name, pod->o.ns, pod->account);
	strbuf_puts(out, "  workloadIps: [");
	for (size_t i = 0; i < pod->nips; i++) {
		strbuf_puts(out, i != 0 ? ", " : "");
		put_ip(out, &pod->ip[i]);
	}
	strbuf_printf(out, "]\n  protocol: %s\n", pod->hbone ? "HBONE" : "TCP");
	p->counts.hbone += pod->hbone;
	if (pod->native_tunnel)
		strbuf_puts(out, "  nativeTunnel: true\n");
	if (pod->host_network)
		strbuf_puts(out, "  networkMode: HostNetwork\n");
	if (!pod->ready)
		strbuf_puts(out, "  status: Unhealthy\n");
	field_if(out, "  node: ", pod->node);
	put_locality(p, pod->node);
	field(out, "  workloadName: ", pod->workload);
	strbuf_puts(out, "  workloadType: pod\n");
	field(out, "  canonicalName: ", pod->canonical);
	field(out, "  canonicalRevision: ", pod->revision);
	put_policies_of(p, pod);
	put_memberships(p, pod);
}

/* An endpoint that is no pod: reached as it is, in plaintext, and never found by its address, which
 * may well be a node's. */
static void put_endpoint(struct picture *p, const struct ex_slice *s, const struct ex_endpoint *e,
			 const struct ex_service *v)
{
	char ip[IP_TEXT_MAX];
	_cleanup_free_ char *uid =
		xasprintf("%s/discovery.k8s.io/EndpointSlice/%s/%s/%s", p->cfg->cluster, s->o.ns,
			  s->o.name, ip_format(&e->ip, ip));
	bool any = false;

	put_head(p, uid, s->o.name, s->o.ns, "default");
	strbuf_puts(p->out, "  workloadIps: [");
	put_ip(p->out, &e->ip);
	strbuf_puts(p->out, "]\n  protocol: TCP\n  networkMode: HostNetwork\n");
	if (!e->ready)
		strbuf_puts(p->out, "  status: Unhealthy\n");
	put_by_slice(p, &any, v, s);
}

static bool seen_before(const struct ex_slice *s, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (s->endpoint[k].pod == NULL && ip_eq(&s->endpoint[k].ip, &s->endpoint[i].ip))
			return true;
	return false;
}

static void put_slice(struct picture *p, const struct ex_slice *s)
{
	const struct ex_service *v = service_of(p, s);

	for (size_t i = 0; v != NULL && i < s->nendpoints; i++)
		if (s->endpoint[i].pod == NULL && !seen_before(s, i))
			put_endpoint(p, s, &s->endpoint[i], v);
}

static void put_workloads(struct picture *p)
{
	for (size_t i = 0; i < p->npods; i++)
		put_pod(p, (const struct ex_pod *)p->pods[i]);
	for (size_t i = 0; i < p->nslices; i++)
		put_slice(p, (const struct ex_slice *)p->slices[i]);
	if (p->counts.workloads == 0)
		strbuf_puts(p->out, "workloads: []\n");
}

/* --- services --- */

static enum ex_distribution distribution_of(const struct picture *p, const struct ex_service *v)
{
	const struct ex_object *ns;

	if (v->own_distribution)
		return v->distribution;
	ns = ex_store_get(p->store, EX_NAMESPACE, (struct str){"", 0}, str_of(v->o.ns));
	return ns != NULL ? ((const struct ex_namespace *)ns)->distribution : EX_ANYWHERE;
}

static void put_load_balancer(struct picture *p, const struct ex_service *v)
{
	static const char *const prefs[EX_DISTRIBUTION_N] = {
		[EX_ANYWHERE] = "",
		[EX_CLOSE] = "Network, Region, Zone",
		[EX_SAME_NODE] = "Network, Region, Zone, Subzone, Node",
	};
	enum ex_distribution d = distribution_of(p, v);
	const char *mode = v->node_local ? "Strict" : d != EX_ANYWHERE ? "Failover" : "Standard";

	if (!v->node_local && d == EX_ANYWHERE && !v->not_ready_too)
		return;
	strbuf_printf(p->out,
		      "  loadBalancer: {routingPreferences: [%s], mode: %s, healthPolicy: %s}\n",
		      v->node_local ? "Node" : prefs[d], mode,
		      v->not_ready_too ? "AllowAll" : "OnlyHealthy");
}

static void put_service(struct picture *p, const struct ex_service *v)
{
	_cleanup_free_ char *host = xasprintf("%s.%s.svc.%s", v->o.name, v->o.ns, p->cfg->domain);
	struct strbuf *out = p->out;
	char text[IP_TEXT_MAX];
	bool any = false;

	field(out, "- name: ", v->o.name);
	field(out, "  namespace: ", v->o.ns);
	field(out, "  hostname: ", host);
	strbuf_puts(out, "  vips: [");
	for (size_t i = 0; i < v->nvips; i++) {
		_cleanup_free_ char *vip =
			xasprintf("%s/%s", p->network, ip_format(&v->vip[i], text));

		strbuf_puts(out, i != 0 ? ", " : "");
		ex_yaml_text(out, vip);
	}
	strbuf_puts(out, "]\n  ports: {");
	for (size_t i = 0; i < v->nports; i++)
		put_port(out, &any, v->port[i].port, v->port[i].target_port);
	strbuf_puts(out, "}\n");
	put_load_balancer(p, v);
	if (v->families != 0)
		strbuf_printf(out, "  ipFamilies: %s\n",
			      v->families == 10	 ? "Dual"
			      : v->families == 6 ? "IPv6"
						 : "IPv4");
	strbuf_puts(out, "  canonical: true\n");
	p->counts.services++;
}

static void put_services(struct picture *p)
{
	strbuf_puts(p->out, p->nservices != 0 ? "services:\n" : "services: []\n");
	for (size_t i = 0; i < p->nservices; i++)
		put_service(p, (const struct ex_service *)p->services[i]);
}

/* --- policies --- */

static void put_policy(struct picture *p, const char *ns, const char *name, const char *scope,
		       bool deny, const char *rules)
{
	struct strbuf *out = p->out;

	if (p->counts.policies++ == 0)
		strbuf_puts(out, "policies:\n");
	field(out, "- name: ", name);
	field(out, "  namespace: ", ns);
	/* stock ztunnel has no default for dryRun */
	strbuf_printf(out, "  scope: %s\n  action: %s\n  dryRun: false\n", scope,
		      deny ? "Deny" : "Allow");
	if (rules[0] == '\0')
		strbuf_puts(out, "  rules: []\n");
	else
		strbuf_printf(out, "  rules:\n%s", rules);
}

static const char *scope_of(const struct picture *p, const struct ex_policy *x)
{
	if (x->selective)
		return "WorkloadSelector";
	return strcmp(x->o.ns, p->cfg->root_ns) == 0 ? "Global" : "Namespace";
}

static void put_policies(struct picture *p)
{
	for (size_t i = 0; i < p->npolicies; i++) {
		const struct ex_policy *x = (const struct ex_policy *)p->policies[i];

		if (!x->omitted)
			put_policy(p, x->o.ns, x->o.name, scope_of(p, x), x->deny, x->rules);
	}
	if (p->peers.n != 0)
		put_policy(p, p->cfg->root_ns, EX_STRICT_NAME, "WorkloadSelector", true,
			   "  - - - {notPrincipals: [!Presence []]}\n");
	for (size_t i = 0; i < p->peers.n; i++) {
		const struct ex_peer *x = (const struct ex_peer *)p->peers.v[i];
		_cleanup_strbuf_ struct strbuf rules = {0};
		_cleanup_free_ char *name = xasprintf("%s%s", EX_CONVERTED_PREFIX, x->o.name);

		if (ex_peer_rules(&p->peers, x, &rules))
			put_policy(p, x->o.ns, name, "WorkloadSelector", true, rules.p);
	}
	if (p->counts.policies == 0)
		strbuf_puts(p->out, "policies: []\n");
}

void ex_yaml(const struct ex_store *s, const struct ex_config *c, struct strbuf *out,
	     struct ex_counts *ret)
{
	const struct ex_object *root =
		ex_store_get(s, EX_NAMESPACE, (struct str){"", 0}, str_of(c->root_ns));
	struct picture p = {.store = s,
			    .cfg = c,
			    .out = out,
			    .network = root != NULL ? ((const struct ex_namespace *)root)->network
						    : ""};

	p.pods = ex_store_sorted(s, EX_POD, &p.npods);
	p.services = ex_store_sorted(s, EX_SERVICE, &p.nservices);
	p.slices = ex_store_sorted(s, EX_SLICE, &p.nslices);
	p.policies = ex_store_sorted(s, EX_POLICY, &p.npolicies);
	ex_peers_init(&p.peers, s, c);
	collect_members(&p);
	strbuf_puts(out, "# Written by ambientctl export-state. Changes made here are lost.\n");
	put_workloads(&p);
	put_services(&p);
	put_policies(&p);
	*ret = p.counts;
	ex_peers_fini(&p.peers);
	free(p.members);
	free(p.pods);
	free(p.services);
	free(p.slices);
	free(p.policies);
}
