/* SPDX-License-Identifier: Apache-2.0
 * jsoncheck.c: driver of test_json_diff.py; not installed. Reads records from standard input (a
 * decimal length, a newline, that many bytes) and answers each with one line: "ok " and the
 * document rewritten, or "no " and the error.
 */
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

static void write_value(struct strbuf *out, const struct doc *d)
{
	struct jsonw w;

	jsonw_init(&w, out, false);
	if (d->kind == DOC_TEXT)
		jsonw_str(&w, NULL, d->text);
	else if (d->kind == DOC_NUMBER)
		strbuf_str(out, d->text);
	else if (d->kind == DOC_BOOL)
		jsonw_bool(&w, NULL, d->truth);
	else
		jsonw_null(&w, NULL);
}

static void rewrite(struct strbuf *out, const struct doc *d)
{
	bool map = d->kind == DOC_MAP;

	if (!map && d->kind != DOC_LIST) {
		write_value(out, d);
		return;
	}
	strbuf_putc(out, map ? '{' : '[');
	for (const struct doc *c = d->child; c != NULL; c = c->next) {
		if (c != d->child)
			strbuf_putc(out, ',');
		if (map) {
			struct jsonw w;

			jsonw_init(&w, out, false);
			jsonw_str(&w, NULL, c->key);
			strbuf_putc(out, ':');
		}
		rewrite(out, c);
	}
	strbuf_putc(out, map ? '}' : ']');
}

static bool read_record(struct str *ret)
{
	unsigned long n = 0;
	int c;
	char *p;

	for (c = getchar(); c >= '0' && c <= '9' && n < 100000000; c = getchar())
		n = n * 10 + (unsigned long)(c - '0');
	if (c != '\n')
		return false;
	p = xmalloc(n);
	if (fread(p, 1, n, stdin) != n) {
		free(p);
		return false;
	}
	*ret = (struct str){p, n};
	return true;
}

int main(void)
{
	struct str in;

	while (read_record(&in)) {
		_cleanup_free_ const char *text = in.p;
		_cleanup_strbuf_ struct strbuf out = {0};
		struct arena *a = arena_new();
		const struct doc *d = NULL;
		struct err err = {0};

		if (json_parse((struct str){text, in.n}, a, &d, &err) == 0) {
			rewrite(&out, d);
			printf("ok %s\n", out.p);
		} else {
			printf("no %s\n", err.msg);
		}
		arena_free(a);
	}
	return feof(stdin) ? 0 : 1;
}
