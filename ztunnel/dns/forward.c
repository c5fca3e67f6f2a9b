/* SPDX-License-Identifier: Apache-2.0
 * forward.c: the names that are not the mesh's: asked of ztunnel's own resolvers (ztunnel-spec
 * 11.5), from the pod's namespace, over the transport that the client used.
 *
 * The servers are asked one after the other, in `attempts` rounds. An error code of one (SERVFAIL,
 * REFUSED, NOTIMP) makes the first round go on to the next; what the last one says is the answer.
 * A resolver on the loopback is the node's (systemd-resolved), not the pod's: it is asked from
 * ztunnel's own namespace.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "ztunnel/dns/dns_internal.h"

#define READS 16

static void try_failed(struct dns_req *r, const char *why);

/* ---- one upstream ---- */

static void up_free(struct deferred *d)
{
	struct dns_upstream *u = container_of(d, struct dns_upstream, defer);

	free(u->buf);
	free(u);
}

static void up_close(struct dns_upstream *u)
{
	struct loop *l = u->pod->w->loop;

	bug_on(u->req != NULL);
	loop_unwatch(l, &u->w);
	u->w.fd = xclose(u->w.fd);
	if (list_linked(&u->node)) {
		list_remove(&u->node);
		u->pod->nidle--;
	}
	loop_defer(l, &u->defer, up_free);
}

static void let_go(struct dns_upstream *u)
{
	if (u->req != NULL)
		u->req->up = NULL;
	u->req = NULL;
}

void forward_stop(struct dns_req *r)
{
	struct dns_upstream *u = r->up;

	if (u == NULL)
		return;
	let_go(u);
	up_close(u);
}

void forward_drop_idle(struct dns_pod *p)
{
	while (!list_empty(&p->idle))
		up_close(container_of(p->idle.next, struct dns_upstream, node));
}

static void on_idle_timer(struct timer *t)
{
	struct dns_pod *p = container_of(t, struct dns_pod, idle_timer);
	uint64_t now = loop_now_ms(p->w->loop);

	while (!list_empty(&p->idle)) {
		struct dns_upstream *u = container_of(p->idle.prev, struct dns_upstream, node);

		if (now - u->idle_since_ms < UPSTREAM_IDLE_MS)
			break;
		up_close(u);
	}
	if (!list_empty(&p->idle))
		loop_timer_set(p->w->loop, t, UPSTREAM_IDLE_MS / 2, on_idle_timer);
}

/* It gave an answer: it may carry another query. */
static void up_idle(struct dns_upstream *u)
{
	struct dns_pod *p = u->pod;

	let_go(u);
	if (u->tcp || u->uses >= UPSTREAM_USES || p->nidle >= UPSTREAM_IDLE) {
		up_close(u);
		return;
	}
	list_prepend(&p->idle, &u->node);
	p->nidle++;
	u->idle_since_ms = loop_now_ms(p->w->loop);
	if (!timer_armed(&p->idle_timer))
		loop_timer_set(p->w->loop, &p->idle_timer, UPSTREAM_IDLE_MS, on_idle_timer);
}

static struct dns_upstream *take_idle(struct dns_pod *p, const struct ip_port *server)
{
	list_for_each (n, &p->idle) {
		struct dns_upstream *u = container_of(n, struct dns_upstream, node);

		if (!ip_port_eq(&u->server, server))
			continue;
		list_remove(&u->node);
		p->nidle--;
		return u;
	}
	return NULL;
}

static socklen_t server_addr(const struct ip_port *s, struct sockaddr_storage *ss)
{
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;

	*ss = (struct sockaddr_storage){0};
	if (s->ip.len == 4) {
		a4->sin_family = AF_INET;
		a4->sin_port = htons(s->port);
		memcpy(&a4->sin_addr, s->ip.b, 4);
		return sizeof(*a4);
	}
	a6->sin6_family = AF_INET6;
	a6->sin6_port = htons(s->port);
	memcpy(&a6->sin6_addr, s->ip.b, 16);
	return sizeof(*a6);
}

