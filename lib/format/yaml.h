/* SPDX-License-Identifier: Apache-2.0
 * yaml.h: YAML text (libyaml events) to the same document tree as JSON. Pure.
 *
 * YAML 1.2 core schema for plain scalars (null/~, true/false, decimal numbers; anything else is
 * text; quoted is text). Anchors and aliases are refused, keys must be unique scalars, depth is
 * limited. Application tags ("!Exact foo") are kept in doc.tag and their scalar is text. JSON is a
 * subset, so `.json` manifests may be read by this too.
 */
#pragma once
#include "lib/format/doc.h"

/* Reads every document of @in: fn is called for each non-empty one with a tree in @a (the caller
 * may reset nothing: trees live until the arena dies). Stops at the first error of the text or of
 * fn. Errors carry the line. */
int yaml_parse_all(struct str in, struct arena *a,
		   int (*fn)(void *ctx, const struct doc *root, struct err *err), void *ctx,
		   struct err *err) _must_check_;
/* Exactly one document (an empty file gives a DOC_NULL root). */
int yaml_parse(struct str in, struct arena *a, const struct doc **ret, struct err *err)
	_must_check_;
