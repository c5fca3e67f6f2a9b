/* SPDX-License-Identifier: Apache-2.0
 * http1.c: see http1.h. Parsing is http1_parse.c's.
 *
 * Theory of operation. One connection has one request at a time:
 *
 *   HEAD -> BODY -> ASKED -> REPLY -> HEAD (keep-alive), or LINGER -> closed
 *
 * HEAD, BODY: watched for reading, one timer over the whole arrival (a byte at a time gains
 * nothing). ASKED: the handler has it; only hang-up is watched, and no timer runs. REPLY: the
 * answer is being sent; nothing is read meanwhile, so pipelined requests wait. LINGER: after a
 * refusal our side is shut down and a bounded amount of input dropped, so that the client gets to
 * see the answer instead of a reset. step() runs the machine until it must wait; http1_reply()
 * inside a handler only stores the answer, because step() is on the stack. A connection between
 * requests owns no buffer.
 */
#include "lib/wire/http1.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "lib/wire/http1_parse.h"

#define SERVER_MAGIC	0x48545331u
#define REQ_MAGIC	0x48545251u
#define ACCEPTS_PER_RUN 16
#define ACCEPT_PAUSE_MS 100 /* out of descriptors: try again later instead of spinning */
#define READ_BYTES	16384
#define LINGER_MS	2000
#define LINGER_BYTES	(4 * LIMIT_HTTP_BODY_BYTES)

struct http1_server {
	uint32_t magic;
	struct loop *loop;
	int listen_fd;
	int64_t peer_uid_only;
	http1_handler fn;
	void *ctx;
	struct watch listener;
	struct timer accept_pause;
	struct list requests;
	unsigned int connections;
	uint64_t wait_ms;
	bool stopping;
};

enum state { ST_HEAD, ST_BODY, ST_ASKED, ST_REPLY, ST_LINGER, ST_CLOSED };

struct http1_req {
	uint32_t magic;
	enum state state;
	struct http1_server *s;
	struct list node;
	struct watch w; /* w.fd: owned */
	struct timer timer;
	struct deferred defer;
	uid_t uid;
	pid_t pid;
	struct strbuf in;	 /* received, not parsed yet */
	char *head_text;	 /* what head points into; owned */
	struct http1_head *head; /* owned; NULL outside of a request */
	struct http1_chunks chunks;
	struct strbuf body, out;
	size_t out_off, lingered;
	bool stepping, kept, close_after, peer_done;
	void (*gone)(void *arg);
	void *gone_arg;
};

static void step(struct http1_req *r);
static void on_accept(struct watch *w, uint32_t events);

