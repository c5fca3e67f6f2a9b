/* SPDX-License-Identifier: Apache-2.0
 * diagnose.c: what is wrong, in one line each, with what to do. Pure; see model.h.
 */
#include <stdarg.h>
#include <stdio.h>

#include "ctl/model.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/wire/spiffe.h"

#define EXPIRES_SOON_S 300 /* stock and ours renew at half of the lifetime, long before this */
#define PROBLEMS_MAX   1000
#define PODS_NAMED     5 /* with the same kind of problem; the rest is counted */

enum pod_problem {
	POD_FAILED,
	POD_QUARANTINED,
	POD_PENDING,
	POD_RULES,
	POD_UNSERVED,
	POD_PROBLEM_N
};
static const char *const more_pods[POD_PROBLEM_N] = {
	[POD_FAILED] = "failed",
	[POD_QUARANTINED] = "are in quarantine, all their TCP is refused",
	[POD_PENDING] = "have their rules but ztunnel has not taken them",
	[POD_RULES] = "have rules that are not as they should be",
	[POD_UNSERVED] = "are enrolled but not served by ztunnel",
};

struct list_of_problems {
	struct arena *a;
	struct ctl_report *r;
	size_t pods[POD_PROBLEM_N];
};

static void problem(struct list_of_problems *l, const char *act, const char *fmt, ...)
	_printf_(3, 4);
static void problem(struct list_of_problems *l, const char *act, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	if (l->r->nproblems == PROBLEMS_MAX)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	l->r->problems[l->r->nproblems++] = (struct ctl_problem){
		.what = arena_strndup(l->a, text, strlen(text)),
		.act = act,
	};
}

/* Counts a pod; false when enough of this kind have been named. */
static bool name_pod(struct list_of_problems *l, enum pod_problem kind)
{
	return ++l->pods[kind] <= PODS_NAMED;
}

static void connect_served(struct ctl_report *r, struct arena *a)
{
	struct {
		struct hnode node;
		const struct ctl_workload *w;
	} *n = arena_alloc(a, (r->ztunnel.nworkloads + 1) * sizeof(*n));
	struct htab by_uid;

	htab_init(&by_uid);
	for (size_t i = 0; i < r->ztunnel.nworkloads; i++) {
		n[i].w = &r->ztunnel.workloads[i];
		htab_insert(&by_uid, &n[i].node, hash_str(n[i].w->uid));
	}
	for (size_t i = 0; i < r->agent.npods; i++) {
		struct ctl_pod *p = &r->agent.pods[i];
		struct hnode *at = htab_first(&by_uid, hash_str(p->uid));

		for (; at != NULL && p->served == NULL; at = htab_next(at)) {
			const struct ctl_workload *w = container_of(at, typeof(*n), node)->w;

			if (str_eq(w->uid, p->uid))
				p->served = w;
		}
	}
	htab_fini(&by_uid);
}

/* The trust domain is ztunnel's business: namespace and service account decide. */
static const struct ctl_cert *cert_of(const struct ctl_ztunnel *z, const struct ctl_pod *p)
{
	for (size_t i = 0; i < z->ncerts; i++) {
		struct spiffe_id id;

		if (spiffe_parse(z->certs[i].identity, &id) == 0 && str_eq(id.ns, p->ns) &&
		    str_eq(id.sa, p->sa))
			return &z->certs[i];
	}
	return NULL;
}

/* docs/install.md. */
static void check_install(struct list_of_problems *l, const struct ctl_agent *g)
{
	const char *why =
		g->install_reason.n != 0 ? str_shown(g->install_reason) : "no reason given";

	if (str_eqc(g->install_state, "preempted"))
		problem(l, "`ambientctl check` shows the chain; remove the file that comes first",
			"new pods start WITHOUT the mesh, runtimes use another CNI configuration: "
			"%s",
			why);
	else if (str_eqc(g->install_state, "failed"))
		problem(l, "do what it says; its log: journalctl -u ambient-agent",
			"the plugin is not in the CNI configuration: %s", why);
	else if (str_eqc(g->install_state, "waiting"))
		problem(l, "install the network plugin of the cluster",
			"there is no CNI configuration to put the plugin into: %s", why);
	else if (str_eqc(g->install_state, "repairing"))
		problem(l, "wait; it is written again within 5 s",
			"somebody changed the CNI configuration: %s", why);
}

