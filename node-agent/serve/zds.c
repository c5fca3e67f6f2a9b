/* SPDX-License-Identifier: Apache-2.0
 * zds.c: see zds.h.
 *
 * Theory of operation. A peer goes HELLO -> HELD (only when its hello announced some) -> SNAPSHOT
 * -> STEADY. From SNAPSHOT on it has a queue of requests, of which one is outstanding: the protocol
 * has no ids, the next packet is the answer to the last request. Descriptors are looked up when a
 * request is sent, not when it is queued, so no request holds one and a pod that left meanwhile is
 * skipped. A wait that takes longer than ANSWER_MS closes the connection: a late answer would be
 * taken for the next one's (stock's defect 11); ztunnel connects again and gets a snapshot.
 *
 * Adds go to the newest peer that has its snapshot, and as well, unwaited, to every one that is
 * still getting its: nothing waits behind a snapshot (stock's defect 12) and no peer misses a pod.
 * When the newest goes the one before it is the newest again, and gets all pods anew: it missed
 * those that came since. Deletes go to everybody.
 *
 * A peer of version 2 may say that it drains: it is sent deletes only, and is never the newest. Two
 * generations at an upgrade: the new one has its snapshot, the old one says that it drains, and who
 * waited on it asks again and gets the new one.
 */
#include "node-agent/serve/zds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"
#include "lib/wire/zds.h"

#define ANSWER_MS	5000 /* cni-spec 4.3 */
#define PEERS_MAX	8    /* a rolling upgrade has two */
#define HELD_MAX	4096 /* pods of one node, with much room */
#define ACCEPT_PAUSE_MS 200
#define PEER_MAGIC	0x7a645001u

enum peer_state { PEER_HELLO, PEER_HELD, PEER_SNAPSHOT, PEER_STEADY, PEER_STATE_N };

struct request {
	struct list node;
	enum zds_kind kind;
	bool snapshot; /* part of the snapshot: a Keep is allowed */
	char uid[ZDS_UID_MAX];
	struct zds_add *add; /* who waits, or NULL */
};

struct zds_peer {
	uint32_t magic;
	struct list node; /* oldest first */
	struct zds_server *server;
	int fd;
	pid_t pid;
	struct watch watch;
	struct timer timer;
	enum peer_state state;
	uint32_t version;
	bool dns; /* it answers DNS and takes the sockets for it */
	uint32_t held_left;
	struct list queue; /* requests, not sent yet */
	struct request *out;
	bool draining;
	bool blocked; /* the kernel did not take the first of the queue: EPOLLOUT is awaited */
	struct list adds;
	struct deferred dead;
};

struct zds_server {
	struct loop *loop;
	int fd;
	struct watch watch;
	struct timer pause;
	const struct zds_ops *ops;
	void *ctx;
	struct list peers;
	size_t npeers;
	uint64_t left_ms;
	uint32_t left_version;
	bool left_dns;
};

static void pump(struct zds_peer *p);

/* Newest peer that has its snapshot; without one, the newest that said hello. */
static struct zds_peer *newest(const struct zds_server *s)
{
	struct zds_peer *found = NULL;

	list_for_each (n, &s->peers) {
		struct zds_peer *p = container_of(n, struct zds_peer, node);

		if (p->draining)
			continue;
		if (p->state == PEER_STEADY ||
		    (p->state == PEER_SNAPSHOT && (found == NULL || found->state != PEER_STEADY)))
			found = p;
	}
	return found;
}

static void free_request(struct request *q)
{
	if (q != NULL && q->add != NULL)
		q->add->peer = NULL;
	free(q);
}

static void free_peer(struct deferred *d)
{
	free(container_of(d, struct zds_peer, dead));
}

static struct request *enqueue(struct zds_peer *p, enum zds_kind kind, const char *uid)
{
	struct request *q = xcalloc(1, sizeof(*q));

	q->kind = kind;
	(void)snprintf(q->uid, sizeof(q->uid), "%s", uid);
	list_append(&p->queue, &q->node);
	return q;
}

static void enqueue_add(void *arg, const char *uid)
{
	(void)enqueue(arg, ZDS_ADD, uid);
}

