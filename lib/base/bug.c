/* SPDX-License-Identifier: Apache-2.0
 * bug.c: the end of a process that met an impossible state.
 */
#include "lib/base/bug.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void bug_report(const char *expr, const char *file, int line)
{
	char buf[256];
	int n = snprintf(buf, sizeof(buf), "BUG: %s at %s:%d\n", expr, file, line);

	if (n > 0 &&
	    write(STDERR_FILENO, buf, (size_t)n < sizeof(buf) ? (size_t)n : sizeof(buf) - 1) < 0)
		abort();
	abort();
}
