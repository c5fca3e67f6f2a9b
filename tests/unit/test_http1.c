/* SPDX-License-Identifier: Apache-2.0
 * test_http1.c: the small HTTP/1.1 server over a unix socket, client and loop driven by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"
#include "lib/wire/http1.h"

#define WAIT_MS 10000

struct fixture {
	char dir[64], path[96];
	struct loop *l;
	struct http1_server *s;
	struct http1_req *kept;
	unsigned int calls, gone;
};

static void on_gone(void *arg)
{
	struct fixture *f = arg;

	f->gone++;
	f->kept = NULL;
}

static void echo(struct fixture *f, struct http1_req *r)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	const char *q = http1_query(r, "q"), *h = http1_header(r, "X-Test");
	struct str body = http1_body(r);

	strbuf_printf(&out, "%s %s q=%s h=%s pid=%d body=%zu:%.*s", http1_method(r), http1_path(r),
		      q != NULL ? q : "(none)", h != NULL ? h : "(none)",
		      http1_peer_pid(r) == getpid(), body.n, body.n < 40 ? (int)body.n : 0,
		      body.n != 0 ? body.p : "");
	f->calls++;
	http1_reply(r, 200, "text/plain", (struct str){out.p, out.n});
}

static void handler(void *ctx, struct http1_req *r)
{
	struct fixture *f = ctx;

	if (strcmp(http1_path(r), "/keep") == 0) {
		assert_null(f->kept);
		f->kept = r;
		http1_keep(r, on_gone, f);
	} else if (strcmp(http1_path(r), "/keep-and-answer") == 0) {
		http1_keep(r, on_gone, f);
		http1_reply(r, 202, NULL, STR("at once"));
	} else if (strcmp(http1_path(r), "/big") == 0) {
		_cleanup_free_ char *big = xmalloc(3 << 20);

		memset(big, 'b', 3 << 20);
		http1_reply(r, 200, "text/plain", (struct str){big, 3 << 20});
	} else {
		echo(f, r);
	}
}

static void serve(struct fixture *f, int64_t uid)
{
	int fd = unix_listen(f->path, SOCK_STREAM, 0600, NULL);

	assert_true(fd >= 0);
	f->s = http1_server_new(f->l, fd, uid, handler, f, NULL);
	assert_non_null(f->s);
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_http1.XXXXXX");
	if (mkdtemp(f->dir) == NULL)
		return -1;
	(void)snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	f->l = loop_new();
	serve(f, (int64_t)getuid());
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->s = http1_server_free(f->s);
	f->l = loop_free(f->l);
	(void)unlink(f->path);
	(void)rmdir(f->dir);
	free(f);
	return 0;
}

static int client(struct fixture *f)
{
	int fd = unix_connect(f->path, SOCK_STREAM, true, NULL);

	assert_true(fd >= 0);
	return fd;
}

/* Sends all of @s, running the loop while the socket is full. False when the server closed. */
static bool push(struct fixture *f, int fd, struct str s)
{
	uint64_t end = clock_mono_ms() + WAIT_MS;

	while (s.n != 0) {
		ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return false;
		if (n > 0) {
			s.p += n;
			s.n -= (size_t)n;
		}
		loop_step(f->l, n > 0 ? 0 : 5);
		assert_true(clock_mono_ms() < end);
	}
	return true;
}

/* Reads until @until is in the answer (NULL: until the server closes). The caller frees. */
static char *pull(struct fixture *f, int fd, const char *until)
{
	struct strbuf b = {0};
	uint64_t end = clock_mono_ms() + WAIT_MS;
	char buf[65536];

	strbuf_puts(&b, "");
	while (until == NULL || strstr(b.p, until) == NULL) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
		if (n > 0)
			strbuf_add(&b, buf, (size_t)n);
		loop_step(f->l, n > 0 ? 0 : 5);
		if (clock_mono_ms() > end) {
			strbuf_puts(&b, "(TIMEOUT)");
			break;
		}
	}
	return strbuf_take(&b);
}

static char *talk(struct fixture *f, struct str request)
{
	_cleanup_close_ int fd = client(f);

	(void)push(f, fd, request);
	return pull(f, fd, NULL);
}

