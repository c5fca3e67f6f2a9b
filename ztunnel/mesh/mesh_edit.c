/* SPDX-License-Identifier: Apache-2.0
 * mesh_edit.c: how a snapshot is made: out of nothing, or out of the one before it and what
 * changed.
 *
 * Every object is entered in each index under each of its keys, and taken out in the same way; what
 * is not touched is shared with the snapshot before. An object that is replaced is taken out and
 * comes back as the newest, as in stock.
 *
 * Endpoints are entered under the name of their service whether it is there or not. Those that its
 * health policy keeps away stand in an index of their own, and change places when a service with
 * another policy comes.
 */
#include <errno.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "ztunnel/mesh/mesh_internal.h"

struct mesh_builder {
	struct mesh *m;
};

struct mesh_builder *mesh_builder_new(struct str node)
{
	struct mesh_builder *b = xcalloc(1, sizeof(*b));
	struct mesh *m = xcalloc(1, sizeof(*m) + node.n + 1);
	char *text = (char *)(m + 1);

	atomic_init(&m->refs, 1);
	if (node.n != 0)
		memcpy(text, node.p, node.n);
	m->node = (struct str){text, node.n};
	b->m = m;
	return b;
}

struct mesh_builder *mesh_builder_on(const struct mesh *base)
{
	struct mesh_builder *b = mesh_builder_new(base->node);
	struct mesh *m = b->m;

	m->edit = base->edit + 1;
	m->nworkloads = base->nworkloads;
	m->nservices = base->nservices;
	m->npolicies = base->npolicies;
	m->nwildcards = base->nwildcards;
	for (size_t i = 0; i < IX_N; i++)
		ix_copy(&m->ix[i], &base->ix[i]);
	m->cidrs = ix_set_ref(base->cidrs);
	m->global = ix_set_ref(base->global);
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

/* In or out of an index; to go out, the first word of the element is enough. */
static void enter(struct mesh *m, enum mesh_index i, bool in, uint64_t hash,
		  const struct mesh_key *k, const void *element)
{
	const void *object = *(const void *const *)element;

	if (in)
		ix_add(&m->ix[i], &mesh_kind[i], m->edit, hash, k, element);
	else
		ix_remove(&m->ix[i], &mesh_kind[i], m->edit, hash, k, object);
}

/* ---- workloads ---- */

static struct service *service_of(const struct mesh *m, const struct mesh_key *k)
{
	return mesh_service_by_host(m, k->a, k->b);
}

static bool is_hidden(const struct workload *w, const struct service *s)
{
	return w->unhealthy && (s == NULL || !s->allow_unhealthy);
}

static void enter_endpoints(struct mesh *m, struct workload *w, bool in)
{
	for (size_t i = 0; i < w->nservices; i++) {
		struct wl_service *sv = &w->services[i];
		struct endpoint e = {w, sv->ports, sv->nports, sv->name};
		struct mesh_key k = {.b = sv->name};

		if (!str_cut(&k.b, '/', &k.a))
			continue; /* the parsers refuse such a name */
		enter(m, is_hidden(w, service_of(m, &k)) ? IX_HIDDEN : IX_EPS, in,
		      mesh_hash_two(k.a, k.b), &k, &e);
	}
}

static void enter_workload(struct mesh *m, struct workload *w, bool in)
{
	struct mesh_key local = {.a = w->name, .b = w->ns, .c = w->sa};
	struct mesh_key host = {.a = w->ns, .b = w->hostname};

	for (size_t i = 0; !w->host_network && i < w->nips; i++) {
		struct mesh_key k = {.a = w->network, .ip = &w->ips[i]};
		struct ip_entry e = {w, {w->network, w->ips[i]}};

		enter(m, IX_IP, in, mesh_hash_net_ip(w->network, k.ip), &k, &e);
	}
	if (m->node.n == 0 || str_eq(w->node, m->node))
		enter(m, IX_LOCAL, in, mesh_hash_local(w->name, w->ns, w->sa), &local, &w);
	if (w->hostname.n != 0)
		enter(m, IX_WL_HOST, in, mesh_hash_two(w->ns, w->hostname), &host, &w);
	enter_endpoints(m, w, in);
}

int mesh_builder_workload(struct mesh_builder *b, struct workload *w, struct err *err)
{
	struct mesh_key k = {.a = w->uid};
	int r = 0;

	if (mesh_workload_by_uid(b->m, w->uid) != NULL) {
		r = err_set(err, EEXIST, "workload uid %s is used twice", str_shown(w->uid));
	} else {
		enter(b->m, IX_UID, true, hash_str(w->uid), &k, &w);
		enter_workload(b->m, w, true);
		b->m->nworkloads++;
	}
	workload_unref(w); /* the index has its own */
	return r;
}

void mesh_builder_drop_workload(struct mesh_builder *b, struct str uid)
{
	struct workload *w = mesh_workload_by_uid(b->m, uid);
	struct mesh_key k = {.a = uid};

	bug_on(w == NULL);
	enter_workload(b->m, w, false);
	enter(b->m, IX_UID, false, hash_str(uid), &k, &w); /* may be its last reference */
	b->m->nworkloads--;
}

/* ---- services ---- */

/* The endpoints of @k's service whose health matters move from one index to the other. */
static void move_endpoints(struct mesh *m, const struct mesh_key *k, enum mesh_index from,
			   enum mesh_index to)
{
	uint64_t hash = mesh_hash_two(k->a, k->b);
	struct ix_view s = mesh_find(m, from, hash, k);
	struct endpoint *v;
	uint32_t n = s.n;