/* The newest may have gone, which was @before. */
static void catch_up(struct zds_server *s, const struct zds_peer *before)
{
	struct zds_peer *p = newest(s);

	if (p == NULL || p == before || p->state != PEER_STEADY)
		return;
	s->ops->each(s->ctx, enqueue_add, p);
	pump(p);
}

/* Closes the connection; everybody who waits on it is told afterwards. */
static void peer_close(struct zds_peer *p, const char *why)
{
	struct zds_server *s = p->server;
	const struct zds_peer *before = newest(s);
	struct list waiting, *n;

	if (p->magic != PEER_MAGIC)
		return;
	p->magic = OBJ_DEAD;
	log_info("zds", "ztunnel disconnected pid=%d version=%u reason=\"%s\"", (int)p->pid,
		 p->version, why);
	loop_unwatch(s->loop, &p->watch);
	loop_timer_cancel(&p->timer);
	p->fd = xclose(p->fd);
	list_remove(&p->node);
	s->npeers--;
	if (p->state > PEER_HELLO && !p->draining) {
		s->left_ms = loop_now_ms(s->loop);
		s->left_version = p->version;
		s->left_dns = p->dns;
	}
	list_init(&waiting);
	list_splice(&waiting, &p->adds);
	free_request(take_ptr(p->out));
	while ((n = list_pop(&p->queue)) != NULL)
		free_request(container_of(n, struct request, node));
	while ((n = list_pop(&waiting)) != NULL) {
		struct zds_add *a = container_of(n, struct zds_add, node);

		a->peer = NULL;
		a->done(a, -ECONNRESET, "the connection to ztunnel ended");
	}
	loop_defer(s->loop, &p->dead, free_peer);
	catch_up(s, before);
	s->ops->peers_changed(s->ctx);
}

static void on_timeout(struct timer *t)
{
	struct zds_peer *p = container_of(t, struct zds_peer, timer);

	OBJ_CHECK(p, PEER_MAGIC);
	peer_close(p, p->state == PEER_HELLO  ? "no hello within 5s"
		      : p->state == PEER_HELD ? "no Held message within 5s"
					      : "no answer within 5s");
}

static void enqueue_snapshot(void *arg, const char *uid)
{
	enqueue(arg, ZDS_ADD, uid)->snapshot = true;
}

/* Fills the message and its descriptors; false when the request has become pointless. */
static bool prepare(struct zds_peer *p, const struct request *q, struct zds_msg *m, int *fds,
		    size_t *nfds)
{
	struct zds_pod pod = {.netns_fd = -1, .credential = -1};
	enum zds_describe d;

	*m = (struct zds_msg){.kind = q->kind};
	memcpy(m->uid, q->uid, sizeof(m->uid));
	*nfds = 0;
	if (q->kind != ZDS_ADD)
		return true;
	d = p->server->ops->describe(p->server->ctx, q->uid, p->version, p->dns, &pod);
	if (d == ZDS_POD_KEEP && q->snapshot) {
		m->kind = ZDS_KEEP;
		return true;
	}
	if (d != ZDS_POD_ADD)
		return false;
	m->has_info = true;
	(void)snprintf(m->name, sizeof(m->name), "%s", pod.name);
	(void)snprintf(m->ns, sizeof(m->ns), "%s", pod.ns);
	(void)snprintf(m->sa, sizeof(m->sa), "%s", pod.sa);
	fds[(*nfds)++] = pod.netns_fd;
	for (int i = 0; p->version >= ZDS_V2_CUSTODY && pod.listeners != NULL && i < MESH_L_N;
	     i++) {
		m->ports[m->nports++] = mesh_listener_port[i];
		fds[(*nfds)++] = pod.listeners[i];
	}
	m->dns_not_captured = p->dns && pod.dns_not_captured;
	for (int i = 0; p->dns && pod.dns != NULL && i < MESH_DNS_N; i++) {
		if (pod.dns[i] < 0)
			continue;
		m->ports[m->nports++] = MESH_PORT_DNS;
		fds[(*nfds)++] = pod.dns[i];
	}
	if (p->version < ZDS_V3_KEYS)
		return true;
	m->agent_version = ZDS_V3_KEYS;
	m->credential = pod.credential >= 0;
	if (m->credential)
		fds[(*nfds)++] = pod.credential;
	return true;
}

