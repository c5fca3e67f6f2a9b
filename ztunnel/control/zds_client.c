/* SPDX-License-Identifier: Apache-2.0
 * zds_client.c: see zds_client.h.
 *
 * Theory of operation.
 *
 *   Waiting --timer--> Announcing --hello and held sent--> Serving --any error--> Waiting
 *
 * Announcing sends the hello and, in version 2, one Held packet per pod that we serve (the agent
 * may have lost its duplicates); it may take several turns when the socket is full, and nothing is
 * read before it is done. Held packets go only to an agent that has sent sockets before: a stock
 * agent reads whatever comes as an answer to its messages, by position, and would be out of step
 * for ever. When a stock agent takes the place of ours, its first add (without sockets) tells, and
 * the connection is made anew without an offer. While the process drains an agent of ours goes on
 * telling of removals, since a pod that leaves the mesh waits for its connections to end. One that
 * was started anew is told of the draining right after the hello, and offers and the end of its
 * snapshot mean nothing. Serving
 * reads one packet at a time and answers it before the next. A pod that could not be started is
 * pending: refused to the agent and tried again every 5 s. Running pods outlive the connection
 * (ztunnel-spec 3.7). An agent that says version 3 keeps the certificates for our next life: it
 * gets them after its snapshot and when they are renewed, between its requests and our answers, and
 * gives that of a pod back with the pod. Unlike stock, a protocol error costs the connection and
 * not the process (spec 17, item 53).
 */
#include "ztunnel/control/zds_client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/wire/zds.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/certs.h"
#include "ztunnel/control/credential_fd.h"
#include "ztunnel/control/pods.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/observe/metrics.h"

#define CONNECT_FIRST_MS 20
#define CONNECT_MAX_MS	 15000
#define PENDING_RETRY_MS 5000
#define PACKETS_PER_TURN 32

struct pending {
	struct list node;
	struct zds_msg add;
	int netns, listeners[MESH_L_N], dns[MESH_DNS_N];
};

struct credential { /* waits for the socket to take it */
	struct list node;
	int fd;
	char identity[ZDS_SPIFFE_MAX];
};

struct zds_client {
	struct loop *loop;
	char *path;
	uint32_t version;
	bool dns; /* we answer DNS where the agent's rules lead to */
	struct pods *pods;
	struct workers *workers;
	struct certs *certs;
	int fd;
	struct watch watch;
	struct timer connect_timer, pending_timer;
	uint64_t backoff_ms;
	bool announced, snapshot, draining;
	bool told;  /* that we drain, on the present connection */
	bool keeps; /* the agent speaks version 3: it said so with its last add */
	struct list credentials;
	bool offer;	    /* the agent speaks version 2: it sent sockets with its last add */
	unsigned int epoch; /* of the present connection; never 0 */
	char **held;
	size_t nheld, next_held;
	struct list pending;
};

/* What came with one packet; whatever is still here at the end is closed. */
struct packet {
	struct zds_msg m;
	int fds[LIMIT_ZDS_FDS];
	size_t nfds;
};

static void packet_fini(struct packet *p)
{
	for (size_t i = 0; i < p->nfds; i++)
		(void)xclose(p->fds[i]);
}

static void pending_free(struct zds_client *z, struct pending *p)
{
	list_remove(&p->node);
	(void)xclose(p->netns);
	mesh_listeners_close(p->listeners);
	mesh_dns_close(p->dns);
	free(p);
	metric_add(M_ZDS_PENDING, -1);
	if (list_empty(&z->pending))
		loop_timer_cancel(&z->pending_timer);
}

static void pending_drop(struct zds_client *z, const char *uid)
{
	list_for_each_safe (n, &z->pending) {
		struct pending *p = container_of(n, struct pending, node);

		if (uid == NULL || strcmp(p->add.uid, uid) == 0)
			pending_free(z, p);
	}
}

