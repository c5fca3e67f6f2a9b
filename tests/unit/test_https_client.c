/* SPDX-License-Identifier: Apache-2.0
 * test_https_client.c: the client against a small server of its own making (OpenSSL and nghttp2
 * directly, so that both ends do not share mistakes), on one loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/attr.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/wire/https_client.h"
#include "lib/wire/tls_client.h"
#include "tests/unit/tls_helper.h"

#define BIG (4u << 20)

/* --- the server: what it does is in the path --- */

struct stream {
	struct list node;
	char path[64];
	char body[65536]; /* of the request */
	size_t nbody, sent, total;
	bool trailers;
};

struct server {
	struct loop *loop;
	SSL_CTX *ctx;
	int lfd, fd;
	struct watch accept, io;
	SSL *ssl;
	BIO *in, *out;
	nghttp2_session *ng;
	bool deaf, no_h2;
	unsigned int resets, pings;
	size_t received; /* bytes of bodies */
	struct list streams;
};

static ssize_t srv_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t cap, uint32_t *flags,
			nghttp2_data_source *source, void *arg)
{
	struct stream *st = source->ptr;
	size_t n = st->total - st->sent;

	(void)arg;
	if (n > cap)
		n = cap;
	if (st->nbody != 0)
		memcpy(buf, st->body + st->sent, n);
	else
		memset(buf, 'x', n);
	st->sent += n;
	if (st->sent < st->total)
		return (ssize_t)n;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (st->trailers) {
		nghttp2_nv t = {(uint8_t *)(uintptr_t) "grpc-status", (uint8_t *)(uintptr_t) "0",
				11, 1, 0};

		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		nghttp2_submit_trailer(ng, id, &t, 1);
	}
	return (ssize_t)n;
}

static void respond(struct server *s, int32_t id, struct stream *st, const char *status)
{
	nghttp2_nv nv = {(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t)status, 7, 3, 0};
	nghttp2_data_provider d = {.source.ptr = st, .read_callback = srv_read};

	nghttp2_submit_response(s->ng, id, &nv, 1, &d);
}

static bool is(const struct stream *st, const char *path)
{
	return strcmp(st->path, path) == 0;
}

static void serve(struct server *s, int32_t id, struct stream *st, bool ended)
{
	if (is(st, "/early") && !ended) {
		respond(s, id, st, "413");
	} else if (!ended || is(st, "/never")) {
		return;
	} else if (is(st, "/reset")) {
		nghttp2_submit_rst_stream(s->ng, 0, id, NGHTTP2_INTERNAL_ERROR);
	} else if (is(st, "/info")) {
		nghttp2_nv nv = {(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t) "103", 7,
				 3, 0};

		nghttp2_submit_headers(s->ng, 0, id, NULL, &nv, 1, NULL);
		respond(s, id, st, "204");
	} else {
		st->total = is(st, "/big") ? BIG : st->nbody;
		st->trailers = is(st, "/echo");
		respond(s, id, st, "200");
		if (is(st, "/goaway"))
			nghttp2_submit_goaway(s->ng, 0, id, NGHTTP2_NO_ERROR, NULL, 0);
	}
}

static int srv_begin(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct stream *st = xcalloc(1, sizeof(*st));

	list_append(&((struct server *)arg)->streams, &st->node);
	nghttp2_session_set_stream_user_data(ng, f->hd.stream_id, st);
	return 0;
}

static int srv_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name, size_t nl,
		      const uint8_t *value, size_t vl, uint8_t flags, void *arg)
{
	struct stream *st = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);

	(void)arg;
	(void)flags;
	if (nl == 5 && memcmp(name, ":path", 5) == 0 && vl < sizeof(st->path))
		memcpy(st->path, value, vl);
	return 0;
}

static int srv_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		    void *arg)
{
	struct stream *st = nghttp2_session_get_stream_user_data(ng, id);

	(void)flags;
	((struct server *)arg)->received += n;
	if (st != NULL && st->nbody + n <= sizeof(st->body)) {
		memcpy(st->body + st->nbody, p, n);
		st->nbody += n;
	}
	return 0;
}