static void assert_has(const char *text, const char *part)
{
	if (strstr(text, part) == NULL)
		fail_msg("no \"%s\" in: %.300s", part, text);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void http1__request_reaches_handler(void **state)
{
	static const struct {
		const char *request, *part;
	} rows[] = {
		{GET("/a/b"), "GET /a/b q=(none) h=(none) pid=1 body=0:"},
		{GET("/a?q=1%202&x"), "GET /a q=1 2 "},
		{GET("/a?x&q"), "GET /a q= h"},
		{"DELETE / HTTP/1.1\r\nHost: x\r\nx-test: v\r\nConnection: close\r\n\r\n",
		 "DELETE / q=(none) h=v "},
		{"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
		 "5\r\n\r\nhello",
		 "POST /p q=(none) h=(none) pid=1 body=5:hello"},
		{"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
		 "chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
		 "body=5:hello"},
		{"GET / HTTP/1.0\r\n\r\n", "GET / q"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fixture *f = *state;
		_cleanup_free_ char *got = talk(f, str_of(rows[i].request));

		assert_has(got, "200 OK");
		assert_has(got, "Content-Type: text/plain");
		assert_has(got, rows[i].part);
		assert_int_equal(f->calls, i + 1);
	}
}

static void http1__split_at_every_byte(void **state)
{
	static const char request[] = "POST /p HTTP/1.1\r\nHost: x\r\nConnection: "
				      "close\r\nContent-Length: 5\r\n\r\nhello";
	struct fixture *f = *state;

	for (size_t cut = 1; cut < sizeof(request) - 1; cut++) {
		_cleanup_close_ int fd = client(f);
		_cleanup_free_ char *got = NULL;

		assert_true(push(f, fd, (struct str){request, cut}));
		for (int i = 0; i < 4; i++)
			loop_step(f->l, 0);
		assert_true(push(f, fd, (struct str){request + cut, sizeof(request) - 1 - cut}));
		got = pull(f, fd, NULL);
		assert_has(got, "body=5:hello");
	}
}

static void http1__keep_alive_and_pipelining(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = client(f);
	_cleanup_free_ char *got = NULL, *more = NULL;

	assert_true(push(f, fd,
			 STR("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: "
			     "x\r\n\r\n")));
	got = pull(f, fd, "/2");
	assert_has(got, "GET /1 ");
	assert_has(got, "GET /2 ");
	assert_true(push(f, fd, STR(GET("/3"))));
	more = pull(f, fd, NULL);
	assert_has(more, "GET /3 ");
	assert_int_equal(f->calls, 3);
}

static void http1__garbage_is_refused(void **state)
{
	static const char *const rows[] = {
		"\r\n\r\n\r\n\r\nhello\r\n\r\n",
		"GET\r\n\r\n",
		"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
		"\x16\x03\x01\x02\x01\x01\xfc\x03\x03\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_close_ int fd = client(f);
		_cleanup_free_ char *got = NULL;

		(void)push(f, fd, str_of(rows[i]));
		(void)shutdown(fd, SHUT_WR);
		got = pull(f, fd, NULL);
		if (strstr(got, " 200 ") != NULL)
			fail_msg("row %zu: %s", i, got);
		assert_null(strstr(got, "(TIMEOUT)"));
	}
	assert_int_equal(f->calls, 0);
}

static void http1__head_limit(void **state)
{
	struct fixture *f = *state;
	_cleanup_strbuf_ struct strbuf ok = {0}, big = {0}, uri = {0};
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;

	strbuf_puts(&ok, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
	for (int i = 0; i < 50; i++)
		strbuf_printf(&ok, "X-%d: %0100d\r\n", i, i);
	strbuf_puts(&ok, "\r\n");
	a = talk(f, (struct str){ok.p, ok.n});
	assert_has(a, "200 OK");

	strbuf_puts(&big, "GET / HTTP/1.1\r\nHost: x\r\n");
	while (big.n < 4 * LIMIT_HTTP_HEAD_BYTES)
		strbuf_puts(&big,
			    "X-Pad: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n");
	b = talk(f, (struct str){big.p, big.n});
	assert_has(b, "HTTP/1.1 431 ");

	strbuf_puts(&uri, "GET /");
	while (uri.n < 4 * LIMIT_HTTP_HEAD_BYTES)
		strbuf_putc(&uri, 'u');
	c = talk(f, (struct str){uri.p, uri.n});
	assert_has(c, "HTTP/1.1 4");
	assert_int_equal(f->calls, 1);
}

static void body_request(struct strbuf *b, size_t n, bool chunked)
{
	strbuf_puts(b, "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
	if (!chunked) {
		strbuf_printf(b, "Content-Length: %zu\r\n\r\n", n);
		for (size_t i = 0; i < n; i++)
			strbuf_putc(b, 'x');
		return;
	}
	strbuf_puts(b, "Transfer-Encoding: chunked\r\n\r\n");
	for (size_t i = 0; i < n; i += 16)
		strbuf_puts(b, "10\r\nxxxxxxxxxxxxxxxx\r\n");
	strbuf_puts(b, "0\r\n\r\n");
}

static void http1__body_limit(void **state)
{
	static const struct {
		size_t n;
		bool chunked;
		const char *part;
	} rows[] = {
		{LIMIT_HTTP_BODY_BYTES, false, "body=65536:"},
		{LIMIT_HTTP_BODY_BYTES, true, "body=65536:"},
		{LIMIT_HTTP_BODY_BYTES + 1, false, "HTTP/1.1 413 "},
		{LIMIT_HTTP_BODY_BYTES + 16, true, "HTTP/1.1 413 "},
		{2 * LIMIT_HTTP_BODY_BYTES, true, "HTTP/1.1 413 "},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		_cleanup_free_ char *got = NULL;

		body_request(&b, rows[i].n, rows[i].chunked);
		got = talk(f, (struct str){b.p, b.n});
		assert_has(got, rows[i].part);
	}
	assert_int_equal(f->calls, 2);
}

static void http1__endless_body_is_cut(void **state)
{
	static const char chunk[] = "400\r\n";
	struct fixture *f = *state;
	_cleanup_close_ int fd = client(f);
	_cleanup_strbuf_ struct strbuf b = {0};
	size_t sent = 0;

	strbuf_puts(&b, chunk);
	for (int i = 0; i < 1024; i++)
		strbuf_putc(&b, 'x');
	strbuf_puts(&b, "\r\n");
	assert_true(push(f, fd,
			 STR("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
			     "chunked\r\n\r\n")));
	while (sent < 64u << 20 && push(f, fd, (struct str){b.p, b.n}))
		sent += b.n;
	assert_true(sent < 4u << 20);
	assert_int_equal(f->calls, 0);
}

static void http1__answer_later(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = client(f), other = client(f);
	_cleanup_free_ char *got = NULL, *between = NULL;

	assert_true(push(f, fd, STR(GET("/keep"))));
	for (int i = 0; i < 100 && f->kept == NULL; i++)
		loop_step(f->l, 10);
	assert_non_null(f->kept);
	/* the client may be done with sending; others are served meanwhile */
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_true(push(f, other, STR(GET("/x"))));
	between = pull(f, other, NULL);
	assert_has(between, "GET /x ");
	assert_int_equal(f->gone, 0);
	http1_reply(f->kept, 503, "application/json", STR("{\"later\":1}"));
	got = pull(f, fd, NULL);
	assert_has(got, "HTTP/1.1 503 ");
	assert_has(got, "{\"later\":1}");
	assert_int_equal(f->gone, 0);
}

static void http1__kept_and_answered_in_the_handler(void **state)
{
	_cleanup_free_ char *got = talk(*state, STR(GET("/keep-and-answer")));

	assert_has(got, "HTTP/1.1 202 ");
	assert_has(got, "at once");
}

static void http1__client_gone_while_kept(void **state)
{
	struct fixture *f = *state;
	int fd = client(f);

	assert_true(push(f, fd, STR(GET("/keep"))));
	for (int i = 0; i < 100 && f->kept == NULL; i++)
		loop_step(f->l, 10);
	assert_non_null(f->kept);
	fd = xclose(fd);
	for (int i = 0; i < 100 && f->gone == 0; i++)
		loop_step(f->l, 10);
	assert_int_equal(f->gone, 1);
	for (int i = 0; i < 10; i++) /* nothing left that runs twice */
		loop_step(f->l, 1);
	assert_int_equal(f->gone, 1);
}

static void http1__server_freed_while_kept(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = client(f), idle = client(f), half = client(f);

	assert_true(idle >= 0);
	assert_true(
		push(f, half, STR("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")));
	assert_true(push(f, fd, STR(GET("/keep"))));
	for (int i = 0; i < 100 && f->kept == NULL; i++)
		loop_step(f->l, 10);
	assert_non_null(f->kept);
	f->s = http1_server_free(f->s);
	assert_int_equal(f->gone, 1);
}

static void http1__another_uid_gets_403(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *got = NULL;

	f->s = http1_server_free(f->s);
	serve(f, (int64_t)getuid() + 1);
	assert_int_equal(log_set_filter("off"), 0); /* the refusal is logged */
	got = talk(f, STR("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"));
	assert_int_equal(log_set_filter("info"), 0);
	assert_has(got, "HTTP/1.1 403 ");
	assert_int_equal(f->calls, 0);
}

static void http1__connections_over_the_limit_wait(void **state)
{
	struct fixture *f = *state;
	int fds[LIMIT_HTTP_CONNECTIONS + 1];
	_cleanup_free_ char *got = NULL;

	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = client(f);
		loop_step(f->l, 0);
	}
	for (int i = 0; i < 20; i++)
		loop_step(f->l, 1);
	assert_true(push(f, fds[LIMIT_HTTP_CONNECTIONS], STR(GET("/last"))));
	for (int i = 0; i < 20; i++)
		loop_step(f->l, 1);
	assert_int_equal(f->calls, 0);
	fds[0] = xclose(fds[0]);
	got = pull(f, fds[LIMIT_HTTP_CONNECTIONS], NULL);
	assert_has(got, "GET /last ");
	for (size_t i = 1; i < ARRAY_LEN(fds); i++)
		(void)xclose(fds[i]);
}

/* Anybody may connect over TCP: whoever only holds connections must not keep a probe out. */
static void http1__tcp_oldest_idle_makes_room(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	struct fixture *f = *state;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fds[LIMIT_HTTP_CONNECTIONS + 2];
	_cleanup_free_ char *first = NULL, *got = NULL;

	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s, ARRAY_LEN(fds)), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&a, &n), 0);
	f->s = http1_server_free(f->s);
	f->s = http1_server_new(f->l, s, -1, handler, f, NULL);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fds[i], (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(fd_set_nonblock(fds[i]), 0);
		if (i == 0) /* the handler has it: not idle */
			assert_true(push(f, fds[0], STR(GET("/keep"))));
		loop_step(f->l, 1);
	}
	assert_true(push(f, fds[ARRAY_LEN(fds) - 1], STR(GET("/probe"))));
	got = pull(f, fds[ARRAY_LEN(fds) - 1], "/probe ");
	assert_has(got, "GET /probe ");
	assert_non_null(f->kept);
	first = pull(f, fds[1], NULL); /* the one that made room */
	assert_string_equal(first, "");
	http1_reply(f->kept, 200, NULL, STR("kept"));
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		(void)xclose(fds[i]);
}

