/* SPDX-License-Identifier: Apache-2.0
 * test_pool.c: who shares a connection, who waits, and that nobody waits for nothing
 * (ztunnel-spec 7.3, 15.3). Everything below the pool is played here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "tests/unit/zt_helper.h"
#include "ztunnel/data/data.h"

#define A "spiffe://cluster.local/ns/default/sa/a"
#define B "spiffe://cluster.local/ns/default/sa/b"

static struct worker w;
static struct worker_config cfg;
static struct pod pod;
static uint32_t peer_max;
static unsigned int made, placed, failed, goaways;
static char last_error[256];
static enum conn_flag last_flag;
static void (*dialled)(struct dial *, int);
static struct hsess *last;

/* ---- what the pool stands on ---- */

struct hsess *hsess_new(struct pod *p, bool server)
{
	struct hsess *s = xcalloc(1, sizeof(*s));

	assert_false(server);
	s->magic = HSESS_MAGIC;
	s->state = HS_CONNECTING;
	s->pod = p;
	list_init(&s->conns);
	list_append(&p->sessions, &s->pod_node);
	made++;
	return last = s;
}

struct dial *dial_start(struct pod *p, struct leg *leg, const struct ip_port *dst,
			const struct ip_port *src, void (*done)(struct dial *, int), void *owner)
{
	struct dial *d = xcalloc(1, sizeof(*d));

	(void)dst;
	assert_null(src); /* outbound never uses another address */
	d->pod = p;
	d->leg = leg;
	d->owner = owner;
	leg->dial = d;
	dialled = done;
	return d;
}

struct dial *dial_free(struct dial *d)
{
	if (d != NULL)
		d->leg->dial = NULL;
	free(d);
	return NULL;
}

/* A gateway: what is asked of it, and how it fails (gateway.c is played as well). */
static unsigned int carried;
static const char *gateway_error;

void gateway_dial(struct hsess *s)
{
	carried++;
	assert_string_equal(s->slot->gateway, A);
	if (gateway_error != NULL)
		hsess_fail(s, FLAG_CONNECT, gateway_error);
}

static void opened(struct hsess *s)
{
	s->state = HS_OPEN;
	pool_session_open(s);
}

void hsess_connected(struct hsess *s)
{
	opened(s);
}

void hsess_fail(struct hsess *s, enum conn_flag flag, const char *error)
{
	s->state = HS_DEAD;
	dial_free(s->leg.dial);
	list_remove(&s->pod_node);
	loop_timer_cancel(&s->idle_timer);
	if (s->slot != NULL)
		pool_session_gone(s, flag, error);
}

void hsess_goaway(struct hsess *s)
{
	goaways++;
	s->retired = true;
}

void hsess_stream_gone(struct hsess *s)
{
	pool_room(s);
}

uint32_t h2_peer_max_streams(const struct h2 *h)
{
	(void)h;
	return peer_max;
}

void outbound_stream(struct conn *c, struct hsess *s)
{
	c->t.s = s;
	list_append(&s->conns, &c->t.sess_node);
	s->nconns++;
	loop_timer_cancel(&c->timer); /* a new limit, for the answer */
	placed++;
}

void conn_end(struct conn *c, enum conn_end how, enum conn_flag flag, const char *error)
{
	assert_int_equal(how, END_RESET);
	failed++;
	last_flag = flag;
	snprintf(last_error, sizeof(last_error), "%s", error);
	c->state = CS_DEAD;
	loop_timer_cancel(&c->timer);
	pool_forget(c);
}

/* ---- cases ---- */

static struct conn *ask(const char *identity, const char *addr)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	struct route r = {.kind = ROUTE_HBONE,
			  .dial = ip_port(addr),
			  .identities = {identity},
			  .nidentities = 1};

	c->magic = CONN_MAGIC;
	c->pod = &pod;
	c->tunnel = true;
	c->state = CS_WAITING;
	pool_get(c, &r);
	return c;
}

/* To another network: the gateway is A, who may answer is B. */
static struct conn *ask_beyond(const char *addr, struct service *inner)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	struct route r = {.kind = ROUTE_DOUBLE_HBONE,
			  .dial = ip_port(addr),
			  .identities = {A},
			  .nidentities = 1,
			  .inner = inner};

	c->magic = CONN_MAGIC;
	c->pod = &pod;
	c->tunnel = true;
	c->state = CS_WAITING;
	pool_get(c, &r);
	return c;
}

/* The stream ends in an ordinary way. */
static void finish(struct conn *c)
{
	struct hsess *s = c->t.s;

	pool_forget(c);
	list_remove(&c->t.sess_node);
	c->t.s = NULL;
	s->nconns--;
	hsess_stream_gone(s);
}