static void check_agent(struct list_of_problems *l, const struct ctl_agent *g)
{
	const char *logs = "its log says more: journalctl -u ambient-agent";
	size_t in_use = 0;

	if (!g->answers) {
		problem(l,
			"start it (systemctl start ambient-agent); the runtime refuses new pods "
			"until it answers, pods in the mesh go on",
			"the agent does not answer: %s", g->error);
		return;
	}
	if (g->stale)
		problem(l,
			"check the API server and the way to it; pods of namespaces that were "
			"known "
			"keep starting, changes of labels wait",
			"what the agent knows is %u s old, its source %s does not answer%s%s",
			g->source_age_s, str_shown(g->source_where),
			g->source_error.n != 0 ? ": " : "", str_shown(g->source_error));
	else if (g->source_error.n != 0)
		problem(l, "correct the source; until then the last good state counts",
			"the agent's source has an error: %s", str_shown(g->source_error));
	else if (!g->synced)
		problem(l, "wait; if it stays so, check that the source can be read",
			"the agent has not read its source %s yet", str_shown(g->source_where));
	if (!g->ready)
		problem(l, logs, "the agent is not ready, new pods are refused: %s",
			g->reason.n != 0 ? str_shown(g->reason) : "it does not say why");
	check_install(l, g);
	for (size_t i = 0; i < g->nlinks; i++)
		in_use += g->links[i].snapshot;
	if (g->nlinks == 0 && !l->r->ztunnel.answers)
		return; /* said about ztunnel */
	if (g->nlinks == 0)
		problem(l,
			"start ztunnel (systemctl start ztunnel); its log: journalctl -u ztunnel",
			"no ztunnel is connected to the agent");
	else if (in_use == 0)
		problem(l, "wait; if it stays so: journalctl -u ztunnel",
			"ztunnel is connected but has not confirmed the agent's snapshot");
}

static void check_cert(struct list_of_problems *l, const struct ctl_cert *c, int64_t now)
{
	const char *act = "check the CA that `ambientctl status` names, and the log of ztunnel";

	if (str_has_prefix(c->state, STR("Unavailable")))
		problem(l, act, "no certificate for %s: %s", str_shown(c->identity),
			str_shown(c->state));
	else if (c->not_after != 0 && c->not_after <= now)
		problem(l, act, "the certificate of %s expired at %s", str_shown(c->identity),
			str_shown(c->not_after_text));
	else if (c->not_after != 0 && c->not_after - now < EXPIRES_SOON_S)
		problem(l, act, "the certificate of %s expires at %s and was not renewed",
			str_shown(c->identity), str_shown(c->not_after_text));
}

static void check_ztunnel(struct list_of_problems *l, const struct ctl_ztunnel *z, int64_t now)
{
	if (!z->answers) {
		problem(l,
			"start it (systemctl start ztunnel); with socket custody new connections "
			"wait until it is back",
			"ztunnel does not answer: %s", z->error);
		return;
	}
	if (z->ready == CTL_READY_NO)
		problem(l, "wait for what it names; its log: journalctl -u ztunnel",
			"ztunnel is not ready: %s", str_shown(z->ready_text));
	if (z->state_error.n != 0)
		problem(l,
			"correct the file that LOCAL_XDS_PATH names; until then the last good "
			"state counts",
			"ztunnel's mesh state has an error: %s", str_shown(z->state_error));
	for (size_t i = 0; i < z->ncerts; i++)
		check_cert(l, &z->certs[i], now);
}

