/* SPDX-License-Identifier: Apache-2.0
 * export_store.c: see export_store.h.
 */
#include "ctl/export_store.h"

#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

/* --- texts --- */

struct text {
	struct hnode node;
	unsigned int refs;
	char s[];
};

static struct text *text_of(const char *s)
{
	return container_of((char *)(uintptr_t)s, struct text, s);
}

const char *ex_text(struct ex_texts *t, struct str s)
{
	uint64_t h = hash_str(s);
	struct text *x;

	for (struct hnode *n = htab_first(&t->table, h); n != NULL; n = htab_next(n)) {
		x = container_of(n, struct text, node);
		if (str_eqc(s, x->s)) {
			x->refs++;
			return x->s;
		}
	}
	x = xmalloc(sizeof(*x) + s.n + 1);
	x->refs = 1;
	if (s.n != 0)
		memcpy(x->s, s.p, s.n);
	x->s[s.n] = '\0';
	htab_insert(&t->table, &x->node, h);
	return x->s;
}

const char *ex_text_ref(const char *text)
{
	text_of(text)->refs++;
	return text;
}

void ex_text_drop(struct ex_texts *t, const char *text)
{
	struct text *x;

	if (text == NULL)
		return;
	x = text_of(text);
	bug_on(x->refs == 0);
	if (--x->refs != 0)
		return;
	htab_remove(&t->table, &x->node);
	free(x);
}

/* --- objects --- */

bool ex_labels_match(const struct ex_labels *selector, const struct ex_labels *labels)
{
	for (size_t i = 0; i < selector->n; i++) {
		size_t k = 0;

		while (k < labels->n && labels->v[k].key != selector->v[i].key)
			k++;
		if (k == labels->n || labels->v[k].value != selector->v[i].value)
			return false;
	}
	return true;
}

struct ex_object *ex_object_new(enum ex_kind kind)
{
	static const size_t size[EX_KIND_N] = {
		[EX_POD] = sizeof(struct ex_pod),     [EX_SERVICE] = sizeof(struct ex_service),
		[EX_SLICE] = sizeof(struct ex_slice), [EX_NAMESPACE] = sizeof(struct ex_namespace),
		[EX_NODE] = sizeof(struct ex_node),   [EX_POLICY] = sizeof(struct ex_policy),
		[EX_PEER] = sizeof(struct ex_peer),
	};
	struct ex_object *o = xcalloc(1, size[kind]);

	o->kind = kind;
	return o;
}

static void labels_fini(struct ex_texts *t, struct ex_labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		ex_text_drop(t, l->v[i].key);
		ex_text_drop(t, l->v[i].value);
	}
	free(l->v);
}

static void ports_fini(struct ex_texts *t, struct ex_port *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ex_text_drop(t, p[i].name);
	free(p);
}

static void pod_fini(struct ex_texts *t, struct ex_pod *p)
{
	const char *text[] = {p->uid, p->node, p->account, p->workload, p->canonical, p->revision};

	for (size_t i = 0; i < ARRAY_LEN(text); i++)
		ex_text_drop(t, text[i]);
	free(p->ip);
	labels_fini(t, &p->labels);
	ports_fini(t, p->port, p->nports);
}

static void service_fini(struct ex_texts *t, struct ex_service *s)
{
	for (size_t i = 0; i < s->nports; i++) {
		ex_text_drop(t, s->port[i].name);
		ex_text_drop(t, s->port[i].target);
	}
	free(s->port);
	free(s->vip);
	labels_fini(t, &s->selector);
}

static void slice_fini(struct ex_texts *t, struct ex_slice *s)
{
	for (size_t i = 0; i < s->nendpoints; i++) {
		ex_text_drop(t, s->endpoint[i].pod_ns);
		ex_text_drop(t, s->endpoint[i].pod);
		ex_text_drop(t, s->endpoint[i].uid);
	}
	free(s->endpoint);
	ex_text_drop(t, s->service);
	ports_fini(t, s->port, s->nports);
}

