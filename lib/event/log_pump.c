/* SPDX-License-Identifier: Apache-2.0
 * log_pump.c: see log_pump.h. The descriptor is watched only while something waits.
 */
#include "lib/event/log_pump.h"

#include "lib/base/bug.h"
#include "lib/base/log_sink.h"

static void on_writable(struct watch *w, uint32_t events)
{
	struct log_pump *p = container_of(w, struct log_pump, w);

	(void)events;
	if (log_sink_flush())
		loop_unwatch(p->loop, w);
}

static void on_posted(struct loop *l, struct msg *m)
{
	struct log_pump *p = container_of(m, struct log_pump, m);

	/* acq_rel, with the exchange in on_backlog(): what is kept after this posts again */
	(void)atomic_exchange_explicit(&p->posted, false, memory_order_acq_rel);
	if (p->loop == NULL || p->w.added || log_sink_flush())
		return;
	/* what cannot be watched is flushed by the next line */
	if (loop_watch(l, &p->w, log_sink_fd(), EPOLLOUT, on_writable) < 0)
		return;
}

static void on_backlog(void *ctx)
{
	struct log_pump *p = ctx;

	if (!atomic_exchange_explicit(&p->posted, true, memory_order_acq_rel))
		loop_post(p->loop, &p->m);
}

void log_pump_start(struct log_pump *p, struct loop *l)
{
	*p = (struct log_pump){.loop = l, .m = {.fn = on_posted}};
	log_sink_on_backlog(on_backlog, p);
}

void log_pump_stop(struct log_pump *p)
{
	if (p->loop == NULL)
		return;
	log_sink_on_backlog(NULL, NULL);
	loop_unwatch(p->loop, &p->w);
	p->loop = NULL;
}
