/* SPDX-License-Identifier: Apache-2.0
 * inbound.c: what other pods open to a pod through HBONE (15008).
 *
 * What the certificate says is a fact; everything else in a CONNECT is a claim (security.md E3):
 * the address to dial is this pod's own, only its port comes from the authority, only the client's
 * port comes from `forwarded`. Source: ztunnel-spec 5.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/format/proxy_v2.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

struct hsess *inbound_serve(struct pod *p, int fd, const struct ip_port *peer)
{
	struct hsess *s = hsess_new(p, true);

	if (s == NULL) {
		(void)xclose(fd);
		return NULL;
	}
	s->leg.w.fd = fd;
	s->peer = *peer;
	if (sock_local_addr(fd, &s->local) < 0) {
		hsess_fail(s, FLAG_CONNECT, "io error: no local address");
		return NULL;
	}
	if (p->id != NULL)
		hsess_start_server(s);
	else
		worker_want_identity(p); /* PARKED, until the certificate comes */
	return s;
}

static void answer(struct conn *c, const char *status)
{
	struct h2_field f = {STR(":status"), str_of(status)};
	struct hsess *s = c->t.s;

	if (s == NULL || c->t.closed)
		return;
	h2_detach(s->h2, c->t.id);
	if (h2_respond(s->h2, c->t.id, &f, 1, true) < 0)
		h2_reset(s->h2, c->t.id, H2_INTERNAL_ERROR);
	c->t.closed = true; /* for us: nothing to reset */
	hsess_dirty(s);
}

static void refuse(struct conn *c, const char *status, enum conn_flag flag, const char *error)
{
	answer(c, status);
	conn_end(c, END_RESET, flag, error);
}

void inbound_unavailable(struct conn *c, const char *error)
{
	refuse(c, "503", FLAG_CONNECT, error);
}

/* The socket is new: it has room. */
static bool send_first(struct conn *c)
{
	ssize_t n =
		c->t.first.n != 0 ? send(c->app.w.fd, c->t.first.p, c->t.first.n, MSG_NOSIGNAL) : 0;

	free(take_ptr(c->t.first.p));
	return n == (ssize_t)c->t.first.n;
}

static void on_dialled(struct dial *d, int error)
{
	struct conn *c = d->owner;
	struct hsess *s = c->t.s;
	struct h2_field f[] = {
		{STR(":status"), STR("200")},
		{STR("baggage"), {c->pod->baggage.p, c->pod->baggage.n}},
	};
	char buf[128];

	dial_free(d);
	if (error != 0) {
		io_error_text(buf, sizeof(buf), "connection failed", error);
		refuse(c, "503", FLAG_CONNECT, buf);
		return;
	}
	if (h2_respond(s->h2, c->t.id, f, c->pod->baggage.n != 0 && c->pod->w->cfg->baggage ? 2 : 1,
		       false) < 0) {
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
		return;
	}
	hsess_dirty(s);
	if (send_first(c))
		tunnel_open(c);
	else
		conn_end(c, END_RESET, FLAG_CONNECT,
			 "io error: the application does not take the PROXY header");
}

/* Who the peer says it is, for log lines and metrics. */
static void take_claims(struct conn *c, const struct h2_head *h)
{
	struct baggage b;

	if (c->pod->w->cfg->baggage && claims_baggage(h, &b))
		c->info.src = baggage_workload(&b, b.canonical_name, c->info.peer_identity);
}

/* ztunnel-spec 5.7: the workload that has the client's address; where that is not the client's own,
 * or nobody's that we know, what it says about itself. @h NULL: .src holds that already. */
static void find_source(struct conn *c, const struct h2_head *h)
{
	struct worker *w = c->pod->w;
	struct workload *wl = NULL;

	if (!c->t.other_network)
		wl = mesh_workload_by_ip(w->mesh, str_of(w->cfg->network), &c->t.s->peer.ip);
	if (wl != NULL) {
		workload_unref(c->info.src);
		c->info.src = workload_ref(wl);
	} else if (h != NULL) {
		take_claims(c, h);
	}
}

static void describe(struct conn *c, struct str authority, const struct inbound_target *t,
		     const struct h2_head *h)
{
	struct conn_info *i = &c->info;

	i->via = VIA_HBONE;
	find_source(c, h);
	i->dst = workload_ref(c->pod->wl);
	i->service = service_ref(t->service);
	i->dst_addr = c->t.s->local;
	i->orig_dst = t->app;
	if (ip_port_parse(authority, &i->hbone_addr) < 0)
		i->hbone_addr = (struct ip_port){.port = t->tunnel.port};
	conn_opened(c);
}

