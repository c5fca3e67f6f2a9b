/* SPDX-License-Identifier: Apache-2.0
 * mesh.c: building a snapshot and its indices, and looking things up.
 *
 * Theory of operation. The builder collects objects in three arrays in the order given. finish()
 * moves the arrays into the snapshot and builds every index in one pass; all index nodes live in
 * the snapshot's arena and point to objects on which the snapshot holds one reference each. After
 * that nothing is written any more, so lookups need no lock. The order of insertion decides ties
 * (ztunnel-spec 4.1, 4.2), and hash chains do not keep it: an index with several holders per key
 * keeps its own list.
 */
#include "ztunnel/mesh/mesh.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

struct wl_node { /* by_uid, by_ip, local */
	struct hnode h;
	struct net_ip key; /* by_ip only */
	struct workload *wl;
};
struct svc_node { /* by_host */
	struct hnode h;
	struct service *svc;
	struct endpoint *eps;
	size_t neps, cap;
};
struct vip_entry {
	struct vip_entry *next;
	struct service *svc;
};
struct vip_node {
	struct hnode h;
	struct net_ip key;
	struct vip_entry *first, **tail;
};
struct cidr_entry {
	struct str network;
	struct ip_cidr cidr;
	struct service *svc;
};
struct policy_node { /* by_key */
	struct hnode h;
	struct policy *policy;
};
struct scope_node { /* by_ns */
	struct hnode h;
	struct str ns;
	struct policy **v;
	size_t n, cap;
};

struct mesh {
	atomic_uint refs;
	uint64_t generation;
	struct arena *arena;
	struct workload **workloads;
	struct service **services;
	struct policy **policies;
	size_t nworkloads, nservices, npolicies;
	struct htab by_uid, by_ip, local, by_host, by_vip, by_key, by_ns;
	struct cidr_entry *cidrs;
	size_t ncidrs;
	struct scope_node global;
};

struct mesh_builder {
	struct mesh *m;
	size_t cap_w, cap_s, cap_p;
};

/* Grows a heap array by doubling. */
static void *grow(void *v, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return v;
	*cap = *cap != 0 ? *cap * 2 : 8;
	return xrealloc_array(v, *cap, size);
}

static uint64_t hash_net_ip(struct str network, const struct ip_addr *ip)
{
	return hash_mix(hash_str(network), ip_hash(ip));
}
static uint64_t hash_two(struct str a, struct str b)
{
	return hash_mix(hash_str(a), hash_str(b));
}
static uint64_t hash_local(struct str name, struct str ns, struct str sa)
{
	return hash_mix(hash_two(ns, sa), hash_str(name));
}

struct mesh *mesh_ref(struct mesh *m)
{
	if (m != NULL) /* relaxed: see model.c */
		bug_on(atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed) == 0);
	return m;
}

static void mesh_free(struct mesh *m)
{
	for (size_t i = 0; i < m->nworkloads; i++)
		workload_unref(m->workloads[i]);
	for (size_t i = 0; i < m->nservices; i++)
		service_unref(m->services[i]);
	for (size_t i = 0; i < m->npolicies; i++)
		policy_unref(m->policies[i]);
	htab_for_each (n, &m->by_host)
		free(container_of(n, struct svc_node, h)->eps);
	htab_for_each (n, &m->by_ns)
		free(container_of(n, struct scope_node, h)->v);
	free(m->global.v);
	free(m->workloads);
	free(m->services);
	free(m->policies);
	free(m->cidrs);
	htab_fini(&m->by_uid);
	htab_fini(&m->by_ip);
	htab_fini(&m->local);
	htab_fini(&m->by_host);
	htab_fini(&m->by_vip);
	htab_fini(&m->by_key);
	htab_fini(&m->by_ns);
	(void)arena_free(m->arena);
	free(m);
}

void mesh_unref(struct mesh *m)
{
	if (m == NULL || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) > 1)
		return;
	mesh_free(m);
}

uint64_t mesh_generation(const struct mesh *m)
{
	return m->generation;
}

struct mesh_builder *mesh_builder_new(void)
{
	struct mesh_builder *b = xcalloc(1, sizeof(*b));
	struct mesh *m = xcalloc(1, sizeof(*m));

	atomic_init(&m->refs, 1);
	m->arena = arena_new();
	b->m = m;
	return b;
}

struct mesh_builder *mesh_builder_free(struct mesh_builder *b)
{
	if (b == NULL)
		return NULL;
	mesh_unref(b->m);
	free(b);
	return NULL;
}

