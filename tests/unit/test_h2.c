/* SPDX-License-Identifier: Apache-2.0
 * test_h2.c: both roles in memory; floods as raw frames.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/attr.h"
#include "lib/base/limits.h"
#include "lib/wire/h2.h"

/* One end and all that happened to it. */
struct end {
	struct h2 *h;
	struct h2_out out;
	uint8_t buf[4 << 20];
	char head[256];
	uint8_t got[1 << 20];
	size_t ngot, chunks;
	unsigned int heads, ends, closes, wants, goaways;
	uint32_t code;
	int32_t id;
	const uint8_t *send; /* what pull() hands out */
	size_t nsend;
	bool eof, refuse;
	size_t pulls;
};

static void on_head(void *ctx, int32_t id, void *user, const struct h2_head *head)
{
	struct end *e = ctx;
	struct str a = h2_head_get(head, ":authority"), s = h2_head_get(head, ":status");

	e->heads++;
	e->id = id;
	snprintf(e->head, sizeof(e->head), "%.*s%.*s %zu%s", STR_FMT(a), STR_FMT(s), head->nfields,
		 head->end_stream ? " end" : "");
	if (user == NULL && !e->refuse)
		h2_set_user(e->h, id, e);
}

static void on_data(void *ctx, int32_t id, void *user, const uint8_t *p, size_t n)
{
	struct end *e = ctx;

	(void)id;
	assert_ptr_equal(user, e);
	assert_true(e->ngot + n <= sizeof(e->got));
	memcpy(e->got + e->ngot, p, n);
	e->ngot += n;
	e->chunks++;
}

static void on_end(void *ctx, int32_t id, void *user)
{
	struct end *e = ctx;

	(void)id;
	assert_ptr_equal(user, e);
	e->ends++;
}

static void on_closed(void *ctx, int32_t id, void *user, uint32_t code)
{
	struct end *e = ctx;

	(void)id;
	(void)user;
	e->closes++;
	e->code = code;
}

static ssize_t on_pull(void *ctx, int32_t id, void *user, uint8_t *p, size_t cap, bool *eof)
{
	struct end *e = ctx;
	size_t n = e->nsend < cap ? e->nsend : cap;

	(void)id;
	(void)user;
	e->pulls++;
	memcpy(p, e->send, n);
	e->send += n;
	e->nsend -= n;
	*eof = e->eof && e->nsend == 0;
	return n != 0 || *eof ? (ssize_t)n : H2_PULL_NOTHING;
}

static void on_want(void *ctx, int32_t id, void *user)
{
	struct end *e = ctx;

	(void)id;
	(void)user;
	e->wants++;
}

static void on_pong(void *ctx)
{
	(void)ctx;
}

static void on_goaway(void *ctx, uint32_t code)
{
	struct end *e = ctx;

	e->goaways++;
	e->code = code;
}

static const struct h2_ops ops = {.head = on_head,
				  .data = on_data,
				  .end = on_end,
				  .closed = on_closed,
				  .pull = on_pull,
				  .want = on_want,
				  .pong = on_pong,
				  .goaway = on_goaway};

static struct end *end_new(bool server)
{
	struct h2_config cfg = {.server = server,
				.stream_window = 4 << 20,
				.connection_window = 16 << 20,
				.max_frame_size = 1 << 20,
				.max_streams = server ? LIMIT_H2_STREAMS : 100};
	struct end *e = calloc(1, sizeof(*e));

	e->h = h2_new(&cfg, &ops, e);
	assert_non_null(e->h);
	e->out = (struct h2_out){e->buf, 0, sizeof(e->buf)};
	return e;
}

static void end_free(struct end *e)
{
	h2_free(e->h);
	free(e);
}

/* What @from has to say goes to @to, @step bytes at a time (0: all). */
static int carry(struct end *from, struct end *to, size_t step)
{
	size_t n = from->out.n;
	int r = h2_send(from->h, &from->out);

	if (r < 0)
		return r;
	n = from->out.n;
	for (size_t at = 0; at < n && r == 0; at += step != 0 ? step : n) {
		size_t k = step != 0 && n - at > step ? step : n - at;

		r = h2_recv(to->h, from->buf + at, k, 1000);
	}
	from->out.n = 0;
	return r;
}

static const struct h2_field connect_fields[] = {
	{{":method", 7}, {"CONNECT", 7}},
	{{":authority", 10}, {"10.0.0.2:80", 11}},
	{{"baggage", 7}, {"k8s.cluster.name=c", 18}},
};
static const struct h2_field ok_fields[] = {{{":status", 7}, {"200", 3}}};

