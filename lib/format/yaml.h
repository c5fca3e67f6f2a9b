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
/* One document that is a map of long lists, without its tree in memory as a whole: @item gets each
 * element of each list, complete, and its tree is gone afterwards. The root, with the keys, the
 * empty lists (`count` says how many elements came) and whatever else is there, is in @a as
 * yaml_parse() would give it; when @item is called, it has the keys so far. */
int yaml_parse_items(struct str in, struct arena *a,
		     int (*item)(void *ctx, const struct doc *d, struct err *err), void *ctx,
		     const struct doc **ret, struct err *err) _must_check_;
/* Exactly one document (an empty file gives a DOC_NULL root). */
int yaml_parse(struct str in, struct arena *a, const struct doc **ret, struct err *err)
	_must_check_;