static const char *reason(unsigned int status)
{
	static const struct {
		unsigned int status;
		const char *text;
	} table[] = {
		{200, "OK"},
		{202, "Accepted"},
		{400, "Bad Request"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{409, "Conflict"},
		{413, "Content Too Large"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{503, "Service Unavailable"},
		{505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (table[i].status == status)
			return table[i].text;
	return "Status";
}

/* Over TCP anybody may connect: of a full house the oldest goes that waits for its peer. */
static struct http1_req *dispensable(const struct http1_server *s)
{
	if (s->peer_uid_only >= 0)
		return NULL;
	list_for_each (n, &s->requests) {
		struct http1_req *r = container_of(n, struct http1_req, node);

		if (r->state != ST_ASKED && !r->stepping)
			return r;
	}
	return NULL;
}

static bool has_room(const struct http1_server *s)
{
	return s->connections < LIMIT_HTTP_CONNECTIONS || dispensable(s) != NULL;
}

static void on_accept_pause_over(struct timer *t);

static void listen_again(struct http1_server *s)
{
	if (s->stopping || s->listener.added || timer_armed(&s->accept_pause) || !has_room(s))
		return;
	/* any process of our uid may have used up what the kernel has for watching */
	if (loop_watch(s->loop, &s->listener, s->listen_fd, EPOLLIN, on_accept) < 0)
		loop_timer_set(s->loop, &s->accept_pause, ACCEPT_PAUSE_MS, on_accept_pause_over);
}

static void request_fini(struct http1_req *r)
{
	strbuf_fini(&r->body);
	strbuf_fini(&r->out);
	free(take_ptr(r->head));
	free(take_ptr(r->head_text));
	r->chunks = (struct http1_chunks){0};
	r->out_off = 0;
	r->kept = r->close_after = false;
	r->gone = NULL;
}

static void free_req(struct deferred *d)
{
	free(container_of(d, struct http1_req, defer));
}

static void close_conn(struct http1_req *r)
{
	struct http1_server *s = r->s;

	if (r->state == ST_CLOSED)
		return;
	r->state = ST_CLOSED;
	loop_timer_cancel(&r->timer);
	loop_unwatch(s->loop, &r->w);
	(void)xclose(r->w.fd);
	list_remove(&r->node);
	request_fini(r);
	strbuf_fini(&r->in);
	r->magic = OBJ_DEAD;
	s->connections--;
	listen_again(s);
	loop_defer(s->loop, &r->defer, free_req);
}

static void watch_for(struct http1_req *r, uint32_t events)
{
	if (loop_rewatch(r->s->loop, &r->w, events) < 0)
		close_conn(r);
}

static void on_late(struct timer *t)
{
	close_conn(container_of(t, struct http1_req, timer));
}

static void await_request(struct http1_req *r)
{
	r->state = ST_HEAD;
	loop_timer_set(r->s->loop, &r->timer, r->s->wait_ms, on_late);
	watch_for(r, EPOLLIN);
	listen_again(r->s); /* one that could not make room before can now */
}

/* ---- answers ---- */

static void build_answer(struct http1_req *r, unsigned int status, const char *type,
			 struct str body)
{
	bool head_only = r->head != NULL && strcmp(r->head->method, "HEAD") == 0;

	strbuf_printf(&r->out, "HTTP/1.1 %u %s\r\nContent-Length: %zu\r\n", status, reason(status),
		      body.n);
	if (type != NULL)
		strbuf_printf(&r->out, "Content-Type: %s\r\n", type);
	if (r->close_after)
		strbuf_puts(&r->out, "Connection: close\r\n");
	strbuf_puts(&r->out, "\r\n");
	if (!head_only)
		strbuf_str(&r->out, body);
	r->state = ST_REPLY;
}

/* Answers without the handler and closes afterwards. */
static void refuse(struct http1_req *r, unsigned int status, const char *text)
{
	r->close_after = true;
	build_answer(r, status, "text/plain", str_of(text));
}

/* False: the socket is full, go on when it is writable. */
static bool send_answer(struct http1_req *r)
{
	while (r->out_off < r->out.n) {
		ssize_t n =
			send(r->w.fd, r->out.p + r->out_off, r->out.n - r->out_off, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			loop_timer_set(r->s->loop, &r->timer, r->s->wait_ms, on_late);
			watch_for(r, EPOLLOUT);
			return false;
		}
		if (n < 0) {
			close_conn(r);
			return false;
		}
		r->out_off += (size_t)n;
	}
	return true;
}

static void answered(struct http1_req *r)
{
	bool close_after = r->close_after;

	request_fini(r);
	if (!close_after) {
		await_request(r);
		return;
	}
	r->state = ST_LINGER;
	(void)shutdown(r->w.fd, SHUT_WR);
	loop_timer_set(r->s->loop, &r->timer, LINGER_MS, on_late);
	if (r->peer_done)
		close_conn(r);
	else
		watch_for(r, EPOLLIN);
}

/* ---- requests ---- */

static void drop_input(struct http1_req *r, size_t n)
{
	r->in.n -= n;
	if (r->in.n == 0)
		strbuf_fini(&r->in);
	else
		memmove(r->in.p, r->in.p + n, r->in.n);
}

static bool allowed(struct http1_req *r)
{
	if (r->s->peer_uid_only < 0 || (int64_t)r->uid == r->s->peer_uid_only)
		return true;
	log_limited(LOG_LV_WARN, "http1", "refused a request uid=%u pid=%d path=%s", r->uid, r->pid,
		    str_shown(str_of(r->head->path)));
	refuse(r, 403, "this socket answers another user only\n");
	return false;
}

/* True when the machine may go on. */
static bool step_head(struct http1_req *r)
{
	size_t n = http1_head_end((struct str){r->in.p, r->in.n});
	unsigned int status;

	if (n > LIMIT_HTTP_HEAD_BYTES || (n == 0 && r->in.n > LIMIT_HTTP_HEAD_BYTES)) {
		refuse(r, 431, "the head of the request is too large\n");
		return true;
	}
	if (n == 0) {
		if (r->peer_done)
			close_conn(r);
		return false;
	}
	r->head_text = xmalloc(n + 1);
	memcpy(r->head_text, r->in.p, n);
	r->head_text[n] = '\0';
	r->head = xmalloc(sizeof(*r->head));
	drop_input(r, n);
	if (http1_head_parse(r->head_text, n, r->head, &status) < 0) {
		free(take_ptr(r->head));
		refuse(r, status, "the request cannot be understood\n");
		return true;
	}
	if (!allowed(r))
		return true;
	if (r->head->length > LIMIT_HTTP_BODY_BYTES) {
		refuse(r, 413, "the body is too large\n");
		return true;
	}
	r->state = ST_BODY;
	if (r->head->expect_continue)
		strbuf_puts(&r->out, "HTTP/1.1 100 Continue\r\n\r\n");
	return r->out.n == 0 || send_answer(r);
}

static bool take_chunks(struct http1_req *r)
{
	struct str in = {r->in.p, r->in.n}, data;

	while (in.n != 0 && r->chunks.state != CHUNK_DONE) {
		if (http1_chunks_take(&r->chunks, &in, &data) < 0) {
			refuse(r, 400, "the body cannot be understood\n");
			return true;
		}
		if (r->body.n + data.n > LIMIT_HTTP_BODY_BYTES) {
			refuse(r, 413, "the body is too large\n");
			return true;
		}
		strbuf_add(&r->body, data.p, data.n);
	}
	drop_input(r, r->in.n - in.n);
	return r->chunks.state == CHUNK_DONE;
}

static bool take_counted(struct http1_req *r)
{
	size_t want = (size_t)r->head->length - r->body.n;
	size_t n = r->in.n < want ? r->in.n : want;

	strbuf_add(&r->body, r->in.p, n);
	drop_input(r, n);
	return n == want;
}

/* Its handler has kept it, and must not answer any more. */
static void close_asked(struct http1_req *r)
{
	void (*gone)(void *) = take_ptr(r->gone);
	void *arg = r->gone_arg;

	close_conn(r);
	if (gone != NULL)
		gone(arg);
}

static void ask(struct http1_req *r)
{
	r->state = ST_ASKED;
	r->close_after = !r->head->keep_alive;
	strbuf_fini(&r->out); /* 100 Continue is sent */
	r->out_off = 0;
	loop_timer_cancel(&r->timer);
	r->s->fn(r->s->ctx, r);
	bug_on(r->state == ST_ASKED && !r->kept); /* a handler answers or keeps */
	/* Only hang-up and error, which epoll always reports: a client may shut down its sending
	 * side and still wait for the answer. */
	if (r->state == ST_ASKED && loop_rewatch(r->s->loop, &r->w, 0) < 0)
		close_asked(r);
}

static bool step_body(struct http1_req *r)
{
	bool whole = r->head->chunked ? take_chunks(r) : take_counted(r);

	if (r->state != ST_BODY)
		return true; /* refused */
	if (whole)
		ask(r);
	else if (r->peer_done)
		close_conn(r);
	return whole;
}

static void step(struct http1_req *r)
{
	bool more = true;

	bug_on(r->stepping);
	r->stepping = true;
	while (more) {
		switch (r->state) {
		case ST_HEAD:
			more = step_head(r);
			break;
		case ST_BODY:
			more = step_body(r);
			break;
		case ST_REPLY:
			more = send_answer(r);
			if (more)
				answered(r);
			break;
		case ST_ASKED:
		case ST_LINGER:
		case ST_CLOSED:
		default:
			more = false;
		}
	}
	r->stepping = false;
}

/* ---- events ---- */

static void read_some(struct http1_req *r)
{
	char buf[READ_BYTES];
	ssize_t n = recv(r->w.fd, buf, sizeof(buf), 0);

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			close_conn(r);
		return;
	}
	r->peer_done = n == 0;
	if (r->state != ST_LINGER) {
		strbuf_add(&r->in, buf, (size_t)n);
		return;
	}
	r->lingered += (size_t)n;
	if (r->peer_done || r->lingered > LINGER_BYTES)
		close_conn(r);
}

static void on_conn(struct watch *w, uint32_t events)
{
	struct http1_req *r = container_of(w, struct http1_req, w);

	OBJ_CHECK(r, REQ_MAGIC);
	if (r->state == ST_ASKED) {
		close_asked(r);
		return;
	}
	if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && r->state != ST_REPLY)
		read_some(r);
	if (r->state != ST_CLOSED)
		step(r);
}

static void add_conn(struct http1_server *s, int fd)
{
	struct http1_req *r = xcalloc(1, sizeof(*r));

	r->magic = REQ_MAGIC;
	r->s = s;
	r->w.fd = fd;
	if (fd_peer_cred(fd, &r->uid, &r->pid) < 0) {
		r->uid = (uid_t)-1; /* TCP has none */
		r->pid = 0;
	}
	s->connections++;
	list_append(&s->requests, &r->node);
	if (loop_watch(s->loop, &r->w, fd, EPOLLIN, on_conn) < 0)
		close_conn(r);
	else
		await_request(r);
}

static void on_accept_pause_over(struct timer *t)
{
	listen_again(container_of(t, struct http1_server, accept_pause));
}

static void on_accept(struct watch *w, uint32_t events)
{
	struct http1_server *s = container_of(w, struct http1_server, listener);

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_RUN && has_room(s); i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			loop_unwatch(s->loop, &s->listener);
			loop_timer_set(s->loop, &s->accept_pause, ACCEPT_PAUSE_MS,
				       on_accept_pause_over);
			return;
		}
		if (fd < 0)
			return; /* nothing there, or that client is gone already */
		if (s->connections >= LIMIT_HTTP_CONNECTIONS)
			close_conn(dispensable(s));
		add_conn(s, fd);
	}
	if (!has_room(s))
		loop_unwatch(s->loop, &s->listener); /* the others wait in the kernel's queue */
}

