/* SPDX-License-Identifier: Apache-2.0
 * selectors.c: see selectors.h.
 */
#include "node-agent/enrol/selectors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/format/yaml.h"

#define PAIRS_MAX	64
#define NEEDS_MAX	64
#define VALUES_MAX	256
#define KEY_PREFIX_MAX	253 /* Kubernetes: a DNS name, '/', and 63 characters */
#define KEY_NAME_MAX	63
#define LABEL_VALUE_MAX 63

static const char *const op_name[SELECTOR_OP_N] = {
	[SELECTOR_IN] = "In",
	[SELECTOR_NOT_IN] = "NotIn",
	[SELECTOR_EXISTS] = "Exists",
	[SELECTOR_DOES_NOT_EXIST] = "DoesNotExist",
};

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Letters and digits at both ends; between them also '-', '_' and '.'. */
static bool is_name(struct str s, size_t max)
{
	if (s.n == 0 || s.n > max || !is_alnum(s.p[0]) || !is_alnum(s.p[s.n - 1]))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!is_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '_' && s.p[i] != '.')
			return false;
	return true;
}

static bool is_key(struct str s)
{
	struct str prefix;

	return str_cut(&s, '/', &prefix)
		       ? is_name(prefix, KEY_PREFIX_MAX) && is_name(s, KEY_NAME_MAX)
		       : is_name(s, KEY_NAME_MAX);
}

static struct selector_need *need_add(struct selector *s, struct str key, enum selector_op op)
{
	s->v = xrealloc_array(s->v, s->n + 1, sizeof(*s->v));
	s->v[s->n] = (struct selector_need){.key = xstrndup(key.p, key.n), .op = op};
	return &s->v[s->n++];
}

static int check_key(const struct doc *at, struct str key, struct selectors *all, struct err *err)
{
	if (!is_key(key))
		return doc_err(at, err, "expected a label's key, got %s", str_shown(key));
	if (label_keys_add(&all->keys, key, err) < 0)
		return doc_err(at, err, "more than %d different label keys", LABEL_KEYS_MAX);
	return 0;
}

static int value_add(struct selector_need *n, const struct doc *d, struct err *err)
{
	if (d->kind != DOC_TEXT)
		return doc_err(d, err, "expected text (put the value in quotes)");
	if (d->text.n != 0 && !is_name(d->text, LABEL_VALUE_MAX))
		return doc_err(d, err, "expected a label's value, got %s", str_shown(d->text));
	n->values = xrealloc_array(n->values, n->nvalues + 1, sizeof(*n->values));
	n->values[n->nvalues++] = xstrndup(d->text.p, d->text.n);
	return 0;
}

