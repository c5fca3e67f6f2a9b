/* SPDX-License-Identifier: Apache-2.0
 * https_request.c: requests on a connection: HTTP/2 streams seen from the caller's side.
 */
#include <errno.h>
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/wire/https_internal.h"

static void unlink_req(struct https_req *r)
{
	r->client->nreqs--;
	r->client = NULL;
	list_remove(&r->node);
	list_remove(&r->ready);
	loop_timer_cancel(&r->deadline);
	strbuf_fini(&r->body);
}

static void finish(struct https_req *r, const struct err *why)
{
	unlink_req(r);
	r->ops->end(r, why); /* may free it */
}

void https_req_cancel(struct https_req *r)
{
	struct https_client *c = r->client;

	if (c == NULL)
		return;
	OBJ_CHECK(c, HTTPS_MAGIC);
	if (c->state == HTTPS_UP)
		h2_reset(c->h2, r->id, H2_CANCEL);
	unlink_req(r);
	https_flush_soon(c);
}

void https_reqs_forget(struct https_client *c)
{
	while (!list_empty(&c->reqs)) {
		struct https_req *r = container_of(c->reqs.next, struct https_req, node);

		h2_detach(c->h2, r->id);
		unlink_req(r);
	}
}

void https_reqs_fail(struct https_client *c, const struct err *why)
{
	while (!list_empty(&c->reqs)) {
		struct https_req *r = container_of(c->reqs.next, struct https_req, node);

		h2_detach(c->h2, r->id);
		finish(r, why);
	}
}

static void on_deadline(struct timer *t)
{
	struct https_req *r = container_of(t, struct https_req, deadline);
	struct https_client *c = r->client;
	struct err err = {0};

	OBJ_CHECK(c, HTTPS_MAGIC);
	(void)err_set(&err, ETIMEDOUT, "no complete answer in time");
	h2_reset(c->h2, r->id, H2_CANCEL);
	https_flush_soon(c);
	finish(r, &err);
}

/* ---- what HTTP/2 tells ---- */

static void on_head(void *ctx, int32_t id, void *user, const struct h2_head *h)
{
	struct https_req *r = user;
	struct https_client *c = ctx;
	struct err err = {0};
	uint32_t status;

	(void)id;
	if (r == NULL)
		return;
	if (parse_u32(h2_head_get(h, ":status"), 100, 999, &status) < 0) {
		(void)err_set(&err, EPROTO, "answer without a status");
		h2_reset(c->h2, r->id, H2_PROTOCOL_ERROR);
		finish(r, &err);
		return;
	}
	if (status < 200) /* informational: the real one follows */
		return;
	r->status = status;
	r->ops->head(r, status, h);
}

static void on_trailers(void *ctx, int32_t id, void *user, const struct h2_head *h)
{
	struct https_req *r = user;

	if (r == NULL)
		return;
	if (r->status == 0)
		on_head(ctx, id, user, h);
	else if (r->ops->trailers != NULL)
		r->ops->trailers(r, h);
}

static void on_data(void *ctx, int32_t id, void *user, const uint8_t *p, size_t n)
{
	struct https_client *c = ctx;
	struct https_req *r = user;

	if (r == NULL)
		return;
	if (r->manual)
		r->unconsumed += n;
	else
		h2_consume(c->h2, id, n);
	r->ops->data(r, p, n);
}

static void on_end(void *ctx, int32_t id, void *user)
{
	struct https_client *c = ctx;
	struct https_req *r = user;
	bool all_sent;
	struct err err = {0};

	if (r == NULL)
		return;
	all_sent = r->body_done;
	h2_detach(c->h2, id);
	if (!all_sent)
		h2_reset(c->h2, id, H2_NO_ERROR); /* the server wants no more of it */
	if (r->status != 0) {
		finish(r, NULL);
		return;
	}
	(void)err_set(&err, EPROTO, "the server ended the stream without an answer");
	finish(r, &err);
}

