/* SPDX-License-Identifier: Apache-2.0
 * http_answer.h: reads one HTTP/1.1 answer out of a buffer. Pure.
 *
 * Only what an answer to our one request can be: a status line, a head, and a body with a length,
 * in chunks (Go's server, above 2 KiB), or up to the end of the connection. Source: RFC 9112.
 */
#pragma once
#include "lib/base/str.h"

struct err;
struct arena;

struct http_answer {
	unsigned int status;
	struct str body; /* in the input, or in the arena when it came in chunks */
};

/* Looks at the bytes received so far. @eof: no more will come. Returns 1 when the answer is
 * complete, 0 when more is needed, or -EBADMSG (not HTTP, or not this part of it) and -ECONNRESET
 * (ended in the middle) with a sentence in @err. A longer input never changes a complete answer. */
int http_answer_parse(struct str in, bool eof, struct arena *a, struct http_answer *ret,
		      struct err *err) _must_check_;
