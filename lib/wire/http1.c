/* SPDX-License-Identifier: Apache-2.0
 * http1.c: see http1.h.
 *
 * Theory of operation. We accept, libmicrohttpd (MHD) speaks HTTP on what we hand it. MHD has its
 * own epoll descriptor, which our loop watches; MHD_run() is called when it is readable, when MHD's
 * own timeout passes, and after anything that MHD cannot see by itself (a new connection, a resumed
 * one). MHD never runs inside a handler's http1_reply(): that only stores the answer.
 *
 *   request: headers -> body (bounded) -> handler -> answered at once -> queued
 *                                             \-> kept -> suspended -> http1_reply() or gone
 *
 * MHD does not look at a suspended connection, so its socket is watched here for hang-up. The
 * inactivity timeout of MHD can be fed one byte at a time; a timer of ours bounds the whole wait
 * for a request and ends it by shutting the socket down, which MHD then sees as end of file.
 */
#include "lib/wire/http1.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
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

#define SERVER_MAGIC	0x48545331u
#define REQ_MAGIC	0x48545251u
#define ACCEPTS_PER_RUN 16
#define ACCEPT_PAUSE_MS 100 /* out of descriptors: try again later instead of spinning */
/* A body over the limit is read and dropped up to this size, so that the client gets to see the
 * 413; after that the connection is cut. */
#define DISCARD_MAX_BYTES (4 * LIMIT_HTTP_BODY_BYTES)

struct http1_server {
	uint32_t magic;
	struct loop *loop;
	struct MHD_Daemon *mhd;
	int listen_fd;
	int64_t peer_uid_only;
	http1_handler fn;
	void *ctx;
	struct watch listener, mhd_events;
	struct timer mhd_timer, accept_pause;
	struct ready again;
	struct list kept; /* suspended requests */
	unsigned int connections;
	uint64_t wait_ms;
	bool running, stopping;
};

struct conn {
	struct http1_server *s;
	int fd; /* MHD owns it */
	uid_t uid;
	pid_t pid;
	struct timer request; /* armed while a request is awaited */
};

struct http1_req {
	uint32_t magic;
	struct http1_server *s;
	struct conn *conn;
	struct MHD_Connection *mhd;
	char *method, *path;
	struct strbuf body;
	size_t discarded;
	struct MHD_Response *answer;
	unsigned int status;
	bool asked, keep, suspended; /* asked: the handler has it */
	void (*gone)(void *arg);
	void *gone_arg;
	struct list node; /* on kept while suspended */
	struct watch hangup;
};

static void run(struct http1_server *s);

static void on_again(struct ready *r)
{
	run(container_of(r, struct http1_server, again));
}

static void on_mhd_timer(struct timer *t)
{
	run(container_of(t, struct http1_server, mhd_timer));
}

static void on_mhd_events(struct watch *w, uint32_t events)
{
	(void)events;
	run(container_of(w, struct http1_server, mhd_events));
}

/* One round of MHD, and the appointment for the next one. */
static void run(struct http1_server *s)
{
	MHD_UNSIGNED_LONG_LONG ms = 0;

	OBJ_CHECK(s, SERVER_MAGIC);
	bug_on(s->running);
	s->running = true;
	(void)MHD_run(s->mhd);
	s->running = false;
	loop_timer_cancel(&s->mhd_timer);
	if (MHD_get_timeout(s->mhd, &ms) != MHD_YES)
		return;
	if (ms == 0)
		loop_ready(s->loop, &s->again);
	else
		loop_timer_set(s->loop, &s->mhd_timer, ms, on_mhd_timer);
}

static struct MHD_Response *make_response(const char *content_type, struct str body)
{
	char *copy = xmalloc(body.n);
	struct MHD_Response *r;

	if (body.n != 0)
		memcpy(copy, body.p, body.n);
	r = MHD_create_response_from_buffer(body.n, copy, MHD_RESPMEM_MUST_FREE);
	bug_on(r == NULL);
	if (content_type != NULL)
		(void)MHD_add_response_header(r, "Content-Type", content_type);
	return r;
}

