/* SPDX-License-Identifier: Apache-2.0
 * ca_istio.c: the Istio CA of ca.h.
 *
 * Theory of operation. A job is one certificate; it belongs to a channel, which is one connection
 * with the roots it was made with. The current channel is made when a job needs it and given up
 * when it was idle for a while: istiod counts pings of a connection without calls as abuse. New
 * roots retire the channel: it takes no new jobs and goes with its last one. The jobs of a channel
 * that ends fail with its reason; who asks again, and when, is decided in certs.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/wire/tls.h"
#include "proto/citadel.pb-c.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/ca_csr.h"
#include "ztunnel/control/ca_internal.h"
#include "ztunnel/control/istiod.h"
#include "ztunnel/observe/metrics.h"

#define IDLE_MS 20000
#define METHOD	"/istio.v1.auth.IstioCertificateService/CreateCertificate"

struct channel {
	struct ca_istio *ca;
	struct https_client *client; /* NULL: it is over */
	char *roots;
	bool up;
	struct list jobs, node;
	struct timer idle;
};

struct ca_istio {
	struct ca base;
	struct loop *loop;
	const struct istiod_config *cfg;
	uint64_t ttl_s;
	struct list channels;
	struct channel *current; /* NULL: none; else on .channels */
};

struct job {
	struct list node;
	struct channel *ch;
	struct grpc_call call;
	char *spiffe;
	struct ca_csr csr;
	struct tls_identity *id; /* the answer */
	struct err err;
	void (*done)(void *, struct tls_identity *, const char *);
	void *ctx;
};

static void job_free(struct job *j)
{
	grpc_cancel(&j->call);
	list_remove(&j->node);
	if (j->id != NULL)
		tls_identity_unref(j->id);
	ca_csr_fini(&j->csr);
	free(j->spiffe);
	free(j);
}

static void channel_free(struct channel *ch)
{
	bug_on(!list_empty(&ch->jobs));
	if (ch->ca->current == ch)
		ch->ca->current = NULL;
	list_remove(&ch->node);
	loop_timer_cancel(&ch->idle);
	ch->client = https_client_free(ch->client);
	free(ch->roots);
	free(ch);
}

static void on_idle(struct timer *t)
{
	channel_free(container_of(t, struct channel, idle));
}

/* A channel without jobs stays a while, when new jobs may come to it. */
static void rest(struct channel *ch)
{
	if (!list_empty(&ch->jobs) || ch->client == NULL)
		return;
	if (ch->ca->current == ch)
		loop_timer_set(ch->ca->loop, &ch->idle, IDLE_MS, on_idle);
	else
		loop_timer_set(ch->ca->loop, &ch->idle, 1, on_idle); /* we may be in its callback */
}

/* The job ends; @done may ask for more. */
static void finish(struct job *j)
{
	struct channel *ch = j->ch;
	struct tls_identity *id = take_ptr(j->id);
	struct err err = j->err;
	void (*done)(void *, struct tls_identity *, const char *) = j->done;
	void *ctx = j->ctx;

	if (id == NULL)
		metric_add(M_CA_FAILURES, 1);
	job_free(j);
	if (ch != NULL)
		rest(ch);
	done(ctx, id, id != NULL ? NULL : err.msg);
}

static void accept_answer(struct job *j, const Istio__Ca__Response *r)
{
	struct str chain[LIMIT_CA_CHAIN + 2];
	size_t n = r->n_cert_chain < ARRAY_LEN(chain) ? r->n_cert_chain : ARRAY_LEN(chain);

	for (size_t i = 0; i < n; i++)
		chain[i] = (struct str){(const char *)r->cert_chain[i].data, r->cert_chain[i].len};
	j->id = ca_csr_accept(&j->csr, j->spiffe, chain, n, &j->err);
}

static void on_message(struct grpc_call *c, struct str m)
{
	struct job *j = container_of(c, struct job, call);
	Istio__Ca__Response *r = istio__ca__response__unpack(NULL, m.n, (const uint8_t *)m.p);

	if (r == NULL) {
		(void)err_set(&j->err, EPROTO, "the answer is no CreateCertificate response");
		return;
	}
	accept_answer(j, r);
	istio__ca__response__free_unpacked(r, NULL);
}

static void on_end(struct grpc_call *c, enum grpc_code code, const char *why)
{
	struct job *j = container_of(c, struct job, call);

	if (code != GRPC_OK) {
		if (j->id != NULL)
			tls_identity_unref(take_ptr(j->id));
		(void)err_set(&j->err, EPROTO, "%s%s", why, istiod_hint(code));
	}
	finish(j);
}

static const struct grpc_ops call_ops = {.message = on_message, .end = on_end};

static ProtobufCBinaryData bytes_of(const char *s)
{
	return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)(uintptr_t)s};
}

static int send_request(struct job *j)
{
	Istio__Ca__Request req = ISTIO__CA__REQUEST__INIT;
	Istio__Value__Struct meta = ISTIO__VALUE__STRUCT__INIT;
	Istio__Value__Field field = ISTIO__VALUE__FIELD__INIT, *fields[] = {&field};
	Istio__Value__Value value = ISTIO__VALUE__VALUE__INIT;
	_cleanup_free_ uint8_t *buf = NULL;
	size_t n;

	value.kind_case = ISTIO__VALUE__VALUE__KIND_STRING_VALUE;
	value.string_value = bytes_of(j->spiffe);
	field.key = bytes_of("ImpersonatedIdentity");
	field.value = &value;
	meta.fields = fields;
	meta.n_fields = 1;
	req.csr = bytes_of(j->csr.csr_pem);
	req.validity_duration = (int64_t)j->ch->ca->ttl_s;
	req.metadata = &meta;
	n = istio__ca__request__get_packed_size(&req);
	buf = xmalloc(n);
	(void)istio__ca__request__pack(&req, buf);
	return grpc_send(&j->call, buf, n, true);
}