static int srv_frame(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct stream *st = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);
	struct server *s = arg;

	if (f->hd.type == NGHTTP2_RST_STREAM)
		s->resets++;
	if (f->hd.type == NGHTTP2_PING)
		s->pings++;
	if (st != NULL && (f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA))
		serve(s, f->hd.stream_id, st, (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0);
	return 0;
}

static int srv_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	struct stream *st = nghttp2_session_get_stream_user_data(ng, id);

	(void)code;
	(void)arg;
	list_remove(&st->node);
	free(st);
	return 0;
}

static void srv_push(struct server *s)
{
	const uint8_t *p;
	bool more = false;
	char *enc;
	ssize_t n;
	long m;

	while (s->ng != NULL && BIO_pending(s->out) < 65536 &&
	       (n = nghttp2_session_mem_send(s->ng, &p)) > 0)
		assert_int_equal(SSL_write(s->ssl, p, (int)n), n);
	m = BIO_get_mem_data(s->out, &enc);
	more = m >= 65536;
	n = m > 0 ? send(s->fd, enc, (size_t)m, MSG_NOSIGNAL) : 0;
	if (n > 0) { /* what is left moves to the front */
		char *rest = xmalloc((size_t)(m - n) + 1);

		memcpy(rest, enc + n, (size_t)(m - n));
		(void)BIO_reset(s->out);
		if (m > n)
			BIO_write(s->out, rest, (int)(m - n));
		free(rest);
	}
	if (s->io.added)
		assert_int_equal(
			loop_rewatch(s->loop, &s->io,
				     (s->deaf ? 0u : (uint32_t)EPOLLIN) |
					     (more || BIO_pending(s->out) > 0 ? EPOLLOUT : 0u)),
			0);
}

static void srv_start_h2(struct server *s)
{
	nghttp2_session_callbacks *cb;
	nghttp2_settings_entry iv = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 20};

	nghttp2_session_callbacks_new(&cb);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, srv_begin);
	nghttp2_session_callbacks_set_on_header_callback(cb, srv_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, srv_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, srv_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, srv_close);
	nghttp2_session_server_new(&s->ng, cb, s);
	nghttp2_session_callbacks_del(cb);
	nghttp2_submit_settings(s->ng, 0, &iv, 1);
}

static void srv_drop(struct server *s)
{
	loop_unwatch(s->loop, &s->io);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	nghttp2_session_del(s->ng);
	s->ng = NULL;
	while (!list_empty(&s->streams)) {
		struct list *n = list_pop(&s->streams);

		free(container_of(n, struct stream, node));
	}
	SSL_free(s->ssl);
	s->ssl = NULL;
}

static void srv_io(struct watch *w, uint32_t events)
{
	struct server *s = container_of(w, struct server, io);
	uint8_t buf[16384];
	ssize_t n;
	int r;

	if ((events & EPOLLIN) != 0 && !s->deaf) {
		n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			srv_drop(s);
			return;
		}
		if (n > 0)
			BIO_write(s->in, buf, (int)n);
		if (s->ng == NULL && SSL_do_handshake(s->ssl) == 1)
			srv_start_h2(s);
		while (s->ng != NULL && (r = SSL_read(s->ssl, buf, sizeof(buf))) > 0)
			assert_int_equal(nghttp2_session_mem_recv(s->ng, buf, (size_t)r), r);
	}
	srv_push(s);
}

static void srv_accept(struct watch *w, uint32_t events)
{
	struct server *s = container_of(w, struct server, accept);

	(void)events;
	s->fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(s->fd >= 0);
	s->ssl = SSL_new(s->ctx);
	s->in = BIO_new(BIO_s_mem());
	s->out = BIO_new(BIO_s_mem());
	SSL_set_bio(s->ssl, s->in, s->out);
	SSL_set_accept_state(s->ssl);
	assert_int_equal(loop_watch(s->loop, &s->io, s->fd, EPOLLIN, srv_io), 0);
}

static int choose(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
		  unsigned int inlen, void *arg)
{
	(void)ssl;
	(void)in;
	(void)inlen;
	*out = (const unsigned char *)"h2";
	*n = 2;
	return ((struct server *)arg)->no_h2 ? SSL_TLSEXT_ERR_NOACK : SSL_TLSEXT_ERR_OK;
}

/* --- the client's side --- */

struct fixture {
	struct loop *loop;
	struct server srv;
	struct test_ca ca;
	uint16_t port;
	struct tls_client_ctx *tls;
	struct https_client *c;
	unsigned int ups, downs;
	struct err why;
};

