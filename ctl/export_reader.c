/* SPDX-License-Identifier: Apache-2.0
 * export_reader.c: see export_reader.h.
 */
#include "ctl/export_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

void ex_rd_bad(struct ex_reader *r, const struct doc *d, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	if (r->bad)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->bad = true;
	(void)doc_err(d, r->err, "%s", text);
}

static const struct doc *rd_any(struct ex_reader *r, const struct doc *map, const char *key,
				enum doc_kind kind, const char *what)
{
	const struct doc *d = doc_get(map, key);

	if (d == NULL || d->kind == DOC_NULL)
		return NULL;
	if (d->kind == kind)
		return d;
	ex_rd_bad(r, d, "expected %s", what);
	return NULL;
}

struct str ex_rd_text(struct ex_reader *r, const struct doc *map, const char *key)
{
	const struct doc *d = rd_any(r, map, key, DOC_TEXT, "text");

	return d != NULL ? d->text : (struct str){"", 0};
}

bool ex_rd_bool(struct ex_reader *r, const struct doc *map, const char *key, bool absent)
{
	const struct doc *d = rd_any(r, map, key, DOC_BOOL, "true or false");

	return d != NULL ? d->truth : absent;
}

const struct doc *ex_rd_map(struct ex_reader *r, const struct doc *map, const char *key)
{
	return rd_any(r, map, key, DOC_MAP, "an object");
}

const struct doc *ex_rd_list(struct ex_reader *r, const struct doc *map, const char *key)
{
	return rd_any(r, map, key, DOC_LIST, "a list");
}

uint16_t ex_rd_port(struct ex_reader *r, const struct doc *map, const char *key)
{
	const struct doc *d = rd_any(r, map, key, DOC_NUMBER, "a port number");
	uint16_t port = 0;

	if (d != NULL && parse_u16(d->text, 1, UINT16_MAX, &port) != 0)
		ex_rd_bad(r, d, "expected a port from 1 to 65535");
	return port;
}

void ex_rd_mix(struct ex_reader *r, uint64_t v)
{
	r->digest = hash_mix(r->digest, v);
}

const char *ex_rd_keep(struct ex_reader *r, struct str s)
{
	ex_rd_mix(r, hash_str(s));
	return ex_text(r->texts, s);
}

void ex_rd_labels(struct ex_reader *r, const struct doc *map, struct ex_labels *ret)
{
	size_t n = map != NULL ? map->count : 0;

	ex_rd_mix(r, n);
	ret->v = n != 0 ? xcalloc(n, sizeof(*ret->v)) : NULL;
	for (const struct doc *c = n != 0 ? map->child : NULL; c != NULL; c = c->next) {
		if (c->kind != DOC_TEXT) {
			ex_rd_bad(r, c, "expected text");
			return;
		}
		ret->v[ret->n].key = ex_rd_keep(r, c->key);
		ret->v[ret->n++].value = ex_rd_keep(r, c->text);
	}
}
