/* SPDX-License-Identifier: Apache-2.0
 * test_index.c: the persistent index against a plain list, with hashes that collide all the time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "ztunnel/mesh/index.h"

struct object {
	unsigned int key, refs;
};

static void ref(void *o)
{
	((struct object *)o)->refs++;
}

static void unref(void *o)
{
	assert_true(((struct object *)o)->refs != 0);
	((struct object *)o)->refs--;
}

static bool has(const void *element, const void *key)
{
	return (*(struct object *const *)element)->key == *(const unsigned int *)key;
}

static const struct ix_kind kind = {sizeof(struct object *), ref, unref, has};

/* Two shards, few slots, and different keys with the same hash. */
static uint64_t hash_of(unsigned int key)
{
	return (uint64_t)(key & 1) << 56 | (key / 2) % 13;
}

#define KEYS	60
#define OBJECTS 200
#define KEPT	4

/* What the index holds, in the order in which it came. */
struct model {
	struct object *v[OBJECTS];
	size_t n;
};

static unsigned int seed;

static unsigned int pick(unsigned int n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 16) % n;
}

struct walk {
	size_t sets, elements;
};

static void count(void *ctx, struct ix_view v)
{
	struct walk *w = ctx;

	w->sets++;
	w->elements += v.n;
	assert_true(v.n != 0);
}

static void expect(const struct ix *t, const struct model *m)
{
	struct walk w = {0};
	size_t keys = 0;

	for (unsigned int key = 0; key < KEYS; key++) {
		struct ix_view s = ix_find(t, &kind, hash_of(key), &key);
		struct object *const *v = s.v;
		uint32_t n = 0;

		for (size_t i = 0; i < m->n; i++) {
			if (m->v[i]->key != key)
				continue;
			assert_true(n < s.n);
			assert_ptr_equal(v[n], m->v[i]);
			n++;
		}
		assert_int_equal(n, s.n);
		keys += s.n != 0;
	}
	ix_each(t, count, &w);
	assert_int_equal(w.sets, keys);
	assert_int_equal(w.elements, m->n);
}

static void change(struct ix *t, struct model *m, struct object *all, uint64_t edit)
{
	struct object *o = &all[pick(OBJECTS)];
	size_t i = 0;

	while (i < m->n && m->v[i] != o)
		i++;
	if (i == m->n) {
		ix_add(t, &kind, edit, hash_of(o->key), &o->key, &o);
		m->v[m->n++] = o;
		return;
	}
	ix_remove(t, &kind, edit, hash_of(o->key), &o->key, o);
	m->n--;
	memmove(&m->v[i], &m->v[i + 1], (m->n - i) * sizeof(o));
}

static void index__against_a_list(void **state)
{
	struct object *all = xcalloc(OBJECTS, sizeof(*all));
	struct ix kept[KEPT] = {0};
	struct model known[KEPT] = {0};

	(void)state;
	seed = 1;
	for (unsigned int i = 0; i < OBJECTS; i++)
		all[i].key = pick(KEYS);
	/* each edit starts from the last one; the three before it must stay as they were */
	for (uint64_t edit = 1; edit < 1500; edit++) {
		struct ix *from = &kept[(edit - 1) % KEPT], *to = &kept[edit % KEPT];

		ix_fini(to, &kind);
		ix_copy(to, from);
		known[edit % KEPT] = known[(edit - 1) % KEPT];
		for (unsigned int k = pick(8); k > 0; k--)
			change(to, &known[edit % KEPT], all, edit);
		for (size_t i = 0; i < KEPT; i++)
			expect(&kept[i], &known[i]);
	}
	for (size_t i = 0; i < KEPT; i++)
		ix_fini(&kept[i], &kind);
	for (unsigned int i = 0; i < OBJECTS; i++)
		assert_int_equal(all[i].refs, 0);
	free(all);
}

static void index__what_is_not_there(void **state)
{
	struct object o = {.key = 3}, *p = &o;
	struct ix t = {0};
	unsigned int other = 29; /* the same hash */

	(void)state;
	ix_remove(&t, &kind, 1, hash_of(3), &o.key, &o);
	ix_add(&t, &kind, 1, hash_of(3), &o.key, &p);
	assert_int_equal(hash_of(3), hash_of(other));
	assert_int_equal(ix_find(&t, &kind, hash_of(other), &other).n, 0);
	ix_remove(&t, &kind, 1, hash_of(other), &other, &o);
	assert_int_equal(ix_find(&t, &kind, hash_of(3), &o.key).n, 1);
	ix_remove(&t, &kind, 2, hash_of(3), &o.key, &o);
	assert_null(t.shard[hash_of(3) >> 56]); /* empty ones cost nothing */
	assert_int_equal(o.refs, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(index__against_a_list),
		cmocka_unit_test(index__what_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