static void greet(struct end *c, struct end *s, size_t step)
{
	for (int i = 0; i < 3; i++) {
		assert_int_equal(carry(c, s, step), 0);
		assert_int_equal(carry(s, c, step), 0);
	}
}

static int32_t open_tunnel(struct end *c, struct end *s, size_t step)
{
	int32_t id = h2_request(c->h, connect_fields, ARRAY_LEN(connect_fields), c);

	assert_true(id > 0);
	assert_int_equal(carry(c, s, step), 0);
	assert_string_equal(s->head, "10.0.0.2:80 3");
	assert_int_equal(h2_respond(s->h, id, ok_fields, 1, false), 0);
	assert_int_equal(carry(s, c, step), 0);
	assert_string_equal(c->head, "200 1");
	return id;
}

static void send_bytes(struct end *e, int32_t id, const void *p, size_t n, bool eof)
{
	e->send = p;
	e->nsend = n;
	e->eof = eof;
	assert_int_equal(h2_send_stream(e->h, id, &e->out, 1 << 20, 256 << 10), 0);
}

/* The whole life of a tunnel, cut at every byte, must look the same as in one piece. */
static void tunnel__every_split(void **st)
{
	(void)st;
	for (size_t step = 0; step < 40; step++) {
		struct end *c = end_new(false), *s = end_new(true);
		int32_t id;

		greet(c, s, step);
		id = open_tunnel(c, s, step);
		send_bytes(c, id, "hello", 5, true);
		assert_int_equal(carry(c, s, step), 0);
		assert_int_equal(s->ngot, 5);
		assert_memory_equal(s->got, "hello", 5);
		assert_int_equal(s->ends, 1);
		assert_int_equal(s->closes, 0); /* half-closed only */
		send_bytes(s, id, "world!", 6, true);
		assert_int_equal(carry(s, c, step), 0);
		assert_memory_equal(c->got, "world!", 6);
		assert_int_equal(c->ends, 1);
		assert_int_equal(c->closes, 1);
		assert_int_equal(s->closes, 1);
		assert_int_equal(c->code, H2_NO_ERROR);
		end_free(c);
		end_free(s);
	}
}

static void tunnel__large_frame_and_quantum(void **st)
{
	struct end *c = end_new(false), *s = end_new(true);
	static uint8_t data[900000];
	int32_t id;

	(void)st;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 255);
	greet(c, s, 0);
	id = open_tunnel(c, s, 0);
	c->send = data;
	c->nsend = sizeof(data);
	assert_int_equal(h2_send_stream(c->h, id, &c->out, 300000, 256 << 10), 0);
	/* the quantum is looked at before each frame: at most one frame more than it */
	assert_in_range(c->out.n, 300000, 300000 + (256 << 10) + 64);
	while (c->nsend != 0)
		assert_int_equal(h2_send_stream(c->h, id, &c->out, 1 << 20, 256 << 10), 0);
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(s->ngot, sizeof(data));
	assert_memory_equal(s->got, data, sizeof(data));
	end_free(c);
	end_free(s);
}

/* A stream that nobody asked to send sends nothing. */
static void tunnel__schedule_is_the_callers(void **st)
{
	struct end *c = end_new(false), *s = end_new(true);
	int32_t a;

	(void)st;
	greet(c, s, 0);
	a = open_tunnel(c, s, 0);
	c->send = (const uint8_t *)"x";
	c->nsend = 1;
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(s->ngot, 0);
	assert_int_equal(c->pulls, 0);
	send_bytes(c, a, "x", 1, false);
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(s->ngot, 1);
	end_free(c);
	end_free(s);
}

/* Connection credit returns at arrival, stream credit at delivery. */
static void window__stalled_reader(void **st)
{
	struct end *c = end_new(false), *s = end_new(true);
	static uint8_t data[5 << 20];
	int32_t id, second;
	size_t sent;

	(void)st;
	greet(c, s, 0);
	id = open_tunnel(c, s, 0);
	second = open_tunnel(c, s, 0);
	c->send = data;
	c->nsend = sizeof(data);
	for (int i = 0; i < 40; i++) {
		s->ngot = 0; /* not consumed, only not kept by the test */
		assert_int_equal(h2_send_stream(c->h, id, &c->out, 512 << 10, 256 << 10), 0);
		assert_int_equal(carry(c, s, 0), 0);
		assert_int_equal(carry(s, c, 0), 0);
	}
	sent = sizeof(data) - c->nsend;
	assert_int_equal(sent, 4 << 20); /* exactly one stream window */
	assert_true(h2_send_window(c->h, id) <= 0);
	assert_true(h2_send_window(c->h, second) > 0); /* the other stream is not held up */
	c->wants = 0;
	h2_consume(s->h, id, 4 << 20);
	assert_int_equal(carry(s, c, 0), 0);
	assert_int_equal(carry(c, s, 0), 0);
	assert_true(c->wants != 0); /* and we are told that it may go on */
	end_free(c);
	end_free(s);
}

