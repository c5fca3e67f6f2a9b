/* SPDX-License-Identifier: Apache-2.0
 * conn.c: the life of one proxied connection: birth, record, end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/wire/spiffe.h"
#include "ztunnel/data/data.h"
#include "ztunnel/data/turn.h"

/* Somebody connected to us for it, and for nothing else. */
static bool has_own_socket(enum conn_kind kind)
{
	return kind == CONN_OUT || kind == CONN_IN_PLAIN;
}

struct conn *conn_new(struct pod *p, enum conn_kind kind)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->magic = CONN_MAGIC;
	c->kind = (uint8_t)kind;
	c->pod = p;
	c->info.reporter =
		kind == CONN_OUT || kind == CONN_CARRIER ? REPORTER_SOURCE : REPORTER_DESTINATION;
	c->info.start_ns = loop_now_ns(p->w->loop);
	c->state = CS_DIALING;
	leg_init(&c->app);
	leg_init(&c->r.up);
	list_append(&p->conns, &c->pod_node);
	stat_add(&p->w->st.connections, 1);
	if (!has_own_socket(kind))
		return c;
	metrics_sockets_open(p->w->metrics, c->info.reporter, 1);
	if (p->home)
		churn_opened(&p->sh->churn, c->info.start_ns);
	return c;
}

static void conn_free(struct deferred *d)
{
	struct conn *c = container_of(d, struct conn, defer);

	c->magic = OBJ_DEAD;
	free(c);
}

static void record(struct conn *c, enum conn_flag flag, const char *error)
{
	struct worker *w = c->pod->w;

	if (c->kind == CONN_CARRIER) /* what it means is told with the connection it is for */
		return;
	if (!c->opened && c->late)
		conn_opened(c);
	if (!c->opened) {
		if (error != NULL)
			access_log_early(w->log, c->info.reporter, &c->info.src_addr,
					 &c->info.orig_dst, error);
		return;
	}
	metrics_close(w->metrics, &c->info, flag);
	access_log_complete(w->log, &c->info, flag, error, loop_now_ns(w->loop));
}

static void own_socket_gone(struct conn *c)
{
	struct pod *p = c->pod;

	metrics_sockets_open(p->w->metrics, c->info.reporter, -1);
	if (p->home)
		churn_ended(&p->sh->churn, loop_now_ns(p->w->loop) - c->info.start_ns);
}

static void close_leg(struct conn *c, struct leg *l, enum conn_end how)
{
	dial_free(l->dial);
	if (how == END_RESET)
		leg_reset(c->pod, l);
	else
		leg_close(c->pod->w, l);
}

void conn_end(struct conn *c, enum conn_end how, enum conn_flag flag, const char *error)
{
	struct worker *w = c->pod->w;

	OBJ_CHECK(c, CONN_MAGIC);
	if (c->state == CS_DEAD)
		return;
	if (c->state == CS_PARKED)
		stat_add(&w->st.parked, -1);
	c->state = CS_DEAD;
	record(c, flag, error);
	if (c->tunnel) {
		tunnel_detach(c, how == END_RESET ? H2_CONNECT_ERROR : H2_CANCEL);
	} else {
		relay_stop(c);
		close_leg(c, &c->r.up, how);
	}
	close_leg(c, &c->app, how);
	loop_timer_cancel(&c->timer);
	list_remove(&c->park_node);
	list_remove(&c->pod_node);
	if (has_own_socket((enum conn_kind)c->kind))
		own_socket_gone(c);
	if (c->kind == CONN_CARRIER)
		gateway_carrier_gone(c, flag, error);
	conn_info_fini(&c->info);
	stat_add(&w->st.connections, -1);
	loop_defer(w->loop, &c->defer, conn_free);
	turn_check_drained(w);
}

static void on_park_timeout(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);
	bool known = c->kind == CONN_OUT ? pod_source(c->pod) != NULL : c->pod->wl != NULL;
	char buf[192];

	(void)snprintf(buf, sizeof(buf), "%s: %s/%s",
		       !known ? "failed to fetch information about local workload"
			      : "identity error: no certificate yet for workload",
		       c->pod->sh->ns, c->pod->sh->name);
	if (c->kind == CONN_IN_HBONE)
		inbound_unavailable(c, buf);
	else
		conn_end(c, END_RESET, FLAG_IDENTITY, buf);
}