/* Puts the question on the connection. */
static int start(struct job *j)
{
	struct istiod_metadata m;
	struct grpc_call_config cfg = {.method = METHOD,
				       .max_message = LIMIT_CA_ANSWER_BYTES,
				       .deadline_ms = LIMIT_CA_CALL_MS,
				       .unary = true};
	int r = istiod_metadata(j->ch->ca->cfg, &m, &j->err);

	if (r != 0)
		return r;
	cfg.field = m.field;
	cfg.nfields = m.n;
	r = grpc_call_start(&j->call, j->ch->client, &cfg, &call_ops, &j->err);
	istiod_metadata_fini(&m);
	if (r == 0 && send_request(j) != 0) {
		grpc_cancel(&j->call);
		r = err_set(&j->err, ENOBUFS, "the request is too large");
	}
	return r;
}

static void on_up(void *ctx)
{
	struct channel *ch = ctx;
	struct list todo;

	ch->up = true;
	list_init(&todo);
	list_splice(&todo, &ch->jobs);
	while (!list_empty(&todo)) {
		struct job *j = container_of(list_pop(&todo), struct job, node);

		list_append(&ch->jobs, &j->node);
		loop_timer_cancel(&ch->idle); /* one that failed may have set it */
		if (start(j) != 0)
			finish(j);
	}
}

/* Calls that were under way have ended before. */
static void on_down(void *ctx, const struct err *why)
{
	struct channel *ch = ctx;
	struct list todo;

	ch->up = false;
	if (ch->ca->current == ch)
		ch->ca->current = NULL; /* what finish() asks for goes to a new one */
	list_init(&todo);
	list_splice(&todo, &ch->jobs);
	ch->client = https_client_free(ch->client);
	while (!list_empty(&todo)) {
		struct job *j = container_of(list_pop(&todo), struct job, node);

		j->ch = NULL;
		j->err = *why;
		finish(j);
	}
	channel_free(ch);
}

static const struct https_client_ops client_ops = {.up = on_up, .down = on_down};

/* The channel for a new job, with the roots as they are now. NULL with @err. */
static struct channel *channel_for(struct ca_istio *ca, struct err *err)
{
	_cleanup_free_ char *roots = istiod_roots(ca->cfg, err);
	struct channel *ch = ca->current;

	if (ch != NULL && ch->up && !https_client_usable(ch->client)) { /* GOAWAY */
		ca->current = NULL;
		rest(ch);
		ch = NULL;
	}
	if (roots == NULL) {
		if (ch == NULL)
			return NULL;
		log_limited(LOG_LV_WARN, "ca", "%s; the present connection stays in use", err->msg);
		return ch;
	}
	if (ch != NULL && strcmp(ch->roots, roots) == 0)
		return ch;
	if (ch != NULL) {
		log_info("ca", "the root certificates changed: a new connection to the %s",
			 ca->base.name);
		ca->current = NULL;
		rest(ch);
	}
	ch = xcalloc(1, sizeof(*ch));
	ch->ca = ca;
	list_init(&ch->jobs);
	ch->client = istiod_connect(ca->loop, ca->cfg, roots, &client_ops, ch, err);
	if (ch->client == NULL) {
		free(ch);
		return NULL;
	}
	ch->roots = take_ptr(roots);
	list_append(&ca->channels, &ch->node);
	ca->current = ch;
	return ch;
}

static void istio_issue(struct ca *base, const char *spiffe,
			void (*done)(void *, struct tls_identity *, const char *), void *ctx)
{
	struct ca_istio *ca = container_of(base, struct ca_istio, base);
	struct job *j = xcalloc(1, sizeof(*j));

	list_init(&j->node);
	j->spiffe = xstrdup(spiffe);
	j->done = done;
	j->ctx = ctx;
	j->ch = channel_for(ca, &j->err);
	if (j->ch == NULL || ca_csr_new(&j->csr, spiffe, &j->err) != 0) {
		finish(j);
		return;
	}
	loop_timer_cancel(&j->ch->idle);
	list_append(&j->ch->jobs, &j->node);
	if (j->ch->up && start(j) != 0)
		finish(j);
}

static void istio_free(struct ca *base)
{
	struct ca_istio *ca = container_of(base, struct ca_istio, base);

	while (!list_empty(&ca->channels)) {
		struct channel *ch = container_of(ca->channels.next, struct channel, node);

		while (!list_empty(&ch->jobs)) {
			struct job *j = container_of(ch->jobs.next, struct job, node);

			(void)err_set(&j->err, ECANCELED, "ztunnel is going");
			finish(j);
		}
		channel_free(ch);
	}
	free(ca);
}

static const struct ca_ops istio_ops = {.free = istio_free, .issue = istio_issue};

struct ca *ca_istio_new(struct loop *l, const struct istiod_config *cfg, uint64_t ttl_s)
{
	struct ca_istio *ca = xcalloc(1, sizeof(*ca));

	ca->base.ops = &istio_ops;
	ca->base.name = xasprintf("Istio CA (%s:%u)", cfg->host, cfg->port);
	ca->loop = l;
	ca->cfg = cfg;
	ca->ttl_s = ttl_s;
	list_init(&ca->channels);
	return &ca->base;
}
