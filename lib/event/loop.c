/* SPDX-License-Identifier: Apache-2.0
 * loop.c: see loop.h.
 *
 * Timers: a wheel of WHEEL_SLOTS lists, one per tick of LOOP_TICK_MS; a timer farther away than one
 * turn stays in its slot until its turn comes. A bitmap of used slots gives the next wake-up. The
 * mailbox is a lock-free stack (multi-producer), reversed by the owner; the eventfd is written only
 * on the change from empty to not empty.
 */
#include "lib/event/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"

#define WHEEL_SLOTS 1024
#define BATCH	    256

struct loop {
	int epfd, wakefd;
	uint64_t now_ns, events;
	uint64_t tick; /* last tick whose slot was expired */
	bool stop;
	size_t timers;
	struct list wheel[WHEEL_SLOTS];
	struct list ready;
	struct deferred *deferred;
	struct watch wake;
	_Atomic(struct msg *) mailbox;
	atomic_bool stop_async;
};

static void on_wake(struct watch *w, uint32_t events)
{
	uint64_t v;

	(void)events;
	if (read(w->fd, &v, sizeof(v)) < 0)
		return; /* EAGAIN: another wake-up already took it */
}

static void read_clock(struct loop *l)
{
	l->now_ns = clock_mono_ns();
}

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof(*l));

	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bug_on(l->epfd < 0 || l->wakefd < 0);
	for (size_t i = 0; i < WHEEL_SLOTS; i++)
		list_init(&l->wheel[i]);
	list_init(&l->ready);
	read_clock(l);
	l->tick = l->now_ns / 1000000 / LOOP_TICK_MS;
	bug_on(loop_watch(l, &l->wake, l->wakefd, EPOLLIN, on_wake) < 0);
	return l;
}

static void run_mailbox(struct loop *l)
{
	/* acquire pairs with the release of loop_post() */
	struct msg *m = atomic_exchange_explicit(&l->mailbox, NULL, memory_order_acquire),
		   *rev = NULL;

	while (m != NULL) {
		struct msg *next = m->next;

		m->next = rev;
		rev = m;
		m = next;
	}
	while (rev != NULL) {
		struct msg *next = rev->next;

		rev->fn(l, rev);
		rev = next;
	}
}

static void run_deferred(struct loop *l)
{
	while (l->deferred != NULL) {
		struct deferred *d = l->deferred;

		l->deferred = d->next;
		d->fn(d);
	}
}

struct loop *loop_free(struct loop *l)
{
	if (l == NULL)
		return NULL;
	run_mailbox(l);
	run_deferred(l);
	(void)xclose(l->epfd);
	(void)xclose(l->wakefd);
	free(l);
	return NULL;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ns / 1000000;
}

uint64_t loop_now_ns(const struct loop *l)
{
	return l->now_ns;
}

uint64_t loop_events(const struct loop *l)
{
	return l->events;
}

int loop_watch(struct loop *l, struct watch *w, int fd, uint32_t events,
	       void (*fn)(struct watch *, uint32_t))
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	bug_on(w->added);
	w->fn = fn;
	w->fd = fd;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	w->added = true;
	return 0;
}

int loop_rewatch(struct loop *l, struct watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	bug_on(!w->added);
	return epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0 ? -errno : 0;
}

void loop_unwatch(struct loop *l, struct watch *w)
{
	if (!w->added)
		return;
	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	w->added = false;
}

void loop_timer_set(struct loop *l, struct timer *t, uint64_t delay_ms, void (*fn)(struct timer *))
{
	uint64_t tick;

	loop_timer_cancel(t);
	t->fn = fn;
	t->deadline_ms = loop_now_ms(l) + delay_ms;
	if (t->deadline_ms == 0)
		t->deadline_ms = 1;
	tick = (t->deadline_ms + LOOP_TICK_MS - 1) / LOOP_TICK_MS;
	if (tick <= l->tick)
		tick = l->tick + 1;
	list_append(&l->wheel[tick % WHEEL_SLOTS], &t->node);
}

