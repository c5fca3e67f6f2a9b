/* SPDX-License-Identifier: Apache-2.0
 * command.c: see command.h.
 */
#include "ctl/command.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

enum common {
	COMMON_OUTPUT,
	COMMON_FORMAT,
	COMMON_COLOUR,
	COMMON_AGENT,
	COMMON_ZTUNNEL,
	COMMON_HELP,
	COMMON_VERSION,
	COMMON_N
};
static const struct ctl_option common_options[COMMON_N] = {
	[COMMON_OUTPUT] = {'o', "output", "FORMAT", "text (default) or json"},
	[COMMON_FORMAT] = {0, "format", "FORMAT", "the same, also where -o means something else"},
	[COMMON_COLOUR] = {0, "color", "WHEN", "auto (default), always or never"},
	[COMMON_AGENT] = {0, "agent-socket", "PATH", "/var/run/istio-cni/pluginevent.sock"},
	[COMMON_ZTUNNEL] = {0, "ztunnel-socket", "PATH", "/var/run/ztunnel/admin.sock"},
	[COMMON_HELP] = {'h', "help", NULL, "this text; after a command: about that command"},
	[COMMON_VERSION] = {'V', "version", NULL, "the version"},
};

#define VAL_OWN	   1000 /* val of getopt: 1000 + index of an own option, 2000 + of a common one */
#define VAL_COMMON 2000

const char *ctl_call_value(const struct ctl_call *c, const char *name)
{
	for (size_t i = 0; i < c->command->noptions; i++)
		if (strcmp(c->command->options[i].name, name) == 0)
			return c->value[i];
	bug_on(true); /* no such option in the command's row */
	return NULL;
}

static bool replaced(const struct ctl_command *cmd, const struct ctl_option *o, bool by_letter)
{
	for (size_t i = 0; cmd != NULL && i < cmd->noptions; i++) {
		const struct ctl_option *own = &cmd->options[i];

		if (by_letter ? own->letter == o->letter : strcmp(own->name, o->name) == 0)
			return true;
	}
	return false;
}

/* What getopt_long() wants, for one command (NULL: before its name). */
struct spec {
	struct option longs[CTL_OPTIONS_MAX + COMMON_N + 1];
	size_t n;
	char shorts[2 * (CTL_OPTIONS_MAX + COMMON_N) + 2];
	size_t nshorts;
};

static void add_long(struct spec *s, const struct ctl_option *o, int val)
{
	s->longs[s->n++] = (struct option){
		o->name, o->arg != NULL ? required_argument : no_argument, NULL, val};
}

static void add_short(struct spec *s, const struct ctl_option *o)
{
	if (o->letter == 0)
		return;
	s->shorts[s->nshorts++] = o->letter;
	if (o->arg != NULL)
		s->shorts[s->nshorts++] = ':';
}

static void make_spec(const struct ctl_command *cmd, struct spec *s)
{
	*s = (struct spec){0};
	if (cmd == NULL)
		s->shorts[s->nshorts++] = '+'; /* stop at the command's name */
	for (int i = 0; cmd != NULL && i < (int)cmd->noptions; i++) {
		add_long(s, &cmd->options[i], VAL_OWN + i);
		add_short(s, &cmd->options[i]);
	}
	for (int i = 0; i < COMMON_N; i++) {
		if (!replaced(cmd, &common_options[i], false))
			add_long(s, &common_options[i], VAL_COMMON + i);
		if (!replaced(cmd, &common_options[i], true))
			add_short(s, &common_options[i]);
	}
}

/* A letter to the number of its long form. */
static int val_of(const struct ctl_command *cmd, int c)
{
	if (c >= VAL_OWN)
		return c;
	for (int i = 0; cmd != NULL && i < (int)cmd->noptions; i++)
		if (cmd->options[i].letter == c)
			return VAL_OWN + i;
	for (int i = 0; i < COMMON_N; i++)
		if (common_options[i].letter == c)
			return VAL_COMMON + i;
	return '?';
}

static void print_option(const struct ctl_option *o, struct strbuf *out)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (o->letter != 0)
		strbuf_printf(&b, "  -%c, --%s", o->letter, o->name);
	else
		strbuf_printf(&b, "      --%s", o->name);
	if (o->arg != NULL)
		strbuf_printf(&b, " %s", o->arg);
	strbuf_printf(out, "%-30s %s\n", b.p, o->help);
}

static void help_all(const struct ctl_command *const *commands, size_t n, struct strbuf *out)
{
	strbuf_puts(out, "usage: ambientctl [options] COMMAND [options]\n\ncommands:\n");
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *head =
			xasprintf("%s %s", commands[i]->name,
				  commands[i]->args != NULL ? commands[i]->args : "");

		strbuf_printf(out, "  %-17s %s\n", head, commands[i]->summary);
	}
	strbuf_puts(out, "\noptions of every command:\n");
	for (size_t i = 0; i < COMMON_N; i++)
		print_option(&common_options[i], out);
	strbuf_puts(out, "\nexit status: 0 all is well, 1 something is wrong, 2 wrong usage, "
			 "3 it could not be answered\n");
}

static void help_one(const struct ctl_command *cmd, struct strbuf *out)
{
	strbuf_printf(out, "usage: ambientctl %s [options]%s%s\n\n%s\n", cmd->name,
		      cmd->args != NULL ? " " : "", cmd->args != NULL ? cmd->args : "",
		      cmd->summary);
	if (cmd->details != NULL)
		strbuf_printf(out, "\n%s", cmd->details);
	if (cmd->noptions != 0)
		strbuf_puts(out, "\noptions:\n");
	for (size_t i = 0; i < cmd->noptions; i++)
		print_option(&cmd->options[i], out);
	strbuf_puts(out, "\noptions of every command:\n");
	for (size_t i = 0; i < COMMON_N; i++)
		if (!replaced(cmd, &common_options[i], false))
			print_option(&common_options[i], out);
}

