/* SPDX-License-Identifier: Apache-2.0
 * gateway.c: HBONE within HBONE, towards a workload on another network (ztunnel-spec 4.7).
 *
 * Theory of operation
 *
 *   application --- conn --- hsess (inner) === socket pair === conn (carrier) --- hsess (outer)
 *
 * The outer session leads to the network's gateway and is pooled as any other. The carrier is an
 * ordinary tunnel through it whose application is the inner session, at the other end of a pair of
 * sockets; so flow control, half-close and loss are those of every tunnel, and the inner session
 * knows no other transport than a socket. It belongs to one connection of an application and ends
 * with it: whom it reaches is the gateway's choice, made anew for each.
 *
 *   carrier waits for its stream and the answer -> 200: the inner handshake begins
 *                                               -> else: the inner session fails with that reason
 *   inner session ends                          -> the carrier finds the end of its socket, sends
 *                                                  END_STREAM, and has LIMIT_CARRIER_CLOSE_MS
 *   carrier ends, or the gateway's END_STREAM   -> the inner session finds the end of its socket;
 *                                                  a stream that was not finished is aborted: TLS
 *                                                  and HTTP/2 tell a cut from an end
 */
#include <errno.h>
#include <sys/socket.h>

#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define CARRIER_WAIT_MS                                                                            \
	(LIMIT_CONNECT_MS + LIMIT_TLS_HANDSHAKE_MS + LIMIT_CONNECT_RESPONSE_MS + 2000)

/* What its CONNECT tells about the connection of the application. */
static void describe(struct conn *carrier, const struct conn *c)
{
	struct conn_info *to = &carrier->info;

	to->src_addr = c->info.src_addr;
	to->orig_dst = c->info.orig_dst;
	to->dst_addr = c->info.dst_addr;
	to->hbone_addr = c->info.hbone_addr;
	to->start_ns = c->info.start_ns;
	to->service = service_ref(c->info.service);
}

static void on_late(struct timer *t)
{
	struct hsess *s = container_of(t, struct hsess, timer);

	OBJ_CHECK(s, HSESS_MAGIC);
	hsess_fail(s, FLAG_CONNECT, "h2 failed: no answer of the network gateway in time");
}

void gateway_dial(struct hsess *s)
{
	struct pool_slot *slot = s->slot;
	struct conn *k = conn_new(s->pod, CONN_CARRIER);
	char buf[96];
	int pair[2];

	if (k == NULL) {
		hsess_fail(s, FLAG_CONNECT, "out of memory");
		return;
	}
	tunnel_init(k);
	k->state = CS_WAITING;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		io_error_text(buf, sizeof(buf), "io error", errno);
		conn_end(k, END_CLOSE, FLAG_NONE, NULL);
		hsess_fail(s, FLAG_CONNECT, buf);
		return;
	}
	s->leg.w.fd = pair[0];
	k->app.w.fd = pair[1];
	k->t.inner = s;
	k->t.via_waypoint = true; /* an Envoy as well: tunnel.c */
	s->carrier = k;
	describe(k, container_of(slot->waiters.next, struct conn, t.sess_node));
	loop_timer_set(s->pod->w->loop, &s->timer, CARRIER_WAIT_MS, on_late);
	pool_get_gateway(k, slot->gateway, &slot->addr);
}

void gateway_answered(struct conn *k)
{
	struct hsess *s = k->t.inner;

	tunnel_open(k);
	if (k->state != CS_DEAD)
		hsess_connected(s);
}

void gateway_carrier_gone(struct conn *k, enum conn_flag flag, const char *error)
{
	struct hsess *s = take_ptr(k->t.inner);

	if (s == NULL)
		return;
	s->carrier = NULL;
	/* else it reads what is there, and then the end */
	if (s->state == HS_CONNECTING || error != NULL)
		hsess_fail(s, flag == FLAG_NONE ? FLAG_CONNECT : flag,
			   error != NULL ? error : "h2 failed: the network gateway has left");
}

static void on_unanswered_end(struct timer *t)
{
	conn_end(container_of(t, struct conn, timer), END_CLOSE, FLAG_NONE, NULL);
}

void gateway_session_gone(struct hsess *s)
{
	struct conn *k = take_ptr(s->carrier);

	if (k == NULL)
		return;
	k->t.inner = NULL;
	if (k->state == CS_OPEN)
		loop_timer_set(k->pod->w->loop, &k->timer, LIMIT_CARRIER_CLOSE_MS,
			       on_unanswered_end);
	else
		conn_end(k, END_CLOSE, FLAG_NONE, NULL);
}
