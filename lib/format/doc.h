/* SPDX-License-Identifier: Apache-2.0
 * doc.h: a parsed document (JSON or YAML) as a tree, and typed getters that name the field. Pure.
 *
 * The tree lives in the caller's arena. Texts are slices with a length. Getters return 0 or -errno
 * and put the path and the line into @err: "workloads[3].namespace (line 12): expected text, got
 * number".
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct arena;
struct err;

enum doc_kind { DOC_NULL, DOC_BOOL, DOC_NUMBER, DOC_TEXT, DOC_LIST, DOC_MAP, DOC_N };

struct doc {
	enum doc_kind kind;
	bool truth;	    /* DOC_BOOL */
	struct str text;    /* DOC_TEXT: decoded; DOC_NUMBER: as written */
	struct str tag;	    /* YAML application tag without '!', e.g. "Exact"; else empty */
	struct str key;	    /* in a map: decoded key */
	struct str raw;	    /* JSON only: the exact source bytes of this value */
	unsigned int line;  /* 1-based */
	unsigned int index; /* position in the parent */
	struct doc *parent, *child, *next; /* first child, next sibling, in source order */
	unsigned int count;		   /* of children */
};

/* Null-safe: NULL when @d is NULL, no map, or has no such key. */
const struct doc *doc_get(const struct doc *d, const char *key);
/* Path of @d from the root, for messages: "spec.containers[0].name". Returns @buf. */
const char *doc_path(const struct doc *d, char *buf, size_t cap);
/* err_set with "<path> (line N): " in front. */
int doc_err(const struct doc *d, struct err *err, const char *fmt, ...) _printf_(3, 4);

/* Required: a missing field is an error that names the parent's path and the key. */
int doc_map(const struct doc *d, struct err *err) _must_check_; /* checks the kind of @d itself */
int doc_list(const struct doc *d, struct err *err) _must_check_;
int doc_need_text(const struct doc *map, const char *key, struct str *ret, struct err *err)
	_must_check_;
/* Optional: absent or null leaves *ret untouched and returns 0. */
int doc_opt_text(const struct doc *map, const char *key, struct str *ret, struct err *err)
	_must_check_;
int doc_opt_bool(const struct doc *map, const char *key, bool *ret, struct err *err) _must_check_;
int doc_opt_u32(const struct doc *map, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
		struct err *err) _must_check_;
int doc_opt_list(const struct doc *map, const char *key, const struct doc **ret, struct err *err)
	_must_check_;
int doc_opt_map(const struct doc *map, const char *key, const struct doc **ret, struct err *err)
	_must_check_;
/* -EINVAL naming the first key of @map that is not in @allowed (NULL-terminated), with a suggestion
 * when one is close. For documents that people type. */
int doc_only_keys(const struct doc *map, const char *const *allowed, struct err *err) _must_check_;

/* For parsers: the first child of @map whose key appeared before, or NULL. Linear in the keys. */
const struct doc *doc_duplicate(const struct doc *map);
