/* SPDX-License-Identifier: Apache-2.0
 * test_hsess.c: the end of HBONE connections while a pod's are gone through. TLS, HTTP/2, pool and
 * gateways are played here; the real ones are in tests/system.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "ztunnel/data/data.h"

static struct worker w;
static struct worker_config cfg;
static struct pod pod;
static struct hsess *inner; /* goes when the stream that carries it ends */
static bool revoked;	    /* what the lists say of every peer */
static unsigned int asked, cut;

/* ---- TLS and HTTP/2 ---- */
struct tls_session *tls_session_new(struct tls_identity *id, bool server,
				    const char *const *expected, size_t nexpected)
{
	(void)id, (void)server, (void)expected, (void)nexpected;
	return NULL;
}
struct tls_session *tls_session_free(struct tls_session *t)
{
	(void)t;
	return NULL;
}
bool tls_session_crl(struct tls_session *t, struct tls_crl *crl)
{
	(void)t, (void)crl;
	assert_true(++asked < 100); /* the walk has an end */
	return !revoked;
}
bool tls_session_revoked(const struct tls_session *t)
{
	(void)t;
	return revoked;
}
struct h2 *h2_new(const struct h2_config *c, const struct h2_ops *ops, void *ctx)
{
	(void)c, (void)ops, (void)ctx;
	return NULL;
}
struct h2 *h2_free(struct h2 *h)
{
	(void)h;
	return NULL;
}
bool h2_calmed(const struct h2 *h)
{
	(void)h;
	return false;
}
void h2_ping(struct h2 *h)
{
	(void)h;
}
void h2_shutdown(struct h2 *h, bool final)
{
	(void)h, (void) final;
}
void h2_terminate(struct h2 *h, uint32_t code)
{
	(void)h, (void)code;
}
void h2_set_stream_window(struct h2 *h, uint32_t n)
{
	(void)h, (void)n;
}
const struct h2_ops hsess_ops;

/* ---- the rest of the room ---- */
void hsess_last_words(struct hsess *s)
{
	(void)s;
}
void hsess_on_event(struct watch *watch, uint32_t events)
{
	(void)watch, (void)events;
}
struct dial *dial_free(struct dial *d)
{
	(void)d;
	return NULL;
}
void gateway_session_gone(struct hsess *s)
{
	(void)s;
}
void idle_enter(struct hsess *s)
{
	(void)s;
}
void idle_leave(struct hsess *s)
{
	(void)s;
}
void pool_room(struct hsess *s)
{
	(void)s;
}
void pool_session_gone(struct hsess *s, enum conn_flag flag, const char *error)
{
	(void)flag, (void)error;
	s->slot = NULL;
}
void tunnel_closed(struct conn *c, uint32_t code)
{
	(void)c, (void)code; /* an application that reads slowly: it stays */
}
void turn_check_drained(struct worker *wk)
{
	(void)wk;
}
void turn_request(struct worker *wk)
{
	(void)wk;
}
void access_log_early(struct access_log_worker *l, enum conn_reporter rep,
		      const struct ip_port *src, const struct ip_port *dst, const char *error)
{
	(void)l, (void)rep, (void)src, (void)dst, (void)error;
}
void metrics_sockets_open(struct metrics_worker *m, enum conn_reporter rep, int delta)
{
	(void)m, (void)rep, (void)delta;
}
void metric_add(enum metric_id id, int64_t delta)
{
	(void)id, (void)delta;
}

void conn_end(struct conn *c, enum conn_end how, enum conn_flag flag, const char *error)
{
	struct hsess *s = c->t.s;

	(void)how;
	cut++;
	c->state = CS_DEAD;
	list_remove(&c->t.sess_node);
	s->nconns--;
	c->t.s = NULL;
	if (inner != NULL) /* as gateway.c does */
		hsess_fail(take_ptr(inner), flag, error);
	hsess_stream_gone(s);
}

static struct hsess *session(bool server, enum hsess_state state)
{
	struct hsess *s = hsess_new(&pod, server);

	s->state = (uint8_t)state;
	s->tls = (struct tls_session *)&w; /* never looked into */
	return s;
}

static void carries(struct hsess *s, struct conn *c)
{
	*c = (struct conn){
		.magic = CONN_MAGIC, .kind = CONN_CARRIER, .state = CS_OPEN, .pod = &pod};
	c->t.s = s;
	list_append(&s->conns, &c->t.sess_node);
	s->nconns++;
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	memset(&pod, 0, sizeof(pod));
	w.loop = loop_new();
	w.cfg = &cfg;
	list_init(&w.handshakes);
	pod.w = &w;
	list_init(&pod.sessions);
	inner = NULL;
	revoked = false;
	asked = cut = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_true(list_empty(&pod.sessions));
	loop_free(w.loop);
	return 0;
}

static void end_all(void)
{
	while (!list_empty(&pod.sessions))
		hsess_fail(container_of(pod.sessions.next, struct hsess, pod_node), FLAG_NONE,
			   NULL);
}

static void crl__all_are_asked(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		(void)session(i == 1, HS_OPEN);
	hsess_crl(&pod);
	assert_int_equal(asked, 3);
	assert_false(list_empty(&pod.sessions));
	revoked = true;
	hsess_crl(&pod);
	assert_true(list_empty(&pod.sessions));
}

/* A revoked gateway takes along what it carries, which is the next one of the pod's sessions. */
static void crl__a_gateway_and_what_it_carries(void **state)
{
	struct hsess *outer = session(false, HS_OPEN);
	struct conn carrier;

	(void)state;
	carries(outer, &carrier);
	inner = session(false, HS_CONNECTING);
	inner->tls = NULL;
	(void)session(true, HS_OPEN);
	revoked = true;
	hsess_crl(&pod);
	assert_int_equal(cut, 1);
	assert_true(list_empty(&pod.sessions)); /* the third one as well */
}

/* A connection is dead, but an application has not read all that came: then ztunnel shall drain. */
static void goaway__of_a_dead_one(void **state)
{
	static const bool server[] = {false, true};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(server); i++) {
		struct hsess *s = session(server[i], HS_OPEN);
		struct conn c;

		carries(s, &c);
		hsess_fail(s, FLAG_CONNECT, NULL);
		assert_false(list_empty(&pod.sessions));
		hsess_goaway(s);
		assert_false(timer_armed(&s->timer)); /* it would outlive the session */
		s->nconns--;
		list_remove(&c.t.sess_node);
		hsess_stream_gone(s);
		assert_true(list_empty(&pod.sessions));
	}
	end_all();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	static const struct CMUnitTest t[] = {
		CASE(crl__all_are_asked),
		CASE(crl__a_gateway_and_what_it_carries),
		CASE(goaway__of_a_dead_one),
	};

	return cmocka_run_group_tests_name("hsess", t, NULL, NULL);
}
