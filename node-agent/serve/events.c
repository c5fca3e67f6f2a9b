/* SPDX-License-Identifier: Apache-2.0
 * events.c: see events.h.
 */
#include "node-agent/serve/events.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "lib/wire/http1.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/serve/cni_request.h"
#include "node-agent/serve/status.h"

#define JSON_TYPE "application/json"
#define TEXT_TYPE "text/plain"

struct events {
	struct loop *loop;
	struct http1_server *event, *log;
	struct enrol *enrol;
	struct status_from from;
	struct events_count answers[EVENTS_CODES]; /* by code */
};

/* One ADD that waits. */
struct pending {
	struct events *e;
	struct http1_req *req; /* NULL: the client went away */
	bool stock;
	struct enrol_waiter waiter;
};

static void reply(struct http1_req *req, unsigned int status, const char *type,
		  const struct strbuf *b)
{
	http1_reply(req, status, type, (struct str){b->p != NULL ? b->p : "", b->n});
}

static void count(struct events *e, unsigned int http)
{
	for (size_t i = 0; i < ARRAY_LEN(e->answers); i++)
		if (e->answers[i].http == http || e->answers[i].http == 0) {
			e->answers[i].http = http;
			e->answers[i].n++;
			return;
		}
}

static void reply_answer(struct events *e, struct http1_req *req, const struct enrol_answer *a)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct jsonw w;

	jsonw_init(&w, &b, false);
	jsonw_obj(&w, NULL);
	if (a->http == 200) {
		jsonw_cstr(&w, "outcome", a->outcome);
		jsonw_cstr(&w, "reason", a->msg);
	} else {
		jsonw_int(&w, "code", a->code);
		jsonw_cstr(&w, "msg", a->msg);
		jsonw_cstr(&w, "details", a->details);
	}
	jsonw_end_obj(&w);
	strbuf_putc(&b, '\n');
	count(e, a->http);
	reply(req, a->http, JSON_TYPE, &b);
}

static void reply_error(struct events *e, struct http1_req *req, unsigned int http,
			unsigned int code, const char *msg)
{
	struct enrol_answer a = {.http = http, .code = code};

	(void)snprintf(a.msg, sizeof(a.msg), "%s", msg);
	reply_answer(e, req, &a);
}

/* Stock's client takes 200 for success and anything else as an error text. */
static void reply_stock(struct events *e, struct http1_req *req, const struct enrol_answer *a)
{
	bool ok = a->http == 200 && strcmp(a->outcome, "enrolled") == 0;

	unsigned int http = ok ? 200 : a->http == 400 ? 400 : 500;

	count(e, http);
	http1_reply(req, http, TEXT_TYPE, ok ? STR("") : str_of(a->msg));
}

static void on_added(struct enrol_waiter *w, const struct enrol_answer *a)
{
	struct pending *p = container_of(w, struct pending, waiter);

	if (p->stock)
		reply_stock(p->e, p->req, a);
	else
		reply_answer(p->e, p->req, a);
	free(p);
}

static void on_client_gone(void *arg)
{
	struct pending *p = arg;

	log_info("events", "the client of an ADD went away before its end");
	enrol_waiter_abandon(&p->waiter);
	free(p);
}

static void start_add(struct events *e, struct http1_req *req, const struct cni_request *q,
		      bool stock)
{
	struct pending *p = xcalloc(1, sizeof(*p));

	p->e = e;
	p->req = req;
	p->stock = stock;
	p->waiter.done = on_added;
	http1_keep(req, on_client_gone, p);
	enrol_add(e->enrol, &q->at, q->deadline_ms, &p->waiter);
}

static void answer_status(struct events *e, struct http1_req *req)
{
	struct enrol_answer a = {.http = 200, .outcome = "ok"};
	/* Where this agent is a pod, ztunnel is one too, and has a network of its own: on a node
	 * that says that it is not ready it would never start. */
	bool ready = e->from.cfg->pod_namespace[0] != '\0' ? status_installed(&e->from, a.msg)
							   : status_ready(&e->from, a.msg);

	if (!ready) {
		a.http = 503;
		a.code = CNI_NOT_AVAILABLE;
	}
	reply_answer(e, req, &a);
}

static void handle_cni(struct events *e, struct http1_req *req)
{
	struct enrol_answer a = {.http = 200, .outcome = "ok"};
	struct cni_request q = {0};
	struct err err = {0};
	unsigned int code;

	if (cni_request_parse(http1_body(req), &q, &code, &err) < 0) {
		reply_error(e, req, 400, code, err.msg);
		return;
	}
	switch (q.command) {
	case CNI_ADD:
		start_add(e, req, &q, false);
		break;
	case CNI_CHECK:
		enrol_check(e->enrol, &q.at, &a);
		reply_answer(e, req, &a);
		break;
	case CNI_DEL:
		enrol_del(e->enrol, &q.at);
		reply_answer(e, req, &a);
		break;
	case CNI_GC:
		enrol_gc(e->enrol, q.valid, q.nvalid);
		reply_answer(e, req, &a);
		break;
	case CNI_STATUS:
	case CNI_COMMAND_N:
		answer_status(e, req);
		break;
	}
	cni_request_fini(&q);
}

