/* SPDX-License-Identifier: Apache-2.0
 * data.h: the objects of one data worker, shared by the files of this room only.
 *
 * Theory of operation
 *
 *   pod --- listeners --accept--> conn (15001, 15006) or hsess (15008)
 *   conn  one proxied connection: an application's socket (leg) and either a second socket
 *         (relay.c) or a stream of an hsess (tunnel.c)
 *   hsess one HBONE connection: socket + TLS + HTTP/2; client ones are pooled (pool.c), or, towards
 *         another network, run inside a stream of another one (gateway.c)
 *   dial  a connect() on its way, made in a batch inside the pod's namespace (dial.c)
 *
 * Everything belongs to one worker thread. Sockets are edge-triggered and registered once
 * (datapath.md 9.1); readiness is kept in flags: rd_ready until a short read or EAGAIN, unless
 * rdhup says that a FIN, an error or more behind urgent data may follow; wr_block from a refused
 * write until EPOLLOUT. EPOLLOUT is asked for at the first refused write only.
 *
 * One loop turn: events mark objects; then turn.c dials for all pods that asked, and pumps every
 * dirty hsess once: control frames, small streams, bulk streams, one send. Objects are unlinked
 * from everything at once and freed at the end of the turn (loop_defer).
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "lib/base/bug.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/event/loop.h"
#include "lib/format/ip.h"
#include "lib/os/netns.h"
#include "lib/wire/h2.h"
#include "lib/wire/tls.h"
#include "lib/wire/tls_crl.h"
#include "lib/wire/tls_session.h"
#include "ztunnel/data/churn.h"
#include "ztunnel/data/turn.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/mesh/baggage.h"
#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/mesh.h"
#include "ztunnel/mesh/rbac.h"
#include "ztunnel/observe/access_log.h"
#include "ztunnel/observe/conn_info.h"
#include "ztunnel/observe/metrics.h"

#define RX_BYTES	(256u << 10) /* one TLS socket read; larger falls out of the cache */
#define PLAIN_BYTES	(RX_BYTES + (32u << 10)) /* what one read can decrypt to */
#define QUANTUM		(512u << 10)		 /* bytes of one bulk stream per turn */
#define FRAME_BYTES	(256u << 10) /* our largest DATA frame: one read of the application */
#define BATCH_BYTES	(256u << 10) /* stop adding streams once this much is staged */
#define SMALL_BYTES	8192	     /* a stream whose last read was smaller goes first */
#define STAGE_BYTES	(BATCH_BYTES + QUANTUM + (64u << 10))
#define SHORT_WINDOW	(256u << 10) /* of a stream while memory is short */
#define RX_READS	4	     /* TLS reads of one connection per turn */
#define COPY_BYTES	(64u << 10)  /* plaintext relay read, before splice */
#define PIPE_BYTES	(1u << 20)
#define PIPES_KEPT	8
#define PIPES_MAX	128
#define SEGS_MAX	2048
#define ACCEPTS		32
#define ACCEPT_PAUSE_MS 100
#define LEG_READ	(EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET)

struct worker;
struct pod;
struct conn;
struct hsess;
struct dial;
struct pipe_pair;
struct idle_peer;

/* ---- one TCP socket ---- */
struct leg {
	struct watch w;	   /* w.fd: owned, -1 = none */
	struct dial *dial; /* while it connects */
	bool rd_ready, rdhup, wr_block, out_armed;
	bool error;    /* epoll said so */
	bool borrowed; /* its address is the client's: reset.c */
	bool broken;   /* a reset was reported: it follows the bytes that can still be read */
};

/* ---- bytes received and not taken by the application ---- */
struct chunk {
	struct chunk *next;
	uint32_t off, n, cap;
	uint8_t data[];
};
struct queue {
	struct chunk *head, *tail;
	size_t bytes; /* not delivered yet */
};

/* ---- one direction of a socket to socket relay ---- */
struct dir {
	struct leg *from, *to;
	uint8_t *pend; /* refused by @to; owned */
	uint32_t pend_off, pend_n;
	struct pipe_pair *pipe;
	uint8_t full_reads;
	bool eof, fin_sent;
};