static void free_held(struct zds_client *z)
{
	for (size_t i = 0; i < z->nheld; i++)
		free(z->held[i]);
	free(z->held);
	z->held = NULL;
	z->nheld = z->next_held = 0;
}

static void on_connect_timer(struct timer *t);

static void credential_free(struct credential *c)
{
	list_remove(&c->node);
	(void)xclose(c->fd);
	free(c);
}

static void disconnect(struct zds_client *z)
{
	loop_unwatch(z->loop, &z->watch);
	z->fd = xclose(z->fd);
	z->keeps = false;
	while (!list_empty(&z->credentials))
		credential_free(container_of(z->credentials.next, struct credential, node));
	free_held(z);
	pending_drop(z, NULL);
	z->announced = z->snapshot = z->told = false;
	if (z->draining && !z->offer)
		return; /* a stock one would give us pods, and must not */
	loop_timer_set(z->loop, &z->connect_timer, z->backoff_ms, on_connect_timer);
	z->backoff_ms = z->backoff_ms * 2 < CONNECT_MAX_MS ? z->backoff_ms * 2 : CONNECT_MAX_MS;
}

static int send_msg(struct zds_client *z, const struct zds_msg *m, const int *fds, size_t nfds)
{
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
	int n = zds_encode(m, buf, NULL);

	return n < 0 ? n : fd_send(z->fd, buf, (size_t)n, fds, nfds);
}

/* The agent waits for each answer, so the socket has room; if not, it is no agent of ours. */
static bool ack(struct zds_client *z, const char *fmt, ...) _printf_(2, 3);
static bool ack(struct zds_client *z, const char *fmt, ...)
{
	struct zds_msg m = {.kind = ZDS_ACK};
	va_list ap;
	int r;

	va_start(ap, fmt);
	(void)vsnprintf(m.error, sizeof(m.error), fmt, ap);
	va_end(ap);
	r = send_msg(z, &m, NULL, 0);
	if (r != 0)
		log_warn("zds", "cannot answer the agent: %s", strerror(-r));
	return r == 0;
}

static int send_held(struct zds_client *z, const char *uid)
{
	struct zds_msg m = {.kind = ZDS_HELD, .nports = MESH_L_N};
	int fds[1 + MESH_SOCKETS_N], dns[MESH_DNS_N];

	if (!workers_pod_fds(z->workers, uid, &fds[0], &fds[1], dns))
		return -ENOENT; /* the hello promised it: start over */
	(void)snprintf(m.uid, sizeof(m.uid), "%s", uid);
	memcpy(m.ports, mesh_listener_port, sizeof(mesh_listener_port));
	for (int i = 0; i < MESH_DNS_N; i++) {
		if (dns[i] < 0)
			continue;
		fds[1 + m.nports] = dns[i];
		m.ports[m.nports++] = MESH_PORT_DNS;
	}
	return send_msg(z, &m, fds, 1 + m.nports);
}

/* Goes on with what has to be sent first. 0 when done, -EAGAIN when the socket is full. */
static int announce(struct zds_client *z)
{
	int r = 0;

	if (!z->announced) {
		struct zds_msg m = {.kind = ZDS_HELLO,
				    .version = z->version,
				    .held = (uint32_t)z->nheld,
				    .dns = z->dns && z->version >= ZDS_V2_CUSTODY};

		r = send_msg(z, &m, NULL, 0);
		z->announced = r == 0;
	}
	while (r == 0 && z->next_held < z->nheld) {
		r = send_held(z, z->held[z->next_held]);
		if (r == 0)
			z->next_held++;
	}
	if (r == 0 && z->draining && !z->told) {
		r = send_msg(z, &(struct zds_msg){.kind = ZDS_DRAINING}, NULL, 0);
		z->told = r == 0;
		if (z->told)
			log_info("zds", "the agent knows that we drain");
	}
	return r;
}

static bool announcing(const struct zds_client *z)
{
	return !z->announced || z->next_held < z->nheld || (z->draining && !z->told);
}

