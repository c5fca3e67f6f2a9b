/* SPDX-License-Identifier: Apache-2.0
 * churn.c: see churn.h.
 */
#include "ztunnel/data/churn.h"

#define SHORT_NS      100000000u
#define LEVEL_MAX     128
#define LEVEL_SHORT   32   /* above it: the connections are short */
#define LEVEL_CROWDED 2000 /* so many short ones until that is tried again */
#define BUSY_PERMILLE 700  /* more would queue up at home */
#define BUSY_LOOK_NS  32000000u
#define PAUSE_NS      200000000u /* what was before it says nothing about what comes */

static int level(const struct churn *c)
{
	return atomic_load_explicit(&c->level, memory_order_relaxed);
}

static void set_level(struct churn *c, int v)
{
	atomic_store_explicit(&c->level, v, memory_order_relaxed);
}

/* Workers read their clocks at different moments: a time that seems to come is now. */
static bool paused(const struct churn *c, uint64_t now_ns)
{
	uint64_t last = atomic_load_explicit(&c->opened_ns, memory_order_relaxed);

	return now_ns > last && now_ns - last > PAUSE_NS;
}

void churn_opened(struct churn *c, uint64_t now_ns)
{
	int v = level(c);

	if (v > 0)
		set_level(c, paused(c, now_ns) ? 0 : v - 1);
	atomic_store_explicit(&c->opened_ns, now_ns, memory_order_relaxed);
}

void churn_ended(struct churn *c, uint64_t lived_ns)
{
	int v = level(c) + 2;

	if (lived_ns < SHORT_NS)
		set_level(c, v < LEVEL_MAX ? v : LEVEL_MAX);
}

void churn_crowded(struct churn *c)
{
	set_level(c, -LEVEL_CROWDED);
}

void churn_busy(struct churn *c, unsigned int permille)
{
	atomic_store_explicit(&c->busy, permille, memory_order_relaxed);
}

bool churn_stand_back(const struct churn *c, uint64_t now_ns)
{
	return level(c) > LEVEL_SHORT && !paused(c, now_ns) &&
	       atomic_load_explicit(&c->busy, memory_order_relaxed) < BUSY_PERMILLE;
}

bool busy_due(const struct busy *b, uint64_t now_ns)
{
	return now_ns - b->at_ns >= BUSY_LOOK_NS;
}

void busy_look(struct busy *b, uint64_t now_ns, uint64_t cpu_ns)
{
	if (b->at_ns != 0 && now_ns > b->at_ns)
		b->permille = (unsigned int)((cpu_ns - b->cpu_ns) * 1000 / (now_ns - b->at_ns));
	b->at_ns = now_ns;
	b->cpu_ns = cpu_ns;
}
