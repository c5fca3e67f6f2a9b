/* SPDX-License-Identifier: Apache-2.0
 * labels.c: see labels.h.
 */
#include "node-agent/source/labels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

int label_keys_add(struct label_keys *k, struct str key, struct err *err)
{
	for (size_t i = 0; i < k->n; i++)
		if (str_eqc(key, k->v[i]))
			return 0;
	if (k->n == LABEL_KEYS_MAX)
		return err_set(err, E2BIG, "more than %d different label keys", LABEL_KEYS_MAX);
	k->v[k->n++] = xstrndup(key.p, key.n);
	return 0;
}

void label_keys_fini(struct label_keys *k)
{
	for (size_t i = 0; i < k->n; i++)
		free(k->v[i]);
	*k = (struct label_keys){0};
}

void labels_fini(struct labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
	*l = (struct labels){0};
}

static void append(struct labels *l, const char *key, char *value)
{
	l->v = xrealloc_array(l->v, l->n + 1, sizeof(*l->v));
	l->v[l->n++] = (struct label){xstrdup(key), value};
}

void labels_add(struct labels *l, const char *key, const char *value)
{
	append(l, key, xstrdup(value));
}

int labels_read(struct labels *l, const struct doc *map, const struct label_keys *keep,
		struct err *err)
{
	for (size_t i = 0; keep != NULL && i < keep->n; i++) {
		const struct doc *d = doc_get(map, keep->v[i]);

		if (d == NULL)
			continue;
		if (d->kind == DOC_TEXT && memchr(d->text.p, '\0', d->text.n) != NULL)
			return doc_err(d, err, "text with a NUL character");
		append(l, keep->v[i],
		       d->kind == DOC_TEXT ? xstrndup(d->text.p, d->text.n) : xstrdup(""));
	}
	return 0;
}

const char *labels_get(const struct labels *l, const char *key)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i].key, key) == 0)
			return l->v[i].value;
	return NULL;
}

bool labels_same(const struct labels *a, const struct labels *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i].key, b->v[i].key) != 0 ||
		    strcmp(a->v[i].value, b->v[i].value) != 0)
			return false;
	return true;
}
