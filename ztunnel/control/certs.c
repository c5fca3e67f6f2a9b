/* SPDX-License-Identifier: Apache-2.0
 * certs.c: see certs.h.
 *
 *   Initializing --issued--> Available --half of the rest of its life--> (asked again, stays
 * Available)
 *        \--failed--> Unavailable --back-off--> (asked again)
 *
 * An answer of the CA may arrive after the entry was forgotten: the request is an object of its own
 * that loses its entry then.
 */
#include "ztunnel/control/certs.h"

#include <stdlib.h>
#include <time.h>

#include "lib/base/bug.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"

#define RETRY_FIRST_MS 1000
#define RETRY_MAX_MS   150000
#define RENEW_MIN_MS   250
#define RENEW_MAX_MS   (24ull * 3600 * 1000) /* look again at least once a day */

struct request {
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
	struct ready first; /* the first request, after what the present callback has to do */
	struct request *request;
	uint64_t retry_ms;
};

struct certs {
	struct loop *loop;
	struct ca *ca;
	struct htab table;
};

struct certs *certs_new(struct loop *l, struct ca *ca)
{
	struct certs *c = xcalloc(1, sizeof(*c));

	c->loop = l;
	c->ca = ca;
	htab_init(&c->table);
	return c;
}

static void entry_free(struct cert_entry *e)
{
	bug_on(!list_empty(&e->subs));
	if (e->request != NULL)
		e->request->entry = NULL;
	loop_timer_cancel(&e->timer);
	loop_ready_cancel(&e->first);
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
	free(c);
	return NULL;
}

static void ask(struct cert_entry *e);

static void on_timer(struct timer *t)
{
	ask(container_of(t, struct cert_entry, timer));
}

static void on_first(struct ready *r)
{
	ask(container_of(r, struct cert_entry, first));
}

/* 90 to 110 percent. */
static uint64_t jitter(uint64_t ms)
{
	return ms / 10 * 9 + rand_u64() % (ms / 5 + 1);
}

static uint64_t renew_delay_ms(const struct tls_identity *id)
{
	time_t left = tls_identity_not_after(id) - time(NULL);
	uint64_t half = left > 0 ? (uint64_t)left * 1000 / 2 : 0;

	if (half < RENEW_MIN_MS)
		return RENEW_MIN_MS; /* never a busy loop, also with odd dates (spec 17, item 35) */
	return half > RENEW_MAX_MS ? RENEW_MAX_MS : jitter(half);
}

static void issued(struct cert_entry *e, struct tls_identity *id)
{
	bool renewed = e->id != NULL;

	if (e->id != NULL)
		tls_identity_unref(e->id);
	e->id = id;
	e->state = CERT_AVAILABLE;
	free(take_ptr(e->error));
	e->retry_ms = 0;
	loop_timer_set(e->certs->loop, &e->timer, renew_delay_ms(id), on_timer);
	log_info("certs", "certificate %s identity=%s valid_for=%llds",
		 renewed ? "renewed" : "issued", e->spiffe,
		 (long long)(tls_identity_not_after(id) - time(NULL)));
	list_for_each (n, &e->subs) {
		struct cert_sub *s = container_of(n, struct cert_sub, node);

		s->fn(s, id);
	}
}

static void failed(struct cert_entry *e, const char *error)
{
	bool valid = e->id != NULL && tls_identity_not_after(e->id) > time(NULL);

	e->retry_ms = e->retry_ms == 0 ? RETRY_FIRST_MS : e->retry_ms * 2;
	if (e->retry_ms > RETRY_MAX_MS)
		e->retry_ms = RETRY_MAX_MS;
	free(e->error);
	e->error = xstrdup(error);
	if (!valid)
		e->state = CERT_UNAVAILABLE;
	loop_timer_set(e->certs->loop, &e->timer, jitter(e->retry_ms), on_timer);
	log_warn("certs", "no certificate from the %s, %s: %s identity=%s retry=%llums",
		 ca_name(e->certs->ca), valid ? "the present one stays in use" : "traffic waits",
		 error, e->spiffe, (unsigned long long)e->retry_ms);
}

static void on_answer(void *ctx, struct tls_identity *id, const char *error)
{
	struct request *r = ctx;
	struct cert_entry *e = r->entry;

	free(r);
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

static void ask(struct cert_entry *e)
{
	struct request *r;

	if (e->request != NULL)
		return;
	r = xcalloc(1, sizeof(*r));
	r->entry = e;
	e->request = r;
	ca_issue(e->certs->ca, e->spiffe, on_answer, r);
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
		htab_insert(&c->table, &e->h, hash_str(str_of(spiffe)));
	}
	s->entry = e;
	list_append(&e->subs, &s->node);
	if (e->id != NULL) {
		fn(s, e->id);
	} else if (e->state == CERT_INITIALIZING && e->request == NULL) {
		/* making a certificate takes milliseconds: the agent gets its answer before */
		e->first.fn = on_first;
		loop_ready(c->loop, &e->first);
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
		struct cert_info info = {v[i]->spiffe, v[i]->state, v[i]->error, v[i]->id};

		fn(ctx, &info);
	}
}
