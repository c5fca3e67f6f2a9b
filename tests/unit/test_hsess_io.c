/* SPDX-License-Identifier: Apache-2.0
 * test_hsess_io.c: what an HBONE connection does with a socket that takes no more. TLS and HTTP/2
 * are played here; the real ones are in tests/system.
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
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

static struct worker w;
static struct pod pod;
static struct hsess *s;
static int far;
static size_t fed, reply; /* bytes that reading makes TLS answer (KeyUpdate) */
static unsigned int failed;

/* ---- TLS: takes everything, says nothing ---- */
void tls_session_feed(struct tls_session *t, const uint8_t *p, size_t n)
{
	(void)t, (void)p;
	fed += n;
}
size_t tls_session_unread(const struct tls_session *t)
{
	(void)t;
	return 0;
}
enum tls_res tls_session_handshake(struct tls_session *t, struct tls_out *out)
{
	(void)t, (void)out;
	return TLS_AGAIN;
}
enum tls_res tls_session_read(struct tls_session *t, uint8_t *buf, size_t cap, size_t *ret_n,
			      struct tls_out *out)
{
	(void)t, (void)buf, (void)cap;
	*ret_n = 0;
	memset(out->p + out->n, 'k', reply);
	out->n += reply;
	return TLS_AGAIN;
}
enum tls_res tls_session_write(struct tls_session *t, const uint8_t *p, size_t n,
			       struct tls_out *out)
{
	(void)t;
	memcpy(out->p + out->n, p, n);
	out->n += n;
	return TLS_OK;
}
const char *tls_session_error(const struct tls_session *t)
{
	(void)t;
	return "";
}

/* ---- HTTP/2: has @due bytes of control frames ---- */
static size_t due;
int h2_recv(struct h2 *h, const uint8_t *p, size_t n, uint64_t now_ms)
{
	(void)h, (void)p, (void)n, (void)now_ms;
	return 0;
}
int h2_send(struct h2 *h, struct h2_out *out)
{
	(void)h;
	memset(out->p + out->n, 'c', due);
	out->n += due;
	due = 0;
	return 0;
}
int h2_send_stream(struct h2 *h, int32_t id, struct h2_out *out, size_t quantum, size_t frame_max)
{
	(void)h, (void)id, (void)out, (void)quantum, (void)frame_max;
	return 0;
}
bool h2_want_send(const struct h2 *h)
{
	(void)h;
	return due != 0;
}
bool h2_done(const struct h2 *h)
{
	(void)h;
	return false;
}
bool h2_calmed(const struct h2 *h)
{
	(void)h;
	return false;
}
const char *h2_error(const struct h2 *h)
{
	(void)h;
	return "";
}

/* ---- the rest of the room ---- */
void hsess_fail(struct hsess *hs, enum conn_flag flag, const char *error)
{
	(void)flag, (void)error;
	hs->state = HS_DEAD;
	failed++;
}
void hsess_dirty(struct hsess *hs)
{
	hs->dirty = true;
}
void hsess_waits_no_more(struct hsess *hs)
{
	(void)hs;
}
void hsess_keepalive(struct hsess *hs)
{
	(void)hs;
}
void hsess_window(struct hsess *hs)
{
	(void)hs;
}
void hsess_goaway(struct hsess *hs)
{
	(void)hs;
}
void hsess_pong(struct hsess *hs)
{
	(void)hs;
}
void idle_enter(struct hsess *hs)
{
	(void)hs;
}
void pool_session_open(struct hsess *hs)
{
	(void)hs;
}
void tunnels_flush(struct worker *wk)
{
	(void)wk;
}
void tunnel_sent(struct conn *c)
{
	(void)c;
}
void tunnel_schedule(struct conn *c)
{
	(void)c;
}
void tunnel_data(struct conn *c, const uint8_t *p, size_t n)
{
	(void)c, (void)p, (void)n;
}
void tunnel_end(struct conn *c)
{
	(void)c;
}
void tunnel_closed(struct conn *c, uint32_t code)
{
	(void)c, (void)code;
}
ssize_t tunnel_pull(struct conn *c, uint8_t *p, size_t cap, bool *eof)
{
	(void)c, (void)p, (void)cap, (void)eof;
	return H2_PULL_NOTHING;
}
void inbound_request(struct hsess *hs, int32_t id, const struct h2_head *h)
{
	(void)hs, (void)id, (void)h;
}
void outbound_head(struct conn *c, const struct h2_head *h)
{
	(void)c, (void)h;
}
void turn_request(struct worker *wk)
{
	(void)wk;
}

static int setup(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	memset(&w, 0, sizeof(w));
	fed = reply = due = failed = 0;
	w.loop = loop_new();
	w.rx = xmalloc(RX_BYTES);
	w.plain = xmalloc(PLAIN_BYTES);
	w.stage = (struct h2_out){.p = xmalloc(STAGE_BYTES), .cap = STAGE_BYTES};
	w.ct = (struct tls_out){.p = xmalloc(STAGE_BYTES), .cap = STAGE_BYTES};
	pod.w = &w;
	s = xcalloc(1, sizeof(*s));
	s->magic = HSESS_MAGIC;
	s->state = HS_OPEN;
	s->pod = &pod;
	list_init(&s->small);
	list_init(&s->bulk);
	leg_init(&s->leg);
	far = fds[0];
	s->leg.w.fd = fds[1];
	assert_int_equal(leg_watch(&w, &s->leg, hsess_on_event), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(failed, 0);
	leg_close(&w, &s->leg);
	(void)xclose(far);
	free(s->out);
	free(s);
	loop_free(w.loop);
	free(w.rx);
	free(w.plain);
	free(w.stage.p);
	free(w.ct.p);
	return 0;
}

static void turn(void)
{
	loop_step(w.loop, 0);
	if (s->dirty) {
		s->dirty = false;
		hsess_pump(s);
	}
}

static size_t drain(void)
{
	static uint8_t buf[65536];
	size_t total = 0;
	ssize_t n;

	while ((n = read(far, buf, sizeof(buf))) > 0)
		total += (size_t)n;
	return total;
}

/* Control frames until the socket refuses some; how many bytes that was. */
static size_t fill_up(void)
{
	size_t total = 0;

	while (s->out_n == 0) {
		due = 100000;
		total += due;
		hsess_pump(s);
		assert_true(total < 64 << 20);
	}
	assert_true(s->leg.wr_block);
	return total;
}

static void refused__goes_on_when_writable(void **state)
{
	size_t sent = fill_up(), got;

	(void)state;
	turn();
	assert_true(s->out_n != 0);
	got = drain();
	for (int i = 0; i < 20; i++) {
		turn();
		got += drain();
	}
	assert_int_equal(got, sent);
	assert_null(s->out);
	assert_int_equal(atomic_load(&w.st.buffers), 0);
}

/* Bytes to read and room to write come in one event, and what is read makes TLS answer: that goes
 * behind the refused bytes, and the room must not be forgotten. There is no second event for it. */
static void refused__an_answer_behind_it(void **state)
{
	size_t sent = fill_up(), got;

	(void)state;
	turn();
	got = drain();
	reply = 7;
	assert_int_equal(write(far, "x", 1), 1);
	for (int i = 0; i < 20; i++) {
		turn();
		got += drain();
		reply = 0;
	}
	assert_int_equal(fed, 1);
	assert_int_equal(got, sent + 7);
	assert_null(s->out);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	static const struct CMUnitTest t[] = {
		CASE(refused__goes_on_when_writable),
		CASE(refused__an_answer_behind_it),
	};

	return cmocka_run_group_tests_name("hsess_io", t, NULL, NULL);
}
