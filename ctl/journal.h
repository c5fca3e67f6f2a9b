/* SPDX-License-Identifier: Apache-2.0
 * journal.h: what a systemd service wrote to the journal last.
 *
 * Through libsystemd, sd-journal(3), which is looked for when it is needed: where there is a
 * journal there is that library, and elsewhere nothing asks for it. No program is started.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"

struct err;
struct strbuf;

/* Appends the last lines of @unit, and what the service manager said about it, oldest first,
 * @max_bytes at most; *ret_cut: there were more. -ENOENT without a journal or lines of it. */
int ctl_journal_tail(const char *unit, size_t max_bytes, struct strbuf *out, bool *ret_cut,
		     struct err *err) _must_check_;
