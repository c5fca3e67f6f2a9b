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
	size_t used, size;
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

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_block *b = a->head;
	size_t need = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);

	bug_on(need < size);
	if (b == NULL || b->size - b->used < need) {
		/* small first: one arena per workload must not cost a page each */
		size_t room = (a->bytes == 0 ? 1024 : 4096) - sizeof(*b);
		size_t cap = need > room ? need : room;

		b = xmalloc(sizeof(*b) + cap);
		b->size = cap;
		b->used = 0;
		if (a->head != NULL && cap == need) { /* an odd one: keep filling the old block */
			b->next = a->head->next;
			a->head->next = b;
		} else {
			b->next = a->head;
			a->head = b;
		}
		a->bytes += sizeof(*b) + cap;
	}
	b->used += need;
	return memset(b->data + b->used - need, 0, need);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
	char *p = arena_alloc(a, n + 1);

	memcpy(p, s, n);
	return p;
}

size_t arena_bytes(const struct arena *a)
{
	return a->bytes;
}
