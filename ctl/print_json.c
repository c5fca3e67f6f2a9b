/* SPDX-License-Identifier: Apache-2.0
 * print_json.c: a report as JSON; see print.h. Pure.
 */
#include "ctl/model.h"
#include "ctl/print.h"
#include "lib/format/json.h"

static void write_texts(struct jsonw *w, const char *key, const struct str *s, size_t n)
{
	jsonw_list(w, key);
	for (size_t i = 0; i < n; i++)
		jsonw_str(w, NULL, s[i]);
	jsonw_end_list(w);
}

static void write_cert(struct jsonw *w, const char *key, const struct ctl_cert *c, int64_t now)
{
	if (c == NULL) {
		jsonw_null(w, key);
		return;
	}
	jsonw_obj(w, key);
	jsonw_str(w, "identity", c->identity);
	jsonw_str(w, "state", c->state);
	if (c->not_after != 0) {
		jsonw_str(w, "validFrom", c->not_before_text);
		jsonw_str(w, "expirationTime", c->not_after_text);
		jsonw_bool(w, "expired", c->not_after <= now);
	}
	jsonw_end_obj(w);
}

static void write_pod(struct jsonw *w, const struct ctl_pod *p, int64_t now)
{
	jsonw_obj(w, NULL);
	jsonw_str(w, "namespace", p->ns);
	jsonw_str(w, "name", p->name);
	jsonw_str(w, "uid", p->uid);
	jsonw_str(w, "serviceAccount", p->sa);
	jsonw_str(w, "state", p->state);
	jsonw_str(w, "reason", p->reason);
	jsonw_str(w, "error", p->error);
	jsonw_str(w, "netns", p->netns);
	jsonw_str(w, "containerID", p->container);
	write_texts(w, "ips", p->ips, p->nips);
	jsonw_str(w, "rules", p->rules);
	jsonw_str(w, "ruleDiff", p->rule_diff);
	write_texts(w, "sockets", p->sockets, p->nsockets);
	jsonw_bool(w, "custody", p->custody);
	write_cert(w, "certificate", p->cert, now);
	if (p->served != NULL)
		jsonw_str(w, "ztunnelState", p->served->state);
	else
		jsonw_null(w, "ztunnelState");
	jsonw_end_obj(w);
}

static void write_agent(struct jsonw *w, const struct ctl_agent *g)
{
	jsonw_obj(w, "agent");
	jsonw_bool(w, "answers", g->answers);
	if (!g->answers) {
		jsonw_cstr(w, "error", g->error);
		jsonw_end_obj(w);
		return;
	}
	jsonw_str(w, "version", g->version);
	jsonw_str(w, "node", g->node);
	jsonw_bool(w, "ready", g->ready);
	jsonw_str(w, "reason", g->reason);
	jsonw_obj(w, "source");
	jsonw_str(w, "kind", g->source_kind);
	jsonw_str(w, "where", g->source_where);
	jsonw_bool(w, "synced", g->synced);
	jsonw_int(w, "pods", g->source_pods);
	jsonw_int(w, "namespaces", g->source_namespaces);
	jsonw_str(w, "error", g->source_error);
	if (g->stale) {
		jsonw_bool(w, "stale", true);
		jsonw_int(w, "ageSeconds", g->source_age_s);
	}
	jsonw_end_obj(w);
	jsonw_list(w, "ztunnels");
	for (size_t i = 0; i < g->nlinks; i++) {
		jsonw_obj(w, NULL);
		jsonw_int(w, "pid", g->links[i].pid);
		jsonw_int(w, "version", g->links[i].version);
		jsonw_bool(w, "snapshot", g->links[i].snapshot);
		jsonw_bool(w, "newest", g->links[i].newest);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
	jsonw_end_obj(w);
}

static void write_ztunnel(struct jsonw *w, const struct ctl_ztunnel *z, int64_t now)
{
	jsonw_obj(w, "ztunnel");
	jsonw_bool(w, "answers", z->answers);
	if (!z->answers) {
		jsonw_cstr(w, "error", z->error);
		jsonw_end_obj(w);
		return;
	}
	jsonw_str(w, "version", z->version);
	jsonw_str(w, "trustDomain", z->trust_domain);
	if (z->ready == CTL_READY_UNKNOWN)
		jsonw_null(w, "ready");
	else
		jsonw_bool(w, "ready", z->ready == CTL_READY_YES);
	jsonw_str(w, "readyText", z->ready_text);
	jsonw_str(w, "ca", z->ca);
	jsonw_bool(w, "developmentCA", z->ca_is_dev);
	jsonw_str(w, "stateError", z->state_error);
	jsonw_list(w, "certificates");
	for (size_t i = 0; i < z->ncerts; i++)
		write_cert(w, NULL, &z->certs[i], now);
	jsonw_end_list(w);
	jsonw_list(w, "workloads");
	for (size_t i = 0; i < z->nworkloads; i++) {
		jsonw_obj(w, NULL);
		jsonw_str(w, "uid", z->workloads[i].uid);
		jsonw_str(w, "state", z->workloads[i].state);
		jsonw_int(w, "inbound", (long long)z->workloads[i].inbound);
		jsonw_int(w, "outbound", (long long)z->workloads[i].outbound);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
	jsonw_end_obj(w);
}

static void write_pods(struct jsonw *w, const struct ctl_report *r, const char *ns)
{
	jsonw_list(w, "pods");
	for (size_t i = 0; i < r->agent.npods; i++)
		if (ns == NULL || str_eqc(r->agent.pods[i].ns, ns))
			write_pod(w, &r->agent.pods[i], r->now);
	jsonw_end_list(w);
}

static void write_problems(struct jsonw *w, const struct ctl_report *r)
{
	jsonw_bool(w, "ok", r->nproblems == 0);
	jsonw_list(w, "problems");
	for (size_t i = 0; i < r->nproblems; i++) {
		jsonw_obj(w, NULL);
		jsonw_cstr(w, "what", r->problems[i].what);
		jsonw_cstr(w, "do", r->problems[i].act);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

void ctl_json_status(const struct ctl_report *r, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	write_problems(&w, r);
	write_agent(&w, &r->agent);
	write_ztunnel(&w, &r->ztunnel, r->now);
	write_pods(&w, r, NULL);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}

void ctl_json_pods(const struct ctl_report *r, const char *ns, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	write_problems(&w, r);
	write_pods(&w, r, ns);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}