struct req {
	struct https_req r;
	struct fixture *f;
	unsigned int status, ends;
	size_t got;
	char first[64], grpc[8];
	struct err why;
	bool failed, free_client;
};

static void on_up(void *ctx)
{
	((struct fixture *)ctx)->ups++;
}

static void on_down(void *ctx, const struct err *why)
{
	struct fixture *f = ctx;

	f->downs++;
	f->why = *why;
}

static const struct https_client_ops client_ops = {.up = on_up, .down = on_down};

static void req_head(struct https_req *r, unsigned int status, const struct h2_head *h)
{
	(void)h;
	container_of(r, struct req, r)->status = status;
}

static void req_data(struct https_req *r, const uint8_t *p, size_t n)
{
	struct req *q = container_of(r, struct req, r);

	assert_int_equal(q->ends, 0);
	for (size_t i = 0; i < n && q->got + i < sizeof(q->first) - 1; i++)
		q->first[q->got + i] = (char)p[i];
	q->got += n;
	if (q->free_client)
		q->f->c = https_client_free(q->f->c);
}

static void req_trailers(struct https_req *r, const struct h2_head *h)
{
	struct req *q = container_of(r, struct req, r);

	assert_int_equal(str_to_cstr(h2_head_get(h, "grpc-status"), q->grpc, sizeof(q->grpc), NULL),
			 0);
}

static void req_end(struct https_req *r, const struct err *why)
{
	struct req *q = container_of(r, struct req, r);

	q->ends++;
	q->failed = why != NULL;
	if (why != NULL)
		q->why = *why;
}

static const struct https_req_ops req_ops = {req_head, req_data, req_trailers, req_end};

static EVP_PKEY *srv_key;

