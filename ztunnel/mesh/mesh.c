/* SPDX-License-Identifier: Apache-2.0
 * mesh.c: looking things up in a snapshot. How one is made: mesh_edit.c.
 *
 * A snapshot is a handful of persistent indices (index.h) over objects that it holds. Nothing of it
 * is written any more once it was handed out, so lookups need no lock. The order in which objects
 * came decides ties (ztunnel-spec 4.1, 4.2), and the sets of an index keep it.
 */
#include "ztunnel/mesh/mesh.h"

#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "ztunnel/mesh/mesh_internal.h"

#define HOSTNAME_MAX 253

/* ---- keys ---- */

uint64_t mesh_hash_net_ip(struct str network, const struct ip_addr *ip)
{
	return hash_mix(hash_str(network), ip_hash(ip));
}

uint64_t mesh_hash_two(struct str a, struct str b)
{
	return hash_mix(hash_str(a), hash_str(b));
}

uint64_t mesh_hash_name(struct str hostname)
{
	char text[HOSTNAME_MAX];

	if (hostname.n > sizeof(text)) /* no name that is asked for is as long */
		return 0;
	for (size_t i = 0; i < hostname.n; i++)
		text[i] = ascii_lower(hostname.p[i]);
	return hash_bytes(text, hostname.n);
}

uint64_t mesh_hash_local(struct str name, struct str ns, struct str sa)
{
	return hash_mix(mesh_hash_two(ns, sa), hash_str(name));
}

static const void *first_of(const void *element)
{
	return *(const void *const *)element;
}

static bool uid_has(const void *element, const void *key)
{
	const struct workload *w = first_of(element);

	return str_eq(w->uid, ((const struct mesh_key *)key)->a);
}

static bool ip_has(const void *element, const void *key)
{
	const struct ip_entry *e = element;
	const struct mesh_key *k = key;

	return ip_eq(&e->key.ip, k->ip) && str_eq(e->key.network, k->a);
}

static bool wl_host_has(const void *element, const void *key)
{
	const struct workload *w = first_of(element);
	const struct mesh_key *k = key;

	return str_eq(w->ns, k->a) && str_eq(w->hostname, k->b);
}

static bool local_has(const void *element, const void *key)
{
	const struct workload *w = first_of(element);
	const struct mesh_key *k = key;

	return str_eq(w->name, k->a) && str_eq(w->ns, k->b) && str_eq(w->sa, k->c);
}

static bool host_has(const void *element, const void *key)
{
	const struct service *s = first_of(element);
	const struct mesh_key *k = key;

	return str_eq(s->ns, k->a) && str_eq(s->hostname, k->b);
}

static bool name_has(const void *element, const void *key)
{
	return str_eq_nocase(((const struct service *)first_of(element))->hostname,
			     ((const struct mesh_key *)key)->a);
}

/* The name of a membership is "namespace/hostname". */
static bool eps_has(const void *element, const void *key)
{
	struct str name = ((const struct endpoint *)element)->service;
	const struct mesh_key *k = key;

	return name.n == k->a.n + 1 + k->b.n && str_has_prefix(name, k->a) &&
	       name.p[k->a.n] == '/' && str_has_suffix(name, k->b);
}

static bool vip_has(const void *element, const void *key)
{
	const struct service *s = first_of(element);
	const struct mesh_key *k = key;

	for (size_t i = 0; i < s->nvips; i++)
		if (str_eq(s->vips[i].network, k->a) && ip_eq(&s->vips[i].ip, k->ip))
			return true;
	return false;
}

static bool policy_has(const void *element, const void *key)
{
	const struct policy *p = first_of(element);

	return str_eq(p->key, ((const struct mesh_key *)key)->a);
}

static bool scope_has(const void *element, const void *key)
{
	const struct policy *p = first_of(element);

	return str_eq(p->ns, ((const struct mesh_key *)key)->a);
}

static void ref_workload(void *w)
{
	(void)workload_ref(w);
}
static void unref_workload(void *w)
{
	workload_unref(w);
}
static void ref_service(void *s)
{
	(void)service_ref(s);
}
static void unref_service(void *s)
{
	service_unref(s);
}
static void ref_policy(void *p)
{
	(void)policy_ref(p);
}
static void unref_policy(void *p)
{
	policy_unref(p);
}

