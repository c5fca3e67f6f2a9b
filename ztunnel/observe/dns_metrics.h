/* SPDX-License-Identifier: Apache-2.0
 * dns_metrics.h: the counters of the DNS proxy (ztunnel-spec 11.6). One series per label set; only
 * its worker writes it (relaxed atomics), the control thread adds them up. Above
 * DNS_SERIES_MAX per worker everything new goes to one overflow series; none is ever removed.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

#define DNS_SERIES_MAX 4096
#define DNS_BUCKETS    6

struct metrics_worker;
struct workload;

struct dns_series {
	_Atomic(struct dns_series *) next; /* pushed with release, read with acquire */
	const char *type;		   /* static text */
	bool tcp;
	struct str service, revision; /* behind the struct */
	atomic_uint_fast64_t requests, upstream, failures;
	atomic_uint_fast64_t bucket[DNS_BUCKETS], duration_ns, durations;
};
/* Heads the list of a worker; zeroed at first. */
struct dns_metrics {
	_Atomic(struct dns_series *) first;
	size_t n;
	struct dns_series *overflow;
};

/* Worker thread. The series of a query of type @type (static text) by @source (NULL: unknown). It
 * lives as long as the worker. */
struct dns_series *dns_metrics_get(struct metrics_worker *m, const char *type, bool tcp,
				   const struct workload *source);
void dns_metrics_request(struct dns_series *s);
/* A query was handed to a resolver, and after @ns it had an answer, or not. */
void dns_metrics_upstream(struct dns_series *s);
void dns_metrics_upstream_end(struct dns_series *s, uint64_t ns, bool answered);

void dns_metrics_fini(struct dns_metrics *d);
/* Control thread: families without samples are left out. */
void dns_metrics_write(struct metrics_worker *const *workers, size_t n, struct strbuf *out);
