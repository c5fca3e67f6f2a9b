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
		strbuf_printf(w->out, ",\"%s\":", key);
	else
		strbuf_printf(w->out, "%s%s=", w->any ? " " : "\t", key);
	w->any = true;
}

static void put_quoted(struct strbuf *b, struct str s)
{
	strbuf_putc(b, '"');
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c == '"' || c == '\\')
			strbuf_printf(b, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			strbuf_printf(b, "\\u%04x", c);
		else
			strbuf_putc(b, (char)c);
	}
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
	strbuf_printf(w->out, w->json ? "\"%s\"" : "%s", ip_port_format(a, text));
}

static void put_number(struct writer *w, const char *key, uint64_t v)
{
	put_key(w, key);
	strbuf_printf(w->out, "%llu", (unsigned long long)v);
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

void log_line_complete(struct strbuf *out, bool json, const struct conn_info *c, const char *error,
		       uint64_t duration_ms)
{
	struct writer w = {.out = out, .json = json};
	bool outbound = c->reporter == REPORTER_SOURCE;
	struct strbuf d = {0};

	if (!json)
		strbuf_puts(out, "connection complete");
	put_addr(&w, "src.addr", &c->src_addr);
	put_side(&w, true, c->src, identity_of(c, true));
	put_addr(&w, "dst.addr", &c->dst_addr);
	put_addr(&w, "dst.hbone_addr", &c->hbone_addr);
	if (c->service != NULL)
		put_text(&w, "dst.service", c->service->hostname);
	put_side(&w, false, c->dst, identity_of(c, false));
	put_text(&w, "direction", outbound ? STR("outbound") : STR("inbound"));
	/* seen from the owner of the log: what its workload sent and received */
	put_number(&w, "bytes_sent", outbound ? c->bytes_recv : c->bytes_sent);
	put_number(&w, "bytes_recv", outbound ? c->bytes_sent : c->bytes_recv);
	strbuf_printf(&d, "%llums", (unsigned long long)duration_ms);
	put_text(&w, "duration", (struct str){d.p, d.n});
	strbuf_fini(&d);
	put_text(&w, "error", str_of(error));
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