	if (n == 0)
		return;
	v = xcalloc(n, sizeof(*v));
	memcpy(v, s.v, n * sizeof(*v));
	for (uint32_t i = 0; i < n; i++) {
		if (!v[i].wl->unhealthy)
			continue;
		enter(m, from, false, hash, k, &v[i]);
		enter(m, to, true, hash, k, &v[i]);
	}
	free(v);
}

static void enter_service(struct mesh *m, struct service *s, bool in)
{
	struct mesh_key name = {.a = s->hostname};

	enter(m, IX_NAME, in, mesh_hash_name(s->hostname), &name, &s);
	if (str_has_prefix(s->hostname, STR("*.")))
		m->nwildcards += in ? 1 : (size_t)-1;
	for (size_t i = 0; i < s->nvips; i++) {
		struct mesh_key k = {.a = s->vips[i].network, .ip = &s->vips[i].ip};

		enter(m, IX_VIP, in, mesh_hash_net_ip(k.a, k.ip), &k, &s);
	}
	for (size_t i = 0; i < s->ncidr_vips; i++) {
		struct cidr_entry c = {s, s->cidr_vips[i].network, s->cidr_vips[i].cidr};

		if (in)
			ix_set_add(&m->cidrs, &mesh_cidr_kind, m->edit, &c);
		else
			ix_set_remove(&m->cidrs, &mesh_cidr_kind, m->edit, s);
	}
}

int mesh_builder_service(struct mesh_builder *b, struct service *s, struct err *err)
{
	struct mesh_key k = {.a = s->ns, .b = s->hostname};
	int r = 0;

	if (mesh_service_by_host(b->m, s->ns, s->hostname) != NULL) {
		r = err_set(err, EEXIST, "service %s/%s is there twice", str_shown(s->ns),
			    str_shown(s->hostname));
	} else {
		enter(b->m, IX_HOST, true, mesh_hash_two(s->ns, s->hostname), &k, &s);
		enter_service(b->m, s, true);
		if (s->allow_unhealthy)
			move_endpoints(b->m, &k, IX_HIDDEN, IX_EPS);
		b->m->nservices++;
	}
	service_unref(s);
	return r;
}

void mesh_builder_drop_service(struct mesh_builder *b, struct str ns, struct str hostname)
{
	struct service *s = mesh_service_by_host(b->m, ns, hostname);
	struct mesh_key k = {.a = ns, .b = hostname};

	bug_on(s == NULL);
	enter_service(b->m, s, false);
	if (s->allow_unhealthy)
		move_endpoints(b->m, &k, IX_EPS, IX_HIDDEN);
	enter(b->m, IX_HOST, false, mesh_hash_two(ns, hostname), &k, &s);
	b->m->nservices--;
}

/* ---- policies ---- */

static void enter_policy(struct mesh *m, struct policy *p, bool in)
{
	struct mesh_key k = {.a = p->ns};

	switch (p->scope) {
	case POLICY_GLOBAL:
		if (in)
			ix_set_add(&m->global, &mesh_global_kind, m->edit, &p);
		else
			ix_set_remove(&m->global, &mesh_global_kind, m->edit, p);
		return;
	case POLICY_NAMESPACE:
		enter(m, IX_SCOPE, in, hash_str(p->ns), &k, &p);
		return;
	case POLICY_WORKLOAD: /* found by name only */
	case POLICY_SCOPE_N:
		return;
	}
}

int mesh_builder_policy(struct mesh_builder *b, struct policy *p, struct err *err)
{
	struct mesh_key k = {.a = p->key};
	int r = 0;

	if (mesh_policy(b->m, p->key) != NULL) {
		r = err_set(err, EEXIST, "policy %s is there twice", str_shown(p->key));
	} else {
		enter(b->m, IX_POLICY, true, hash_str(p->key), &k, &p);
		enter_policy(b->m, p, true);
		b->m->npolicies++;
	}
	policy_unref(p);
	return r;
}

void mesh_builder_drop_policy(struct mesh_builder *b, struct str key)
{
	struct policy *p = mesh_policy(b->m, key);
	struct mesh_key k = {.a = key};

	bug_on(p == NULL);
	enter_policy(b->m, p, false);
	enter(b->m, IX_POLICY, false, hash_str(key), &k, &p);
	b->m->npolicies--;
}

/* ---- the end ---- */

static void take_first(void *ctx, struct ix_view s)
{
	struct workload **any = ctx;

	if (*any == NULL)
		*any = mesh_first(s);
}

struct mesh *mesh_builder_finish(struct mesh_builder *b, uint64_t generation)
{
	struct mesh *m = b->m;

	if (m->node.n != 0)
		ix_each(&m->ix[IX_LOCAL], take_first, &m->any_local);
	m->generation = generation;
	free(b);
	return m;
}