/* Answers without the handler and closes the connection afterwards. */
static enum MHD_Result refuse(struct MHD_Connection *c, unsigned int status, const char *text)
{
	struct MHD_Response *r = make_response("text/plain", str_of(text));
	enum MHD_Result ok;

	(void)MHD_add_response_header(r, "Connection", "close");
	ok = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return ok;
}

static enum MHD_Result send_answer(struct http1_req *r)
{
	enum MHD_Result ok = MHD_queue_response(r->mhd, r->status, r->answer);

	MHD_destroy_response(take_ptr(r->answer));
	return ok;
}

/* Takes a request out of suspension; its answer must be there. MHD goes on with it in run(). */
static void resume(struct http1_req *r)
{
	loop_unwatch(r->s->loop, &r->hangup);
	list_remove(&r->node);
	r->suspended = false;
	MHD_resume_connection(r->mhd);
	if (!r->s->stopping)
		loop_ready(r->s->loop, &r->s->again);
}

static void abandon(struct http1_req *r)
{
	void (*gone)(void *) = take_ptr(r->gone);

	r->answer = make_response("text/plain", STR("nobody is waiting for this answer\n"));
	r->status = MHD_HTTP_SERVICE_UNAVAILABLE;
	resume(r);
	if (gone != NULL)
		gone(r->gone_arg);
}

static void on_hangup(struct watch *w, uint32_t events)
{
	struct http1_req *r = container_of(w, struct http1_req, hangup);

	(void)events;
	OBJ_CHECK(r, REQ_MAGIC);
	abandon(r);
}

static enum MHD_Result suspend(struct http1_req *r)
{
	int rc;

	MHD_suspend_connection(r->mhd);
	r->suspended = true;
	list_append(&r->s->kept, &r->node);
	/* Only hang-up and error, which epoll always reports: a client may shut down its sending
	 * side and still wait for the answer. */
	rc = loop_watch(r->s->loop, &r->hangup, r->conn->fd, 0, on_hangup);
	bug_on(rc < 0);
	return MHD_YES;
}

static enum MHD_Result ask_handler(struct http1_req *r)
{
	if (!r->asked) {
		r->asked = true;
		loop_timer_cancel(&r->conn->request);
		r->s->fn(r->s->ctx, r);
	}
	if (r->answer != NULL)
		return send_answer(r);
	bug_on(!r->keep); /* a handler answers or keeps */
	return suspend(r);
}

static enum MHD_Result take_body(struct http1_req *r, const char *p, size_t *n)
{
	if (r->discarded != 0 || r->body.n + *n > LIMIT_HTTP_BODY_BYTES) {
		r->discarded += *n;
		if (r->discarded > DISCARD_MAX_BYTES)
			return MHD_NO;
	} else {
		strbuf_add(&r->body, p, *n);
	}
	*n = 0;
	return MHD_YES;
}

static struct conn *conn_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *i =
		MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return i != NULL ? i->socket_context : NULL;
}

/* The headers are complete. */
static enum MHD_Result on_headers(struct http1_server *s, struct MHD_Connection *c, const char *url,
				  const char *method, void **req)
{
	const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
	struct conn *conn = conn_of(c);
	struct http1_req *r;
	uint64_t n;

	if (conn == NULL)
		return MHD_NO;
	if (s->peer_uid_only >= 0 && (int64_t)conn->uid != s->peer_uid_only) {
		log_limited(LOG_LV_WARN, "http1", "refused a request uid=%u pid=%d path=%s",
			    conn->uid, conn->pid, str_shown(str_of(url)));
		return refuse(c, MHD_HTTP_FORBIDDEN, "this socket answers another user only\n");
	}
	if (length != NULL &&
	    (parse_u64(str_of(length), 0, UINT64_MAX, &n) != 0 || n > LIMIT_HTTP_BODY_BYTES))
		return refuse(c, 413, "the body is too large\n");
	r = xcalloc(1, sizeof(*r));
	r->magic = REQ_MAGIC;
	r->s = s;
	r->conn = conn;
	r->mhd = c;
	r->method = xstrdup(method);
	r->path = xstrdup(url);
	*req = r;
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *n, void **req)
{
	struct http1_req *r = *req;

	(void)version;
	if (r == NULL)
		return on_headers(cls, c, url, method, req);
	OBJ_CHECK(r, REQ_MAGIC);
	if (*n != 0)
		return take_body(r, data, n);
	if (r->discarded != 0)
		return refuse(c, 413, "the body is too large\n");
	return ask_handler(r);
}