/* In the namespace where it shall live. -1 stays where that fails. */
static void up_open(struct dns_upstream *u, uint32_t mark)
{
	struct sockaddr_storage ss;
	socklen_t len = server_addr(&u->server, &ss);
	_cleanup_close_ int fd =
		socket(ss.ss_family,
		       (u->tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	/* without its mark the query would be captured again */
	if (fd < 0 || (mark != 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0) ||
	    (connect(fd, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS))
		return;
	u->w.fd = take_fd(fd);
}

/* ---- answers ---- */

static bool asks_for_another(enum dns_rcode rcode)
{
	return rcode == DNS_SERVFAIL || rcode == DNS_REFUSED || rcode == DNS_NOTIMP;
}

/* An answer to u->req: @p of @n bytes. */
static void answered(struct dns_upstream *u, const uint8_t *p, size_t n)
{
	struct dns_req *r = u->req;
	struct dns_pod *pod = u->pod;

	if (asks_for_another(dns_rcode_of(p)) && r->tries < pod->w->resolvers.n) {
		loop_timer_cancel(&r->timer);
		up_idle(u);
		forward_start(r);
		forward_flush(pod);
		return;
	}
	let_go(u);
	req_end(r, p, n, NULL);
	up_idle(u);
}

static void on_udp(struct watch *watch, uint32_t events)
{
	struct dns_upstream *u = container_of(watch, struct dns_upstream, w);
	struct dns_worker *w = u->pod->w;

	(void)events;
	for (int i = 0; i < READS; i++) {
		ssize_t n = recv(watch->fd, w->up, sizeof(w->up), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0 && u->req != NULL) { /* nobody listens there */
			try_failed(u->req, strerrorname_np(errno));
			return;
		}
		if (n < 0) {
			up_close(u);
			return;
		}
		/* what does not match is as if it had not come */
		if (u->req == NULL || !dns_is_answer(w->up, (size_t)n, &u->req->q, u->req->id))
			continue;
		answered(u, w->up, (size_t)n);
		return;
	}
}

/* Connected: sends the query, and has room for the answer's length then. */
static bool tcp_ask(struct dns_upstream *u)
{
	int e = 0;
	socklen_t len = sizeof(e);

	if (getsockopt(u->w.fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 || e != 0 ||
	    send(u->w.fd, u->buf, u->n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)u->n)
		return false;
	u->connected = true;
	u->n = 0;
	u->cap = 2;
	return loop_rewatch(u->pod->w->loop, &u->w, EPOLLIN) == 0;
}

/* Once the length is there: room for so much. */
static bool tcp_make_room(struct dns_upstream *u)
{
	size_t n = (size_t)u->buf[0] << 8 | u->buf[1];
	uint8_t *p = n >= DNS_HEADER_BYTES ? realloc(u->buf, 2 + n) : NULL;

	if (p == NULL)
		return false;
	u->buf = p;
	u->cap = 2 + n;
	return true;
}

static void on_tcp(struct watch *watch, uint32_t events)
{
	struct dns_upstream *u = container_of(watch, struct dns_upstream, w);
	bool good = true;

	(void)events;
	if (!u->connected) {
		if (!tcp_ask(u))
			try_failed(u->req, "no TCP connection");
		return;
	}
	while (good && u->n < u->cap) {
		ssize_t n = recv(watch->fd, u->buf + u->n, u->cap - u->n, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		good = n > 0;
		u->n += n > 0 ? (size_t)n : 0;
		if (good && u->n == 2 && u->cap == 2)
			good = tcp_make_room(u);
	}
	if (good && dns_is_answer(u->buf + 2, u->n - 2, &u->req->q, u->req->id))
		answered(u, u->buf + 2, u->n - 2);
	else
		try_failed(u->req, "TCP connection without an answer");
}

/* ---- tries ---- */

static bool may_try_again(const struct dns_req *r)
{
	const struct resolv_conf *c = &r->pod->w->resolvers;

	return r->tries < c->n * c->attempts &&
	       clock_mono_ns() - r->start_ns < LIMIT_DNS_QUERY_MS * 1000000ull;
}

static uint64_t left_ms(const struct dns_req *r, uint64_t timeout_ms)
{
	uint64_t spent = (clock_mono_ns() - r->start_ns) / 1000000;
	uint64_t left = spent < LIMIT_DNS_QUERY_MS ? LIMIT_DNS_QUERY_MS - spent : 1;

	return timeout_ms < left ? timeout_ms : left;
}

/* With one server the same question goes out again by the same way: whichever answer comes first,
 * also that to the first try, is taken. */
static void on_timeout(struct timer *t)
{
	struct dns_req *r = container_of(t, struct dns_req, timer);
	const struct resolv_conf *c = &r->pod->w->resolvers;

	if (c->n != 1 || !may_try_again(r) || r->up->tcp ||
	    send(r->up->w.fd, r->msg, r->n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		try_failed(r, "timeout");
		return;
	}
	r->tries++;
	loop_timer_set(r->pod->w->loop, t, left_ms(r, c->timeout_ms), on_timeout);
}

static void try_failed(struct dns_req *r, const char *why)
{
	struct dns_pod *p = r->pod;

	forward_stop(r);
	loop_timer_cancel(&r->timer);
	if (!may_try_again(r)) {
		req_end(r, NULL, 0, why);
		return;
	}
	forward_start(r);
	forward_flush(p);
}

static bool send_tcp(struct dns_upstream *u, const struct dns_req *r)
{
	u->buf = malloc(2 + r->n);
	if (u->buf == NULL)
		return false;
	u->buf[0] = (uint8_t)(r->n >> 8);
	u->buf[1] = (uint8_t)r->n;
	memcpy(u->buf + 2, r->msg, r->n);
	u->n = 2 + r->n;
	return loop_watch(u->pod->w->loop, &u->w, u->w.fd, EPOLLOUT, on_tcp) == 0;
}

static bool send_udp(struct dns_upstream *u, const struct dns_req *r)
{
	if (!u->w.added && loop_watch(u->pod->w->loop, &u->w, u->w.fd, EPOLLIN, on_udp) < 0)
		return false;
	return send(u->w.fd, r->msg, r->n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)r->n;
}

/* Nobody can foretell it, and it is used once. */
static uint16_t new_id(struct dns_worker *w)
{
	if (w->nids == 0) {
		rand_bytes(w->ids, sizeof(w->ids));
		w->nids = DNS_IDS;
	}
	return w->ids[--w->nids];
}

/* Returns false when this try has failed already. */
static bool try_send(struct dns_req *r)
{
	struct dns_worker *w = r->pod->w;
	struct dns_upstream *u = r->up;

	r->id = new_id(w);
	dns_set_id(r->msg, r->id);
	r->tries++;
	if (u == NULL || u->w.fd < 0)
		return false;
	u->uses++;
	loop_timer_set(w->loop, &r->timer, left_ms(r, w->resolvers.timeout_ms), on_timeout);
	return u->tcp ? send_tcp(u, r) : send_udp(u, r);
}

/* Gives the query an upstream; one that is new is not open yet. */
static void assign(struct dns_req *r)
{
	struct dns_worker *w = r->pod->w;
	const struct ip_port *server = &w->resolvers.servers[r->tries % w->resolvers.n];
	struct dns_upstream *u = r->from.conn == NULL ? take_idle(r->pod, server) : NULL;

	if (r->start_ns == 0) {
		r->start_ns = clock_mono_ns();
		r->cache_round = r->pod->cache_round;
		dns_metrics_upstream(r->series);
	}
	if (u == NULL)
		u = calloc(1, sizeof(*u));
	if (u == NULL)
		return;
	if (u->pod == NULL) {
		u->pod = r->pod;
		u->server = *server;
		u->tcp = r->from.conn != NULL;
		u->w.fd = -1;
	}
	u->req = r;
	r->up = u;
}

/* Opens what is new, with one visit to the pod's namespace for all. */
static void open_all(struct dns_pod *p, struct list *batch)
{
	bool inside = false, tried = false;

	list_for_each (n, batch) {
		struct dns_upstream *u = container_of(n, struct dns_req, send_node)->up;

		if (u == NULL || u->w.fd >= 0 || ip_is_loopback(&u->server.ip))
			continue;
		if (!tried)
			inside = netns_enter(p->view.netns_fd) == 0;
		tried = true;
		if (inside)
			up_open(u, p->w->cfg->mark);
	}
	if (inside)
		netns_leave();
	list_for_each (n, batch) {
		struct dns_upstream *u = container_of(n, struct dns_req, send_node)->up;

		if (u != NULL && u->w.fd < 0 && ip_is_loopback(&u->server.ip))
			up_open(u, 0);
	}
}

static void flush_batch(struct dns_pod *p)
{
	struct list batch, *n;

	list_init(&batch);
	list_splice(&batch, &p->to_send);
	if (p->w->resolvers.n == 0) {
		while ((n = list_pop(&batch)) != NULL)
			req_end(container_of(n, struct dns_req, send_node), NULL, 0,
				"no resolver is configured");
		return;
	}
	list_for_each (it, &batch)
		assign(container_of(it, struct dns_req, send_node));
	open_all(p, &batch);
	/* a query that ends takes others of the batch out of it */
	while ((n = list_pop(&batch)) != NULL) {
		struct dns_req *r = container_of(n, struct dns_req, send_node);

		if (try_send(r))
			continue;
		forward_stop(r);
		loop_timer_cancel(&r->timer);
		if (may_try_again(r))
			forward_start(r);
		else
			req_end(r, NULL, 0, "cannot be sent");
	}
}

void forward_start(struct dns_req *r)
{
	list_append(&r->pod->to_send, &r->send_node);
}

void forward_flush(struct dns_pod *p)
{
	while (!list_empty(&p->to_send)) /* every round costs each query a try */
		flush_batch(p);
}
