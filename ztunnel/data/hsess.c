/* SPDX-License-Identifier: Apache-2.0
 * hsess.c: the life of one HBONE connection: handshake, keepalive, end. Bytes: hsess_io.c.
 *
 *   server: accept -> [PARKED: no certificate yet] -> HANDSHAKE -> OPEN -> DEAD
 *   client: CONNECTING (TCP, or its carrier: gateway.c) -> HANDSHAKE -> OPEN -> DEAD
 *
 * One timer: until OPEN it limits the whole handshake, then it is the ping (10 s after the last
 * pong, dead 20 s after the ping: ztunnel-spec 7.2).
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/log.h"
#include "ztunnel/data/data.h"

#define DRAIN_HANDSHAKE_MS 1000
#define HANDSHAKES_PART	   (LIMIT_TLS_HANDSHAKES_PENDING / 8)

static void on_timer(struct timer *t)
{
	struct hsess *s = container_of(t, struct hsess, timer);

	OBJ_CHECK(s, HSESS_MAGIC);
	if (s->state == HS_PARKED) {
		hsess_fail(s, FLAG_IDENTITY, "identity error: no certificate yet for workload");
	} else if (s->state != HS_OPEN) {
		hsess_fail(s, FLAG_CONNECT, "tls error: handshake took too long");
	} else if (s->ping_out) {
		hsess_fail(s, FLAG_CONNECT, "h2 failed: HBONE ping timeout");
	} else {
		s->ping_out = true;
		h2_ping(s->h2);
		loop_timer_set(s->pod->w->loop, t, LIMIT_H2_PING_TIMEOUT_MS, on_timer);
		hsess_dirty(s);
	}
}

void hsess_keepalive(struct hsess *s)
{
	s->ping_out = false;
	loop_timer_set(s->pod->w->loop, &s->timer, LIMIT_H2_PING_INTERVAL_MS, on_timer);
}

/* Slow handshakes: the oldest goes, whoever is quick gets in (security.md T3). It is one of a pod
 * that takes more than its part: a flood of one pod's port must not end what others have begun. */
static void limit_handshakes(struct worker *w)
{
	struct list *victim = w->handshakes.next;

	if (w->nhandshakes <= LIMIT_TLS_HANDSHAKES_PENDING)
		return;
	list_for_each (n, &w->handshakes) {
		if (container_of(n, struct hsess, wait_node)->pod->nhandshakes <= HANDSHAKES_PART)
			continue;
		victim = n;
		break;
	}
	hsess_fail(container_of(victim, struct hsess, wait_node), FLAG_CONNECT,
		   "tls error: too many connections without a finished handshake");
}

struct hsess *hsess_new(struct pod *p, bool server)
{
	struct hsess *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->magic = HSESS_MAGIC;
	s->server = server;
	s->state = server ? HS_PARKED : HS_CONNECTING;
	s->pod = p;
	leg_init(&s->leg);
	list_init(&s->conns);
	list_init(&s->small);
	list_init(&s->bulk);
	list_append(&p->sessions, &s->pod_node);
	loop_timer_set(p->w->loop, &s->timer,
		       server ? LIMIT_TLS_HANDSHAKE_MS : LIMIT_CONNECT_MS + LIMIT_TLS_HANDSHAKE_MS,
		       on_timer);
	if (server) {
		metrics_sockets_open(p->w->metrics, REPORTER_DESTINATION, 1);
		list_append(&p->w->handshakes, &s->wait_node);
		p->w->nhandshakes++;
		p->nhandshakes++;
		limit_handshakes(p->w);
	} else {
		stat_add(&p->w->st.pooled, 1);
	}
	return s;
}

void hsess_waits_no_more(struct hsess *s)
{
	if (!list_linked(&s->wait_node))
		return;
	list_remove(&s->wait_node);
	s->pod->w->nhandshakes--;
	s->pod->nhandshakes--;
}

static int make_sessions(struct hsess *s, const char *const *expected, size_t n)
{
	const struct worker_config *cfg = s->pod->w->cfg;
	struct h2_config h2 = {.server = s->server,
			       .stream_window = cfg->h2_stream_window,
			       .connection_window = cfg->h2_connection_window,
			       .max_frame_size = cfg->h2_frame_size,
			       .max_streams = s->server ? LIMIT_H2_STREAMS : cfg->pool_max_streams};

	s->tls = tls_session_new(s->pod->id, s->server, expected, n);
	if (s->tls != NULL)
		(void)tls_session_crl(s->tls, s->pod->w->crl); /* there is no peer yet */
	s->h2 = s->tls != NULL ? h2_new(&h2, &hsess_ops, s) : NULL;
	return s->h2 != NULL ? 0 : -ENOMEM;
}