static void reset__behind_data(void **st)
{
	struct end *c = end_new(false), *s = end_new(true);
	int32_t id;

	(void)st;
	greet(c, s, 0);
	id = open_tunnel(c, s, 0);
	send_bytes(c, id, "last", 4, false);
	h2_reset(c->h, id, H2_CONNECT_ERROR);
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(s->ngot, 4);
	assert_int_equal(s->ends, 0);
	assert_int_equal(s->closes, 1);
	assert_int_equal(s->code, H2_CONNECT_ERROR);
	assert_int_equal(c->closes, 0); /* the one who resets is not told */
	end_free(c);
	end_free(s);
}

static void respond__refusal_ends_the_request(void **st)
{
	static const struct h2_field f[] = {{{":status", 7}, {"401", 3}}};
	struct end *c = end_new(false), *s = end_new(true);
	int32_t id;

	(void)st;
	greet(c, s, 0);
	id = h2_request(c->h, connect_fields, ARRAY_LEN(connect_fields), c);
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(h2_respond(s->h, id, f, 1, true), 0);
	assert_int_equal(carry(s, c, 0), 0);
	assert_int_equal(c->heads, 1);
	assert_string_equal(c->head, "401 1 end");
	assert_int_equal(c->closes, 1);
	assert_int_equal(s->closes, 1);
	end_free(c);
	end_free(s);
}

static void goaway__is_told(void **st)
{
	struct end *c = end_new(false), *s = end_new(true);

	(void)st;
	greet(c, s, 0);
	h2_shutdown(s->h, false);
	h2_shutdown(s->h, true);
	assert_int_equal(carry(s, c, 0), 0);
	assert_int_equal(c->goaways, 2);
	/* a request that came too late is not sent, and its owner hears of it */
	assert_true(h2_request(c->h, connect_fields, 3, c) > 0);
	assert_int_equal(carry(c, s, 0), 0);
	assert_int_equal(s->heads, 0);
	assert_int_equal(c->closes, 1);
	assert_int_not_equal(c->code, H2_NO_ERROR);
	end_free(c);
	end_free(s);
}

/* ---- raw frames at a server ---- */

static size_t frame(uint8_t *p, size_t len, uint8_t type, uint8_t flags, uint32_t id)
{
	p[0] = (uint8_t)(len >> 16);
	p[1] = (uint8_t)(len >> 8);
	p[2] = (uint8_t)len;
	p[3] = type;
	p[4] = flags;
	p[5] = (uint8_t)(id >> 24);
	p[6] = (uint8_t)(id >> 16);
	p[7] = (uint8_t)(id >> 8);
	p[8] = (uint8_t)id;
	return 9;
}

static struct end *raw_server(void)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	struct end *s = end_new(true);
	uint8_t f[9];

	frame(f, 0, 4, 0, 0);
	assert_int_equal(h2_recv(s->h, (const uint8_t *)preface, 24, 1000), 0);
	assert_int_equal(h2_recv(s->h, f, 9, 1000), 0);
	assert_int_equal(h2_send(s->h, &s->out), 0);
	s->out.n = 0;
	return s;
}

/* Literal header without indexing. */
static size_t literal(uint8_t *p, const char *name, const char *value, size_t nvalue)
{
	size_t n = 0, nn = strlen(name);

	p[n++] = 0x10;
	p[n++] = (uint8_t)nn;
	memcpy(p + n, name, nn);
	n += nn;
	if (nvalue < 127) {
		p[n++] = (uint8_t)nvalue;
	} else {
		size_t rest = nvalue - 127;

		p[n++] = 127;
		while (rest >= 128) {
			p[n++] = (uint8_t)(rest | 128);
			rest >>= 7;
		}
		p[n++] = (uint8_t)rest;
	}
	memcpy(p + n, value, nvalue);
	return n + nvalue;
}