static int start_pod(struct zds_client *z, struct zds_msg *m, int netns, int listeners[MESH_L_N],
		     int dns[MESH_DNS_N], struct err *err)
{
	return pods_add(z->pods, m, netns, listeners, dns, z->epoch, err);
}

static void on_pending_timer(struct timer *t);

/* Keeps duplicates for the next try; pods_add() consumes what it is given. */
static struct pending *pending_new(const struct packet *p, const int listeners[MESH_L_N],
				   const int dns[MESH_DNS_N])
{
	struct pending *n = xcalloc(1, sizeof(*n));

	n->add = p->m;
	n->netns = fd_dup(p->fds[0]);
	for (int i = 0; i < MESH_L_N; i++)
		n->listeners[i] = listeners[i] >= 0 ? fd_dup(listeners[i]) : -1;
	for (int i = 0; i < MESH_DNS_N; i++)
		n->dns[i] = dns[i] >= 0 ? fd_dup(dns[i]) : -1;
	return n;
}

static int try_pending(struct zds_client *z, struct pending *p, struct err *err)
{
	int l[MESH_L_N], d[MESH_DNS_N], ns = fd_dup(p->netns);

	if (ns < 0)
		return err_errno(err, -ns, "duplicate a descriptor");
	for (int i = 0; i < MESH_L_N; i++)
		l[i] = p->listeners[i] >= 0 ? fd_dup(p->listeners[i]) : -1;
	for (int i = 0; i < MESH_DNS_N; i++)
		d[i] = p->dns[i] >= 0 ? fd_dup(p->dns[i]) : -1;
	return start_pod(z, &p->add, ns, l, d, err);
}

static void on_pending_timer(struct timer *t)
{
	struct zds_client *z = container_of(t, struct zds_client, pending_timer);

	loop_timer_set(z->loop, &z->pending_timer, PENDING_RETRY_MS, on_pending_timer);
	list_for_each_safe (n, &z->pending) {
		struct pending *p = container_of(n, struct pending, node);
		struct err err = {0};

		if (try_pending(z, p, &err) == 0)
			pending_free(z, p);
		else
			log_warn("zds", "pod still cannot be started: %s pod=%s/%s uid=%s", err.msg,
				 p->add.ns, p->add.name, p->add.uid);
	}
}

static int take_dns(int fd, int ret[MESH_DNS_N], struct err *err)
{
	enum mesh_dns kind;

	if (mesh_dns_check(fd, &kind, err) != 0)
		return -EPROTO;
	if (ret[kind] >= 0)
		return err_set(err, EPROTO, "a DNS socket is there twice");
	ret[kind] = fd;
	return 0;
}

/* Assigns the received sockets by their port; each must be there once and must listen. */
static int sort_listeners(struct packet *p, int ret[MESH_L_N], int ret_dns[MESH_DNS_N],
			  struct err *err)
{
	size_t n = 0;

	for (size_t i = 0; i < p->m.nports; i++) {
		int at = 0;

		if (p->m.ports[i] == MESH_PORT_DNS) {
			if (take_dns(p->fds[1 + i], ret_dns, err) != 0)
				return -EPROTO;
			continue;
		}
		n++;
		while (at < MESH_L_N && mesh_listener_port[at] != p->m.ports[i])
			at++;
		if (at == MESH_L_N || ret[at] >= 0)
			return err_set(err, EPROTO, "listener port %u is unknown or there twice",
				       p->m.ports[i]);
		if (mesh_listener_check(p->fds[1 + i], p->m.ports[i], err) != 0)
			return -EPROTO;
		ret[at] = p->fds[1 + i];
	}
	if (p->m.nports != 0 && n != MESH_L_N)
		return err_set(err, EPROTO, "expected %d listeners or none, got %zu", MESH_L_N, n);
	return 0;
}

/* ---- credentials ---- */