void hsess_window(struct hsess *s)
{
	const struct worker *w = s->pod->w;

	if (s->h2 == NULL || s->state == HS_DEAD)
		return;
	h2_set_stream_window(s->h2, w->memory_short && SHORT_WINDOW < w->cfg->h2_stream_window
					    ? SHORT_WINDOW
					    : w->cfg->h2_stream_window);
	hsess_dirty(s);
}

static void start(struct hsess *s, const char *const *expected, size_t n)
{
	if (s->pod->id == NULL) { /* withdrawn in the meantime */
		hsess_fail(s, FLAG_IDENTITY, "identity error: no certificate for workload");
		return;
	}
	s->state = HS_HANDSHAKE;
	sendbuf_start(s->leg.w.fd);
	if (make_sessions(s, expected, n) < 0) {
		hsess_fail(s, FLAG_CONNECT, "out of memory");
		return;
	}
	if (leg_watch(s->pod->w, &s->leg, hsess_on_event) < 0) {
		hsess_fail(s, FLAG_CONNECT, "io error: cannot watch the socket");
		return;
	}
	hsess_dirty(s);
}

void hsess_start_server(struct hsess *s)
{
	start(s, NULL, 0);
}

static size_t lines_of(const char *text)
{
	size_t n = 1;

	for (const char *p = text; *p != '\0'; p++)
		n += *p == '\n';
	return n;
}

/* The slot's key is the list of acceptable identities, one per line. */
void hsess_connected(struct hsess *s)
{
	_cleanup_free_ char *copy = strdup(s->slot->key);
	_cleanup_free_ const char **expected = NULL;
	size_t n = 0;

	if (copy != NULL)
		expected = calloc(lines_of(copy) + 1, sizeof(*expected));
	if (expected == NULL) {
		hsess_fail(s, FLAG_CONNECT, "out of memory");
		return;
	}
	for (char *at = copy, *end; at != NULL && *at != '\0'; at = end) {
		end = strchr(at, '\n');
		if (end != NULL)
			*end++ = '\0';
		expected[n++] = at;
	}
	loop_timer_set(s->pod->w->loop, &s->timer, LIMIT_TLS_HANDSHAKE_MS, on_timer);
	start(s, expected, n);
}

void hsess_dirty(struct hsess *s)
{
	struct worker *w = s->pod->w;

	if (s->dirty || s->state == HS_DEAD)
		return;
	s->dirty = true;
	list_append(&w->dirty, &s->dirty_node);
	turn_request(w);
}

static void hsess_free(struct deferred *d)
{
	struct hsess *s = container_of(d, struct hsess, defer);

	h2_free(s->h2);
	tls_session_free(s->tls);
	free(s->out);
	s->magic = OBJ_DEAD;
	free(s);
}

/* Streams end as if the peer had reset them all. */
static void drop_streams(struct hsess *s)
{
	struct list all, *n;

	list_init(&all);
	list_splice(&all, &s->conns);
	while ((n = list_pop(&all)) != NULL) {
		struct conn *c = container_of(n, struct conn, t.sess_node);

		list_append(&s->conns, &c->t.sess_node); /* tunnel_detach() unlinks it */
		/* one that was not answered yet has lost nothing: it may try elsewhere */
		tunnel_closed(c, c->state == CS_WAITING ? H2_REFUSED_STREAM : H2_INTERNAL_ERROR);
	}
	turn_request(s->pod->w); /* what they still have to write is written there */
}

static void report(struct hsess *s, const char *error)
{
	char a[IP_PORT_TEXT_MAX];

	if (s->server && s->state != HS_OPEN && error != NULL) {
		metric_add(M_TLS_HANDSHAKE_FAILURES, 1);
		access_log_early(s->pod->w->log, REPORTER_DESTINATION, &s->peer, &s->local, error);
	} else if (!s->server && s->state == HS_OPEN && error != NULL) {
		log_limited(LOG_LV_WARN, "ztunnel::proxy::pool", "HBONE connection to %s ended: %s",
			    ip_port_format(&s->peer, a), error);
	}
}