void conn_park(struct conn *c)
{
	struct worker *w = c->pod->w;

	if (c->state != CS_PARKED) { /* else its time goes on */
		c->state = CS_PARKED;
		stat_add(&w->st.parked, 1);
		loop_timer_set(w->loop, &c->timer, LIMIT_WORKLOAD_WAIT_MS, on_park_timeout);
	}
	if (!list_linked(&c->park_node))
		list_append(&c->pod->parked, &c->park_node);
	if (c->pod->id == NULL)
		worker_want_identity(c->pod);
}

void conns_resume(struct list *waiting)
{
	struct list all, *n;

	list_init(&all);
	list_splice(&all, waiting);
	while ((n = list_pop(&all)) != NULL) {
		struct conn *c = container_of(n, struct conn, park_node);

		if (c->kind == CONN_OUT)
			outbound_go(c);
		else if (c->kind == CONN_IN_PLAIN)
			plain_go(c);
		else
			inbound_go(c);
	}
}

void conn_unpark(struct conn *c, enum conn_state next)
{
	if (c->state == CS_PARKED) {
		stat_add(&c->pod->w->st.parked, -1);
		loop_timer_cancel(&c->timer);
		list_remove(&c->park_node);
	}
	c->state = (uint8_t)next;
}

void conn_opened(struct conn *c)
{
	c->opened = true;
	metrics_open(c->pod->w->metrics, &c->info);
	access_log_opened(c->pod->w->log, &c->info);
}

static void on_half_closed(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);
	uint64_t moved = c->info.bytes_recv + c->info.bytes_sent;

	if (moved == c->half_closed_at)
		conn_end(c, END_RESET, FLAG_NONE, "half-closed connection was idle for too long");
	else
		conn_half_closed(c);
}

void conn_half_closed(struct conn *c)
{
	if (timer_armed(&c->timer))
		return;
	c->half_closed_at = c->info.bytes_recv + c->info.bytes_sent;
	loop_timer_set(c->pod->w->loop, &c->timer, LIMIT_HALF_CLOSED_MS, on_half_closed);
}

static void log_decision(void *ctx, const char *message, struct str policy)
{
	const struct conn *c = ctx;
	const struct worker *w = c->pod->w;

	access_log_policy(w->log, access_log_policy_level(w->cfg->policy_info), message, policy,
			  &c->info);
}

/* @changed: the connection exists already; only an end of it is worth a line. */
static bool allowed(struct conn *c, bool changed, char *buf, size_t cap)
{
	const struct worker *w = c->pod->w;
	struct workload *wl = c->pod->wl != NULL ? c->pod->wl : c->info.dst;
	struct rbac_conn rc = {.src = c->info.src_addr.ip, .dst = c->info.orig_dst};
	struct rbac_result res;
	bool ok;

	if (c->kind == CONN_IN_HBONE)
		rc.has_identity = c->info.peer_identity != NULL &&
				  spiffe_parse(str_of(c->info.peer_identity), &rc.identity) == 0;
	res = rbac_evaluate(w->mesh, wl, &rc);
	ok = res.verdict == RBAC_ALLOW;
	if ((!changed || !ok) && access_log_wants_policies(w->cfg->policy_info))
		rbac_explain(w->mesh, wl, &rc, &res, log_decision, c);
	if (!ok)
		(void)rbac_reason(&res, buf, cap);
	return ok;
}

bool conn_allowed(struct conn *c, char *buf, size_t cap)
{
	return allowed(c, false, buf, cap);
}

void conn_recheck(struct conn *c)
{
	char why[192];

	if (c->kind == CONN_OUT || c->kind == CONN_CARRIER || !c->opened || c->state == CS_PARKED)
		return;
	if (!allowed(c, true, why, sizeof(why)))
		conn_end(c, END_RESET, FLAG_DENY, "connection closed due to policy change");
}
