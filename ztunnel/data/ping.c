/* SPDX-License-Identifier: Apache-2.0
 * ping.c: asks every worker for a sign of life.
 */
#include <stdlib.h>

#include "ztunnel/data/data.h"

struct ping {
	struct msg m; /* to the control loop */
	atomic_uint left;
	struct loop *control;
	void (*done)(void *ctx);
	void *ctx;
};
struct ping_msg {
	struct msg m;
	struct ping *p;
};

static void on_all_answered(struct loop *l, struct msg *msg)
{
	struct ping *p = container_of(msg, struct ping, m);

	(void)l;
	p->done(p->ctx);
	free(p);
}

/* A mailbox is read once a turn, after the events: whoever answers has turned. */
static void on_ping(struct loop *l, struct msg *msg)
{
	struct ping_msg *m = container_of(msg, struct ping_msg, m);
	struct ping *p = m->p;

	(void)l;
	free(m);
	/* acq_rel: the last one hands the whole over */
	if (atomic_fetch_sub_explicit(&p->left, 1, memory_order_acq_rel) == 1)
		loop_post(p->control, &p->m);
}

void workers_ping(struct workers *all, void (*done)(void *ctx), void *ctx)
{
	struct ping *p = xcalloc(1, sizeof(*p));

	atomic_init(&p->left, all->n);
	p->m.fn = on_all_answered;
	p->control = all->control;
	p->done = done;
	p->ctx = ctx;
	for (unsigned int i = 0; i < all->n; i++) {
		struct ping_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_ping;
		m->p = p;
		loop_post(all->w[i]->loop, &m->m);
	}
}
