/* SPDX-License-Identifier: Apache-2.0
 * ring.c: see ring.h.
 */
#include "ztunnel/observe/ring.h"

#include <assert.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

#define UNIT 32

struct rec_head {
	alignas(UNIT) size_t total; /* this head included, a multiple of UNIT */
	size_t n;
	bool filler;
};
/* Positions are multiples of the head's size, so that a head, also a filler's, always fits before
 * the end of the ring. */
static_assert(sizeof(struct rec_head) == UNIT, "see above");
#define ROUND_UP(n) (((n) + UNIT - 1) & ~(size_t)(UNIT - 1))

void ring_init(struct ring *r, size_t size)
{
	bug_on((size & (size - 1)) != 0);
	*r = (struct ring){.data = aligned_alloc(UNIT, size), .size = size};
	bug_on(r->data == NULL);
}

void ring_fini(struct ring *r)
{
	free(r->data);
	r->data = NULL;
}

static struct rec_head *at(const struct ring *r, size_t pos)
{
	return (struct rec_head *)(void *)(r->data + (pos & (r->size - 1)));
}

void *ring_reserve(struct ring *r, size_t n)
{
	size_t total = sizeof(struct rec_head) + ROUND_UP(n);
	size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	/* pairs with the release in ring_release() */
	size_t room = r->size - (head - atomic_load_explicit(&r->tail, memory_order_acquire));
	size_t to_end = r->size - (head & (r->size - 1));

	if (total > to_end) {
		if (total + to_end > room)
			return NULL;
		at(r, head)->total = to_end;
		at(r, head)->filler = true;
		head += to_end;
		/* pairs with the acquire in ring_peek() */
		atomic_store_explicit(&r->head, head, memory_order_release);
	} else if (total > room) {
		return NULL;
	}
	*at(r, head) = (struct rec_head){.total = total, .n = n};
	return at(r, head) + 1;
}

void ring_commit(struct ring *r)
{
	size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	/* pairs with the acquire in ring_peek() */
	atomic_store_explicit(&r->head, head + at(r, head)->total, memory_order_release);
}

void *ring_peek(struct ring *r, size_t *ret_n)
{
	for (;;) {
		size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
		struct rec_head *h;

		if (tail == atomic_load_explicit(&r->head, memory_order_acquire))
			return NULL;
		h = at(r, tail);
		if (!h->filler) {
			*ret_n = h->n;
			return h + 1;
		}
		ring_release(r);
	}
}

void ring_release(struct ring *r)
{
	size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	/* pairs with the acquire in ring_reserve() */
	atomic_store_explicit(&r->tail, tail + at(r, tail)->total, memory_order_release);
}
