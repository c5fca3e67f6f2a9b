/* SPDX-License-Identifier: Apache-2.0
 * status.c: `ambientctl status` and `ambientctl pods`.
 */
#include <stdio.h>

#include "ctl/ask.h"
#include "ctl/command.h"
#include "ctl/model.h"
#include "ctl/print.h"
#include "ctl/table.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

static int run_status(const struct ctl_call *c)
{
	_cleanup_(ctl_texts_fini) struct ctl_texts t = {0};
	_cleanup_strbuf_ struct strbuf out = {0};
	struct arena *a = arena_new();
	struct ctl_report r;
	int status;

	ctl_ask_report(&c->common, a, &t, &r);
	if (c->common.json)
		ctl_json_status(&r, &out);
	else
		ctl_print_status(&r, c->common.colour, &out);
	status = r.nproblems == 0 ? CTL_EXIT_OK : CTL_EXIT_WRONG;
	(void)arena_free(a);
	return ctl_emit(&out) ? status : CTL_EXIT_WRONG;
}

static int print_names(const struct ctl_call *c, const char *ns)
{
	_cleanup_strbuf_ struct strbuf text = {0}, out = {0};
	struct arena *a = arena_new();
	struct ctl_agent g = {0};
	struct err err = {0};
	int r = ctl_ask_agent_quick(c->common.agent_socket, a, &text, &g, &err);

	for (size_t i = 0; i < g.npods; i++)
		if (ns == NULL || str_eqc(g.pods[i].ns, ns)) {
			ctl_put(&out, g.pods[i].ns, 0, CTL_PLAIN, false);
			strbuf_putc(&out, '/');
			ctl_put(&out, g.pods[i].name, 0, CTL_PLAIN, false);
			strbuf_putc(&out, '\n');
		}
	(void)arena_free(a);
	if (r < 0) {
		fprintf(stderr, "ambientctl: %s\n", err.msg);
		return CTL_EXIT_NO_ANSWER;
	}
	return ctl_emit(&out) ? CTL_EXIT_OK : CTL_EXIT_WRONG;
}

static int run_pods(const struct ctl_call *c)
{
	_cleanup_(ctl_texts_fini) struct ctl_texts t = {0};
	_cleanup_strbuf_ struct strbuf out = {0}, notes = {0};
	const char *ns = ctl_call_value(c, "namespace");
	struct arena *a = arena_new();
	struct ctl_report r;
	int status;

	if (ctl_call_value(c, "names") != NULL) {
		(void)arena_free(a);
		return print_names(c, ns);
	}
	ctl_ask_report(&c->common, a, &t, &r);
	if (c->common.json)
		ctl_json_pods(&r, ns, &out);
	else
		ctl_print_pods(&r, ns, c->common.colour, &out, &notes);
	if (r.nproblems != 0 && !c->common.json && r.agent.answers)
		strbuf_printf(&notes, "%zu problem%s: see `ambientctl status`\n", r.nproblems,
			      r.nproblems == 1 ? "" : "s");
	status = r.nproblems == 0 ? CTL_EXIT_OK : CTL_EXIT_WRONG;
	(void)arena_free(a);
	if (!ctl_emit(&out))
		status = CTL_EXIT_WRONG;
	if (notes.n != 0)
		fputs(notes.p, stderr);
	return status;
}

const struct ctl_command ctl_status_command = {
	.name = "status",
	.summary = "is all well; if not, what is wrong and what to do",
	.run = run_status,
};

static const struct ctl_option pods_options[] = {
	{'n', "namespace", "NAME", "only this namespace"},
	{0, "names", NULL, "only namespace/name, one a line, without looking further"},
};
const struct ctl_command ctl_pods_command = {
	.name = "pods",
	.summary = "every pod of the node: state, rules, sockets, identity, certificate",
	.options = pods_options,
	.noptions = ARRAY_LEN(pods_options),
	.run = run_pods,
};
