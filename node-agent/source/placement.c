/* SPDX-License-Identifier: Apache-2.0
 * placement.c: see placement.h. Pure.
 */
#include "node-agent/source/placement.h"

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"

static const struct doc *at(const struct doc *d, const char *const *path, size_t n)
{
	for (size_t i = 0; d != NULL && i < n; i++)
		d = d->kind == DOC_MAP ? doc_get(d, path[i]) : NULL;
	return d;
}

static struct str text_of(const struct doc *d)
{
	return d != NULL && (d->kind == DOC_TEXT || d->kind == DOC_NUMBER) ? d->text
									   : (struct str){0};
}

/* The value of a node's label; NULL: it has none of that name. */
static const struct doc *label(const struct doc *labels, struct str key)
{
	for (const struct doc *d = labels != NULL && labels->kind == DOC_MAP ? labels->child : NULL;
	     d != NULL; d = d->next)
		if (str_eq(d->key, key))
			return d;
	return NULL;
}

static bool is_one_of(const struct doc *values, struct str v)
{
	for (const struct doc *d = values != NULL && values->kind == DOC_LIST ? values->child
									      : NULL;
	     d != NULL; d = d->next)
		if (str_eq(text_of(d), v))
			return true;
	return false;
}

/* Gt and Lt: both are whole numbers, or the label does not match. */
static enum placement compare(const struct doc *values, struct str have, bool greater)
{
	uint64_t a, b;

	if (values == NULL || values->kind != DOC_LIST || values->count != 1)
		return PLACEMENT_UNKNOWN;
	if (parse_u64(have, 0, UINT64_MAX, &a) < 0 ||
	    parse_u64(text_of(values->child), 0, UINT64_MAX, &b) < 0)
		return PLACEMENT_NO;
	return (greater ? a > b : a < b) ? PLACEMENT_YES : PLACEMENT_NO;
}

static enum placement yes_if(bool b)
{
	return b ? PLACEMENT_YES : PLACEMENT_NO;
}

/* One requirement: {key, operator, values}. @have NULL: the node does not have the key. */
static enum placement need_of(const struct doc *need, const struct doc *have)
{
	struct str op = text_of(doc_get(need, "operator")), v = text_of(have);
	const struct doc *values = doc_get(need, "values");

	if (str_eqc(op, "In"))
		return yes_if(have != NULL && is_one_of(values, v));
	if (str_eqc(op, "NotIn"))
		return yes_if(have == NULL || !is_one_of(values, v));
	if (str_eqc(op, "Exists"))
		return yes_if(have != NULL);
	if (str_eqc(op, "DoesNotExist"))
		return yes_if(have == NULL);
	if (str_eqc(op, "Gt") || str_eqc(op, "Lt"))
		return have == NULL ? PLACEMENT_NO : compare(values, v, str_eqc(op, "Gt"));
	return PLACEMENT_UNKNOWN;
}

static enum placement all_needs(const struct doc *needs, const struct doc *labels,
				const struct doc *name, bool fields, size_t *count)
{
	enum placement all = PLACEMENT_YES;

	for (const struct doc *d = needs != NULL && needs->kind == DOC_LIST ? needs->child : NULL;
	     d != NULL; d = d->next) {
		struct str key;
		enum placement one;

		++*count;
		if (d->kind != DOC_MAP)
			return PLACEMENT_UNKNOWN;
		key = text_of(doc_get(d, "key"));
		if (fields && !str_eqc(key, "metadata.name"))
			return PLACEMENT_UNKNOWN; /* the only field that there is */
		one = need_of(d, fields ? name : label(labels, key));
		if (one != PLACEMENT_YES && all != PLACEMENT_NO)
			all = one;
	}
	return all;
}

/* A term without a requirement matches nothing. */
static enum placement term_of(const struct doc *term, const struct doc *labels,
			      const struct doc *name)
{
	size_t n = 0;
	enum placement a, b;

	if (term->kind != DOC_MAP)
		return PLACEMENT_UNKNOWN;
	a = all_needs(doc_get(term, "matchExpressions"), labels, name, false, &n);
	b = all_needs(doc_get(term, "matchFields"), labels, name, true, &n);
	if (n == 0 || a == PLACEMENT_NO || b == PLACEMENT_NO)
		return PLACEMENT_NO;
	return a == PLACEMENT_YES ? b : a;
}

/* Any term is enough. */
static enum placement affinity(const struct doc *spec, const struct doc *labels,
			       const struct doc *name)
{
	static const char *const required[] = {"affinity", "nodeAffinity",
					       "requiredDuringSchedulingIgnoredDuringExecution"};
	const struct doc *d = at(spec, required, ARRAY_LEN(required));
	const struct doc *terms =
		d != NULL && d->kind == DOC_MAP ? doc_get(d, "nodeSelectorTerms") : NULL;
	enum placement any = PLACEMENT_NO;

	if (terms == NULL || terms->kind != DOC_LIST)
		return d == NULL || d->kind == DOC_NULL ? PLACEMENT_YES : PLACEMENT_UNKNOWN;
	for (const struct doc *t = terms->child; t != NULL; t = t->next) {
		enum placement one = term_of(t, labels, name);

		if (one == PLACEMENT_YES)
			return one;
		if (one == PLACEMENT_UNKNOWN)
			any = one;
	}
	return any;
}

static bool selected(const struct doc *selector, const struct doc *labels)
{
	for (const struct doc *d = selector != NULL && selector->kind == DOC_MAP ? selector->child
										 : NULL;
	     d != NULL; d = d->next) {
		const struct doc *have = label(labels, d->key);

		if (have == NULL || !str_eq(text_of(have), text_of(d)))
			return false;
	}
	return true;
}

static enum placement decide(const struct doc *workload, const struct doc *node)
{
	static const char *const template[] = {"spec", "template", "spec"};
	static const char *const name_of[] = {"metadata", "name"};
	static const char *const labels_of[] = {"metadata", "labels"};
	const struct doc *spec = at(workload, template, ARRAY_LEN(template));
	const struct doc *name = at(node, name_of, ARRAY_LEN(name_of));
	const struct doc *labels = at(node, labels_of, ARRAY_LEN(labels_of));

	if (spec == NULL || spec->kind != DOC_MAP || name == NULL || name->kind != DOC_TEXT)
		return PLACEMENT_UNKNOWN;
	if (!selected(doc_get(spec, "nodeSelector"), labels))
		return PLACEMENT_NO;
	return affinity(spec, labels, name);
}

enum placement placement_of(struct str workload, struct str node)
{
	struct arena *a = arena_new();
	enum placement r = PLACEMENT_UNKNOWN;
	const struct doc *w = NULL, *n = NULL;

	if (json_parse(workload, a, &w, NULL) == 0 && json_parse(node, a, &n, NULL) == 0)
		r = decide(w, n);
	(void)arena_free(a);
	return r;
}
