/* SPDX-License-Identifier: Apache-2.0
 * admin.c: see admin.h. Requests are answered at once, but for /config_dump, which waits for the
 * workers' connections; several may wait at a time.
 */
#include "ztunnel/control/admin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
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

enum surface { ADMIN_V4, ADMIN_V6, ADMIN_UNIX, STATS, READY, SURFACE_N };

struct admin {
	struct admin_ops ops;
	struct http1_server *servers[SURFACE_N];
	struct list dumps;
	char *filter; /* the present log filter */
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

static bool set_level(struct admin *a, const char *base, const char *level)
{
	char *next =
		level != NULL && *level != '\0' ? xasprintf("%s,%s", base, level) : xstrdup(base);

	if (log_set_filter(next) != 0) {
		free(next);
		return false;
	}
	free(a->filter);
	a->filter = next;
	return true;
}

static void logging(struct admin *a, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_free_ char *base = NULL;
	const char *level = http1_query(req, "level");

	if (!is_post(req)) {
		reply(req, 405, "Invalid HTTP method\n" LOGGING_USAGE);
		return;
	}
	base = xstrdup(http1_query(req, "reset") != NULL ? a->ops.config->log_filter : a->filter);
	if (!set_level(a, base, level)) {
		strbuf_printf(&out, "Invalid level provided: %s\n%s", str_shown(str_of(level)),
			      LOGGING_USAGE);
		http1_reply(req, 400, TEXT, (struct str){out.p, out.n});
		return;
	}
	strbuf_printf(&out, "current log level is %s\n", a->filter);
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

/* @any: on all addresses (dual stack where there is IPv6), else on the loopback of @family. */
static int tcp_listen(int family, bool any, uint16_t port, struct err *err)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} u = {0};
	socklen_t len = family == AF_INET6 ? sizeof(u.v6) : sizeof(u.v4);
	_cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1, v6only = any ? 0 : 1;

	if (fd < 0)
		return err_errno(err, errno, "socket for port %u", port);
	if (family == AF_INET6) {
		u.v6.sin6_family = AF_INET6;
		u.v6.sin6_port = htons(port);
		u.v6.sin6_addr = any ? in6addr_any : in6addr_loopback;
		if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0)
			return err_errno(err, errno, "IPV6_V6ONLY for port %u", port);
	} else {
		u.v4.sin_family = AF_INET;
		u.v4.sin_port = htons(port);
		u.v4.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
	}
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, &u.sa, len) < 0 || listen(fd, BACKLOG) < 0)
		return err_errno(err, errno, "listen on port %u", port);
	return take_fd(fd);
}

static int serve_on(struct admin *a, struct loop *l, enum surface s, int fd, int64_t uid,
		    http1_handler fn, struct err *err)
{
	if (fd < 0)
		return fd;
	a->servers[s] = http1_server_new(l, fd, uid, fn, a, err);
	return a->servers[s] != NULL ? 0 : -EIO;
}

static int open_unix(struct admin *a, struct loop *l, const char *path, struct err *err)
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
	return serve_on(a, l, ADMIN_UNIX, unix_listen(path, SOCK_STREAM, 0600, err), 0, on_admin,
			err);
}

static int open_all(struct admin *a, struct loop *l, struct err *err)
{
	const struct config *c = a->ops.config;
	int wide = netns_has_ipv6() ? AF_INET6 : AF_INET;

	if (serve_on(a, l, READY, tcp_listen(wide, true, c->ready_port, err), -1, on_ready, err) ||
	    serve_on(a, l, STATS, tcp_listen(wide, true, c->stats_port, err), -1, on_stats, err) ||
	    serve_on(a, l, ADMIN_V4, tcp_listen(AF_INET, false, c->admin_port, err), -1, on_admin,
		     err) ||
	    open_unix(a, l, c->admin_socket, err) != 0)
		return -EIO;
	if (wide == AF_INET6 &&
	    serve_on(a, l, ADMIN_V6, tcp_listen(AF_INET6, false, c->admin_port, NULL), -1, on_admin,
		     NULL) != 0)
		log_info("admin", "no admin server on ::1"); /* lo may have no IPv6 address */
	return 0;
}

struct admin *admin_new(struct loop *l, const struct admin_ops *ops, struct err *err)
{
	struct admin *a = xcalloc(1, sizeof(*a));

	a->ops = *ops;
	a->filter = xstrdup(ops->config->log_filter);
	list_init(&a->dumps);
	return open_all(a, l, err) == 0 ? a : admin_free(a);
}

struct admin *admin_free(struct admin *a)
{
	if (a == NULL)
		return NULL;
	for (int i = 0; i < SURFACE_N; i++)
		a->servers[i] = http1_server_free(a->servers[i]);
	list_for_each_safe (n, &a->dumps) {
		struct dump_wait *d = container_of(n, struct dump_wait, node);

		list_remove(&d->node);
		d->a = NULL; /* on_dump() frees it */
		d->req = NULL;
	}
	free(a->filter);
	free(a);
	return NULL;
}
