/* SPDX-License-Identifier: Apache-2.0
 * https_client.c: the connection: its life, TLS and HTTP/2 between socket and requests.
 *
 * Theory of operation. States go one way: RESOLVING, CONNECTING, HANDSHAKE, UP, DOWN. Received
 * bytes pass TLS into HTTP/2, which calls the requests; afterwards everything due is written into a
 * stack buffer, encrypted and sent. What the socket refuses stays in the TLS object and nothing
 * more is produced while it is there, so memory is bounded by one buffer.
 *
 * Whoever is called may free the client: it is unlinked and closed at once, its memory lives until
 * the end of the loop's batch (`freed` is looked at after every call out). Requests end before
 * `down`. nghttp2 does not let its session go during a callback; that too is left to the end of the
 * batch.
 */
#include "lib/wire/https_client.h"

#include <errno.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/https_internal.h"

#define CHUNK	       16384
#define READS_PER_TURN 8
#define STREAM_WINDOW  (256u << 10)
#define CONN_WINDOW    (1u << 20)

static void on_io(struct watch *w, uint32_t events);

uint64_t https_backoff_ms(unsigned int failures, uint64_t first_ms, uint64_t max_ms,
			  uint64_t random)
{
	uint64_t ms = first_ms;

	for (unsigned int i = 1; i < failures && ms < max_ms; i++)
		ms *= 2;
	if (ms > max_ms)
		ms = max_ms;
	return ms - random % (ms / 2 + 1);
}

bool https_client_usable(const struct https_client *c)
{
	return c != NULL && c->state == HTTPS_UP && !c->draining && !c->freed;
}

static void stop(struct https_client *c)
{
	c->state = HTTPS_DOWN;
	https_connect_stop(c);
	loop_timer_cancel(&c->ping);
	loop_ready_cancel(&c->flush);
}

void https_down(struct https_client *c, const struct err *why)
{
	struct err e = *why;

	if (c->state == HTTPS_DOWN)
		return;
	(void)err_wrap(&e, "%s port %u", c->host, c->port);
	stop(c);
	https_reqs_fail(c, &e);
	if (!c->freed)
		c->ops->down(c->ctx, &e);
}

static void down_text(struct https_client *c, int code, const char *text)
{
	struct err e = {0};

	(void)err_set(&e, code, "%s", text);
	https_down(c, &e);
}

static void free_client(struct deferred *d)
{
	struct https_client *c = container_of(d, struct https_client, dead);

	(void)h2_free(c->h2);
	(void)tls_client_free(c->tls);
	free(c->host);
	free(c->server_name);
	free(c->authority);
	c->magic = OBJ_DEAD;
	free(c);
}

