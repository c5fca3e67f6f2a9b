/* SPDX-License-Identifier: Apache-2.0
 * check_rows.c: facts to rows; see check.h. Pure. The CNI chain is in check_cni.c.
 */
#include <stdarg.h>
#include <stdio.h>

#include "ctl/check.h"
#include "ctl/model.h"
#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

#define CLOCK_ERROR_MAX_US 1000000 /* certificates are checked to the second */
#define EXPIRES_SOON_S	   300
#define ROOT_SOON_S	   (30 * 86400)

void ctl_row_add(struct ctl_rows *rows, const char *what, enum ctl_result result, const char *fix,
		 const char *fmt, ...)
{
	char text[512];
	va_list ap;

	bug_on(rows->n == CTL_ROWS_MAX);
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	rows->row[rows->n++] = (struct ctl_row){
		.what = arena_strndup(rows->a, what, strlen(what)),
		.result = result,
		.observed = arena_strndup(rows->a, text, strlen(text)),
		.fix = fix,
	};
}

static void check_agent(struct ctl_rows *rows, const struct ctl_agent *g)
{
	if (!g->answers)
		ctl_row_add(rows, "agent", CTL_FAILED, "systemctl start ambient-agent",
			    "the agent does not answer: %s", g->error);
	else if (!g->ready)
		ctl_row_add(rows, "agent", CTL_FAILED, "journalctl -u ambient-agent",
			    "version %s is not ready, new pods are refused: %s",
			    str_shown(g->version), str_shown(g->reason));
	else
		ctl_row_add(rows, "agent", CTL_OK, NULL, "version %s is ready",
			    str_shown(g->version));
}

static void check_ztunnel(struct ctl_rows *rows, const struct ctl_report *r)
{
	const struct ctl_ztunnel *z = &r->ztunnel;

	if (!z->answers)
		ctl_row_add(rows, "ztunnel", CTL_FAILED, "systemctl start ztunnel",
			    "ztunnel does not answer: %s", z->error);
	else if (z->ready == CTL_READY_NO)
		ctl_row_add(rows, "ztunnel", CTL_FAILED, "journalctl -u ztunnel",
			    "version %s is not ready: %s", str_shown(z->version),
			    str_shown(z->ready_text));
	else
		ctl_row_add(rows, "ztunnel", CTL_OK, NULL, "version %s answers",
			    str_shown(z->version));
	if (!r->agent.answers)
		return;
	if (r->agent.nlinks == 0)
		ctl_row_add(rows, "agent to ztunnel", CTL_FAILED,
			    "start ztunnel; it must be given the agent's ZDS socket (INPOD_UDS)",
			    "no ztunnel is connected to the agent");
	else
		ctl_row_add(rows, "agent to ztunnel", CTL_OK, NULL,
			    "%zu connected, the first has pid %u", r->agent.nlinks,
			    r->agent.links[0].pid);
}

static void check_versions(struct ctl_rows *rows, const struct ctl_report *r, const char *plugin,
			   const char *plugin_why)
{
	struct str a = r->agent.version, z = r->ztunnel.version;

	if (r->agent.answers && r->ztunnel.answers)
		ctl_row_add(rows, "versions", str_eq(a, z) ? CTL_OK : CTL_WARNING,
			    str_eq(a, z) ? NULL : "finish the upgrade: both come in one package",
			    "agent %s, ztunnel %s", str_shown(a), str_shown(z));
	else
		ctl_row_add(rows, "versions", CTL_NOT_CHECKED, NULL,
			    "one of agent and ztunnel does not answer");
	if (plugin == NULL)
		ctl_row_add(rows, "plugin version", CTL_NOT_CHECKED, "name it with --plugin", "%s",
			    plugin_why);
	else if (!r->agent.answers)
		ctl_row_add(rows, "plugin version", CTL_NOT_CHECKED, NULL,
			    "plugin %s; the agent does not answer", plugin);
	else if (!str_eqc(a, plugin))
		ctl_row_add(rows, "plugin version", CTL_WARNING,
			    "install the plugin of the agent's version: the agent does it with "
			    "--cni-plugin",
			    "plugin %s, agent %s", plugin, str_shown(a));
	else
		ctl_row_add(rows, "plugin version", CTL_OK, NULL, "plugin %s, as the agent",
			    plugin);
}