static void handle_stock(struct events *e, struct http1_req *req)
{
	struct cni_request q = {0};
	struct err err = {0};

	if (cni_request_parse_stock(http1_body(req), &q, &err) < 0) {
		count(e, 400);
		http1_reply(req, 400, TEXT_TYPE, str_of(err.msg));
		return;
	}
	start_add(e, req, &q, true);
	cni_request_fini(&q);
}

static void on_event(void *ctx, struct http1_req *req)
{
	const char *path = http1_path(req), *method = http1_method(req);
	struct events *e = ctx;
	bool post = strcmp(method, "POST") == 0, get = strcmp(method, "GET") == 0;

	if (strcmp(path, "/v1/cni") == 0 && post)
		handle_cni(e, req);
	else if (strcmp(path, "/cmdadd") == 0 && post)
		handle_stock(e, req);
	else if (strcmp(path, "/v1/status") == 0 && get)
		status_answer(&e->from, req);
	else if (strcmp(path, "/v1/rules") == 0 && get)
		status_answer_rules(&e->from, req);
	else if (strcmp(path, "/v1/node") == 0 && get)
		status_answer_node(&e->from, req);
	else if (strcmp(path, "/v1/cni") == 0 || strcmp(path, "/cmdadd") == 0 ||
		 strcmp(path, "/v1/status") == 0 || strcmp(path, "/v1/rules") == 0 ||
		 strcmp(path, "/v1/node") == 0)
		reply_error(e, req, 405, CNI_FAILED, "method not allowed");
	else
		reply_error(e, req, 404, CNI_FAILED, "no such path");
}

/* One record of the stock plugin: JSON in a JSON string (cni-spec 1.8). */
static void log_record(struct str text)
{
	struct arena *a = arena_new();
	struct str level = STR("info"), msg = STR("");
	enum log_level lv = LOG_LV_INFO;
	const struct doc *root;
	char line[1024];

	if (json_parse(text, a, &root, NULL) == 0 && root->kind == DOC_MAP &&
	    doc_opt_text(root, "level", &level, NULL) == 0 &&
	    doc_opt_text(root, "msg", &msg, NULL) == 0) {
		for (int i = LOG_LV_ERROR; i < LOG_LV_TRACE; i++)
			if (str_eqc(level, log_level_name[i]))
				lv = (enum log_level)i;
		log_at(lv, "cni-plugin", "%s record=\"%s\"", str_shown(msg),
		       str_show(text, line, sizeof(line)));
	}
	(void)arena_free(a);
}

static void on_log(void *ctx, struct http1_req *req)
{
	struct arena *a;
	const struct doc *root;

	(void)ctx;
	if (strcmp(http1_path(req), "/log") != 0) {
		http1_reply(req, 404, TEXT_TYPE, STR("no such path"));
		return;
	}
	a = arena_new();
	if (json_parse(http1_body(req), a, &root, NULL) == 0 && root->kind == DOC_LIST) {
		for (const struct doc *d = root->child; d != NULL; d = d->next)
			if (d->kind == DOC_TEXT)
				log_record(d->text);
		http1_reply(req, 200, TEXT_TYPE, STR(""));
	} else {
		http1_reply(req, 400, TEXT_TYPE, STR("expected a JSON list of texts"));
	}
	(void)arena_free(a);
}

struct events *events_new(struct loop *l, int event_fd, int log_fd, const struct config *cfg,
			  struct enrol *enrol, const struct pods *pods, const struct source *src,
			  struct err *err)
{
	struct events *e = xcalloc(1, sizeof(*e));

	e->loop = l;
	e->enrol = enrol;
	e->from = (struct status_from){.cfg = cfg, .enrol = enrol, .pods = pods, .src = src};
	e->event = http1_server_new(l, event_fd, 0, on_event, e, err);
	if (e->event == NULL) {
		(void)xclose(log_fd);
		return events_free(e);
	}
	e->log = http1_server_new(l, log_fd, 0, on_log, e, err);
	if (e->log == NULL)
		return events_free(e);
	return e;
}

void events_set_install(struct events *e, const struct install *in)
{
	e->from.install = in;
}

const struct status_from *events_from(const struct events *e)
{
	return &e->from;
}

size_t events_counts(const struct events *e, const struct events_count **ret)
{
	*ret = e->answers;
	return EVENTS_CODES;
}

struct events *events_free(struct events *e)
{
	if (e == NULL)
		return NULL;
	e->event = http1_server_free(e->event);
	e->log = http1_server_free(e->log);
	free(e);
	return NULL;
}