static struct svc_node *find_svc(const struct mesh *m, struct str ns, struct str hostname)
{
	struct hnode *n = htab_first(&m->by_host, hash_two(ns, hostname));

	for (; n != NULL; n = htab_next(n)) {
		struct svc_node *s = container_of(n, struct svc_node, h);

		if (str_eq(s->svc->ns, ns) && str_eq(s->svc->hostname, hostname))
			return s;
	}
	return NULL;
}

int mesh_builder_workload(struct mesh_builder *b, struct workload *w, struct err *err)
{
	struct mesh *m = b->m;
	struct wl_node *n;

	if (mesh_workload_by_uid(m, w->uid) != NULL) {
		(void)err_set(err, EEXIST, "workload uid %s is used twice", str_shown(w->uid));
		workload_unref(w);
		return -EEXIST;
	}
	m->workloads = grow(m->workloads, m->nworkloads, &b->cap_w, sizeof(struct workload *));
	m->workloads[m->nworkloads++] = w;
	n = arena_alloc(m->arena, sizeof(*n));
	n->wl = w;
	htab_insert(&m->by_uid, &n->h, hash_str(w->uid));
	return 0;
}

int mesh_builder_service(struct mesh_builder *b, struct service *s, struct err *err)
{
	struct mesh *m = b->m;
	struct svc_node *n;

	if (find_svc(m, s->ns, s->hostname) != NULL) {
		(void)err_set(err, EEXIST, "service %s/%s is there twice", str_shown(s->ns),
			      str_shown(s->hostname));
		service_unref(s);
		return -EEXIST;
	}
	m->services = grow(m->services, m->nservices, &b->cap_s, sizeof(struct service *));
	m->services[m->nservices++] = s;
	n = arena_alloc(m->arena, sizeof(*n));
	n->svc = s;
	htab_insert(&m->by_host, &n->h, hash_two(s->ns, s->hostname));
	return 0;
}

int mesh_builder_policy(struct mesh_builder *b, struct policy *p, struct err *err)
{
	struct mesh *m = b->m;
	struct policy_node *n;

	if (mesh_policy(m, p->key) != NULL) {
		(void)err_set(err, EEXIST, "policy %s is there twice", str_shown(p->key));
		policy_unref(p);
		return -EEXIST;
	}
	m->policies = grow(m->policies, m->npolicies, &b->cap_p, sizeof(struct policy *));
	m->policies[m->npolicies++] = p;
	n = arena_alloc(m->arena, sizeof(*n));
	n->policy = p;
	htab_insert(&m->by_key, &n->h, hash_str(p->key));
	return 0;
}

/* Several workloads may claim one address: ztunnel-spec 4.1 "workloads by address". */
static int ip_rank(const struct workload *w)
{
	bool pod = w->uid.n != 0 && memmem(w->uid.p, w->uid.n, "//Pod/", 6) != NULL;

	return (pod ? 2 : 0) + (w->protocol == WL_HBONE ? 1 : 0);
}

static struct wl_node *find_ip(const struct mesh *m, struct str network, const struct ip_addr *ip)
{
	struct hnode *n = htab_first(&m->by_ip, hash_net_ip(network, ip));

	for (; n != NULL; n = htab_next(n)) {
		struct wl_node *w = container_of(n, struct wl_node, h);

		if (str_eq(w->key.network, network) && ip_eq(&w->key.ip, ip))
			return w;
	}
	return NULL;
}

static void index_ip(struct mesh *m, struct workload *w, const struct ip_addr *ip)
{
	struct wl_node *n = find_ip(m, w->network, ip);

	if (n != NULL) {
		if (ip_rank(w) >= ip_rank(n->wl)) { /* the last one wins ties */
			n->wl = w;
			n->key.network = w->network;
		}
		return;
	}
	n = arena_alloc(m->arena, sizeof(*n));
	n->wl = w;
	n->key = (struct net_ip){w->network, *ip};
	htab_insert(&m->by_ip, &n->h, hash_net_ip(w->network, ip));
}

static void index_endpoints(struct mesh *m, struct workload *w)
{
	for (size_t i = 0; i < w->nservices; i++) {
		struct str host = w->services[i].name, ns;
		struct svc_node *s;

		if (!str_cut(&host, '/', &ns))
			continue; /* the parsers refuse such a name */
		s = find_svc(m, ns, host);
		if (s == NULL || (w->unhealthy && !s->svc->allow_unhealthy))
			continue;
		s->eps = grow(s->eps, s->neps, &s->cap, sizeof(struct endpoint));
		s->eps[s->neps++] =
			(struct endpoint){w, w->services[i].ports, w->services[i].nports};
	}
}

