/* SPDX-License-Identifier: Apache-2.0
 * turn.c: see turn.h. Dials first: an answer they allow goes out with the pump that follows.
 */
#include "ztunnel/data/turn.h"

#include "ztunnel/data/data.h"

void turn_request(struct worker *w)
{
	loop_ready(w->loop, &w->turn);
}

static void memory_short(struct worker *w, bool is_short)
{
	if (is_short == w->memory_short)
		return;
	w->memory_short = is_short;
	htab_for_each (n, &w->pods) {
		list_for_each (sn, &container_of(n, struct pod, node)->sessions)
			hsess_window(container_of(sn, struct hsess, pod_node));
	}
}

/* Above half of the memory budget streams are granted less; below a quarter, the full window
 * again. */
static void watch_memory(struct worker *w)
{
	if (w->undelivered > LIMIT_UNDELIVERED_BYTES / 2)
		memory_short(w, true);
	else if (w->undelivered < LIMIT_UNDELIVERED_BYTES / 4)
		memory_short(w, false);
}
void turn_run(struct ready *r)
{
	struct worker *w = container_of(r, struct worker, turn);
	struct list now, *n;

	w->shakes = 0;
	dial_batch(w);
	tunnels_flush(w);
	list_init(&now);
	list_splice(&now, &w->dirty);
	while ((n = list_pop(&now)) != NULL) {
		struct hsess *s = container_of(n, struct hsess, dirty_node);

		s->dirty = false;
		hsess_pump(s);
	}
	tunnels_flush(w);
	watch_memory(w);
	if (!list_empty(&w->dirty) || !list_empty(&w->dial_pods))
		turn_request(w);
}

void turn_check_drained(struct worker *w)
{
	struct msg *m = w->drain_msg;

	if (!w->draining || m == NULL || atomic_load(&w->coming) != 0 ||
	    (w->dns != NULL && dns_worker_waiting(w->dns) != 0))
		return;
	htab_for_each (n, &w->pods) {
		struct pod *p = container_of(n, struct pod, node);

		if (!list_empty(&p->conns) || !list_empty(&p->sessions))
			return;
	}
	w->drain_msg = NULL;
	loop_timer_cancel(&w->drain_timer);
	worker_drained(w, m);
}
