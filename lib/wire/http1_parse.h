/* SPDX-License-Identifier: Apache-2.0
 * http1_parse.h: the head of an HTTP/1.1 request, and chunked bodies. Pure.
 *
 * Strict: lines end in CRLF, tokens are RFC 9110 tokens, no obsolete line folding, at most one
 * Content-Length and not together with Transfer-Encoding. Source: RFC 9112 2-7.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

#define HTTP1_FIELDS_MAX 100
#define HTTP1_QUERY_MAX	 16

struct http1_pair { /* NUL-terminated, in the caller's buffer */
	const char *name, *value;
};
struct http1_head {
	const char *method, *path; /* path without query, as sent */
	struct http1_pair field[HTTP1_FIELDS_MAX];
	size_t nfields;
	struct http1_pair query[HTTP1_QUERY_MAX]; /* decoded; more are ignored */
	size_t nquery;
	bool keep_alive, chunked, expect_continue;
	uint64_t length; /* of the body when not chunked */
};

/* Length of the head including the empty line, 0 while it is incomplete. */
size_t http1_head_end(struct str in);
/* Parses a complete head in place: @buf (of @n bytes) is changed, and @ret points into it.
 * 0, or -EINVAL with the HTTP status to answer in *ret_status. */
int http1_head_parse(char *buf, size_t n, struct http1_head *ret, unsigned int *ret_status)
	_must_check_;
/* Value of the first field of that name (any case), NULL if absent. */
const char *http1_head_field(const struct http1_head *h, const char *name);

enum http1_chunk_state { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER, CHUNK_DONE };
struct http1_chunks { /* zero to start */
	enum http1_chunk_state state;
	uint64_t left;
	size_t line;	 /* bytes of the present line */
	size_t overhead; /* bytes of all lines: bounded */
	bool extension, digits, cr;
};
/* Takes input from *in (advanced) until a piece of body is there, the input is used up, or the body
 * is over (state CHUNK_DONE). @ret_data may be empty. 0 or -EINVAL. */
int http1_chunks_take(struct http1_chunks *c, struct str *in, struct str *ret_data) _must_check_;
