/* SPDX-License-Identifier: Apache-2.0
 * main.c: ambientctl: the commands.
 */
#include <stdio.h>

#include "ctl/command.h"
#include "lib/base/str.h"

/* clang-format off */
static const struct ctl_command *const commands[] = {
	&ctl_status_command,
	&ctl_pods_command,
	&ctl_rules_command,
	&ctl_check_command,
	&ctl_support_bundle_command,
	&ctl_ready_command,
	&ctl_export_state_command,
};
/* clang-format on */

int main(int argc, char **argv)
{
	_cleanup_strbuf_ struct strbuf out = {0}, complaint = {0};
	struct ctl_call call;
	int status = ctl_command_line(argc, argv, commands, ARRAY_LEN(commands), &call, &out,
				      &complaint);

	if (status < 0)
		return call.command->run(&call);
	if (complaint.n != 0)
		fputs(complaint.p, stderr);
	return ctl_emit(&out) ? status : CTL_EXIT_WRONG;
}
