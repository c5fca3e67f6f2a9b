/* SPDX-License-Identifier: Apache-2.0
 * access_log.c: see access_log.h. Workers fill rings, the control thread formats and writes.
 *
 * Theory of operation. A record holds references of the objects whose names the line needs, so the
 * worker copies only what would change or go away. One message per worker wakes the control loop,
 * which then waits DRAIN_DELAY_MS for more before it writes: a wake-up per line would cost more
 * than the line. `posted` says that a message is under way or that time is running. A message that
 * is still in the control loop's mailbox when the log is freed owns its worker: it frees it when it
 * arrives.
 */
#include "ztunnel/observe/access_log.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/log_sink.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "ztunnel/observe/log_line.h"
#include "ztunnel/observe/metrics.h"
#include "ztunnel/observe/ring.h"

#define RING_BYTES	   (512u << 10)
#define ERROR_MAX	   192
#define POLICY_MAX	   512
#define IDENTITY_MAX	   512
#define WRITE_BATCH	   (32u << 10)
#define LINE_BYTES	   8192
#define DRAIN_RECORDS_TURN 2048
#define DRAIN_DELAY_MS	   8
#define POLICY_SCOPE	   "state" /* where stock evaluates policies */

enum rec_kind { REC_COMPLETE, REC_EARLY, REC_OPENED, REC_POLICY, REC_LINE };

struct rec {
	enum rec_kind kind;
	long long wall_us;
	struct conn_info c; /* REC_COMPLETE, REC_OPENED; peer_identity unused. REC_EARLY: reporter,
			       addresses */
	uint64_t duration_ms;
	uint16_t error_len, identity_len; /* texts follow the struct: error, then identity */
	/* REC_POLICY; its policy is where the error is in the others */
	const char *message;
	enum log_level level;
	unsigned int suppressed;
};

struct line_rec { /* REC_LINE */
	enum rec_kind kind;
	char text[];
};

struct access_log_worker {
	struct msg msg;
	struct ring ring;
	struct access_log *log; /* NULL: freed, the message is the owner */
	struct loop *control;
	struct timer timer;
	atomic_bool posted;
	struct log_ratelimit policy_limit; /* the worker's */
};

struct access_log {
	struct loop *control;
	bool json;
	size_t n;
	struct access_log_worker **workers;
};

static void on_wake(struct loop *l, struct msg *m);

struct access_log *access_log_new(struct loop *control, size_t nworkers)
{
	struct access_log *l = xcalloc(1, sizeof(*l));
	const char *format = getenv("LOG_FORMAT");

	l->control = control;
	l->json = format != NULL && strcmp(format, "json") == 0;
	l->n = nworkers;
	l->workers = xcalloc(nworkers, sizeof(struct access_log_worker *));
	for (size_t i = 0; i < nworkers; i++) {
		struct access_log_worker *w = l->workers[i] = xcalloc(1, sizeof(*w));

		ring_init(&w->ring, RING_BYTES);
		w->log = l;
		w->control = control;
		w->msg.fn = on_wake;
	}
	return l;
}

struct access_log_worker *access_log_worker(struct access_log *l, size_t index)
{
	bug_on(index >= l->n);
	return l->workers[index];
}