/* ---- the interface ---- */

struct http1_server *http1_server_new(struct loop *l, int listen_fd, int64_t peer_uid_only,
				      http1_handler fn, void *ctx, struct err *err)
{
	struct http1_server *s = xcalloc(1, sizeof(*s));
	int r;

	s->magic = SERVER_MAGIC;
	s->loop = l;
	s->listen_fd = listen_fd;
	s->peer_uid_only = peer_uid_only;
	s->wait_ms = LIMIT_HTTP_IDLE_SEC * 1000;
	s->fn = fn;
	s->ctx = ctx;
	list_init(&s->requests);
	r = fd_set_nonblock(listen_fd);
	if (r == 0)
		r = loop_watch(l, &s->listener, listen_fd, EPOLLIN, on_accept);
	if (r == 0)
		return s;
	(void)err_errno(err, -r, "HTTP server: listening socket");
	return http1_server_free(s);
}

struct http1_server *http1_server_free(struct http1_server *s)
{
	if (s == NULL)
		return NULL;
	OBJ_CHECK(s, SERVER_MAGIC);
	s->stopping = true;
	while (!list_empty(&s->requests)) {
		struct http1_req *r = container_of(s->requests.next, struct http1_req, node);
		void (*gone)(void *) = take_ptr(r->gone);
		void *arg = r->gone_arg;

		bug_on(r->stepping); /* not from a handler */
		close_conn(r);
		if (gone != NULL)
			gone(arg);
	}
	loop_unwatch(s->loop, &s->listener);
	loop_timer_cancel(&s->accept_pause);
	(void)xclose(s->listen_fd);
	s->magic = OBJ_DEAD;
	free(s);
	return NULL;
}