static X509 *server_cert(const struct test_ca *ca, EVP_PKEY *key)
{
	X509 *c = cert_base(key, "server", -60, 3600);

	add_ext(c, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
	X509_set_issuer_name(c, X509_get_subject_name(ca->cert));
	X509_sign(c, ca->key, EVP_sha256());
	return c;
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	X509 *cert;

	f->loop = loop_new();
	f->ca = test_ca_new();
	srv_key = EVP_EC_gen("P-256");
	cert = server_cert(&f->ca, srv_key);
	f->srv = (struct server){.loop = f->loop, .fd = -1};
	list_init(&f->srv.streams);
	f->srv.ctx = SSL_CTX_new(TLS_server_method());
	assert_int_equal(SSL_CTX_use_certificate(f->srv.ctx, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(f->srv.ctx, srv_key), 1);
	SSL_CTX_set_alpn_select_cb(f->srv.ctx, choose, &f->srv);
	X509_free(cert);
	f->srv.lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->srv.lfd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(f->srv.lfd, 8), 0);
	assert_int_equal(getsockname(f->srv.lfd, (struct sockaddr *)&sa, &len), 0);
	f->port = ntohs(sa.sin_port);
	assert_int_equal(loop_watch(f->loop, &f->srv.accept, f->srv.lfd, EPOLLIN, srv_accept), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->c = https_client_free(f->c);
	(void)tls_client_ctx_free(f->tls);
	if (f->srv.ssl != NULL)
		srv_drop(&f->srv);
	loop_unwatch(f->loop, &f->srv.accept);
	close(f->srv.lfd);
	SSL_CTX_free(f->srv.ctx);
	EVP_PKEY_free(srv_key);
	test_ca_free(&f->ca);
	(void)loop_free(f->loop);
	free(f);
	return 0;
}

static void begin(struct fixture *f, const char *host, struct https_config cfg)
{
	struct tls_client_config t = {.ca_pem = str_of(f->ca.pem)};
	struct err err = {0};

	f->tls = tls_client_ctx_new(&t, &err);
	assert_non_null(f->tls);
	cfg.host = host;
	cfg.port = cfg.port != 0 ? cfg.port : f->port;
	cfg.tls = f->tls;
	f->c = https_client_new(f->loop, &cfg, &client_ops, f, &err);
	if (f->c == NULL)
		fail_msg("%s", err.msg);
}

#define wait_for(f, cond)                                                                          \
	do {                                                                                       \
		uint64_t end_ = clock_mono_ms() + 10000;                                           \
		while (!(cond)) {                                                                  \
			if (clock_mono_ms() > end_)                                                \
				fail_msg("not in time: %s (%s)", #cond, (f)->why.msg);             \
			loop_step((f)->loop, 20);                                                  \
		}                                                                                  \
	} while (0)

static void connected(struct fixture *f)
{
	begin(f, "127.0.0.1", (struct https_config){0});
	wait_for(f, f->ups == 1);
}

static void ask(struct fixture *f, struct req *q, struct https_call call)
{
	struct err err = {0};

	q->f = f;
	call.method = call.body.n != 0 || call.open ? "POST" : "GET";
	if (https_request(f->c, &q->r, &call, &req_ops, &err) != 0)
		fail_msg("%s", err.msg);
}

static void https__answers_on_one_connection(void **state)
{
	struct fixture *f = *state;
	struct req q[5] = {0};
	static const char *const path[] = {"/echo", "/info", "/echo", "/echo", "/none"};

	connected(f);
	for (size_t i = 0; i < 5; i++)
		ask(f, &q[i],
		    (struct https_call){.path = path[i],
					.body = i == 2 ? STR("hello") : (struct str){0}});
	for (size_t i = 0; i < 5; i++)
		wait_for(f, q[i].ends == 1);
	assert_int_equal(q[0].status, 200);
	assert_int_equal(q[1].status, 204); /* not the 103 before it */
	assert_string_equal(q[2].first, "hello");
	assert_string_equal(q[2].grpc, "0");
	assert_false(q[0].failed || q[1].failed || q[2].failed || q[4].failed);
	assert_int_equal(f->ups, 1);
}

static void https__streams_a_request(void **state)
{
	struct fixture *f = *state;
	struct req q = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/echo", .open = true});
	for (int i = 0; i < 20; i++) {
		loop_step(f->loop, 1);
		assert_int_equal(https_req_send(&q.r, "0123456789", 10, i == 19), 0);
	}
	assert_int_equal(https_req_send(&q.r, "x", 1, true), -ENOTCONN);
	wait_for(f, q.ends == 1);
	assert_int_equal(q.got, 200);
	assert_string_equal(q.grpc, "0");
}

/* Several turns and windows each, and they take turns. */
static void https__large_bodies(void **state)
{
	struct fixture *f = *state;
	struct req q[3] = {0};
	char *body = xcalloc(1, 400000);

	connected(f);
	for (size_t i = 0; i < ARRAY_LEN(q); i++) {
		ask(f, &q[i], (struct https_call){.path = "/early-not", .open = true});
		assert_int_equal(https_req_send(&q[i].r, body, 400000, true), 0);
	}
	wait_for(f, q[0].ends + q[1].ends + q[2].ends == 3);
	assert_false(q[0].failed || q[1].failed || q[2].failed);
	assert_int_equal(f->srv.received, 3 * 400000);
	free(body);
}

static void https__early_answer_ends_the_request(void **state)
{
	struct fixture *f = *state;
	struct req q = {0}, r = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/early", .open = true});
	wait_for(f, q.ends == 1);
	assert_int_equal(q.status, 413);
	assert_false(q.failed);
	assert_int_equal(https_req_send(&q.r, "x", 1, true), -ENOTCONN);
	ask(f, &r, (struct https_call){.path = "/echo"});
	wait_for(f, r.ends == 1 && f->srv.resets == 1);
}

static void https__credit_is_the_callers(void **state)
{
	struct fixture *f = *state;
	struct req q = {0}, other = {0};
	size_t held;

	connected(f);
	ask(f, &q, (struct https_call){.path = "/big", .manual = true});
	wait_for(f, q.got >= 65535);
	ask(f, &other, (struct https_call){.path = "/big"});
	wait_for(f, other.ends == 1); /* one that is stopped does not stop another */
	assert_int_equal(other.got, BIG);
	held = q.got;
	assert_true(held <= 256u << 10);
	while (q.ends == 0) {
		https_req_consume(&q.r, q.r.unconsumed);
		loop_step(f->loop, 20);
	}
	assert_int_equal(q.got, BIG);
}

static void https__cancel_and_deadline_leave_the_connection(void **state)
{
	struct fixture *f = *state;
	struct req q = {0}, r = {0}, s = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/never"});
	ask(f, &r, (struct https_call){.path = "/never", .deadline_ms = 300});
	loop_step(f->loop, 1);
	https_req_cancel(&q.r);
	https_req_cancel(&q.r);
	wait_for(f, r.ends == 1);
	assert_int_equal(r.why.code, ETIMEDOUT);
	ask(f, &s, (struct https_call){.path = "/echo"});
	wait_for(f, s.ends == 1 && f->srv.resets == 2);
	assert_int_equal(q.ends, 0);
	assert_true(https_client_usable(f->c));
}

static void https__reset_is_one_requests_affair(void **state)
{
	struct fixture *f = *state;
	struct req q = {0}, r = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/reset"});
	ask(f, &r, (struct https_call){.path = "/echo"});
	wait_for(f, q.ends == 1 && r.ends == 1);
	assert_true(q.failed && !r.failed);
	assert_non_null(strstr(q.why.msg, "error 2"));
}

static void https__too_many_streams_are_refused_here(void **state)
{
	struct fixture *f = *state;
	struct req q[21] = {0};
	struct https_call call = {.method = "GET", .path = "/never"};
	struct err err = {0};

	connected(f);
	ask(f, &q[0], call);
	wait_for(f, f->srv.ng != NULL);
	for (int i = 0; i < 5; i++)
		loop_step(f->loop, 5); /* the server's SETTINGS */
	for (size_t i = 1; i < 20; i++)
		ask(f, &q[i], call);
	assert_int_equal(https_request(f->c, &q[20].r, &call, &req_ops, &err), -EAGAIN);
	https_req_cancel(&q[3].r);
	ask(f, &q[20], call);
	f->c = https_client_free(f->c); /* before the requests' memory goes */
}

static void https__goaway_lets_the_last_answer_finish(void **state)
{
	struct fixture *f = *state;
	struct https_call call = {.method = "GET", .path = "/echo"};
	struct req q = {0}, r = {0};
	struct err err = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/goaway"});
	wait_for(f, f->downs == 1);
	assert_int_equal(q.ends, 1);
	assert_false(q.failed);
	assert_non_null(strstr(f->why.msg, "GOAWAY"));
	assert_int_equal(https_request(f->c, &r.r, &call, &req_ops, &err), -ENOTCONN);
}

static void https__freed_inside_a_callback(void **state)
{
	struct fixture *f = *state;
	struct req q = {.free_client = true}, r = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/big"});
	ask(f, &r, (struct https_call){.path = "/never"});
	wait_for(f, f->c == NULL);
	for (int i = 0; i < 5; i++)
		loop_step(f->loop, 5);
	assert_int_equal(q.ends + r.ends + f->downs, 0);
}

static void https__broken_connection_ends_requests_then_itself(void **state)
{
	struct fixture *f = *state;
	struct req q = {0};

	connected(f);
	ask(f, &q, (struct https_call){.path = "/never"});
	loop_step(f->loop, 5);
	srv_drop(&f->srv);
	wait_for(f, f->downs == 1);
	assert_int_equal(q.ends, 1);
	assert_true(q.failed);
}

static void https__silent_server_is_given_up(void **state)
{
	struct fixture *f = *state;
	struct req q = {0};

	begin(f, "127.0.0.1", (struct https_config){.ping_ms = 300});
	wait_for(f, f->ups == 1);
	ask(f, &q, (struct https_call){.path = "/never"});
	wait_for(f, f->srv.pings >= 2); /* answered: it lives */
	assert_int_equal(f->downs, 0);
	f->srv.deaf = true;
	srv_push(&f->srv);
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "pings"));
	assert_int_equal(q.ends, 1);
}

static void https__name_is_looked_up(void **state)
{
	struct fixture *f = *state;

	begin(f, "localhost", (struct https_config){0}); /* ::1 may come first and refuses */
	wait_for(f, f->ups == 1);
}

static void https__lookup_that_fails_or_is_given_up(void **state)
{
	struct fixture *f = *state;
	char label[70];

	memset(label, 'a', sizeof(label) - 1); /* no name server need be asked */
	label[sizeof(label) - 1] = '\0';
	begin(f, label, (struct https_config){.server_name = "localhost"});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "look up"));
	f->c = https_client_free(f->c);
	f->tls = tls_client_ctx_free(f->tls);
	begin(f, label, (struct https_config){.server_name = "localhost"});
	f->c = https_client_free(f->c);
	for (int i = 0; i < 5; i++)
		loop_step(f->loop, 5);
	assert_int_equal(f->downs, 1);
}

