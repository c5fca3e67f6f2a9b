/* SPDX-License-Identifier: Apache-2.0
 * bug.h: checks for impossible states, always compiled in.
 *
 * bug_on() logs the expression and its place, then aborts: continuing could fail open or corrupt
 * memory, and socket custody keeps the listeners while the service manager restarts us.
 * Long-lived objects start with a magic number; OBJ_CHECK at the entry of callbacks finds most
 * lifetime bugs at the price of one compare.
 */
#pragma once
#include <stdint.h>

__attribute__((noreturn, cold)) void bug_report(const char *expr, const char *file, int line);
#define bug_on(cond)                                                                               \
	do {                                                                                       \
		if (__builtin_expect(!!(cond), 0))                                                 \
			bug_report(#cond, __FILE__, __LINE__);                                     \
	} while (0)

#define OBJ_DEAD	0xdeadf00du
#define OBJ_CHECK(p, m) bug_on((p) == NULL || (p)->magic != (m))
