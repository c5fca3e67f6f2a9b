/* SPDX-License-Identifier: Apache-2.0
 * index.c: see index.h.
 */
#include "ztunnel/mesh/index.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

#define SLOTS_MIN 4

/* The upper byte of a hash chose the shard already; its place takes the mark. */
#define SINGLE (1ull << 63) /* .p is the object of the only element, which is nothing but it */
struct slot {
	uint64_t hash;
	void *p; /* a set; NULL: free */
};
struct ix_shard {
	atomic_uint refs;
	uint32_t n, mask;
	uint64_t edit;
	struct slot slot[];
};

static void *object_of(const void *element)
{
	void *p;

	memcpy(&p, element, sizeof(p));
	return p;
}

/* ---- sets ---- */

struct ix_set *ix_set_ref(struct ix_set *s)
{
	if (s != NULL) /* relaxed: see model.c */
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

static void hold_objects(const struct ix_set *s, const struct ix_kind *k, bool hold)
{
	for (uint32_t i = 0; k->ref != NULL && i < s->n; i++) {
		void *object = object_of(s->v + i * k->size);

		if (hold)
			k->ref(object);
		else
			k->unref(object);
	}
}

void ix_set_unref(struct ix_set *s, const struct ix_kind *k)
{
	/* acq_rel: the last holder sees every use by the others */
	if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	hold_objects(s, k, false);
	free(s);
}

/* A set of this edit with room for one more: *@s itself, or a copy that takes its place. */
static struct ix_set *own_set(struct ix_set **s, const struct ix_kind *k, uint64_t edit)
{
	struct ix_set *old = *s, *copy;
	uint32_t cap = old == NULL ? 1 : old->n < old->cap ? old->cap : old->cap * 2;

	if (old != NULL && old->edit == edit && cap == old->cap)
		return old;
	bug_on(old != NULL && cap < old->n);
	if (old != NULL && old->edit == edit) {
		copy = xrealloc_array(old, 1, sizeof(*copy) + cap * k->size);
	} else {
		copy = xcalloc(1, sizeof(*copy) + cap * k->size);
		atomic_init(&copy->refs, 1);
		copy->edit = edit;
		if (old != NULL) {
			copy->n = old->n;
			memcpy(copy->v, old->v, old->n * k->size);
			hold_objects(copy, k, true);
			ix_set_unref(old, k);
		}
	}
	copy->cap = cap;
	*s = copy;
	return copy;
}

void ix_set_add(struct ix_set **s, const struct ix_kind *k, uint64_t edit, const void *element)
{
	struct ix_set *own = own_set(s, k, edit);

	memcpy(own->v + own->n * k->size, element, k->size);
	own->n++;
	if (k->ref != NULL)
		k->ref(object_of(element));
}

void ix_set_remove(struct ix_set **s, const struct ix_kind *k, uint64_t edit, const void *object)
{
	struct ix_set *own;

	if (*s == NULL)
		return;
	own = own_set(s, k, edit);
	for (uint32_t i = 0; i < own->n;) {
		unsigned char *e = own->v + i * k->size;

		if (object_of(e) != object) {
			i++;
			continue;
		}
		if (k->unref != NULL)
			k->unref(object_of(e));
		own->n--;
		memmove(e, e + k->size, (own->n - i) * k->size);
	}
	if (own->n == 0) {
		ix_set_unref(own, k);
		*s = NULL;
	}
}

/* ---- shards ---- */

static bool is_single(const struct slot *s)
{
	return (s->hash & SINGLE) != 0;
}

static struct ix_view view_of(const struct slot *s)
{
	const struct ix_set *set = s->p;

	return is_single(s) ? (struct ix_view){&s->p, 1} : (struct ix_view){set->v, set->n};
}

static void slot_ref(const struct slot *s, const struct ix_kind *k)
{
	if (!is_single(s))
		(void)ix_set_ref(s->p);
	else if (k->ref != NULL)
		k->ref(s->p);
}

static void slot_unref(const struct slot *s, const struct ix_kind *k)
{
	if (s->p == NULL)
		return;
	if (!is_single(s))
		ix_set_unref(s->p, k);
	else if (k->unref != NULL)
		k->unref(s->p);
}

static struct ix_shard *shard_new(uint32_t slots, uint64_t edit)
{
	struct ix_shard *h = xcalloc(1, sizeof(*h) + slots * sizeof(struct slot));

