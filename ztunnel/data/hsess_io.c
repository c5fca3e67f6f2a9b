/* SPDX-License-Identifier: Apache-2.0
 * hsess_io.c: bytes of an HBONE connection: socket <-> TLS <-> HTTP/2, through the worker's
 * buffers.
 *
 * Receiving: one recv() of up to 256 KiB, all its records decrypted into one buffer, one parse, and
 * then one write per stream that got something. At most RX_READS of them per turn.
 *
 * Sending (hsess_pump, once per turn): control frames, then streams with small messages, then bulk
 * streams in turn with a large quantum, until BATCH_BYTES are staged; all of it is encrypted in one
 * go and sent with one send(). What the socket refuses is kept in one buffer, and while that exists
 * nothing is read from any application: the place to put it is missing (style R51).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "ztunnel/data/data.h"

/* ---- sending ---- */

static ssize_t send_some(struct hsess *s, const uint8_t *p, size_t n)
{
	ssize_t r = send(s->leg.w.fd, p, n, MSG_NOSIGNAL);

	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	return r;
}

static void socket_failed(struct hsess *s)
{
	char buf[96];

	io_error_text(buf, sizeof(buf), "io error", errno);
	hsess_fail(s, FLAG_CONNECT, buf);
}

/* True when nothing is left over from earlier. */
static bool flush_refused(struct hsess *s)
{
	ssize_t r;

	if (s->out_n == 0)
		return true;
	if (s->leg.wr_block)
		return false;
	r = send_some(s, s->out + s->out_off, s->out_n - s->out_off);
	if (r < 0) {
		socket_failed(s);
		return false;
	}
	s->out_off += (size_t)r;
	if (s->out_off != s->out_n) {
		leg_blocked(s->pod->w, &s->leg);
		return false;
	}
	stat_add(&s->pod->w->st.buffers, -(int64_t)s->out_n);
	free(take_ptr(s->out));
	s->out_n = s->out_off = 0;
	return true;
}

/* Sends the worker's ciphertext of this session. */
static void send_ct(struct hsess *s)
{
	struct worker *w = s->pod->w;
	size_t n = w->ct.n, left;
	ssize_t r = 0;

	w->ct.n = 0;
	if (n == 0 || s->state == HS_DEAD)
		return;
	if (s->out_n == 0)
		r = send_some(s, w->ct.p, n);
	if (r < 0) {
		socket_failed(s);
		return;
	}
	left = n - (size_t)r;
	if (left == 0)
		return;
	if (s->out_n == 0)
		leg_blocked(w, &s->leg);
	/* else nothing was tried: an EPOLLOUT that came just now still holds, and the pump uses it;
	 * only while receiving can there be two (alerts, KeyUpdate): small ones behind the batch */
	uint8_t *grown = realloc(s->out, s->out_n + left);

	if (grown == NULL) {
		hsess_fail(s, FLAG_CONNECT, "out of memory");
		return;
	}
	memcpy(grown + s->out_n, w->ct.p + r, left);
	s->out = grown;
	s->out_n += left;
	stat_add(&w->st.buffers, (int64_t)left);
}

static void encrypt(struct hsess *s)
{
	struct worker *w = s->pod->w;

	if (w->stage.n == 0)
		return;
	if (tls_session_write(s->tls, w->stage.p, w->stage.n, &w->ct) == TLS_FAILED) {
		w->ct.n = 0;
		hsess_fail(s, FLAG_CONNECT, tls_session_error(s->tls));
		return;
	}
	send_ct(s);
}

/* Small messages first, but half of a batch at most while bulk streams wait. */
static struct conn *next_stream(struct hsess *s)
{
	bool small = s->pod->w->stage.n < BATCH_BYTES / 2 || list_empty(&s->bulk);
	struct list *n = small ? list_pop(&s->small) : NULL;

	if (n == NULL)
		n = list_pop(&s->bulk);
	return n != NULL ? container_of(n, struct conn, t.sched_node) : NULL;
}

