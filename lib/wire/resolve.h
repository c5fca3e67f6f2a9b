/* SPDX-License-Identifier: Apache-2.0
 * resolve.h: a host name to addresses without blocking the loop.
 *
 * Theory of operation. The C library's resolver blocks, for many seconds when a name server is
 * away, so it runs in a detached helper thread that shares one counted object with the loop: the
 * thread writes the answer there and rings an eventfd. Whoever lets go last frees it, so a lookup
 * that is given up costs nothing but the thread's remaining time. At most RESOLVE_THREADS_MAX
 * lookups of the process run at once. IP literals need no thread.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/format/ip.h"

struct err;
struct loop;
struct resolve;

#define RESOLVE_ADDRS_MAX   16
#define RESOLVE_THREADS_MAX 32

struct resolve_answer {
	struct ip_addr addr[RESOLVE_ADDRS_MAX]; /* in the order of preference */
	size_t n;
	uint32_t ttl_s; /* n != 0, @lookup given: how long they hold */
	bool none;	/* n == 0: it is known that there are none; else nobody could tell */
	char why[128];	/* n == 0 */
};
/* @done runs once from the loop, never before this returns, unless resolve_cancel() came first. The
 * lookup is over then (do not cancel it). @lookup runs in the helper thread and fills in what is
 * zeroed; NULL: as the system does. An IP literal holds for UINT32_MAX seconds. NULL with @err when
 * none can be started. */
struct resolve *resolve_start(struct loop *l, const char *host,
			      void (*lookup)(const char *host, struct resolve_answer *ret),
			      void (*done)(void *ctx, const struct resolve_answer *a), void *ctx,
			      struct err *err) _must_check_;
struct resolve *resolve_cancel(struct resolve *r); /* NULL is fine; returns NULL */
