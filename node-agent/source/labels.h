/* SPDX-License-Identifier: Apache-2.0
 * labels.h: the labels of an object that somebody asks for. Pure.
 *
 * An object of a cluster carries dozens of labels, and there are thousands of namespaces: only
 * those whose key is in a struct label_keys are kept. Texts are owned.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct doc;
struct err;

#define LABEL_KEYS_MAX 64

struct label_keys {
	char *v[LABEL_KEYS_MAX];
	size_t n;
};
/* Adds a copy of @key unless it is there. -E2BIG when there are too many. */
int label_keys_add(struct label_keys *k, struct str key, struct err *err) _must_check_;
void label_keys_fini(struct label_keys *k);

struct label {
	char *key, *value;
};
struct labels { /* zero to start; in the order of the keys */
	struct label *v;
	size_t n;
};
void labels_fini(struct labels *l);
/* Takes those of @map (a checked map of texts, or NULL) that @keep (NULL: none) asks for. -EINVAL
 * for a value with a NUL character. */
int labels_read(struct labels *l, const struct doc *map, const struct label_keys *keep,
		struct err *err) _must_check_;
void labels_add(struct labels *l, const char *key, const char *value); /* copies */
/* NULL when absent. */
const char *labels_get(const struct labels *l, const char *key);
bool labels_same(const struct labels *a, const struct labels *b);
