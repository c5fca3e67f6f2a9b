/* SPDX-License-Identifier: Apache-2.0
 * admin.c: see admin.h. Requests are answered at once, but for /config_dump, which waits for the
 * workers' connections; several may wait at a time.
 */
#include "ztunnel/control/admin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"
#include "lib/wire/http1.h"
#include "ztunnel/config.h"
#include "ztunnel/control/dump.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/observe/metrics.h"

#define TEXT	    "text/plain; charset=utf-8"
#define OPENMETRICS "application/openmetrics-text;charset=utf-8;version=1.0.0"
#define BACKLOG	    64

#define TAKE_OVER_MS 50

enum surface { READY, STATS, ADMIN_V4, ADMIN_UNIX, ADMIN_V6, SURFACE_N };

struct admin {
	struct admin_ops ops;
	struct loop *loop;
	struct http1_server *servers[SURFACE_N];
	struct timer take_over;
	struct list dumps;
};

struct dump_wait {
	struct list node;
	struct admin *a;       /* NULL: the admin server is gone */
	struct http1_req *req; /* NULL: the client is gone */
};

static void reply(struct http1_req *req, unsigned int status, const char *text)
{
	http1_reply(req, status, TEXT, str_of(text));
}

static bool is_post(const struct http1_req *req)
{
	return strcmp(http1_method(req), "POST") == 0;
}

static void on_client_gone(void *arg)
{
	((struct dump_wait *)arg)->req = NULL;
}

static void on_dump(void *ctx, struct strbuf *json)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct dump_wait *d = ctx;
	struct dump_in in;

	if (d->a != NULL)
		list_remove(&d->node);
	if (d->a != NULL && d->req != NULL) {
		const struct admin_ops *o = &d->a->ops;

		in = (struct dump_in){.config = o->config,
				      .mesh = o->mesh(o->ctx),
				      .certs = o->certs,
				      .state_error = o->state_error(o->ctx),
				      .workload_state = {json->p, json->n}};
		o->kept(o->ctx, &in);
		dump_write(&in, &out);
		http1_reply(d->req, 200, "application/json", (struct str){out.p, out.n});
	}
	free(d);
}

static void config_dump(struct admin *a, struct http1_req *req)
{
	struct dump_wait *d = xcalloc(1, sizeof(*d));

	d->a = a;
	d->req = req;
	list_append(&a->dumps, &d->node);
	http1_keep(req, on_client_gone, d);
	workers_dump(a->ops.workers, on_dump, d);
}

#define LOGGING_USAGE                                                                              \
	"usage: POST /logging\t\t\t\t\t\t(To list current level)\n"                                \
	"usage: POST /logging?level=<level>\t\t\t\t(To change global levels)\n"                    \
	"usage: POST /logging?level={scope1=level1,scope2=level2}\t(To change levels of scopes)\n" \
	"usage: POST /logging?reset\t\t\t\t\t(To reset levels)\n"                                  \
	"levels: off, error, warn, info, debug, trace\n"

static bool set_level(const char *base, const char *level)
{
	_cleanup_free_ char *next =
		level != NULL && *level != '\0' ? xasprintf("%s,%s", base, level) : xstrdup(base);

	return log_set_filter(next) == 0;
}

static void logging(struct admin *a, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	const char *level = http1_query(req, "level"), *base = log_filter();

	if (!is_post(req)) {
		reply(req, 405, "Invalid HTTP method\n" LOGGING_USAGE);
		return;
	}
	if (http1_query(req, "reset") != NULL)
		base = a->ops.config->log_filter;
	if (!set_level(base, level)) {
		strbuf_printf(&out, "Invalid level provided: %s\n%s", str_shown(str_of(level)),
			      LOGGING_USAGE);
		http1_reply(req, 400, TEXT, (struct str){out.p, out.n});
		return;
	}
	strbuf_printf(&out, "current log level is %s\n", log_filter());
	http1_reply(req, 200, TEXT, (struct str){out.p, out.n});
}

