/* SPDX-License-Identifier: Apache-2.0
 * fuzz_h2.h: one end of an HTTP/2 connection that records what it is told, for both fuzz targets.
 */
#pragma once
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/limits.h"
#include "lib/wire/h2.h"

#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

struct side {
	struct h2 *h;
	uint64_t trace; /* hash of every callback, in order; DATA by byte, so that cuts do not count
			 */
	size_t data, live, heads;
	struct h2_out out;
	uint8_t buf[1 << 20];
};

static void note(struct side *s, uint64_t v)
{
	s->trace = (s->trace ^ v) * 0x100000001b3ull;
}

static void on_head(void *ctx, int32_t id, void *user, const struct h2_head *h)
{
	static const struct h2_field ok = {{":status", 7}, {"200", 3}};
	struct side *s = ctx;
	size_t bytes = 0;

	for (size_t i = 0; i < h->nfields; i++)
		bytes += h->field[i].name.n + h->field[i].value.n;
	MUST(h->nfields <= LIMIT_H2_FIELDS && bytes <= LIMIT_H2_HEADER_LIST_BYTES);
	note(s, 1000 + (uint64_t)id + bytes);
	s->heads++;
	if (user != NULL)
		return;
	s->live++;
	h2_set_user(s->h, id, s);
	MUST(h2_respond(s->h, id, &ok, 1, id % 3 == 0) == 0);
}

static void on_data(void *ctx, int32_t id, void *user, const uint8_t *p, size_t n)
{
	struct side *s = ctx;

	MUST(user == s);
	for (size_t i = 0; i < n; i++)
		note(s, 2000 + p[i] + (uint64_t)id * 256);
	s->data += n;
	h2_consume(s->h, id, n);
}

static void on_end(void *ctx, int32_t id, void *user)
{
	struct side *s = ctx;

	MUST(user == s);
	note(s, 3000 + (uint64_t)id);
}

static void on_closed(void *ctx, int32_t id, void *user, uint32_t code)
{
	struct side *s = ctx;

	MUST(user == s && s->live != 0);
	s->live--;
	note(s, 4000 + (uint64_t)id + code);
	h2_charge(s->h);
}

static ssize_t on_pull(void *ctx, int32_t id, void *user, uint8_t *p, size_t cap, bool *eof)
{
	(void)ctx;
	(void)id;
	(void)user;
	MUST(cap != 0);
	*p = 'x';
	*eof = id % 5 == 0;
	return 1;
}

static void on_want(void *ctx, int32_t id, void *user)
{
	(void)ctx;
	(void)id;
	(void)user;
}

static void on_pong(void *ctx)
{
	note(ctx, 5000);
}

static void on_goaway(void *ctx, uint32_t code)
{
	note(ctx, 6000 + code);
}

static const struct h2_ops fuzz_ops = {.head = on_head,
				       .data = on_data,
				       .end = on_end,
				       .closed = on_closed,
				       .pull = on_pull,
				       .want = on_want,
				       .pong = on_pong,
				       .goaway = on_goaway};

static struct side *side_new(bool server)
{
	struct h2_config cfg = {.server = server,
				.stream_window = 1 << 16,
				.connection_window = 1 << 20,
				.max_frame_size = 1 << 20,
				.max_streams = server ? LIMIT_H2_STREAMS : 100};
	struct side *s = calloc(1, sizeof(*s));

	MUST(s != NULL);
	s->h = h2_new(&cfg, &fuzz_ops, s);
	MUST(s->h != NULL);
	s->out = (struct h2_out){s->buf, 0, sizeof(s->buf)};
	return s;
}

static void side_free(struct side *s)
{
	h2_free(s->h);
	free(s);
}

/* Feeds everything, @step bytes at a time. What is sent back is dropped, and never more than a
 * fixed amount for what came in. */
static int feed(struct side *s, const uint8_t *p, size_t n, size_t step)
{
	int r = 0;

	for (size_t at = 0; at < n && r == 0; at += step)
		r = h2_recv(s->h, p + at, n - at < step ? n - at : step, 1000);
	if (h2_send(s->h, &s->out) == 0 && r == 0)
		for (int32_t id = 1; id < 9; id++)
			(void)!h2_send_stream(s->h, id, &s->out, 10, 5);
	MUST(s->out.n <= 65536 + 64 * n);
	return r;
}