static void on_request_late(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, request);

	(void)shutdown(c->fd, SHUT_RDWR); /* MHD reads the end of file and closes */
}

static void await_request(struct conn *c)
{
	loop_timer_set(c->s->loop, &c->request, c->s->wait_ms, on_request_late);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **req,
			 enum MHD_RequestTerminationCode how)
{
	struct http1_req *r = *req;

	(void)cls;
	(void)c;
	(void)how;
	if (r == NULL)
		return;
	OBJ_CHECK(r, REQ_MAGIC);
	bug_on(r->suspended);
	if (r->answer != NULL)
		MHD_destroy_response(r->answer);
	await_request(r->conn);
	r->magic = OBJ_DEAD;
	strbuf_fini(&r->body);
	free(r->method);
	free(r->path);
	free(r);
	*req = NULL;
}

static void on_accept(struct watch *w, uint32_t events);

static void listen_again(struct http1_server *s)
{
	if (!s->stopping && !s->listener.added && !timer_armed(&s->accept_pause) &&
	    s->connections < LIMIT_HTTP_CONNECTIONS)
		bug_on(loop_watch(s->loop, &s->listener, s->listen_fd, EPOLLIN, on_accept) < 0);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **socket_ctx,
			  enum MHD_ConnectionNotificationCode what)
{
	struct http1_server *s = cls;
	struct conn *conn = *socket_ctx;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		conn = xcalloc(1, sizeof(*conn));
		conn->s = s;
		conn->fd =
			MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		if (fd_peer_cred(conn->fd, &conn->uid, &conn->pid) < 0) {
			conn->uid = (uid_t)-1; /* TCP has none */
			conn->pid = 0;
		}
		await_request(conn);
		s->connections++;
		*socket_ctx = conn;
		return;
	}
	loop_timer_cancel(&conn->request);
	free(conn);
	*socket_ctx = NULL;
	s->connections--;
	listen_again(s);
}

static void on_accept_pause_over(struct timer *t)
{
	listen_again(container_of(t, struct http1_server, accept_pause));
}

static void on_accept(struct watch *w, uint32_t events)
{
	struct http1_server *s = container_of(w, struct http1_server, listener);

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_RUN && s->connections < LIMIT_HTTP_CONNECTIONS; i++) {
		struct sockaddr_storage ss = {0};
		socklen_t n = sizeof(ss);
		int fd = accept4(s->listen_fd, (struct sockaddr *)&ss, &n,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			loop_unwatch(s->loop, &s->listener);
			loop_timer_set(s->loop, &s->accept_pause, ACCEPT_PAUSE_MS,
				       on_accept_pause_over);
			return;
		}
		if (fd < 0)
			return; /* nothing there, or that client is gone already */
		if (MHD_add_connection(s->mhd, fd, (struct sockaddr *)&ss, n) != MHD_YES)
			log_limited(LOG_LV_DEBUG, "http1", "a connection could not be added");
		run(s); /* takes the new connection in, so that it is counted */
	}
	if (s->connections >= LIMIT_HTTP_CONNECTIONS)
		loop_unwatch(s->loop, &s->listener); /* the others wait in the kernel's queue */
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap) _printf_(2, 0);
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	char text[256];

	(void)cls;
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	log_limited(LOG_LV_DEBUG, "http1", "%s", text);
}

static struct MHD_Daemon *start_mhd(struct http1_server *s)
{
	unsigned int flags = MHD_USE_NO_LISTEN_SOCKET | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME |
			     MHD_USE_ERROR_LOG;

