/* SPDX-License-Identifier: Apache-2.0
 * ask.h: questions to the node's agent and ztunnel over their sockets, answers as structs.
 */
#pragma once
#include <stdint.h>
#include "lib/base/str.h"

struct arena;
struct ctl_agent;
struct ctl_common;
struct ctl_report;
struct doc;
struct err;

#define CTL_ANSWER_MS 5000 /* both programs answer from memory; the rest is a hung process */

/* The JSON at @path of @socket, within CTL_ANSWER_MS. @text gets what was received and must outlive
 * *ret, as must @a. The error says what to do when nobody answers; it is -ENOENT for status 404. */
int ctl_ask_json(const char *socket, const char *path, struct arena *a, struct strbuf *text,
		 const struct doc **ret, struct err *err) _must_check_;
/* The same as text: the body. */
int ctl_ask_text(const char *socket, const char *path, struct strbuf *text, struct str *ret,
		 struct err *err) _must_check_;

/* The agent alone, without its reading of rules: quick. -errno with the reason. @text, @a as above.
 */
int ctl_ask_agent_quick(const char *socket, struct arena *a, struct strbuf *text,
			struct ctl_agent *ret, struct err *err) _must_check_;

/* What was received; the report points into it. */
struct ctl_texts {
	struct strbuf agent, dump, ready;
};
void ctl_texts_fini(struct ctl_texts *t);

/* Asks both, and what is wrong. Somebody who does not answer is part of the report. */
void ctl_ask_report(const struct ctl_common *c, struct arena *a, struct ctl_texts *t,
		    struct ctl_report *ret);
