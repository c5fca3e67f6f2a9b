/* SPDX-License-Identifier: Apache-2.0
 * metrics.c: see metrics.h: label sets and counters. The text form is in metrics_text.c.
 *
 * Theory of operation. A worker finds a connection's series in its own hash table; nobody else
 * touches that table. The control thread reads series through a second way in, a singly linked list
 * that only grows at its head, so that the worker publishes a new series with one release store.
 * Removing is the one step that both could trip over: it needs the gate, which the worker only
 * tries. Several workers may hold the same label set; the text form adds them up.
 */
#include "ztunnel/observe/metrics.h"

#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "ztunnel/observe/series.h"

#define SWEEP_NS  (60ull * 1000000000)
#define EXPIRY_NS (METRICS_EXPIRY_MS * 1000000ull)

static atomic_int_fast64_t plain[M_ID_N];

void metric_add(enum metric_id id, int64_t delta)
{
	atomic_fetch_add_explicit(&plain[id], delta, memory_order_relaxed);
}

void metric_set(enum metric_id id, int64_t v)
{
	atomic_store_explicit(&plain[id], v, memory_order_relaxed);
}

int64_t metric_get(enum metric_id id)
{
	return (int64_t)atomic_load_explicit(&plain[id], memory_order_relaxed);
}

struct metrics_worker *metrics_worker_new(void)
{
	struct metrics_worker *m = xcalloc(1, sizeof(*m));

	bug_on(pthread_mutex_init(&m->gate, NULL) != 0);
	htab_init(&m->table);
	m->max = METRICS_SERIES_MAX;
	return m;
}

void metrics_worker_limit(struct metrics_worker *m, size_t series)
{
	m->max = series;
}

struct metrics_worker *metrics_worker_free(struct metrics_worker *m)
{
	struct metric_series *s, *next;

	if (m == NULL)
		return NULL;
	for (s = atomic_load_explicit(&m->first, memory_order_acquire); s != NULL; s = next) {
		next = atomic_load_explicit(&s->next, memory_order_relaxed);
		free(s);
	}
	htab_fini(&m->table);
	dns_metrics_fini(&m->dns);
	pthread_mutex_destroy(&m->gate);
	free(m);
	return NULL;
}

static void side_labels(struct str out[SIDE_LABELS], const struct workload *w)
{
	if (w == NULL)
		return;
	out[SIDE_WORKLOAD] = w->workload_name;
	out[SIDE_CANONICAL] = w->canonical_name;
	out[SIDE_REVISION] = w->canonical_revision;
	out[SIDE_NS] = w->ns;
	out[SIDE_CLUSTER] = w->cluster;
	out[SIDE_REGION] = w->region;
	out[SIDE_ZONE] = w->zone;
}

/* ztunnel-spec 13.3: the source's principal is only what TLS proved (our own on the way out). */
static void labels_of(const struct conn_info *c, struct labels *l)
{
	*l = (struct labels){.reporter = c->reporter,
			     .via = c->via,
			     .any_workload = c->src != NULL || c->dst != NULL};
	side_labels(l->src, c->src);
	side_labels(l->dst, c->dst);
	if (c->via == VIA_HBONE && c->reporter == REPORTER_DESTINATION)
		l->src[SIDE_PRINCIPAL] = str_of(c->peer_identity);
	else if (c->via == VIA_HBONE && c->src != NULL)
		l->src[SIDE_PRINCIPAL] = str_of(c->src->identity);
	if (c->dst != NULL)
		l->dst[SIDE_PRINCIPAL] = str_of(c->dst->identity);
	if (c->service != NULL) {
		l->svc[SVC_HOST] = c->service->hostname;
		l->svc[SVC_NS] = c->service->ns;
		l->svc[SVC_NAME] = c->service->name;
	}
}

uint64_t labels_hash(const struct labels *l)
{
	uint64_t h = (uint64_t)l->reporter * 4 + (uint64_t)l->via * 2 + (l->any_workload ? 1 : 0);

	for (int i = 0; i < SIDE_LABELS; i++) {
		h = hash_mix(h, hash_str(l->src[i]));
		h = hash_mix(h, hash_str(l->dst[i]));
	}
	for (int i = 0; i < SVC_LABELS; i++)
		h = hash_mix(h, hash_str(l->svc[i]));
	return h;
}

bool labels_eq(const struct labels *a, const struct labels *b)
{
	if (a->reporter != b->reporter || a->via != b->via || a->any_workload != b->any_workload)
		return false;
	for (int i = 0; i < SIDE_LABELS; i++)
		if (!str_eq(a->src[i], b->src[i]) || !str_eq(a->dst[i], b->dst[i]))
			return false;
	for (int i = 0; i < SVC_LABELS; i++)
		if (!str_eq(a->svc[i], b->svc[i]))
			return false;
	return true;
}

static size_t texts_len(const struct str *v, int n)
{
	size_t sum = 0;

	for (int i = 0; i < n; i++)
		sum += v[i].n;
	return sum;
}

