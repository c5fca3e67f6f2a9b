/* SPDX-License-Identifier: Apache-2.0
 * grpc.c: see grpc.h.
 */
#include "lib/wire/grpc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

static struct grpc_call *of(struct https_req *r)
{
	return container_of(r, struct grpc_call, req);
}

static void drop(struct grpc_call *c)
{
	c->live = c->held = false;
	grpc_reader_fini(&c->in);
	strbuf_fini(&c->kept);
}

static _printf_(3, 4) void settle(struct grpc_call *c, enum grpc_code code, const char *fmt, ...)
{
	char text[sizeof(c->why) - 32];
	va_list ap;

	if (c->have_status)
		return; /* the first one counts */
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->have_status = true;
	c->code = code;
	(void)snprintf(c->why, sizeof(c->why), "%s%s%s", grpc_code_name(code),
		       text[0] != '\0' ? ": " : "", text);
	if (code == GRPC_OK)
		c->why[0] = '\0';
}

static void finish(struct grpc_call *c)
{
	if (c->code == GRPC_OK && grpc_reader_partial(&c->in)) {
		c->have_status = false;
		settle(c, GRPC_INTERNAL, "the stream ended in the middle of a message");
	} else if (c->code == GRPC_OK && c->unary && !c->got_message) {
		c->have_status = false;
		settle(c, GRPC_INTERNAL, "the server says OK without an answer");
	}
	drop(c);
	c->ops->end(c, c->code, c->why);
}

/* We give up on the stream by ourselves. */
static void fail(struct grpc_call *c, enum grpc_code code, const char *why)
{
	settle(c, code, "%s", why);
	https_req_cancel(&c->req);
	drop(c);
	c->ops->end(c, c->code, c->why);
}

/* False: the call is over, or may be gone. */
static bool one_message(struct grpc_call *c, struct str m)
{
	if (c->unary && c->got_message) {
		fail(c, GRPC_INTERNAL, "more than one answer to one question");
		return false;
	}
	c->got_message = true;
	c->ops->message(c, m);
	return c->live;
}

/* Cuts @in into messages until one is held; the rest is kept. False: the call is over, and may be
 * gone. */
static bool feed(struct grpc_call *c, struct str in)
{
	struct err err = {0};
	struct str m;
	int r;

	c->feeding = true;
	while (!c->held) {
		r = grpc_reader_take(&c->in, &in, &m, &err);
		if (r == 0)
			break;
		if (r < 0) {
			fail(c, r == -EPROTO ? GRPC_INTERNAL : GRPC_RESOURCE_EXHAUSTED, err.msg);
			return false;
		}
		if (!one_message(c, m))
			return false;
	}
	c->feeding = false;
	if (in.n != 0)
		strbuf_add(&c->kept, in.p, in.n);
	else if (!c->held && !grpc_reader_partial(&c->in))
		grpc_reader_fini(&c->in); /* an idle stream keeps no buffer */
	return true;
}

static void give_credit(struct grpc_call *c)
{
	size_t n = c->owed;

	c->owed = 0;
	if (n != 0)
		https_req_consume(&c->req, n);
}

static void on_data(struct https_req *r, const uint8_t *p, size_t n)
{
	struct grpc_call *c = of(r);

	c->owed += n;
	if (c->have_status) { /* the page of some proxy, say: nobody reads it */
		give_credit(c);
		return;
	}
	if (c->held) {
		strbuf_add(&c->kept, p, n);
		return;
	}
	if (feed(c, (struct str){(const char *)p, n}) && !c->held)
		give_credit(c);
}

static void take_status(struct grpc_call *c, const struct h2_head *h)
{
	struct str code = h2_head_get(h, "grpc-status");
	char text[160];

	if (code.p == NULL)
		return;
	settle(c, grpc_code_parse(code), "%s",
	       grpc_message_decode(h2_head_get(h, "grpc-message"), text, sizeof(text)));
}