void hsess_fail(struct hsess *s, enum conn_flag flag, const char *error)
{
	struct worker *w = s->pod->w;

	OBJ_CHECK(s, HSESS_MAGIC);
	if (s->state == HS_DEAD)
		return;
	report(s, error);
	if (s->tls != NULL && tls_session_revoked(s->tls))
		metric_add(s->server ? M_CRL_REJECTIONS_DESTINATION : M_CRL_REJECTIONS_SOURCE, 1);
	if (s->h2 != NULL && h2_calmed(s->h2))
		metric_add(M_H2_ENHANCE_YOUR_CALM, 1);
	hsess_waits_no_more(s);
	idle_leave(s);
	s->state = HS_DEAD;
	loop_timer_cancel(&s->timer);
	loop_timer_cancel(&s->idle_timer);
	list_remove(&s->dirty_node);
	dial_free(s->leg.dial);
	leg_close(w, &s->leg);
	stat_add(&w->st.buffers, -(int64_t)s->out_n);
	s->out_n = s->out_off = 0;
	if (s->server)
		metrics_sockets_open(w->metrics, REPORTER_DESTINATION, -1);
	else
		stat_add(&w->st.pooled, -1);
	drop_streams(s);
	gateway_session_gone(s);
	if (s->slot != NULL)
		pool_session_gone(s, flag, error);
	if (list_empty(&s->conns))
		hsess_stream_gone(s);
}

/* A dead session is freed when its last stream let go of it. */
static void bury(struct hsess *s)
{
	if (!list_linked(&s->pod_node) || s->nconns != 0)
		return;
	list_remove(&s->pod_node);
	loop_defer(s->pod->w->loop, &s->defer, hsess_free);
	turn_check_drained(s->pod->w);
}

void hsess_stream_gone(struct hsess *s)
{
	if (s->state == HS_DEAD)
		bury(s);
	else if (!s->server)
		pool_room(s);
	else if (s->final_sent && s->nconns == 0)
		hsess_dirty(s); /* the pump sees that all is done */
	else
		idle_enter(s);
}

/* A server first says that it is about to leave; what the peer opens before it has heard that is
 * still served. Its answer to our ping proves that it has, and then comes the final GOAWAY
 * (RFC 9113 6.8). */
static void announce(struct hsess *s)
{
	if (s->retired)
		return;
	s->retired = true;
	h2_shutdown(s->h2, false);
	h2_ping(s->h2);
}

/* Draining: what somebody waits for is finished, within its own time limit, or within a short one
 * if it is a peer that has not even said who it is. opened() and pool_room() go on from there. */
static void goaway_early(struct hsess *s)
{
	if (s->state == HS_DEAD) /* its streams are still writing to slow applications */
		return;
	if (s->state == HS_PARKED || (!s->server && list_empty(&s->slot->waiters)))
		hsess_fail(s, FLAG_NONE, NULL);
	else if (s->server)
		loop_timer_set(s->pod->w->loop, &s->timer, DRAIN_HANDSHAKE_MS, on_timer);
}

void hsess_goaway(struct hsess *s)
{
	if (s->state != HS_OPEN) {
		goaway_early(s);
		return;
	}
	if (s->server) {
		announce(s);
	} else {
		s->retired = true;
		if (s->nconns == 0)
			h2_terminate(s->h2, H2_NO_ERROR);
	}
	hsess_dirty(s);
}

void hsess_leave_within(struct hsess *s, uint64_t ms)
{
	hsess_goaway(s);
	s->ping_out = true; /* the one of announce() */
	loop_timer_set(s->pod->w->loop, &s->timer, ms, on_timer);
}

void hsess_pong(struct hsess *s)
{
	hsess_keepalive(s);
	if (!s->server || !s->retired || s->final_sent)
		return;
	s->final_sent = true;
	h2_shutdown(s->h2, true);
	hsess_dirty(s);
}

/* True when the peer is revoked, and the session has ended for it. */
static bool end_revoked(struct hsess *s)
{
	static const char why[] = "connection closed: peer certificate revoked by CRL";

	if (s->state == HS_DEAD || s->tls == NULL || tls_session_crl(s->tls, s->pod->w->crl))
		return false;
	if (s->state == HS_OPEN) {
		s->retired = true; /* who waits for a stream gets none of this session */
		list_for_each_safe (n, &s->conns)
			conn_end(container_of(n, struct conn, t.sess_node), END_RESET,
				 FLAG_CERT_REVOKED, why);
		h2_terminate(s->h2, H2_NO_ERROR);
		hsess_last_words(s);
	}
	hsess_fail(s, FLAG_CERT_REVOKED, why);
	return true;
}

void hsess_crl(struct pod *p)
{
	struct list *n = p->sessions.next;

	/* one that ends takes those along that it carried (gateway.c), so it starts over */
	while (n != &p->sessions)
		n = end_revoked(container_of(n, struct hsess, pod_node)) ? p->sessions.next
									 : n->next;
}
