/* SPDX-License-Identifier: Apache-2.0
 * hash.c: see hash.h. SipHash: Aumasson and Bernstein, 2012.
 */
#include "lib/base/hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

static uint64_t key[2];
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void key_init(void)
{
	bug_on(getrandom(key, sizeof(key), 0) != sizeof(key));
}

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND                                                                                      \
	do {                                                                                       \
		v0 += v1;                                                                          \
		v1 = ROTL(v1, 13) ^ v0;                                                            \
		v0 = ROTL(v0, 32);                                                                 \
		v2 += v3;                                                                          \
		v3 = ROTL(v3, 16) ^ v2;                                                            \
		v0 += v3;                                                                          \
		v3 = ROTL(v3, 21) ^ v0;                                                            \
		v2 += v1;                                                                          \
		v1 = ROTL(v1, 17) ^ v2;                                                            \
		v2 = ROTL(v2, 32);                                                                 \
	} while (0)

uint64_t hash_bytes(const void *data, size_t n)
{
	const unsigned char *p = data;
	uint64_t v0, v1, v2, v3, m, tail = (uint64_t)n << 56;

	pthread_once(&key_once, key_init);
	v0 = key[0] ^ 0x736f6d6570736575ull;
	v1 = key[1] ^ 0x646f72616e646f6dull;
	v2 = key[0] ^ 0x6c7967656e657261ull;
	v3 = key[1] ^ 0x7465646279746573ull;
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&m, p, 8);
		v3 ^= m;
		ROUND;
		ROUND;
		v0 ^= m;
	}
	for (size_t i = 0; i < n; i++)
		tail |= (uint64_t)p[i] << (8 * i);
	v3 ^= tail;
	ROUND;
	ROUND;
	v0 ^= tail;
	v2 ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}

void htab_init(struct htab *t)
{
	*t = (struct htab){0};
}

void htab_fini(struct htab *t)
{
	free(t->buckets);
	*t = (struct htab){0};
}

static void resize(struct htab *t, size_t size)
{
	struct hnode **old = t->buckets;
	size_t old_mask = t->mask;

	t->buckets = xcalloc(size, sizeof(struct hnode *));
	t->mask = size - 1;
	for (size_t b = 0; old != NULL && b <= old_mask; b++) {
		struct hnode *n = old[b];

		while (n != NULL) {
			struct hnode *next = n->next;

			n->next = t->buckets[n->hash & t->mask];
			t->buckets[n->hash & t->mask] = n;
			n = next;
		}
	}
	free(old);
}

void htab_insert(struct htab *t, struct hnode *n, uint64_t hash)
{
	if (t->buckets == NULL)
		resize(t, 8);
	else if (t->count > t->mask)
		resize(t, (t->mask + 1) * 2);
	n->hash = hash;
	n->next = t->buckets[hash & t->mask];
	t->buckets[hash & t->mask] = n;
	t->count++;
}

void htab_remove(struct htab *t, struct hnode *n)
{
	struct hnode **at;

	bug_on(t->buckets == NULL);
	for (at = &t->buckets[n->hash & t->mask]; *at != n; at = &(*at)->next)
		bug_on(*at == NULL);
	*at = n->next;
	t->count--;
}

struct hnode *htab_first(const struct htab *t, uint64_t hash)
{
	struct hnode *n = t->buckets != NULL ? t->buckets[hash & t->mask] : NULL;

	while (n != NULL && n->hash != hash)
		n = n->next;
	return n;
}

struct hnode *htab_next(const struct hnode *from)
{
	struct hnode *n = from->next;

	while (n != NULL && n->hash != from->hash)
		n = n->next;
	return n;
}