void loop_timer_cancel(struct timer *t)
{
	if (t->deadline_ms == 0)
		return;
	list_remove(&t->node);
	t->deadline_ms = 0;
}

/* Milliseconds until the next used slot, -1 without timers. */
static int next_timer_ms(const struct loop *l)
{
	for (uint64_t i = 1; i <= WHEEL_SLOTS; i++) {
		uint64_t tick = l->tick + i;

		if (!list_empty(&l->wheel[tick % WHEEL_SLOTS])) {
			uint64_t at_ns = tick * LOOP_TICK_MS * 1000000, now = clock_mono_ns();

			return at_ns <= now ? 0 : (int)((at_ns - now + 999999) / 1000000);
		}
	}
	return -1;
}

static void run_timers(struct loop *l)
{
	uint64_t target = loop_now_ms(l) / LOOP_TICK_MS;

	if (target > l->tick + WHEEL_SLOTS) /* after a long sleep one turn visits every slot */
		l->tick = target - WHEEL_SLOTS;
	while (l->tick < target) {
		struct list due, *n;

		l->tick++;
		list_init(&due);
		list_splice(&due, &l->wheel[l->tick % WHEEL_SLOTS]);
		while ((n = list_pop(&due)) != NULL) {
			struct timer *t = container_of(n, struct timer, node);

			if (t->deadline_ms > l->tick * LOOP_TICK_MS) { /* a later turn */
				list_append(&l->wheel[l->tick % WHEEL_SLOTS], &t->node);
				continue;
			}
			t->deadline_ms = 0;
			t->fn(t);
		}
	}
}

static void run_ready(struct loop *l)
{
	struct list now, *n;

	list_init(&now);
	list_splice(&now, &l->ready);
	while ((n = list_pop(&now)) != NULL) {
		struct ready *r = container_of(n, struct ready, node);

		r->fn(r);
	}
}

void loop_step(struct loop *l, int max_wait_ms)
{
	struct epoll_event ev[BATCH];
	int wait = 0, n;

	if (list_empty(&l->ready) && l->deferred == NULL &&
	    atomic_load_explicit(&l->mailbox, memory_order_acquire) == NULL) {
		wait = next_timer_ms(l);
		if (max_wait_ms >= 0 && (wait < 0 || wait > max_wait_ms))
			wait = max_wait_ms;
	}
	n = epoll_wait(l->epfd, ev, BATCH, wait);
	bug_on(n < 0 && errno != EINTR);
	read_clock(l);
	l->events += n > 0 ? (uint64_t)n : 0;
	for (int i = 0; i < n; i++) {
		struct watch *w = ev[i].data.ptr;

		if (w->added)
			w->fn(w, ev[i].events);
	}
	run_ready(l);
	run_mailbox(l);
	run_timers(l);
	run_deferred(l);
	if (atomic_load_explicit(&l->stop_async, memory_order_acquire))
		l->stop = true;
}

void loop_run(struct loop *l)
{
	l->stop = false;
	while (!l->stop)
		loop_step(l, -1);
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}

static void wake(struct loop *l)
{
	uint64_t one = 1;

	while (write(l->wakefd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void loop_stop_async(struct loop *l)
{
	atomic_store_explicit(&l->stop_async, true, memory_order_release);
	wake(l);
}

void loop_post(struct loop *l, struct msg *m)
{
	struct msg *old = atomic_load_explicit(&l->mailbox, memory_order_relaxed);

	do
		m->next = old;
	while (!atomic_compare_exchange_weak_explicit(&l->mailbox, &old, m, memory_order_release,
						      memory_order_relaxed));
	if (old == NULL)
		wake(l);
}

void loop_ready(struct loop *l, struct ready *r)
{
	if (!list_linked(&r->node))
		list_append(&l->ready, &r->node);
}

void loop_ready_cancel(struct ready *r)
{
	list_remove(&r->node);
}

void loop_defer(struct loop *l, struct deferred *d, void (*fn)(struct deferred *))
{
	d->fn = fn;
	d->next = l->deferred;
	l->deferred = d;
}