/* Takes the waiter off a request and tells it. */
static void tell_waiter(struct request *q, int result, const char *error)
{
	struct zds_add *a = q->add;

	q->add = NULL;
	if (a == NULL)
		return;
	list_remove(&a->node);
	a->peer = NULL;
	a->done(a, result, error);
}

/* Sends one request: 0, -EAGAIN, or another -errno after which the peer is gone. */
static int send_request(struct zds_peer *p, const struct zds_msg *m, const int *fds, size_t nfds)
{
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
	struct err err = {0};
	int n = zds_encode(m, buf, &err), r;

	if (n < 0) {
		log_error("zds", "message for uid=%s cannot be sent: %s", m->uid, err.msg);
		return n;
	}
	r = fd_send(p->fd, buf, (size_t)n, fds, nfds);
	if (r < 0 && r != -EAGAIN)
		log_warn("zds", "send to ztunnel pid=%d: %s", (int)p->pid, strerror(-r));
	return r;
}

static void set_blocked(struct zds_peer *p, bool blocked)
{
	if (p->blocked == blocked)
		return;
	p->blocked = blocked;
	if (loop_rewatch(p->server->loop, &p->watch, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN) < 0)
		log_error("zds", "cannot change what is awaited from pid=%d", (int)p->pid);
}

/* Sends the next request if none is outstanding. */
static void pump(struct zds_peer *p)
{
	while (p->magic == PEER_MAGIC && p->out == NULL && !list_empty(&p->queue)) {
		struct request *q = container_of(p->queue.next, struct request, node);
		int fds[2 + MESH_SOCKETS_N], r;
		struct zds_msg m;
		size_t nfds;

		if (!prepare(p, q, &m, fds, &nfds)) {
			list_remove(&q->node);
			tell_waiter(q, -ECANCELED, "the pod left while it was being announced");
			free_request(q);
			continue;
		}
		r = send_request(p, &m, fds, nfds);
		if (!timer_armed(&p->timer) || r == 0)
			loop_timer_set(p->server->loop, &p->timer, ANSWER_MS, on_timeout);
		if (r == -EAGAIN) {
			set_blocked(p, true);
			return;
		}
		if (r < 0) {
			/* its watch sees the end and closes: callers may be walking the peers */
			(void)shutdown(p->fd, SHUT_RDWR);
			return;
		}
		set_blocked(p, false);
		list_remove(&q->node);
		q->kind = m.kind;
		p->out = q;
	}
}

static void start_snapshot(struct zds_peer *p)
{
	struct zds_server *s = p->server;

	p->state = PEER_SNAPSHOT;
	s->ops->peers_changed(s->ctx);
	if (p->magic != PEER_MAGIC)
		return;
	s->ops->each(s->ctx, enqueue_snapshot, p);
	enqueue(p, ZDS_SNAPSHOT_SENT, "");
	pump(p);
}

static void on_hello(struct zds_peer *p, const uint8_t *buf, size_t n)
{
	struct zds_msg m = {0};
	struct err err = {0};

	if (zds_decode_hello(buf, n, &m, &err) < 0) {
		log_warn("zds", "hello from pid=%d: %s", (int)p->pid, err.msg);
		peer_close(p, "bad hello");
		return;
	}
	p->version = m.version != 0 ? m.version : ZDS_V1;
	p->dns = m.dns;
	p->held_left = m.version >= ZDS_V2_CUSTODY ? m.held : 0;
	log_info("zds", "ztunnel connected pid=%d version=%u held=%u", (int)p->pid, p->version,
		 p->held_left);
	if (p->held_left > HELD_MAX) {
		peer_close(p, "hello announces more held pods than a node has");
		return;
	}
	if (p->held_left != 0) {
		p->state = PEER_HELD;
		loop_timer_set(p->server->loop, &p->timer, ANSWER_MS, on_timeout);
		return;
	}
	loop_timer_cancel(&p->timer);
	start_snapshot(p);
}