/* Sends what waits, as far as the socket takes it. */
static void send_credentials(struct zds_client *z)
{
	int r = 0;

	while (r == 0 && z->fd >= 0 && !list_empty(&z->credentials)) {
		struct credential *c = container_of(z->credentials.next, struct credential, node);
		struct zds_msg m = {.kind = ZDS_CREDENTIAL};

		(void)snprintf(m.identity, sizeof(m.identity), "%s", c->identity);
		r = send_msg(z, &m, &c->fd, 1);
		if (r != -EAGAIN)
			credential_free(c);
	}
	if (r != 0 && r != -EAGAIN)
		log_limited(LOG_LV_WARN, "zds", "cannot hand a credential to the agent: %s",
			    strerror(-r));
	if (z->fd >= 0 && z->watch.added &&
	    loop_rewatch(z->loop, &z->watch, r == -EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN) != 0)
		log_limited(LOG_LV_WARN, "zds", "cannot watch the agent's socket");
}

static void queue_credential(struct zds_client *z, const struct tls_identity *id)
{
	struct err err = {0};
	struct credential *c;
	int fd = credential_seal(id, &err);

	if (fd < 0) {
		log_limited(LOG_LV_WARN, "zds", "a credential cannot be kept: %s identity=%s",
			    err.msg, tls_identity_spiffe(id));
		return;
	}
	c = xcalloc(1, sizeof(*c));
	c->fd = fd;
	(void)snprintf(c->identity, sizeof(c->identity), "%s", tls_identity_spiffe(id));
	list_append(&z->credentials, &c->node);
}

/* After its snapshot the agent gets what it has not given us itself. */
static void offer_credential(void *ctx, const struct cert_info *i)
{
	struct zds_client *z = ctx;

	if (i->id != NULL && i->from != z->epoch)
		queue_credential(z, i->id);
}

static void on_issued(void *ctx, struct tls_identity *id)
{
	struct zds_client *z = ctx;

	if (!z->keeps || !z->snapshot || z->draining)
		return;
	queue_credential(z, id);
	send_credentials(z);
}

static bool on_add(struct zds_client *z, struct packet *p)
{
	int listeners[MESH_L_N] = {-1, -1, -1}, dns[MESH_DNS_N] = {-1, -1, -1, -1};
	_cleanup_close_ int credential = p->m.credential ? take_fd(p->fds[p->nfds - 1]) : -1;
	struct pending *keep;
	struct err err = {0};

	if (credential >= 0)
		p->nfds--;
	if (z->draining) {
		z->offer = p->m.nports != 0;
		/* without sockets it is a stock agent that came in the place of ours */
		return ack(z, "%s", "draining: no pod is taken any more") && z->offer;
	}
	if (!p->m.has_info) {
		(void)ack(z, "failure to process message : workload_info is missing");
		return false;
	}
	z->offer = p->m.nports != 0;
	z->keeps = z->version >= ZDS_V3_KEYS && p->m.agent_version >= ZDS_V3_KEYS;
	if (!z->offer && z->nheld != 0) {
		log_info("zds",
			 "the agent takes no sockets back: connecting again without an offer");
		z->backoff_ms = CONNECT_FIRST_MS;
		return false;
	}
	if (sort_listeners(p, listeners, dns, &err) != 0) {
		(void)ack(z, "failure to process message : %s", err.msg);
		return false;
	}
	pending_drop(z, p->m.uid);
	keep = pending_new(p, listeners, dns);
	p->nfds = 0; /* they all move on */
	list_append(&z->pending, &keep->node);
	metric_add(M_ZDS_PENDING, 1);
	if (start_pod(z, &p->m, p->fds[0], listeners, dns, &err) == 0) {
		pending_free(z, keep);
		if (credential >= 0)
			pods_credential(z->pods, p->m.uid, credential, z->epoch);
		return ack(z, "%s", "");
	}
	log_error("zds", "pod cannot be started, trying again every %d s: %s pod=%s/%s uid=%s",
		  PENDING_RETRY_MS / 1000, err.msg, p->m.ns, p->m.name, p->m.uid);
	if (!timer_armed(&z->pending_timer))
		loop_timer_set(z->loop, &z->pending_timer, PENDING_RETRY_MS, on_pending_timer);
	return ack(z, "failure to start proxy : %s", err.msg);
}