/* Log level and line of one record, appended to @out. */
static void format_rec(const struct access_log *l, struct rec *r, struct strbuf *out)
{
	static const char *const message[] = {"connection complete", "connection failed",
					      "connection opened"};
	_cleanup_strbuf_ struct strbuf fields = {0};
	char error[POLICY_MAX + 1], identity[IDENTITY_MAX + 1], line[LINE_BYTES];
	const char *texts = (const char *)(r + 1);
	enum log_level lv = r->kind == REC_EARLY    ? LOG_LV_WARN
			    : r->kind == REC_OPENED ? LOG_LV_DEBUG
			    : r->kind == REC_POLICY ? r->level
			    : r->error_len != 0	    ? LOG_LV_ERROR
						    : LOG_LV_INFO;
	struct str msg;
	size_t n;

	memcpy(error, texts, r->error_len);
	error[r->error_len] = '\0';
	memcpy(identity, texts + r->error_len, r->identity_len);
	identity[r->identity_len] = '\0';
	r->c.peer_identity = r->identity_len != 0 ? identity : NULL;
	if (r->kind == REC_COMPLETE)
		log_line_complete(&fields, l->json, &r->c, r->error_len != 0 ? error : NULL,
				  r->duration_ms);
	else if (r->kind == REC_OPENED)
		log_line_opened(&fields, l->json, &r->c);
	else if (r->kind == REC_POLICY)
		log_line_policy(&fields, l->json, r->message, str_of(error), &r->c, r->suppressed);
	else
		log_line_early(&fields, l->json, r->c.reporter, &r->c.src_addr, &r->c.dst_addr,
			       error);
	r->c.peer_identity = NULL;
	msg = !l->json		      ? (struct str){fields.p, fields.n}
	      : r->kind == REC_POLICY ? str_of(r->message)
				      : str_of(message[r->kind]);
	n = log_format(line, sizeof(line), r->wall_us, lv,
		       r->kind == REC_POLICY ? POLICY_SCOPE : "access", msg.p, msg.n);
	if (!l->json) {
		strbuf_add(out, line, n);
		return;
	}
	strbuf_add(out, line, n - 2); /* without "}" and the newline */
	strbuf_add(out, fields.p, fields.n);
	strbuf_puts(out, "}\n");
}

/* Formats up to @max records; true when the ring is empty. */
static bool drain(struct access_log *l, struct access_log_worker *w, size_t max)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	size_t n;
	void *p;

	while ((p = ring_peek(&w->ring, &n)) != NULL && max-- != 0) {
		struct rec *r = p;

		if (r->kind == REC_LINE) {
			const struct line_rec *lr = p;

			strbuf_add(&out, lr->text, n - sizeof(*lr));
		} else {
			format_rec(l, r, &out);
			conn_info_fini(&r->c);
		}
		ring_release(&w->ring);
		if (out.n >= WRITE_BATCH) {
			log_sink_put(out.p, out.n);
			out.n = 0;
		}
	}
	log_sink_put(out.p, out.n);
	return p == NULL;
}

static void wake(struct access_log_worker *w)
{
	/* acq_rel: the control thread clears it before it looks at the ring, so either it sees our
	 * record or we see `false` and post again */
	if (!atomic_exchange_explicit(&w->posted, true, memory_order_acq_rel))
		loop_post(w->control, &w->msg);
}

static void worker_free(struct access_log_worker *w)
{
	ring_fini(&w->ring);
	free(w);
}

static void on_time(struct timer *t)
{
	struct access_log_worker *w = container_of(t, struct access_log_worker, timer);

	(void)atomic_exchange_explicit(&w->posted, false, memory_order_acq_rel);
	if (!drain(w->log, w, DRAIN_RECORDS_TURN))
		wake(w); /* let the loop do other things in between */
}

static void on_wake(struct loop *loop, struct msg *m)
{
	struct access_log_worker *w = container_of(m, struct access_log_worker, msg);

	if (w->log == NULL)
		worker_free(w);
	else
		loop_timer_set(loop, &w->timer, DRAIN_DELAY_MS, on_time);
}

struct access_log *access_log_free(struct access_log *l)
{
	if (l == NULL)
		return NULL;
	for (size_t i = 0; i < l->n; i++) {
		struct access_log_worker *w = l->workers[i];

		(void)drain(l, w, SIZE_MAX);
		w->log = NULL;
		if (timer_armed(&w->timer) ||
		    !atomic_load_explicit(&w->posted, memory_order_acquire)) {
			loop_timer_cancel(&w->timer); /* its message has arrived already */
			worker_free(w);
		}
	}
	free(l->workers);
	free(l);
	return NULL;
}

static void sink(void *ctx, const char *line, size_t n)
{
	struct access_log_worker *w = ctx;
	struct line_rec *r = ring_reserve(&w->ring, sizeof(*r) + n);

	if (r == NULL) {
		metric_add(M_ACCESS_LOG_DROPPED, 1);
		return;
	}
	r->kind = REC_LINE;
	memcpy(r->text, line, n);
	ring_commit(&w->ring);
	wake(w);
}