static void on_held(struct zds_peer *p, const uint8_t *buf, size_t n, const int *fds, size_t nfds)
{
	struct zds_msg m = {0};
	struct err err = {0};

	if (zds_decode_response(buf, n, &m, &err) < 0 || m.kind != ZDS_HELD ||
	    nfds != m.nports + 1) {
		log_warn("zds", "Held from pid=%d: %s", (int)p->pid,
			 err.msg[0] != '\0' ? err.msg
					    : "expected Held with the namespace and one descriptor "
					      "for each port");
		peer_close(p, "bad Held message");
		return;
	}
	p->server->ops->held(p->server->ctx, m.uid, fds[0], fds + 1, m.ports, m.nports);
	if (--p->held_left != 0) {
		loop_timer_set(p->server->loop, &p->timer, ANSWER_MS, on_timeout);
		return;
	}
	loop_timer_cancel(&p->timer);
	start_snapshot(p);
}

static void snapshot_finished(struct zds_peer *p)
{
	p->state = PEER_STEADY;
	log_info("zds", "snapshot sent pid=%d", (int)p->pid);
	p->server->ops->peers_changed(p->server->ctx);
}

/* Whoever waits for this peer's answer is told to ask again; a request that is out stays out. */
static void abandon_adds(struct zds_peer *p)
{
	struct list waiting, *n;

	list_init(&waiting);
	list_splice(&waiting, &p->adds);
	if (p->out != NULL)
		p->out->add = NULL;
	list_for_each_safe (i, &p->queue) {
		struct request *q = container_of(i, struct request, node);

		q->add = NULL;
		if (q->kind == ZDS_DEL)
			continue;
		list_remove(&q->node);
		free(q);
	}
	while ((n = list_pop(&waiting)) != NULL) {
		struct zds_add *a = container_of(n, struct zds_add, node);

		a->peer = NULL;
		a->done(a, -ECONNRESET, "ztunnel drains");
	}
}

static void on_draining(struct zds_peer *p)
{
	struct zds_server *s = p->server;
	const struct zds_peer *before = newest(s);

	if (p->draining || p->version < ZDS_V2_CUSTODY) {
		peer_close(p, p->draining ? "says again that it drains"
					  : "version 1 has no message about draining");
		return;
	}
	log_info("zds", "ztunnel drains pid=%d", (int)p->pid);
	p->draining = true;
	s->left_ms = loop_now_ms(s->loop);
	s->left_version = p->version;
	s->left_dns = p->dns;
	if (p->out == NULL) { /* the first of the queue may have been waiting for room */
		loop_timer_cancel(&p->timer);
		set_blocked(p, false);
	}
	abandon_adds(p);
	pump(p);
	catch_up(s, before);
	s->ops->peers_changed(s->ctx);
}

static void on_answer(struct zds_peer *p, const struct zds_msg *m)
{
	struct request *q;

	loop_timer_cancel(&p->timer);
	q = take_ptr(p->out);
	if (m->error[0] != '\0' && !p->draining)
		log_warn("zds", "ztunnel refuses kind=%d uid=%s: %s", (int)q->kind, q->uid,
			 m->error);
	if (p->draining)
		; /* what it says about pods is of no use any more */
	else if (q->kind == ZDS_SNAPSHOT_SENT)
		snapshot_finished(p);
	else if (q->kind == ZDS_ADD || q->kind == ZDS_KEEP)
		p->server->ops->acked(p->server->ctx, q->uid, m->error);
	tell_waiter(q, m->error[0] != '\0' ? -EREMOTEIO : 0, m->error);
	free_request(q);
	pump(p);
}

static void on_credential(struct zds_peer *p, const struct zds_msg *m, const int *fds, size_t nfds)
{
	if (p->version < ZDS_V3_KEYS || nfds != 1)
		peer_close(p, "a credential without its descriptor, or not in version 3");
	else
		p->server->ops->credential(p->server->ctx, m->identity, fds[0]);
}