static int fill(struct hsess *s)
{
	struct worker *w = s->pod->w;
	struct conn *c;
	int r = h2_send(s->h2, &w->stage);

	while (r == 0 && w->stage.n < BATCH_BYTES && (c = next_stream(s)) != NULL) {
		r = h2_send_stream(s->h2, c->t.id, &w->stage, QUANTUM, FRAME_BYTES);
		tunnel_sent(c);
	}
	return r;
}

static void pump_open(struct hsess *s)
{
	struct worker *w = s->pod->w;

	w->stage.n = 0;
	if (fill(s) < 0) {
		hsess_fail(s, FLAG_CONNECT, h2_error(s->h2));
		return;
	}
	encrypt(s);
	if (s->state != HS_OPEN)
		return;
	if (h2_done(s->h2) && s->out_n == 0) {
		hsess_fail(s, h2_calmed(s->h2) ? FLAG_CONNECT : FLAG_NONE,
			   h2_calmed(s->h2) ? h2_error(s->h2) : NULL);
		return;
	}
	if (!list_empty(&s->small) || !list_empty(&s->bulk))
		hsess_dirty(s);
}

static void receive(struct hsess *s);

void hsess_pump(struct hsess *s)
{
	OBJ_CHECK(s, HSESS_MAGIC);
	if (s->state == HS_DEAD || s->state == HS_PARKED || s->state == HS_CONNECTING)
		return;
	if (s->leg.rd_ready || s->state == HS_HANDSHAKE)
		receive(s);
	if (s->state != HS_DEAD && flush_refused(s) && s->state == HS_OPEN)
		pump_open(s);
	if (s->state != HS_DEAD && s->leg.rd_ready)
		hsess_dirty(s); /* the budget was used up */
}

/* ---- receiving ---- */

static void opened(struct hsess *s)
{
	struct worker *w = s->pod->w;

	s->state = HS_OPEN;
	sendbuf_opened(s->leg.w.fd);
	if (s->server) {
		hsess_waits_no_more(s);
		stat_add(&w->st.tls_accepted, 1);
	}
	if (w->memory_short)
		hsess_window(s);
	hsess_keepalive(s);
	hsess_dirty(s);
	idle_enter(s);
	if (s->server && w->draining)
		hsess_goaway(s);
	else if (!s->server)
		pool_session_open(s);
}

static bool handshake(struct hsess *s)
{
	struct worker *w = s->pod->w;
	enum tls_res r = tls_session_handshake(s->tls, &w->ct);

	send_ct(s); /* also the alert of a failure */
	if (s->state == HS_DEAD)
		return false;
	if (r == TLS_OK) {
		opened(s);
		return s->state == HS_OPEN;
	}
	if (r != TLS_AGAIN)
		hsess_fail(s, FLAG_TLS_FAILURE,
			   r == TLS_CLOSED ? "tls error: peer closed during the handshake"
					   : tls_session_error(s->tls));
	return false;
}

void hsess_last_words(struct hsess *s)
{
	struct worker *w = s->pod->w;

	w->stage.n = 0;
	if (h2_send(s->h2, &w->stage) == 0)
		encrypt(s);
}

static void parse(struct hsess *s, size_t n)
{
	struct worker *w = s->pod->w;
	int r = n != 0 ? h2_recv(s->h2, w->plain, n, loop_now_ms(w->loop)) : 0;

	tunnels_flush(w);
	if (s->state == HS_DEAD)
		return;
	if (r < 0) {
		hsess_last_words(s);
		hsess_fail(s, FLAG_CONNECT, h2_error(s->h2));
		return;
	}
	if (h2_want_send(s->h2) || h2_done(s->h2))
		hsess_dirty(s);
}

static void decrypt(struct hsess *s)
{
	struct worker *w = s->pod->w;

	while (s->state == HS_OPEN) {
		size_t n;
		enum tls_res r = tls_session_read(s->tls, w->plain, PLAIN_BYTES, &n, &w->ct);

		if (n != 0 || r != TLS_AGAIN)
			parse(s, n);
		send_ct(s);
		if (s->state == HS_DEAD)
			return;
		if (r == TLS_FAILED)
			hsess_fail(s, FLAG_TLS_FAILURE, tls_session_error(s->tls));
		else if (r == TLS_CLOSED)
			hsess_fail(s, FLAG_CONNECT, "connection closed by the peer");
		if (r != TLS_OK || tls_session_unread(s->tls) == 0)
			return;
	}
}