	return MHD_start_daemon(flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
				on_mhd_log, s, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
				MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
				MHD_OPTION_CONNECTION_LIMIT, (unsigned int)LIMIT_HTTP_CONNECTIONS,
				MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)LIMIT_HTTP_IDLE_SEC,
				/* MHD's pool holds the head as read and as parsed */
				MHD_OPTION_CONNECTION_MEMORY_LIMIT,
				(size_t)2 * LIMIT_HTTP_HEAD_BYTES, MHD_OPTION_END);
}

struct http1_server *http1_server_new(struct loop *l, int listen_fd, int64_t peer_uid_only,
				      http1_handler fn, void *ctx, struct err *err)
{
	struct http1_server *s = xcalloc(1, sizeof(*s));
	const union MHD_DaemonInfo *info;
	int r;

	s->magic = SERVER_MAGIC;
	s->loop = l;
	s->listen_fd = listen_fd;
	s->peer_uid_only = peer_uid_only;
	s->wait_ms = LIMIT_HTTP_IDLE_SEC * 1000;
	s->fn = fn;
	s->ctx = ctx;
	s->again.fn = on_again;
	list_init(&s->kept);
	r = fd_set_nonblock(listen_fd);
	if (r < 0) {
		(void)err_errno(err, -r, "HTTP server: listening socket");
		return http1_server_free(s);
	}
	s->mhd = start_mhd(s);
	info = s->mhd != NULL ? MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (info == NULL) {
		(void)err_set(err, EIO, "HTTP server: libmicrohttpd does not start");
		return http1_server_free(s);
	}
	r = loop_watch(l, &s->mhd_events, info->epoll_fd, EPOLLIN, on_mhd_events);
	if (r == 0)
		r = loop_watch(l, &s->listener, listen_fd, EPOLLIN, on_accept);
	if (r < 0) {
		(void)err_errno(err, -r, "HTTP server: watch");
		return http1_server_free(s);
	}
	return s;
}

struct http1_server *http1_server_free(struct http1_server *s)
{
	if (s == NULL)
		return NULL;
	OBJ_CHECK(s, SERVER_MAGIC);
	bug_on(s->running); /* not from a handler */
	s->stopping = true;
	loop_unwatch(s->loop, &s->listener);
	while (!list_empty(&s->kept))
		abandon(container_of(s->kept.next, struct http1_req, node));
	loop_unwatch(s->loop, &s->mhd_events);
	if (s->mhd != NULL)
		MHD_stop_daemon(s->mhd); /* closes the connections, which frees their requests */
	loop_timer_cancel(&s->mhd_timer);
	loop_timer_cancel(&s->accept_pause);
	loop_ready_cancel(&s->again);
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
	return r->method;
}

const char *http1_path(const struct http1_req *r)
{
	return r->path;
}

const char *http1_query(const struct http1_req *r, const char *key)
{
	const char *v = NULL;
	size_t n = 0;

	if (MHD_lookup_connection_value_n(r->mhd, MHD_GET_ARGUMENT_KIND, key, strlen(key), &v,
					  &n) != MHD_YES)
		return NULL;
	return v != NULL ? v : "";
}

const char *http1_header(const struct http1_req *r, const char *name)
{
	return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}

struct str http1_body(const struct http1_req *r)
{
	return (struct str){r->body.p, r->body.n};
}

pid_t http1_peer_pid(const struct http1_req *r)
{
	return r->conn->pid;
}

void http1_reply(struct http1_req *r, unsigned int status, const char *content_type,
		 struct str body)
{
	OBJ_CHECK(r, REQ_MAGIC);
	bug_on(r->answer != NULL || !r->asked);
	r->answer = make_response(content_type, body);
	r->status = status;
	r->gone = NULL;
	if (r->suspended)
		resume(r);
}

void http1_keep(struct http1_req *r, void (*gone)(void *arg), void *arg)
{
	OBJ_CHECK(r, REQ_MAGIC);
	bug_on(r->keep || r->answer != NULL);
	r->keep = true;
	r->gone = gone;
	r->gone_arg = arg;
}