static void https__nobody_listens(void **state)
{
	struct fixture *f = *state;

	loop_unwatch(f->loop, &f->srv.accept);
	close(f->srv.lfd);
	f->srv.lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* for teardown */
	begin(f, "127.0.0.1", (struct https_config){0});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "Connection refused"));
	assert_int_equal(f->ups, 0);
}

static void https__handshake_has_a_limit(void **state)
{
	struct fixture *f = *state;

	loop_unwatch(f->loop, &f->srv.accept);
	begin(f, "127.0.0.1", (struct https_config){.connect_ms = 1000});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "TLS handshake took longer than 1000 ms"));
}

static void https__other_authority(void **state)
{
	struct fixture *f = *state;
	struct test_ca real = f->ca;

	f->ca = test_ca_new();
	begin(f, "127.0.0.1", (struct https_config){0});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "certificate is not valid"));
	assert_int_equal(f->ups, 0);
	test_ca_free(&real);
}

static void https__other_name(void **state)
{
	struct fixture *f = *state;

	begin(f, "127.0.0.1", (struct https_config){.server_name = "api.example.com"});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "mismatch"));
	assert_int_equal(f->ups, 0);
}

static void https__no_http2(void **state)
{
	struct fixture *f = *state;

	f->srv.no_h2 = true;
	begin(f, "127.0.0.1", (struct https_config){0});
	wait_for(f, f->downs == 1);
	assert_non_null(strstr(f->why.msg, "HTTP/2"));
	assert_int_equal(f->ups, 0);
}

