/* SPDX-License-Identifier: Apache-2.0
 * tunnel.c: bytes between an application's socket and a stream of an HBONE connection.
 *
 * Theory of operation
 *
 * Stream to socket: DATA is collected as segments that point into the worker's plaintext buffer;
 * once per batch each touched tunnel gets one sendmsg() for all of them. What the socket refuses is
 * copied to the tunnel's queue, which the stream's window bounds, because stream credit is returned
 * at delivery only.
 *
 * Socket to stream: an event only puts the tunnel on its session's list. The pump (hsess_io.c) asks
 * for bytes when there is room, and they are received straight into the outgoing frame.
 *
 * Ends (datapath.md 8):
 *   END_STREAM received             -> after the queue, shutdown(SHUT_WR)
 *   EOF of the socket               -> END_STREAM
 *   socket error                    -> RST_STREAM CONNECT_ERROR
 *   reset NO_ERROR, no END_STREAM   -> as END_STREAM, then closed
 *   reset CONNECT_ERROR by a waypoint -> likewise: Envoy ends a CONNECT so whenever its upstream
 *                                      connection closes, with FIN or not
 *   reset otherwise, no END_STREAM  -> batch written, queue dropped, RST to the application
 *   reset after END_STREAM          -> the peer reads no more: queue flushed, closed normally
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "ztunnel/data/data.h"

#define IOV_MAX_ONCE 256

void tunnel_init(struct conn *c)
{
	c->tunnel = true;
	memset(&c->t, 0, sizeof(c->t));
	c->t.seg_head = c->t.seg_tail = -1;
	c->t.small = true;
}

void tunnel_attach(struct conn *c, struct hsess *s, int32_t id)
{
	c->t.s = s;
	c->t.id = id;
	list_append(&s->conns, &c->t.sess_node);
	s->nconns++;
	idle_leave(s);
	stat_add(&c->pod->w->st.streams, 1);
}

static void count_in(struct conn *c, size_t n) /* stream -> socket */
{
	if (c->kind == CONN_IN_HBONE)
		conn_bytes(c, n, 0);
	else
		conn_bytes(c, 0, n);
}

static void count_out(struct conn *c, size_t n)
{
	if (c->kind == CONN_IN_HBONE)
		conn_bytes(c, 0, n);
	else
		conn_bytes(c, n, 0);
}

void tunnel_detach(struct conn *c, uint32_t code)
{
	struct hsess *s = c->t.s;
	struct worker *w = c->pod->w;

	queue_clear(w, &c->t.q);
	list_remove(&c->t.touch_node);
	list_remove(&c->t.back_node);
	list_remove(&c->t.sched_node);
	free(take_ptr(c->t.parked));
	free(take_ptr(c->t.first.p));
	pool_forget(c);
	if (s == NULL)
		return;
	list_remove(&c->t.sess_node);
	s->nconns--;
	stat_add(&w->st.streams, -1);
	c->t.s = NULL;
	if (!c->t.closed && s->h2 != NULL) {
		h2_reset(s->h2, c->t.id, code);
		hsess_dirty(s);
	}
	hsess_stream_gone(s);
}

/* ---- stream to socket ---- */

static void touch(struct conn *c)
{
	if (!list_linked(&c->t.touch_node))
		list_append(&c->pod->w->touched, &c->t.touch_node);
}

void tunnel_data(struct conn *c, const uint8_t *p, size_t n)
{
	struct worker *w = c->pod->w;
	struct seg *seg;

	OBJ_CHECK(c, CONN_MAGIC);
	if (w->nsegs == SEGS_MAX)
		tunnels_flush(w);
	if (c->state == CS_DEAD)
		return;
	seg = &w->segs[w->nsegs];
	*seg = (struct seg){.p = p, .n = (uint32_t)n, .next = -1};
	if (c->t.seg_tail >= 0)
		w->segs[c->t.seg_tail].next = (int32_t)w->nsegs;
	else
		c->t.seg_head = (int32_t)w->nsegs;
	c->t.seg_tail = (int32_t)w->nsegs++;
	touch(c);
}

void tunnel_end(struct conn *c)
{
	OBJ_CHECK(c, CONN_MAGIC);
	c->t.rx_eof = true;
	touch(c);
}

void tunnel_closed(struct conn *c, uint32_t code)
{
	OBJ_CHECK(c, CONN_MAGIC);
	c->t.closed = true;
	c->t.code = code;
	list_remove(&c->t.sched_node);
	touch(c);
}

