/* SPDX-License-Identifier: Apache-2.0
 * ready.c: `ambientctl ready`: has the agent read its source and done its part on the node? Says
 * nothing about ztunnel, which is asked at its own port: the answer is a readiness probe.
 */
#include <stdio.h>

#include "ctl/ask.h"
#include "ctl/command.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

/* docs/agent-api.md: GET /v1/status. */
static int find_reason(const struct doc *d, char reason[ERR_MSG_MAX], struct err *err)
{
	const struct doc *source = NULL, *install = NULL;
	struct str error = STR(""), mode = STR("off"), state = STR(""), why = STR("");
	bool synced = false;
	int r;

	reason[0] = '\0';
	if ((r = doc_map(d, err)) < 0 || (r = doc_opt_map(d, "source", &source, err)) < 0 ||
	    (r = doc_opt_map(d, "install", &install, err)) < 0)
		return r;
	if (source != NULL && ((r = doc_opt_bool(source, "synced", &synced, err)) < 0 ||
			       (r = doc_opt_text(source, "error", &error, err)) < 0))
		return r;
	if (install != NULL && ((r = doc_opt_text(install, "mode", &mode, err)) < 0 ||
				(r = doc_opt_text(install, "state", &state, err)) < 0 ||
				(r = doc_opt_text(install, "reason", &why, err)) < 0))
		return r;
	if (!synced)
		(void)snprintf(reason, ERR_MSG_MAX, "pods have not been read yet: %.*s",
			       (int)error.n, error.p);
	else if (!str_eqc(mode, "off") && !str_eqc(state, "installed"))
		(void)snprintf(reason, ERR_MSG_MAX, "the plugin is not in the chain (%.*s): %.*s",
			       (int)state.n, state.p, (int)why.n, why.p);
	return 0;
}

static int run_ready(const struct ctl_call *c)
{
	_cleanup_strbuf_ struct strbuf text = {0}, out = {0};
	struct arena *a = arena_new();
	const struct doc *d = NULL;
	char reason[ERR_MSG_MAX];
	struct err err = {0};
	int r = ctl_ask_json(c->common.agent_socket, "/v1/status?rules=no", a, &text, &d, &err);

	if (r == 0)
		r = find_reason(d, reason, &err);
	(void)arena_free(a);
	if (r < 0) {
		fprintf(stderr, "ambientctl: %s\n", err.msg);
		return CTL_EXIT_NO_ANSWER;
	}
	strbuf_printf(&out, "%s%s\n", reason[0] == '\0' ? "ready" : "not ready: ", reason);
	return ctl_emit(&out) && reason[0] == '\0' ? CTL_EXIT_OK : CTL_EXIT_WRONG;
}

const struct ctl_command ctl_ready_command = {
	.name = "ready",
	.summary = "has the agent read the pods and put the plugin in place; a probe",
	.run = run_ready,
};
