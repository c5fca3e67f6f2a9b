/* SPDX-License-Identifier: Apache-2.0
 * status.c: see status.h.
 */
#include "node-agent/serve/status.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/wire/http1.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/host/install.h"
#include "node-agent/source/pods.h"
#include "node-agent/source/source.h"

static void reply(struct http1_req *req, const struct strbuf *b)
{
	http1_reply(req, 200, "application/json", (struct str){b->p, b->n});
}

bool status_installed(const struct status_from *f, char *ret_reason)
{
	ret_reason[0] = '\0';
	return enrol_started(f->enrol, ret_reason) &&
	       (f->install == NULL || install_ready(f->install, ret_reason));
}

bool status_ready(const struct status_from *f, char *ret_reason)
{
	return enrol_ready(f->enrol, ret_reason) && status_installed(f, ret_reason);
}

static void write_status(const struct status_from *f, bool rules, struct strbuf *out)
{
	char reason[ERR_MSG_MAX];
	struct jsonw w;

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "version", VERSION);
	jsonw_int(&w, "pid", getpid());
	jsonw_cstr(&w, "node", f->cfg->node_name);
	jsonw_bool(&w, "ready", status_ready(f, reason));
	jsonw_cstr(&w, "reason", reason);
	jsonw_obj(&w, "source");
	jsonw_cstr(&w, "kind", f->src->kind);
	jsonw_cstr(&w, "where", f->src->where);
	jsonw_bool(&w, "synced", f->src->synced(f->src->impl));
	jsonw_int(&w, "pods", (long long)pods_count(f->pods));
	jsonw_int(&w, "namespaces", (long long)pods_namespace_count(f->pods));
	jsonw_cstr(&w, "error", f->src->error(f->src->impl));
	if (f->src->stale != NULL) {
		uint64_t age_ms;

		jsonw_bool(&w, "stale", f->src->stale(f->src->impl, &age_ms));
		jsonw_int(&w, "ageSeconds", (long long)(age_ms / 1000));
	}
	if (f->src->print != NULL)
		f->src->print(f->src->impl, &w);
	jsonw_end_obj(&w);
	if (f->install != NULL)
		install_print(f->install, &w);
	enrol_print_ztunnels(f->enrol, &w);
	enrol_print_pods(f->enrol, rules, &w);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}

/* One GET /v1/status that waits for the rules of every pod. */
struct wait {
	struct enrol_look look;
	const struct status_from *from;
	struct http1_req *req;
};

static void on_looked(struct enrol_look *k)
{
	struct wait *s = container_of(k, struct wait, look);
	_cleanup_strbuf_ struct strbuf b = {0};

	write_status(s->from, true, &b);
	reply(s->req, &b);
	free(s);
}

static void on_gone(void *arg)
{
	struct wait *s = arg;

	enrol_look_cancel(&s->look);
	free(s);
}

void status_answer(const struct status_from *f, struct http1_req *req)
{
	const char *rules = http1_query(req, "rules");
	_cleanup_strbuf_ struct strbuf b = {0};
	struct wait *s;

	if (rules != NULL && strcmp(rules, "no") == 0) {
		write_status(f, false, &b);
		reply(req, &b);
		return;
	}
	s = xcalloc(1, sizeof(*s));
	s->from = f;
	s->req = req;
	s->look.done = on_looked;
	http1_keep(req, on_gone, s);
	enrol_look_start(f->enrol, &s->look);
}

static void reply_error(struct http1_req *req, unsigned int status, const char *msg)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct jsonw w;

	jsonw_init(&w, &b, false);
	jsonw_obj(&w, NULL);
	jsonw_int(&w, "code", CNI_FAILED);
	jsonw_cstr(&w, "msg", msg);
	jsonw_end_obj(&w);
	strbuf_putc(&b, '\n');
	http1_reply(req, status, "application/json", (struct str){b.p, b.n});
}

void status_answer_rules(const struct status_from *f, struct http1_req *req)
{
	const char *key = http1_query(req, "pod");
	_cleanup_strbuf_ struct strbuf b = {0};
	struct jsonw w;
	size_t n;

	if (key == NULL || *key == '\0') {
		reply_error(req, 400, "pod: expected ?pod=namespace/name, a UID or a container ID");
		return;
	}
	jsonw_init(&w, &b, true);
	jsonw_obj(&w, NULL);
	n = enrol_print_rules(f->enrol, key, &w);
	jsonw_end_obj(&w);
	strbuf_putc(&b, '\n');
	if (n == 0)
		reply_error(req, 404, "the agent knows no such pod");
	else
		reply(req, &b);
}

static size_t count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	if (d == NULL)
		return 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n - 1; /* the directory's own */
}

void status_answer_node(const struct status_from *f, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct rlimit limit = {0};
	struct jsonw w;

	(void)getrlimit(RLIMIT_NOFILE, &limit);
	jsonw_init(&w, &b, true);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "version", VERSION);
	jsonw_int(&w, "pid", getpid());
	jsonw_obj(&w, "descriptors");
	jsonw_int(&w, "open", (long long)count_fds());
	jsonw_int(&w, "limit", (long long)limit.rlim_cur);
	jsonw_end_obj(&w);
	enrol_print_probes(f->enrol, &w);
	jsonw_end_obj(&w);
	strbuf_putc(&b, '\n');
	reply(req, &b);
}