struct https_client *https_client_free(struct https_client *c)
{
	if (c == NULL)
		return NULL;
	OBJ_CHECK(c, HTTPS_MAGIC);
	bug_on(c->freed);
	c->freed = true;
	if (c->state == HTTPS_UP) { /* best effort: the server hears that we go */
		tls_client_shutdown(c->tls);
		(void)send(c->fd, tls_client_pending(c->tls).p, tls_client_pending(c->tls).n,
			   MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	stop(c);
	https_reqs_forget(c);
	loop_defer(c->loop, &c->dead, free_client);
	return NULL;
}

/* ---- sending ---- */

/* False: the connection is over. */
static bool push(struct https_client *c)
{
	uint32_t want = EPOLLIN;

	for (;;) {
		struct str s = tls_client_pending(c->tls);
		ssize_t n;

		if (s.n == 0)
			break;
		n = send(c->fd, s.p, s.n, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			struct err e = {0};

			(void)err_errno(&e, errno, "send");
			https_down(c, &e);
			return false;
		}
		if (n < 0) {
			want |= EPOLLOUT;
			break;
		}
		tls_client_sent(c->tls, (size_t)n);
	}
	if (want != c->interest) {
		bug_on(loop_rewatch(c->loop, &c->watch, want) < 0);
		c->interest = want;
	}
	return true;
}

static int fill_streams(struct https_client *c, struct h2_out *o)
{
	struct list *n;

	while (o->cap - o->n > CHUNK / 4 && (n = list_pop(&c->ready)) != NULL) {
		struct https_req *r = container_of(n, struct https_req, ready);
		int rc = h2_send_stream(c->h2, r->id, o, CHUNK, CHUNK);

		if (rc < 0)
			return rc;
		/* `want` may have put it back already */
		if (r->body.n > r->body_sent && h2_send_window(c->h2, r->id) > 0 &&
		    !list_linked(&r->ready))
			list_append(&c->ready, &r->ready);
	}
	return 0;
}

static void flush(struct https_client *c)
{
	uint8_t buf[2 * CHUNK];

	/* what TLS has to say by itself, and what the socket refused before */
	if (c->state != HTTPS_UP || (tls_client_pending(c->tls).n != 0 && !push(c)))
		return;
	for (int i = 0; i < 64 && c->state == HTTPS_UP && tls_client_pending(c->tls).n == 0; i++) {
		struct h2_out o = {.p = buf, .cap = sizeof(buf)};

		if (h2_send(c->h2, &o) < 0 || fill_streams(c, &o) < 0) {
			down_text(c, EPROTO, h2_error(c->h2));
			return;
		}
		if (o.n == 0 ||
		    c->state != HTTPS_UP) /* sending may have ended a request, and its owner us */
			return;
		if (tls_client_write(c->tls, buf, o.n) != TLS_CLIENT_OK) {
			down_text(c, EPROTO, tls_client_error(c->tls));
			return;
		}
		if (!push(c))
			return;
	}
	if (c->state == HTTPS_UP && tls_client_pending(c->tls).n == 0)
		https_flush_soon(c); /* others have their turn first */
}

static void on_flush(struct ready *r)
{
	struct https_client *c = container_of(r, struct https_client, flush);

	OBJ_CHECK(c, HTTPS_MAGIC);
	flush(c);
}

void https_flush_soon(struct https_client *c)
{
	if (c->state != HTTPS_UP)
		return;
	c->flush.fn = on_flush;
	loop_ready(c->loop, &c->flush);
}

/* ---- receiving ---- */

static void on_ping(struct timer *t)
{
	struct https_client *c = container_of(t, struct https_client, ping);
	uint64_t silent = loop_now_ms(c->loop) - c->heard_ms;

	OBJ_CHECK(c, HTTPS_MAGIC);
	if (silent >= 3 * c->ping_ms) {
		down_text(c, ETIMEDOUT, "the server does not answer pings");
		return;
	}
	if (silent >= c->ping_ms) {
		h2_ping(c->h2);
		https_flush_soon(c);
	}
	loop_timer_set(c->loop, t, c->ping_ms, on_ping);
}

static bool come_up(struct https_client *c)
{
	struct h2_config cfg = {.stream_window = STREAM_WINDOW,
				.connection_window = CONN_WINDOW,
				.max_frame_size = CHUNK,
				.max_streams = LIMIT_HTTPS_STREAMS};

	c->h2 = h2_new(&cfg, &https_h2_ops, c);
	bug_on(c->h2 == NULL);
	c->state = HTTPS_UP;
	loop_timer_cancel(&c->limit);
	loop_timer_set(c->loop, &c->ping, c->ping_ms, on_ping);
	c->ops->up(c->ctx);
	return !c->freed && c->state == HTTPS_UP;
}

/* Everything that is decrypted goes to HTTP/2. False: the connection is over. */
static bool decrypt(struct https_client *c)
{
	uint8_t buf[CHUNK];

	for (;;) {
		size_t n;

		switch (tls_client_read(c->tls, buf, sizeof(buf), &n)) {
		case TLS_CLIENT_AGAIN:
			return true;
		case TLS_CLIENT_CLOSED:
			down_text(c, ECONNRESET, "the server closed the connection");
			return false;
		case TLS_CLIENT_FAILED:
			down_text(c, EPROTO, tls_client_error(c->tls));
			return false;
		case TLS_CLIENT_OK:
			break;
		}
		if (h2_recv(c->h2, buf, n, loop_now_ms(c->loop)) < 0) {
			flush(c); /* the GOAWAY that tells why */
			down_text(c, EPROTO, h2_error(c->h2));
			return false;
		}
		if (c->freed || c->state != HTTPS_UP)
			return false;
	}
}

static bool take(struct https_client *c, const uint8_t *p, size_t n)
{
	if (tls_client_feed(c->tls, p, n) < 0) {
		down_text(c, ENOMEM, "out of memory");
		return false;
	}
	c->heard_ms = loop_now_ms(c->loop);
	if (c->state == HTTPS_HANDSHAKE) {
		switch (tls_client_handshake(c->tls)) {
		case TLS_CLIENT_OK:
			if (!come_up(c))
				return false;
			break;
		case TLS_CLIENT_AGAIN:
			return push(c);
		case TLS_CLIENT_CLOSED:
		case TLS_CLIENT_FAILED:
			(void)push(c); /* the alert */
			down_text(c, EPROTO, tls_client_error(c->tls));
			return false;
		}
	}
	return decrypt(c);
}

static void on_readable(struct https_client *c)
{
	uint8_t buf[CHUNK];

	for (int i = 0; i < READS_PER_TURN; i++) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			struct err e = {0};

			if (n == 0)
				(void)err_set(&e, ECONNRESET, "the server closed the connection");
			else
				(void)err_errno(&e, errno, "receive");
			https_down(c, &e);
			return;
		}
		if (!take(c, buf, (size_t)n))
			return;
	}
}