void ctl_check_programs(struct ctl_rows *rows, const struct ctl_report *r, const char *plugin,
			const char *plugin_why)
{
	check_agent(rows, &r->agent);
	check_ztunnel(rows, r);
	check_versions(rows, r, plugin, plugin_why);
}

const char *ctl_plugin_version(struct str file, struct arena *a)
{
	const struct str mark = STR("ambient-cni ");
	const char *p = file.p, *end = file.p + file.n;

	while (p < end && (p = memmem(p, (size_t)(end - p), mark.p, mark.n)) != NULL) {
		size_t n = 0;

		p += mark.n;
		while (p + n < end && n < 64 &&
		       ((p[n] >= '0' && p[n] <= '9') || (n != 0 && p[n] > ' ' && p[n] < 0x7f)))
			n++;
		if (n != 0)
			return arena_strndup(a, p, n);
	}
	return NULL;
}

/* Serial numbers of a list of certificates. The roots of one trust domain are one set. */
static bool same_serials(const struct doc *a, const struct doc *b)
{
	const struct doc *x = a != NULL ? a->child : NULL, *y = b != NULL ? b->child : NULL;

	for (; x != NULL && y != NULL; x = x->next, y = y->next) {
		const struct doc *s = doc_get(x, "serialNumber"), *t = doc_get(y, "serialNumber");

		if (s == NULL || t == NULL || !str_eq(s->text, t->text))
			return false;
	}
	return x == NULL && y == NULL;
}

static void check_roots(struct ctl_rows *rows, const struct doc *certs, int64_t now)
{
	const struct doc *first = NULL;
	size_t roots = 0, differ = 0;
	int64_t end = INT64_MAX;

	for (const struct doc *c = certs != NULL ? certs->child : NULL; c != NULL; c = c->next) {
		const struct doc *list = doc_get(c, "rootCerts");

		if (list == NULL || list->child == NULL)
			continue;
		if (first == NULL)
			first = list;
		differ += !same_serials(first, list);
	}
	for (const struct doc *x = first != NULL ? first->child : NULL; x != NULL; x = x->next) {
		const struct doc *t = doc_get(x, "expirationTime");
		int64_t at;

		roots++;
		if (t != NULL && ctl_time_parse(t->text, &at) == 0 && at < end)
			end = at;
	}
	if (roots == 0)
		ctl_row_add(rows, "roots", CTL_NOT_CHECKED, NULL,
			    "ztunnel has no certificate yet, so no root");
	else if (end <= now)
		ctl_row_add(rows, "roots", CTL_FAILED, "give the CA a new root",
			    "a root certificate has expired");
	else if (differ != 0)
		ctl_row_add(rows, "roots", CTL_WARNING,
			    "wait for the renewal; if it stays so, two CAs are answering",
			    "%zu identities have other roots than the first one", differ);
	else
		ctl_row_add(rows, "roots", end - now < ROOT_SOON_S ? CTL_WARNING : CTL_OK,
			    end - now < ROOT_SOON_S ? "plan the change of the root" : NULL,
			    "%zu root%s, the same for every identity, the first ends in %lld days",
			    roots, roots == 1 ? "" : "s", (long long)((end - now) / 86400));
}