static bool on_del(struct zds_client *z, const char *uid)
{
	pending_drop(z, uid);
	if (z->snapshot || z->draining)
		pods_del(z->pods, uid);
	else
		pods_unmark(z->pods, uid); /* stays until the snapshot is complete */
	return ack(z, "%s", "");
}

static bool after_snapshot(struct zds_client *z, const char *what)
{
	(void)ack(z, "failure to process message : %s after the snapshot", what);
	log_error("zds", "protocol error: %s after the snapshot; connecting again", what);
	return false;
}

static bool on_snapshot(struct zds_client *z)
{
	if (z->draining) /* an agent that just started: what it did not list is not gone */
		return ack(z, "%s", "");
	pods_prune(z->pods, z->epoch);
	z->snapshot = true;
	z->backoff_ms = CONNECT_FIRST_MS;
	log_info("zds", "snapshot received pods=%zu", pods_count(z->pods));
	if (!ack(z, "%s", ""))
		return false;
	if (z->keeps && !z->draining) {
		certs_each(z->certs, offer_credential, z);
		send_credentials(z);
	}
	return true;
}

static bool dispatch(struct zds_client *z, struct packet *p)
{
	switch (p->m.kind) {
	case ZDS_ADD:
		return on_add(z, p);
	case ZDS_DEL:
		return on_del(z, p->m.uid);
	case ZDS_KEEP:
		if (z->snapshot)
			return after_snapshot(z, "keep");
		pods_keep(z->pods, p->m.uid, z->epoch);
		return ack(z, "%s", "");
	case ZDS_SNAPSHOT_SENT:
		return z->snapshot ? after_snapshot(z, "snapshot") : on_snapshot(z);
	case ZDS_HELLO:
	case ZDS_ACK:
	case ZDS_HELD:
	case ZDS_DRAINING:
	case ZDS_CREDENTIAL:
	case ZDS_KIND_N:
		break;
	}
	(void)ack(z, "failure to read message : not a request");
	return false;
}

/* How many descriptors must come with it. */
static int check_fds(const struct packet *p, struct err *err)
{
	size_t want = p->m.kind == ZDS_ADD ? 1 + p->m.nports + p->m.credential : 0;

	if (p->nfds == want)
		return 0;
	return err_set(err, EPROTO, "%s with %zu descriptors, expected %zu",
		       p->m.kind == ZDS_ADD ? "add" : "message", p->nfds, want);
}

/* Reads and answers one packet. 1: go on; 0: nothing there; -1: the connection is finished. */
static int serve_packet(struct zds_client *z)
{
	_cleanup_(packet_fini) struct packet p = {0};
	uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
	struct err err = {0};
	ssize_t n = fd_recv(z->fd, buf, sizeof(buf), p.fds, ARRAY_LEN(p.fds), &p.nfds, &err);

	if (n == -EAGAIN)
		return 0;
	if (n == 0) {
		log_info("zds", "the agent closed the connection");
		return -1;
	}
	if (n < 0 || zds_decode_request(buf, (size_t)n, &p.m, &err) != 0 ||
	    check_fds(&p, &err) != 0) {
		log_warn("zds", "cannot read the agent's message: %s", err.msg);
		(void)ack(z, "failure to read message : %s", err.msg);
		return -1;
	}
	return dispatch(z, &p) ? 1 : -1;
}