enum conn_kind {
	CONN_OUT,
	CONN_IN_HBONE,
	CONN_IN_PLAIN,
	CONN_CARRIER, /* no application's: it carries an hsess (gateway.c) */
	CONN_KIND_N
};
enum conn_state {
	CS_PARKED,  /* waits for its workload or certificate */
	CS_LOOKUP,  /* outbound: waits for the addresses of a hostname: names.c */
	CS_ASKING,  /* waits for istiod's answer: ask.c */
	CS_DIALING, /* connect() on its way */
	CS_WAITING, /* outbound: waits for a pooled connection, or for the answer to CONNECT */
	CS_OPEN,    /* bytes flow */
	CS_DEAD,    /* unlinked, freed at the end of the turn */
};

#define CONN_MAGIC 0xc0220001u
struct conn {
	uint32_t magic;
	uint8_t kind, state;
	bool tunnel; /* t is valid, else r */
	bool opened; /* metrics_open() ran: log a full record */
	bool late;   /* it is not opened yet, but will be before it ends (outbound.c) */
	uint8_t retries;
	uint8_t asked;	 /* enum missing: what was asked for already: ask.c */
	bool unanswered; /* and istiod did not answer */
	struct pod *pod;
	struct list pod_node;  /* pod->conns */
	struct list park_node; /* pod->parked, or waits for a name, or for istiod */
	struct conn_info info;
	struct timer timer;
	struct deferred defer;
	struct leg app;		 /* OUT, IN_PLAIN: the accepted socket; IN_HBONE: dialled */
	uint64_t draw;		 /* OUT: decides where there is a choice */
	uint64_t half_closed_at; /* bytes moved when the half-close timer was armed */
	union {
		struct {
			struct leg up;
			struct ready again;
			struct dir fwd, back; /* app -> up, up -> app */
		} r;
		struct {
			struct hsess *s;	/* NULL while waiting for one */
			struct pool_slot *slot; /* OUT, CARRIER, until answered */
			struct hsess *inner;	/* CARRIER: what runs in it, NULL when that ended */
			int32_t id;
			uint32_t code;		/* of `closed` */
			struct list sess_node;	/* s->conns, or slot->waiters */
			struct list sched_node; /* s->small / s->bulk */
			struct list touch_node; /* worker->touched */
			struct list back_node;	/* worker->backlogged */
			struct queue q;
			char *parked; /* authority, NUL, forwarded host: while parked; owned */
			struct {      /* what the application gets before all else; owned */
				uint8_t *p;
				size_t n;
			} first;
			int32_t seg_head, seg_tail; /* worker->segs, -1 = none */
			bool rx_eof, fin_sent, tx_eof, closed, small;
			bool via_waypoint;    /* OUT: its resets may be ordinary ends */
			uint16_t client_port; /* IN_HBONE: from `forwarded` */
			bool other_network;   /* IN_HBONE: the address is a gateway's, not the
						 client's */
		} t;
	};
};

enum hsess_state { HS_PARKED, HS_CONNECTING, HS_HANDSHAKE, HS_OPEN, HS_DEAD };

#define HSESS_MAGIC 0x45e55102u
struct hsess {
	uint32_t magic;
	uint8_t state;
	bool server, retired, dirty, ping_out, final_sent;
	struct pod *pod;
	struct list pod_node;	/* pod->sessions */
	struct list dirty_node; /* worker->dirty */
	struct list wait_node;	/* worker->handshakes (server), in order of age */
	struct leg leg;
	struct tls_session *tls;
	struct h2 *h2;
	struct ip_port peer, local;
	struct timer timer;	 /* handshake, then ping */
	struct timer idle_timer; /* pooled without streams */
	struct deferred defer;
	struct list conns; /* streams */
	unsigned int nconns;
	struct list small, bulk; /* streams with something to send */
	uint8_t *out;		 /* ciphertext that the socket refused; owned */
	size_t out_off, out_n;
	/* server, while it carries nothing */
	struct idle_peer *idle;
	struct list idle_node, idle_all; /* of the peer, of the worker */
	/* client */
	struct pool_slot *slot;
	struct list slot_node;
	struct conn *carrier; /* its socket leads to this one; NULL: to the peer */
};

/* All pooled connections to one (identities, address). Behind a gateway: those of one connection of
 * an application, which are nobody else's. */
struct pool_slot {
	struct hnode node; /* pod->pool; not with a gateway */
	struct ip_port addr;
	char *key;     /* identities, joined; owned */
	char *gateway; /* identities of the gateway at .addr, joined; owned. NULL: .addr is the
			  peer itself */
	struct list sessions;
	struct list waiters; /* conns without a session, oldest first */
	size_t nwaiters;
	size_t users; /* conns that are not answered yet: they may come back */
};

