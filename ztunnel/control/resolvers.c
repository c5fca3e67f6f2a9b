/* SPDX-License-Identifier: Apache-2.0
 * resolvers.c: see resolvers.h.
 */
#include "ztunnel/control/resolvers.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/dns/resolv_conf.h"

#define LOOK_MS	 5000
#define FILE_MAX (64u << 10)
#define SCOPE	 "dns"

struct resolvers {
	struct loop *loop;
	struct workers *workers;
	char *path;
	struct timer timer;
	struct stat seen; /* of the file that was read last */
	struct resolv_conf conf;
};

static bool same_conf(const struct resolv_conf *a, const struct resolv_conf *b)
{
	if (a->n != b->n || a->timeout_ms != b->timeout_ms || a->attempts != b->attempts)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!ip_port_eq(&a->servers[i], &b->servers[i]))
			return false;
	return true;
}

static void say(const struct resolvers *r)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char text[IP_PORT_TEXT_MAX];

	strbuf_puts(&b, "");
	for (size_t i = 0; i < r->conf.n; i++)
		strbuf_printf(&b, "%s%s", i != 0 ? "," : "",
			      ip_port_format(&r->conf.servers[i], text));
	log_info(SCOPE, "names outside the mesh are asked of %s (%s) timeout=%llums attempts=%u",
		 b.p, r->path, (unsigned long long)r->conf.timeout_ms, r->conf.attempts);
}

static void read_file(struct resolvers *r)
{
	_cleanup_free_ char *text = NULL;
	struct resolv_conf conf;
	struct err err = {0};
	size_t n;

	if (file_read(r->path, FILE_MAX, &text, &n, &err) != 0) {
		log_warn(SCOPE, "resolvers stay as they are: %s", err.msg);
		return;
	}
	resolv_conf_parse((struct str){text, n}, &conf);
	if (conf.n == 0) {
		log_warn(SCOPE, "resolvers stay as they are: %s names none", r->path);
		return;
	}
	if (same_conf(&conf, &r->conf))
		return;
	r->conf = conf;
	workers_resolvers(r->workers, &r->conf);
	say(r);
}

static void on_timer(struct timer *t)
{
	struct resolvers *r = container_of(t, struct resolvers, timer);
	struct stat st = {0};

	loop_timer_set(r->loop, t, LOOK_MS, on_timer);
	if (stat(r->path, &st) == 0 && file_unchanged(&st, &r->seen))
		return;
	if (st.st_ino == 0 && r->seen.st_ino == 0 && r->conf.n != 0)
		return; /* it is still away */
	r->seen = st;
	read_file(r);
}

struct resolvers *resolvers_new(struct loop *l, struct workers *w, const char *path)
{
	struct resolvers *r = xcalloc(1, sizeof(*r));

	r->loop = l;
	r->workers = w;
	r->path = xstrdup(path);
	on_timer(&r->timer);
	return r;
}

struct resolvers *resolvers_free(struct resolvers *r)
{
	if (r == NULL)
		return NULL;
	loop_timer_cancel(&r->timer);
	free(r->path);
	free(r);
	return NULL;
}

const struct resolv_conf *resolvers_conf(const struct resolvers *r)
{
	return &r->conf;
}
