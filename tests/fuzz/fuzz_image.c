/* SPDX-License-Identifier: Apache-2.0
 * fuzz_image.c: any bytes as the file in which istiod's state outlives ztunnel, and as the records
 * of one. Property: a file that is taken gives as many records as its heading says, or an error;
 * records that are taken go into a store and come out the same.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "ztunnel/mesh/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct image_of of = {"c", "s:1"};

static void put_again(const struct image_record *r, struct strbuf *out)
{
	struct store *s = store_new(STR(""), true);
	struct policy *p = policy_new();
	struct store_copy *c;

	p->key = model_text(p->arena, r->name);
	p->closed = r->closed;
	store_policy(s, p, r->version, r->value);
	c = store_copy_new(s);
	bug_on(!store_copy_step(c, SIZE_MAX) || c->n != 1);
	image_put_record(out, c->v[0]);
	(void)store_copy_free(c);
	(void)store_free(s);
}

static void walk(struct image *i)
{
	const char *from = i->rest.p;
	size_t left = i->left, n = 0;
	struct image_record r;
	int rc;

	while ((rc = image_next(i, &r)) == 1) {
		_cleanup_strbuf_ struct strbuf b = {0};

		n++;
		put_again(&r, &b);
		bug_on(b.n != (size_t)(i->rest.p - from));
		bug_on(r.kind == STORE_POLICY && memcmp(b.p, from, b.n) != 0);
		from = i->rest.p;
	}
	bug_on(rc == 0 && n != left);
}

static void open_and_walk(struct str file)
{
	struct err err = {0};
	struct image i;
	int r = image_open(file, &of, &i, &err);

	bug_on(r != 0 && err.msg[0] == '\0');
	if (r == 0)
		walk(&i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str body = {(const char *)data, size};
	_cleanup_strbuf_ struct strbuf b = {0};
	char text[IMAGE_SUM_BYTES + 1];
	struct image_sum sum;

	open_and_walk(body);
	/* the heading and the checksum are made right, so that the records are looked at */
	image_put_heading(&b, &of, size % 4, size);
	strbuf_add(&b, data, size);
	image_sum_init(&sum);
	image_sum_add(&sum, b.p, b.n);
	image_sum_text(&sum, text);
	strbuf_add(&b, text, IMAGE_SUM_BYTES);
	open_and_walk((struct str){b.p, b.n});
	return 0;
}
