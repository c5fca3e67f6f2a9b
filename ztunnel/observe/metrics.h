/* SPDX-License-Identifier: Apache-2.0
 * metrics.h: counters. Each worker owns its series and only it writes them (relaxed atomics); the
 * control thread sums them when scraped. Label sets that saw no connection for METRICS_EXPIRY_MS
 * are dropped (by the worker, when it makes a new one); above METRICS_SERIES_MAX per worker
 * everything new goes to one overflow series. Source: ztunnel-spec 13.1-13.3.
 */
#pragma once
#include "lib/base/str.h"
#include "ztunnel/observe/conn_info.h"

#define METRICS_SERIES_MAX 20000
#define METRICS_EXPIRY_MS  (15 * 60 * 1000)
struct metrics_worker; /* one per worker */
struct metrics_worker *metrics_worker_new(void) _must_check_;
/* Another limit than METRICS_SERIES_MAX, before the worker starts. */
void metrics_worker_limit(struct metrics_worker *m, size_t series);
struct metrics_worker *metrics_worker_free(struct metrics_worker *m);

/* Worker thread. metrics_open() finds or makes the series of @c and counts connections_opened. */
void metrics_open(struct metrics_worker *m, struct conn_info *c);
/* Adds bytes since the last call to the series (hot path: two relaxed adds); the totals in @c are
 * the caller's. Nothing happens before metrics_open(). */
void metrics_bytes(struct conn_info *c, uint64_t recv, uint64_t sent);
/* Counts closed and, with @flag != FLAG_NONE, failed. */
void metrics_close(struct metrics_worker *m, struct conn_info *c, enum conn_flag flag);
void metrics_sockets_open(struct metrics_worker *m, enum conn_reporter r, int delta);

/* Simple process-wide counters and gauges (any thread). */
enum metric_id {
	M_ZDS_ACTIVE,
	M_ZDS_PENDING, /* gauges: workload_manager_{active,pending}_proxy_count */
	M_ZDS_STARTED,
	M_ZDS_STOPPED,
	M_ACCESS_LOG_DROPPED,
	M_LOG_LINES_DROPPED, /* set by metrics_write() */
	M_H2_ENHANCE_YOUR_CALM,
	M_TLS_HANDSHAKE_FAILURES,
	M_ACCEPT_ERRORS,
	M_STATE_RELOADS,
	M_STATE_RELOAD_ERRORS,
	M_XDS_CONNECTED,
	M_XDS_REFUSED,
	M_XDS_ON_DEMAND_ASKED,
	M_XDS_ON_DEMAND_UNANSWERED,
	M_ON_DEMAND_DNS,
	M_DNS_CACHE_HITS,
	M_DNS_CACHE_MISSES,
	M_DNS_CACHE_JOINED, /* waited for the answer to the same question */
	M_DNS_CACHE_EVICTIONS,
	M_DNS_CACHE_ENTRIES,
	M_DNS_CACHE_BYTES, /* gauges */
	M_CRL_ERRORS,
	M_CA_FAILURES,
	M_STATE_STALE_SECONDS,
	M_STATE_KEEP_ERRORS,
	M_PLAIN_N, /* one sample without labels each, up to here */
	M_XDS_END_CONNECTION = M_PLAIN_N,
	M_XDS_END_ERROR,
	M_XDS_END_RECONNECT,
	M_XDS_END_COMPLETE,
	M_XDS_MESSAGES_ADDRESS,
	M_XDS_MESSAGES_POLICY,
	M_XDS_BYTES_ADDRESS,
	M_XDS_BYTES_POLICY,
	M_CRL_REJECTIONS_SOURCE,
	M_CRL_REJECTIONS_DESTINATION,
	M_ID_N
};
void metric_add(enum metric_id id, int64_t delta);
void metric_set(enum metric_id id, int64_t v);
int64_t metric_get(enum metric_id id);

/* Control thread: OpenMetrics text of everything (ends with "# EOF"). */
void metrics_write(struct metrics_worker *const *workers, size_t n, struct strbuf *out);