/* The part of a pod that all workers share: descriptors close with the last holder. */
struct pod_shared {
	atomic_uint refs;
	char *uid, *name, *ns, *sa;
	int netns_fd;
	struct netns_id netns;
	int listeners[MESH_L_N];
	struct dns_sockets *dns; /* reference; only when the agent has them too */
	struct churn churn;
	atomic_uint turn;      /* whose is the next HBONE connection: spread.c */
	atomic_uint listening; /* workers that have begun to accept on these sockets */
};

struct listener {
	struct watch w;
	struct pod *pod;
	enum mesh_listener kind;
	int fd; /* of a pod_shared */
	bool retired;
	struct timer pause;
};

#define POD_MAGIC 0x90d00003u
struct pod {
	uint32_t magic;
	struct worker *w;
	struct hnode node; /* worker->pods */
	struct pod_shared *sh;
	struct tls_identity *id;
	struct workload *wl; /* reference; NULL while unknown */
	struct workload
		*assumed; /* reference; only while .wl is NULL: what we know of it as a source */
	bool home;	  /* this worker is the pod's: churn.h */
	bool wanted;	  /* the control thread knows that a connection waits for .id */
	struct strbuf baggage;
	struct listener listeners[MESH_L_N];
	struct dns_pod *dns; /* owned; NULL: no DNS proxy */
	struct list retired; /* listening sockets of before, until they are empty: listen.c */
	struct list conns, sessions, parked;
	struct list dials; /* queued for the next batch */
	struct list dial_node;
	struct htab pool;
	struct htab idle_peers; /* idle.c */
	struct deferred defer;
	uint32_t next_port;
	size_t nhandshakes; /* of this pod in worker->handshakes */
	size_t unread;	    /* only while tunnel.c looks for whom to shed */
};

struct seg {
	const uint8_t *p;
	uint32_t n;
	int32_t next;
};

struct worker {
	struct workers *all;
	unsigned int index;
	pthread_t thread;
	struct loop *loop;
	const struct worker_config *cfg;
	struct mesh *mesh;
	struct tls_crl *crl; /* NULL: nothing is revoked */
	struct metrics_worker *metrics;
	struct access_log_worker *log;
	struct dns_worker *dns; /* owned; NULL: no DNS proxy */
	struct htab pods;
	struct ready turn;
	struct list dirty;	/* hsess */
	struct list dial_pods;	/* pods with queued dials */
	struct list touched;	/* conns with segments, or an end, of this batch */
	struct list backlogged; /* conns with a queue */
	struct list handshakes; /* server hsess before authentication */
	size_t nhandshakes;
	struct list idle; /* server hsess that carry nothing, longest first */
	size_t nidle;
	bool stopping, draining, flushing, memory_short;
	atomic_uint coming; /* connections that others have accepted for us: spread.c */
	struct timer drain_timer;
	struct msg *drain_msg;
	uint8_t *rx, *plain;
	struct h2_out stage;
	struct tls_out ct;
	struct seg segs[SEGS_MAX];
	uint32_t nsegs, shakes; /* shakes: handshake steps of this turn */
	size_t undelivered;
	struct busy busy;
	struct list late_resets;
	size_t nlate_resets;
	struct {
		struct htab table;
		struct list all, queue;
		size_t nlookups;
		struct timer again;
	} names;	   /* names.c */
	struct htab asks;  /* ask.c */
	struct list pipes; /* idle */
	size_t npipes, nidle_pipes;
	struct {
		_Atomic uint64_t connections, streams, pooled, tls_accepted, buffers, undelivered,
			parked;
	} st;
};

static inline void stat_add(_Atomic uint64_t *v, int64_t d)
{
	/* relaxed: only this worker writes, readers want a rough number */
	atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + (uint64_t)d,
			      memory_order_relaxed);
}

/* ---- leg.c: sockets ---- */
void leg_init(struct leg *l);
/* Registers for reading. 0 or -errno. */
int leg_watch(struct worker *w, struct leg *l, void (*fn)(struct watch *, uint32_t)) _must_check_;
/* Takes epoll's events into the flags. */
void leg_events(struct leg *l, uint32_t events);
/* Remembers that a write was refused. */
void leg_blocked(struct worker *w, struct leg *l);
/* A socket that the kernel closes because we died must not look like one that was finished: from
 * its first moment on it ends in a reset, until leg_close() says otherwise. */