void ctl_check_certs(struct ctl_rows *rows, const struct ctl_report *r)
{
	const char *fix = "check the CA that `ambientctl status` names, and ztunnel's log";
	const struct ctl_ztunnel *z = &r->ztunnel;
	const struct ctl_cert *worst = NULL;
	size_t bad = 0, valid = 0;

	if (!z->answers) {
		ctl_row_add(rows, "certificates", CTL_NOT_CHECKED, NULL, "ztunnel does not answer");
		return;
	}
	for (size_t i = 0; i < z->ncerts; i++) {
		const struct ctl_cert *c = &z->certs[i];
		bool wrong = str_has_prefix(c->state, STR("Unavailable")) ||
			     (c->not_after != 0 && c->not_after - r->now < EXPIRES_SOON_S);

		bad += wrong;
		valid += !wrong && c->not_after != 0;
		if (wrong && worst == NULL)
			worst = c;
	}
	if (bad != 0)
		ctl_row_add(rows, "certificates", CTL_FAILED, fix,
			    "%zu of %zu are unavailable, expired or not renewed; the first: %s %s",
			    bad, z->ncerts, str_shown(worst->identity),
			    worst->not_after != 0 ? str_shown(worst->not_after_text)
						  : str_shown(worst->state));
	else
		ctl_row_add(rows, "certificates", CTL_OK, NULL, "%zu valid, %zu not asked for yet",
			    valid, z->ncerts - valid);
	if (z->ca_is_dev)
		ctl_row_add(rows, "CA", CTL_WARNING, "use a real CA in production",
			    "a development CA in %s: who reads its key can be anybody",
			    str_shown(z->ca));
	check_roots(rows, doc_get(z->doc, "certificates"), r->now);
}

void ctl_check_clock(struct ctl_rows *rows, const struct ctl_clock *c, const struct ctl_report *r)
{
	const char *fix =
		"run a time service: systemctl enable --now systemd-timesyncd (or chrony)";
	const struct ctl_cert *early = NULL;
	int64_t ahead = 0;

	if (!c->known)
		ctl_row_add(rows, "clock", CTL_NOT_CHECKED, NULL, "adjtimex is not allowed here");
	else if (!c->synchronised)
		ctl_row_add(rows, "clock", CTL_WARNING, fix,
			    "the kernel says that the clock is not synchronised");
	else
		ctl_row_add(rows, "clock",
			    c->max_error_us > CLOCK_ERROR_MAX_US ? CTL_WARNING : CTL_OK,
			    c->max_error_us > CLOCK_ERROR_MAX_US ? fix : NULL,
			    "synchronised, at most %llu ms wrong",
			    (unsigned long long)(c->max_error_us / 1000));
	for (size_t i = 0; i < r->ztunnel.ncerts; i++) {
		int64_t from;

		if (r->ztunnel.certs[i].not_after != 0 &&
		    ctl_time_parse(r->ztunnel.certs[i].not_before_text, &from) == 0 &&
		    from - r->now > ahead) {
			ahead = from - r->now;
			early = &r->ztunnel.certs[i];
		}
	}
	if (early != NULL)
		ctl_row_add(rows, "clock and certificates", CTL_FAILED,
			    "set the clock of this node, or of the CA's, right",
			    "the certificate of %s is valid from %lld s in the future",
			    str_shown(early->identity), (long long)ahead);
	else if (r->ztunnel.ncerts != 0)
		ctl_row_add(rows, "clock and certificates", CTL_OK, NULL,
			    "no certificate begins in the future");
}

void ctl_check_openssl(struct ctl_rows *rows, const struct ctl_report *r)
{
	const struct doc *v = doc_get(doc_get(r->ztunnel.doc, "version"), "openssl");
	struct str text = v != NULL && v->kind == DOC_TEXT ? v->text : STR(""), rest = text, major;
	uint32_t a = 0, b = 0;
	size_t n = 0;

	if (text.n == 0) {
		ctl_row_add(rows, "OpenSSL", CTL_NOT_CHECKED, NULL,
			    r->ztunnel.answers ? "ztunnel does not tell its version"
					       : "ztunnel does not answer");
		return;
	}
	if (str_cut(&rest, '.', &major) && parse_u32(major, 0, 999, &a) == 0) {
		while (n < rest.n && rest.p[n] >= '0' && rest.p[n] <= '9')
			n++;
		if (parse_u32((struct str){rest.p, n}, 0, 999, &b) != 0)
			a = 0;
	}
	if (a < 3 || (a == 3 && b < 1))
		ctl_row_add(rows, "OpenSSL", CTL_WARNING,
			    "use a distribution with OpenSSL 3.1 or later (Debian 13 has 3.5)",
			    "ztunnel runs with OpenSSL %s, whose handshakes are slower",
			    str_shown(text));
	else
		ctl_row_add(rows, "OpenSSL", CTL_OK, NULL, "ztunnel runs with OpenSSL %s",
			    str_shown(text));
}