static void on_io(struct watch *w, uint32_t events)
{
	struct https_client *c = container_of(w, struct https_client, watch);

	OBJ_CHECK(c, HTTPS_MAGIC);
	if ((events & EPOLLOUT) != 0 && !push(c))
		return;
	if ((events & ~(uint32_t)EPOLLOUT) != 0)
		on_readable(c);
	if (c->freed || c->state == HTTPS_DOWN)
		return;
	if (c->state == HTTPS_UP && (h2_done(c->h2) || (c->draining && c->nreqs == 0))) {
		down_text(c, ECONNRESET, "the server ended the connection (GOAWAY)");
		return;
	}
	flush(c);
}

void https_connected(struct https_client *c)
{
	int r;

	c->state = HTTPS_HANDSHAKE;
	c->interest = EPOLLIN;
	r = loop_watch(c->loop, &c->watch, c->fd, c->interest, on_io);
	if (r < 0) {
		struct err e = {0};

		(void)err_errno(&e, -r, "watch the socket");
		https_down(c, &e);
		return;
	}
	if (tls_client_handshake(c->tls) == TLS_CLIENT_FAILED)
		down_text(c, EPROTO, tls_client_error(c->tls));
	else
		(void)push(c);
}

struct https_client *https_client_new(struct loop *l, const struct https_config *cfg,
				      const struct https_client_ops *ops, void *ctx,
				      struct err *err)
{
	struct https_client *c = xcalloc(1, sizeof(*c));
	bool v6 = strchr(cfg->host, ':') != NULL;

	*c = (struct https_client){
		.magic = HTTPS_MAGIC,
		.loop = l,
		.ops = ops,
		.ctx = ctx,
		.fd = -1,
		.port = cfg->port,
		.ping_ms = cfg->ping_ms ? cfg->ping_ms : LIMIT_H2_PING_INTERVAL_MS,
		.connect_ms = cfg->connect_ms ? cfg->connect_ms : LIMIT_HTTPS_CONNECT_MS};
	list_init(&c->reqs);
	list_init(&c->ready);
	c->host = xstrdup(cfg->host);
	c->server_name = xstrdup(cfg->server_name != NULL ? cfg->server_name : cfg->host);
	c->authority = cfg->authority != NULL
			       ? xstrdup(cfg->authority)
			       : xasprintf(v6 ? "[%s]:%u" : "%s:%u", cfg->host, cfg->port);
	c->tls = tls_client_new(cfg->tls, c->server_name, err);
	if (c->tls == NULL ||
	    (cfg->alt_name != NULL && tls_client_accept_name(c->tls, cfg->alt_name, err) < 0) ||
	    https_connect_start(c, err) < 0)
		return https_client_free(c);
	return c;
}