/* The kernel refuses to watch the listening socket for a while: no crash, and not for ever. */
static void http1__listening_goes_on_after_a_refusal(void **state)
{
	struct fixture *f = *state;
	int s = unix_listen(f->path, SOCK_STREAM, 0600, NULL), saved,
	    fds[LIMIT_HTTP_CONNECTIONS + 1];
	_cleanup_close_ int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *got = NULL;

	assert_true(s < 0); /* the fixture's server has the path */
	f->s = http1_server_free(f->s);
	s = unix_listen(f->path, SOCK_STREAM, 0600, NULL);
	f->s = http1_server_new(f->l, s, (int64_t)getuid(), handler, f, NULL);
	assert_non_null(f->s);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = client(f);
		loop_step(f->l, 0);
	}
	for (int i = 0; i < 20; i++) /* the house is full: nobody listens */
		loop_step(f->l, 1);
	saved = fd_dup(s);
	assert_true(file >= 0 && saved >= 0 && dup2(file, s) == s); /* epoll takes no files */
	fds[0] = xclose(fds[0]);
	for (int i = 0; i < 20; i++)
		loop_step(f->l, 1);
	assert_int_equal(dup2(saved, s), s);
	(void)xclose(saved);
	assert_true(push(f, fds[LIMIT_HTTP_CONNECTIONS], STR(GET("/late"))));
	got = pull(f, fds[LIMIT_HTTP_CONNECTIONS], NULL);
	assert_has(got, "GET /late ");
	for (size_t i = 1; i < ARRAY_LEN(fds); i++)
		(void)xclose(fds[i]);
}