struct given {
	const char *format, *colour;
	bool help, version;
};

static int bad_value(struct strbuf *complaint, const char *name, const char *value,
		     const char *wanted)
{
	strbuf_printf(complaint, "ambientctl: %s %s: expected %s\n", name, str_shown(str_of(value)),
		      wanted);
	return CTL_EXIT_USAGE;
}

static bool terminal_wants_colour(void)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) == 1 && (no == NULL || *no == '\0') && term != NULL &&
	       strcmp(term, "dumb") != 0;
}

static int settle(const struct given *g, struct ctl_common *c, struct strbuf *complaint)
{
	const char *f = g->format != NULL ? g->format : "text";
	const char *when = g->colour != NULL ? g->colour : "auto";

	if (strcmp(f, "json") != 0 && strcmp(f, "text") != 0)
		return bad_value(complaint, "output", f, "text or json");
	if (strcmp(when, "auto") != 0 && strcmp(when, "always") != 0 && strcmp(when, "never") != 0)
		return bad_value(complaint, "color", when, "auto, always or never");
	c->json = strcmp(f, "json") == 0;
	c->colour = strcmp(when, "always") == 0 ||
		    (strcmp(when, "auto") == 0 && terminal_wants_colour());
	return -1;
}

static void take_common(int which, struct given *g, struct ctl_common *c)
{
	switch ((enum common)which) {
	case COMMON_OUTPUT:
	case COMMON_FORMAT:
		g->format = optarg;
		break;
	case COMMON_COLOUR:
		g->colour = optarg;
		break;
	case COMMON_AGENT:
		c->agent_socket = optarg;
		break;
	case COMMON_ZTUNNEL:
		c->ztunnel_socket = optarg;
		break;
	case COMMON_HELP:
		g->help = true;
		break;
	case COMMON_VERSION:
		g->version = true;
		break;
	case COMMON_N:
		break;
	}
}

/* getopt() has complained on standard error when this fails. */
static int read_options(int argc, char **argv, struct ctl_call *call, struct given *g)
{
	struct spec s;
	int c;

	make_spec(call->command, &s);
	while ((c = getopt_long(argc, argv, s.shorts, s.longs, NULL)) != -1) {
		int val = val_of(call->command, c);

		if (val >= VAL_COMMON)
			take_common(val - VAL_COMMON, g, &call->common);
		else if (val >= VAL_OWN)
			call->value[val - VAL_OWN] = optarg != NULL ? optarg : "";
		else
			return CTL_EXIT_USAGE;
	}
	return -1;
}

static const struct ctl_command *find(const struct ctl_command *const *commands, size_t n,
				      const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

static int check_args(int argc, char **argv, struct ctl_call *call, struct strbuf *complaint)
{
	const struct ctl_command *cmd = call->command;

	call->nargs = (size_t)(argc - optind);
	call->args = argv + optind;
	if (call->nargs > cmd->max_args) {
		strbuf_printf(complaint, "ambientctl: %s: one argument too many: %s\n", cmd->name,
			      str_shown(str_of(call->args[cmd->max_args])));
		return CTL_EXIT_USAGE;
	}
	if (call->nargs < cmd->min_args) {
		strbuf_printf(complaint, "ambientctl: %s needs %s\n", cmd->name, cmd->args);
		return CTL_EXIT_USAGE;
	}
	return -1;
}

int ctl_command_line(int argc, char **argv, const struct ctl_command *const *commands, size_t n,
		     struct ctl_call *ret, struct strbuf *out, struct strbuf *complaint)
{
	struct given g = {0};
	int status;

	*ret = (struct ctl_call){
		.common.agent_socket = "/var/run/istio-cni/pluginevent.sock",
		.common.ztunnel_socket = "/var/run/ztunnel/admin.sock",
	};
	status = read_options(argc, argv, ret, &g);
	if (status < 0 && !g.help && !g.version && optind == argc) {
		help_all(commands, n, complaint);
		return CTL_EXIT_USAGE;
	}
	if (status < 0 && !g.help && !g.version) {
		ret->command = find(commands, n, argv[optind]);
		if (ret->command == NULL) {
			strbuf_printf(complaint, "ambientctl: no such command: %s\n",
				      str_shown(str_of(argv[optind])));
			status = CTL_EXIT_USAGE;
		} else {
			/* from the command's name on, and now in any order */
			argc -= optind;
			argv[optind] = argv[0]; /* who complains */
			argv += optind;
			optind = 0;
			status = read_options(argc, argv, ret, &g);
		}
	}
	if (status < 0 && g.version) {
		strbuf_puts(out, "ambientctl " VERSION "\n");
		return CTL_EXIT_OK;
	}
	if (status < 0 && g.help) {
		if (ret->command != NULL)
			help_one(ret->command, out);
		else
			help_all(commands, n, out);
		return CTL_EXIT_OK;
	}
	if (status < 0)
		status = settle(&g, &ret->common, complaint);
	if (status < 0)
		status = check_args(argc, argv, ret, complaint);
	if (status >= 0)
		strbuf_puts(complaint, "try: ambientctl --help\n");
	return status;
}

bool ctl_emit(const struct strbuf *out)
{
	bool ok = out->n == 0 || fwrite(out->p, 1, out->n, stdout) == out->n;

	return fflush(stdout) == 0 && ok;
}