static void on_head(struct https_req *r, unsigned int status, const struct h2_head *h)
{
	struct grpc_call *c = of(r);
	struct str type = h2_head_get(h, "content-type");

	take_status(c, h); /* an answer of trailers only */
	if (status != 200) {
		settle(c, grpc_code_of_http(status), "HTTP status %u", status);
	} else if (!str_has_prefix(type, STR("application/grpc"))) {
		settle(c, GRPC_UNKNOWN, "the answer is no gRPC (content-type %s)", str_shown(type));
	}
}

static void on_trailers(struct https_req *r, const struct h2_head *h)
{
	take_status(of(r), h);
}

static void on_end(struct https_req *r, const struct err *why)
{
	struct grpc_call *c = of(r);

	if (why != NULL)
		settle(c,
		       why->code == ETIMEDOUT && c->req.status == 0 && !c->got_message
			       ? GRPC_DEADLINE_EXCEEDED
			       : GRPC_UNAVAILABLE,
		       "%s", why->msg);
	else
		settle(c, GRPC_UNKNOWN, "the stream ended without a gRPC status");
	c->ended = true;
	if (!c->held && !c->feeding)
		finish(c);
}

static const struct https_req_ops req_ops = {
	.head = on_head,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
};

int grpc_call_start(struct grpc_call *c, struct https_client *client,
		    const struct grpc_call_config *cfg, const struct grpc_ops *ops, struct err *err)
{
	struct h2_field f[4 + GRPC_FIELDS_MAX] = {
		{STR("content-type"), STR("application/grpc")},
		{STR("te"), STR("trailers")},
		{STR("user-agent"), STR("ambient-ztunnel/" VERSION)},
	};
	char timeout[16];
	size_t n = 3;
	struct https_call call = {.method = "POST",
				  .path = cfg->method,
				  .field = f,
				  .open = true,
				  .manual = true,
				  .max_unsent = cfg->max_unsent,
				  .deadline_ms = cfg->deadline_ms};
	int r;

	bug_on(c->live || cfg->nfields > GRPC_FIELDS_MAX || cfg->deadline_ms > 99999999);
	if (cfg->deadline_ms != 0) {
		(void)snprintf(timeout, sizeof(timeout), "%um", (unsigned int)cfg->deadline_ms);
		f[n++] = (struct h2_field){STR("grpc-timeout"), str_of(timeout)};
	}
	for (size_t i = 0; i < cfg->nfields; i++)
		f[n++] = cfg->field[i];
	call.nfields = n;
	*c = (struct grpc_call){.ops = ops, .unary = cfg->unary, .in.max = cfg->max_message};
	r = https_request(client, &c->req, &call, &req_ops, err);
	c->live = r == 0;
	return r;
}

int grpc_send(struct grpc_call *c, const void *p, size_t n, bool last)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (!c->live || c->ended)
		return -ENOTCONN;
	grpc_frame_add(&b, p, n);
	return https_req_send(&c->req, b.p, b.n, last);
}

void grpc_hold(struct grpc_call *c)
{
	bug_on(!c->feeding);
	c->held = true;
}

void grpc_release(struct grpc_call *c)
{
	struct strbuf kept;
	bool over;

	if (!c->live || !c->held)
		return;
	c->held = false;
	kept = c->kept;
	c->kept = (struct strbuf){0};
	over = !feed(c, (struct str){kept.p, kept.n});
	strbuf_fini(&kept);
	if (over || c->held)
		return;
	if (c->ended)
		finish(c);
	else
		give_credit(c);
}

void grpc_cancel(struct grpc_call *c)
{
	if (!c->live)
		return;
	if (!c->ended)
		https_req_cancel(&c->req);
	drop(c);
}

size_t grpc_partial(const struct grpc_call *c)
{
	return grpc_reader_partial(&c->in) ? c->in.nprefix + c->in.n : 0;
}