/* One byte at a time keeps the inactivity timeout of the library away for ever. */
static void http1__slow_request_is_cut(void **state)
{
	static const char head[] = "GET /x HTTP/1.1\r\nX-Slow: ";
	struct fixture *f = *state;
	_cleanup_close_ int silent = -1, slow = -1, kept = -1;
	_cleanup_free_ char *got = NULL, *first = NULL;
	uint64_t start, next = 0;
	char c;

	http1_server_set_wait(f->s, 200);
	start = clock_mono_ms();
	silent = client(f);
	slow = client(f);
	kept = client(f);
	assert_true(push(f, kept, STR(GET("/keep"))));
	assert_true(push(f, slow, STR(head)));
	while (clock_mono_ms() - start < WAIT_MS && recv(slow, &c, 1, 0) != 0) {
		if (clock_mono_ms() >= next && send(slow, "x", 1, MSG_NOSIGNAL) < 0)
			break;
		if (clock_mono_ms() >= next)
			next = clock_mono_ms() + 20; /* slow enough never to fill the head */
		loop_step(f->l, 5);
	}
	assert_in_range(clock_mono_ms() - start, 200, WAIT_MS / 2);
	first = pull(f, silent, NULL); /* the one that never said a word as well */
	assert_null(strstr(first, "(TIMEOUT)"));
	assert_int_equal(f->calls, 0);
	/* a request that has arrived waits for its answer as long as the handler wants */
	assert_non_null(f->kept);
	http1_reply(f->kept, 200, NULL, STR("patience"));
	got = pull(f, kept, NULL);
	assert_has(got, "patience");
}

