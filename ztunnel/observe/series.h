/* SPDX-License-Identifier: Apache-2.0
 * series.h: one label set of the traffic metrics and its counters. Between metrics.c and
 * metrics_text.c only.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "ztunnel/observe/dns_metrics.h"
#include "ztunnel/observe/metrics.h"

/* Of each side: what ztunnel-spec 13.3 reads from a workload. */
enum side_label {
	SIDE_WORKLOAD,
	SIDE_CANONICAL,
	SIDE_REVISION,
	SIDE_NS,
	SIDE_PRINCIPAL,
	SIDE_CLUSTER,
	SIDE_REGION,
	SIDE_ZONE,
	SIDE_LABELS
};
enum service_label { SVC_HOST, SVC_NS, SVC_NAME, SVC_LABELS };

struct labels {
	enum conn_reporter reporter;
	enum conn_via via;
	bool any_workload;
	struct str src[SIDE_LABELS], dst[SIDE_LABELS], svc[SVC_LABELS];
};

/* Written by the owning worker, read by the control thread: relaxed atomics, each counter stands
 * for itself. */
struct metric_series {
	struct hnode h; /* worker only */
	/* The list that the control thread walks: pushed with release, read with acquire; removed
	 * only under metrics_worker.gate. */
	_Atomic(struct metric_series *) next;
	struct labels labels; /* texts live behind the struct */
	atomic_uint_fast64_t opened, recv, sent;
	atomic_uint_fast64_t closed[FLAG_N], failed[FLAG_N];
	uint64_t active, last_used_ns; /* worker only */
};

struct metrics_worker {
	/* Held by the control thread while it reads; the worker only ever tries it, before it
	 * removes series, and comes back later when it is taken: it never waits. */
	pthread_mutex_t gate;
	_Atomic(struct metric_series *) first;
	struct htab table; /* worker only, as the rest */
	size_t max;
	struct metric_series *overflow[REPORTER_N];
	uint64_t last_sweep_ns;
	atomic_int_fast64_t sockets[REPORTER_N]; /* relaxed, as the counters */
	struct dns_metrics dns;
};

/* name="value": empty is "unknown". */
void metrics_put_label(struct strbuf *b, const char *name, struct str v);
uint64_t labels_hash(const struct labels *l);
bool labels_eq(const struct labels *a, const struct labels *b);