static void credit(struct conn *c, size_t n)
{
	count_in(c, n);
	if (c->t.s == NULL || c->t.closed)
		return;
	h2_consume(c->t.s->h2, c->t.id, n);
	if (h2_want_send(c->t.s->h2))
		hsess_dirty(c->t.s);
}

/* The application's end is gone. What it had sent before is still ours to forward; the reset
 * follows it (receive() reports it at the end). Nothing more goes to the socket. */
static void write_broken(struct conn *c)
{
	struct worker *w = c->pod->w;

	c->app.broken = c->app.rdhup = c->app.rd_ready = true;
	queue_clear(w, &c->t.q);
	list_remove(&c->t.back_node);
	if (c->t.closed || c->t.tx_eof || c->t.s == NULL ||
	    h2_send_window(c->t.s->h2, c->t.id) <= 0)
		conn_end(c, END_RESET, FLAG_NONE, NULL);
	else
		tunnel_schedule(c);
}

/* Writes a vector. Returns the bytes taken, -1 on a broken socket. */
static ssize_t write_vec(struct conn *c, struct iovec *iov, size_t n)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t r = sendmsg(c->app.w.fd, &m, MSG_NOSIGNAL);

	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	return r;
}

/* Copies the segments from @at on, of which @skip bytes are written already, to the queue. */
static int enqueue(struct conn *c, int32_t at, size_t skip)
{
	struct worker *w = c->pod->w;

	for (; at >= 0; at = w->segs[at].next) {
		struct seg *s = &w->segs[at];

		if (queue_add(w, &c->t.q, s->p + skip, s->n - skip) < 0)
			return -ENOMEM;
		skip = 0;
	}
	if (c->t.q.bytes != 0 && !list_linked(&c->t.back_node))
		list_append(&w->backlogged, &c->t.back_node);
	return 0;
}

static bool can_write(const struct conn *c)
{
	return c->state == CS_OPEN && !c->app.wr_block && !c->app.broken && c->t.q.bytes == 0;
}

/* Takes one vector from *at on; false when the socket refused some of it (then *at, *skip say
 * where) or broke (*ret_broken). */
static bool write_some(struct conn *c, int32_t *at, size_t *skip, bool *ret_broken)
{
	struct worker *w = c->pod->w;
	struct iovec iov[IOV_MAX_ONCE];
	size_t n = 0, want = 0;
	int32_t i = *at;
	ssize_t r;

	for (; i >= 0 && n < IOV_MAX_ONCE; i = w->segs[i].next, n++) {
		iov[n] = (struct iovec){(void *)(uintptr_t)w->segs[i].p, w->segs[i].n};
		want += w->segs[i].n;
	}
	r = write_vec(c, iov, n);
	*ret_broken = r < 0;
	if (r < 0)
		return false;
	credit(c, (size_t)r);
	if ((size_t)r == want) {
		*at = i;
		return true;
	}
	leg_blocked(w, &c->app);
	for (*skip = (size_t)r; *skip >= w->segs[*at].n; *at = w->segs[*at].next)
		*skip -= w->segs[*at].n;
	return false;
}

/* The segments of this batch: to the socket, or to the queue behind what is there. False: the
 * connection is over. */
static bool flush_segments(struct conn *c)
{
	int32_t at = c->t.seg_head;
	size_t skip = 0;
	bool broken = false;

	c->t.seg_head = c->t.seg_tail = -1;
	if (at >= 0 && can_write(c))
		while (at >= 0 && write_some(c, &at, &skip, &broken))
			;
	if (broken)
		write_broken(c);
	if (c->app.broken)
		return c->state != CS_DEAD;
	if (at >= 0 && enqueue(c, at, skip) < 0) {
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
		return false;
	}
	return true;
}

static bool flush_queue(struct conn *c)
{
	struct worker *w = c->pod->w;

	while (c->t.q.bytes != 0 && c->state == CS_OPEN && !c->app.wr_block) {
		struct iovec iov[IOV_MAX_ONCE];
		size_t n = 0, want = 0;
		ssize_t r;

		for (struct chunk *k = c->t.q.head; k != NULL && n < IOV_MAX_ONCE; k = k->next) {
			iov[n++] = (struct iovec){k->data + k->off, k->n - k->off};
			want += k->n - k->off;
		}
		r = write_vec(c, iov, n);
		if (r < 0) {
			write_broken(c);
			return c->state != CS_DEAD;
		}
		queue_drop(w, &c->t.q, (size_t)r);
		credit(c, (size_t)r);
		if ((size_t)r != want)
			leg_blocked(w, &c->app);
	}
	if (c->t.q.bytes == 0)
		list_remove(&c->t.back_node);
	return true;
}

