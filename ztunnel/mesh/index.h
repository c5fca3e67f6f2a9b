/* SPDX-License-Identifier: Apache-2.0
 * index.h: a persistent index: from a key to the elements that have it, in the order in which they
 * came. Pure.
 *
 * Theory of operation. An index is a table of IX_SHARDS pointers to shards (open addressing by the
 * key's hash), a shard holds sets, a set holds the elements of one key. Shards and sets count their
 * holders (atomic) and are immutable once an edit is over, so the next snapshot copies the table
 * and shares all shards. An edit, known by its number, copies a shard or set before it first
 * writes to it, and from then on owns it: so one change costs the copy of one shard, and many
 * changes cost no more than building anew.
 *
 *   struct ix       shard[0] ... shard[255]
 *                      |
 *   struct ix_shard {hash, set} {hash, set} ...      shared by snapshots
 *                            |
 *   struct ix_set   {element, element}               shared by shards; a single element that is
 *                                                    only a pointer lies in the slot itself
 *
 * Readers need no lock and see one indirection more than a plain hash table has. Editing: one
 * thread at a time, and only what was made from the newest snapshot.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IX_SHARDS 256

struct ix_shard;
struct ix {
	struct ix_shard *shard[IX_SHARDS]; /* NULL: empty */
};

/* What is indexed, and how. An element begins with a pointer to its object. */
struct ix_kind {
	size_t size;		   /* of an element, bytes */
	void (*ref)(void *object); /* NULL: the objects are held elsewhere */
	void (*unref)(void *object);
	/* Does the element have this key? Keys are of the kind's own type. */
	bool (*has)(const void *element, const void *key);
};

/* The elements of one key, as they lie; NULL and 0: none. Valid while the index is. */
struct ix_view {
	const void *v;
	uint32_t n;
};
struct ix_set { /* never empty */
	atomic_uint refs;
	uint32_t n, cap;
	uint64_t edit;
	_Alignas(8) unsigned char v[];
};

/* The elements with that key. Any thread. */
struct ix_view ix_find(const struct ix *t, const struct ix_kind *k, uint64_t hash, const void *key);
/* Appends a copy of @element (which has @key), with a reference of its object. */
void ix_add(struct ix *t, const struct ix_kind *k, uint64_t edit, uint64_t hash, const void *key,
	    const void *element);
/* Takes every element of @object out of the set of @key. */
void ix_remove(struct ix *t, const struct ix_kind *k, uint64_t edit, uint64_t hash, const void *key,
	       const void *object);
/* @dst becomes what @src is. */
void ix_copy(struct ix *dst, const struct ix *src);
void ix_fini(struct ix *t, const struct ix_kind *k);
/* Every key's elements, in no particular order. */
void ix_each(const struct ix *t, void (*fn)(void *ctx, struct ix_view v), void *ctx);

/* A set that stands alone: *@s is NULL while it is empty. */
void ix_set_add(struct ix_set **s, const struct ix_kind *k, uint64_t edit, const void *element);
void ix_set_remove(struct ix_set **s, const struct ix_kind *k, uint64_t edit, const void *object);
struct ix_set *ix_set_ref(struct ix_set *s); /* NULL is fine */
void ix_set_unref(struct ix_set *s, const struct ix_kind *k);