static void on_event(struct watch *w, uint32_t events)
{
	struct zds_client *z = container_of(w, struct zds_client, watch);
	int r;

	if (announcing(z)) {
		r = announce(z);
		if (r == -EAGAIN && (events & (EPOLLERR | EPOLLHUP)) == 0)
			return;
		if (r != 0 || loop_rewatch(z->loop, &z->watch, EPOLLIN) != 0) {
			log_warn("zds", "cannot announce to the agent: %s", strerror(-r));
			disconnect(z);
			return;
		}
	}
	if ((events & EPOLLOUT) != 0)
		send_credentials(z);
	for (int i = 0; i < PACKETS_PER_TURN; i++) {
		r = serve_packet(z);
		if (r == 0)
			return;
		if (r < 0) {
			disconnect(z);
			return;
		}
	}
}

static bool peer_is_trusted(int fd, struct err *err)
{
	uid_t uid;
	pid_t pid;

	if (fd_peer_cred(fd, &uid, &pid) != 0 || (uid != 0 && uid != geteuid())) {
		(void)err_set(err, EPERM, "the process behind the socket is not root's");
		return false;
	}
	return true;
}

static int open_connection(struct zds_client *z, struct err *err)
{
	int fd = unix_connect(z->path, SOCK_SEQPACKET, true, err);
	int r;

	if (fd < 0)
		return fd;
	z->fd = fd;
	if (!peer_is_trusted(fd, err))
		return -EPERM;
	if (z->version >= ZDS_V2_CUSTODY && z->offer && !z->draining)
		z->held = pods_uids(z->pods, &z->nheld);
	r = announce(z);
	if (r != 0 && r != -EAGAIN)
		return err_errno(err, -r, "announce to %s", z->path);
	return loop_watch(z->loop, &z->watch, fd, r == 0 ? EPOLLIN : EPOLLIN | EPOLLOUT, on_event);
}

static void on_connect_timer(struct timer *t)
{
	struct zds_client *z = container_of(t, struct zds_client, connect_timer);
	struct err err = {0};

	if (++z->epoch == 0)
		z->epoch = 1;
	if (open_connection(z, &err) != 0) {
		log_warn("zds", "no connection to the agent, next try in %llu ms: %s socket=%s",
			 (unsigned long long)z->backoff_ms, err.msg, z->path);
		disconnect(z);
		return;
	}
	log_info("zds", "connected to the agent socket=%s version=%u held=%zu", z->path, z->version,
		 z->nheld);
}

struct zds_client *zds_client_new(struct loop *l, const char *path, uint32_t version, bool dns,
				  struct pods *pods, struct workers *workers, struct certs *certs)
{
	struct zds_client *z = xcalloc(1, sizeof(*z));

	z->loop = l;
	z->path = xstrdup(path);
	z->version = version;
	z->dns = dns;
	z->pods = pods;
	z->workers = workers;
	z->certs = certs;
	z->fd = -1;
	list_init(&z->credentials);
	certs_on_issued(certs, on_issued, z);
	z->backoff_ms = CONNECT_FIRST_MS;
	list_init(&z->pending);
	loop_timer_set(l, &z->connect_timer, 0, on_connect_timer);
	return z;
}

void zds_client_drain(struct zds_client *z)
{
	bool ready = z->fd >= 0 && !announcing(z);

	if (z->draining)
		return;
	z->draining = true;
	pending_drop(z, NULL);
	if (!z->offer)
		loop_timer_cancel(&z->connect_timer);
	if (z->fd >= 0 && (!z->offer || !ready || announce(z) != 0))
		disconnect(z);
}

struct zds_client *zds_client_free(struct zds_client *z)
{
	if (z == NULL)
		return NULL;
	disconnect(z);
	certs_on_issued(z->certs, NULL, NULL);
	loop_timer_cancel(&z->connect_timer);
	loop_timer_cancel(&z->pending_timer);
	free(z->path);
	free(z);
	return NULL;
}

bool zds_client_ready(const struct zds_client *z, const char **ret_why)
{
	*ret_why = z->fd < 0		      ? "not connected to the agent"
		   : !z->snapshot	      ? "no snapshot from the agent yet"
		   : !list_empty(&z->pending) ? "a pod could not be started"
					      : "";
	return **ret_why == '\0';
}