static void index_workload(struct mesh *m, struct workload *w, struct str node)
{
	if (!w->host_network)
		for (size_t i = 0; i < w->nips; i++)
			index_ip(m, w, &w->ips[i]);
	if (node.n == 0 || str_eq(w->node, node)) {
		struct wl_node *n = arena_alloc(m->arena, sizeof(*n));

		n->wl = w;
		htab_insert(&m->local, &n->h, hash_local(w->name, w->ns, w->sa));
	}
	index_endpoints(m, w);
}

static struct vip_node *find_vip(const struct mesh *m, struct str network, const struct ip_addr *ip)
{
	struct hnode *n = htab_first(&m->by_vip, hash_net_ip(network, ip));

	for (; n != NULL; n = htab_next(n)) {
		struct vip_node *v = container_of(n, struct vip_node, h);

		if (str_eq(v->key.network, network) && ip_eq(&v->key.ip, ip))
			return v;
	}
	return NULL;
}

static void index_service(struct mesh *m, struct service *s)
{
	for (size_t i = 0; i < s->nvips; i++) {
		struct vip_node *n = find_vip(m, s->vips[i].network, &s->vips[i].ip);
		struct vip_entry *e = arena_alloc(m->arena, sizeof(*e));

		e->svc = s;
		if (n == NULL) {
			n = arena_alloc(m->arena, sizeof(*n));
			n->key = s->vips[i];
			n->tail = &n->first;
			htab_insert(&m->by_vip, &n->h, hash_net_ip(n->key.network, &n->key.ip));
		}
		*n->tail = e;
		n->tail = &e->next;
	}
	for (size_t i = 0; i < s->ncidr_vips; i++)
		m->cidrs[m->ncidrs++] =
			(struct cidr_entry){s->cidr_vips[i].network, s->cidr_vips[i].cidr, s};
}

static struct scope_node *find_scope(const struct mesh *m, struct str ns)
{
	struct hnode *n = htab_first(&m->by_ns, hash_str(ns));

	for (; n != NULL; n = htab_next(n)) {
		struct scope_node *s = container_of(n, struct scope_node, h);

		if (str_eq(s->ns, ns))
			return s;
	}
	return NULL;
}

static void index_policy(struct mesh *m, struct policy *p)
{
	struct scope_node *s = &m->global;

	if (p->scope == POLICY_WORKLOAD)
		return; /* found by name only */
	if (p->scope == POLICY_NAMESPACE) {
		s = find_scope(m, p->ns);
		if (s == NULL) {
			s = arena_alloc(m->arena, sizeof(*s));
			s->ns = p->ns;
			htab_insert(&m->by_ns, &s->h, hash_str(p->ns));
		}
	}
	s->v = grow(s->v, s->n, &s->cap, sizeof(struct policy *));
	s->v[s->n++] = p;
}

struct mesh *mesh_builder_finish(struct mesh_builder *b, struct str node, uint64_t generation)
{
	struct mesh *m = take_ptr(b->m);
	size_t ncidrs = 0;

	free(b);
	m->generation = generation;
	for (size_t i = 0; i < m->nservices; i++)
		ncidrs += m->services[i]->ncidr_vips;
	m->cidrs = xcalloc(ncidrs != 0 ? ncidrs : 1, sizeof(struct cidr_entry));
	for (size_t i = 0; i < m->nservices; i++)
		index_service(m, m->services[i]);
	for (size_t i = 0; i < m->nworkloads; i++)
		index_workload(m, m->workloads[i], node);
	for (size_t i = 0; i < m->npolicies; i++)
		index_policy(m, m->policies[i]);
	return m;
}

struct mesh *mesh_empty(void)
{
	return mesh_builder_finish(mesh_builder_new(), STR(""), 0);
}

struct workload *mesh_workload_by_ip(const struct mesh *m, struct str network,
				     const struct ip_addr *ip)
{
	struct wl_node *n = find_ip(m, network, ip);

	return n != NULL ? n->wl : NULL;
}

struct workload *mesh_workload_by_uid(const struct mesh *m, struct str uid)
{
	struct hnode *n = htab_first(&m->by_uid, hash_str(uid));

	for (; n != NULL; n = htab_next(n)) {
		struct wl_node *w = container_of(n, struct wl_node, h);

		if (str_eq(w->wl->uid, uid))
			return w->wl;
	}
	return NULL;
}

struct workload *mesh_local_workload(const struct mesh *m, struct str name, struct str ns,
				     struct str sa)
{
	struct hnode *n = htab_first(&m->local, hash_local(name, ns, sa));

