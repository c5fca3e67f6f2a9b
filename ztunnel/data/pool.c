/* SPDX-License-Identifier: Apache-2.0
 * pool.c: HBONE connections that outbound connections of one pod share.
 *
 * A slot is (expected identities, address); pod and with it the source identity are given by the
 * table it is in. A connection that finds no session with room waits in the slot, and as many
 * sessions are created as the waiters need. When a session comes up it takes waiters; when it fails
 * and no other is on its way, all waiters fail with its reason: nobody waits for nothing. Every
 * wait is limited by the connection's own timer as well (ztunnel-spec 7.3, 17.12).
 *
 * A slot behind a gateway is one connection's own and in no table: its session is neither found by
 * others nor kept (ztunnel-spec 4.7). All else is the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ztunnel/data/data.h"

#define WAIT_MS		(LIMIT_CONNECT_MS + LIMIT_TLS_HANDSHAKE_MS + 1000)
#define GATEWAY_WAIT_MS (WAIT_MS + LIMIT_CONNECT_RESPONSE_MS + LIMIT_TLS_HANDSHAKE_MS + 2000)
#define SPARE_MS	2000 /* how long one is kept that is not needed beside another */
#define SPARE_STREAMS	16   /* that each may carry, or all are needed */

static char *joined(const char *const *v, size_t n)
{
	struct strbuf b = {0};

	for (size_t i = 0; i < n; i++)
		strbuf_printf(&b, "%s%s", i != 0 ? "\n" : "", v[i]);
	return b.p != NULL ? strbuf_take(&b) : xstrdup("");
}

static char *joined_sans(const struct service *s)
{
	struct strbuf b = {0};

	for (size_t i = 0; i < s->nsans; i++)
		strbuf_printf(&b, "%s%s", i != 0 ? "\n" : "", s->subject_alt_names[i].p);
	return b.p != NULL ? strbuf_take(&b) : xstrdup("");
}

static struct pool_slot *slot_new(const struct ip_port *addr, char *key)
{
	struct pool_slot *slot = xcalloc(1, sizeof(*slot));

	slot->addr = *addr;
	slot->key = key;
	list_init(&slot->sessions);
	list_init(&slot->waiters);
	return slot;
}

/* @key is taken over. */
static struct pool_slot *slot_get(struct pod *p, char *key, const struct ip_port *addr)
{
	uint64_t hash = hash_mix(hash_str(str_of(key)), ip_port_hash(addr));
	struct pool_slot *slot;

	for (struct hnode *n = htab_first(&p->pool, hash); n != NULL; n = htab_next(n)) {
		slot = container_of(n, struct pool_slot, node);
		if (!ip_port_eq(&slot->addr, addr) || strcmp(slot->key, key) != 0)
			continue;
		free(key);
		return slot;
	}
	slot = slot_new(addr, key);
	htab_insert(&p->pool, &slot->node, hash);
	return slot;
}

static void slot_put(struct pod *p, struct pool_slot *slot)
{
	if (slot->users != 0 || !list_empty(&slot->sessions))
		return;
	if (slot->gateway == NULL)
		htab_remove(&p->pool, &slot->node);
	free(slot->gateway);
	free(slot->key);
	free(slot);
}

static uint32_t max_streams(const struct hsess *s)
{
	uint32_t limit = s->pod->w->cfg->pool_max_streams, peer = h2_peer_max_streams(s->h2);

	return peer < limit ? peer : limit;
}

static bool has_room(const struct hsess *s)
{
	return s->nconns < max_streams(s);
}

static struct hsess *usable(struct pool_slot *slot, size_t *ret_pending)
{
	struct hsess *found = NULL;

	*ret_pending = 0;
	list_for_each (n, &slot->sessions) {
		struct hsess *s = container_of(n, struct hsess, slot_node);

		if (s->retired || s->state == HS_DEAD)
			continue;
		if (s->state != HS_OPEN)
			(*ret_pending)++;
		else if (found == NULL && has_room(s))
			found = s;
	}
	return found;
}

