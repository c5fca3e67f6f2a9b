/* SPDX-License-Identifier: Apache-2.0
 * kube_watch.c: see kube_watch.h.
 *
 * Theory of operation. There is at most one request under way, or one pause, never both. A request
 * ends in on_end(), or is cancelled by fail() when what it brings cannot be understood. Both lead
 * to next(), which starts the following request, at once or after a pause; when the connection is
 * away nothing is started, and kube_watch_go() resumes.
 */
#include "lib/kube/kube_watch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"
#include "lib/kube/kube_conn.h"

#define PAGE_MS	   60000				      /* for one page of a list */
#define WATCH_MS   ((KUBE_WATCH_SECONDS * 3 / 2 + 30) * 1000) /* the server should have ended it */
#define ERROR_BODY 4096					      /* a Status; the rest is cut */

static const struct https_req_ops req_ops;
static void start(struct kube_watch *w);

static void request_fini(struct kube_watch *w)
{
	kube_list_fini(&w->list);
	kube_lines_fini(&w->lines);
	strbuf_fini(&w->body);
	w->status = 0;
	w->retry_after_ms = w->events = 0;
}

static void set_live(struct kube_watch *w, bool live)
{
	w->live = live;
	w->kind->changed(w->ctx);
}

static void next_generation(struct kube_watch *w)
{
	w->generation = w->generation + 1 != 0 ? w->generation + 1 : 1;
}

static void on_pause(struct timer *t)
{
	start(container_of(t, struct kube_watch, pause));
}

static void next(struct kube_watch *w, uint64_t pause_ms)
{
	request_fini(w);
	/* never from inside the last request's callback: the loop goes round first */
	loop_timer_set(w->loop, &w->pause, pause_ms, on_pause);
}

static void fail(struct kube_watch *w, enum kube_failure f, const struct err *why)
{
	uint32_t status = w->status;
	uint64_t retry = w->retry_after_ms, ms;

	https_req_cancel(&w->req);
	if (w->live)
		kube_state_lived(&w->state, loop_now_ms(w->loop) - w->began_ms);
	ms = kube_state_failed(&w->state, f, status, retry, rand_u64());
	w->error = *why;
	w->refusal = f == KUBE_STATUS ? status : 0;
	(void)err_wrap(&w->error, "%s %s", f == KUBE_LOST || w->live ? "follow" : "read",
		       w->kind->plural);
	log_limited(LOG_LV_WARN, "kube", "%s; next attempt in %llu ms, %s", w->error.msg,
		    (unsigned long long)ms,
		    w->state.phase == KUBE_LIST ? "with a new list" : "from where it was");
	if (status == 401)
		kube_conn_refused(w->conn);
	set_live(w, false);
	next(w, ms);
}

/* --- objects --- */

static void object_name(const struct doc *object, char *buf, size_t cap)
{
	const struct doc *meta = doc_get(object, "metadata");
	struct str ns = {0}, name = {0};

	if (doc_opt_text(meta, "namespace", &ns, NULL) < 0 ||
	    doc_opt_text(meta, "name", &name, NULL) < 0)
		ns = name = STR("?");
	(void)snprintf(buf, cap, "%.*s/%.*s", STR_FMT(ns), STR_FMT(name));
}

static void bad_forget(struct kube_watch *w)
{
	w->bad[0] = w->bad_name[0] = '\0';
	w->kind->changed(w->ctx);
}

static void put(struct kube_watch *w, const struct doc *object)
{
	char name[sizeof(w->bad_name)];
	struct err err = {0};

	object_name(object, name, sizeof(name));
	if (w->kind->put(w->ctx, object, w->generation, &err) == 0) {
		if (strcmp(name, w->bad_name) == 0)
			bad_forget(w);
		return;
	}
	w->bad_seen = true;
	(void)snprintf(w->bad, sizeof(w->bad), "%.120s: %.380s", name, err.msg);
	(void)snprintf(w->bad_name, sizeof(w->bad_name), "%s", name);
	log_limited(LOG_LV_WARN, "kube", "%s cannot be read, what was known of it stays: %s", name,
		    err.msg);
	w->kind->changed(w->ctx);
}

