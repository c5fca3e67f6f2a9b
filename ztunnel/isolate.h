/* SPDX-License-Identifier: Apache-2.0
 * isolate.h: what the process gives up before it touches anything of a peer (style R94).
 */
#pragma once
#include "lib/base/attr.h"

struct err;

/* Raises RLIMIT_NOFILE to the hard limit; failure is only logged (ztunnel-spec 1.1). */
void isolate_raise_nofile(void);
/* In this order: capabilities down to NET_ADMIN, SYS_ADMIN and NET_RAW in every set, no new
 * privileges, not dumpable, and a seccomp filter that kills on what a proxy never does (running
 * programs, mounting, tracing, loading code into the kernel). Before threads exist. In sanitized
 * builds the last two are left out: the leak checker traces its own process. */
int isolate_process(struct err *err) _must_check_;
/* Checks what serving pods needs (ztunnel-spec 1.3): entering a namespace and marking a socket. */
int isolate_self_test(struct err *err) _must_check_;
