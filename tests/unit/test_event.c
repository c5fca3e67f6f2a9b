/* SPDX-License-Identifier: Apache-2.0
 * test_event.c: the loop driven by hand: timers, mailbox order, ready list, deferred frees.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/event/loop.h"
#include "lib/event/signals.h"
#include "lib/os/clock.h"

static int fired;

static void on_timer(struct timer *t)
{
	(void)t;
	fired++;
}

static void timer__never_early_and_once(void **state)
{
	struct loop *l = loop_new();
	struct timer t = {0}, far = {0}, cancelled = {0};
	uint64_t start = clock_mono_ms();

	(void)state;
	fired = 0;
	loop_timer_set(l, &t, 30, on_timer);
	loop_timer_set(l, &far, 60 * 60 * 1000, on_timer);
	loop_timer_set(l, &cancelled, 10, on_timer);
	loop_timer_cancel(&cancelled);
	while (fired == 0 && clock_mono_ms() - start < 5000)
		loop_step(l, 1000);
	assert_int_equal(fired, 1);
	assert_true(clock_mono_ms() - start >= 30);
	assert_false(timer_armed(&t));
	assert_true(timer_armed(&far));
	loop_timer_cancel(&far);
	loop_free(l);
}

static void timer__long_delay_survives_wheel_turns(void **state)
{
	struct loop *l = loop_new();
	struct timer far = {0}, near = {0};

	(void)state;
	fired = 0;
	/* same slot, one turn apart */
	loop_timer_set(l, &far, 1024 * LOOP_TICK_MS + 16, on_timer);
	loop_timer_set(l, &near, 16, on_timer);
	for (int i = 0; i < 20 && fired == 0; i++)
		loop_step(l, 10);
	assert_int_equal(fired, 1);
	assert_true(timer_armed(&far));
	loop_timer_cancel(&far);
	loop_free(l);
}

struct note {
	struct msg msg;
	int value;
};
static int got[4], ngot;

static void on_msg(struct loop *l, struct msg *m)
{
	(void)l;
	got[ngot++] = container_of(m, struct note, msg)->value;
}

static void mailbox__keeps_order(void **state)
{
	struct loop *l = loop_new();
	struct note n[4];

	(void)state;
	ngot = 0;
	for (int i = 0; i < 4; i++) {
		n[i].msg.fn = on_msg;
		n[i].value = i;
		loop_post(l, &n[i].msg);
	}
	loop_step(l, 1000);
	assert_int_equal(ngot, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(got[i], i);
	loop_free(l);
}

struct pipe_end {
	struct watch w;
	struct loop *l;
	struct pipe_end *other;
	int events;
};

static void on_pipe(struct watch *w, uint32_t ev)
{
	struct pipe_end *p = container_of(w, struct pipe_end, w);

	(void)ev;
	p->events++;
	/* remove the other one, which is ready in the same batch: it must not be called */
	loop_unwatch(p->l, &p->other->w);
	loop_unwatch(p->l, &p->w);
}

static void watch__removed_in_batch_gets_no_event(void **state)
{
	struct loop *l = loop_new();
	struct pipe_end a = {.l = l}, b = {.l = l};
	int pa[2], pb[2];

	(void)state;
	assert_int_equal(pipe(pa), 0);
	assert_int_equal(pipe(pb), 0);
	a.other = &b;
	b.other = &a;
	assert_int_equal(loop_watch(l, &a.w, pa[0], EPOLLIN, on_pipe), 0);
	assert_int_equal(loop_watch(l, &b.w, pb[0], EPOLLIN, on_pipe), 0);
	assert_int_equal(write(pa[1], "x", 1), 1);
	assert_int_equal(write(pb[1], "x", 1), 1);
	loop_step(l, 1000);
	loop_step(l, 0);
	assert_int_equal(a.events + b.events, 1);
	for (int i = 0; i < 2; i++) {
		close(pa[i]);
		close(pb[i]);
	}
	loop_free(l);
}

struct caught {
	struct signals s;
	int n, last;
};

static void on_signal(struct signals *s, int signo)
{
	struct caught *c = container_of(s, struct caught, s);

	c->n++;
	c->last = signo;
}

static void signals__come_as_events_until_unwatched(void **state)
{
	struct loop *l = loop_new();
	struct caught c = {0};
	struct err err = {0};
	sigset_t set, pending;
	int fd;

	(void)state;
	signals_unwatch(l, &c.s); /* nothing to undo */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	assert_int_equal(signals_watch(l, &c.s, &set, on_signal, &err), 0);
	fd = c.s.w.fd;
	assert_int_equal(raise(SIGUSR1), 0);
	loop_step(l, 1000);
	assert_int_equal(c.n, 1);
	assert_int_equal(c.last, SIGUSR1);
	assert_int_equal(raise(SIGUSR1), 0);
	assert_int_equal(raise(SIGUSR2), 0);
	loop_step(l, 1000);
	assert_int_equal(c.n, 3);
	assert_int_equal(c.last, SIGUSR2);
	signals_unwatch(l, &c.s);
	signals_unwatch(l, &c.s);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(raise(SIGUSR2), 0); /* still blocked */
	loop_step(l, 0);
	assert_int_equal(c.n, 3);
	assert_int_equal(sigpending(&pending), 0);
	assert_true(sigismember(&pending, SIGUSR2));
	loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signals__come_as_events_until_unwatched),
		cmocka_unit_test(timer__never_early_and_once),
		cmocka_unit_test(timer__long_delay_survives_wheel_turns),
		cmocka_unit_test(mailbox__keeps_order),
		cmocka_unit_test(watch__removed_in_batch_gets_no_event),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