void http1_server_set_wait(struct http1_server *s, uint64_t ms)
{
	OBJ_CHECK(s, SERVER_MAGIC);
	s->wait_ms = ms;
}

const char *http1_method(const struct http1_req *r)
{
	return r->head->method;
}

const char *http1_path(const struct http1_req *r)
{
	return r->head->path;
}

const char *http1_query(const struct http1_req *r, const char *key)
{
	for (size_t i = 0; i < r->head->nquery; i++)
		if (strcmp(r->head->query[i].name, key) == 0)
			return r->head->query[i].value;
	return NULL;
}

const char *http1_header(const struct http1_req *r, const char *name)
{
	return http1_head_field(r->head, name);
}

struct str http1_body(const struct http1_req *r)
{
	return (struct str){r->body.p, r->body.n};
}

pid_t http1_peer_pid(const struct http1_req *r)
{
	return r->pid;
}

void http1_reply(struct http1_req *r, unsigned int status, const char *content_type,
		 struct str body)
{
	OBJ_CHECK(r, REQ_MAGIC);
	bug_on(r->state != ST_ASKED);
	r->gone = NULL;
	build_answer(r, status, content_type, body);
	if (!r->stepping)
		step(r);
}

void http1_keep(struct http1_req *r, void (*gone)(void *arg), void *arg)
{
	OBJ_CHECK(r, REQ_MAGIC);
	bug_on(r->kept || r->state != ST_ASKED);
	r->kept = true;
	r->gone = gone;
	r->gone_arg = arg;
}