void sock_ends_in_reset(int fd, bool yes);
void leg_close(struct worker *w, struct leg *l);
void leg_reset(struct pod *p, struct leg *l);	    /* SO_LINGER 0: the application sees RST */
int leg_so_error(const struct leg *l);		    /* positive errno or 0; clears it */
int sock_original_dst(int fd, struct ip_port *ret); /* 0 or -errno */
int sock_local_addr(int fd, struct ip_port *ret);
int sockaddr_to_ip_port(const void *sa, struct ip_port *ret);
socklen_t ip_port_to_sockaddr(const struct ip_port *a, int family, void *storage);
void sock_stream_options(int fd); /* NODELAY */

/* ---- reset.c ---- */
/* True when the leg's socket was taken: it is reset as soon as that cannot get lost. The socket
 * must end in a reset when it is closed. */
bool reset_later(struct pod *p, struct leg *l);
/* @p is served no more: most likely nobody is there any more to acknowledge anything. */
void late_resets_soon(struct pod *p);
void late_resets_now(struct worker *w);

/* ---- dial.c ---- */
struct dial {
	struct list node; /* pod->dials */
	struct pod *pod;
	struct leg *leg; /* the descriptor goes here */
	struct ip_port dst;
	struct ip_port src; /* ip.len 0: whatever the kernel takes; port 0: any */
	int open_error;	    /* positive errno of socket, bind or connect */
	struct timer timer;
	void (*done)(struct dial *d, int error); /* positive errno, 0 = connected */
	void *owner;
};
/* Queues a connect() for this turn's batch. @done runs once, later, unless dial_free() comes first;
 * it must call dial_free(). NULL when memory is short. */
struct dial *dial_start(struct pod *p, struct leg *leg, const struct ip_port *dst,
			const struct ip_port *src, void (*done)(struct dial *, int), void *owner)
	_must_check_;
struct dial *dial_free(struct dial *d); /* NULL is fine; the descriptor stays with the leg */
void dial_batch(struct worker *w);

/* ---- queue.c ---- */
int queue_add(struct worker *w, struct queue *q, const uint8_t *p, size_t n) _must_check_;
void queue_drop(struct worker *w, struct queue *q, size_t n); /* the first n bytes */
void queue_clear(struct worker *w, struct queue *q);
/* Pipes for splice; NULL when the pool is exhausted. */
struct pipe_pair {
	struct list node;
	int rd, wr;
	size_t bytes, cap;
};
struct pipe_pair *pipe_get(struct worker *w);
void pipe_put(struct worker *w, struct pipe_pair *p); /* closed when not empty */
void pipes_free(struct worker *w);

/* ---- conn.c ---- */
/* @buf: "@what: " and @error, a number of errno.h, in the words that stock ztunnel's log has for it
 * (ztunnel-spec 4.10): "Connection refused (os error 111)". Cut to @size. Any thread. */
static inline void io_error_text(char *buf, size_t size, const char *what, int error)
{
	(void)snprintf(buf, size, "%s: %s (os error %d)", what, strerror(error), error);
}
struct conn *conn_new(struct pod *p, enum conn_kind kind);
enum conn_end { END_CLOSE, END_RESET };
/* Logs, closes the sockets, resets the stream, unlinks; frees at the end of the turn. @error: NULL
 * = success. Safe to call twice. */
void conn_end(struct conn *c, enum conn_end how, enum conn_flag flag, const char *error);
/* Waits for workload or certificate, LIMIT_WORKLOAD_WAIT_MS in all. */
void conn_park(struct conn *c);
void conn_unpark(struct conn *c, enum conn_state next);
/* Goes on with all that wait in a list, linked by .park_node; it is empty afterwards, but for those
 * that wait there again. */
void conns_resume(struct list *waiting);
void conn_opened(struct conn *c);
void conn_half_closed(struct conn *c); /* arms the limit of a half-closed pair */
/* Inbound: may this connection exist under the present policies? Fills @buf when not. */
bool conn_allowed(struct conn *c, char *buf, size_t cap);
void conn_recheck(struct conn *c); /* after a new snapshot */

/* ---- relay.c ---- */
void relay_start(struct conn *c); /* both sockets connected */
void relay_stop(struct conn *c);  /* gives back what the directions hold */