static char *copy_texts(struct str *to, const struct str *from, int n, char *room)
{
	for (int i = 0; i < n; i++) {
		if (from[i].n != 0)
			memcpy(room, from[i].p, from[i].n);
		to[i] = (struct str){room, from[i].n};
		room += from[i].n;
	}
	return room;
}

static struct metric_series *series_new(struct metrics_worker *m, const struct labels *l)
{
	size_t text = texts_len(l->src, SIDE_LABELS) + texts_len(l->dst, SIDE_LABELS) +
		      texts_len(l->svc, SVC_LABELS);
	struct metric_series *s = xcalloc(1, sizeof(*s) + text);
	char *room = (char *)(s + 1);

	s->labels = *l;
	room = copy_texts(s->labels.src, l->src, SIDE_LABELS, room);
	room = copy_texts(s->labels.dst, l->dst, SIDE_LABELS, room);
	(void)copy_texts(s->labels.svc, l->svc, SVC_LABELS, room);
	atomic_store_explicit(&s->next, atomic_load_explicit(&m->first, memory_order_relaxed),
			      memory_order_relaxed);
	/* pairs with the acquire in metrics_text.c: the series is complete when it is seen */
	atomic_store_explicit(&m->first, s, memory_order_release);
	return s;
}

/* A connection that was parked is opened with the time of its start: before now, and perhaps before
 * the last sweep. */
static uint64_t since(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? now_ns - then_ns : 0;
}

static void sweep(struct metrics_worker *m, uint64_t now_ns)
{
	_Atomic(struct metric_series *) *at = &m->first;
	struct metric_series *s;

	if (since(now_ns, m->last_sweep_ns) < SWEEP_NS || pthread_mutex_trylock(&m->gate) != 0)
		return;
	m->last_sweep_ns = now_ns;
	while ((s = atomic_load_explicit(at, memory_order_relaxed)) != NULL) {
		if (s->active != 0 || s == m->overflow[REPORTER_SOURCE] ||
		    s == m->overflow[REPORTER_DESTINATION] ||
		    since(now_ns, s->last_used_ns) < EXPIRY_NS) {
			at = &s->next;
			continue;
		}
		/* nobody reads while we hold the gate */
		atomic_store_explicit(at, atomic_load_explicit(&s->next, memory_order_relaxed),
				      memory_order_relaxed);
		htab_remove(&m->table, &s->h);
		free(s);
	}
	pthread_mutex_unlock(&m->gate);
}

static struct metric_series *overflow_of(struct metrics_worker *m, enum conn_reporter r)
{
	if (m->overflow[r] == NULL) {
		struct labels l = {.reporter = r, .any_workload = true};

		for (int i = 0; i < SIDE_LABELS; i++)
			l.src[i] = l.dst[i] = STR("overflow");
		m->overflow[r] = series_new(m, &l);
	}
	return m->overflow[r];
}

static struct metric_series *find_or_make(struct metrics_worker *m, const struct labels *l,
					  uint64_t now_ns)
{
	uint64_t hash = labels_hash(l);
	struct metric_series *s;

	for (struct hnode *n = htab_first(&m->table, hash); n != NULL; n = htab_next(n)) {
		s = container_of(n, struct metric_series, h);
		if (labels_eq(&s->labels, l))
			return s;
	}
	sweep(m, now_ns);
	if (m->table.count >= m->max)
		return overflow_of(m, l->reporter);
	s = series_new(m, l);
	htab_insert(&m->table, &s->h, hash);
	return s;
}

static void bump(atomic_uint_fast64_t *c, uint64_t by)
{
	atomic_fetch_add_explicit(c, by, memory_order_relaxed);
}

void metrics_open(struct metrics_worker *m, struct conn_info *c)
{
	struct labels l;

	bug_on(c->series != NULL);
	labels_of(c, &l);
	c->series = find_or_make(m, &l, c->start_ns);
	c->series->active++;
	if (c->start_ns > c->series->last_used_ns)
		c->series->last_used_ns = c->start_ns;
	bump(&c->series->opened, 1);
}

void metrics_bytes(struct conn_info *c, uint64_t recv, uint64_t sent)
{
	if (c->series == NULL)
		return;
	bump(&c->series->recv, recv);
	bump(&c->series->sent, sent);
}

void metrics_close(struct metrics_worker *m, struct conn_info *c, enum conn_flag flag)
{
	struct metric_series *s = take_ptr(c->series);

	if (s == NULL)
		return;
	bug_on(s->active == 0 || flag >= FLAG_N);
	s->active--;
	if (m->last_sweep_ns > s->last_used_ns) /* the expiry counts from the end, roughly */
		s->last_used_ns = m->last_sweep_ns;
	bump(&s->closed[flag], 1);
	if (flag != FLAG_NONE)
		bump(&s->failed[flag], 1);
}

void metrics_sockets_open(struct metrics_worker *m, enum conn_reporter r, int delta)
{
	atomic_fetch_add_explicit(&m->sockets[r], delta, memory_order_relaxed);
}
