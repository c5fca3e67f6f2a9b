/* SPDX-License-Identifier: Apache-2.0
 * print.c: a report as text for people; see print.h. Pure.
 */
#include "ctl/print.h"

#include "ctl/model.h"
#include "ctl/table.h"
#include "lib/base/mem.h"

#define NOTE_MAX_CHARS 100

static struct str text_of(const struct strbuf *b)
{
	return (struct str){b->p, b->n};
}

static struct str or_else(struct str s, const char *other)
{
	return s.n != 0 ? s : str_of(other);
}

static enum ctl_colour state_colour(struct str state)
{
	if (str_eqc(state, "enrolled"))
		return CTL_GREEN;
	if (str_eqc(state, "pending"))
		return CTL_YELLOW;
	return str_eqc(state, "failed") || str_eqc(state, "quarantined") ? CTL_RED : CTL_PLAIN;
}

/* "3d", "23h", "59m", "10s" */
static void put_span(struct strbuf *b, int64_t s)
{
	if (s >= 2 * 86400)
		strbuf_printf(b, "%lldd", (long long)(s / 86400));
	else if (s >= 2 * 3600)
		strbuf_printf(b, "%lldh", (long long)(s / 3600));
	else if (s >= 120)
		strbuf_printf(b, "%lldm", (long long)(s / 60));
	else
		strbuf_printf(b, "%llds", (long long)s);
}

static enum ctl_colour put_cert(struct strbuf *b, const struct ctl_cert *c, int64_t now)
{
	if (c == NULL)
		return CTL_PLAIN;
	if (c->not_after == 0) {
		strbuf_str(b, or_else(c->state, "unknown"));
		return str_has_prefix(c->state, STR("Unavailable")) ? CTL_RED : CTL_YELLOW;
	}
	if (c->not_after <= now) {
		strbuf_puts(b, "EXPIRED ");
		put_span(b, now - c->not_after);
		strbuf_puts(b, " ago");
		return CTL_RED;
	}
	strbuf_puts(b, "until ");
	strbuf_str(b, c->not_after_text);
	strbuf_puts(b, " (");
	put_span(b, c->not_after - now);
	strbuf_putc(b, ')');
	return CTL_PLAIN;
}

/* As policies name it: without the scheme. */
static void put_identity(struct strbuf *b, const struct ctl_pod *p, struct str trust_domain)
{
	const struct str scheme = STR("spiffe://");

	if (p->cert != NULL && str_has_prefix(p->cert->identity, scheme))
		strbuf_add(b, p->cert->identity.p + scheme.n, p->cert->identity.n - scheme.n);
	else if (p->sa.n != 0)
		strbuf_printf(b, "%.*s/ns/%.*s/sa/%.*s", STR_FMT(or_else(trust_domain, "?")),
			      STR_FMT(p->ns), STR_FMT(p->sa));
}

static void put_sockets(struct strbuf *b, const struct ctl_pod *p)
{
	for (size_t i = 0; i < p->nsockets; i++) {
		if (i != 0)
			strbuf_putc(b, ',');
		strbuf_str(b, p->sockets[i]);
	}
	if (p->custody)
		strbuf_puts(b, " (custody)");
	else if (p->nsockets == 0 && str_eqc(p->state, "enrolled"))
		strbuf_puts(b, "ztunnel's own");
}

static void add_pod(struct ctl_table *t, const struct ctl_report *r, const struct ctl_pod *p)
{
	_cleanup_strbuf_ struct strbuf sockets = {0}, identity = {0}, cert = {0}, why = {0};
	bool enrolled = str_eqc(p->state, "enrolled");
	enum ctl_colour cc = CTL_PLAIN;

	if (!str_eqc(p->state, "not-in-mesh")) {
		put_sockets(&sockets, p);
		put_identity(&identity, p, r->ztunnel.trust_domain);
		cc = put_cert(&cert, p->cert, r->now);
		if (p->cert == NULL && r->ztunnel.answers)
			strbuf_puts(&cert, "none yet"); /* asked for with the first connection */
	}
	ctl_put(&why, p->error.n != 0 ? p->error : p->reason, NOTE_MAX_CHARS, CTL_PLAIN, false);
	ctl_table_add(t, p->ns, CTL_PLAIN);
	ctl_table_add(t, p->name, CTL_BOLD);
	ctl_table_add(t, p->state, state_colour(p->state));
	ctl_table_add(t, p->rules, enrolled && !str_eqc(p->rules, "present") ? CTL_RED : CTL_PLAIN);
	ctl_table_add(t, text_of(&sockets), CTL_PLAIN);
	ctl_table_add(t, text_of(&identity), CTL_PLAIN);
	ctl_table_add(t, text_of(&cert), cc);
	ctl_table_add(t, text_of(&why), p->error.n != 0 ? CTL_RED : CTL_PLAIN);
}