/* ---- tunnel.c ---- */
void tunnel_init(struct conn *c);
void tunnel_attach(struct conn *c, struct hsess *s, int32_t id);
void tunnel_open(struct conn *c); /* application connected and stream established */
void tunnel_data(struct conn *c, const uint8_t *p, size_t n);
void tunnel_end(struct conn *c);
void tunnel_closed(struct conn *c, uint32_t code);
ssize_t tunnel_pull(struct conn *c, uint8_t *p, size_t cap, bool *eof);
void tunnel_schedule(struct conn *c);
void tunnel_sent(struct conn *c);		   /* after h2_send_stream() */
void tunnel_detach(struct conn *c, uint32_t code); /* leaves the session; resets a live stream */
void tunnels_flush(struct worker *w);		   /* writes the segments of this batch */

/* ---- hsess.c, hsess_io.c ---- */
struct hsess *hsess_new(struct pod *p, bool server);
void hsess_start_server(struct hsess *s); /* descriptor in the leg, certificate there */
void hsess_connected(struct hsess *s);	  /* client: TCP is up */
void hsess_dirty(struct hsess *s);
void hsess_pump(struct hsess *s);
void hsess_last_words(struct hsess *s); /* sends the GOAWAY that may be due, once */
void hsess_on_event(struct watch *w, uint32_t events);
/* Ends the connection and every stream on it with this reason. */
void hsess_fail(struct hsess *s, enum conn_flag flag, const char *error);
/* Graceful: no new streams, ends with the last one; before it is open: with those that wait; one
 * that is dead already is left alone. */
void hsess_goaway(struct hsess *s);
/* As above, and cut when the peer does not answer in time. HS_OPEN, server. */
void hsess_leave_within(struct hsess *s, uint64_t ms);
/* The worker's revocation lists are others now: may the pod's peers stay? */
void hsess_crl(struct pod *p);
void hsess_pong(struct hsess *s);
void hsess_stream_gone(struct hsess *s);
void hsess_waits_no_more(struct hsess *s); /* its handshake has ended, either way */
void hsess_keepalive(struct hsess *s);
void hsess_window(struct hsess *s); /* offers the stream window that memory allows */
extern const struct h2_ops hsess_ops;

/* ---- idle.c ---- */
/* The session may carry nothing now: counts it, and sends the oldest away when there are too many.
 */
void idle_enter(struct hsess *s);
void idle_leave(struct hsess *s); /* it carries something, or is gone */

/* ---- pool.c ---- */
void pool_get(struct conn *c, const struct route *r); /* -> outbound_stream() or conn_end() */
/* The same for a carrier: a shared connection to the gateway at @addr. */
void pool_get_gateway(struct conn *c, const char *identities, const struct ip_port *addr);
void pool_session_open(struct hsess *s);
void pool_session_gone(struct hsess *s, enum conn_flag flag, const char *error);
void pool_room(struct hsess *s);  /* a stream ended: serve a waiter, or go idle */
void pool_retire(struct pod *p);  /* new certificate: no new streams on old connections */
bool pool_retry(struct conn *c);  /* the peer refused the stream: once more, elsewhere */
void pool_forget(struct conn *c); /* answered or ended: leaves slot and waiters */

/* ---- claims.c ---- */
/* False: there is no such header. The slices are those of @h. */
bool claims_baggage(const struct h2_head *h, struct baggage *ret);
/* The request came from a network that is not @ours, through its gateway. */
bool claims_other_network(const struct h2_head *h, const char *ours);

/* ---- gateway.c ---- */
/* Client, with a slot that has a gateway: makes its carrier, which makes its way to the gateway.
 * The session may have failed when this returns. */
void gateway_dial(struct hsess *s);
void gateway_answered(struct conn *carrier); /* with 200 */
/* One of the two has ended. */
void gateway_carrier_gone(struct conn *carrier, enum conn_flag flag, const char *error);
void gateway_session_gone(struct hsess *s);

/* ---- names.c ---- */
void names_init(struct worker *w);
void names_fini(struct worker *w); /* when no connection waits any more */
enum names_res { NAMES_FOUND, NAMES_NONE, NAMES_WAIT };
/* The addresses of @host, valid until the next turn of the loop, or *ret_why there are none; or
 * outbound_go() again, later: the connection waits in state CS_LOOKUP. */
enum names_res names_get(struct conn *c, const char *host, const struct ip_addr **ret,
			 size_t *ret_n, const char **ret_why) _must_check_;

/* ---- ask.c ---- */
void asks_init(struct worker *w);
void asks_fini(struct worker *w); /* when no connection waits any more */
/* On-demand mode: the connection waits in state CS_ASKING until istiod has said what there is of
 * @ref, or has not within LIMIT_WORKLOAD_WAIT_MS (.unanswered), and then goes on as after parking.
 * False: nothing to wait for; it was asked already. */