static bool reset_is_abort(const struct conn *c)
{
	if (!c->t.closed || c->t.rx_eof || c->t.code == H2_NO_ERROR)
		return false;
	return !(c->t.via_waypoint && c->t.code == H2_CONNECT_ERROR);
}

/* A stream that ended before both sides were connected. */
static void closed_early(struct conn *c)
{
	if (c->kind != CONN_IN_HBONE) {
		/* INTERNAL_ERROR on a retired session: never sent, GOAWAY came first */
		bool unsent = c->t.code == H2_REFUSED_STREAM ||
			      (c->t.code == H2_INTERNAL_ERROR && c->t.s != NULL && c->t.s->retired);

		if (!unsent || !pool_retry(c))
			conn_end(c, END_RESET, FLAG_CONNECT,
				 "h2 failed: the stream was reset before it was answered");
		return;
	}
	if (c->t.s != NULL)
		h2_charge(c->t.s->h2);
	conn_end(c, END_RESET, FLAG_CONNECT, "client disconnected before all data was written");
}

/* What follows from the flags, after segments and queue were tried. */
static void settle(struct conn *c)
{
	if (c->t.closed && c->state != CS_OPEN) {
		closed_early(c);
		return;
	}
	if (reset_is_abort(c)) {
		conn_end(c, END_RESET, FLAG_NONE, NULL);
		return;
	}
	if (c->state != CS_OPEN || c->t.q.bytes != 0)
		return;
	if (c->app.broken && c->t.closed) {
		conn_end(c, END_RESET, FLAG_NONE, NULL);
		return;
	}
	if (c->t.closed && c->t.tx_eof) { /* both ends are done: close() says it in one go */
		conn_end(c, END_CLOSE, FLAG_NONE, NULL);
		return;
	}
	if ((c->t.rx_eof || c->t.closed) && !c->t.fin_sent) {
		c->t.fin_sent = true;
		(void)shutdown(c->app.w.fd, SHUT_WR);
	}
	if (c->t.closed)
		conn_end(c, END_CLOSE, FLAG_NONE, NULL);
	else if (c->t.fin_sent || c->t.tx_eof)
		conn_half_closed(c);
}

static void step(struct conn *c)
{
	if (flush_queue(c) && flush_segments(c))
		settle(c);
}

/* The pod whose applications leave the most unread: one that opens many connections and reads
 * nothing must not make those of others look like the worst. */
static struct pod *slowest_pod(struct worker *w)
{
	struct pod *slowest = NULL;

	list_for_each (n, &w->backlogged)
		container_of(n, struct conn, t.back_node)->pod->unread = 0;
	list_for_each (n, &w->backlogged) {
		struct conn *c = container_of(n, struct conn, t.back_node);

		c->pod->unread += c->t.q.bytes;
		if (slowest == NULL || c->pod->unread > slowest->unread)
			slowest = c->pod;
	}
	return slowest;
}

/* The hard limit of memory: the worst reader pays (datapath.md 5.3). */
static void shed_worst(struct worker *w)
{
	const struct pod *p = slowest_pod(w);
	struct conn *worst = NULL;

	list_for_each (n, &w->backlogged) {
		struct conn *c = container_of(n, struct conn, t.back_node);

		if (c->pod == p && (worst == NULL || c->t.q.bytes > worst->t.q.bytes))
			worst = c;
	}
	if (worst == NULL)
		return;
	metric_add(M_H2_ENHANCE_YOUR_CALM, 1);
	if (worst->t.s != NULL && !worst->t.closed) {
		h2_reset(worst->t.s->h2, worst->t.id, H2_ENHANCE_YOUR_CALM);
		worst->t.closed = true;
		hsess_dirty(worst->t.s);
	}
	conn_end(worst, END_RESET, FLAG_CONNECT, "reader is too slow: memory limit reached");
}

