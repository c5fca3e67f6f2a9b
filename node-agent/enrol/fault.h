/* SPDX-License-Identifier: Apache-2.0
 * fault.h: lets tests kill the agent right after a step, or make a step fail. Exists only in
 * sanitizer builds and with -DFAULTS; in a release build both calls are nothing.
 */
#pragma once
#if defined(SANITIZED) || defined(FAULTS)
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline bool fault_named(const char *env, const char *step)
{
	const char *v = getenv(env);

	return v != NULL && strcmp(v, step) == 0;
}
static inline void fault_after(const char *step)
{
	if (fault_named("AMBIENT_AGENT_CRASH_AFTER", step))
		(void)kill(getpid(), SIGKILL);
}
static inline int fault_in(const char *step)
{
	return fault_named("AMBIENT_AGENT_FAIL_IN", step) ? -EIO : 0;
}
#else
#define fault_after(step) ((void)0)
#define fault_in(step)	  0
#endif