static void on_dialled(struct dial *d, int error)
{
	struct hsess *s = d->owner;
	char buf[192];

	dial_free(d);
	if (error == 0) {
		hsess_connected(s);
	} else if (error == ETIMEDOUT) {
		(void)snprintf(buf, sizeof(buf),
			       "connection timed out, maybe a NetworkPolicy is blocking HBONE port "
			       "15008: %s",
			       strerror(error));
		hsess_fail(s, FLAG_NETWORK_POLICY, buf);
	} else {
		io_error_text(buf, sizeof(buf), "io error", error);
		hsess_fail(s, FLAG_CONNECT, buf);
	}
}

/* Starts as many sessions as the waiters need beyond those on their way. */
static bool grow(struct pod *p, struct pool_slot *slot, size_t pending)
{
	struct hsess *s;

	if (slot->nwaiters <= pending * p->w->cfg->pool_max_streams)
		return true;
	s = hsess_new(p, false);
	if (s == NULL)
		return pending != 0;
	s->peer = slot->addr;
	s->slot = slot;
	list_append(&slot->sessions, &s->slot_node);
	if (slot->gateway != NULL) {
		gateway_dial(s);
		return true;
	}
	if (dial_start(p, &s->leg, &slot->addr, NULL, on_dialled, s) == NULL) {
		hsess_fail(s, FLAG_CONNECT, "out of memory");
		return pending != 0;
	}
	return true;
}

static void on_no_session(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	conn_end(c, END_RESET, FLAG_CONNECT, "h2 failed: no HBONE connection in time");
}

static void place(struct conn *c, struct pool_slot *slot)
{
	size_t pending;
	struct hsess *s = usable(slot, &pending);

	if (s != NULL) {
		outbound_stream(c, s);
		return;
	}
	list_append(&slot->waiters, &c->t.sess_node);
	slot->nwaiters++;
	/* longer than one attempt, whose own end has the better reason */
	loop_timer_set(c->pod->w->loop, &c->timer,
		       slot->gateway != NULL ? GATEWAY_WAIT_MS : WAIT_MS, on_no_session);
	if (!grow(c->pod, slot, pending) && c->state != CS_DEAD)
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
}

static void use(struct conn *c, struct pool_slot *slot)
{
	c->t.slot = slot;
	slot->users++;
	place(c, slot);
}

void pool_get(struct conn *c, const struct route *r)
{
	char *key = joined(r->identities, r->nidentities);
	struct pool_slot *slot;

	if (r->kind != ROUTE_DOUBLE_HBONE) {
		use(c, slot_get(c->pod, key, &r->dial));
		return;
	}
	slot = slot_new(&r->dial, joined_sans(r->inner));
	slot->gateway = key;
	use(c, slot);
}

void pool_get_gateway(struct conn *c, const char *identities, const struct ip_port *addr)
{
	use(c, slot_get(c->pod, xstrdup(identities), addr));
}

static void leave_waiters(struct conn *c)
{
	if (c->t.s != NULL || !list_linked(&c->t.sess_node))
		return;
	list_remove(&c->t.sess_node);
	c->t.slot->nwaiters--;
}

void pool_forget(struct conn *c)
{
	struct pool_slot *slot = c->t.slot;

	if (slot == NULL)
		return;
	leave_waiters(c);
	c->t.slot = NULL;
	slot->users--;
	slot_put(c->pod, slot);
}

bool pool_retry(struct conn *c)
{
	struct hsess *s = c->t.s;

	if (c->t.slot == NULL || c->retries++ != 0)
		return false;
	if (s != NULL) {
		s->retired = true;
		list_remove(&c->t.sess_node);
		s->nconns--;
		stat_add(&c->pod->w->st.streams, -1);
		c->t.s = NULL;
		hsess_stream_gone(s);
	}
	c->t.closed = c->t.rx_eof = false;
	place(c, c->t.slot);
	return true;
}