bool ask_waits(struct conn *c, enum missing what, const struct gateway_ref *ref) _must_check_;
/* The same for an inbound connection's peer, where the state does not know its address. */
bool ask_source(struct conn *c, const struct ip_addr *peer) _must_check_;
/* Goes on with all that wait for @key. Worker thread. */
void ask_told(struct worker *w, struct str key, bool answered);
/* Posts the question (copied) to the control thread. Worker thread. */
void worker_ask(struct worker *w, const char *key);

/* ---- outbound.c, inbound.c, plain.c ---- */
void outbound_accepted(struct pod *p, int fd, const struct ip_port *peer);
void outbound_go(struct conn *c); /* again after parking */
void outbound_stream(struct conn *c, struct hsess *s);
void outbound_head(struct conn *c, const struct h2_head *h);
/* On this worker; @fd is taken over. NULL: it has failed. */
struct hsess *inbound_serve(struct pod *p, int fd, const struct ip_port *peer);
void inbound_request(struct hsess *s, int32_t id, const struct h2_head *h);
void inbound_go(struct conn *c);
void inbound_unavailable(struct conn *c, const char *error); /* 503 */
void plain_accepted(struct pod *p, int fd, const struct ip_port *peer);
void plain_go(struct conn *c);

/* ---- pod.c ---- */
/* @dns: reference taken over. */
struct pod *pod_new(struct worker *w, struct pod_shared *sh, struct dns_sockets *dns,
		    struct tls_identity *id);
void pod_remove(struct pod *p);			/* cuts everything */
void pod_cut(struct pod *p, const char *error); /* every connection and session */
/* @dns NULL: its DNS sockets stay. */
void pod_replace_shared(struct pod *p, struct pod_shared *sh, struct dns_sockets *dns);
void pod_refresh(struct pod *p); /* looks its workload up again, retries what is parked */
/* The workload as which it opens connections; NULL while nothing is known. Borrowed. */
struct workload *pod_source(const struct pod *p);
void pod_assume(struct pod *p, struct workload *wl); /* reference taken; NULL: no more */
void pod_set_identity(struct pod *p, struct tls_identity *id);
struct pod *pod_find(struct worker *w, const char *uid);
void pod_shared_unref(struct pod_shared *sh);

/* ---- listen.c ---- */
void pod_listen(struct pod *p, bool on);
/* From here on the pod's sockets are those of @sh (reference taken over; must not be watched yet);
 * the ones of before are served until nothing can be in their queues, and then closed. */
void listeners_retire(struct pod *p, struct pod_shared *sh);
void listeners_drop_retired(struct pod *p);

/* ---- sendbuf.c: the socket of an HBONE connection ---- */
void sendbuf_start(int fd);  /* bounds what has not been sent; not TCP, or refused: as it was */
void sendbuf_opened(int fd); /* once packets have gone both ways: of a near peer, also the rest */

/* ---- spread.c ---- */
/* An HBONE connection (owned from here on), for the worker whose turn it is. */
void inbound_accepted(struct pod *p, int fd, const struct ip_port *peer);

/* ---- worker.c, report.c ---- */
/* Outlives the workers with the messages that are on their way to the control loop. */
enum wish { WISH_IDENTITY, WISH_ASK, WISH_N }; /* a pod's uid; a key (xds.h) */
struct wanted_hub {
	atomic_uint refs;
	struct {
		void (*fn)(void *ctx, const char *text); /* control thread; NULL: nobody listens */
		void *ctx;
	} on[WISH_N];
};

struct workers {
	struct worker_config cfg; /* strings owned */
	struct wanted_hub *wanted;
	struct loop *control;
	struct htab pods;  /* served_pod, control thread */
	struct list dumps; /* on their way, control thread */
	unsigned int n;
	struct worker **w;
	struct metrics_worker **metrics;
	atomic_bool draining; /* before any worker hears of it */
};
struct served_pod {
	struct hnode node;
	struct pod_shared *sh;
};
/* The pod needs its certificate now. */
void worker_want_identity(struct pod *p);
struct served_pod *served_find(struct workers *w, const char *uid);
void worker_drained(struct worker *w, struct msg *m);
void dumps_orphan(struct workers *w); /* before @w goes: what is on its way finds it gone */

static inline void conn_bytes(struct conn *c, uint64_t recv, uint64_t sent)
{
	c->info.bytes_recv += recv;
	c->info.bytes_sent += sent;
	metrics_bytes(&c->info, recv, sent);
}
