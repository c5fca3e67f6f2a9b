/* SPDX-License-Identifier: Apache-2.0
 * dns_metrics.c: see dns_metrics.h.
 */
#include "ztunnel/observe/dns_metrics.h"

#include <stdlib.h>

#include "lib/base/mem.h"
#include "ztunnel/mesh/model.h"
#include "ztunnel/observe/series.h"

static const struct {
	uint64_t ns;
	const char *text;
} bounds[DNS_BUCKETS] = {
	{500000, "0.0005"}, {1000000, "0.001"},	 {10000000, "0.01"},
	{100000000, "0.1"}, {1000000000, "1.0"}, {5000000000, "5.0"},
};

static void bump(atomic_uint_fast64_t *c, uint64_t by)
{
	atomic_fetch_add_explicit(c, by, memory_order_relaxed);
}

static uint64_t get(atomic_uint_fast64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

static bool is_set(const struct dns_series *s, const char *type, bool tcp, struct str service,
		   struct str revision)
{
	return s->tcp == tcp && strcmp(s->type, type) == 0 && str_eq(s->service, service) &&
	       str_eq(s->revision, revision);
}

static struct dns_series *series_new(struct dns_metrics *d, const char *type, bool tcp,
				     struct str service, struct str revision)
{
	struct dns_series *s = xcalloc(1, sizeof(*s) + service.n + revision.n);
	char *text = (char *)(s + 1);

	s->type = type;
	s->tcp = tcp;
	if (service.n != 0)
		memcpy(text, service.p, service.n);
	if (revision.n != 0)
		memcpy(text + service.n, revision.p, revision.n);
	s->service = (struct str){text, service.n};
	s->revision = (struct str){text + service.n, revision.n};
	atomic_store_explicit(&s->next, atomic_load_explicit(&d->first, memory_order_relaxed),
			      memory_order_relaxed);
	/* pairs with the acquire in dns_metrics_write(): complete when it is seen */
	atomic_store_explicit(&d->first, s, memory_order_release);
	d->n++;
	return s;
}

struct dns_series *dns_metrics_get(struct metrics_worker *m, const char *type, bool tcp,
				   const struct workload *source)
{
	struct str service = source != NULL ? source->canonical_name : STR("");
	struct str revision = source != NULL ? source->canonical_revision : STR("");
	struct dns_metrics *d = &m->dns;
	struct dns_series *s = atomic_load_explicit(&d->first, memory_order_relaxed);

	for (; s != NULL; s = atomic_load_explicit(&s->next, memory_order_relaxed))
		if (is_set(s, type, tcp, service, revision))
			return s;
	if (d->n < DNS_SERIES_MAX)
		return series_new(d, type, tcp, service, revision);
	if (d->overflow == NULL)
		d->overflow = series_new(d, "other", false, STR("overflow"), STR("overflow"));
	return d->overflow;
}

void dns_metrics_request(struct dns_series *s)
{
	bump(&s->requests, 1);
}

void dns_metrics_upstream(struct dns_series *s)
{
	bump(&s->upstream, 1);
}

void dns_metrics_upstream_end(struct dns_series *s, uint64_t ns, bool answered)
{
	if (!answered)
		bump(&s->failures, 1);
	for (int i = 0; i < DNS_BUCKETS; i++)
		if (ns <= bounds[i].ns)
			bump(&s->bucket[i], 1);
	bump(&s->duration_ns, ns);
	bump(&s->durations, 1);
}

void dns_metrics_fini(struct dns_metrics *d)
{
	struct dns_series *s = atomic_load_explicit(&d->first, memory_order_acquire), *next;

	for (; s != NULL; s = next) {
		next = atomic_load_explicit(&s->next, memory_order_relaxed);
		free(s);
	}
}

/* ---- text ---- */

struct sum {
	struct dns_series *labels; /* one that has them */
	uint64_t requests, upstream, failures, bucket[DNS_BUCKETS], duration_ns, durations;
};

static struct sum *sum_for(struct sum **v, size_t *n, struct dns_series *s)
{
	for (size_t i = 0; i < *n; i++)
		if (is_set((*v)[i].labels, s->type, s->tcp, s->service, s->revision))
			return &(*v)[i];
	*v = xrealloc_array(*v, *n + 1, sizeof(**v));
	(*v)[*n] = (struct sum){.labels = s};
	return &(*v)[(*n)++];
}

static void collect(struct metrics_worker *w, struct sum **v, size_t *n)
{
	struct dns_series *s = atomic_load_explicit(&w->dns.first, memory_order_acquire);

	for (; s != NULL; s = atomic_load_explicit(&s->next, memory_order_relaxed)) {
		struct sum *sum = sum_for(v, n, s);

		sum->durations += get(&s->durations);
		sum->duration_ns += get(&s->duration_ns);
		for (int i = 0; i < DNS_BUCKETS; i++)
			sum->bucket[i] += get(&s->bucket[i]);
		sum->failures += get(&s->failures);
		sum->upstream += get(&s->upstream);
		sum->requests += get(&s->requests);
	}
}

static void put_labels(struct strbuf *b, const struct sum *s)
{
	metrics_put_label(b, "{request_query_type", str_of(s->labels->type));
	metrics_put_label(b, ",request_protocol", s->labels->tcp ? STR("tcp") : STR("udp"));
	metrics_put_label(b, ",source_canonical_service", s->labels->service);
	metrics_put_label(b, ",source_canonical_revision", s->labels->revision);
}

static void put_counter(struct strbuf *b, const char *name, const struct sum *s, uint64_t v)
{
	if (v == 0)
		return;
	strbuf_printf(b, "%s_total", name);
	put_labels(b, s);
	strbuf_printf(b, "} %llu\n", (unsigned long long)v);
}

static void put_histogram(struct strbuf *b, const char *name, const struct sum *s)
{
	if (s->durations == 0)
		return;
	strbuf_printf(b, "%s_sum", name);
	put_labels(b, s);
	strbuf_printf(b, "} %llu.%09llu\n", (unsigned long long)(s->duration_ns / 1000000000),
		      (unsigned long long)(s->duration_ns % 1000000000));
	strbuf_printf(b, "%s_count", name);
	put_labels(b, s);
	strbuf_printf(b, "} %llu\n", (unsigned long long)s->durations);
	for (int i = 0; i <= DNS_BUCKETS; i++) {
		strbuf_printf(b, "%s_bucket", name);
		put_labels(b, s);
		strbuf_printf(b, ",le=\"%s\"} %llu\n", i < DNS_BUCKETS ? bounds[i].text : "+Inf",
			      (unsigned long long)(i < DNS_BUCKETS ? s->bucket[i] : s->durations));
	}
}

enum family { REQUESTS, UPSTREAM, FAILURES, DURATION, FAMILY_N };
static const struct {
	const char *name, *type, *help;
} families[FAMILY_N] = {
	[REQUESTS] = {"istio_dns_requests", "counter", "DNS queries of pods (unstable)"},
	[UPSTREAM] = {"istio_dns_upstream_requests", "counter",
		      "DNS queries handed to a resolver (unstable)"},
	[FAILURES] = {"istio_dns_upstream_failures", "counter",
		      "DNS queries that no resolver answered (unstable)"},
	[DURATION] = {"istio_dns_upstream_request_duration_seconds", "histogram",
		      "Time until a resolver had answered (unstable)"},
};

static void put_family(struct strbuf *out, enum family f, const struct sum *v, size_t n)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	for (size_t i = 0; i < n; i++)
		if (f == DURATION)
			put_histogram(&b, families[f].name, &v[i]);
		else
			put_counter(&b, families[f].name, &v[i],
				    f == REQUESTS   ? v[i].requests
				    : f == UPSTREAM ? v[i].upstream
						    : v[i].failures);
	if (b.n == 0)
		return;
	strbuf_printf(out, "# HELP %s %s.\n# TYPE %s %s\n", families[f].name, families[f].help,
		      families[f].name, families[f].type);
	strbuf_add(out, b.p, b.n);
}

void dns_metrics_write(struct metrics_worker *const *workers, size_t n, struct strbuf *out)
{
	struct sum *v = NULL;
	size_t nv = 0;

	for (size_t i = 0; i < n; i++)
		collect(workers[i], &v, &nv);
	for (int f = 0; f < FAMILY_N; f++)
		put_family(out, (enum family)f, v, nv);
	free(v);
}
