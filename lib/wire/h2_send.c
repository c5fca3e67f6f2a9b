/* SPDX-License-Identifier: Apache-2.0
 * h2_send.c: the sending half of h2.h.
 *
 * Every stream rests in nghttp2's "deferred" state. h2_send_stream() resumes one, lets nghttp2 pull
 * until the quantum is used, and then the read callback defers it again. A stream that nghttp2
 * wakes by itself (WINDOW_UPDATE) hits the same gate, is deferred, and `want` tells the caller:
 * nothing is ever sent outside the caller's schedule, and nothing is forgotten.
 */
#include <errno.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/wire/h2_internal.h"

#define FRAME_HEADER 9
#define FIELDS_MAX   32

static ssize_t on_send(nghttp2_session *ng, const uint8_t *p, size_t n, int flags, void *arg)
{
	struct h2 *h = arg;
	struct h2_out *o = h->out;

	(void)ng;
	(void)flags;
	if (o == NULL || o->cap - o->n < n)
		return NGHTTP2_ERR_WOULDBLOCK;
	memcpy(o->p + o->n, p, n);
	o->n += n;
	return (ssize_t)n;
}

static ssize_t frame_length(nghttp2_session *ng, uint8_t type, int32_t id, int32_t session_window,
			    int32_t stream_window, uint32_t max_frame, void *arg)
{
	struct h2 *h = arg;
	size_t n = max_frame < h->frame_max ? max_frame : h->frame_max;

	(void)ng;
	(void)type;
	(void)id;
	(void)session_window; /* nghttp2 applies both windows itself */
	(void)stream_window;
	return n != 0 ? (ssize_t)n : 1;
}

static ssize_t on_pull(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length,
		       uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct h2 *h = arg;
	struct h2_out *o = h->out;
	void *user = h2_user(h, id);
	bool eof = false;
	size_t room;
	ssize_t n;

	(void)ng;
	(void)buf;
	(void)source;
	if (user == NULL)
		return NGHTTP2_ERR_DEFERRED;
	room = o != NULL && o->cap - o->n > FRAME_HEADER ? o->cap - o->n - FRAME_HEADER : 0;
	if (id != h->current || h->quantum == 0 || room == 0) {
		h->ops->want(h->ctx, id, user);
		return NGHTTP2_ERR_DEFERRED;
	}
	if (length > room)
		length = room;
	n = h->ops->pull(h->ctx, id, user, o->p + o->n + FRAME_HEADER, length, &eof);
	if (n < 0)
		return NGHTTP2_ERR_DEFERRED; /* a dead one is dropped when its RST_STREAM goes out
					      */
	bug_on((size_t)n > length || (n == 0 && !eof));
	h->quantum = h->quantum > (size_t)n ? h->quantum - (size_t)n : 0;
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY | (eof ? NGHTTP2_DATA_FLAG_EOF : 0u);
	return n;
}

/* The payload is in place already; only the frame header is missing. */
static int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *framehd,
			size_t length, nghttp2_data_source *source, void *arg)
{
	struct h2 *h = arg;

	(void)ng;
	(void)source;
	bug_on(frame->data.padlen != 0);
	memcpy(h->out->p + h->out->n, framehd, FRAME_HEADER);
	h->out->n += FRAME_HEADER + length;
	return 0;
}

/* A final answer while the request is still open: tell the peer that nothing more is wanted. Not
 * earlier: a queued RST_STREAM would overtake the queued HEADERS. */
static int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;

	if (h->cfg.server && frame->hd.type == NGHTTP2_HEADERS &&
	    (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
	    nghttp2_session_get_stream_remote_close(ng, frame->hd.stream_id) == 0)
		(void)nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
						NGHTTP2_NO_ERROR);
	return 0;
}

void h2_send_callbacks(nghttp2_session_callbacks *cb)
{
	nghttp2_session_callbacks_set_send_callback(cb, on_send);
	nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_length);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
}

static int run(struct h2 *h, struct h2_out *out)
{
	int r;

	h->out = out;
	r = nghttp2_session_send(h->ng);
	h->out = NULL;
	h->current = 0;
	if (r == 0)
		return 0;
	h->failed = true;
	if (h->error == NULL)
		h->error = nghttp2_strerror(r);
	return r == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
}

int h2_send(struct h2 *h, struct h2_out *out)
{
	OBJ_CHECK(h, H2_MAGIC);
	h->current = 0;
	return run(h, out);
}