static void worker_debug(struct admin *a, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct worker_stats s = {0};
	struct jsonw w;

	workers_stats(a->ops.workers, &s);
	jsonw_init(&w, &out, false);
	jsonw_obj(&w, NULL);
	jsonw_int(&w, "connections", (long long)s.connections);
	jsonw_int(&w, "streams", (long long)s.streams);
	jsonw_int(&w, "pooled", (long long)s.pooled);
	jsonw_int(&w, "tlsAccepted", (long long)s.tls_accepted);
	jsonw_list(&w, "tlsAcceptedByWorker");
	for (unsigned int i = 0; i < workers_count(a->ops.workers); i++)
		jsonw_int(&w, NULL, (long long)workers_tls_accepted(a->ops.workers, i));
	jsonw_end_list(&w);
	jsonw_int(&w, "buffersBytes", (long long)s.buffers_bytes);
	jsonw_int(&w, "undeliveredBytes", (long long)s.undelivered_bytes);
	jsonw_int(&w, "parked", (long long)s.parked);
	jsonw_end_obj(&w);
	strbuf_putc(&out, '\n');
	http1_reply(req, 200, "application/json", (struct str){out.p, out.n});
}

static void on_ready(void *ctx, struct http1_req *req);

static void on_admin(void *ctx, struct http1_req *req)
{
	static const char index[] = "ztunnel " VERSION "\n"
				    "/config_dump  /logging  /quitquitquit  /debug/workers\n";
	struct admin *a = ctx;
	const char *path = http1_path(req);

	if (strcmp(path, "/") == 0) {
		reply(req, 200, index);
	} else if (strcmp(path, "/config_dump") == 0) {
		config_dump(a, req);
	} else if (strcmp(path, "/logging") == 0) {
		logging(a, req);
	} else if (strcmp(path, "/debug/workers") == 0) {
		worker_debug(a, req);
	} else if (strcmp(path, "/healthz/ready") == 0) {
		on_ready(a, req); /* as on its own port; ambientctl asks here */
	} else if (strcmp(path, "/quitquitquit") == 0) {
		if (!is_post(req)) {
			reply(req, 405, "");
			return;
		}
		reply(req, 200, "shutdown now\n");
		a->ops.quit(a->ops.ctx);
	} else {
		reply(req, 404, "");
	}
}

static void on_stats(void *ctx, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	const char *path = http1_path(req), *accept = http1_header(req, "Accept");
	struct metrics_worker *const *v;
	struct admin *a = ctx;
	size_t n;

	if (strcmp(path, "/metrics") != 0 && strcmp(path, "/stats/prometheus") != 0) {
		reply(req, 404, "");
		return;
	}
	v = workers_metrics(a->ops.workers, &n);
	metrics_write(v, n, &out);
	http1_reply(req, 200,
		    accept != NULL && strstr(accept, "application/openmetrics-text") != NULL
			    ? OPENMETRICS
			    : TEXT,
		    (struct str){out.p, out.n});
}

static void on_ready(void *ctx, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf pending = {0}, out = {0};
	struct admin *a = ctx;

	if (strcmp(http1_path(req), "/healthz/ready") != 0) {
		reply(req, 404, "");
		return;
	}
	if (strcmp(http1_method(req), "GET") != 0) {
		reply(req, 405, "");
		return;
	}
	a->ops.pending(a->ops.ctx, &pending);
	if (pending.n == 0) {
		reply(req, 200, "ready\n");
		return;
	}
	strbuf_printf(&out, "not ready, pending: %s\n", pending.p);
	http1_reply(req, 500, TEXT, (struct str){out.p, out.n});
}

static int serve_on(struct admin *a, enum surface s, int fd, int64_t uid, http1_handler fn,
		    struct err *err)
{
	if (fd < 0)
		return fd;
	a->servers[s] = http1_server_new(a->loop, fd, uid, fn, a, err);
	return a->servers[s] != NULL ? 0 : -EIO;
}

static int open_unix(struct admin *a, const char *path, struct err *err)
{
	_cleanup_free_ char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/');

	if (*path == '\0')
		return 0;
	if (slash != NULL && slash != dir) {
		*slash = '\0';
		if (dir_make(dir, 0755, err) != 0)
			return -EIO;
	}
	return serve_on(a, ADMIN_UNIX, unix_listen(path, SOCK_STREAM, 0600, err), 0, on_admin, err);
}