const struct ix_kind mesh_kind[IX_N] = {
	[IX_UID] = {sizeof(void *), ref_workload, unref_workload, uid_has},
	[IX_IP] = {sizeof(struct ip_entry), NULL, NULL, ip_has},
	[IX_WL_HOST] = {sizeof(void *), NULL, NULL, wl_host_has},
	[IX_LOCAL] = {sizeof(void *), NULL, NULL, local_has},
	[IX_HOST] = {sizeof(void *), ref_service, unref_service, host_has},
	[IX_NAME] = {sizeof(void *), NULL, NULL, name_has},
	[IX_EPS] = {sizeof(struct endpoint), NULL, NULL, eps_has},
	[IX_HIDDEN] = {sizeof(struct endpoint), NULL, NULL, eps_has},
	[IX_VIP] = {sizeof(void *), NULL, NULL, vip_has},
	[IX_POLICY] = {sizeof(void *), ref_policy, unref_policy, policy_has},
	[IX_SCOPE] = {sizeof(void *), NULL, NULL, scope_has},
};
const struct ix_kind mesh_cidr_kind = {sizeof(struct cidr_entry), NULL, NULL, NULL};
const struct ix_kind mesh_global_kind = {sizeof(void *), NULL, NULL, NULL};

/* ---- life ---- */

struct mesh *mesh_ref(struct mesh *m)
{
	if (m != NULL) /* relaxed: see model.c */
		bug_on(atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed) == 0);
	return m;
}

static void mesh_free(struct mesh *m)
{
	ix_set_unref(m->cidrs, &mesh_cidr_kind);
	ix_set_unref(m->global, &mesh_global_kind);
	for (size_t i = 0; i < IX_N; i++) /* those that only borrow do not look at what is gone */
		ix_fini(&m->ix[i], &mesh_kind[i]);
	free(m);
}

void mesh_unref(struct mesh *m)
{
	if (m == NULL || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) > 1)
		return;
	mesh_free(m);
}

bool mesh_is_last(const struct mesh *m)
{
	return atomic_load_explicit(&m->refs, memory_order_acquire) == 1;
}

uint64_t mesh_generation(const struct mesh *m)
{
	return m->generation;
}

struct mesh *mesh_empty(void)
{
	return mesh_builder_finish(mesh_builder_new(STR("")), 0);
}

/* ---- lookups ---- */

/* Several workloads may claim one address: ztunnel-spec 4.1 "workloads by address". */
static int ip_rank(const struct workload *w)
{
	bool pod = w->uid.n != 0 && memmem(w->uid.p, w->uid.n, "//Pod/", 6) != NULL;

	return (pod ? 2 : 0) + (w->protocol == WL_HBONE ? 1 : 0);
}

struct workload *mesh_workload_by_ip(const struct mesh *m, struct str network,
				     const struct ip_addr *ip)
{
	struct mesh_key k = {.a = network, .ip = ip};
	struct ix_view s = mesh_find(m, IX_IP, mesh_hash_net_ip(network, ip), &k);
	const struct ip_entry *v = s.v;
	struct workload *best = mesh_first(s);

	for (uint32_t i = 1; i < s.n; i++)
		if (ip_rank(v[i].wl) >= ip_rank(best)) /* the last one wins ties */
			best = v[i].wl;
	return best;
}

struct workload *mesh_workload_by_uid(const struct mesh *m, struct str uid)
{
	struct mesh_key k = {.a = uid};

	return mesh_first(mesh_find(m, IX_UID, hash_str(uid), &k));
}

struct workload *mesh_local_workload(const struct mesh *m, struct str name, struct str ns,
				     struct str sa)
{
	struct mesh_key k = {.a = name, .b = ns, .c = sa};
	struct ix_view s = mesh_find(m, IX_LOCAL, mesh_hash_local(name, ns, sa), &k);

	return s.n != 0 ? ((struct workload *const *)s.v)[s.n - 1] : NULL;
}

struct workload *mesh_any_local(const struct mesh *m)
{
	return m->any_local;
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
static struct service *best_exact(struct ix_view s, struct str client_ns)
{
	struct service *const *v = s.v, *best = NULL;
	int best_rank = -1;

	for (uint32_t i = 0; i < s.n; i++) {
		int rank = same_ns(v[i], client_ns) ? 2 : v[i]->canonical ? 1 : 0;

		if (!visible(v[i], client_ns))
			continue;
		if (rank > best_rank ||
		    (rank == best_rank && (rank == 1 || str_eq(v[i]->ns, best->ns)))) {
			best = v[i];
			best_rank = rank;
		}
	}
	return best;
}

/* (same namespace, prefix length, canonical), ties keep the earlier entry (ztunnel-spec 4.2). */
static struct service *best_cidr(const struct mesh *m, struct str network, const struct ip_addr *ip,
				 struct str client_ns)
{
	struct ix_view s = mesh_set(m->cidrs);
	const struct cidr_entry *v = s.v;
	struct service *best = NULL;
	int best_rank = -1;

	for (uint32_t i = 0; i < s.n; i++) {
		const struct cidr_entry *c = &v[i];
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
	struct mesh_key k = {.a = network, .ip = ip};
	struct service *s =
		best_exact(mesh_find(m, IX_VIP, mesh_hash_net_ip(network, ip), &k), client_ns);

	return s != NULL ? s : best_cidr(m, network, ip, client_ns);
}

struct service *mesh_service_by_host(const struct mesh *m, struct str ns, struct str hostname)
{
	struct mesh_key k = {.a = ns, .b = hostname};