static int read_labels(const struct doc *map, struct selectors *all, struct selector *s,
		       struct err *err)
{
	if (map != NULL && map->count > NEEDS_MAX)
		return doc_err(map, err, "more than %d labels", NEEDS_MAX);
	for (const struct doc *d = map != NULL ? map->child : NULL; d != NULL; d = d->next) {
		int r = check_key(d, d->key, all, err);

		if (r == 0)
			r = value_add(need_add(s, d->key, SELECTOR_IN), d, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_op(const struct doc *map, enum selector_op *ret, struct err *err)
{
	struct str s;
	int r = doc_need_text(map, "operator", &s, err);

	if (r < 0)
		return r;
	for (enum selector_op op = 0; op < SELECTOR_OP_N; op++)
		if (str_eqc(s, op_name[op])) {
			*ret = op;
			return 0;
		}
	return doc_err(doc_get(map, "operator"), err,
		       "expected In, NotIn, Exists or DoesNotExist, got %s", str_shown(s));
}

static int read_expression(const struct doc *map, struct selectors *all, struct selector *s,
			   struct err *err)
{
	static const char *const keys[] = {"key", "operator", "values", NULL};
	const struct doc *values = NULL;
	struct selector_need *n;
	enum selector_op op = SELECTOR_IN;
	struct str key;
	int r = doc_map(map, err);

	if (r < 0 || (r = doc_only_keys(map, keys, err)) < 0 ||
	    (r = doc_need_text(map, "key", &key, err)) < 0 ||
	    (r = check_key(doc_get(map, "key"), key, all, err)) < 0 ||
	    (r = read_op(map, &op, err)) < 0 || (r = doc_opt_list(map, "values", &values, err)) < 0)
		return r;
	n = need_add(s, key, op);
	if (values != NULL && values->count > VALUES_MAX)
		return doc_err(values, err, "more than %d values", VALUES_MAX);
	for (const struct doc *d = values != NULL ? values->child : NULL; d != NULL; d = d->next) {
		r = value_add(n, d, err);
		if (r < 0)
			return r;
	}
	if ((op == SELECTOR_IN || op == SELECTOR_NOT_IN) != (n->nvalues != 0))
		return doc_err(map, err, "operator %s: expected %s", op_name[op],
			       n->nvalues != 0 ? "no values" : "values");
	return 0;
}

static int read_selector(const struct doc *pair, const char *key, struct selectors *all,
			 struct selector *s, struct err *err)
{
	static const char *const keys[] = {"matchLabels", "matchExpressions", NULL};
	const struct doc *map = NULL, *labels = NULL, *list = NULL;
	int r = doc_opt_map(pair, key, &map, err);

	if (r < 0 || map == NULL)
		return r;
	if ((r = doc_only_keys(map, keys, err)) < 0 ||
	    (r = doc_opt_map(map, "matchLabels", &labels, err)) < 0 ||
	    (r = doc_opt_list(map, "matchExpressions", &list, err)) < 0 ||
	    (r = read_labels(labels, all, s, err)) < 0)
		return r;
	if (list != NULL && list->count > NEEDS_MAX)
		return doc_err(list, err, "more than %d expressions", NEEDS_MAX);
	for (const struct doc *d = list != NULL ? list->child : NULL; d != NULL; d = d->next) {
		r = read_expression(d, all, s, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_list(const struct doc *root, struct selectors *s, struct err *err)
{
	static const char *const keys[] = {"podSelector", "namespaceSelector", NULL};
	int r = doc_list(root, err);

	if (r < 0)
		return r;
	if (root->count > PAIRS_MAX)
		return doc_err(root, err, "more than %d pairs", PAIRS_MAX);
	for (const struct doc *d = root->child; d != NULL; d = d->next) {
		struct selector_pair *p;

		s->v = xrealloc_array(s->v, s->n + 1, sizeof(*s->v));
		p = &s->v[s->n++];
		*p = (struct selector_pair){0};
		if ((r = doc_map(d, err)) < 0 || (r = doc_only_keys(d, keys, err)) < 0 ||
		    (r = read_selector(d, "podSelector", s, &p->pod, err)) < 0 ||
		    (r = read_selector(d, "namespaceSelector", s, &p->ns, err)) < 0)
			return r;
	}
	return 0;
}

int selectors_parse(struct str yaml, struct selectors *ret, struct err *err)
{
	struct selectors s = {0};
	struct arena *a = arena_new();
	const struct doc *root;
	int r = yaml_parse(yaml, a, &root, err);

	if (r == 0)
		r = read_list(root, &s, err);
	(void)arena_free(a);
	if (r < 0) {
		selectors_fini(&s);
		return r;
	}
	*ret = s;
	return 0;
}

static void selector_fini(struct selector *s)
{
	for (size_t i = 0; i < s->n; i++) {
		for (size_t k = 0; k < s->v[i].nvalues; k++)
			free(s->v[i].values[k]);
		free(s->v[i].values);
		free(s->v[i].key);
	}
	free(s->v);
}

void selectors_fini(struct selectors *s)
{
	for (size_t i = 0; i < s->n; i++) {
		selector_fini(&s->v[i].pod);
		selector_fini(&s->v[i].ns);
	}
	free(s->v);
	label_keys_fini(&s->keys);
	*s = (struct selectors){0};
}

static bool is_among(const struct selector_need *n, const char *value)
{
	for (size_t i = 0; i < n->nvalues; i++)
		if (strcmp(n->values[i], value) == 0)
			return true;
	return false;
}

static bool met(const struct selector_need *n, const struct labels *l)
{
	const char *value = labels_get(l, n->key);

	switch (n->op) {
	case SELECTOR_IN:
		return value != NULL && is_among(n, value);
	case SELECTOR_NOT_IN:
		return value == NULL || !is_among(n, value);
	case SELECTOR_EXISTS:
		return value != NULL;
	case SELECTOR_DOES_NOT_EXIST:
		return value == NULL;
	case SELECTOR_OP_N:
		break;
	}
	return false;
}

static bool selector_matches(const struct selector *s, const struct labels *l)
{
	for (size_t i = 0; i < s->n; i++)
		if (!met(&s->v[i], l))
			return false;
	return true;
}

size_t selectors_match(const struct selectors *s, const struct labels *pod, const struct labels *ns)
{
	for (size_t i = 0; i < s->n; i++)
		if (selector_matches(&s->v[i].pod, pod) && selector_matches(&s->v[i].ns, ns))
			return i + 1;
	return 0;
}

static void print_selector(struct jsonw *w, const char *key, const struct selector *s)
{
	jsonw_obj(w, key);
	jsonw_list(w, "matchExpressions");
	for (size_t i = 0; i < s->n; i++) {
		const struct selector_need *need = &s->v[i];

		jsonw_obj(w, NULL);
		jsonw_cstr(w, "key", need->key);
		jsonw_cstr(w, "operator", op_name[need->op]);
		if (need->nvalues != 0) { /* Exists and DoesNotExist may not have any */
			jsonw_list(w, "values");
			for (size_t k = 0; k < need->nvalues; k++)
				jsonw_cstr(w, NULL, need->values[k]);
			jsonw_end_list(w);
		}
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
	jsonw_end_obj(w);
}

void selectors_print(const struct selectors *s, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, false);
	jsonw_list(&w, NULL);
	for (size_t i = 0; i < s->n; i++) {
		jsonw_obj(&w, NULL);
		print_selector(&w, "podSelector", &s->v[i].pod);
		print_selector(&w, "namespaceSelector", &s->v[i].ns);
		jsonw_end_obj(&w);
	}
	jsonw_end_list(&w);
}

int selectors_fuzz(const uint8_t *p, size_t n)
{
	struct labels none = {0}, some = {0};
	struct selectors s = {0};
	struct err err = {0};

	if (selectors_parse((struct str){(const char *)p, n}, &s, &err) < 0) {
		bug_on(err.msg[0] == '\0' || s.n != 0);
		return 0;
	}
	for (size_t i = 0; i < s.keys.n; i++)
		labels_add(&some, s.keys.v[i], "ambient");
	bug_on(selectors_match(&s, &none, &some) > s.n || selectors_match(&s, &some, &none) > s.n);
	labels_fini(&some);
	{ /* what is printed reads as the same (JSON is YAML) */
		_cleanup_strbuf_ struct strbuf once = {0}, twice = {0};
		struct selectors again = {0};

		selectors_print(&s, &once);
		bug_on(selectors_parse((struct str){once.p, once.n}, &again, &err) < 0);
		selectors_print(&again, &twice);
		bug_on(!str_eq((struct str){once.p, once.n}, (struct str){twice.p, twice.n}));
		selectors_fini(&again);
	}
	selectors_fini(&s);
	return 0;
}
