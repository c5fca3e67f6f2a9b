/* SPDX-License-Identifier: Apache-2.0
 * certs.c: see certs.h.
 *
 *   Initializing --issued--> Available --half of the rest of its life--> (asked again, stays
 * Available)
 *        \--failed--> Unavailable --back-off--> (asked again)
 *
 * An answer of the CA may arrive after the entry was forgotten: the request is an object of its own
 * that loses its entry then. Requests are started by one piece of ready work and by nothing else, a
 * few in a turn: a CA that answers at once, thousands of times, neither recurses nor keeps the
 * loop.
 */
#include "ztunnel/control/certs.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base/bug.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"

#define RETRY_FIRST_MS	1000
#define RETRY_MAX_MS	150000
#define RENEW_MIN_MS	250
#define ROOTS_SPREAD_MS 10000
#define ROOTS_AGAIN_MS	(10 * 60 * 1000)
#define WAITED_RETRY_MS 15000 /* the longest back-off while a connection waits */
#define BACK_SPREAD_MS	1000  /* the CA answers again: when the others are asked for */
#define STARTS_PER_TURN 16
#define RENEW_MAX_MS	(24ull * 3600 * 1000) /* look again at least once a day */

struct request {
	struct list node;
	struct certs *certs;	  /* NULL: gone meanwhile */
	struct cert_entry *entry; /* NULL: forgotten meanwhile */
};

struct cert_entry {
	struct hnode h;
	struct certs *certs;
	char *spiffe;
	struct tls_identity *id;
	enum cert_state state;
	char *error;
	struct list subs;
	struct timer timer;
	struct request *request;
	struct list queued; /* waits for its turn */
	bool waited;	    /* connections wait for it */
	unsigned int from;
	uint64_t retry_ms;
	uint64_t roots_asked_ms; /* when it was last renewed because of other roots; 0: never */
};

enum { QUEUE_WAITED, QUEUE_FIRST, QUEUE_RENEW, QUEUE_N };

struct certs {
	struct loop *loop;
	struct ca *ca;
	struct htab table;
	struct list requests;	    /* under way */
	unsigned int busy;	    /* number of them */
	struct list queue[QUEUE_N]; /* entries that wait for their turn, in their order */
	struct ready pump;	    /* starts what waits, as far as the limit allows */
	bool failing;		    /* the last answer was none */
	void (*on_issued)(void *ctx, struct tls_identity *id);
	void *ctx;
};

static void on_pump(struct ready *r);

struct certs *certs_new(struct loop *l, struct ca *ca)
{
	struct certs *c = xcalloc(1, sizeof(*c));

	c->loop = l;
	c->ca = ca;
	htab_init(&c->table);
	for (int i = 0; i < QUEUE_N; i++)
		list_init(&c->queue[i]);
	list_init(&c->requests);
	c->pump.fn = on_pump;
	return c;
}

static void entry_free(struct cert_entry *e)
{
	bug_on(!list_empty(&e->subs));
	if (e->request != NULL)
		e->request->entry = NULL;
	loop_timer_cancel(&e->timer);
	list_remove(&e->queued);
	htab_remove(&e->certs->table, &e->h);
	if (e->id != NULL)
		tls_identity_unref(e->id);
	free(e->spiffe);
	free(e->error);
	free(e);
}

struct certs *certs_free(struct certs *c)
{
	if (c == NULL)
		return NULL;
	htab_for_each (n, &c->table)
		entry_free(container_of(n, struct cert_entry, h));
	htab_fini(&c->table);
	loop_ready_cancel(&c->pump);
	while (!list_empty(&c->requests))
		container_of(list_pop(&c->requests), struct request, node)->certs = NULL;
	free(c);
	return NULL;
}

static void ask(struct cert_entry *e);

static void drop_expired(struct cert_entry *e);

static void on_timer(struct timer *t)
{
	struct cert_entry *e = container_of(t, struct cert_entry, timer);

	drop_expired(e);
	ask(e);
}

/* 90 to 110 percent. */
static uint64_t jitter(uint64_t ms)
{
	return ms / 10 * 9 + rand_u64() % (ms / 5 + 1);
}

/* Seconds that it is valid for; 0: it has expired. */
static uint64_t left_s(const struct tls_identity *id)
{
	time_t left = tls_identity_not_after(id) - time(NULL);

	return left > 0 ? (uint64_t)left : 0;
}

static uint64_t renew_delay_ms(const struct tls_identity *id)
{
	uint64_t half = left_s(id) * 1000 / 2;

	if (half < RENEW_MIN_MS)
		return RENEW_MIN_MS; /* never a busy loop, also with odd dates (spec 17, item 35) */
	return half > RENEW_MAX_MS ? RENEW_MAX_MS : jitter(half);
}

/* The CA has rotated its roots: others are renewed within a minute, each at most once in a while,
 * should two CAs contradict each other. */