static void on_response(struct zds_peer *p, const uint8_t *buf, size_t n, const int *fds,
			size_t nfds)
{
	struct zds_msg m = {0};
	struct err err = {0};

	if (zds_decode_response(buf, n, &m, &err) < 0 || m.kind == ZDS_HELD) {
		log_warn("zds", "answer from pid=%d: %s", (int)p->pid,
			 err.msg[0] != '\0' ? err.msg : "expected Ack");
		peer_close(p, "bad answer");
	} else if (m.kind == ZDS_CREDENTIAL) {
		on_credential(p, &m, fds, nfds);
	} else if (nfds != 0) {
		peer_close(p, "unexpected descriptor");
	} else if (m.kind == ZDS_DRAINING) {
		on_draining(p);
	} else if (p->out == NULL) {
		peer_close(p, "unsolicited message");
	} else {
		on_answer(p, &m);
	}
}

static void dispatch(struct zds_peer *p, const uint8_t *buf, size_t n, const int *fds, size_t nfds)
{
	if (p->state == PEER_HELD) {
		on_held(p, buf, n, fds, nfds);
		return;
	}
	if (p->state != PEER_HELLO)
		on_response(p, buf, n, fds, nfds);
	else if (nfds != 0)
		peer_close(p, "unexpected descriptor");
	else
		on_hello(p, buf, n);
}

static void on_peer(struct watch *w, uint32_t events)
{
	struct zds_peer *p = container_of(w, struct zds_peer, watch);

	OBJ_CHECK(p, PEER_MAGIC);
	if ((events & EPOLLOUT) && p->blocked) {
		pump(p);
		if (p->magic != PEER_MAGIC)
			return;
	}
	/* a budget: one peer cannot keep the loop from the others */
	for (int i = 0; i < 16 && p->magic == PEER_MAGIC; i++) {
		uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
		int fds[LIMIT_ZDS_FDS];
		struct err err = {0};
		size_t nfds = 0;
		ssize_t n = fd_recv(p->fd, buf, sizeof(buf), fds, LIMIT_ZDS_FDS, &nfds, &err);

		if (n == -EAGAIN)
			return;
		if (n <= 0)
			peer_close(p, n == 0 ? "end of connection" : err.msg);
		else
			dispatch(p, buf, (size_t)n, fds, nfds);
		for (size_t k = 0; k < nfds; k++)
			(void)xclose(fds[k]);
	}
}

static void accept_peer(struct zds_server *s, int fd)
{
	struct zds_peer *p;
	uid_t uid = (uid_t)-1;
	pid_t pid = 0;

	if (fd_peer_cred(fd, &uid, &pid) < 0 || uid != 0) {
		log_limited(LOG_LV_WARN, "zds",
			    "connection refused: peer uid=%u pid=%d is not root", (unsigned int)uid,
			    (int)pid);
		(void)xclose(fd);
		return;
	}
	if (s->npeers == PEERS_MAX) {
		log_limited(LOG_LV_WARN, "zds", "connection of pid=%d refused: %d are open already",
			    (int)pid, PEERS_MAX);
		(void)xclose(fd);
		return;
	}
	p = xcalloc(1, sizeof(*p));
	p->magic = PEER_MAGIC;
	p->server = s;
	p->fd = fd;
	p->pid = pid;
	list_init(&p->queue);
	list_init(&p->adds);
	if (loop_watch(s->loop, &p->watch, fd, EPOLLIN, on_peer) < 0) {
		(void)xclose(fd);
		free(p);
		return;
	}
	list_append(&s->peers, &p->node);
	s->npeers++;
	loop_timer_set(s->loop, &p->timer, ANSWER_MS, on_timeout);
}

static void on_listen(struct watch *w, uint32_t events);

static void on_pause_over(struct timer *t)
{
	struct zds_server *s = container_of(t, struct zds_server, pause);
	struct err err = {0};

	if (zds_server_open(s, &err) == 0)
		return;
	log_limited(LOG_LV_ERROR, "zds", "%s; trying again", err.msg);
	loop_timer_set(s->loop, &s->pause, ACCEPT_PAUSE_MS, on_pause_over);
}

static void on_listen(struct watch *w, uint32_t events)
{
	struct zds_server *s = container_of(w, struct zds_server, watch);

	(void)events;
	for (int i = 0; i < PEERS_MAX; i++) {
		int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			accept_peer(s, fd);
			continue;
		}
		if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
			return;
		/* out of descriptors or memory: the socket stays readable, so look away a while */
		log_limited(LOG_LV_WARN, "zds", "accept: %s", strerror(errno));
		loop_unwatch(s->loop, &s->watch);
		loop_timer_set(s->loop, &s->pause, ACCEPT_PAUSE_MS, on_pause_over);
		return;
	}
}