/* lo may have no IPv6 address: then there is no admin server on it. */
static int open_loopback_v6(struct admin *a, struct err *err)
{
	int fd = netns_has_ipv6()
			 ? tcp_listen(AF_INET6, false, a->ops.config->admin_port, BACKLOG, err)
			 : -EAFNOSUPPORT;

	if (fd == -EADDRINUSE)
		return fd;
	if (fd >= 0)
		return serve_on(a, ADMIN_V6, fd, -1, on_admin, err);
	log_info("admin", "no admin server on ::1");
	return 0;
}

static int open_surface(struct admin *a, enum surface s, struct err *err)
{
	const struct config *c = a->ops.config;
	int wide = netns_has_ipv6() ? AF_INET6 : AF_INET;

	switch (s) {
	case READY:
		return serve_on(a, s, tcp_listen(wide, true, c->ready_port, BACKLOG, err), -1,
				on_ready, err);
	case STATS:
		return serve_on(a, s, tcp_listen(wide, true, c->stats_port, BACKLOG, err), -1,
				on_stats, err);
	case ADMIN_V4:
		return serve_on(a, s, tcp_listen(AF_INET, false, c->admin_port, BACKLOG, err), -1,
				on_admin, err);
	case ADMIN_UNIX:
		return open_unix(a, c->admin_socket, err);
	case ADMIN_V6:
		return open_loopback_v6(a, err);
	case SURFACE_N:
		break;
	}
	bug_on(true);
	return -EINVAL;
}

static void on_take_over(struct timer *t);

/* Opens what is not open yet. What the generation before still has is tried again. The socket in
 * the file system is shared even by generations that are pods with namespaces of their own, as in a
 * rolling upgrade. */
static int open_all(struct admin *a, struct err *err)
{
	bool taken = false;

	for (int s = 0; s < SURFACE_N; s++) {
		int r = a->servers[s] == NULL ? open_surface(a, (enum surface)s, err) : 0;

		if (r == -EADDRINUSE && (a->ops.config->handover || s == ADMIN_UNIX)) {
			taken = true;
			continue;
		}
		if (r != 0 && !(s == ADMIN_V6 && r == -EADDRINUSE))
			return r;
	}
	if (taken)
		loop_timer_set(a->loop, &a->take_over, TAKE_OVER_MS, on_take_over);
	return 0;
}

static void on_take_over(struct timer *t)
{
	struct admin *a = container_of(t, struct admin, take_over);
	struct err err = {0};

	if (open_all(a, &err) != 0) {
		log_limited(LOG_LV_ERROR, "admin", "%s; trying again", err.msg);
		loop_timer_set(a->loop, t, TAKE_OVER_MS, on_take_over);
	} else if (!timer_armed(t)) {
		log_info("admin", "took the admin, statistics and readiness addresses over");
	}
}

struct admin *admin_new(struct loop *l, const struct admin_ops *ops, struct err *err)
{
	struct admin *a = xcalloc(1, sizeof(*a));

	a->loop = l;
	a->ops = *ops;
	list_init(&a->dumps);
	if (open_all(a, err) != 0)
		return admin_free(a);
	if (timer_armed(&a->take_over))
		log_info("admin", "%s: waiting for the generation before to let go", err->msg);
	err->msg[0] = '\0';
	return a;
}

void admin_give_up(struct admin *a)
{
	loop_timer_cancel(&a->take_over);
	for (int i = 0; i < SURFACE_N; i++)
		a->servers[i] = http1_server_free(a->servers[i]);
}

struct admin *admin_free(struct admin *a)
{
	if (a == NULL)
		return NULL;
	admin_give_up(a);
	list_for_each_safe (n, &a->dumps) {
		struct dump_wait *d = container_of(n, struct dump_wait, node);

		list_remove(&d->node);
		d->a = NULL; /* on_dump() frees it */
		d->req = NULL;
	}
	free(a);
	return NULL;
}