static void dial_app(struct conn *c, const struct inbound_target *t)
{
	const struct worker_config *cfg = c->pod->w->cfg;
	struct ip_port src = {c->t.s->peer.ip, c->t.client_port}, dst = t->app;

	if (t->proxy) { /* the header says who it is */
		struct str peer = str_of(c->info.peer_identity);

		c->t.first.p = malloc(PROXY_V2_MAX);
		if (c->t.first.p == NULL) {
			refuse(c, "503", FLAG_CONNECT, "out of memory");
			return;
		}
		c->t.first.n = proxy_v2_write(c->t.first.p, &c->t.s->peer, &t->tunnel, peer);
		if (cfg->app_on_loopback)
			dst.ip = src.ip = ip_loopback(dst.ip.len);
	}
	if (cfg->orig_src == 0)
		src = (struct ip_port){0};
	if (dial_start(c->pod, &c->app, &dst, &src, on_dialled, c) == NULL)
		refuse(c, "503", FLAG_CONNECT, "out of memory");
}

/* What is needed again when the connection goes on later; header values hold no NUL (RFC 9113
 * 8.2.1, enforced by nghttp2). False: it has ended. */
static bool remember(struct conn *c, struct str authority, struct str host)
{
	c->t.parked = calloc(1, authority.n + host.n + 2);
	if (c->t.parked == NULL) {
		refuse(c, "503", FLAG_CONNECT, "out of memory");
		return false;
	}
	memcpy(c->t.parked, authority.p, authority.n);
	if (host.n != 0)
		memcpy(c->t.parked + authority.n + 1, host.p, host.n);
	return true;
}

/* On-demand mode: what @t would need, then who the peer is (ztunnel-spec 5.4, 5.7). */
static bool asks(struct conn *c, const struct inbound_target *t)
{
	if (t->status == 0)
		return !c->t.other_network && ask_source(c, &c->t.s->peer.ip);
	return ask_waits(c, t->missing, &t->missing_ref);
}

static void decide(struct conn *c, struct str authority, struct str host, const struct h2_head *h)
{
	struct worker *w = c->pod->w;
	struct inbound_target t = {0};
	char why[192];

	decide_inbound(w->mesh, c->pod->wl, str_of(w->cfg->network), authority, &c->t.s->local,
		       host, &t);
	if (asks(c, &t)) {
		if (h != NULL)
			take_claims(c, h);
		(void)remember(c, authority, host);
		return;
	}
	if (t.status != 0) {
		if (t.status == 400)
			h2_charge(c->t.s->h2);
		refuse(c, t.status == 400 ? "400" : "503", FLAG_CONNECT, t.error);
		return;
	}
	conn_unpark(c, CS_DIALING);
	describe(c, authority, &t, h);
	if (!conn_allowed(c, why, sizeof(why))) {
		refuse(c, "401", FLAG_DENY, why);
		return;
	}
	dial_app(c, &t);
}

/* Again, with what was remembered when it was parked. */
void inbound_go(struct conn *c)
{
	char *text;

	if (c->pod->wl == NULL) {
		conn_park(c);
		return;
	}
	text = take_ptr(c->t.parked);
	decide(c, str_of(text), str_of(text + strlen(text) + 1), NULL);
	free(text);
}

static void park(struct conn *c, struct str authority, struct str host)
{
	if (remember(c, authority, host))
		conn_park(c);
}

void inbound_request(struct hsess *s, int32_t id, const struct h2_head *h)
{
	struct str authority = h2_head_get(h, ":authority"), method = h2_head_get(h, ":method"),
		   host = {0};
	struct conn *c = conn_new(s->pod, CONN_IN_HBONE);
	struct ip_port client = {0};
	char buf[96];

	if (c == NULL) {
		h2_reset(s->h2, id, H2_INTERNAL_ERROR);
		return;
	}
	tunnel_init(c);
	tunnel_attach(c, s, id);
	h2_set_user(s->h2, id, c);
	c->info.src_addr = s->peer;
	c->info.orig_dst = s->local;
	c->info.peer_identity = xstrdup(tls_session_peer(s->tls));
	decide_parse_forwarded(h2_head_get(h, "forwarded"), &client, &host);
	c->t.client_port = client.port;
	c->t.other_network = claims_other_network(h, s->pod->w->cfg->network);
	if (!str_eqc(method, "CONNECT") || authority.n == 0) {
		(void)snprintf(buf, sizeof(buf), "expected method CONNECT, got %s",
			       str_shown(method));
		h2_charge(s->h2);
		refuse(c, "400", FLAG_CONNECT,
		       authority.n == 0 ? "no valid authority pseudo header" : buf);
	} else if (s->pod->wl == NULL) {
		take_claims(c, h);
		park(c, authority, host);
	} else {
		decide(c, authority, host, h);
	}
}
