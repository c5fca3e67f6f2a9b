/* SPDX-License-Identifier: Apache-2.0
 * loop.h: one event loop per thread: descriptors, timers, a mailbox, deferred frees, a ready list.
 *
 * Theory of operation. One iteration is: epoll_wait -> read the clock once -> I/O callbacks ->
 * ready list -> mailbox -> timers -> deferred frees. Everything here belongs to the loop's own
 * thread, except loop_post() and loop_stop_async(), which any thread may call. Nothing that a
 * callback frees may be reachable from the current batch: unwatch the descriptor, cancel the
 * timers, then loop_defer() the free. A watch that was removed during a batch gets no event of that
 * batch any more.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include "lib/base/attr.h"
#include "lib/base/list.h"

struct loop;

/* A watched descriptor. Embed it; recover your object with container_of. */
struct watch {
	void (*fn)(struct watch *w, uint32_t events);
	int fd;
	bool added;
};

/* A timer. Embed it. */
struct timer {
	void (*fn)(struct timer *t);
	uint64_t deadline_ms; /* loop_now_ms() time; 0 when not armed */
	struct list node;
};

/* A message to another loop. Embed it in a heap object; the receiver owns it from loop_post() on.
 */
struct msg {
	void (*fn)(struct loop *l, struct msg *m);
	struct msg *next;
};

/* Work to go on with in the next iteration, without waiting for an event. */
struct ready {
	void (*fn)(struct ready *r);
	struct list node;
};

struct deferred {
	void (*fn)(struct deferred *d);
	struct deferred *next;
};

struct loop *loop_new(void) _must_check_; /* aborts when the kernel refuses epoll or eventfd */
struct loop *loop_free(struct loop *l); /* runs what is deferred and in the mailbox; returns NULL */
void loop_run(struct loop *l);		/* until loop_stop() */
/* One iteration, waiting at most @max_wait_ms (-1: until something happens). For tests. */
void loop_step(struct loop *l, int max_wait_ms);
void loop_stop(struct loop *l);
void loop_stop_async(struct loop *l); /* any thread */

/* Cached time of this iteration (CLOCK_MONOTONIC). */
uint64_t loop_now_ms(const struct loop *l);
uint64_t loop_now_ns(const struct loop *l);
/* How many events of descriptors were there since the start. */
uint64_t loop_events(const struct loop *l);

/* @events: EPOLLIN etc., EPOLLET and EPOLLEXCLUSIVE allowed. The descriptor stays the caller's.
 * Returns 0 or -errno. */
int loop_watch(struct loop *l, struct watch *w, int fd, uint32_t events,
	       void (*fn)(struct watch *, uint32_t)) _must_check_;
int loop_rewatch(struct loop *l, struct watch *w, uint32_t events) _must_check_;
/* Safe when not added. Does not close. */
void loop_unwatch(struct loop *l, struct watch *w);

/* (Re)arms; granularity is LOOP_TICK_MS, never early. */
#define LOOP_TICK_MS 8
void loop_timer_set(struct loop *l, struct timer *t, uint64_t delay_ms, void (*fn)(struct timer *));
void loop_timer_cancel(struct timer *t); /* safe when not armed */
static inline bool timer_armed(const struct timer *t)
{
	return t->deadline_ms != 0;
}

void loop_post(struct loop *l, struct msg *m);	  /* any thread */
void loop_ready(struct loop *l, struct ready *r); /* idempotent while queued */
void loop_ready_cancel(struct ready *r);
void loop_defer(struct loop *l, struct deferred *d, void (*fn)(struct deferred *));