void ctl_print_pods(const struct ctl_report *r, const char *ns, bool colour, struct strbuf *out,
		    struct strbuf *out_notes)
{
	static const char *const heads[] = {"NAMESPACE", "NAME",     "STATE",	    "RULES",
					    "SOCKETS",	 "IDENTITY", "CERTIFICATE", "REASON"};
	struct ctl_table t = {.columns = ARRAY_LEN(heads)};

	if (!r->agent.answers)
		strbuf_printf(out_notes, "the agent does not answer: %s\n", r->agent.error);
	if (!r->ztunnel.answers)
		strbuf_printf(out_notes, "ztunnel does not answer, certificates are unknown: %s\n",
			      r->ztunnel.error);
	if (!r->agent.answers)
		return;
	for (size_t i = 0; i < ARRAY_LEN(heads); i++)
		ctl_table_add(&t, str_of(heads[i]), CTL_PLAIN);
	for (size_t i = 0; i < r->agent.npods; i++)
		if (ns == NULL || str_eqc(r->agent.pods[i].ns, ns))
			add_pod(&t, r, &r->agent.pods[i]);
	if (t.n == t.columns)
		strbuf_puts(out_notes, ns != NULL ? "the agent knows no pod of that namespace\n"
						  : "the agent knows no pod\n");
	else
		ctl_table_print(&t, colour, out);
	ctl_table_fini(&t);
}

static void row(struct ctl_table *t, const char *head, const struct strbuf *text, enum ctl_colour c)
{
	ctl_table_add(t, str_of(head), CTL_BOLD);
	ctl_table_add(t, text_of(text), c);
}

static void agent_rows(struct ctl_table *t, const struct ctl_agent *g)
{
	_cleanup_strbuf_ struct strbuf agent = {0}, source = {0};

	if (!g->answers) {
		strbuf_printf(&agent, "does not answer: %s", g->error);
		row(t, "agent", &agent, CTL_RED);
		return;
	}
	strbuf_printf(&agent, "%.*s on node %.*s, %s", STR_FMT(or_else(g->version, "?")),
		      STR_FMT(or_else(g->node, "?")), g->ready ? "ready" : "NOT READY");
	if (!g->ready && g->reason.n != 0)
		strbuf_printf(&agent, ": %.*s", STR_FMT(g->reason));
	row(t, "agent", &agent, g->ready ? CTL_GREEN : CTL_RED);
	strbuf_printf(&source, "%.*s %.*s, %s, pods: %u, namespaces: %u",
		      STR_FMT(or_else(g->source_kind, "?")), STR_FMT(g->source_where),
		      g->synced ? "synced" : "NOT SYNCED", g->source_pods, g->source_namespaces);
	if (g->stale)
		strbuf_printf(&source, ", STALE for %u s", g->source_age_s);
	if (g->source_error.n != 0)
		strbuf_printf(&source, ": %.*s", STR_FMT(g->source_error));
	row(t, "source", &source,
	    !g->synced				 ? CTL_RED
	    : g->source_error.n != 0 || g->stale ? CTL_YELLOW
						 : CTL_PLAIN);
}

static void link_rows(struct ctl_table *t, const struct ctl_agent *g)
{
	for (size_t i = 0; i < g->nlinks; i++) {
		const struct ctl_link *l = &g->links[i];
		_cleanup_strbuf_ struct strbuf b = {0};

		strbuf_printf(&b, "pid %u, protocol %u%s, snapshot %s%s", l->pid, l->version,
			      l->version >= 3	? " (sockets and keys in custody)"
			      : l->version >= 2 ? " (socket custody)"
						: "",
			      l->snapshot ? "confirmed" : "not confirmed yet",
			      l->newest ? "" : ", draining");
		row(t, "connected", &b, l->snapshot ? CTL_PLAIN : CTL_YELLOW);
	}
	if (g->answers && g->nlinks == 0) {
		_cleanup_strbuf_ struct strbuf b = {0};

		strbuf_puts(&b, "no ztunnel is connected to the agent");
		row(t, "connected", &b, CTL_RED);
	}
}

static void cert_row(struct ctl_table *t, const struct ctl_ztunnel *z, int64_t now)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const struct ctl_cert *first = NULL;
	size_t valid = 0, waiting = 0, bad = 0;

	for (size_t i = 0; i < z->ncerts; i++) {
		const struct ctl_cert *c = &z->certs[i];
		bool expired = c->not_after != 0 && c->not_after <= now;

		if (str_has_prefix(c->state, STR("Unavailable")) || expired)
			bad++;
		else if (c->not_after == 0)
			waiting++;
		else
			valid++;
		if (c->not_after > now && (first == NULL || c->not_after < first->not_after))
			first = c;
	}
	strbuf_printf(&b, "%zu valid, %zu awaited, %zu unavailable or expired", valid, waiting,
		      bad);
	if (first != NULL) {
		strbuf_puts(&b, ", the first ends in ");
		put_span(&b, first->not_after - now);
	}
	row(t, "certificates", &b, bad != 0 ? CTL_RED : CTL_PLAIN);
}

