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
#include "lib/base/str.h"
#include "lib/os/sock.h"
#include "ztunnel/dns/serve.h"

struct access_log;
struct err;
struct loop;
struct mesh;
struct metrics_worker;
struct resolv_conf;
struct strbuf;
struct tls_crl;	     /* lib/wire/tls_crl.h, reference-counted */
struct tls_identity; /* lib/wire/tls.h, reference-counted */

struct worker_config {
	unsigned int nworkers;
	char *network;	    /* NETWORK */
	char *trust_domain; /* TRUST_DOMAIN, or its default */
	bool trust_domain_given;
	uint32_t mark;		       /* PACKET_MARK */
	int orig_src;		       /* ENABLE_ORIG_SRC: 1, 0, -1 unset */
	unsigned int pool_max_streams; /* POOL_MAX_STREAMS_PER_CONNECTION */
	uint64_t pool_idle_ms;	       /* POOL_UNUSED_RELEASE_TIMEOUT */
	uint32_t h2_stream_window, h2_connection_window, h2_frame_size;
	bool policy_info; /* AUTHZ_POLICY_INFO_LOGGING: decisions are logged at info, else at debug
			   */
	bool app_on_loopback; /* LOCALHOST_APP_TUNNEL: PROXY application tunnels */
	bool on_demand;	      /* XDS_ON_DEMAND: what the state does not hold may be asked for */
	bool baggage;	      /* ENABLE_RESPONSE_BAGGAGE: send it inbound, and heed what came */
	uint64_t keepalive_time_s, keepalive_interval_s, keepalive_retries; /* 0 = off */
	struct dns_config dns;
};

struct workers;
struct workload;
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
 * without dropping established connections. @dns (reference taken): the DNS proxy's sockets; NULL
 * leaves what is there. @dns_given: the agent has them too. */
int workers_pod_add(struct workers *w, const struct worker_pod_info *info, int netns_fd,
		    int listeners[MESH_L_N], struct dns_sockets *dns, bool dns_given,
		    struct tls_identity *id, struct err *err) _must_check_;
/* Stops accepting and cuts every connection of the pod. */
void workers_pod_del(struct workers *w, const char *uid);
/* What the pod is taken for as a source of connections while the mesh state does not hold it
 * (reference taken); forgotten when it does. */
void workers_pod_assume(struct workers *w, const char *uid, struct workload *wl);
/* @fn runs on the control loop when a connection of a pod waits for a certificate; once per worker
 * until there is one. */
void workers_on_wanted(struct workers *w, void (*fn)(void *ctx, const char *uid), void *ctx);
/* On-demand mode: @fn runs on the control loop when connections need to know of @key (xds.h); once
 * for each worker, until workers_told(). */
void workers_on_ask(struct workers *w, void (*fn)(void *ctx, const char *key), void *ctx);
/* The last published snapshot shows what there is of @key; or, @answered false, nobody has said. */
void workers_told(struct workers *w, struct str key, bool answered);
/* New or renewed certificate for a pod; new connections use it, established ones stay. */
void workers_pod_identity(struct workers *w, const char *uid, struct tls_identity *id);
/* Publishes a snapshot (reference taken). Workers re-evaluate authorization of established inbound
 * connections and retry connections that wait for their workload. */
void workers_publish(struct workers *w, struct mesh *m);
/* The revocation lists from now on (reference taken). HBONE connections whose peer's chain they
 * name are cut, with everything they carry (ztunnel-spec 8.7). */
void workers_crl(struct workers *w, struct tls_crl *crl);
/* The resolvers that the DNS proxy asks (copied). */
void workers_resolvers(struct workers *w, const struct resolv_conf *c);
/* Borrow the descriptors of a served pod, to offer them back to the agent (ZDS Held): DNS ones only
 * when they came from it, else -1. false if unknown. */
bool workers_pod_fds(struct workers *w, const char *uid, int *ret_netns,
		     int ret_listeners[MESH_L_N], int ret_dns[MESH_DNS_N]);

/* Graceful drain: stop accepting on every pod (listeners stay open: custody), GOAWAY to HBONE
 * peers, wait for connections up to @deadline_ms, then cut. @done runs on the control loop. */
void workers_drain(struct workers *w, uint64_t deadline_ms, void (*done)(void *ctx), void *ctx);
/* @done runs on the control loop once every worker's loop has turned; never, if one hangs. */
void workers_ping(struct workers *w, void (*done)(void *ctx), void *ctx);

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
unsigned int workers_count(const struct workers *w);
/* Of .tls_accepted what worker @i, below workers_count(), has. */
uint64_t workers_tls_accepted(const struct workers *w, unsigned int i);
