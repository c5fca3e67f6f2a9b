/* SPDX-License-Identifier: Apache-2.0
 * fuzz_yaml.c: any bytes as YAML. Properties: depth limit, unique keys, texts are UTF-8 without
 * NUL, every refusal has a sentence.
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	struct arena *a = arena_new();
	struct err err = {0};
	int r = yaml_parse_all(in, a, on_doc, NULL, &err);

	bug_on(r < 0 && (err.code != -r || err.msg[0] == '\0'));
	arena_free(a);
	return 0;
}