static void spread_roots(struct cert_entry *e)
{
	const char *roots = tls_identity_roots_pem(e->id);
	uint64_t now = loop_now_ms(e->certs->loop);
	unsigned int n = 0;

	htab_for_each (it, &e->certs->table) {
		struct cert_entry *o = container_of(it, struct cert_entry, h);

		if (o == e || o->id == NULL || o->request != NULL || list_linked(&o->queued) ||
		    (o->roots_asked_ms != 0 && now - o->roots_asked_ms < ROOTS_AGAIN_MS) ||
		    tls_identity_not_before(o->id) > tls_identity_not_before(e->id) ||
		    strcmp(tls_identity_roots_pem(o->id), roots) == 0)
			continue;
		o->roots_asked_ms = now + 1;
		loop_timer_set(e->certs->loop, &o->timer, rand_u64() % ROOTS_SPREAD_MS, on_timer);
		n++;
	}
	if (n != 0)
		log_info("certs", "the CA has other roots: %u certificates are renewed soon", n);
}

static void tell(struct cert_entry *e)
{
	list_for_each (n, &e->subs) {
		struct cert_sub *s = container_of(n, struct cert_sub, node);

		s->fn(s, e->id);
	}
}

/* What nobody accepts any more is not presented either: connections wait, and are refused. */
static void drop_expired(struct cert_entry *e)
{
	if (e->id == NULL || left_s(e->id) != 0)
		return;
	log_error("certs",
		  "the certificate has expired and the %s gave no other: connections are refused "
		  "until it does: %s identity=%s",
		  ca_name(e->certs->ca), e->error != NULL ? e->error : "no answer yet", e->spiffe);
	tls_identity_unref(take_ptr(e->id));
	e->state = CERT_UNAVAILABLE;
	if (e->error == NULL)
		e->error = xstrdup("the certificate has expired");
	tell(e);
}

/* Takes the reference. */
static void use(struct cert_entry *e, struct tls_identity *id)
{
	if (e->id != NULL)
		tls_identity_unref(e->id);
	e->id = id;
	e->state = CERT_AVAILABLE;
	e->retry_ms = 0;
	e->waited = false;
	free(take_ptr(e->error));
	tell(e);
}

/* The CA answers again: who waits for a certificate need not wait for the end of a long pause. */
static void hurry_others(struct certs *c)
{
	htab_for_each (n, &c->table) {
		struct cert_entry *e = container_of(n, struct cert_entry, h);

		if (e->state == CERT_UNAVAILABLE && timer_armed(&e->timer) &&
		    e->timer.deadline_ms > loop_now_ms(c->loop) + BACK_SPREAD_MS)
			loop_timer_set(c->loop, &e->timer, rand_u64() % BACK_SPREAD_MS, on_timer);
	}
}

static void issued(struct cert_entry *e, struct tls_identity *id)
{
	struct certs *c = e->certs;
	bool renewed = e->id != NULL;

	e->from = 0;
	use(e, id);
	loop_timer_set(c->loop, &e->timer, renew_delay_ms(id), on_timer);
	if (c->on_issued != NULL)
		c->on_issued(c->ctx, id);
	log_info("certs", "certificate %s identity=%s valid_for=%llus",
		 renewed ? "renewed" : "issued", e->spiffe, (unsigned long long)left_s(id));
	spread_roots(e);
	if (c->failing)
		hurry_others(c);
	c->failing = false;
}

static void failed(struct cert_entry *e, const char *error)
{
	uint64_t max = e->waited ? WAITED_RETRY_MS : RETRY_MAX_MS, delay;
	bool valid = e->id != NULL && left_s(e->id) != 0;

	e->certs->failing = true;
	e->retry_ms = e->retry_ms == 0 ? RETRY_FIRST_MS : e->retry_ms * 2;
	if (e->retry_ms > max)
		e->retry_ms = max;
	free(e->error);
	e->error = xstrdup(error);
	delay = jitter(e->retry_ms);
	if (valid && delay > left_s(e->id) * 1000)
		delay = left_s(e->id) * 1000; /* its end is seen (ztunnel-spec 8.4) */
	loop_timer_set(e->certs->loop, &e->timer, delay, on_timer);
	log_warn("certs", "no certificate from the %s, %s: %s identity=%s retry=%llums",
		 ca_name(e->certs->ca), valid ? "the present one stays in use" : "traffic waits",
		 error, e->spiffe, (unsigned long long)e->retry_ms);
	if (e->id == NULL)
		e->state = CERT_UNAVAILABLE;
	else
		drop_expired(e);
}

static void on_answer(void *ctx, struct tls_identity *id, const char *error)
{
	struct request *r = ctx;
	struct cert_entry *e = r->entry;
	struct certs *c = r->certs;

	list_remove(&r->node);
	free(r);
	if (c != NULL) {
		c->busy--;
		loop_ready(c->loop, &c->pump);
	}
	if (e == NULL) {
		if (id != NULL)
			tls_identity_unref(id);
		return;
	}
	e->request = NULL;
	if (id != NULL)
		issued(e, id);
	else
		failed(e, error);
}

static void start(struct cert_entry *e)
{
	struct request *r = xcalloc(1, sizeof(*r));

	r->certs = e->certs;
	r->entry = e;
	e->request = r;
	list_append(&e->certs->requests, &r->node);
	e->certs->busy++;
	ca_issue(e->certs->ca, e->spiffe, on_answer, r);
}