static void gone(struct kube_watch *w, const struct doc *object)
{
	char name[sizeof(w->bad_name)];

	object_name(object, name, sizeof(name));
	w->kind->gone(w->ctx, object);
	if (strcmp(name, w->bad_name) == 0)
		bad_forget(w);
}

static int on_item(void *ctx, struct str text, struct err *err)
{
	struct kube_watch *w = ctx;
	struct arena *a = arena_new();
	const struct doc *object;
	int r = json_parse(text, a, &object, err);

	if (r == 0)
		put(w, object);
	(void)arena_free(a);
	return r;
}

static int take_event(struct kube_watch *w, const struct kube_event *ev, struct err *err)
{
	w->events++;
	switch (ev->type) {
	case KUBE_ADDED:
	case KUBE_MODIFIED:
		put(w, ev->object);
		break;
	case KUBE_DELETED:
		gone(w, ev->object);
		break;
	case KUBE_BOOKMARK:
		break;
	case KUBE_ERROR:
	case KUBE_EVENT_N:
	default:
		w->status = ev->code;
		return err_set(err, EREMOTEIO, "the server ended the watch: %u %s", ev->code,
			       str_shown(ev->message));
	}
	kube_state_event(&w->state, ev->rv);
	kube_conn_proved(w->conn);
	return 0;
}

static int on_line(void *ctx, struct str line, struct err *err)
{
	struct kube_watch *w = ctx;
	struct arena *a = arena_new();
	struct kube_event ev;
	int r = kube_event_parse(line, a, &ev, err);

	if (r == 0)
		r = take_event(w, &ev, err);
	(void)arena_free(a);
	return r;
}

/* --- the request --- */

static void found(struct kube_watch *w)
{
	w->error = (struct err){0};
	w->absent = false;
	kube_state_found(&w->state);
}

static void on_head(struct https_req *r, unsigned int status, const struct h2_head *h)
{
	struct kube_watch *w = container_of(r, struct kube_watch, req);
	uint64_t seconds;

	w->status = status;
	if (parse_u64(h2_head_get(h, "retry-after"), 0, 86400, &seconds) == 0)
		w->retry_after_ms = seconds * 1000;
	if (status != 200 || w->state.phase != KUBE_WATCH)
		return;
	found(w);
	set_live(w, true);
}

static void on_data(struct https_req *r, const uint8_t *p, size_t n)
{
	struct kube_watch *w = container_of(r, struct kube_watch, req);
	struct str in = {(const char *)p, n};
	struct err err = {0};
	int rc;

	if (w->status != 200) {
		size_t room = ERROR_BODY - w->body.n;

		strbuf_add(&w->body, p, n < room ? n : room);
		return;
	}
	rc = w->state.phase == KUBE_LIST ? kube_list_feed(&w->list, in, on_item, w, &err)
					 : kube_lines_feed(&w->lines, in, on_line, w, &err);
	if (rc < 0)
		fail(w, rc == -EREMOTEIO ? KUBE_STATUS : KUBE_GARBAGE, &err);
}

static void page_done(struct kube_watch *w)
{
	struct arena *a = arena_new();
	struct str rv, more;
	struct err err = {0};
	int r = kube_list_end(&w->list, w->kind->list_kind, a, &rv, &more, &err);

	if (r < 0) {
		fail(w, KUBE_GARBAGE, &err);
	} else {
		found(w);
		kube_conn_proved(w->conn);
		if (kube_state_page(&w->state, rv, more)) {
			w->kind->sweep(w->ctx, w->generation);
			if (w->bad_seen)
				w->kind->changed(w->ctx);
			else
				bad_forget(w);
		}
		next(w, 0);
	}
	(void)arena_free(a);
}