static void tls_client_ctx_new__bad_pem(void **state)
{
	static const struct {
		struct tls_client_config cfg;
		const char *word;
	} rows[] = {
		{{.ca_pem = {"x", 1}}, "CA certificates"},
		{{.insecure = true, .cert_pem = {"x", 1}}, "needs its key"},
		{{.insecure = true, .key_pem = {"x", 1}}, "needs its key"},
		{{.insecure = true, .cert_pem = {"x", 1}, .key_pem = {"y", 1}},
		 "client certificate"},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err err = {0};

		assert_null(tls_client_ctx_new(&rows[i].cfg, &err));
		if (strstr(err.msg, rows[i].word) == NULL)
			fail_msg("\"%s\" does not name %s", err.msg, rows[i].word);
	}
}

static void https_backoff_ms__rows(void **state)
{
	(void)state;
	assert_int_equal(https_backoff_ms(1, 100, 30000, 0), 100);
	assert_int_equal(https_backoff_ms(2, 100, 30000, 0), 200);
	assert_int_equal(https_backoff_ms(9, 100, 30000, 0), 25600);
	assert_int_equal(https_backoff_ms(10, 100, 30000, 0), 30000);
	assert_int_equal(https_backoff_ms(4000000000u, 100, 30000, 0), 30000);
	assert_int_equal(https_backoff_ms(1, 100, 30000, 50), 50);
	assert_int_equal(https_backoff_ms(1, 100, 30000, 51), 100);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(https__answers_on_one_connection),
		T(https__streams_a_request),
		T(https__large_bodies),
		T(https__early_answer_ends_the_request),
		T(https__credit_is_the_callers),
		T(https__cancel_and_deadline_leave_the_connection),
		T(https__reset_is_one_requests_affair),
		T(https__too_many_streams_are_refused_here),
		T(https__goaway_lets_the_last_answer_finish),
		T(https__freed_inside_a_callback),
		T(https__broken_connection_ends_requests_then_itself),
		T(https__silent_server_is_given_up),
		T(https__name_is_looked_up),
		T(https__lookup_that_fails_or_is_given_up),
		T(https__nobody_listens),
		T(https__handshake_has_a_limit),
		T(https__other_authority),
		T(https__other_name),
		T(https__no_http2),
		cmocka_unit_test(tls_client_ctx_new__bad_pem),
		cmocka_unit_test(https_backoff_ms__rows),
	};

	return cmocka_run_group_tests_name("https_client", tests, NULL, NULL);
}