static void on_closed(void *ctx, int32_t id, void *user, uint32_t code)
{
	struct https_req *r = user;
	struct err err = {0};

	(void)ctx;
	(void)id;
	if (r == NULL)
		return;
	(void)err_set(&err, code == H2_REFUSED_STREAM ? EAGAIN : ECONNRESET,
		      "the server reset the stream (HTTP/2 error %u)", code);
	finish(r, &err);
}

static ssize_t on_pull(void *ctx, int32_t id, void *user, uint8_t *p, size_t cap, bool *eof)
{
	struct https_req *r = user;
	size_t n = r->body.n - r->body_sent;

	(void)ctx;
	(void)id;
	if (n == 0 && !r->ended)
		return H2_PULL_NOTHING;
	if (n > cap)
		n = cap;
	if (n != 0)
		memcpy(p, r->body.p + r->body_sent, n);
	r->body_sent += n;
	if (r->body_sent == r->body.n) {
		strbuf_fini(&r->body);
		r->body_sent = 0;
		*eof = r->body_done = r->ended;
	}
	return (ssize_t)n;
}

static void on_want(void *ctx, int32_t id, void *user)
{
	struct https_client *c = ctx;
	struct https_req *r = user;

	(void)id;
	if (r != NULL && !list_linked(&r->ready))
		list_append(&c->ready, &r->ready);
}

static void on_pong(void *ctx)
{
	(void)ctx; /* any received byte counts as life */
}

static void on_goaway(void *ctx, uint32_t code)
{
	struct https_client *c = ctx;

	(void)code;
	c->draining = true;
}

const struct h2_ops https_h2_ops = {
	.head = on_head,
	.data = on_data,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.want = on_want,
	.pong = on_pong,
	.goaway = on_goaway,
	.trailers = on_trailers,
};

/* ---- what the caller asks ---- */

int https_request(struct https_client *c, struct https_req *r, const struct https_call *call,
		  const struct https_req_ops *ops, struct err *err)
{
	struct h2_field f[4 + HTTPS_FIELDS_MAX] = {
		{STR(":method"), str_of(call->method)},
		{STR(":scheme"), STR("https")},
		{STR(":authority"), str_of(c != NULL ? c->authority : "")},
		{STR(":path"), str_of(call->path)},
	};

	bug_on(r->client != NULL || call->nfields > HTTPS_FIELDS_MAX);
	if (!https_client_usable(c))
		return err_set(err, ENOTCONN, "not connected");
	if (c->nreqs >= h2_peer_max_streams(c->h2))
		return err_set(err, EAGAIN, "%u requests are under way, the server takes no more",
			       c->nreqs);
	for (size_t i = 0; i < call->nfields; i++)
		f[4 + i] = call->field[i];
	*r = (struct https_req){.ops = ops, .manual = call->manual, .ended = !call->open};
	r->max_unsent = call->max_unsent != 0 ? call->max_unsent : LIMIT_HTTPS_UNSENT_BYTES;
	r->id = h2_request(c->h2, f, 4 + call->nfields, r);
	if (r->id < 0)
		return err_errno(err, -r->id, "new HTTP/2 stream");
	r->client = c;
	c->nreqs++;
	list_append(&c->reqs, &r->node);
	strbuf_str(&r->body, call->body);
	if (call->deadline_ms != 0)
		loop_timer_set(c->loop, &r->deadline, call->deadline_ms, on_deadline);
	https_flush_soon(c);
	return 0;
}

int https_req_send(struct https_req *r, const void *p, size_t n, bool last)
{
	struct https_client *c = r->client;

	if (c == NULL || r->ended)
		return -ENOTCONN;
	if (r->body.n - r->body_sent + n > r->max_unsent)
		return -ENOBUFS;
	strbuf_add(&r->body, p, n);
	r->ended = last;
	if (!list_linked(&r->ready))
		list_append(&c->ready, &r->ready);
	https_flush_soon(c);
	return 0;
}

void https_req_consume(struct https_req *r, size_t n)
{
	if (r->client == NULL)
		return;
	bug_on(n > r->unconsumed);
	r->unconsumed -= n;
	h2_consume(r->client->h2, r->id, n);
	https_flush_soon(r->client);
}
