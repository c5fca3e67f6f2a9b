/* SPDX-License-Identifier: Apache-2.0
 * demand.c: see demand.h.
 */
#include "ztunnel/mesh/demand.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"

enum stage { UNSENT, SENT, ANSWERED, FRESH, STAGE_N };

struct question {
	struct hnode h;
	struct list node; /* demand.at[stage], in order of .since_ms */
	enum stage stage;
	uint64_t since_ms; /* asked; FRESH: answered */
	size_t n;
	char key[];
};

struct demand {
	struct htab table;
	struct list at[STAGE_N];
	size_t count[STAGE_N];
};

struct demand *demand_new(void)
{
	struct demand *d = xcalloc(1, sizeof(*d));

	htab_init(&d->table);
	for (int i = 0; i < STAGE_N; i++)
		list_init(&d->at[i]);
	return d;
}

static struct str key_of(const struct question *q)
{
	return (struct str){q->key, q->n};
}

static void move(struct demand *d, struct question *q, enum stage to)
{
	list_remove(&q->node);
	d->count[q->stage]--;
	q->stage = to;
	d->count[to]++;
	list_append(&d->at[to], &q->node);
}

static void drop(struct demand *d, struct question *q)
{
	list_remove(&q->node);
	d->count[q->stage]--;
	htab_remove(&d->table, &q->h);
	free(q);
}

static struct question *first(const struct demand *d, enum stage s)
{
	return list_empty(&d->at[s]) ? NULL : container_of(d->at[s].next, struct question, node);
}

struct demand *demand_free(struct demand *d)
{
	struct question *q;

	if (d == NULL)
		return NULL;
	for (int i = 0; i < STAGE_N; i++)
		while ((q = first(d, (enum stage)i)) != NULL)
			drop(d, q);
	htab_fini(&d->table);
	free(d);
	return NULL;
}

static struct question *find(const struct demand *d, struct str key)
{
	for (struct hnode *n = htab_first(&d->table, hash_str(key)); n != NULL; n = htab_next(n)) {
		struct question *q = container_of(n, struct question, h);

		if (str_eq(key_of(q), key))
			return q;
	}
	return NULL;
}

size_t demand_count(const struct demand *d)
{
	return d->count[UNSENT] + d->count[SENT] + d->count[ANSWERED];
}

enum demand_reply demand_ask(struct demand *d, struct str key, uint64_t now_ms)
{
	struct question *q = find(d, key);

	if (q != NULL && q->stage != FRESH)
		return DEMAND_WAIT;
	if (q != NULL && now_ms - q->since_ms < DEMAND_FRESH_MS)
		return DEMAND_KNOWN;
	if (q != NULL)
		drop(d, q);
	if (demand_count(d) >= LIMIT_DEMAND_WAITING)
		return DEMAND_FULL;
	q = xcalloc(1, sizeof(*q) + key.n);
	q->n = key.n;
	memcpy(q->key, key.p, key.n);
	q->since_ms = now_ms;
	q->stage = UNSENT;
	d->count[UNSENT]++;
	list_append(&d->at[UNSENT], &q->node);
	htab_insert(&d->table, &q->h, hash_str(key));
	return DEMAND_WAIT;
}

bool demand_answer(struct demand *d, struct str key)
{
	struct question *q = find(d, key);

	if (q == NULL || q->stage != SENT)
		return false;
	move(d, q, ANSWERED);
	return true;
}

void demand_unsent(struct demand *d, void (*fn)(void *ctx, struct str key), void *ctx)
{
	struct question *q;

	while ((q = first(d, UNSENT)) != NULL) {
		fn(ctx, key_of(q));
		move(d, q, SENT);
	}
}

bool demand_has_unsent(const struct demand *d)
{
	return d->count[UNSENT] != 0;
}

bool demand_has_answered(const struct demand *d)
{
	return d->count[ANSWERED] != 0;
}

void demand_lost(struct demand *d)
{
	/* they are older than those that were never sent */
	while (!list_empty(&d->at[SENT])) {
		struct question *q = container_of(d->at[SENT].prev, struct question, node);

		move(d, q, UNSENT);
		list_remove(&q->node);
		list_prepend(&d->at[UNSENT], &q->node);
	}
}

void demand_tell(struct demand *d, uint64_t now_ms, void (*fn)(void *ctx, struct str key),
		 void *ctx)
{
	struct question *q;

	while ((q = first(d, ANSWERED)) != NULL) {
		fn(ctx, key_of(q));
		q->since_ms = now_ms;
		move(d, q, FRESH);
		if (d->count[FRESH] > LIMIT_DEMAND_FRESH)
			drop(d, first(d, FRESH));
	}
}

bool demand_expire(struct demand *d, uint64_t now_ms, void (*fn)(void *ctx, struct str key),
		   void *ctx)
{
	static const enum stage waiting[] = {UNSENT, SENT};
	struct question *q;

	for (size_t i = 0; i < ARRAY_LEN(waiting); i++)
		while ((q = first(d, waiting[i])) != NULL &&
		       now_ms - q->since_ms >= LIMIT_WORKLOAD_WAIT_MS) {
			fn(ctx, key_of(q));
			drop(d, q);
		}
	while ((q = first(d, FRESH)) != NULL && now_ms - q->since_ms >= DEMAND_FRESH_MS)
		drop(d, q);
	return d->table.count != 0;
}