/* An optional resource was not found. True: that is settled, the next request is on its way. */
static bool absent(struct kube_watch *w)
{
	uint64_t pause_ms;

	switch (kube_state_missing(&w->state, w->kind->older != NULL, loop_now_ms(w->loop),
				   rand_u64(), &pause_ms)) {
	case KUBE_MISSING_OTHER:
		next(w, 0);
		return true;
	case KUBE_MISSING_SURE:
		w->absent = true;
		w->error = (struct err){0};
		next_generation(w);
		w->kind->sweep(w->ctx, w->generation);
		next(w, pause_ms);
		set_live(w, true);
		return true;
	case KUBE_MISSING_UNSURE:
	default:
		return false;
	}
}

static void refused(struct kube_watch *w)
{
	if (w->status == 404 && w->kind->optional && absent(w))
		return;

	struct arena *a = arena_new();
	struct str msg = kube_status_message((struct str){w->body.p, w->body.n}, a);
	struct err err = {0};

	(void)err_set(&err, EREMOTEIO, "%s answered %u%s%.*s", kube_conn_where(w->conn), w->status,
		      msg.n != 0 ? ": " : "", (int)(msg.n < 200 ? msg.n : 200), msg.p);
	fail(w, KUBE_STATUS, &err);
	(void)arena_free(a);
}

static void watch_ended(struct kube_watch *w)
{
	uint64_t lived = loop_now_ms(w->loop) - w->began_ms, ms;
	struct err err = {0};

	if (w->lines.line.n != 0) {
		(void)err_set(&err, EPROTO, "the server ended the watch in the middle of an event");
		fail(w, KUBE_LOST, &err);
		return;
	}
	ms = kube_state_watch_ended(&w->state, lived, w->events, rand_u64());
	log_debug("kube", "watch of %s ended after %llu ms, goes on in %llu ms", w->kind->plural,
		  (unsigned long long)lived, (unsigned long long)ms);
	set_live(w, false);
	next(w, ms);
}

static void on_end(struct https_req *r, const struct err *why)
{
	struct kube_watch *w = container_of(r, struct kube_watch, req);

	if (why != NULL)
		fail(w, KUBE_LOST, why);
	else if (w->status != 200)
		refused(w);
	else if (w->state.phase == KUBE_LIST)
		page_done(w);
	else
		watch_ended(w);
}

static const struct https_req_ops req_ops = {.head = on_head, .data = on_data, .end = on_end};

static void start(struct kube_watch *w)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	bool list = w->state.phase == KUBE_LIST;
	struct err err = {0};
	int r;

	if (!kube_conn_usable(w->conn))
		return; /* kube_watch_go() comes */
	if (list && w->state.next == NULL) {
		next_generation(w);
		w->bad_seen = false;
	}
	kube_state_path(&w->state, kube_conn_prefix(w->conn),
			w->state.older ? w->kind->older : w->kind->resource, w->node,
			w->kind->labels, rand_u64(), &path);
	w->began_ms = loop_now_ms(w->loop);
	r = kube_conn_request(w->conn, &w->req, "GET", path.p, NULL, (struct str){0},
			      list ? PAGE_MS : WATCH_MS, &req_ops, &err);
	if (r < 0)
		fail(w, KUBE_LOST, &err);
}

void kube_watch_go(struct kube_watch *w)
{
	if (w->req.client == NULL && !timer_armed(&w->pause))
		start(w);
}

void kube_watch_init(struct kube_watch *w, struct loop *l, struct kube_conn *c,
		     const struct kube_kind *kind, const char *node, void *ctx)
{
	*w = (struct kube_watch){.kind = kind, .ctx = ctx, .loop = l, .conn = c};
	w->node = node != NULL ? xstrdup(node) : NULL;
}

void kube_watch_fini(struct kube_watch *w)
{
	https_req_cancel(&w->req);
	loop_timer_cancel(&w->pause);
	request_fini(w);
	kube_state_fini(&w->state);
	free(w->node);
}