void access_log_adopt_thread(struct access_log_worker *w)
{
	log_set_thread_sink(sink, w);
}

static struct str text_of(const char *s, size_t max)
{
	return (struct str){s, s != NULL ? strnlen(s, max) : 0};
}

static struct rec *reserve(struct access_log_worker *w, enum rec_kind kind, struct str error,
			   struct str identity)
{
	struct rec *r = ring_reserve(&w->ring, sizeof(*r) + error.n + identity.n);

	if (r == NULL) {
		metric_add(M_ACCESS_LOG_DROPPED, 1);
		return NULL;
	}
	*r = (struct rec){.kind = kind,
			  .wall_us = (long long)clock_wall_us(),
			  .error_len = (uint16_t)error.n,
			  .identity_len = (uint16_t)identity.n};
	if (error.n != 0)
		memcpy(r + 1, error.p, error.n);
	if (identity.n != 0)
		memcpy((char *)(r + 1) + error.n, identity.p, identity.n);
	return r;
}

/* What a line may name of @c lives until it is written. */
static void keep(struct rec *r, const struct conn_info *c)
{
	r->c = *c;
	r->c.peer_identity = NULL;
	r->c.series = NULL;
	r->c.src = workload_ref(c->src);
	r->c.dst = workload_ref(c->dst);
	r->c.service = service_ref(c->service);
}

void access_log_opened(struct access_log_worker *w, const struct conn_info *c)
{
	struct rec *r;

	if (!log_enabled(LOG_LV_DEBUG, "access"))
		return;
	r = reserve(w, REC_OPENED, (struct str){0}, text_of(c->peer_identity, IDENTITY_MAX));
	if (r == NULL)
		return;
	keep(r, c);
	ring_commit(&w->ring);
	wake(w);
}

void access_log_complete(struct access_log_worker *w, const struct conn_info *c,
			 enum conn_flag flag, const char *error, uint64_t now_ns)
{
	struct rec *r;

	(void)flag; /* stock's line has the error text only */
	if (!log_enabled(error != NULL ? LOG_LV_ERROR : LOG_LV_INFO, "access"))
		return;
	r = reserve(w, REC_COMPLETE, text_of(error, ERROR_MAX),
		    text_of(c->peer_identity, IDENTITY_MAX));
	if (r == NULL)
		return;
	keep(r, c);
	r->duration_ms = now_ns > c->start_ns ? (now_ns - c->start_ns) / 1000000 : 0;
	ring_commit(&w->ring);
	wake(w);
}

enum log_level access_log_policy_level(bool info)
{
	return info ? LOG_LV_INFO : LOG_LV_DEBUG;
}

bool access_log_wants_policies(bool info)
{
	return log_enabled(access_log_policy_level(info), POLICY_SCOPE);
}

void access_log_policy(struct access_log_worker *w, enum log_level lv, const char *message,
		       struct str policy, const struct conn_info *c)
{
	unsigned int suppressed;
	struct rec *r;

	if (!log_enabled(lv, POLICY_SCOPE) ||
	    !log_ratelimit_ok(&w->policy_limit, LIMIT_POLICY_LINES, LIMIT_POLICY_LINES_MS,
			      &suppressed))
		return;
	if (policy.n > POLICY_MAX)
		policy.n = POLICY_MAX;
	r = reserve(w, REC_POLICY, policy, text_of(c->peer_identity, IDENTITY_MAX));
	if (r == NULL)
		return;
	keep(r, c);
	r->message = message;
	r->level = lv;
	r->suppressed = suppressed;
	ring_commit(&w->ring);
	wake(w);
}

void access_log_early(struct access_log_worker *w, enum conn_reporter rep,
		      const struct ip_port *src, const struct ip_port *dst, const char *error)
{
	struct rec *r;

	if (!log_enabled(LOG_LV_WARN, "access"))
		return;
	r = reserve(w, REC_EARLY, text_of(error, ERROR_MAX), (struct str){NULL, 0});
	if (r == NULL)
		return;
	r->c = (struct conn_info){.reporter = rep, .src_addr = *src, .dst_addr = *dst};
	ring_commit(&w->ring);
	wake(w);
}