static void dial_ends(struct hsess *s, int error)
{
	dialled(s->leg.dial, error);
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	memset(&pod, 0, sizeof(pod));
	made = placed = failed = goaways = carried = 0;
	gateway_error = NULL;
	peer_max = 200;
	cfg = (struct worker_config){.pool_max_streams = 3, .pool_idle_ms = 100};
	w.cfg = &cfg;
	w.loop = loop_new();
	pod.magic = POD_MAGIC;
	pod.w = &w;
	list_init(&pod.sessions);
	htab_init(&pod.pool);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	while (!list_empty(&pod.sessions)) {
		struct hsess *s = container_of(pod.sessions.next, struct hsess, pod_node);

		s->nconns = 0;
		hsess_fail(s, FLAG_NONE, NULL);
		free(s);
	}
	assert_int_equal(pod.pool.count, 0); /* a slot lives no longer than its users */
	htab_fini(&pod.pool);
	loop_free(w.loop);
	return 0;
}

static void get__concurrent_share_one(void **state)
{
	struct conn *c[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		c[i] = ask(B, "10.0.0.2:15008");
	assert_int_equal(made, 1); /* one creator, two waiters */
	assert_int_equal(placed, 0);
	dial_ends(last, 0);
	assert_int_equal(placed, 3);
	for (int i = 0; i < 3; i++) {
		finish(c[i]);
		free(c[i]);
	}
}

static void get__over_the_limit_makes_another(void **state)
{
	struct conn *c[7];

	(void)state;
	for (int i = 0; i < 7; i++)
		c[i] = ask(B, "10.0.0.2:15008");
	assert_int_equal(made, 3); /* 7 streams, 3 each */
	while (placed < 7) {
		struct hsess *pending = NULL;

		list_for_each (n, &pod.sessions) {
			struct hsess *s = container_of(n, struct hsess, pod_node);

			if (s->state == HS_CONNECTING)
				pending = s;
		}
		assert_non_null(pending);
		dial_ends(pending, 0);
	}
	list_for_each (n, &pod.sessions)
		assert_true(container_of(n, struct hsess, pod_node)->nconns <= 3);
	for (int i = 0; i < 7; i++) {
		finish(c[i]);
		free(c[i]);
	}
}

/* Unlike stock (ztunnel-spec 17.11): a connection that was full serves again. */
static void get__full_one_is_used_again(void **state)
{
	struct conn *c[4];

	(void)state;
	c[0] = ask(B, "10.0.0.2:15008");
	dial_ends(last, 0);
	c[1] = ask(B, "10.0.0.2:15008");
	c[2] = ask(B, "10.0.0.2:15008");
	finish(c[0]);
	c[3] = ask(B, "10.0.0.2:15008");
	assert_int_equal(made, 1);
	assert_int_equal(placed, 4);
	for (int i = 0; i < 4; i++) {
		if (i != 0)
			finish(c[i]);
		free(c[i]);
	}
}

static void get__keys_are_apart(void **state)
{
	struct conn *c[3];

	(void)state;
	c[0] = ask(B, "10.0.0.2:15008");
	c[1] = ask(A, "10.0.0.2:15008");
	c[2] = ask(B, "10.0.0.3:15008");
	assert_int_equal(made, 3);
	for (int i = 0; i < 3; i++) {
		conn_end(c[i], END_RESET, FLAG_NONE, "x");
		free(c[i]);
	}
}

static void get__peer_limit_counts(void **state)
{
	struct conn *a, *b;

	(void)state;
	peer_max = 1;
	a = ask(B, "10.0.0.2:15008");
	dial_ends(last, 0);
	b = ask(B, "10.0.0.2:15008");
	assert_int_equal(made, 2);
	dial_ends(last, 0);
	assert_int_equal(placed, 2);
	finish(a);
	finish(b);
	free(a);
	free(b);
}

/* Stock leaves the waiters hanging (ztunnel-spec 17.12). */
static void fail__all_waiters_hear_it(void **state)
{
	struct conn *c[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		c[i] = ask(B, "10.0.0.2:15008");
	dial_ends(last, ECONNREFUSED);
	free(last);
	assert_int_equal(failed, 3);
	assert_int_equal(last_flag, FLAG_CONNECT);
	assert_string_equal(last_error, "io error: Connection refused (os error 111)");
	for (int i = 0; i < 3; i++)
		free(c[i]);
	assert_int_equal(pod.pool.count, 0);
}

static void fail__timeout_names_the_policy(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");

	(void)state;
	dial_ends(last, ETIMEDOUT);
	free(last);
	assert_int_equal(last_flag, FLAG_NETWORK_POLICY);
	assert_non_null(strstr(last_error, "maybe a NetworkPolicy is blocking HBONE port 15008"));
	free(c);
}

static void fail__peer_allows_no_streams(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");

	(void)state;
	peer_max = 0;
	dial_ends(last, 0);
	assert_int_equal(made, 1); /* and no second attempt, and a third ... */
	assert_int_equal(failed, 1);
	free(c);
}

static void retire__new_ones_go_elsewhere(void **state)
{
	struct conn *a, *b;
	struct hsess *old;

	(void)state;
	a = ask(B, "10.0.0.2:15008");
	old = last;
	dial_ends(last, 0);
	pool_retire(&pod);	      /* a new certificate */
	assert_int_equal(goaways, 0); /* the established stream stays */
	b = ask(B, "10.0.0.2:15008");
	assert_int_equal(made, 2);
	dial_ends(last, 0);
	assert_ptr_not_equal(b->t.s, old);
	finish(a);
	assert_int_equal(goaways, 1); /* its last stream is gone */
	finish(b);
	assert_int_equal(goaways, 1);
	free(a);
	free(b);
}

static void retry__once_and_elsewhere(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");
	struct hsess *first = last;

	(void)state;
	dial_ends(last, 0);
	assert_ptr_equal(c->t.s, first);
	assert_true(pool_retry(c));
	assert_true(first->retired);
	assert_int_equal(made, 2);
	dial_ends(last, 0);
	assert_ptr_equal(c->t.s, last);
	assert_false(pool_retry(c));
	finish(c);
	free(c);
}

static void retry__not_after_the_answer(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");

	(void)state;
	dial_ends(last, 0);
	pool_forget(c); /* answered */
	assert_false(pool_retry(c));
	finish(c);
	free(c);
}

static void idle__released_and_not_before(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");

	(void)state;
	dial_ends(last, 0);
	for (int i = 0; i < 5; i++) /* in use: no limit */
		loop_step(w.loop, 50);
	assert_int_equal(goaways, 0);
	finish(c);
	assert_true(timer_armed(&last->idle_timer));
	while (timer_armed(&last->idle_timer))
		loop_step(w.loop, 1000);
	assert_int_equal(goaways, 1);
	free(c);
}

/* Two connections that carry nothing, of @limit streams each; a burst needed both. */
static void two_idle(uint32_t limit, struct hsess *ret[2])
{
	struct conn *c[64];
	uint32_t n = limit + 1;

	assert_true(n <= ARRAY_LEN(c));
	cfg.pool_max_streams = limit;
	cfg.pool_idle_ms = 300000;
	for (uint32_t i = 0; i < n; i++) {
		c[i] = ask(B, "10.0.0.2:15008");
		if (made == i / limit + 1 && last->state == HS_CONNECTING)
			dial_ends(last, 0);
		ret[i / limit] = last;
	}
	assert_int_equal(made, 2);
	for (uint32_t i = 0; i < n; i++) {
		finish(c[i]);
		free(c[i]);
	}
}

static void time_comes(struct hsess *s)
{
	struct timer *t = &s->idle_timer;

	assert_true(timer_armed(t));
	loop_timer_cancel(t);
	t->fn(t);
}

static void idle__what_a_burst_needed_goes_soon(void **state)
{
	struct hsess *s[2];

	(void)state;
	two_idle(20, s);
	time_comes(s[0]);
	assert_true(s[0]->retired);
	assert_int_equal(goaways, 1);
	/* the other one is kept in its place, as long as if it had just been used */
	assert_true(s[1]->idle_timer.deadline_ms >= loop_now_ms(w.loop) + 297000);
	time_comes(s[1]);
	assert_int_equal(goaways, 2);
}

/* Alone it has nobody to take its place. */
static void idle__the_only_one_is_kept(void **state)
{
	struct conn *c = ask(B, "10.0.0.2:15008");

	(void)state;
	cfg.pool_max_streams = 20;
	cfg.pool_idle_ms = 300000;
	dial_ends(last, 0);
	finish(c);
	free(c);
	time_comes(last);
	assert_int_equal(goaways, 0);
	time_comes(last);
	assert_int_equal(goaways, 1);
}

static void idle__all_are_kept_where_each_carries_little(void **state)
{
	struct hsess *s[2];

	(void)state;
	two_idle(3, s);
	time_comes(s[0]);
	time_comes(s[1]);
	assert_int_equal(goaways, 0);
}

static void idle__kept_beside_one_that_is_busy_or_silent(void **state)
{
	struct hsess *s[2];

	(void)state;
	two_idle(20, s);
	s[1]->nconns = 11;
	time_comes(s[0]);
	s[1]->nconns = 0;
	s[1]->ping_out = true; /* the peer may be gone */
	pool_room(s[0]);
	time_comes(s[0]);
	assert_int_equal(goaways, 0);
	s[1]->ping_out = false;
	pool_room(s[0]);
	time_comes(s[0]);
	assert_int_equal(goaways, 1);
}

/* ztunnel-spec 4.7: never pooled; the identities are those inside, however many. */
static void gateway__one_session_each(void **state)
{
	struct service *inner = service_new();
	struct str sans[20];
	struct conn *a, *b;
	size_t lines = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sans); i++)
		sans[i] = STR(B);
	inner->subject_alt_names = sans;
	inner->nsans = ARRAY_LEN(sans);
	a = ask_beyond("10.0.0.9:15008", inner);
	b = ask_beyond("10.0.0.9:15008", inner);
	assert_int_equal(carried, 2);
	assert_int_equal(made, 2);
	assert_int_equal(pod.pool.count, 0); /* nobody else finds them */
	for (const char *p = last->slot->key; *p != '\0'; p++)
		lines += *p == '\n';
	assert_int_equal(lines, ARRAY_LEN(sans));
	opened(last);
	assert_ptr_equal(b->t.s, last);
	assert_null(a->t.s);
	finish(b);
	assert_int_equal(goaways, 1); /* not kept */
	conn_end(a, END_RESET, FLAG_NONE, "x");
	free(a);
	free(b);
	service_unref(inner);
}

