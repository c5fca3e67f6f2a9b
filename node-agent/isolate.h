/* SPDX-License-Identifier: Apache-2.0
 * isolate.h: the agent gives up what it does not need (style R94, security.md).
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"

struct err;

/* Stage 1, before anything is read: no new privileges, capabilities down to NET_ADMIN, NET_RAW,
 * SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, memory not readable by others. @writes_for_others:
 * DAC_OVERRIDE stays, too, where we have it: a pod of Istio's chart is given it to write into
 * directories of the node that are not root's. -EPERM names a needed capability that is missing. */
int isolate_privileges(bool writes_for_others, struct err *err) _must_check_;
/* Stage 2, before the loop: a system call filter without programs, children, mounts, modules. */
int isolate_syscalls(struct err *err) _must_check_;
