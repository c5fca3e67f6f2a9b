/* SPDX-License-Identifier: Apache-2.0
 * outbound.c: what an application of a pod opens (15001): identify, decide, dial, relay.
 * Source: ztunnel-spec 4.3, 4.9-4.12.
 */
#include <errno.h>
#include <stdio.h>

#include "lib/os/clock.h"
#include "ztunnel/data/data.h"

static const char *status_text(unsigned int status)
{
	switch (status) {
	case 400:
		return "400 Bad Request";
	case 401:
		return "401 Unauthorized";
	case 404:
		return "404 Not Found";
	case 503:
		return "503 Service Unavailable";
	default:
		return NULL;
	}
}

static void on_dialled(struct dial *d, int error)
{
	struct conn *c = d->owner;
	char buf[128];

	dial_free(d);
	if (error == 0) {
		relay_start(c);
		return;
	}
	io_error_text(buf, sizeof(buf), "io error", error);
	conn_end(c, END_RESET, FLAG_CONNECT, buf);
}

static void describe(struct conn *c, const struct route *r)
{
	struct conn_info *i = &c->info;

	i->src = workload_ref(pod_source(c->pod));
	i->dst = workload_ref(r->dst);
	i->service = service_ref(r->service);
	i->dst_addr = r->dial;
	if (r->kind != ROUTE_PASSTHROUGH) {
		i->via = VIA_HBONE;
		i->hbone_addr = r->authority;
	}
	if (r->kind == ROUTE_DOUBLE_HBONE)
		c->late = true; /* whom it reached, the answer tells */
	else
		conn_opened(c);
}

static void follow(struct conn *c, const struct route *r)
{
	conn_unpark(c, r->kind != ROUTE_PASSTHROUGH ? CS_WAITING : CS_DIALING);
	describe(c, r);
	if (r->kind != ROUTE_PASSTHROUGH) {
		tunnel_init(c);
		c->t.via_waypoint = r->via_waypoint;
		pool_get(c, r);
	} else if (dial_start(c->pod, &c->r.up, &r->dial, NULL, on_dialled, c) == NULL) {
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
	}
}

/* False: it waits for the answer. */
static bool look_up(struct conn *c, struct route *r)
{
	const struct ip_addr *addr;
	size_t n;
	const char *why;

	switch (names_get(c, r->lookup.p, &addr, &n, &why)) {
	case NAMES_WAIT:
		return false;
	case NAMES_FOUND:
		decide_resolved(r, addr, n, &c->info.orig_dst.ip, hash_mix(c->draw, 3));
		return true;
	case NAMES_NONE:
		break;
	}
	r->kind = ROUTE_REFUSE;
	(void)snprintf(r->error, sizeof(r->error),
		       "no ip addresses were resolved for workload: %s (%s: %s)",
		       str_shown(r->dst->uid), str_shown(r->lookup), why);
	return true;
}

/* On-demand mode: the decision may be another one with what is missing. True: it waits for it, or
 * has ended: what nobody has said is in the mesh or not must not leave in the clear. */
static bool lacks(struct conn *c, const struct route *r)
{
	if (ask_waits(c, r->missing, &r->missing_ref))
		return true;
	if (r->missing != MISSING_ADDRESS || !c->unanswered)
		return false;
	conn_end(c, END_RESET, FLAG_CONNECT,
		 "on-demand xds: no answer from istiod about the destination");
	return true;
}

void outbound_go(struct conn *c)
{
	struct pod *p = c->pod;
	const struct workload *src = pod_source(p);
	struct route r = {0};

	if (src == NULL) {
		conn_park(c);
		return;
	}
	decide_outbound(p->w->mesh, src, str_of(p->w->cfg->network), &c->info.orig_dst, c->draw,
			&r);
	if (lacks(c, &r))
		return;
	if (r.lookup.n != 0 && !look_up(c, &r))
		return;
	switch (r.kind) {
	case ROUTE_PASSTHROUGH:
		follow(c, &r);
		break;
	case ROUTE_HBONE:
	case ROUTE_DOUBLE_HBONE:
		if (p->id == NULL)
			conn_park(c);
		else
			follow(c, &r);
		break;
	case ROUTE_REFUSE:
	case ROUTE_KIND_N:
	default: /* fail closed */
		conn_end(c, END_RESET, FLAG_CONNECT, r.error);
	}
}

/* Not redirected: somebody connected to this very listener. What is passed through to the address
 * it has in the pod would come back here, again and again. */
static bool is_our_listener(int fd, const struct ip_port *orig_dst)
{
	struct ip_port local;

	return decide_port_is_ours(orig_dst->port) &&
	       (sock_local_addr(fd, &local) < 0 || ip_port_eq(&local, orig_dst));
}

void outbound_accepted(struct pod *p, int fd, const struct ip_port *peer)
{
	struct conn *c = conn_new(p, CONN_OUT);

	if (c == NULL) {
		struct leg l = {.w = {.fd = fd}};

		leg_reset(p, &l);
		return;
	}
	c->app.w.fd = fd;
	c->draw = rand_u64();
	c->info.src_addr = *peer;
	if (sock_original_dst(fd, &c->info.orig_dst) < 0) {
		conn_end(c, END_RESET, FLAG_NONE, "io error: no original destination");
		return;
	}
	if (decide_outbound_loops(&c->info.orig_dst) || is_our_listener(fd, &c->info.orig_dst)) {
		conn_end(c, END_RESET, FLAG_NONE, "attempted recursive call to ourselves");
		return;
	}
	outbound_go(c);
}

