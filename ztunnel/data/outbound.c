/* SPDX-License-Identifier: Apache-2.0
 * outbound.c: what an application of a pod opens (15001): identify, decide, dial, relay.
 * Source: ztunnel-spec 4.3, 4.9-4.12.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

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
	(void)snprintf(buf, sizeof(buf), "io error: %s", strerror(error));
	conn_end(c, END_RESET, FLAG_CONNECT, buf);
}

static void describe(struct conn *c, const struct route *r)
{
	struct conn_info *i = &c->info;

	i->src = workload_ref(c->pod->wl);
	i->dst = workload_ref(r->dst);
	i->service = service_ref(r->service);
	i->dst_addr = r->dial;
	if (r->kind == ROUTE_HBONE) {
		i->via = VIA_HBONE;
		i->hbone_addr = r->authority;
	}
	conn_opened(c);
}

static void follow(struct conn *c, const struct route *r)
{
	conn_unpark(c, r->kind == ROUTE_HBONE ? CS_WAITING : CS_DIALING);
	describe(c, r);
	if (r->kind == ROUTE_HBONE) {
		tunnel_init(c);
		pool_get(c, r);
	} else if (dial_start(c->pod, &c->r.up, &r->dial, NULL, on_dialled, c) == NULL) {
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
	}
}

void outbound_go(struct conn *c)
{
	struct pod *p = c->pod;
	struct route r = {0};

	if (p->wl == NULL) {
		conn_park(c);
		return;
	}
	decide_outbound(p->w->mesh, p->wl, str_of(p->w->cfg->network), &c->info.orig_dst,
			rand_u64(), &r);
	switch (r.kind) {
	case ROUTE_PASSTHROUGH:
		follow(c, &r);
		break;
	case ROUTE_HBONE:
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

		leg_reset(p->w, &l);
		return;
	}
	c->app.w.fd = fd;
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

void outbound_stream(struct conn *c, struct hsess *s)
{
	char authority[IP_PORT_TEXT_MAX], fwd[384], trace[64];
	struct h2_field f[] = {
		{STR(":method"), STR("CONNECT")},
		{STR(":authority"), str_of(ip_port_format(&c->info.hbone_addr, authority))},
		{STR("baggage"), {c->pod->baggage.p, c->pod->baggage.n}},
		{STR("forwarded"), forwarded(c, fwd, sizeof(fwd))},
		{STR("traceparent"), {trace, 0}},
	};
	int32_t id;

	f[4].value.n =
		(size_t)snprintf(trace, sizeof(trace), "00-%016llx%016llx-%016llx-00",
				 (unsigned long long)rand_u64(), (unsigned long long)rand_u64(),
				 (unsigned long long)rand_u64());
	id = h2_request(s->h2, f, ARRAY_LEN(f), c);
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

void outbound_head(struct conn *c, const struct h2_head *h)
{
	struct str v = h2_head_get(h, ":status");
	uint32_t status = 0;
	char buf[64];

	OBJ_CHECK(c, CONN_MAGIC);
	if (c->state != CS_WAITING)
		return;
	if (parse_u32(v, 0, 999, &status) == 0 && status == 200) {
		pool_forget(c);
		tunnel_open(c);
		return;
	}
	if (status_text(status) != NULL)
		(void)snprintf(buf, sizeof(buf), "http status: %s", status_text(status));
	else
		(void)snprintf(buf, sizeof(buf), "http status: %u", status);
	conn_end(c, END_RESET, FLAG_CONNECT, buf);
}