void ctl_check_descriptors(struct ctl_rows *rows, const char *what, uint64_t open, uint64_t limit,
			   const char *why)
{
	const char *fix = "raise LimitNOFILE of its unit, or limit what it carries";

	if (limit == 0)
		ctl_row_add(rows, what, CTL_NOT_CHECKED, NULL, "%s", why);
	else
		ctl_row_add(rows, what,
			    open >= limit - limit / 10	? CTL_FAILED
			    : open >= limit - limit / 3 ? CTL_WARNING
							: CTL_OK,
			    open >= limit - limit / 3 ? fix : NULL, "%llu of %llu in use",
			    (unsigned long long)open, (unsigned long long)limit);
}

void ctl_check_probes(struct ctl_rows *rows, const struct doc *node, const char *why)
{
	const char *what = "probe exemption";
	const struct doc *p = doc_get(node, "probes");
	struct str rules = STR(""), diff = STR(""), first;
	bool enabled = false, active = false;

	if (p == NULL || doc_opt_bool(p, "enabled", &enabled, NULL) < 0 ||
	    doc_opt_bool(p, "active", &active, NULL) < 0 ||
	    doc_opt_text(p, "rules", &rules, NULL) < 0 ||
	    doc_opt_text(p, "ruleDiff", &diff, NULL) < 0) {
		ctl_row_add(rows, what, CTL_NOT_CHECKED, NULL, "%s",
			    why != NULL ? why : "the agent does not tell");
		return;
	}
	if (str_cut(&diff, '\n', &first))
		diff = first;
	if (!enabled)
		ctl_row_add(rows, what, CTL_WARNING, "start the agent with --host-probes=auto",
			    "the agent is told not to exempt the kubelet's probes");
	else if (!active)
		ctl_row_add(rows, what, CTL_WARNING,
			    "start the kubelet; the agent looks for its process every 30 s and "
			    "must see the node's processes (hostPID)",
			    "the agent has found no kubelet: probes of pods in the mesh may fail");
	else if (!str_eqc(rules, "present"))
		ctl_row_add(rows, what, CTL_FAILED,
			    "something else changed the table inet istio-ambient-nat of the node; "
			    "restart ambient-agent",
			    "the node's rules are %s: %s", str_shown(rules), str_shown(diff));
	else
		ctl_row_add(rows, what, CTL_OK, NULL, "the node's rules are present");
}

void ctl_check_rp_filter(struct ctl_rows *rows, size_t strict, size_t interfaces,
			 const char *example)
{
	if (strict != 0)
		ctl_row_add(rows, "rp_filter", CTL_WARNING,
			    "if probes time out: sysctl net.ipv4.conf.all.rp_filter=2",
			    "strict on %zu of %zu interfaces (%s): replies that come back by "
			    "another interface are dropped",
			    strict, interfaces, example);
	else
		ctl_row_add(rows, "rp_filter", CTL_OK, NULL, "not strict on any of %zu interfaces",
			    interfaces);
}

void ctl_check_mtu(struct ctl_rows *rows, const char *uplink, uint32_t uplink_mtu, size_t pods,
		   uint32_t pods_mtu)
{
	if (uplink[0] == '\0' || uplink_mtu == 0)
		ctl_row_add(rows, "MTU", CTL_NOT_CHECKED, NULL, "there is no IPv4 default route");
	else if (pods == 0)
		ctl_row_add(rows, "MTU", CTL_OK, NULL, "%s has %u, no pod interface", uplink,
			    uplink_mtu);
	else if (pods_mtu > uplink_mtu)
		ctl_row_add(rows, "MTU", CTL_WARNING,
			    "set the MTU of the network plugin to that of the uplink or less",
			    "pods have %u, %s has %u: full packets are dropped or fragmented",
			    pods_mtu, uplink, uplink_mtu);
	else
		ctl_row_add(rows, "MTU", CTL_OK, NULL, "pods have at most %u, %s has %u", pods_mtu,
			    uplink, uplink_mtu);
}