static void http1__tcp(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	struct fixture *f = *state;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_free_ char *got = NULL;

	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s, 8), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&a, &n), 0);
	f->s = http1_server_free(f->s);
	f->s = http1_server_new(f->l, s, -1, handler, f, NULL);
	assert_non_null(f->s);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(fd_set_nonblock(fd), 0);
	assert_true(push(f, fd, STR(GET("/tcp"))));
	got = pull(f, fd, NULL);
	assert_has(got, "GET /tcp q=(none) h=(none) pid=0 ");
}

static void http1__big_answer_to_a_slow_reader(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = client(f);
	_cleanup_free_ char *got = NULL;

	assert_true(push(f, fd, STR(GET("/big"))));
	for (int i = 0; i < 50; i++)
		loop_step(f->l, 1);
	got = pull(f, fd, NULL);
	assert_true(strlen(got) > 3u << 20);
	assert_has(got, "200 OK");
}

static void http1__many_clients_close_early(void **state)
{
	static const char request[] = GET("/keep");
	struct fixture *f = *state;
	_cleanup_free_ char *got = NULL;

	for (size_t cut = 0; cut < sizeof(request) - 1; cut++) {
		_cleanup_close_ int fd = client(f);

		(void)push(f, fd, (struct str){request, cut});
		loop_step(f->l, 0);
	}
	got = talk(f, STR(GET("/x")));
	assert_has(got, "GET /x ");
	assert_int_equal(f->calls, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(http1__request_reaches_handler),
		TEST(http1__split_at_every_byte),
		TEST(http1__keep_alive_and_pipelining),
		TEST(http1__garbage_is_refused),
		TEST(http1__head_limit),
		TEST(http1__body_limit),
		TEST(http1__endless_body_is_cut),
		TEST(http1__answer_later),
		TEST(http1__kept_and_answered_in_the_handler),
		TEST(http1__client_gone_while_kept),
		TEST(http1__server_freed_while_kept),
		TEST(http1__another_uid_gets_403),
		TEST(http1__connections_over_the_limit_wait),
		TEST(http1__tcp_oldest_idle_makes_room),
		TEST(http1__listening_goes_on_after_a_refusal),
		TEST(http1__slow_request_is_cut),
		TEST(http1__tcp),
		TEST(http1__big_answer_to_a_slow_reader),
		TEST(http1__many_clients_close_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
