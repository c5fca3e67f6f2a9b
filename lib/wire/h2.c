/* SPDX-License-Identifier: Apache-2.0
 * h2.c: see h2.h. All calls of nghttp2 of the data path are here and in h2_send.c.
 */
#include "lib/wire/h2.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/limits.h"
#include "lib/wire/h2_internal.h"

#define TINY_CREDIT 256 /* a WINDOW_UPDATE below this counts as cheap */

char h2_detached; /* user of a stream that the caller gave up */

static nghttp2_session_callbacks *callbacks;
static nghttp2_option *options;
static pthread_once_t once = PTHREAD_ONCE_INIT;

struct str h2_head_get(const struct h2_head *h, const char *name)
{
	for (size_t i = 0; i < h->nfields; i++)
		if (str_eqc(h->field[i].name, name))
			return h->field[i].value;
	return (struct str){NULL, 0};
}

static bool bucket_take(struct h2_bucket *b, uint64_t now_ms, uint32_t burst, uint32_t per_sec)
{
	uint64_t gained = (now_ms - b->since_ms) * per_sec / 1000;

	if (gained != 0) {
		b->used = gained >= b->used ? 0 : b->used - (uint32_t)gained;
		b->since_ms = now_ms;
	}
	if (b->used >= burst)
		return false;
	b->used++;
	return true;
}

static void calm(struct h2 *h)
{
	if (h->calmed)
		return;
	h->calmed = true;
	h->error = "http2 flood: ENHANCE_YOUR_CALM";
	h2_terminate(h, H2_ENHANCE_YOUR_CALM);
}

void h2_charge(struct h2 *h)
{
	if (!bucket_take(&h->resets, h->now_ms, LIMIT_H2_RESETS_BURST, LIMIT_H2_RESETS_PER_SEC))
		calm(h);
}

static void charge_cheap(struct h2 *h)
{
	if (!bucket_take(&h->cheap, h->now_ms, LIMIT_H2_CHEAP_BURST, LIMIT_H2_CHEAP_PER_SEC))
		calm(h);
}

/* ---- header blocks: one at a time per connection (RFC 9113 4.3) ---- */

static void block_drop(struct h2 *h)
{
	free(h->block);
	h->block = NULL;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;

	(void)ng;
	(void)frame;
	block_drop(h);
	h->block = malloc(sizeof(*h->block)); /* 10 KiB: not worth clearing */
	if (h->block == NULL)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	h->block->used = h->block->head.nfields = 0;
	return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
		     size_t namelen, const uint8_t *value, size_t valuelen, uint8_t flags,
		     void *arg)
{
	struct h2 *h = arg;
	struct h2_block *b = h->block;
	struct h2_field *f;

	(void)ng;
	(void)frame;
	(void)flags;
	if (b == NULL || b->head.nfields == LIMIT_H2_FIELDS ||
	    sizeof(b->text) - b->used < namelen + valuelen)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets this stream */
	f = &b->head.field[b->head.nfields++];
	f->name = (struct str){memcpy(b->text + b->used, name, namelen), namelen};
	b->used += namelen;
	f->value = (struct str){memcpy(b->text + b->used, value, valuelen), valuelen};
	b->used += valuelen;
	return 0;
}

void *h2_user(const struct h2 *h, int32_t id)
{
	void *user = nghttp2_session_get_stream_user_data(h->ng, id);

	return user == &h2_detached ? NULL : user;
}

static void head_done(struct h2 *h, const nghttp2_frame *frame)
{
	bool wanted = frame->headers.cat == NGHTTP2_HCAT_REQUEST ||
		      frame->headers.cat == NGHTTP2_HCAT_RESPONSE;
	int32_t id = frame->hd.stream_id;
	void (*fn)(void *, int32_t, void *, const struct h2_head *) =
		wanted ? h->ops->head : h->ops->trailers;

	if (fn != NULL && h->block != NULL &&
	    nghttp2_session_get_stream_user_data(h->ng, id) != &h2_detached) {
		h->block->head.end_stream = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
		fn(h->ctx, id, h2_user(h, id), &h->block->head);
	}
	block_drop(h);
}

static void end_stream(struct h2 *h, const nghttp2_frame *frame)
{
	void *user = h2_user(h, frame->hd.stream_id);

	if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 && user != NULL)
		h->ops->end(h->ctx, frame->hd.stream_id, user);
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;

	(void)ng;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		head_done(h, frame);
		end_stream(h, frame);
		break;
	case NGHTTP2_DATA:
		/* padding is nothing as well */
		if (frame->hd.length <= frame->data.padlen &&
		    (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
			charge_cheap(h);
		end_stream(h, frame);
		break;
	case NGHTTP2_PING:
		charge_cheap(h); /* answers that nobody asked for too */
		if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0)
			h->ops->pong(h->ctx);
		break;
	case NGHTTP2_WINDOW_UPDATE:
		if (frame->window_update.window_size_increment < TINY_CREDIT)
			charge_cheap(h);
		break;
	case NGHTTP2_GOAWAY:
		h->ops->goaway(h->ctx, frame->goaway.error_code);
		break;
	case NGHTTP2_RST_STREAM:
		break; /* on_stream_close tells */
	default:       /* SETTINGS, PRIORITY, and what HBONE has no use for */
		charge_cheap(h);
	}
	return 0;
}

