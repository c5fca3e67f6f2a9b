/* SPDX-License-Identifier: Apache-2.0
 * fuzz_json.c: any bytes as JSON. Properties: what is accepted can be written, is accepted again,
 * and is written the same the second time; the tree keeps the depth limit and its links.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_doc(struct jsonw *w, const struct doc *d, unsigned int depth)
{
	bool keyed = d->parent != NULL && d->parent->kind == DOC_MAP;
	unsigned int i = 0;
	char key[64];

	bug_on(depth > LIMIT_DOC_DEPTH);
	if (d->kind == DOC_MAP || d->kind == DOC_LIST) {
		if (d->kind == DOC_MAP && keyed)
			jsonw_obj_k(w, d->key);
		else if (d->kind == DOC_MAP)
			jsonw_obj(w, NULL);
		else if (keyed)
			jsonw_list_k(w, d->key);
		else
			jsonw_list(w, NULL);
		for (const struct doc *c = d->child; c != NULL; c = c->next) {
			bug_on(c->parent != d || c->index != i++);
			write_doc(w, c, depth + 1);
		}
		bug_on(i != d->count);
		if (d->kind == DOC_MAP)
			jsonw_end_obj(w);
		else
			jsonw_end_list(w);
	} else if (d->kind == DOC_TEXT && keyed) {
		jsonw_str_k(w, d->key, d->text);
	} else if (d->kind == DOC_TEXT) {
		jsonw_str(w, NULL, d->text);
	} else if (!keyed || str_to_cstr(d->key, key, sizeof(key), NULL) != 0) {
		if (keyed)
			jsonw_str_k(w, d->key, STR(""));
		else
			jsonw_raw(w, NULL, d->raw);
	} else {
		jsonw_raw(w, key, d->raw);
	}
}

static bool rewrite(struct str in, struct strbuf *out)
{
	struct arena *a = arena_new();
	const struct doc *d = NULL;
	struct err err = {0};
	struct jsonw w;
	int r = json_parse(in, a, &d, &err);

	bug_on(r < 0 && (err.code != -r || err.msg[0] == '\0'));
	if (r == 0) {
		bug_on(d->line == 0 || d->raw.p < in.p || d->raw.p + d->raw.n > in.p + in.n);
		jsonw_init(&w, out, false);
		write_doc(&w, d, 0);
	}
	arena_free(a);
	return r == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_strbuf_ struct strbuf once = {0}, twice = {0};

	if (!rewrite((struct str){(const char *)data, size}, &once))
		return 0;
	bug_on(!rewrite((struct str){once.p, once.n}, &twice));
	bug_on(!str_eq((struct str){once.p, once.n}, (struct str){twice.p, twice.n}));
	return 0;
}
