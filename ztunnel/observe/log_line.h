/* SPDX-License-Identifier: Apache-2.0
 * log_line.h: the access log's text (ztunnel-spec 13.4). Pure.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"
#include "ztunnel/observe/conn_info.h"

/* "connection complete", a TAB and the fields (text form), or with @json the fields as
 * `,"key":value` pairs to follow the message. @error NULL for success. */
void log_line_complete(struct strbuf *out, bool json, const struct conn_info *c, const char *error,
		       uint64_t duration_ms);
/* "connection opened" and what is known by then: the same fields without bytes, duration and error.
 */
void log_line_opened(struct strbuf *out, bool json, const struct conn_info *c);
/* A policy decision (ztunnel-spec 10.4): the policy, then who asked for what, as policies see it.
 * @policy may be empty; @suppressed: lines of this kind left out before. */
void log_line_policy(struct strbuf *out, bool json, const char *message, struct str policy,
		     const struct conn_info *c, unsigned int suppressed);
void log_line_early(struct strbuf *out, bool json, enum conn_reporter r, const struct ip_port *src,
		    const struct ip_port *dst, const char *error);