static int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
			 void *arg)
{
	struct h2 *h = arg;
	void *user = h2_user(h, id);

	(void)flags;
	(void)nghttp2_session_consume_connection(ng, n);
	if (user != NULL)
		h->ops->data(h->ctx, id, user, p, n);
	return 0;
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	struct h2 *h = arg;
	void *user = nghttp2_session_get_stream_user_data(ng, id);

	if (user == NULL && h->cfg.server)
		h2_charge(h); /* never reached the caller: bad or oversized headers */
	if (user != NULL && user != &h2_detached)
		h->ops->closed(h->ctx, id, user, code);
	return 0;
}

/* A stream that nghttp2 refuses by itself (over the limit, bad frame) costs a token as well. */
static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int lib_error,
			    void *arg)
{
	struct h2 *h = arg;

	(void)ng;
	(void)frame;
	if (h->error == NULL)
		h->error = nghttp2_strerror(lib_error);
	h2_charge(h);
	return 0;
}

static void make_shared(void)
{
	bug_on(nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&options) != 0);
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
	h2_send_callbacks(callbacks);
	nghttp2_option_set_no_auto_window_update(options, 1);
	nghttp2_option_set_no_closed_streams(options, 1);
	nghttp2_option_set_max_deflate_dynamic_table_size(options, 0);
	nghttp2_option_set_max_continuations(options, LIMIT_H2_CONTINUATIONS);
	nghttp2_option_set_max_settings(options, 32);
	/* resets of established tunnels are ordinary traffic; the others draw from our bucket */
	nghttp2_option_set_stream_reset_rate_limit(options, 1u << 31, 1u << 30);
}

static int submit_settings(struct h2 *h)
{
	nghttp2_settings_entry iv[6] = {
		{NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, h->cfg.stream_window},
		{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, h->cfg.max_frame_size},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_H2_HEADER_LIST_BYTES},
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	};

	if (h->cfg.server) /* a server must not send ENABLE_PUSH other than 0: leave it out */
		iv[4] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
						 h->cfg.max_streams};
	if (nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, iv, 5) != 0)
		return -ENOMEM;
	return nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0,
						     (int32_t)h->cfg.connection_window) == 0
		       ? 0
		       : -ENOMEM;
}

struct h2 *h2_new(const struct h2_config *cfg, const struct h2_ops *ops, void *ctx)
{
	struct h2 *h = calloc(1, sizeof(*h));
	int r;

	bug_on(pthread_once(&once, make_shared) != 0);
	if (h == NULL)
		return NULL;
	h->magic = H2_MAGIC;
	h->cfg = *cfg;
	h->ops = ops;
	h->ctx = ctx;
	r = cfg->server ? nghttp2_session_server_new2(&h->ng, callbacks, h, options)
			: nghttp2_session_client_new2(&h->ng, callbacks, h, options);
	if (r != 0 || submit_settings(h) < 0)
		return h2_free(h);
	return h;
}

struct h2 *h2_free(struct h2 *h)
{
	if (h == NULL)
		return NULL;
	OBJ_CHECK(h, H2_MAGIC);
	h->ops = &h2_no_ops; /* nghttp2 may close streams while it is torn down */
	nghttp2_session_del(h->ng);
	block_drop(h);
	h->magic = OBJ_DEAD;
	free(h);
	return NULL;
}

int h2_recv(struct h2 *h, const uint8_t *p, size_t n, uint64_t now_ms)
{
	ssize_t r;

	OBJ_CHECK(h, H2_MAGIC);
	h->now_ms = now_ms;
	if (h->failed)
		return -EPROTO;
	r = nghttp2_session_mem_recv(h->ng, p, n);
	if (r >= 0 && (size_t)r == n)
		return 0;
	h->failed = true;
	if (h->error == NULL)
		h->error = r < 0 ? nghttp2_strerror((int)r) : "input was not taken";
	return -EPROTO;
}

void h2_set_stream_window(struct h2 *h, uint32_t bytes)
{
	nghttp2_settings_entry iv = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, bytes};

	(void)nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, &iv, 1);
}

void h2_consume(struct h2 *h, int32_t id, size_t n)
{
	(void)nghttp2_session_consume_stream(h->ng, id, n);
}

uint32_t h2_peer_max_streams(const struct h2 *h)
{
	uint32_t n =
		nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

	return n < h->cfg.max_streams ? n : h->cfg.max_streams;
}

bool h2_calmed(const struct h2 *h)
{
	return h->calmed;
}

const char *h2_error(const struct h2 *h)
{
	return h->error != NULL ? h->error : "connection closed";
}
