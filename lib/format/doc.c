/* SPDX-License-Identifier: Apache-2.0
 * doc.c: see doc.h. Pure. Knows nothing of JSON or YAML.
 */
#include "lib/format/doc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

static const char *const kind_name[DOC_N] = {
	[DOC_NULL] = "null", [DOC_BOOL] = "true or false", [DOC_NUMBER] = "number",
	[DOC_TEXT] = "text", [DOC_LIST] = "list",	   [DOC_MAP] = "map",
};

const struct doc *doc_get(const struct doc *d, const char *key)
{
	struct str k = str_of(key);

	if (d == NULL || d->kind != DOC_MAP)
		return NULL;
	for (const struct doc *c = d->child; c != NULL; c = c->next)
		if (str_eq(c->key, k))
			return c;
	return NULL;
}

const char *doc_path(const struct doc *d, char *buf, size_t cap)
{
	const struct doc *chain[LIMIT_DOC_DEPTH + 2];
	size_t n = 0, o = 0;

	buf[0] = '\0';
	for (; d != NULL && d->parent != NULL && n < ARRAY_LEN(chain); d = d->parent)
		chain[n++] = d;
	if (n == 0)
		(void)snprintf(buf, cap, "top level");
	while (n-- != 0 && o < cap) {
		const struct doc *c = chain[n];
		int w;

		if (c->parent->kind == DOC_LIST)
			w = snprintf(buf + o, cap - o, "[%u]", c->index);
		else
			w = snprintf(buf + o, cap - o, "%s%s", o != 0 ? "." : "",
				     c->key.n != 0 ? str_shown(c->key) : "\"\"");
		o += w > 0 ? (size_t)w : 0;
	}
	return buf;
}

int doc_err(const struct doc *d, struct err *err, const char *fmt, ...)
{
	char path[200], text[300];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(err, EINVAL, "%s (line %u): %s", doc_path(d, path, sizeof(path)),
		       d != NULL ? d->line : 0, text);
}

static int expect(const struct doc *d, enum doc_kind kind, struct err *err)
{
	if (d == NULL)
		return err_set(err, EINVAL, "expected %s, got nothing", kind_name[kind]);
	if (d->kind == kind)
		return 0;
	/* the usual cause in YAML: a version or an id that looks like a number */
	if (kind == DOC_TEXT && (d->kind == DOC_NUMBER || d->kind == DOC_BOOL))
		return doc_err(d, err, "expected text, got %s (put it in quotes)",
			       kind_name[d->kind]);
	return doc_err(d, err, "expected %s, got %s", kind_name[kind], kind_name[d->kind]);
}

int doc_map(const struct doc *d, struct err *err)
{
	return expect(d, DOC_MAP, err);
}

int doc_list(const struct doc *d, struct err *err)
{
	return expect(d, DOC_LIST, err);
}

/* The value of an optional field: NULL when it is absent or null. */
static int optional(const struct doc *map, const char *key, enum doc_kind kind,
		    const struct doc **ret, struct err *err)
{
	const struct doc *d;
	int r = doc_map(map, err);

	if (r < 0)
		return r;
	d = doc_get(map, key);
	if (d != NULL && d->kind == DOC_NULL)
		d = NULL;
	if (d != NULL) {
		r = expect(d, kind, err);
		if (r < 0)
			return r;
	}
	*ret = d;
	return 0;
}

int doc_need_text(const struct doc *map, const char *key, struct str *ret, struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_TEXT, &d, err);

	if (r < 0)
		return r;
	if (d == NULL)
		return doc_err(map, err, "field %s is missing", key);
	*ret = d->text;
	return 0;
}

int doc_opt_text(const struct doc *map, const char *key, struct str *ret, struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_TEXT, &d, err);

	if (r == 0 && d != NULL)
		*ret = d->text;
	return r;
}

int doc_opt_bool(const struct doc *map, const char *key, bool *ret, struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_BOOL, &d, err);

	if (r == 0 && d != NULL)
		*ret = d->truth;
	return r;
}

int doc_opt_u32(const struct doc *map, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
		struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_NUMBER, &d, err);

	if (r < 0 || d == NULL)
		return r;
	if (parse_u32(d->text, min, max, ret) != 0)
		return doc_err(d, err, "expected a whole number from %u to %u, got %s", min, max,
			       str_shown(d->text));
	return 0;
}

int doc_opt_list(const struct doc *map, const char *key, const struct doc **ret, struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_LIST, &d, err);

	if (r == 0 && d != NULL)
		*ret = d;
	return r;
}

int doc_opt_map(const struct doc *map, const char *key, const struct doc **ret, struct err *err)
{
	const struct doc *d = NULL;
	int r = optional(map, key, DOC_MAP, &d, err);

	if (r == 0 && d != NULL)
		*ret = d;
	return r;
}

/* True if one edit (insert, delete, replace, swap of neighbours), or a change of case, leads from
 * @a to @b. */
static bool is_close(struct str a, struct str b)
{
	size_t i = 0, j;

	if (str_eq_nocase(a, b))
		return true;
	while (i < a.n && i < b.n && a.p[i] == b.p[i])
		i++;
	for (j = 0; j < a.n - i && j < b.n - i && a.p[a.n - 1 - j] == b.p[b.n - 1 - j]; j++)
		;
	a.n -= i + j;
	b.n -= i + j;
	a.p += i;
	b.p += i;
	if (a.n <= 1 && b.n <= 1)
		return true;
	return a.n == 2 && b.n == 2 && a.p[0] == b.p[1] && a.p[1] == b.p[0];
}

/* Asked for every field of every element of a long file. */
static bool is_one_of(struct str key, const char *const *allowed)
{
	for (; *allowed != NULL; allowed++)
		if (key.n != 0 && key.p[0] == (*allowed)[0] && str_eqc(key, *allowed))
			return true;
	return false;
}

int doc_only_keys(const struct doc *map, const char *const *allowed, struct err *err)
{
	int r = doc_map(map, err);

	if (r < 0)
		return r;
	for (const struct doc *c = map->child; c != NULL; c = c->next) {
		const char *hint = NULL;

		if (is_one_of(c->key, allowed))
			continue;
		for (const char *const *k = allowed; *k != NULL && hint == NULL; k++)
			if (is_close(c->key, str_of(*k)))
				hint = *k;
		if (hint != NULL)
			return doc_err(c, err, "unknown field, did you mean %s?", hint);
		return doc_err(c, err, "unknown field");
	}
	return 0;
}

static const struct doc *duplicate_of_few(const struct doc *map)
{
	for (const struct doc *c = map->child; c != NULL; c = c->next)
		for (const struct doc *e = map->child; e != c; e = e->next)
			if (str_eq(c->key, e->key))
				return c;
	return NULL;
}

/* An open-addressed set of the keys: linear for any number of keys, and a peer cannot choose which
 * of them collide. */
static const struct doc *duplicate_of_many(const struct doc *map)
{
	_cleanup_free_ const struct doc **set = NULL;
	size_t size = 64;

	while (size < (size_t)map->count * 2)
		size *= 2;
	set = xcalloc(size, sizeof(struct doc *));
	for (const struct doc *c = map->child; c != NULL; c = c->next) {
		size_t i = hash_str(c->key) & (size - 1);

		while (set[i] != NULL) {
			if (str_eq(set[i]->key, c->key))
				return c;
			i = (i + 1) & (size - 1);
		}
		set[i] = c;
	}
	return NULL;
}

const struct doc *doc_duplicate(const struct doc *map)
{
	return map->count <= 16 ? duplicate_of_few(map) : duplicate_of_many(map);
}
