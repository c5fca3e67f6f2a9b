/* SPDX-License-Identifier: Apache-2.0
 * fuzz_yaml.c: any bytes as YAML. Properties: depth limit, unique keys, texts are UTF-8 without
 * NUL, every refusal has a sentence; yaml_parse_items() takes what yaml_parse() takes, with the
 * same elements.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct doc *d, unsigned int depth)
{
	unsigned int i = 0;

	bug_on(depth > LIMIT_DOC_DEPTH || d->line == 0);
	bug_on(!str_is_utf8(d->text) || !str_is_utf8(d->key) || !str_is_utf8(d->tag));
	bug_on(d->kind == DOC_MAP && doc_duplicate(d) != NULL);
	for (const struct doc *c = d->child; c != NULL; c = c->next) {
		bug_on(c->parent != d || c->index != i++);
		check(c, depth + 1);
	}
	bug_on(i != d->count);
}

static int on_doc(void *ctx, const struct doc *root, struct err *err)
{
	(void)ctx;
	(void)err;
	bug_on(root->kind == DOC_NULL);
	check(root, 0);
	return 0;
}

/* The elements as they come, against the tree that has all of them. */
struct walk {
	const struct doc *root, *list, *next; /* of the tree */
	bool strict;			      /* there is a tree */
};

static bool same(const struct doc *a, const struct doc *b)
{
	const struct doc *x = a->child, *y = b->child;

	if (a->kind != b->kind || a->line != b->line || a->index != b->index ||
	    a->count != b->count || !str_eq(a->text, b->text) || !str_eq(a->key, b->key) ||
	    !str_eq(a->tag, b->tag))
		return false;
	for (; x != NULL && y != NULL; x = x->next, y = y->next)
		if (!same(x, y))
			return false;
	return x == y;
}

static int on_item(void *ctx, const struct doc *d, struct err *err)
{
	struct walk *w = ctx;

	(void)err;
	check(d, 2);
	bug_on(d->parent->kind != DOC_LIST || d->parent->parent->kind != DOC_MAP);
	if (!w->strict)
		return 0;
	if (w->list == NULL || !str_eq(w->list->key, d->parent->key)) {
		w->list = w->root->child;
		while (w->list != NULL && !str_eq(w->list->key, d->parent->key))
			w->list = w->list->next;
		bug_on(w->list == NULL);
		w->next = w->list->child;
	}
	bug_on(w->next == NULL || !same(w->next, d));
	w->next = w->next->next;
	return 0;
}

static void check_items(struct str in)
{
	struct arena *a = arena_new(), *b = arena_new();
	struct walk w = {0};
	const struct doc *root = NULL;
	struct err one = {0}, two = {0};
	int r = yaml_parse(in, a, &w.root, &one);

	w.strict = r == 0;
	bug_on(yaml_parse_items(in, b, on_item, &w, &root, &two) != r);
	bug_on(strcmp(one.msg, two.msg) != 0);
	bug_on(r == 0 && (root->kind != w.root->kind || root->count != w.root->count));
	(void)arena_free(a);
	(void)arena_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	struct arena *a = arena_new();
	struct err err = {0};
	int r = yaml_parse_all(in, a, on_doc, NULL, &err);

	bug_on(r < 0 && (err.code != -r || err.msg[0] == '\0'));
	arena_free(a);
	check_items(in);
	return 0;
}
