/* SPDX-License-Identifier: Apache-2.0
 * check_api.c: the part of `ambientctl check` that reads NetworkPolicies from the Kubernetes API;
 * see check.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "ctl/check.h"
#include "ctl/check_policy.h"
#include "ctl/model.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/doc.h"
#include "lib/kube/kube_conn.h"
#include "lib/kube/kube_watch.h"
#include "lib/kube/kubeconfig.h"
#include "lib/os/fd.h"

#define LIMIT_MS	     10000
#define KUBECONFIG_MAX_BYTES (4u << 20)
#define NAMED		     3 /* policies in the sentence; the rest is counted */

struct looking {
	struct loop *loop;
	struct kube_conn *conn;
	struct kube_watch watch;
	struct timer limit;
	const struct ctl_report *report;
	struct err down; /* why the connection is away */
	bool timeout;
	size_t policies, blocking;
	struct strbuf names;
};

/* With an agent that answers only namespaces count that have a pod of the mesh on this node. */
static bool matters(const struct ctl_report *r, struct str ns)
{
	if (!r->agent.answers)
		return true;
	for (size_t i = 0; i < r->agent.npods; i++)
		if (str_eq(r->agent.pods[i].ns, ns) &&
		    !str_eqc(r->agent.pods[i].state, "not-in-mesh"))
			return true;
	return false;
}

static int put(void *ctx, const struct doc *object, unsigned int generation, struct err *err)
{
	struct looking *l = ctx;
	const struct doc *meta = doc_get(object, "metadata");
	struct str ns = STR(""), name = STR("");
	struct ctl_policy_verdict v;
	int r = doc_opt_text(meta, "namespace", &ns, err);

	(void)generation;
	if (r == 0)
		r = doc_opt_text(meta, "name", &name, err);
	if (r == 0)
		r = ctl_policy_read(object, &v, err);
	if (r < 0 || !matters(l->report, ns))
		return r;
	l->policies++;
	if (!v.blocks_in && !v.blocks_out)
		return 0;
	if (++l->blocking <= NAMED)
		strbuf_printf(&l->names, "%s%.*s/%.*s (%s)", l->names.n != 0 ? ", " : "",
			      STR_FMT(ns), STR_FMT(name),
			      v.blocks_in && v.blocks_out ? "in and out"
			      : v.blocks_in		  ? "in"
							  : "out");
	return 0;
}

static void gone(void *ctx, const struct doc *object)
{
	(void)ctx;
	(void)object;
}

static void sweep(void *ctx, unsigned int generation)
{
	(void)ctx;
	(void)generation;
}

static void changed(void *ctx)
{
	struct looking *l = ctx;

	if (l->watch.state.synced || l->watch.error.code != 0)
		loop_stop(l->loop);
}

static const struct kube_kind kind = {
	.resource = "/apis/networking.k8s.io/v1/networkpolicies",
	.list_kind = "NetworkPolicyList",
	.plural = "networkpolicies",
	.put = put,
	.gone = gone,
	.sweep = sweep,
	.changed = changed,
};

static void on_up(void *ctx)
{
	kube_watch_go(&((struct looking *)ctx)->watch);
}

static void on_down(void *ctx, const struct err *why)
{
	struct looking *l = ctx;

	l->down = *why;
	loop_stop(l->loop);
}

static void on_limit(struct timer *t)
{
	struct looking *l = container_of(t, struct looking, limit);

	l->timeout = true;
	loop_stop(l->loop);
}

static void add_row(struct ctl_rows *rows, const struct looking *l)
{
	const char *what = "NetworkPolicy and port 15008";
	const char *why = l->watch.error.code != 0 ? l->watch.error.msg
			  : l->down.code != 0	   ? l->down.msg
						   : "no answer in time";

	if (!l->watch.state.synced)
		ctl_row_add(rows, what, CTL_NOT_CHECKED, NULL, "the Kubernetes API: %s", why);
	else if (l->blocking == 0)
		ctl_row_add(rows, what, CTL_OK, NULL,
			    "none of %zu policies in the mesh's namespaces blocks it", l->policies);
	else
		ctl_row_add(
			rows, what, CTL_WARNING, "allow TCP 15008 in them, in the directions named",
			"%zu of %zu do not open it, traffic of the mesh is dropped unless "
			"another policy does: %s%s",
			l->blocking, l->policies, l->names.p, l->blocking > NAMED ? ", ..." : "");
}

static void look(struct ctl_rows *rows, const struct kubeconfig *k, const struct ctl_report *r)
{
	const struct kube_conn_ops ops = {.up = on_up, .down = on_down};
	struct looking l = {.loop = loop_new(), .report = r};

	l.conn = kube_conn_new(l.loop, k, "ambientctl", &ops, &l);
	kube_watch_init(&l.watch, l.loop, l.conn, &kind, NULL, &l);
	loop_timer_set(l.loop, &l.limit, LIMIT_MS, on_limit);
	loop_run(l.loop);
	add_row(rows, &l);
	loop_timer_cancel(&l.limit);
	kube_watch_fini(&l.watch);
	l.conn = kube_conn_free(l.conn);
	strbuf_fini(&l.names);
	(void)loop_free(l.loop);
}

void ctl_check_policies(struct ctl_rows *rows, const char *file, const struct ctl_report *r)
{
	_cleanup_(kubeconfig_fini) struct kubeconfig k = {0};
	_cleanup_free_ char *text = NULL, *dir = NULL;
	struct err err = {0};
	char *slash;
	size_t n;

	if (file == NULL || *file == '\0')
		file = getenv("KUBECONFIG");
	if (file == NULL || *file == '\0') {
		ctl_row_add(rows, "NetworkPolicy and port 15008", CTL_NOT_CHECKED,
			    "name a kubeconfig with --kubeconfig (list networkpolicies)",
			    "the agent may not read NetworkPolicies, and no kubeconfig was given");
		return;
	}
	dir = xstrdup(file);
	slash = strrchr(dir, '/');
	if (slash != NULL)
		*slash = '\0';
	if (file_read(file, KUBECONFIG_MAX_BYTES, &text, &n, &err) < 0 ||
	    kubeconfig_parse((struct str){text, n}, NULL, slash != NULL ? dir : ".", &k, &err) < 0)
		ctl_row_add(rows, "NetworkPolicy and port 15008", CTL_NOT_CHECKED, NULL, "%s: %s",
			    file, err.msg);
	else
		look(rows, &k, r);
	if (text != NULL)
		explicit_bzero(text, n);
}