	for (; n != NULL; n = htab_next(n)) {
		struct wl_node *w = container_of(n, struct wl_node, h);

		if (str_eq(w->wl->name, name) && str_eq(w->wl->ns, ns) && str_eq(w->wl->sa, sa))
			return w->wl;
	}
	return NULL;
}

static bool visible(const struct service *s, struct str client_ns)
{
	return !s->private_to_ns || client_ns.p == NULL || str_eq(s->ns, client_ns);
}

static bool same_ns(const struct service *s, struct str client_ns)
{
	return client_ns.p != NULL && str_eq(s->ns, client_ns);
}

/* Same namespace > canonical (the last one) > first; a later service of the same namespace replaces
 * an earlier one (ztunnel-spec 4.1, 4.2). */
static struct service *best_exact(const struct vip_node *v, struct str client_ns)
{
	struct service *best = NULL;
	int best_rank = -1;

	for (const struct vip_entry *e = v->first; e != NULL; e = e->next) {
		int rank = same_ns(e->svc, client_ns) ? 2 : e->svc->canonical ? 1 : 0;

		if (!visible(e->svc, client_ns))
			continue;
		if (rank > best_rank ||
		    (rank == best_rank && (rank == 1 || str_eq(e->svc->ns, best->ns)))) {
			best = e->svc;
			best_rank = rank;
		}
	}
	return best;
}

/* (same namespace, prefix length, canonical), ties keep the earlier entry (ztunnel-spec 4.2). */
static struct service *best_cidr(const struct mesh *m, struct str network, const struct ip_addr *ip,
				 struct str client_ns)
{
	struct service *best = NULL;
	int best_rank = -1;

	for (size_t i = 0; i < m->ncidrs; i++) {
		const struct cidr_entry *c = &m->cidrs[i];
		int rank;

		if (!str_eq(c->network, network) || !ip_in_cidr(ip, &c->cidr) ||
		    !visible(c->svc, client_ns))
			continue;
		rank = (same_ns(c->svc, client_ns) ? 1024 : 0) + c->cidr.prefix * 2 +
		       (c->svc->canonical ? 1 : 0);
		if (rank > best_rank) {
			best = c->svc;
			best_rank = rank;
		}
	}
	return best;
}

struct service *mesh_service_by_vip(const struct mesh *m, struct str network,
				    const struct ip_addr *ip, struct str client_ns)
{
	struct vip_node *v = find_vip(m, network, ip);
	struct service *s = v != NULL ? best_exact(v, client_ns) : NULL;

	return s != NULL ? s : best_cidr(m, network, ip, client_ns);
}

struct service *mesh_service_by_host(const struct mesh *m, struct str ns, struct str hostname)
{
	struct svc_node *s = find_svc(m, ns, hostname);

	return s != NULL ? s->svc : NULL;
}

const struct endpoint *mesh_endpoints(const struct mesh *m, const struct service *s, size_t *ret_n)
{
	struct svc_node *n = find_svc(m, s->ns, s->hostname);

	*ret_n = n != NULL ? n->neps : 0;
	return n != NULL ? n->eps : NULL;
}

struct policy *mesh_policy(const struct mesh *m, struct str key)
{
	struct hnode *n = htab_first(&m->by_key, hash_str(key));

	for (; n != NULL; n = htab_next(n)) {
		struct policy_node *p = container_of(n, struct policy_node, h);

		if (str_eq(p->policy->key, key))
			return p->policy;
	}
	return NULL;
}

struct policy *const *mesh_policies(const struct mesh *m, enum policy_scope scope, struct str ns,
				    size_t *ret_n)
{
	const struct scope_node *s = scope == POLICY_GLOBAL	 ? &m->global
				     : scope == POLICY_NAMESPACE ? find_scope(m, ns)
								 : NULL;

	*ret_n = s != NULL ? s->n : 0;
	return s != NULL ? s->v : NULL;
}

size_t mesh_count_workloads(const struct mesh *m)
{
	return m->nworkloads;
}

void mesh_each_workload(const struct mesh *m, void (*fn)(void *, struct workload *), void *ctx)
{
	for (size_t i = 0; i < m->nworkloads; i++)
		fn(ctx, m->workloads[i]);
}

void mesh_each_service(const struct mesh *m, void (*fn)(void *, struct service *), void *ctx)
{
	for (size_t i = 0; i < m->nservices; i++)
		fn(ctx, m->services[i]);
}

void mesh_each_policy(const struct mesh *m, void (*fn)(void *, struct policy *), void *ctx)
{
	for (size_t i = 0; i < m->npolicies; i++)
		fn(ctx, m->policies[i]);
}
