/* SPDX-License-Identifier: Apache-2.0
 * dns_internal.h: the objects of the DNS proxy, shared by the files of dns/ only.
 *
 * Theory of operation
 *
 *   socket or conn --message--> serve.c: broken, or the mesh's --answer--> back
 *                                  |
 *                                  +--> the pod's cache (cache.c) --answer--> back
 *                                  |
 *                                  +--> req, waits: for the workload, for a resolver (forward.c),
 *                                       or for the answer to an equal question
 *
 * A req is one query that cannot be answered at once. It knows where it came from: a datagram's
 * sender, or a conn (tcp.c), which has one query at a time. It ends by req_end(), which answers. An
 * upstream is one socket to one resolver, in the pod's namespace and with the mark that keeps it
 * out of the redirection. It carries one query at a time. A UDP one that was answered may carry
 * others: its port is the kernel's choice and every query has a random id, which with the question
 * and the connected address is what an answer must match (RFC 5452). One that gave no answer, or
 * has carried UPSTREAM_USES, is closed, so what comes late meets a closed port.
 *
 * Equal questions of a pod over UDP go to the resolver once: the first is the leader, those that
 * come within JOIN_MS follow it and end with it. So a forger has one id and one port to guess, not
 * the best of many (RFC 5452 5). Who asks later, a client that tries again, leads anew: it asks the
 * resolver at once, as it would without us, for the packet may be lost.
 */
#pragma once
#include <sys/socket.h>

#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/event/loop.h"
#include "ztunnel/dns/answer.h"
#include "ztunnel/dns/cache.h"
#include "ztunnel/dns/resolv_conf.h"
#include "ztunnel/dns/serve.h"
#include "ztunnel/observe/dns_metrics.h"

#define DNS_SCOPE	 "dns"
#define DNS_BATCH	 16 /* datagrams of one socket per turn */
#define DNS_TTL_S	 30 /* ztunnel-spec 11.4 */
#define UPSTREAM_USES	 64
#define UPSTREAM_IDLE	 64 /* per pod, kept open */
#define UPSTREAM_IDLE_MS 2000
#define JOIN_MS		 500
#define DNS_IDS		 64

struct dns_worker {
	struct loop *loop;
	const struct dns_config *cfg;
	struct dns_settings settings;
	struct metrics_worker *metrics;
	struct resolv_conf resolvers;
	struct list pods;
	size_t nreqs;
	struct dns_cache_sum cached;
	struct dns_cache_sum told; /* what of it the metrics know */
	void (*idle)(void *ctx);
	void *idle_ctx;
	struct ip_addr addrs[LIMIT_DNS_ADDRESSES];
	uint16_t ids[DNS_IDS]; /* random, for the next queries: a system call gives many */
	size_t nids;
	uint8_t in[DNS_BATCH][LIMIT_DNS_QUERY_BYTES];
	uint8_t up[DNS_MESSAGE_MAX]; /* one answer of a resolver */
	uint8_t out[2 + DNS_MESSAGE_MAX];
};

struct dns_listener {
	struct watch w;
	struct dns_pod *pod;
	enum mesh_dns kind;
	struct timer pause;
};

struct dns_pod {
	struct list node; /* worker->pods */
	struct dns_worker *w;
	struct dns_view view;
	struct dns_sockets *sockets;
	bool draining;
	struct dns_listener l[MESH_DNS_N];
	struct list reqs; /* oldest first */
	size_t nreqs;
	struct list to_send; /* reqs that get an upstream at the end of this batch */
	struct list conns;   /* oldest first */
	size_t nconns;
	struct list idle; /* upstreams, the last used one first */
	size_t nidle;
	struct timer idle_timer;
	struct dns_cache cache;
	unsigned int cache_round; /* changes when what is on its way must not be kept */
	struct htab leaders;	  /* reqs over UDP that others may follow */
};

/* Where an answer goes. */
struct dns_from {
	struct dns_conn *conn; /* TCP; else: */
	enum mesh_dns kind;
	struct sockaddr_storage peer;
	socklen_t peer_len;
};

struct dns_upstream;
struct dns_req {
	struct list node;      /* pod->reqs */
	struct list send_node; /* pod->to_send */
	struct hnode lead;     /* pod->leaders, while .leads */
	struct list followers;
	struct list follow_node; /* leader->followers */
	bool leads;
	unsigned int cache_round; /* of the pod, when it was sent on */
	uint64_t lead_since_ms;
	struct dns_pod *pod;
	struct dns_from from;
	struct dns_query q;
	struct dns_series *series;
	struct dns_upstream *up;
	unsigned int tries; /* made so far */
	uint16_t id;	    /* of this try */
	uint64_t start_ns;  /* when it was first sent on, 0: waits for the workload */
	struct timer timer;
	struct deferred defer;
	size_t n;
	uint8_t msg[]; /* as received */
};

struct dns_upstream {
	struct list node; /* pod->idle */
	struct watch w;
	struct dns_pod *pod;
	struct dns_req *req; /* NULL: idle */
	struct ip_port server;
	unsigned int uses;
	uint64_t idle_since_ms;
	struct deferred defer;
	bool tcp, connected;
	uint8_t *buf; /* TCP: the query, then the answer, with the length before it; owned */
	size_t n, cap;
};

struct dns_conn {
	struct list node; /* pod->conns */
	struct watch w;
	struct dns_pod *pod;
	struct dns_req *req; /* it waits for this one */
	struct timer idle;
	struct deferred defer;
	bool dead, busy; /* busy: tcp.c goes through what was read */
	uint32_t events; /* that are watched */
	uint8_t *out;	 /* what the client has not taken; owned */
	size_t out_n, out_off;
	size_t in_n;
	uint8_t in[2 + LIMIT_DNS_QUERY_BYTES];
};

/* ---- serve.c ---- */
enum dns_handled { DNS_ANSWERED, DNS_WAITS, DNS_IGNORED };
/* One message of a client. After a batch of them forward_flush() must follow. */
enum dns_handled dns_handle(struct dns_pod *p, const struct dns_from *from, const uint8_t *msg,
			    size_t n);
/* Sends @n bytes at worker->out + 2 to the client. */
void dns_send(struct dns_pod *p, const struct dns_from *from, size_t n);
/* The end of a query that waited. @answer NULL: SERVFAIL and @why; else the resolver's, in
 * worker->up, of @n bytes. */
void req_end(struct dns_req *r, const uint8_t *answer, size_t n, const char *why);
void req_cancel(struct dns_req *r); /* nobody waits for the answer any more */

/* ---- tcp.c ---- */
void tcp_accepted(struct dns_pod *p, int fd);
void tcp_send(struct dns_conn *c, size_t n); /* worker->out, the length in front included */
void tcp_answered(struct dns_conn *c);	     /* its query is over: on to the next */
void tcp_close(struct dns_conn *c);

/* ---- forward.c ---- */
/* Queues the query for a resolver; forward_flush() sends what is queued. */
void forward_start(struct dns_req *r);
void forward_flush(struct dns_pod *p);
void forward_stop(struct dns_req *r); /* takes its upstream away */
void forward_drop_idle(struct dns_pod *p);