static struct list *next_queued(struct certs *c)
{
	for (int i = 0; i < QUEUE_N; i++)
		if (!list_empty(&c->queue[i]))
			return list_pop(&c->queue[i]);
	return NULL;
}

static void on_pump(struct ready *r)
{
	struct certs *c = container_of(r, struct certs, pump);
	struct list *n;

	for (int i = 0; i < STARTS_PER_TURN && c->busy < LIMIT_CA_REQUESTS; i++) {
		n = next_queued(c);
		if (n == NULL)
			return;
		start(container_of(n, struct cert_entry, queued));
	}
	if (c->busy < LIMIT_CA_REQUESTS)
		loop_ready(c->loop, &c->pump);
}

static void ask(struct cert_entry *e)
{
	struct certs *c = e->certs;

	if (e->request != NULL || list_linked(&e->queued))
		return;
	list_append(&c->queue[e->id != NULL ? QUEUE_RENEW
			      : e->waited   ? QUEUE_WAITED
					    : QUEUE_FIRST],
		    &e->queued);
	loop_ready(c->loop, &c->pump);
}

static struct cert_entry *find(struct certs *c, const char *spiffe)
{
	struct hnode *n = htab_first(&c->table, hash_str(str_of(spiffe)));

	for (; n != NULL; n = htab_next(n)) {
		struct cert_entry *e = container_of(n, struct cert_entry, h);

		if (strcmp(e->spiffe, spiffe) == 0)
			return e;
	}
	return NULL;
}

void certs_subscribe(struct certs *c, struct cert_sub *s, const char *spiffe,
		     void (*fn)(struct cert_sub *, struct tls_identity *))
{
	struct cert_entry *e = find(c, spiffe);

	bug_on(s->entry != NULL);
	s->fn = fn;
	if (e == NULL) {
		e = xcalloc(1, sizeof(*e));
		e->certs = c;
		e->spiffe = xstrdup(spiffe);
		list_init(&e->subs);
		list_init(&e->queued);
		htab_insert(&c->table, &e->h, hash_str(str_of(spiffe)));
	}
	s->entry = e;
	list_append(&e->subs, &s->node);
	if (e->id != NULL) {
		fn(s, e->id);
	} else if (e->state == CERT_INITIALIZING) {
		ask(e); /* not before the present callback is done: the agent gets its answer first
			 */
	}
}

void certs_waited(struct cert_sub *s)
{
	struct cert_entry *e = s->entry;

	if (e == NULL || e->id != NULL || e->waited)
		return;
	e->waited = true;
	if (list_linked(&e->queued)) {
		list_remove(&e->queued);
		ask(e);
	} else if (timer_armed(&e->timer) &&
		   e->timer.deadline_ms > loop_now_ms(e->certs->loop) + WAITED_RETRY_MS) {
		loop_timer_set(e->certs->loop, &e->timer, jitter(WAITED_RETRY_MS), on_timer);
	}
}

void certs_unsubscribe(struct certs *c, struct cert_sub *s)
{
	struct cert_entry *e = take_ptr(s->entry);

	if (e == NULL)
		return;
	bug_on(e->certs != c);
	list_remove(&s->node);
	if (list_empty(&e->subs))
		entry_free(e);
}

void certs_adopt(struct cert_sub *s, struct tls_identity *id, unsigned int from)
{
	struct cert_entry *e = s->entry;

	if (e == NULL || e->id != NULL || left_s(id) == 0 ||
	    strcmp(e->spiffe, tls_identity_spiffe(id)) != 0)
		return;
	list_remove(&e->queued);
	e->from = from;
	use(e, tls_identity_ref(id));
	loop_timer_set(e->certs->loop, &e->timer, renew_delay_ms(id), on_timer);
	log_info("certs", "the certificate of before is used identity=%s valid_for=%llus",
		 e->spiffe, (unsigned long long)left_s(id));
}

void certs_on_issued(struct certs *c, void (*fn)(void *, struct tls_identity *), void *ctx)
{
	c->on_issued = fn;
	c->ctx = ctx;
}

const char *cert_sub_spiffe(const struct cert_sub *s)
{
	return s->entry != NULL ? s->entry->spiffe : NULL;
}

static int by_spiffe(const void *a, const void *b)
{
	const struct cert_entry *const *x = a, *const *y = b;

	return strcmp((*x)->spiffe, (*y)->spiffe);
}

void certs_each(struct certs *c, void (*fn)(void *ctx, const struct cert_info *i), void *ctx)
{
	_cleanup_free_ struct cert_entry **v = xcalloc(c->table.count + 1, sizeof(*v));
	size_t n = 0;

	htab_for_each (it, &c->table)
		v[n++] = container_of(it, struct cert_entry, h);
	qsort(v, n, sizeof(*v), by_spiffe);
	for (size_t i = 0; i < n; i++) {
		struct cert_info info = {v[i]->spiffe, v[i]->state, v[i]->error, v[i]->id,
					 v[i]->from};

		fn(ctx, &info);
	}
}