static void ztunnel_rows(struct ctl_table *t, const struct ctl_ztunnel *z, int64_t now)
{
	static const char *const ready[CTL_READY_N] = {"readiness unknown", "ready", "NOT READY"};
	_cleanup_strbuf_ struct strbuf b = {0}, ca = {0}, w = {0};
	size_t up = 0, in = 0, out = 0;

	if (!z->answers) {
		strbuf_printf(&b, "does not answer: %s", z->error);
		row(t, "ztunnel", &b, CTL_RED);
		return;
	}
	strbuf_printf(&b, "%.*s, %s", STR_FMT(or_else(z->version, "?")), ready[z->ready]);
	if (z->ready == CTL_READY_NO && z->ready_text.n != 0)
		strbuf_printf(&b, ": %.*s", STR_FMT(z->ready_text));
	row(t, "ztunnel", &b,
	    z->ready == CTL_READY_NO	? CTL_RED
	    : z->ready == CTL_READY_YES ? CTL_GREEN
					: CTL_PLAIN);
	for (size_t i = 0; i < z->nworkloads; i++) {
		up += str_eqc(z->workloads[i].state, "Up");
		in += z->workloads[i].inbound;
		out += z->workloads[i].outbound;
	}
	strbuf_printf(&w, "%zu up, %zu waiting; connections: %zu in, %zu out", up,
		      z->nworkloads - up, in, out);
	row(t, "workloads", &w, up == z->nworkloads ? CTL_PLAIN : CTL_YELLOW);
	if (z->ca.n != 0)
		strbuf_printf(&ca, "%.*s%s", STR_FMT(z->ca),
			      z->ca_is_dev ? " (development CA, not for production)" : "");
	row(t, "CA", &ca, CTL_PLAIN);
	cert_row(t, z, now);
}

static void pods_row(struct ctl_table *t, const struct ctl_agent *g)
{
	/* the last one is rare: it is named when it is there */
	static const char *const states[] = {"enrolled", "pending", "not-in-mesh", "failed",
					     "quarantined"};
	_cleanup_strbuf_ struct strbuf b = {0};
	size_t other = g->npods;

	if (!g->answers)
		return;
	for (size_t k = 0; k < ARRAY_LEN(states); k++) {
		size_t n = 0;

		for (size_t i = 0; i < g->npods; i++)
			n += str_eqc(g->pods[i].state, states[k]);
		other -= n;
		if (n == 0 && k + 1 == ARRAY_LEN(states))
			continue;
		strbuf_printf(&b, "%s%zu %s", k != 0 ? ", " : "", n, states[k]);
	}
	if (other != 0)
		strbuf_printf(&b, ", %zu other", other);
	row(t, "pods", &b, CTL_PLAIN);
}

static void problems(const struct ctl_report *r, bool colour, struct strbuf *out)
{
	_cleanup_strbuf_ struct strbuf head = {0};

	if (r->nproblems == 0)
		strbuf_puts(&head, "No problem found.");
	else
		strbuf_printf(&head, "%zu problem%s:", r->nproblems, r->nproblems == 1 ? "" : "s");
	ctl_put(out, text_of(&head), 0, r->nproblems == 0 ? CTL_GREEN : CTL_RED, colour);
	strbuf_putc(out, '\n');
	for (size_t i = 0; i < r->nproblems; i++) {
		strbuf_puts(out, "  ");
		ctl_put(out, str_of(r->problems[i].what), 0, CTL_BOLD, colour);
		strbuf_puts(out, "\n    -> ");
		ctl_put(out, str_of(r->problems[i].act), 0, CTL_PLAIN, colour);
		strbuf_putc(out, '\n');
	}
	strbuf_putc(out, '\n');
}

static void install_row(struct ctl_table *t, const struct ctl_agent *g)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	bool well = str_eqc(g->install_state, "installed");

	if (!g->answers || g->install_mode.n == 0 || str_eqc(g->install_mode, "off"))
		return;
	strbuf_printf(&b, "%.*s, %.*s", STR_FMT(g->install_mode), STR_FMT(g->install_state));
	if (g->install_file.n != 0)
		strbuf_printf(&b, ", %.*s", STR_FMT(g->install_file));
	if (g->install_reason.n != 0)
		strbuf_printf(&b, ": %.*s", STR_FMT(g->install_reason));
	row(t, "CNI", &b, well ? CTL_PLAIN : CTL_RED);
}

void ctl_print_status(const struct ctl_report *r, bool colour, struct strbuf *out)
{
	struct ctl_table t = {.columns = 2};

	problems(r, colour, out);
	pods_row(&t, &r->agent);
	agent_rows(&t, &r->agent);
	install_row(&t, &r->agent);
	link_rows(&t, &r->agent);
	ztunnel_rows(&t, &r->ztunnel, r->now);
	ctl_table_print(&t, colour, out);
	ctl_table_fini(&t);
}