static void gateway__its_reason_is_ours(void **state)
{
	struct service *inner = service_new();
	struct str san = STR(B);
	struct conn *c;

	(void)state;
	inner->subject_alt_names = &san;
	inner->nsans = 1;
	gateway_error = "http status: 503 Service Unavailable";
	c = ask_beyond("10.0.0.9:15008", inner);
	free(last);
	assert_int_equal(failed, 1);
	assert_string_equal(last_error, gateway_error);
	free(c);
	service_unref(inner);
}

/* Carriers share the connection to the gateway, also with whom that is the destination. */
static void gateway__carriers_share(void **state)
{
	struct conn *direct = ask(A, "10.0.0.9:15008"), *k = xcalloc(1, sizeof(*k));
	struct ip_port addr = ip_port("10.0.0.9:15008");

	(void)state;
	k->magic = CONN_MAGIC;
	k->pod = &pod;
	k->tunnel = true;
	k->kind = CONN_CARRIER;
	k->state = CS_WAITING;
	pool_get_gateway(k, A, &addr);
	assert_int_equal(made, 1);
	dial_ends(last, 0);
	assert_ptr_equal(k->t.s, direct->t.s);
	finish(k);
	finish(direct);
	free(k);
	free(direct);
}

/* A peer that takes its time with every handshake and then allows one stream each must not keep
 * the others for ever. */
