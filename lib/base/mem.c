/* SPDX-License-Identifier: Apache-2.0
 * mem.c: allocation that reports and aborts, and arenas.
 */
#include "lib/base/mem.h"

#include <stdarg.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/bug.h"

static __attribute__((noreturn, cold)) void out_of_memory(size_t size)
{
	fprintf(stderr, "out of memory: %zu bytes\n", size);
	abort();
}

void *xmalloc(size_t size)
{
	void *p = malloc(size ? size : 1);

	if (p == NULL)
		out_of_memory(size);
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (p == NULL)
		out_of_memory(n * size);
	return p;
}

void *xrealloc_array(void *p, size_t n, size_t size)
{
	size_t bytes;

	bug_on(__builtin_mul_overflow(n, size, &bytes));
	p = realloc(p, bytes ? bytes : 1);
	if (p == NULL)
		out_of_memory(bytes);
	return p;
}

char *xstrndup(const char *s, size_t n)
{
	char *p;

	n = strnlen(s, n);
	p = xmalloc(n + 1);
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *xstrdup(const char *s)
{
	return xstrndup(s, strlen(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *p = NULL;

	va_start(ap, fmt);
	if (vasprintf(&p, fmt, ap) < 0)
		out_of_memory(0);
	va_end(ap);
	return p;
}

struct arena_block {
	struct arena_block *next;
	uint32_t used, size;
	alignas(max_align_t) char data[];
};

struct arena {
	struct arena_block *head;
	size_t bytes;
};

struct arena *arena_new(void)
{
	return xcalloc(1, sizeof(struct arena));
}

struct arena *arena_free(struct arena *a)
{
	if (a == NULL)
		return NULL;
	while (a->head != NULL) {
		struct arena_block *b = a->head;

		a->head = b->next;
		free(b);
	}
	free(a);
	return NULL;
}

/* Small at first: there is an arena for every workload of the mesh. Most fit into FIRST_BYTES, with
 * their texts packed; many of the others into SECOND_BYTES more. */
#define FIRST_BYTES  768
#define SECOND_BYTES 384
#define BLOCK_BYTES  4096

static struct arena_block *add_block(struct arena *a, size_t need)
{
	size_t total = a->bytes == 0		 ? FIRST_BYTES
		       : a->bytes == FIRST_BYTES ? SECOND_BYTES
						 : BLOCK_BYTES;
	size_t room = total - sizeof(struct arena_block);
	size_t cap = need > room ? need : room;
	struct arena_block *b;

	bug_on(cap > UINT32_MAX);
	b = xmalloc(sizeof(*b) + cap);
	b->size = (uint32_t)cap;
	b->used = 0;
	if (a->head != NULL && cap == need) { /* an odd one: keep filling the old block */
		b->next = a->head->next;
		a->head->next = b;
	} else {
		b->next = a->head;
		a->head = b;
	}
	a->bytes += sizeof(*b) + cap;
	return b;
}

/* @align: a power of two. */
static char *take(struct arena *a, size_t size, size_t align)
{
	struct arena_block *b = a->head;
	size_t at = b == NULL ? 0 : (b->used + align - 1) & ~(align - 1);

	if (b == NULL || at > b->size || b->size - at < size) {
		b = add_block(a, size);
		at = 0;
	}
	b->used = (uint32_t)(at + size);
	return b->data + at;
}

void *arena_alloc(struct arena *a, size_t size)
{
	return memset(take(a, size, alignof(max_align_t)), 0, size);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
	char *p;

	bug_on(n == SIZE_MAX);
	p = take(a, n + 1, 1);
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

void arena_reset(struct arena *a)
{
	struct arena_block *keep = a->head, *b = keep != NULL ? keep->next : NULL;

	while (b != NULL) {
		struct arena_block *next = b->next;

		free(b);
		b = next;
	}
	if (keep == NULL)
		return;
	keep->next = NULL;
	keep->used = 0;
	a->bytes = sizeof(*keep) + keep->size;
}

size_t arena_bytes(const struct arena *a)
{
	return a->bytes;
}
