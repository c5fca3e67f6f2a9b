/* SPDX-License-Identifier: Apache-2.0
 * rules.c: `ambientctl rules POD`.
 */
#include "ctl/rules_print.h"

#include <errno.h>
#include <stdio.h>

#include "ctl/ask.h"
#include "ctl/command.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"

static int ask(const struct ctl_call *c, struct arena *a, struct strbuf *text, struct strbuf *out,
	       bool *ret_wrong, struct err *err)
{
	_cleanup_strbuf_ struct strbuf path = {0}, readable = {0};
	const struct doc *d = NULL;
	int r;

	ctl_rules_path(c->args[0], &path);
	r = ctl_ask_json(c->common.agent_socket, path.p, a, text, &d, err);
	if (r == -ENOENT)
		return err_set(err, ENOENT,
			       "the agent knows no pod %s; `ambientctl pods` lists them",
			       str_shown(str_of(c->args[0])));
	if (r == 0)
		r = ctl_rules_print(d, c->common.colour, &readable, ret_wrong, err);
	if (r < 0)
		return r;
	if (c->common.json)
		strbuf_printf(out, "%.*s\n", STR_FMT(str_trim(d->raw)));
	else
		strbuf_add(out, readable.p, readable.n);
	return 0;
}

static int run_rules(const struct ctl_call *c)
{
	_cleanup_strbuf_ struct strbuf text = {0}, out = {0};
	struct arena *a = arena_new();
	struct err err = {0};
	bool wrong = false;
	int r = ask(c, a, &text, &out, &wrong, &err);

	(void)arena_free(a);
	if (r < 0) {
		fprintf(stderr, "ambientctl: %s\n", err.msg);
		return CTL_EXIT_NO_ANSWER;
	}
	return ctl_emit(&out) && !wrong ? CTL_EXIT_OK : CTL_EXIT_WRONG;
}

const struct ctl_command ctl_rules_command = {
	.name = "rules",
	.args = "POD",
	.summary = "one pod's rules and sockets: what is wanted, what is there",
	.details = "POD is namespace/name, a UID, or a container ID or its first 8 characters.\n"
		   "Every rule has a line: present, missing, changed or unexpected.\n",
	.min_args = 1,
	.max_args = 1,
	.run = run_rules,
};
