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
#include <stddef.h>
#include "lib/format/ip.h"

struct err;
struct loop;
struct resolve;

#define RESOLVE_ADDRS_MAX   8
#define RESOLVE_THREADS_MAX 4

/* @done runs once from the loop, never before this returns, unless resolve_cancel() came first:
 * with @n addresses in the system's order of preference, or with n == 0 and @why. The lookup is
 * over then (do not cancel it). NULL with @err when none can be started. */
struct resolve *resolve_start(struct loop *l, const char *host,
			      void (*done)(void *ctx, const struct ip_addr *addr, size_t n,
					   const char *why),
			      void *ctx, struct err *err) _must_check_;
struct resolve *resolve_cancel(struct resolve *r); /* NULL is fine; returns NULL */
