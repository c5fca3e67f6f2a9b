/* SPDX-License-Identifier: Apache-2.0
 * mem.h: allocation and ownership helpers.
 *
 * The x*() family is for boot and control paths: when memory is exhausted it reports the size and
 * aborts. Sizes that a peer can influence use malloc() behind a named limit of lib/base/limits.h
 * and handle NULL.
 */
#pragma once
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "lib/base/attr.h"

void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t n, size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc_array(void *p, size_t n, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xstrndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));
/* Formats into fresh memory; the caller frees. */
char *xasprintf(const char *fmt, ...) _printf_(1, 2) __attribute__((malloc, returns_nonnull));

static inline void freep(void *pp)
{
	free(*(void **)pp);
}

/* Moves a pointer (or descriptor) out of a variable that would clean it up. */
#define take_ptr(p)                                                                                \
	({                                                                                         \
		typeof(p) taken_ = (p);                                                            \
		(p) = NULL;                                                                        \
		taken_;                                                                            \
	})
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* An arena holds things that die together (one request, one document, one configuration load). */
struct arena;
struct arena *arena_new(void) _must_check_;
/* NULL is fine. Returns NULL. */
struct arena *arena_free(struct arena *a);
void *arena_alloc(struct arena *a, size_t size) __attribute__((returns_nonnull)); /* zeroed */
char *arena_strndup(struct arena *a, const char *s, size_t n) __attribute__((returns_nonnull));
/* Everything in it is gone, a block of memory stays for what comes next. */
void arena_reset(struct arena *a);
size_t arena_bytes(const struct arena *a);
