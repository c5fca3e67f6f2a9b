/* SPDX-License-Identifier: Apache-2.0
 * json.h: JSON text to a document tree, and writing JSON. Pure.
 *
 * Strict RFC 8259: jsmn tokenizes (strict, parent links: linear time), we enforce what it does not:
 * grammar, number and literal syntax, escapes (decoded to UTF-8; \u0000 and lone surrogates
 * refused), valid UTF-8, unique keys, depth LIMIT_DOC_DEPTH. One document, nothing after it but
 * white space.
 */
#pragma once
#include "lib/format/doc.h"

/* @in must stay valid as long as the tree (texts without escapes point into it). 0 or
 * -EINVAL/-E2BIG with line and offset in @err. *ret lives in @a. */
int json_parse(struct str in, struct arena *a, const struct doc **ret, struct err *err)
	_must_check_;

/* Writer: appends to a strbuf; commas and quoting are handled. */
struct jsonw {
	struct strbuf *out;
	unsigned int depth;
	bool need_comma;
	bool pretty; /* two blanks per level */
};
void jsonw_init(struct jsonw *w, struct strbuf *out, bool pretty);
void jsonw_obj(struct jsonw *w, const char *key); /* key NULL inside a list or at the top */
void jsonw_end_obj(struct jsonw *w);
void jsonw_list(struct jsonw *w, const char *key);
void jsonw_end_list(struct jsonw *w);
void jsonw_str(struct jsonw *w, const char *key, struct str v);
void jsonw_cstr(struct jsonw *w, const char *key, const char *v); /* NULL writes null */
void jsonw_int(struct jsonw *w, const char *key, long long v);
void jsonw_bool(struct jsonw *w, const char *key, bool v);
void jsonw_null(struct jsonw *w, const char *key);
void jsonw_raw(struct jsonw *w, const char *key, struct str json); /* a finished JSON value */
/* A key that is not a C string. */
void jsonw_obj_k(struct jsonw *w, struct str key);
void jsonw_list_k(struct jsonw *w, struct str key);
void jsonw_str_k(struct jsonw *w, struct str key, struct str v);