	return mesh_first(mesh_find(m, IX_HOST, mesh_hash_two(ns, hostname), &k));
}

struct service *mesh_service_by_name(const struct mesh *m, struct str hostname,
				     struct str client_ns)
{
	struct mesh_key k = {.a = hostname};

	return best_exact(mesh_find(m, IX_NAME, mesh_hash_name(hostname), &k), client_ns);
}

struct service *const *mesh_services_by_name(const struct mesh *m, struct str hostname,
					     size_t *ret_n)
{
	struct mesh_key k = {.a = hostname};
	struct ix_view s = mesh_find(m, IX_NAME, mesh_hash_name(hostname), &k);

	*ret_n = s.n;
	return s.v;
}

bool mesh_has_wildcards(const struct mesh *m)
{
	return m->nwildcards != 0;
}

struct workload *mesh_workload_by_host(const struct mesh *m, struct str ns, struct str hostname)
{
	struct mesh_key k = {.a = ns, .b = hostname};

	return mesh_first(mesh_find(m, IX_WL_HOST, mesh_hash_two(ns, hostname), &k));
}

const struct endpoint *mesh_endpoints(const struct mesh *m, const struct service *s, size_t *ret_n)
{
	struct mesh_key k = {.a = s->ns, .b = s->hostname};
	struct ix_view eps = mesh_find(m, IX_EPS, mesh_hash_two(s->ns, s->hostname), &k);

	*ret_n = eps.n;
	return eps.v;
}

struct policy *mesh_policy(const struct mesh *m, struct str key)
{
	struct mesh_key k = {.a = key};

	return mesh_first(mesh_find(m, IX_POLICY, hash_str(key), &k));
}

struct policy *const *mesh_policies(const struct mesh *m, enum policy_scope scope, struct str ns,
				    size_t *ret_n)
{
	struct mesh_key k = {.a = ns};
	struct ix_view none = {NULL, 0};
	struct ix_view s = scope == POLICY_GLOBAL      ? mesh_set(m->global)
			   : scope == POLICY_NAMESPACE ? mesh_find(m, IX_SCOPE, hash_str(ns), &k)
						       : none;

	*ret_n = s.n;
	return s.v;
}

/* ---- everything ---- */

size_t mesh_count_workloads(const struct mesh *m)
{
	return m->nworkloads;
}

struct collected {
	void **v;
	size_t n;
};

static void collect(void *ctx, struct ix_view s)
{
	struct collected *c = ctx;

	c->v[c->n++] = mesh_first(s);
}

/* Names decide the order: that of an index would be another in every process. */
static int compare(struct str a, struct str b)
{
	int r = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);

	return r != 0 ? r : (a.n > b.n) - (a.n < b.n);
}

static int by_uid(const void *a, const void *b)
{
	const struct workload *x = *(void *const *)a, *y = *(void *const *)b;

	return compare(x->uid, y->uid);
}

static int by_host(const void *a, const void *b)
{
	const struct service *x = *(void *const *)a, *y = *(void *const *)b;
	int r = compare(x->ns, y->ns);

	return r != 0 ? r : compare(x->hostname, y->hostname);
}

static int by_key(const void *a, const void *b)
{
	const struct policy *x = *(void *const *)a, *y = *(void *const *)b;

	return compare(x->key, y->key);
}

static struct collected sorted(const struct mesh *m, enum mesh_index i, size_t n,
			       int (*cmp)(const void *, const void *))
{
	struct collected c = {xcalloc(n + 1, sizeof(void *)), 0};

	ix_each(&m->ix[i], collect, &c);
	bug_on(c.n != n);
	qsort(c.v, c.n, sizeof(void *), cmp);
	return c;
}

void mesh_each_workload(const struct mesh *m, void (*fn)(void *, struct workload *), void *ctx)
{
	struct collected c = sorted(m, IX_UID, m->nworkloads, by_uid);

	for (size_t i = 0; i < c.n; i++)
		fn(ctx, c.v[i]);
	free(c.v);
}

void mesh_each_service(const struct mesh *m, void (*fn)(void *, struct service *), void *ctx)
{
	struct collected c = sorted(m, IX_HOST, m->nservices, by_host);

	for (size_t i = 0; i < c.n; i++)
		fn(ctx, c.v[i]);
	free(c.v);
}

void mesh_each_policy(const struct mesh *m, void (*fn)(void *, struct policy *), void *ctx)
{
	struct collected c = sorted(m, IX_POLICY, m->npolicies, by_key);

	for (size_t i = 0; i < c.n; i++)
		fn(ctx, c.v[i]);
	free(c.v);
}
