/* SPDX-License-Identifier: Apache-2.0
 * store.c: see store.h.
 */
#include "ztunnel/mesh/store.h"

#include "lib/base/bug.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"

struct entry {
	struct hnode h;
	struct list node; /* of the store's list, in order of arrival */
	enum store_kind kind;
	struct workload *workload; /* one of the three */
	struct service *service;
	struct policy *policy;
	struct store_raw *raw; /* its name and version at least */
};

struct store {
	struct htab table[STORE_KIND_N];
	struct list all;
	bool keep;
	size_t bytes, nclosed;
	struct mesh *last;	   /* the newest snapshot; NULL: none yet */
	struct mesh_builder *next; /* it with the changes since; NULL: there are none */
};

struct store *store_new(struct str node, bool keep)
{
	struct store *s = xcalloc(1, sizeof(*s));

	s->next = mesh_builder_new(node);
	s->keep = keep;
	for (int k = 0; k < STORE_KIND_N; k++)
		htab_init(&s->table[k]);
	list_init(&s->all);
	return s;
}

static struct store_raw *raw_new(enum store_kind kind, struct str name, struct str version,
				 struct str value)
{
	struct store_raw *r = xmalloc(sizeof(*r) + name.n + version.n + value.n);

	bug_on(version.n > UINT16_MAX || name.n > UINT32_MAX || value.n > UINT32_MAX);
	atomic_init(&r->refs, 1);
	r->kind = (uint8_t)kind;
	r->closed = false;
	r->nversion = (uint16_t)version.n;
	r->nname = (uint32_t)name.n;
	r->nvalue = (uint32_t)value.n;
	if (name.n != 0)
		memcpy(r->text, name.p, name.n);
	if (version.n != 0)
		memcpy(r->text + name.n, version.p, version.n);
	if (value.n != 0)
		memcpy(r->text + name.n + version.n, value.p, value.n);
	return r;
}

static void raw_unref(struct store_raw *r)
{
	if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
		free(r);
}

static struct str name_of(const struct entry *e)
{
	return (struct str){e->raw->text, e->raw->nname};
}

static size_t size_of(const struct entry *e)
{
	return sizeof(*e) + sizeof(*e->raw) + e->raw->nname + e->raw->nversion;
}

static struct mesh_builder *edit(struct store *s)
{
	if (s->next == NULL)
		s->next = mesh_builder_on(s->last);
	return s->next;
}

static void unindex(struct store *s, const struct entry *e)
{
	if (e->workload != NULL)
		mesh_builder_drop_workload(edit(s), e->workload->uid);
	else if (e->service != NULL)
		mesh_builder_drop_service(edit(s), e->service->ns, e->service->hostname);
	else
		mesh_builder_drop_policy(edit(s), e->policy->key);
}

static void forget(struct store *s, struct entry *e)
{
	htab_remove(&s->table[e->kind], &e->h);
	list_remove(&e->node);
	workload_unref(e->workload);
	service_unref(e->service);
	policy_unref(e->policy);
	s->bytes -= size_of(e);
	s->nclosed -= e->raw->closed;
	raw_unref(e->raw);
	free(e);
}

struct store *store_free(struct store *s)
{
	if (s == NULL)
		return NULL;
	s->next = mesh_builder_free(s->next);
	mesh_unref(s->last);
	while (!list_empty(&s->all))
		forget(s, container_of(s->all.next, struct entry, node));
	for (int k = 0; k < STORE_KIND_N; k++)
		htab_fini(&s->table[k]);
	free(s);
	return NULL;
}

static void drop(struct store *s, struct entry *e)
{
	unindex(s, e);
	forget(s, e);
}

static struct entry *find(const struct store *s, enum store_kind kind, struct str name)
{
	struct hnode *n = htab_first(&s->table[kind], hash_str(name));

	for (; n != NULL; n = htab_next(n)) {
		struct entry *e = container_of(n, struct entry, h);

		if (str_eq(name_of(e), name))
			return e;
	}
	return NULL;
}