	atomic_init(&h->refs, 1);
	h->mask = slots - 1;
	h->edit = edit;
	return h;
}

static void shard_unref(struct ix_shard *h, const struct ix_kind *k)
{
	if (h == NULL || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i <= h->mask; i++)
		slot_unref(&h->slot[i], k);
	free(h);
}

static void put_slot(struct ix_shard *h, struct slot s)
{
	uint32_t i = (uint32_t)s.hash & h->mask;

	while (h->slot[i].p != NULL)
		i = (i + 1) & h->mask;
	h->slot[i] = s;
	h->n++;
}

/* The shard of @hash, of this edit, with a free slot to spare. */
static struct ix_shard *own_shard(struct ix *t, const struct ix_kind *k, uint64_t edit,
				  uint64_t hash)
{
	struct ix_shard **at = &t->shard[hash >> 56], *old = *at, *copy;
	uint32_t slots = old == NULL ? SLOTS_MIN : old->mask + 1;
	bool ours = old != NULL && old->edit == edit;

	if (old != NULL && (old->n + 1) * 4 > slots * 3)
		slots *= 2;
	if (ours && slots == old->mask + 1)
		return old;
	copy = shard_new(slots, edit);
	for (uint32_t i = 0; old != NULL && i <= old->mask; i++) {
		if (old->slot[i].p == NULL)
			continue;
		if (!ours)
			slot_ref(&old->slot[i], k);
		put_slot(copy, old->slot[i]);
	}
	if (ours) /* all moved: no object need be touched */
		free(old);
	else
		shard_unref(old, k);
	*at = copy;
	return copy;
}

/* Where the set of @key is; NULL: nowhere. */
static struct slot *find_slot(struct ix_shard *h, const struct ix_kind *k, uint64_t hash,
			      const void *key)
{
	if (h == NULL)
		return NULL;
	for (uint32_t i = (uint32_t)hash & h->mask;; i = (i + 1) & h->mask) {
		struct slot *s = &h->slot[i];

		if (s->p == NULL)
			return NULL;
		if ((s->hash ^ hash) << 8 == 0 && k->has(view_of(s).v, key))
			return s;
	}
}

/* Closes the gap, so that nothing behind it gets lost. */
static void clear_slot(struct ix_shard *h, struct slot *s)
{
	uint32_t gap = (uint32_t)(s - h->slot), i = gap;

	h->n--;
	for (;;) {
		uint32_t home;

		i = (i + 1) & h->mask;
		if (h->slot[i].p == NULL)
			break;
		home = (uint32_t)h->slot[i].hash & h->mask;
		if (((i - home) & h->mask) < ((i - gap) & h->mask))
			continue; /* it would come before its home */
		h->slot[gap] = h->slot[i];
		gap = i;
	}
	h->slot[gap] = (struct slot){0, NULL};
}

/* ---- the index ---- */

struct ix_view ix_find(const struct ix *t, const struct ix_kind *k, uint64_t hash, const void *key)
{
	const struct slot *s = find_slot(t->shard[hash >> 56], k, hash, key);

	return s != NULL ? view_of(s) : (struct ix_view){NULL, 0};
}

/* An element of its own becomes the first one of a set. */
static void make_set(struct slot *s, const struct ix_kind *k, uint64_t edit)
{
	struct ix_set *set = NULL;
	void *object = s->p;

	ix_set_add(&set, k, edit, &object);
	slot_unref(s, k); /* the set holds it now */
	*s = (struct slot){s->hash & ~SINGLE, set};
}

void ix_add(struct ix *t, const struct ix_kind *k, uint64_t edit, uint64_t hash, const void *key,
	    const void *element)
{
	struct ix_shard *h = own_shard(t, k, edit, hash);
	struct slot *s = find_slot(h, k, hash, key), fresh = {hash << 8 >> 8, NULL};
	struct ix_set *set = NULL;

	if (s == NULL && k->size == sizeof(void *)) {
		fresh = (struct slot){fresh.hash | SINGLE, object_of(element)};
		slot_ref(&fresh, k);
		put_slot(h, fresh);
		return;
	}
	if (s != NULL && is_single(s))
		make_set(s, k, edit);
	if (s != NULL)
		set = s->p;
	ix_set_add(&set, k, edit, element);
	if (s != NULL) {
		s->p = set;
		return;
	}
	fresh.p = set;
	put_slot(h, fresh);
}

void ix_remove(struct ix *t, const struct ix_kind *k, uint64_t edit, uint64_t hash, const void *key,
	       const void *object)
{
	struct ix_shard *h = t->shard[hash >> 56];
	struct slot *s = find_slot(h, k, hash, key);
	struct ix_set *set;

	if (s == NULL || (is_single(s) && s->p != object))
		return;
	h = own_shard(t, k, edit, hash);
	s = find_slot(h, k, hash, key);
	bug_on(s == NULL);
	if (is_single(s)) {
		struct slot old = *s;

		clear_slot(h, s);
		slot_unref(&old, k);
	} else {
		set = s->p;
		ix_set_remove(&set, k, edit, object);
		if (set == NULL)
			clear_slot(h, s); /* before anybody looks at it */
		else
			s->p = set;
	}
	if (h->n == 0) {
		shard_unref(h, k);
		t->shard[hash >> 56] = NULL;
	}
}

void ix_copy(struct ix *dst, const struct ix *src)
{
	*dst = *src;
	for (size_t i = 0; i < IX_SHARDS; i++)
		if (src->shard[i] != NULL)
			atomic_fetch_add_explicit(&src->shard[i]->refs, 1, memory_order_relaxed);
}

void ix_fini(struct ix *t, const struct ix_kind *k)
{
	for (size_t i = 0; i < IX_SHARDS; i++)
		shard_unref(t->shard[i], k);
	*t = (struct ix){0};
}

void ix_each(const struct ix *t, void (*fn)(void *ctx, struct ix_view v), void *ctx)
{
	for (size_t i = 0; i < IX_SHARDS; i++) {
		const struct ix_shard *h = t->shard[i];

		for (uint32_t n = 0; h != NULL && n <= h->mask; n++)
			if (h->slot[n].p != NULL)
				fn(ctx, view_of(&h->slot[n]));
	}
}
