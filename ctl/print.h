/* SPDX-License-Identifier: Apache-2.0
 * print.h: a report as text for people and as JSON for programs. Pure.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

struct ctl_report;

/* `status`: what a person needs first: is all well, and if not what is wrong and what to do. Then
 * counts of pods and the processes one by one. */
void ctl_print_status(const struct ctl_report *r, bool colour, struct strbuf *out);
/* `pods`: one line per pod, of one namespace if @ns is not NULL. Problems of the processes go to
 * @out_notes, one line each. */
void ctl_print_pods(const struct ctl_report *r, const char *ns, bool colour, struct strbuf *out,
		    struct strbuf *out_notes);

/* The same facts; texts as they came. */
void ctl_json_status(const struct ctl_report *r, struct strbuf *out);
void ctl_json_pods(const struct ctl_report *r, const char *ns, struct strbuf *out);
