/* SPDX-License-Identifier: Apache-2.0
 * log_line.c: see log_line.h. Texts are quoted, addresses and numbers are not; in JSON addresses
 * are texts too.
 */
#include "ztunnel/observe/log_line.h"

struct writer {
	struct strbuf *out;
	bool json, any;
};

static void put_key(struct writer *w, const char *key)
{
	if (w->json)
		strbuf_puts(w->out, ",\"");
	else
		strbuf_putc(w->out, w->any ? ' ' : '\t');
	strbuf_puts(w->out, key);
	strbuf_puts(w->out, w->json ? "\":" : "=");
	w->any = true;
}

static void put_escaped(struct strbuf *b, struct str s)
{
	size_t from = 0; /* what is plain is added in one go */

	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		bool control = c < 0x20 || c == 0x7f;

		if (!control && c != '"' && c != '\\')
			continue;
		strbuf_add(b, s.p + from, i - from);
		from = i + 1;
		if (control)
			strbuf_printf(b, "\\u%04x", c);
		else
			strbuf_add(b, (const char[]){'\\', (char)c}, 2);
	}
	strbuf_add(b, s.p + from, s.n - from);
}

static void put_quoted(struct strbuf *b, struct str s)
{
	strbuf_putc(b, '"');
	put_escaped(b, s);
	strbuf_putc(b, '"');
}

static void put_text(struct writer *w, const char *key, struct str s)
{
	if (s.n == 0)
		return; /* absent values are left out */
	put_key(w, key);
	put_quoted(w->out, s);
}

static void put_addr(struct writer *w, const char *key, const struct ip_port *a)
{
	char text[IP_PORT_TEXT_MAX];

	if (a->ip.len == 0)
		return;
	put_key(w, key);
	if (w->json)
		strbuf_putc(w->out, '"');
	strbuf_puts(w->out, ip_port_format(a, text));
	if (w->json)
		strbuf_putc(w->out, '"');
}

/* The authority of the CONNECT: an address, or the service's name (ztunnel-spec 4.11). */
static void put_hbone(struct writer *w, const struct conn_info *c)
{
	if (c->hbone_addr.ip.len != 0 || c->hbone_addr.port == 0 || c->service == NULL) {
		put_addr(w, "dst.hbone_addr", &c->hbone_addr);
		return;
	}
	put_key(w, "dst.hbone_addr");
	if (w->json)
		strbuf_putc(w->out, '"');
	put_escaped(w->out, c->service->hostname);
	strbuf_printf(w->out, ":%u", c->hbone_addr.port);
	if (w->json)
		strbuf_putc(w->out, '"');
}

/* printf() would be the dearest part of a line. */
static void put_decimal(struct strbuf *b, uint64_t v)
{
	char text[20];
	size_t at = sizeof(text);

	do
		text[--at] = (char)('0' + v % 10);
	while ((v /= 10) != 0);
	strbuf_add(b, text + at, sizeof(text) - at);
}

static void put_number(struct writer *w, const char *key, uint64_t v)
{
	put_key(w, key);
	put_decimal(w->out, v);
}

static void put_side(struct writer *w, bool src, const struct workload *wl, const char *identity)
{
	if (wl != NULL) {
		put_text(w, src ? "src.workload" : "dst.workload", wl->name);
		put_text(w, src ? "src.namespace" : "dst.namespace", wl->ns);
	}
	put_text(w, src ? "src.identity" : "dst.identity", str_of(identity));
	if (wl != NULL)
		put_text(w, src ? "src.cluster" : "dst.cluster", wl->cluster);
}

/* Identities are known only with mutual TLS: the peer's is the one that TLS proved, ours is the
 * workload's. */
static const char *identity_of(const struct conn_info *c, bool src)
{
	bool peer = src == (c->reporter == REPORTER_DESTINATION);
	const struct workload *wl = src ? c->src : c->dst;

	if (c->via != VIA_HBONE)
		return NULL;
	if (peer && (c->peer_identity != NULL || src))
		return c->peer_identity;
	return wl != NULL ? wl->identity : NULL;
}

/* The fields that a connection has from its beginning on. */
static void put_ends(struct writer *w, const struct conn_info *c)
{
	put_addr(w, "src.addr", &c->src_addr);
	put_side(w, true, c->src, identity_of(c, true));
	put_addr(w, "dst.addr", &c->dst_addr);
	put_hbone(w, c);
	if (c->service != NULL)
		put_text(w, "dst.service", c->service->hostname);
	put_side(w, false, c->dst, identity_of(c, false));
	put_text(w, "direction", c->reporter == REPORTER_SOURCE ? STR("outbound") : STR("inbound"));
}

void log_line_opened(struct strbuf *out, bool json, const struct conn_info *c)
{
	struct writer w = {.out = out, .json = json};

	if (!json)
		strbuf_puts(out, "connection opened");
	put_ends(&w, c);
}

void log_line_complete(struct strbuf *out, bool json, const struct conn_info *c, const char *error,
		       uint64_t duration_ms)
{
	struct writer w = {.out = out, .json = json};
	bool outbound = c->reporter == REPORTER_SOURCE;

	if (!json)
		strbuf_puts(out, "connection complete");
	put_ends(&w, c);
	/* seen from the owner of the log: what its workload sent and received */
	put_number(&w, "bytes_sent", outbound ? c->bytes_recv : c->bytes_sent);
	put_number(&w, "bytes_recv", outbound ? c->bytes_sent : c->bytes_recv);
	put_key(&w, "duration");
	strbuf_putc(out, '"');
	put_decimal(out, duration_ms);
	strbuf_puts(out, "ms\"");
	put_text(&w, "error", str_of(error));
}

void log_line_policy(struct strbuf *out, bool json, const char *message, struct str policy,
		     const struct conn_info *c, unsigned int suppressed)
{
	struct writer w = {.out = out, .json = json};

	if (!json)
		strbuf_puts(out, message);
	put_text(&w, "policy", policy);
	put_addr(&w, "src.addr", &c->src_addr);
	put_side(&w, true, c->src, identity_of(c, true));
	put_addr(&w, "dst.addr", &c->orig_dst);
	put_side(&w, false, c->dst, identity_of(c, false));
	if (suppressed != 0)
		put_number(&w, "suppressed", suppressed);
}

void log_line_early(struct strbuf *out, bool json, enum conn_reporter r, const struct ip_port *src,
		    const struct ip_port *dst, const char *error)
{
	struct writer w = {.out = out, .json = json};

	if (!json)
		strbuf_puts(out, "connection failed");
	put_addr(&w, "src.addr", src);
	put_addr(&w, "dst.addr", dst);
	put_text(&w, "direction", r == REPORTER_SOURCE ? STR("outbound") : STR("inbound"));
	put_text(&w, "error", str_of(error));
}