struct zds_server *zds_server_new(struct loop *l, int listen_fd, const struct zds_ops *ops,
				  void *ctx)
{
	struct zds_server *s = xcalloc(1, sizeof(*s));

	s->loop = l;
	s->fd = listen_fd;
	s->ops = ops;
	s->ctx = ctx;
	list_init(&s->peers);
	return s;
}

int zds_server_open(struct zds_server *s, struct err *err)
{
	int r = loop_watch(s->loop, &s->watch, s->fd, EPOLLIN, on_listen);

	return r < 0 ? err_errno(err, -r, "watch the ZDS socket") : 0;
}

struct zds_server *zds_server_free(struct zds_server *s)
{
	if (s == NULL)
		return NULL;
	loop_unwatch(s->loop, &s->watch);
	loop_timer_cancel(&s->pause);
	(void)xclose(s->fd);
	while (!list_empty(&s->peers))
		peer_close(container_of(s->peers.next, struct zds_peer, node), "agent stops");
	free(s);
	return NULL;
}

int zds_server_add(struct zds_server *s, struct zds_add *a, const char *uid,
		   void (*done)(struct zds_add *, int, const char *))
{
	struct zds_peer *to = newest(s);
	struct request *q;

	if (to == NULL)
		return -ENOTCONN;
	bug_on(a->peer != NULL);
	(void)snprintf(a->uid, sizeof(a->uid), "%s", uid);
	a->done = done;
	a->peer = to;
	list_append(&to->adds, &a->node);
	q = enqueue(to, ZDS_ADD, uid);
	q->add = a;
	list_for_each (n, &s->peers) {
		struct zds_peer *p = container_of(n, struct zds_peer, node);

		if (p != to && p->state == PEER_SNAPSHOT && !p->draining)
			enqueue(p, ZDS_ADD, uid);
	}
	pump(to);
	return 0;
}

void zds_server_add_cancel(struct zds_add *a)
{
	struct zds_peer *p = a->peer;

	if (p == NULL)
		return;
	if (p->out != NULL && p->out->add == a)
		p->out->add = NULL;
	list_for_each (n, &p->queue) {
		struct request *q = container_of(n, struct request, node);

		if (q->add == a)
			q->add = NULL;
	}
	list_remove(&a->node);
	a->peer = NULL;
}

void zds_server_del(struct zds_server *s, const char *uid)
{
	list_for_each_safe (n, &s->peers) {
		struct zds_peer *p = container_of(n, struct zds_peer, node);

		if (p->state != PEER_SNAPSHOT && p->state != PEER_STEADY)
			continue;
		enqueue(p, ZDS_DEL, uid);
		pump(p);
	}
}

uint32_t zds_server_version(const struct zds_server *s)
{
	const struct zds_peer *p = newest(s);

	return p != NULL ? p->version : 0;
}

bool zds_server_dns(const struct zds_server *s, bool *ret_served)
{
	const struct zds_peer *p = newest(s);
	uint32_t version = p != NULL ? p->version : s->left_version;

	*ret_served = version == ZDS_V1 || (p != NULL ? p->dns : s->left_dns);
	return version != 0;
}

uint64_t zds_server_left_ms(const struct zds_server *s, uint32_t *ret_version)
{
	*ret_version = s->left_version;
	return s->left_ms;
}

void zds_server_each_peer(const struct zds_server *s,
			  void (*fn)(void *, const struct zds_peer_info *), void *arg)
{
	const struct zds_peer *last = newest(s);

	list_for_each (n, &s->peers) {
		const struct zds_peer *p = container_of(n, struct zds_peer, node);
		struct zds_peer_info i = {.pid = p->pid,
					  .version = p->version,
					  .snapshot = p->state == PEER_STEADY,
					  .newest = p == last,
					  .draining = p->draining,
					  .dns = p->dns || p->version == ZDS_V1};

		fn(arg, &i);
	}
}