int h2_send_stream(struct h2 *h, int32_t id, struct h2_out *out, size_t quantum, size_t frame_max)
{
	OBJ_CHECK(h, H2_MAGIC);
	h->current = id;
	h->quantum = quantum;
	h->frame_max = frame_max;
	/* not deferred: blocked by the window, or active already; both come back to on_pull() */
	(void)nghttp2_session_resume_data(h->ng, id);
	return run(h, out);
}

bool h2_want_send(const struct h2 *h)
{
	return nghttp2_session_want_write(h->ng) != 0;
}

bool h2_done(const struct h2 *h)
{
	return h->failed ||
	       (nghttp2_session_want_read(h->ng) == 0 && nghttp2_session_want_write(h->ng) == 0);
}

static size_t to_nv(nghttp2_nv *nv, const struct h2_field *f, size_t n)
{
	bug_on(n > FIELDS_MAX);
	for (size_t i = 0; i < n; i++)
		nv[i] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)f[i].name.p,
				     .value = (uint8_t *)(uintptr_t)f[i].value.p,
				     .namelen = f[i].name.n,
				     .valuelen = f[i].value.n};
	return n;
}

int32_t h2_request(struct h2 *h, const struct h2_field *f, size_t n, void *user)
{
	nghttp2_data_provider source = {.read_callback = on_pull};
	nghttp2_nv nv[FIELDS_MAX];
	int32_t id;

	OBJ_CHECK(h, H2_MAGIC);
	id = nghttp2_submit_request(h->ng, NULL, nv, to_nv(nv, f, n), &source, user);
	return id > 0 ? id : id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -ECONNABORTED;
}

int h2_respond(struct h2 *h, int32_t id, const struct h2_field *f, size_t n, bool end)
{
	nghttp2_data_provider source = {.read_callback = on_pull};
	nghttp2_nv nv[FIELDS_MAX];

	OBJ_CHECK(h, H2_MAGIC);
	return nghttp2_submit_response(h->ng, id, nv, to_nv(nv, f, n), end ? NULL : &source) == 0
		       ? 0
		       : -ENOMEM;
}

void h2_set_user(struct h2 *h, int32_t id, void *user)
{
	(void)nghttp2_session_set_stream_user_data(h->ng, id, user);
}

void h2_detach(struct h2 *h, int32_t id)
{
	h2_set_user(h, id, &h2_detached);
}

void h2_reset(struct h2 *h, int32_t id, uint32_t code)
{
	h2_detach(h, id);
	(void)nghttp2_submit_rst_stream(h->ng, NGHTTP2_FLAG_NONE, id, code);
}

int32_t h2_send_window(const struct h2 *h, int32_t id)
{
	int32_t s = nghttp2_session_get_stream_remote_window_size(h->ng, id);
	int32_t c = nghttp2_session_get_remote_window_size(h->ng);

	return s < c ? s : c;
}

void h2_ping(struct h2 *h)
{
	(void)nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, NULL);
}

void h2_shutdown(struct h2 *h, bool final)
{
	if (final)
		(void)nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE,
					    nghttp2_session_get_last_proc_stream_id(h->ng),
					    NGHTTP2_NO_ERROR, NULL, 0);
	else
		(void)nghttp2_submit_shutdown_notice(h->ng);
}

void h2_terminate(struct h2 *h, uint32_t code)
{
	(void)nghttp2_session_terminate_session(h->ng, code);
}

static void no_head(void *c, int32_t i, void *u, const struct h2_head *h)
{
	(void)c, (void)i, (void)u, (void)h;
}
static void no_data(void *c, int32_t i, void *u, const uint8_t *p, size_t n)
{
	(void)c, (void)i, (void)u, (void)p, (void)n;
}
static void no_stream(void *c, int32_t i, void *u)
{
	(void)c, (void)i, (void)u;
}
static void no_closed(void *c, int32_t i, void *u, uint32_t code)
{
	(void)c, (void)i, (void)u, (void)code;
}
static ssize_t no_pull(void *c, int32_t i, void *u, uint8_t *p, size_t n, bool *eof)
{
	(void)c, (void)i, (void)u, (void)p, (void)n, (void)eof;
	return H2_PULL_NOTHING;
}
static void no_event(void *c)
{
	(void)c;
}
static void no_goaway(void *c, uint32_t code)
{
	(void)c, (void)code;
}
const struct h2_ops h2_no_ops = {
	.head = no_head,
	.data = no_data,
	.end = no_stream,
	.closed = no_closed,
	.pull = no_pull,
	.want = no_stream,
	.pong = no_event,
	.goaway = no_goaway,
};
