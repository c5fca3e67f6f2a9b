/* SPDX-License-Identifier: Apache-2.0
 * fuzz_http1.c: request heads, and chunked bodies fed whole and in two pieces with the same result.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/wire/http1_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int body(struct str a, struct str b, struct strbuf *out, struct http1_chunks *c)
{
	struct str part[2] = {a, b}, piece;

	for (int i = 0; i < 2; i++)
		while (part[i].n != 0 && c->state != CHUNK_DONE) {
			if (http1_chunks_take(c, &part[i], &piece) < 0)
				return -1;
			strbuf_str(out, piece);
		}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	size_t n = http1_head_end(in);

	if (n != 0) {
		struct http1_head *h = xmalloc(sizeof(*h));
		char *copy = xmalloc(n + 1);
		unsigned int status = 0;

		memcpy(copy, data, n);
		copy[n] = '\0';
		if (http1_head_parse(copy, n, h, &status) < 0)
			bug_on(status < 400 || status > 505);
		else
			bug_on(h->method == NULL || h->path[0] != '/' ||
			       (h->chunked && h->length != 0));
		free(copy);
		free(h);
	}
	for (size_t cut = 0; cut <= size && cut < 32; cut++) {
		struct http1_chunks one = {0}, two = {0};
		struct strbuf a = {0}, b = {0};
		int r1 = body(in, STR(""), &a, &one);
		int r2 = body((struct str){in.p, cut}, (struct str){in.p + cut, size - cut}, &b,
			      &two);

		bug_on(r1 != r2 || a.n != b.n || (a.n != 0 && memcmp(a.p, b.p, a.n) != 0));
		bug_on(one.state != two.state);
		strbuf_fini(&a);
		strbuf_fini(&b);
	}
	return 0;
}
