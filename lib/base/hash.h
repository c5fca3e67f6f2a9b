/* SPDX-License-Identifier: Apache-2.0
 * hash.h: SipHash-2-4 with a key chosen at start (peers can choose our keys, not our buckets), and
 * an intrusive chained hash table. Not thread-safe.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

uint64_t hash_bytes(const void *p, size_t n);
static inline uint64_t hash_str(struct str s)
{
	return hash_bytes(s.p, s.n);
}
/* Continues a hash with more data: order matters. */
static inline uint64_t hash_mix(uint64_t h, uint64_t more)
{
	h ^= more + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
	return h * 0xff51afd7ed558ccdull;
}

struct hnode {
	struct hnode *next;
	uint64_t hash;
};
struct htab {
	struct hnode **buckets;
	size_t mask, count;
};
void htab_init(struct htab *t);
void htab_fini(struct htab *t); /* frees the buckets; the nodes are the caller's */
void htab_insert(struct htab *t, struct hnode *n, uint64_t hash);
void htab_remove(struct htab *t, struct hnode *n); /* must be in @t */
/* First node with @hash, then the next one with the same hash; compare keys yourself. */
struct hnode *htab_first(const struct htab *t, uint64_t hash);
struct hnode *htab_next(const struct hnode *n);
/* Every node; removal of the current one is allowed. */
#define htab_for_each(it, t)                                                                       \
	for (size_t it##_b = 0; (t)->buckets != NULL && it##_b <= (t)->mask; it##_b++)             \
		for (struct hnode *it = (t)->buckets[it##_b],                                      \
				  *it##_n = it != NULL ? it->next : NULL;                          \
		     it != NULL; it = it##_n, it##_n = it != NULL ? it->next : NULL)