/* ---- the CONNECT ---- */

static void on_no_answer(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	conn_end(c, END_RESET, FLAG_CONNECT, "h2 failed: no answer to CONNECT in time");
}

static struct str forwarded(const struct conn *c, char *buf, size_t cap)
{
	char addr[IP_PORT_TEXT_MAX];
	int n;

	(void)ip_port_format(&c->info.src_addr, addr);
	if (c->info.service != NULL && c->info.service->hostname.n != 0)
		n = snprintf(buf, cap, "for=\"%s\";host=%.*s", addr,
			     STR_FMT(c->info.service->hostname));
	else
		n = snprintf(buf, cap, "for=\"%s\"", addr);
	return (struct str){buf, n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1};
}

/* An address, or behind a gateway the service's name; ztunnel-spec 4.11. */
static struct str authority(const struct conn *c, char *buf, size_t cap)
{
	const struct ip_port *a = &c->info.hbone_addr;
	char text[IP_PORT_TEXT_MAX];
	int n;

	if (a->ip.len != 0)
		n = snprintf(buf, cap, "%s", ip_port_format(a, text));
	else
		n = snprintf(buf, cap, "%.*s:%u", STR_FMT(c->info.service->hostname), a->port);
	bug_on(n < 0 || (size_t)n >= cap); /* decide.c lets no longer name through */
	return (struct str){buf, (size_t)n};
}

/* The same for every request that is made for this connection. */
static struct str trace(const struct conn *c, char *buf, size_t cap)
{
	uint64_t seed[] = {ip_port_hash(&c->info.src_addr), c->info.start_ns, 0}, id[3];
	int n;

	for (size_t i = 0; i < ARRAY_LEN(id); i++) {
		seed[2] = i;
		id[i] = hash_bytes(seed, sizeof(seed));
	}
	n = snprintf(buf, cap, "00-%016llx%016llx-%016llx-00", (unsigned long long)id[0],
		     (unsigned long long)id[1], (unsigned long long)id[2]);
	return (struct str){buf, (size_t)n};
}

void outbound_stream(struct conn *c, struct hsess *s)
{
	char to[320], fwd[384], tr[64];
	struct h2_field f[] = {
		{STR(":method"), STR("CONNECT")},
		{STR(":authority"), authority(c, to, sizeof(to))},
		{STR("baggage"), {c->pod->baggage.p, c->pod->baggage.n}},
		{STR("forwarded"), forwarded(c, fwd, sizeof(fwd))},
		{STR("traceparent"), trace(c, tr, sizeof(tr))},
		{STR("x-forwarded-network"), str_of(c->pod->w->cfg->network)},
	};
	size_t n = s->carrier != NULL ? ARRAY_LEN(f) : ARRAY_LEN(f) - 1;
	int32_t id = h2_request(s->h2, f, n, c);

	if (id < 0) { /* out of stream ids, or going away */
		s->retired = true;
		if (!pool_retry(c))
			conn_end(c, END_RESET, FLAG_CONNECT, "h2 failed: no stream available");
		return;
	}
	loop_timer_cancel(&s->idle_timer);
	tunnel_attach(c, s, id);
	loop_timer_set(c->pod->w->loop, &c->timer, LIMIT_CONNECT_RESPONSE_MS, on_no_answer);
	hsess_dirty(s);
}

/* ztunnel-spec 4.7: behind a gateway only the peer itself can say who it is; its name is the one of
 * its certificate. */
static void describe_peer(struct conn *c, const struct h2_head *h)
{
	struct conn_info *i = &c->info;
	struct baggage b = {0};

	i->peer_identity = xstrdup(tls_session_peer(c->t.s->tls));
	if (claims_baggage(h, &b)) {
		workload_unref(i->dst);
		i->dst = baggage_workload(&b, b.workload_name, i->peer_identity);
	}
	c->late = false;
	conn_opened(c);
}

static void established(struct conn *c, const struct h2_head *h)
{
	pool_forget(c);
	if (c->kind == CONN_CARRIER) {
		gateway_answered(c);
		return;
	}
	if (c->late)
		describe_peer(c, h);
	tunnel_open(c);
}

void outbound_head(struct conn *c, const struct h2_head *h)
{
	struct str v = h2_head_get(h, ":status");
	uint32_t status = 0;
	char buf[64];

	OBJ_CHECK(c, CONN_MAGIC);
	if (c->state != CS_WAITING)
		return;
	if (parse_u32(v, 0, 999, &status) == 0 && status == 200) {
		established(c, h);
		return;
	}
	if (status_text(status) != NULL)
		(void)snprintf(buf, sizeof(buf), "http status: %s", status_text(status));
	else
		(void)snprintf(buf, sizeof(buf), "http status: %u", status);
	conn_end(c, END_RESET, FLAG_CONNECT, buf);
}
