/* SPDX-License-Identifier: Apache-2.0
 * xds_demand.c: on-demand mode: questions about what the state does not hold (ztunnel-spec 9.6).
 *
 * A question subscribes to its key. The answer is a resource of that name or alias, or the name
 * among the removed ones; istiod keeps us subscribed to the resource by its own name from then on
 * (istiod-ambient-spec 1.4), so the key is unsubscribed unless it is that name: what nobody has
 * leaves nothing behind, here or there. A name that we hold is asked for again by unsubscribing
 * first, for istiod answers nothing to a subscription that it has. A request that unsubscribes and
 * subscribes to nothing would make istiod take away all that it has sent: so names are unsubscribed
 * when there is another question, in a request of their own that asks for a name that is nobody's.
 *
 * Who waits is told when the snapshot that shows the answer has been handed out.
 */
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "ztunnel/control/xds.h"
#include "ztunnel/control/xds_internal.h"
#include "ztunnel/observe/metrics.h"

#define EXPIRE_MS 500

static void on_unanswered(void *ctx, struct str key)
{
	struct xds *x = ctx;

	metric_add(M_XDS_ON_DEMAND_UNANSWERED, 1);
	log_limited(LOG_LV_WARN, "xds", "no answer from istiod in time about %s%s", str_shown(key),
		    x->up ? "" : ": there is no stream");
	if (x->up)
		xds_put_unsubscribe(&x->unsubscribe, key);
	x->told(x->told_ctx, key, false);
}

static void on_expire(struct timer *t);

static void expire_later(struct xds *x)
{
	if (!timer_armed(&x->expire))
		loop_timer_set(x->loop, &x->expire, EXPIRE_MS, on_expire);
}

static void on_expire(struct timer *t)
{
	struct xds *x = container_of(t, struct xds, expire);

	if (demand_expire(x->demand, loop_now_ms(x->loop), on_unanswered, x))
		expire_later(x);
	xds_demand_send(x);
}

void xds_ask(struct xds *x, struct str key)
{
	switch (demand_ask(x->demand, key, loop_now_ms(x->loop))) {
	case DEMAND_WAIT:
		expire_later(x);
		loop_ready(x->loop, &x->work); /* what is asked in this turn goes together */
		return;
	case DEMAND_KNOWN:
		x->told(x->told_ctx, key, true);
		return;
	case DEMAND_FULL:
		metric_add(M_XDS_ON_DEMAND_UNANSWERED, 1);
		log_limited(LOG_LV_WARN, "xds",
			    "%d on-demand questions wait for istiod already: refused %s",
			    LIMIT_DEMAND_WAITING, str_shown(key));
		x->told(x->told_ctx, key, false);
	}
}

void xds_on_told(struct xds *x, void (*fn)(void *ctx, struct str key, bool answered), void *ctx)
{
	x->told = fn;
	x->told_ctx = ctx;
}

bool xds_on_demand(const struct xds *x, size_t *ret_waiting)
{
	*ret_waiting = x->demand != NULL ? demand_count(x->demand) : 0;
	return x->demand != NULL;
}

/* ---- requests ---- */

struct asked {
	struct xds *x;
	struct strbuf *out;
};

static void put_question(void *ctx, struct str key)
{
	struct asked *a = ctx;

	if (store_has(a->x->store, STORE_ADDRESS, key))
		xds_put_unsubscribe(&a->x->unsubscribe, key);
	xds_put_subscribe(a->out, key);
	metric_add(M_XDS_ON_DEMAND_ASKED, 1);
}

static int send_names(struct xds *x, const struct strbuf *names)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (names->n == 0)
		return 0;
	xds_put_type(&b, x->type[STORE_ADDRESS].url);
	strbuf_add(&b, names->p, names->n);
	return xds_send(x, &b);
}

/* Before names are subscribed, among which there may be the same ones. */
static int send_unsubscribed(struct xds *x)
{
	_cleanup_free_ char *old = NULL, *next = NULL;
	int r;

	if (x->unsubscribe.n == 0)
		return 0;
	old = xasprintf("ambient/nothing-%u", x->nothing);
	next = xasprintf("ambient/nothing-%u", ++x->nothing);
	xds_put_subscribe(&x->unsubscribe, str_of(next));
	xds_put_unsubscribe(&x->unsubscribe, str_of(old));
	r = send_names(x, &x->unsubscribe);
	strbuf_fini(&x->unsubscribe);
	return r;
}

void xds_demand_send(struct xds *x)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	struct asked a = {x, &names};

	if (!x->up || x->demand == NULL || !demand_has_unsent(x->demand))
		return;
	demand_unsent(x->demand, put_question, &a);
	if (send_unsubscribed(x) == 0)
		(void)send_names(x, &names);
}

static void put_pending(void *ctx, struct str key)
{
	xds_put_version(ctx, key, STR(""));
	metric_add(M_XDS_ON_DEMAND_ASKED, 1);
}

void xds_demand_first(struct xds *x, struct strbuf *out)
{
	if (x->demand == NULL)
		return;
	xds_put_subscribe(out, STR("*")); /* both at once: to nothing */
	xds_put_unsubscribe(out, STR("*"));
	demand_unsent(x->demand, put_pending, out);
}

/* ---- answers ---- */

void xds_demand_answered(struct xds *x, struct str name)
{
	if (x->demand != NULL)
		(void)demand_answer(x->demand, name);
}

static void tell(void *ctx, struct str key)
{
	struct xds *x = ctx;

	if (x->up && !store_has(x->store, STORE_ADDRESS, key))
		xds_put_unsubscribe(&x->unsubscribe, key);
	x->told(x->told_ctx, key, true);
}

void xds_demand_tell(struct xds *x)
{
	demand_tell(x->demand, loop_now_ms(x->loop), tell, x);
	expire_later(x);
	xds_demand_send(x);
}

void xds_demand_lost(struct xds *x)
{
	strbuf_fini(&x->unsubscribe);
	if (x->demand != NULL)
		demand_lost(x->demand);
}