static void wait__limited(void **state)
{
	struct conn *a = ask(B, "10.0.0.2:15008"), *b = ask(B, "10.0.0.2:15008");

	(void)state;
	peer_max = 1;
	dial_ends(last, 0);
	assert_int_equal(placed, 1);
	assert_null(b->t.s);
	assert_true(timer_armed(&b->timer));
	assert_in_range(b->timer.deadline_ms - loop_now_ms(w.loop), 1,
			LIMIT_CONNECT_MS + 2 * LIMIT_TLS_HANDSHAKE_MS);
	b->timer.fn(&b->timer);
	assert_int_equal(failed, 1);
	assert_non_null(strstr(last_error, "no HBONE connection in time"));
	finish(a);
	free(a);
	free(b);
}

static void wait__given_up(void **state)
{
	struct conn *a = ask(B, "10.0.0.2:15008"), *b = ask(B, "10.0.0.2:15008");

	(void)state;
	conn_end(a, END_RESET, FLAG_CONNECT, "client went away");
	dial_ends(last, 0);
	assert_int_equal(placed, 1);
	assert_non_null(b->t.s);
	finish(b);
	free(a);
	free(b);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	static const struct CMUnitTest t[] = {
		CASE(get__concurrent_share_one),
		CASE(get__over_the_limit_makes_another),
		CASE(get__full_one_is_used_again),
		CASE(get__keys_are_apart),
		CASE(get__peer_limit_counts),
		CASE(fail__all_waiters_hear_it),
		CASE(fail__timeout_names_the_policy),
		CASE(fail__peer_allows_no_streams),
		CASE(retire__new_ones_go_elsewhere),
		CASE(retry__once_and_elsewhere),
		CASE(retry__not_after_the_answer),
		CASE(idle__released_and_not_before),
		CASE(idle__what_a_burst_needed_goes_soon),
		CASE(idle__the_only_one_is_kept),
		CASE(idle__all_are_kept_where_each_carries_little),
		CASE(idle__kept_beside_one_that_is_busy_or_silent),
		CASE(gateway__one_session_each),
		CASE(gateway__its_reason_is_ours),
		CASE(gateway__carriers_share),
		CASE(wait__limited),
		CASE(wait__given_up),
	};

	return cmocka_run_group_tests_name("pool", t, NULL, NULL);
}