void tunnels_flush(struct worker *w)
{
	struct list *n;

	if (w->flushing) /* a step ended a session that flushes: the outer loop goes on */
		return;
	w->flushing = true;
	while ((n = list_pop(&w->touched)) != NULL)
		step(container_of(n, struct conn, t.touch_node));
	w->nsegs = 0;
	while (w->undelivered > LIMIT_UNDELIVERED_BYTES && !list_empty(&w->backlogged))
		shed_worst(w);
	w->flushing = false;
}

/* ---- socket to stream ---- */

void tunnel_schedule(struct conn *c)
{
	struct hsess *s = c->t.s;

	if (c->state != CS_OPEN || s == NULL || c->t.closed || c->t.tx_eof || !c->app.rd_ready ||
	    list_linked(&c->t.sched_node))
		return;
	list_append(c->t.small ? &s->small : &s->bulk, &c->t.sched_node);
	hsess_dirty(s);
}

/* Receives until @cap, EAGAIN, or the end. A short read is the end of what is there, unless a FIN
 * or a reset is known to be behind it. Returns bytes; *ret_err for a broken socket. */
static size_t receive(struct conn *c, uint8_t *p, size_t cap, bool *eof, bool *ret_err)
{
	size_t n = 0;

	while (n < cap && c->app.rd_ready) {
		ssize_t r = recv(c->app.w.fd, p + n, cap - n, 0);

		if (r > 0) {
			n += (size_t)r;
			if (n < cap && !c->app.rdhup)
				c->app.rd_ready = false;
		} else if (r == 0) {
			*eof = !c->app.broken;
			*ret_err = c->app.broken;
			c->app.rd_ready = false;
		} else {
			c->app.rd_ready = false;
			*ret_err = errno != EAGAIN && errno != EINTR;
			c->app.broken |= *ret_err; /* the kernel reports it once */
		}
	}
	return n;
}

ssize_t tunnel_pull(struct conn *c, uint8_t *p, size_t cap, bool *eof)
{
	bool broken = false;
	size_t n;

	OBJ_CHECK(c, CONN_MAGIC);
	if (c->state != CS_OPEN || c->t.tx_eof || !c->app.rd_ready)
		return H2_PULL_NOTHING;
	n = receive(c, p, cap, eof, &broken);
	c->t.small = n < SMALL_BYTES;
	if (n != 0)
		count_out(c, n);
	if (broken && n != 0) { /* the bytes first; the next read finds the error again */
		c->app.rd_ready = true;
		return (ssize_t)n;
	}
	if (broken) {
		conn_end(c, END_RESET, FLAG_NONE, NULL);
		return H2_PULL_DEAD;
	}
	if (*eof) {
		c->t.tx_eof = true;
		touch(c);
	}
	return n != 0 || *eof ? (ssize_t)n : H2_PULL_NOTHING;
}

static bool window_closed(const struct conn *c)
{
	return c->t.s != NULL && !c->t.closed && h2_send_window(c->t.s->h2, c->t.id) <= 0;
}

/* Goes on, unless the window is closed: then `want` tells when. But an aborted application must not
 * keep its stream until the peer opens the window. */
void tunnel_sent(struct conn *c)
{
	if (c->state != CS_OPEN)
		return;
	if (!window_closed(c))
		tunnel_schedule(c);
	else if (c->app.error || c->app.broken)
		conn_end(c, END_RESET, FLAG_NONE, NULL);
}

static void on_event(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, app.w);

	OBJ_CHECK(c, CONN_MAGIC);
	leg_events(&c->app, events);
	if ((events & EPOLLERR) != 0 && window_closed(c)) { /* as in tunnel_sent() */
		conn_end(c, END_RESET, FLAG_NONE, NULL);
		return;
	}
	if ((events & EPOLLERR) != 0 && (c->t.closed || c->t.tx_eof)) {
		conn_end(c, END_RESET, FLAG_NONE, NULL); /* nobody would read the error */
		return;
	}
	if (c->t.q.bytes != 0)
		touch(c), turn_request(c->pod->w);
	tunnel_schedule(c);
}

void tunnel_open(struct conn *c)
{
	loop_timer_cancel(&c->timer);
	c->state = CS_OPEN;
	if (leg_watch(c->pod->w, &c->app, on_event) < 0) {
		conn_end(c, END_RESET, FLAG_CONNECT, "io error: cannot watch the socket");
		return;
	}
	if (c->t.q.bytes != 0 || c->t.rx_eof)
		touch(c), turn_request(c->pod->w);
	tunnel_schedule(c);
}