static void serve_waiters(struct hsess *s)
{
	struct pool_slot *slot = s->slot;

	while (!list_empty(&slot->waiters) && s->state == HS_OPEN && !s->retired && has_room(s)) {
		struct conn *c = container_of(slot->waiters.next, struct conn, t.sess_node);

		leave_waiters(c);
		outbound_stream(c, s);
	}
}

static void fail_waiters(struct pool_slot *slot, enum conn_flag flag, const char *error)
{
	while (!list_empty(&slot->waiters))
		conn_end(container_of(slot->waiters.next, struct conn, t.sess_node), END_RESET,
			 flag, error);
}

void pool_session_open(struct hsess *s)
{
	struct pool_slot *slot = s->slot;
	size_t pending;

	serve_waiters(s);
	if (s->nconns == 0 && !list_empty(&slot->waiters)) {
		fail_waiters(slot, FLAG_CONNECT, "h2 failed: the peer allows no streams");
	} else if (!list_empty(&slot->waiters)) {
		(void)usable(slot, &pending);
		(void)grow(s->pod, slot, pending);
	}
	pool_room(s);
}

void pool_session_gone(struct hsess *s, enum conn_flag flag, const char *error)
{
	struct pool_slot *slot = take_ptr(s->slot);
	size_t pending;

	list_remove(&s->slot_node);
	slot->users++; /* keeps it while waiters end */
	if (usable(slot, &pending) == NULL && pending == 0)
		fail_waiters(slot, flag == FLAG_NONE ? FLAG_CONNECT : flag,
			     error != NULL ? error : "io error: connection closed by the peer");
	slot->users--;
	slot_put(s->pod, slot);
}

static void on_idle(struct timer *t)
{
	hsess_goaway(container_of(t, struct hsess, idle_timer));
}

/* Another one of the slot that has room for much of what @s could take; NULL: none. Where few
 * streams are allowed on each, every one of them is needed again with the next burst. */
static struct hsess *stand_in(const struct hsess *s)
{
	list_for_each (n, &s->slot->sessions) {
		struct hsess *o = container_of(n, struct hsess, slot_node);

		if (o != s && o->state == HS_OPEN && !o->retired && !o->ping_out &&
		    max_streams(o) >= SPARE_STREAMS && o->nconns <= max_streams(o) / 2)
			return o;
	}
	return NULL;
}

/* One is kept for what comes; those that a burst needed beside it cost both sides 50 KiB each. */
static void on_idle_first(struct timer *t)
{
	struct hsess *s = container_of(t, struct hsess, idle_timer), *o = stand_in(s);
	uint64_t idle_ms = s->pod->w->cfg->pool_idle_ms;

	if (o == NULL) {
		loop_timer_set(s->pod->w->loop, t, idle_ms - SPARE_MS, on_idle);
		return;
	}
	if (o->nconns == 0) /* it stays in the place of this one: as long as this one would */
		loop_timer_set(s->pod->w->loop, &o->idle_timer, idle_ms - SPARE_MS, on_idle);
	hsess_goaway(s);
}

void pool_room(struct hsess *s)
{
	if (s->state != HS_OPEN || s->slot == NULL)
		return;
	serve_waiters(s);
	if (s->state != HS_OPEN)
		return;
	if (s->nconns != 0)
		loop_timer_cancel(&s->idle_timer);
	else if (s->retired || s->pod->w->draining || s->slot->gateway != NULL)
		hsess_goaway(s);
	else if (s->pod->w->cfg->pool_idle_ms > SPARE_MS)
		loop_timer_set(s->pod->w->loop, &s->idle_timer, SPARE_MS, on_idle_first);
	else
		loop_timer_set(s->pod->w->loop, &s->idle_timer, s->pod->w->cfg->pool_idle_ms,
			       on_idle);
}

void pool_retire(struct pod *p)
{
	list_for_each_safe (n, &p->sessions) {
		struct hsess *s = container_of(n, struct hsess, pod_node);

		if (s->server || s->state != HS_OPEN)
			continue;
		s->retired = true;
		pool_room(s);
	}
}