static void check_pod(struct list_of_problems *l, const struct ctl_report *r,
		      const struct ctl_pod *p)
{
	bool enrolled = str_eqc(p->state, "enrolled"), pending = str_eqc(p->state, "pending");
	struct str why = p->error.n != 0 ? p->error : p->reason, diff = p->rule_diff, first;
	char name[160];

	(void)snprintf(name, sizeof(name), "%s/%s", str_shown(p->ns), str_shown(p->name));
	if (str_eqc(p->state, "failed") && name_pod(l, POD_FAILED))
		problem(l, "the agent tries again; its log says more: journalctl -u ambient-agent",
			"pod %s failed: %s", name, str_shown(why));
	if (str_eqc(p->state, "quarantined") && name_pod(l, POD_QUARANTINED))
		problem(l,
			"it came up without the plugin: delete the pod, or repair what is named; "
			"the agent tries again",
			"pod %s is in quarantine, all its TCP is refused: %s", name,
			str_shown(why));
	if (pending && r->agent.nlinks == 0)
		l->pods[POD_PENDING]++; /* all of them wait for the same: one line below */
	else if (pending && name_pod(l, POD_PENDING))
		problem(l, "its traffic waits; check that ztunnel runs and is ready",
			"pod %s has its rules but ztunnel has not taken it: %s", name,
			str_shown(why));
	if (!enrolled)
		return;
	if (p->rules.n != 0 && !str_eqc(p->rules, "present") && name_pod(l, POD_RULES)) {
		if (str_cut(&diff, '\n', &first))
			diff = first;
		problem(l,
			str_eqc(p->rules, "unknown")
				? "the agent could not read them back: journalctl -u ambient-agent"
				: "something else changed them; restart ambient-agent to put them "
				  "back",
			"the rules of pod %s are %s%s%s", name, str_shown(p->rules),
			diff.n != 0 ? ": " : "", str_shown(diff));
	}
	if (!r->ztunnel.answers)
		return;
	if (p->served != NULL && !str_eqc(p->served->state, "Pending"))
		return;
	if (!name_pod(l, POD_UNSERVED))
		return;
	if (p->served == NULL)
		problem(l, "restart ambient-agent: it sends its snapshot again",
			"pod %s is enrolled but ztunnel does not know it", name);
	else
		problem(l, "its log says why: journalctl -u ztunnel",
			"ztunnel has not started to serve pod %s", name);
}

static void count_pods(struct list_of_problems *l)
{
	bool away = l->r->agent.nlinks == 0;

	if (away && l->pods[POD_PENDING] != 0)
		problem(l, "start ztunnel; nothing leaves them in the clear meanwhile",
			"%zu pod%s for ztunnel, and so does their traffic", l->pods[POD_PENDING],
			l->pods[POD_PENDING] == 1 ? " waits" : "s wait");
	for (int k = 0; k < POD_PROBLEM_N; k++)
		if (l->pods[k] > PODS_NAMED && !(away && k == POD_PENDING))
			problem(l, "`ambientctl pods` lists them", "%zu more pods %s",
				l->pods[k] - PODS_NAMED, more_pods[k]);
}

void ctl_diagnose(struct ctl_report *r, struct arena *a)
{
	struct list_of_problems l = {.a = a, .r = r};

	r->nproblems = 0;
	r->problems = arena_alloc(a, PROBLEMS_MAX * sizeof(*r->problems));
	connect_served(r, a);
	for (size_t i = 0; i < r->agent.npods; i++)
		r->agent.pods[i].cert = cert_of(&r->ztunnel, &r->agent.pods[i]);
	check_agent(&l, &r->agent);
	check_ztunnel(&l, &r->ztunnel, r->now);
	for (size_t i = 0; i < r->agent.npods; i++)
		check_pod(&l, r, &r->agent.pods[i]);
	count_pods(&l);
}