/* The end of the TCP connection. */
static void ended(struct hsess *s, ssize_t n)
{
	if (n == 0)
		hsess_fail(s, FLAG_CONNECT,
			   s->state == HS_OPEN ? NULL
					       : "tls error: peer closed during the handshake");
	else if (errno == EAGAIN || errno == EINTR)
		s->leg.rd_ready = false;
	else
		socket_failed(s);
}

static void receive(struct hsess *s)
{
	struct worker *w = s->pod->w;

	if (s->state == HS_HANDSHAKE && !s->leg.rd_ready) {
		(void)handshake(s); /* the client speaks first */
		return;
	}
	/* about a millisecond each: established connections go in between */
	if (s->state == HS_HANDSHAKE && w->shakes++ >= LIMIT_TLS_SHAKES_PER_TURN) {
		hsess_dirty(s);
		return;
	}
	for (int i = 0; i < RX_READS && s->state != HS_DEAD && s->leg.rd_ready; i++) {
		ssize_t n = recv(s->leg.w.fd, w->rx, RX_BYTES, 0);

		if (n <= 0) {
			ended(s, n);
			return;
		}
		if ((size_t)n < RX_BYTES && !s->leg.rdhup)
			s->leg.rd_ready = false;
		tls_session_feed(s->tls, w->rx, (size_t)n);
		if (s->state == HS_OPEN || handshake(s))
			decrypt(s);
	}
}

void hsess_on_event(struct watch *watch, uint32_t events)
{
	struct hsess *s = container_of(watch, struct hsess, leg.w);

	OBJ_CHECK(s, HSESS_MAGIC);
	leg_events(&s->leg, events);
	if (s->state == HS_DEAD)
		return;
	if (s->leg.rd_ready)
		receive(s);
	if (s->state != HS_DEAD && (s->leg.rd_ready || (events & EPOLLOUT) != 0))
		hsess_dirty(s);
}

/* ---- callbacks of the HTTP/2 session ---- */

static void on_head(void *ctx, int32_t id, void *user, const struct h2_head *head)
{
	struct hsess *s = ctx;

	if (s->server && user == NULL)
		inbound_request(s, id, head);
	else if (!s->server && user != NULL)
		outbound_head(user, head);
}

static void on_data(void *ctx, int32_t id, void *user, const uint8_t *p, size_t n)
{
	(void)ctx;
	(void)id;
	tunnel_data(user, p, n);
}

static void on_end(void *ctx, int32_t id, void *user)
{
	(void)ctx;
	(void)id;
	tunnel_end(user);
}

static void on_closed(void *ctx, int32_t id, void *user, uint32_t code)
{
	struct hsess *s = ctx;

	(void)id;
	tunnel_closed(user, code);
	turn_request(s->pod->w);
}

static ssize_t on_pull(void *ctx, int32_t id, void *user, uint8_t *p, size_t cap, bool *eof)
{
	(void)ctx;
	(void)id;
	return tunnel_pull(user, p, cap, eof);
}

static void on_want(void *ctx, int32_t id, void *user)
{
	(void)ctx;
	(void)id;
	tunnel_schedule(user);
}

static void on_pong(void *ctx)
{
	hsess_pong(ctx);
}

static void on_goaway(void *ctx, uint32_t code)
{
	struct hsess *s = ctx;

	(void)code;
	s->retired = true;
	s->final_sent = s->server; /* the peer opens nothing more: the last stream ends it */
	if (!s->server && s->nconns == 0)
		hsess_goaway(s);
}

const struct h2_ops hsess_ops = {
	.head = on_head,
	.data = on_data,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.want = on_want,
	.pong = on_pong,
	.goaway = on_goaway,
};