static size_t connect_block(uint8_t *p)
{
	size_t n = literal(p, ":method", "CONNECT", 7);

	return n + literal(p + n, ":authority", "10.0.0.2:80", 11);
}

static void calmed_within(struct end *s, unsigned int limit, unsigned int used)
{
	if (used >= limit)
		fail_msg("not stopped after %u", used);
	assert_true(h2_calmed(s->h));
	assert_int_equal(h2_send(s->h, &s->out), 0); /* GOAWAY goes out */
	assert_true(h2_done(s->h));
	assert_string_equal(h2_error(s->h), "http2 flood: ENHANCE_YOUR_CALM");
}

/* A reset before the tunnel is established costs a token: the caller charges it. */
static void flood__rapid_reset(void **st)
{
	struct end *s = raw_server();
	uint8_t f[256];
	unsigned int i;

	(void)st;
	for (i = 0; i < 2000 && !h2_calmed(s->h); i++) {
		size_t n = connect_block(f + 9);

		frame(f, n, 1, 4, 2 * i + 1);
		n += 9;
		frame(f + n, 4, 3, 0, 2 * i + 1);
		memcpy(f + n + 9, "\0\0\0\10", 4);
		assert_int_equal(h2_recv(s->h, f, n + 13, 1000), 0);
		assert_int_equal(s->closes, i + 1);
		h2_charge(s->h);
	}
	calmed_within(s, LIMIT_H2_RESETS_BURST + 10, i);
	end_free(s);
}

/* Streams that make the server reset them (MadeYouReset) draw from the same bucket. */
static void flood__made_you_reset(void **st)
{
	struct end *s = raw_server();
	uint8_t f[256];
	unsigned int i;

	(void)st;
	for (i = 0; i < 2000 && !h2_calmed(s->h); i++) {
		size_t n = connect_block(f + 9);

		frame(f, n, 1, 4, 2 * i + 1);
		n += 9;
		/* a WINDOW_UPDATE over the maximum is an error of the stream */
		frame(f + n, 4, 8, 0, 2 * i + 1);
		memcpy(f + n + 9, "\x7f\xff\xff\xff", 4);
		s->refuse = true;
		assert_int_equal(h2_recv(s->h, f, n + 13, 1000), 0);
		assert_int_equal(h2_send(s->h, &s->out), 0);
		s->out.n = 0;
	}
	calmed_within(s, LIMIT_H2_RESETS_BURST + 10, i);
	end_free(s);
}

/* The header list is bounded while it is decoded; the stream is refused, not the connection. */
static void flood__header_bomb(void **st)
{
	struct end *s = raw_server();
	static uint8_t f[32768];
	static char value[9000];
	size_t n = connect_block(f + 9);

	(void)st;
	memset(value, 'a', sizeof(value));
	n += literal(f + 9 + n, "x-bomb", value, sizeof(value));
	frame(f, n, 1, 4, 1);
	assert_int_equal(h2_recv(s->h, f, n + 9, 1000), 0);
	assert_int_equal(s->heads, 0);
	assert_int_equal(h2_send(s->h, &s->out), 0);
	assert_int_equal(s->buf[3], 3); /* RST_STREAM */
	end_free(s);
}

static void flood__too_many_fields(void **st)
{
	struct end *s = raw_server();
	static uint8_t f[32768];
	size_t n = connect_block(f + 9);

	(void)st;
	for (int i = 0; i < LIMIT_H2_FIELDS; i++)
		n += literal(f + 9 + n, "x", "y", 1);
	frame(f, n, 1, 4, 1);
	assert_int_equal(h2_recv(s->h, f, n + 9, 1000), 0);
	assert_int_equal(s->heads, 0);
	end_free(s);
}

static void flood__continuation(void **st)
{
	struct end *s = raw_server();
	uint8_t f[64];
	size_t n = connect_block(f + 9);
	int r, i;

	(void)st;
	frame(f, n, 1, 0, 1); /* no END_HEADERS */
	r = h2_recv(s->h, f, n + 9, 1000);
	frame(f, 0, 9, 0, 1);
	for (i = 0; i < 1000 && r == 0; i++)
		r = h2_recv(s->h, f, 9, 1000);
	assert_int_equal(r, -EPROTO);
	assert_in_range(i, 1, LIMIT_H2_CONTINUATIONS + 2);
	end_free(s);
}