static struct entry *put(struct store *s, enum store_kind kind, struct str name, struct str version,
			 struct str value)
{
	struct entry *old = find(s, kind, name), *e = xcalloc(1, sizeof(*e));

	e->kind = kind;
	e->raw = raw_new(kind, name, version, s->keep ? value : STR(""));
	if (old != NULL)
		drop(s, old);
	s->bytes += size_of(e);
	list_append(&s->all, &e->node);
	htab_insert(&s->table[kind], &e->h, hash_str(name_of(e)));
	return e;
}

/* The names are unique in the store, and they are what the builder compares. */
void store_workload(struct store *s, struct workload *w, struct str version, struct str value)
{
	put(s, STORE_ADDRESS, w->uid, version, value)->workload = w;
	bug_on(mesh_builder_workload(edit(s), workload_ref(w), NULL) != 0);
}

void store_service(struct store *s, struct service *v, struct str name, struct str version,
		   struct str value)
{
	put(s, STORE_ADDRESS, name, version, value)->service = v;
	bug_on(mesh_builder_service(edit(s), service_ref(v), NULL) != 0);
}

void store_policy(struct store *s, struct policy *p, struct str version, struct str value)
{
	struct entry *e = put(s, STORE_POLICY, p->key, version, value);

	e->policy = p;
	bug_on(mesh_builder_policy(edit(s), policy_ref(p), NULL) != 0);
	e->raw->closed = p->closed;
	s->nclosed += p->closed;
}

bool store_has_policy(const struct store *s, struct str name)
{
	const struct entry *e = find(s, STORE_POLICY, name);

	return e != NULL && !e->raw->closed;
}

size_t store_count_closed(const struct store *s)
{
	return s->nclosed;
}

bool store_remove(struct store *s, enum store_kind kind, struct str name)
{
	struct entry *e = find(s, kind, name);

	if (e != NULL)
		drop(s, e);
	return e != NULL;
}

bool store_has(const struct store *s, enum store_kind kind, struct str name)
{
	return find(s, kind, name) != NULL;
}

size_t store_count(const struct store *s, enum store_kind kind)
{
	return s->table[kind].count;
}

void store_each(const struct store *s, enum store_kind kind,
		void (*fn)(void *ctx, struct str name, struct str version), void *ctx)
{
	list_for_each (n, &s->all) {
		const struct entry *e = container_of(n, struct entry, node);

		if (e->kind == kind)
			fn(ctx, name_of(e),
			   (struct str){e->raw->text + e->raw->nname, e->raw->nversion});
	}
}

size_t store_bytes(const struct store *s)
{
	return s->bytes;
}

struct store_copy *store_copy_new(const struct store *s)
{
	struct store_copy *c = xcalloc(1, sizeof(*c));
	size_t n = s->table[STORE_ADDRESS].count + s->table[STORE_POLICY].count;

	bug_on(!s->keep);
	c->store = s;
	c->at = s->all.next;
	c->v = xcalloc(n != 0 ? n : 1, sizeof(struct store_raw *));
	return c;
}

bool store_copy_step(struct store_copy *c, size_t max)
{
	const struct list *end = &c->store->all;

	for (; max > 0 && c->at != end; max--, c->at = c->at->next) {
		struct store_raw *r = container_of(c->at, struct entry, node)->raw;

		atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
		c->v[c->n++] = r;
	}
	return c->at == end;
}

struct store_copy *store_copy_free(struct store_copy *c)
{
	if (c == NULL)
		return NULL;
	for (size_t i = 0; i < c->n; i++)
		raw_unref(c->v[i]);
	free(c->v);
	free(c);
	return NULL;
}

struct mesh *store_snapshot(struct store *s, uint64_t generation)
{
	struct mesh *m = mesh_builder_finish(edit(s), generation);

	s->next = NULL;
	mesh_unref(s->last);
	s->last = mesh_ref(m);
	return m;
}
