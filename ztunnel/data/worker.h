/* SPDX-License-Identifier: Apache-2.0
 * worker.h: the data workers and what the control thread tells them. The only door between the two.
 *
 * Each worker is a thread with its own loop; connections live and die on one worker. Every function
 * here is for the control thread; it posts messages and does not wait, except where said.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/os/sock.h"

struct access_log;
struct err;
struct loop;
struct mesh;
struct metrics_worker;
struct strbuf;
struct tls_identity; /* lib/wire/tls.h, reference-counted */

struct worker_config {
	unsigned int nworkers;
	char *network;		       /* NETWORK */
	char *trust_domain;	       /* default trust domain */
	uint32_t mark;		       /* PACKET_MARK */
	int orig_src;		       /* ENABLE_ORIG_SRC: 1, 0, -1 unset */
	unsigned int pool_max_streams; /* POOL_MAX_STREAMS_PER_CONNECTION */
	uint64_t pool_idle_ms;	       /* POOL_UNUSED_RELEASE_TIMEOUT */
	uint32_t h2_stream_window, h2_connection_window, h2_frame_size;
	uint64_t keepalive_time_s, keepalive_interval_s, keepalive_retries; /* 0 = off */
};

struct workers;
struct workers *workers_start(const struct worker_config *cfg, struct loop *control,
			      struct access_log *log, struct mesh *initial, struct err *err)
	_must_check_;
/* Stops at once and joins; frees everything (leak checkers must be meaningful). NULL. */
struct workers *workers_free(struct workers *w);

struct worker_pod_info {
	const char *uid, *name, *ns, *sa; /* copied */
};
/* Starts serving a pod on every worker. The descriptors (netns and listeners) move here.
 * @id: the pod's certificate (reference taken), NULL while there is none: connections wait for it
 * up to LIMIT_WORKLOAD_WAIT_MS. Same uid with the same netns and sockets already there: replaced
 * without dropping established connections. */
int workers_pod_add(struct workers *w, const struct worker_pod_info *info, int netns_fd,
		    int listeners[MESH_L_N], struct tls_identity *id, struct err *err) _must_check_;
/* Stops accepting and cuts every connection of the pod. */
void workers_pod_del(struct workers *w, const char *uid);
/* New or renewed certificate for a pod; new connections use it, established ones stay. */
void workers_pod_identity(struct workers *w, const char *uid, struct tls_identity *id);
/* Publishes a snapshot (reference taken). Workers re-evaluate authorization of established inbound
 * connections and retry connections that wait for their workload. */
void workers_publish(struct workers *w, struct mesh *m);
/* Borrow the descriptors of a served pod, to offer them back to the agent (ZDS Held). false if
 * unknown. */
bool workers_pod_fds(struct workers *w, const char *uid, int *ret_netns,
		     int ret_listeners[MESH_L_N]);

/* Graceful drain: stop accepting on every pod (listeners stay open: custody), GOAWAY to HBONE
 * peers, wait for connections up to @deadline_ms, then cut. @done runs on the control loop. */
void workers_drain(struct workers *w, uint64_t deadline_ms, void (*done)(void *ctx), void *ctx);

/* Asks every worker for its open connections; @done gets the JSON object of `workloadState`:
 * { uid: {state, connections {inbound[], outbound[]}, info{}} } (ztunnel-spec 13.6). Asynchronous.
 */
void workers_dump(struct workers *w, void (*done)(void *ctx, struct strbuf *json), void *ctx);
struct metrics_worker *const *workers_metrics(struct workers *w, size_t *ret_n);
/* Counters for tests and `status`: buffers held by idle connections must be 0 (style R41). */
struct worker_stats {
	uint64_t connections, streams, pooled, tls_accepted, buffers_bytes, undelivered_bytes,
		parked;
};
void workers_stats(struct workers *w, struct worker_stats *ret); /* racy snapshot, any time */