static void fini(struct ex_texts *t, struct ex_object *o)
{
	switch (o->kind) {
	case EX_POD:
		pod_fini(t, (struct ex_pod *)o);
		break;
	case EX_SERVICE:
		service_fini(t, (struct ex_service *)o);
		break;
	case EX_SLICE:
		slice_fini(t, (struct ex_slice *)o);
		break;
	case EX_NAMESPACE:
		ex_text_drop(t, ((struct ex_namespace *)o)->network);
		break;
	case EX_NODE:
		ex_text_drop(t, ((struct ex_node *)o)->region);
		ex_text_drop(t, ((struct ex_node *)o)->zone);
		ex_text_drop(t, ((struct ex_node *)o)->subzone);
		break;
	case EX_POLICY:
		labels_fini(t, &((struct ex_policy *)o)->selector);
		free(((struct ex_policy *)o)->rules);
		break;
	case EX_PEER:
		labels_fini(t, &((struct ex_peer *)o)->selector);
		ex_text_drop(t, ((struct ex_peer *)o)->created);
		free(((struct ex_peer *)o)->port);
		break;
	case EX_KIND_N:
		bug_on(true);
	}
}

struct ex_object *ex_object_free(struct ex_texts *t, struct ex_object *o)
{
	if (o == NULL)
		return NULL;
	fini(t, o);
	ex_text_drop(t, o->ns);
	ex_text_drop(t, o->name);
	free(o->note);
	free(o);
	return NULL;
}

/* --- the store --- */

static uint64_t key_hash(struct str ns, struct str name)
{
	return hash_mix(hash_str(ns), hash_str(name));
}

static struct ex_object *object_of(struct hnode *n)
{
	return container_of(n, struct ex_object, node);
}

struct ex_object *ex_store_get(const struct ex_store *s, enum ex_kind kind, struct str ns,
			       struct str name)
{
	struct hnode *n = htab_first(&s->table[kind], key_hash(ns, name));

	while (n != NULL && (!str_eqc(ns, object_of(n)->ns) || !str_eqc(name, object_of(n)->name)))
		n = htab_next(n);
	return n != NULL ? object_of(n) : NULL;
}

static void drop(struct ex_store *s, struct ex_object *o)
{
	htab_remove(&s->table[o->kind], &o->node);
	(void)ex_object_free(&s->texts, o);
}

bool ex_store_put(struct ex_store *s, struct ex_object *o)
{
	struct str ns = str_of(o->ns), name = str_of(o->name);
	struct ex_object *old = ex_store_get(s, o->kind, ns, name);
	bool same = old != NULL && old->digest == o->digest;

	if (old != NULL)
		drop(s, old);
	htab_insert(&s->table[o->kind], &o->node, key_hash(ns, name));
	return !same;
}

bool ex_store_remove(struct ex_store *s, enum ex_kind kind, struct str ns, struct str name)
{
	struct ex_object *o = ex_store_get(s, kind, ns, name);

	if (o == NULL)
		return false;
	drop(s, o);
	return true;
}

void ex_store_keep(struct ex_store *s, enum ex_kind kind, struct str ns, struct str name,
		   unsigned int generation)
{
	struct ex_object *o = ex_store_get(s, kind, ns, name);

	if (o != NULL)
		o->generation = generation;
}

bool ex_store_sweep(struct ex_store *s, enum ex_kind kind, unsigned int generation)
{
	bool any = false;

	htab_for_each (n, &s->table[kind]) {
		if (object_of(n)->generation == generation)
			continue;
		drop(s, object_of(n));
		any = true;
	}
	return any;
}

void ex_store_fini(struct ex_store *s)
{
	for (int k = 0; k < EX_KIND_N; k++) {
		htab_for_each (n, &s->table[k])
			drop(s, object_of(n));
		htab_fini(&s->table[k]);
	}
	bug_on(s->texts.table.count != 0);
	htab_fini(&s->texts.table);
}

size_t ex_store_count(const struct ex_store *s, enum ex_kind kind)
{
	return s->table[kind].count;
}

static int by_name(const void *a, const void *b)
{
	const struct ex_object *x = *(const struct ex_object *const *)a;
	const struct ex_object *y = *(const struct ex_object *const *)b;
	int d = x->ns == y->ns ? 0 : strcmp(x->ns, y->ns);

	return d != 0 ? d : strcmp(x->name, y->name);
}

const struct ex_object **ex_store_sorted(const struct ex_store *s, enum ex_kind kind, size_t *ret_n)
{
	const struct ex_object **v =
		xcalloc(ex_store_count(s, kind) + 1, sizeof(struct ex_object *));
	size_t n = 0;

	htab_for_each (it, &s->table[kind])
		v[n++] = object_of(it);
	qsort(v, n, sizeof(*v), by_name);
	*ret_n = n;
	return v;
}
