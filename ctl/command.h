/* SPDX-License-Identifier: Apache-2.0
 * command.h: a subcommand of ambientctl as data. The table in main.c lists them; options, --help
 * and usage errors follow from the rows.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct strbuf;

/* For all commands; each man page section says what 1 means there. */
enum ctl_exit {
	CTL_EXIT_OK = 0,
	CTL_EXIT_WRONG = 1,	/* the answer is bad news */
	CTL_EXIT_USAGE = 2,	/* the question was wrong */
	CTL_EXIT_NO_ANSWER = 3, /* it could not be answered: nobody there, no such pod */
};

#define CTL_OPTIONS_MAX 24 /* of one command, without the common ones */

struct ctl_option {
	char letter;	  /* 0: none */
	const char *name; /* without the dashes */
	const char *arg;  /* what --help calls its value; NULL: a switch */
	const char *help;
};

/* What every command understands, before its name or after it. */
struct ctl_common {
	const char *agent_socket, *ztunnel_socket;
	bool json;
	bool colour; /* decided: terminal, NO_COLOR, TERM, --color */
};

struct ctl_call;
struct ctl_command {
	const char *name, *args, *summary; /* "rules", "POD" (NULL: none), one line */
	const char *details;		   /* more for --help, ending in a new line; NULL: none */
	/* An option that has a letter or name of a common one replaces it. */
	const struct ctl_option *options;
	size_t noptions;
	size_t min_args, max_args;
	/* Returns the exit status. */
	int (*run)(const struct ctl_call *c);
};

/* A command line that fits its command. Everything lives as long as argv. */
struct ctl_call {
	const struct ctl_command *command;
	struct ctl_common common;
	const char *value[CTL_OPTIONS_MAX]; /* like command->options: NULL not given; "" a switch */
	size_t nargs;
	char *const *args;
};
/* The value of an option of the command by its long name; NULL when it was not given. */
const char *ctl_call_value(const struct ctl_call *c, const char *name);

/* Reads the command line. -1: go on with *ret. Else the exit status; @out has what belongs on
 * standard output (help) and @complaint what belongs on standard error. Uses getopt(): main thread,
 * once. @argv is reordered. */
int ctl_command_line(int argc, char **argv, const struct ctl_command *const *commands, size_t n,
		     struct ctl_call *ret, struct strbuf *out, struct strbuf *complaint);

/* Writes to standard output. False when it could not (full disk, closed pipe). */
bool ctl_emit(const struct strbuf *out);

/* The commands; each in a file of its name. */
extern const struct ctl_command ctl_status_command, ctl_pods_command, ctl_rules_command;
extern const struct ctl_command ctl_check_command, ctl_ready_command, ctl_export_state_command;
extern const struct ctl_command ctl_support_bundle_command;
