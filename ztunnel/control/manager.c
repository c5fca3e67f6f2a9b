/* SPDX-License-Identifier: Apache-2.0
 * manager.c: see manager.h.
 *
 * A watchdog round asks every worker; when all have answered, the manager hears so, and the next
 * round is due a quarter of the period later. One worker that does not turn ends the rounds.
 */
#include "ztunnel/control/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/event/loop.h"
#include "lib/os/notify.h"
#include "ztunnel/data/worker.h"

#define LOOK_MS	      50   /* until all is served */
#define STATUS_MS     2000 /* afterwards */
#define STOP_SPARE_MS 10000
#define STATUS_MAX    160

/* A round may still be with the workers when its owner is gone. */
struct round {
	struct manager *s; /* NULL: nobody waits for it */
};

struct manager {
	struct loop *loop;
	struct workers *workers;
	void (*pending)(void *ctx, struct strbuf *out);
	void *ctx;
	struct timer look, watchdog;
	uint64_t watchdog_ms;
	struct round *round;
	bool ready, stopping;
	char status[STATUS_MAX];
};

static void tell(const char *state)
{
	int r = notify_send(state);

	if (r < 0)
		log_limited(LOG_LV_WARN, "manager", "cannot tell the service manager: %s",
			    strerror(-r));
}

static void tell_status(struct manager *s, const char *text, const char *more)
{
	char state[STATUS_MAX + 128];

	if (*more == '\0' && strcmp(text, s->status) == 0)
		return;
	(void)snprintf(s->status, sizeof(s->status), "%s", text);
	(void)snprintf(state, sizeof(state), "STATUS=%s%s", s->status, more);
	tell(state);
}

static void on_look(struct timer *t)
{
	struct manager *s = container_of(t, struct manager, look);
	_cleanup_strbuf_ struct strbuf missing = {0};
	char text[STATUS_MAX];

	s->pending(s->ctx, &missing);
	if (missing.n == 0 && !s->ready) {
		s->ready = true;
		log_info("manager", "every pod of the agent's snapshot is served");
		tell_status(s, "serving", "\nREADY=1");
	} else if (missing.n == 0) {
		tell_status(s, "serving", "");
	} else {
		(void)snprintf(text, sizeof(text), "waiting for %.120s", missing.p);
		tell_status(s, text, "");
	}
	loop_timer_set(s->loop, t, s->ready ? STATUS_MS : LOOK_MS, on_look);
}

static void on_watchdog(struct timer *t);

static void on_round(void *ctx)
{
	struct round *r = ctx;
	struct manager *s = r->s;

	free(r);
	if (s == NULL)
		return;
	s->round = NULL;
	tell("WATCHDOG=1");
	loop_timer_set(s->loop, &s->watchdog, s->watchdog_ms / 4, on_watchdog);
}

static void on_watchdog(struct timer *t)
{
	struct manager *s = container_of(t, struct manager, watchdog);

	s->round = xcalloc(1, sizeof(*s->round));
	s->round->s = s;
	workers_ping(s->workers, on_round, s->round);
}

struct manager *manager_new(struct loop *l, struct workers *workers,
			    void (*pending)(void *ctx, struct strbuf *out), void *ctx)
{
	struct manager *s = xcalloc(1, sizeof(*s));

	s->loop = l;
	s->workers = workers;
	s->pending = pending;
	s->ctx = ctx;
	s->watchdog_ms = notify_watchdog_ms();
	if (notify_enabled())
		loop_timer_set(l, &s->look, 0, on_look);
	if (s->watchdog_ms != 0)
		loop_timer_set(l, &s->watchdog, 0, on_watchdog);
	return s;
}

void manager_stopping(struct manager *s, uint64_t limit_ms)
{
	char more[96];

	if (!notify_enabled() || s->stopping)
		return;
	s->stopping = true;
	loop_timer_cancel(&s->look);
	(void)snprintf(more, sizeof(more), "\nSTOPPING=1\nEXTEND_TIMEOUT_USEC=%llu",
		       (unsigned long long)(limit_ms + STOP_SPARE_MS) * 1000);
	tell_status(s, "draining: established connections are finished", more);
}

struct manager *manager_free(struct manager *s)
{
	if (s == NULL)
		return NULL;
	loop_timer_cancel(&s->look);
	loop_timer_cancel(&s->watchdog);
	if (s->round != NULL)
		s->round->s = NULL;
	free(s);
	return NULL;
}