struct cheap {
	const char *name;
	uint8_t type, flags;
	size_t len;
	uint32_t id;
	uint8_t payload[8];
};
static const struct cheap cheap[] = {
	{"settings", 4, 0, 0, 0, {0}},
	{"ping", 6, 0, 8, 0, {0}},
	{"priority", 2, 0, 5, 3, {0, 0, 0, 0, 16}},
	{"tiny_window_update", 8, 0, 4, 0, {0, 0, 0, 1}},
	{"empty_data", 0, 0, 0, 1, {0}},
	{"padded_empty_data", 0, 8, 3, 1, {2}},
	{"ping_answer", 6, 1, 8, 0, {0}},
};

static void flood__cheap_frames(void **st)
{
	const struct cheap *c = *st;
	struct end *s = raw_server();
	uint8_t f[256];
	size_t n = connect_block(f + 9);
	int r, i;

	frame(f, n, 1, 4, 1);
	assert_int_equal(h2_recv(s->h, f, n + 9, 1000), 0);
	frame(f, c->len, c->type, c->flags, c->id);
	memcpy(f + 9, c->payload, c->len);
	for (i = 0, r = 0; i < 5000 && r == 0 && !h2_calmed(s->h); i++) {
		r = h2_recv(s->h, f, 9 + c->len, 1000);
		if (i % 100 == 99) {
			assert_int_equal(h2_send(s->h, &s->out), 0);
			s->out.n = 0;
		}
	}
	assert_true(i < 1100);
	end_free(s);
}

static void flood__over_the_stream_limit(void **st)
{
	struct end *s = raw_server();
	uint8_t f[256];
	unsigned int i;

	(void)st;
	for (i = 0; i < 2000 && !h2_calmed(s->h); i++) {
		size_t n = connect_block(f + 9);

		frame(f, n, 1, 4, 2 * i + 1);
		if (h2_recv(s->h, f, n + 9, 1000) < 0)
			break;
		assert_int_equal(h2_send(s->h, &s->out), 0);
		s->out.n = 0;
	}
	assert_int_equal(s->heads, LIMIT_H2_STREAMS);
	assert_true(i < LIMIT_H2_STREAMS + LIMIT_H2_RESETS_BURST + 10);
	end_free(s);
}

static void bucket__refills(void **st)
{
	struct end *s = raw_server();
	uint8_t f[17] = {0};

	(void)st;
	frame(f, 8, 6, 0, 0);
	for (int i = 0; i < 1500; i++) { /* 90 pings a second are nobody's flood */
		assert_int_equal(h2_recv(s->h, f, 17, 1000 + (uint64_t)i * 11), 0);
		assert_int_equal(h2_send(s->h, &s->out), 0);
		s->out.n = 0;
	}
	assert_false(h2_calmed(s->h));
	end_free(s);
}

static void garbage__refused(void **st)
{
	struct end *s = end_new(true);
	static const char req[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n....";

	(void)st;
	assert_int_equal(h2_recv(s->h, (const uint8_t *)req, sizeof(req) - 1, 1000), -EPROTO);
	assert_true(h2_done(s->h));
	end_free(s);
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		cmocka_unit_test(tunnel__every_split),
		cmocka_unit_test(tunnel__large_frame_and_quantum),
		cmocka_unit_test(tunnel__schedule_is_the_callers),
		cmocka_unit_test(window__stalled_reader),
		cmocka_unit_test(reset__behind_data),
		cmocka_unit_test(respond__refusal_ends_the_request),
		cmocka_unit_test(goaway__is_told),
		cmocka_unit_test(flood__rapid_reset),
		cmocka_unit_test(flood__made_you_reset),
		cmocka_unit_test(flood__header_bomb),
		cmocka_unit_test(flood__too_many_fields),
		cmocka_unit_test(flood__continuation),
		cmocka_unit_test(flood__over_the_stream_limit),
		cmocka_unit_test(bucket__refills),
		cmocka_unit_test(garbage__refused),
	};
	struct CMUnitTest t[ARRAY_LEN(fixed) + ARRAY_LEN(cheap)];
	char names[ARRAY_LEN(cheap)][64];
	size_t n = ARRAY_LEN(fixed);

	memcpy(t, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(cheap); i++) {
		snprintf(names[i], sizeof(names[i]), "flood__%s", cheap[i].name);
		t[n++] = (struct CMUnitTest){.name = names[i],
					     .test_func = flood__cheap_frames,
					     .initial_state = (void *)(uintptr_t)&cheap[i]};
	}
	return _cmocka_run_group_tests("h2", t, n, NULL, NULL);
}
