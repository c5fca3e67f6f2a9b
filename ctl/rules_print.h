/* SPDX-License-Identifier: Apache-2.0
 * rules_print.h: one pod's rules and sockets as the agent read them (docs/agent-api.md), for
 * people. Pure.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

struct doc;
struct err;

/* *ret_wrong: what is found is not what is wanted. -EINVAL names the field that is not as
 * documented. */
int ctl_rules_print(const struct doc *d, bool colour, struct strbuf *out, bool *ret_wrong,
		    struct err *err) _must_check_;
/* The path to ask for, @key escaped as RFC 3986, 2.1 says. */
void ctl_rules_path(const char *key, struct strbuf *out);
