/* SPDX-License-Identifier: Apache-2.0
 * xds.c: the stream to istiod: made, watched, and made again (ztunnel-spec 9.1, 9.4).
 *
 * A message is held by the call until it is applied; a connection that ends meanwhile is noticed
 * afterwards, so what came whole takes effect.
 */
#include "ztunnel/control/xds.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "ztunnel/config_istiod.h"
#include "ztunnel/control/xds_internal.h"
#include "ztunnel/observe/metrics.h"

#define METHOD	       "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
#define RETRY_FIRST_MS 20
#define RETRY_MAX_MS   15000
#define WATCH_MS       5000

static void connect_now(struct xds *x);

static void on_retry(struct timer *t)
{
	connect_now(container_of(t, struct xds, retry));
}

/* The stream is over; the next one comes after a pause. */
static void lose(struct xds *x, enum metric_id reason, const char *why)
{
	bool proved = x->type[STORE_ADDRESS].answered || x->type[STORE_POLICY].answered;
	uint64_t pause;

	grpc_cancel(&x->call);
	xds_forget(x);
	xds_demand_lost(x);
	x->client = https_client_free(x->client);
	x->up = false;
	loop_timer_cancel(&x->watchdog);
	if (x->down.msg[0] == '\0' || x->lost_ms == 0)
		x->lost_ms = loop_now_ms(x->loop);
	x->failures = proved ? 1 : x->failures + 1;
	pause = https_backoff_ms(x->failures, RETRY_FIRST_MS, RETRY_MAX_MS, rand_u64());
	loop_timer_set(x->loop, &x->retry, pause, on_retry);
	(void)err_set(&x->down, EIO, "%s", why);
	metric_add(reason, 1);
	metric_set(M_XDS_CONNECTED, 0);
	log_limited(LOG_LV_WARN, "xds", "no stream from istiod, %s: %s retry=%llums",
		    x->published != NULL ? "the last state stays in use" : "there is no state yet",
		    why, (unsigned long long)pause);
	for (int i = 0; i < STORE_KIND_N; i++)
		x->type[i].answered = false;
}

int xds_send(struct xds *x, const struct strbuf *b)
{
	int r = grpc_send(&x->call, b->p, b->n, false);

	if (r == -ENOBUFS)
		lose(x, M_XDS_END_ERROR, "istiod does not read what we send");
	return r;
}

/* ---- what the call tells ---- */

static void on_message(struct grpc_call *c, struct str m)
{
	struct xds *x = container_of(c, struct xds, call);
	struct err err = {0};

	x->progress.moved_ms = loop_now_ms(x->loop);
	grpc_hold(c);
	if (xds_take(x, m, &err) != 0) {
		metric_add(M_XDS_REFUSED, 1);
		lose(x, M_XDS_END_ERROR, err.msg);
	}
}

static void on_end(struct grpc_call *c, enum grpc_code code, const char *why)
{
	struct xds *x = container_of(c, struct xds, call);
	char text[ERR_MSG_MAX];

	(void)snprintf(text, sizeof(text), "%s%s",
		       code == GRPC_OK ? "istiod ended the stream" : why, istiod_hint(code));
	lose(x,
	     code == GRPC_OK ? M_XDS_END_COMPLETE
	     : code == GRPC_UNAVAILABLE || code == GRPC_UNKNOWN || code == GRPC_CANCELLED ||
			     code == GRPC_DEADLINE_EXCEEDED
		     ? M_XDS_END_RECONNECT
		     : M_XDS_END_ERROR,
	     text);
}

static const struct grpc_ops call_ops = {.message = on_message, .end = on_end};

void xds_answer(struct xds *x, struct str error)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	xds_put_ack(&b, x->response.type_url, x->response.nonce, error);
	if (xds_send(x, &b) != -ENOBUFS)
		grpc_release(&x->call);
}

/* ---- making a stream ---- */

static void put_version(void *ctx, struct str name, struct str version)
{
	xds_put_version(ctx, name, version);
}

static void first_request(struct xds *x, enum store_kind kind, struct strbuf *b)
{
	xds_put_node(b, x->config, x->node_name);
	xds_put_type(b, x->type[kind].url);
	if (kind == STORE_ADDRESS)
		xds_demand_first(x, b);
}

/* The first request of each type. Too much to tell: then the state is received anew, and the
 * present one stays in use until it is complete. */
static int subscribe(struct xds *x)
{
	struct strbuf b[STORE_KIND_N] = {0};
	size_t total = 0;
	int r = 0;

	for (int i = 0; i < STORE_KIND_N; i++) {
		first_request(x, (enum store_kind)i, &b[i]);
		store_each(x->store, (enum store_kind)i, put_version, &b[i]);
		total += b[i].n + GRPC_PREFIX_BYTES;
	}
	if (total > LIMIT_XDS_UNSENT_BYTES) {
		x->copy = store_copy_free(x->copy);
		x->store = store_free(x->store);
		x->store = store_new(str_of(x->node_name), true);
		x->dirty = x->restored = false;
		xds_demand_lost(x); /* it is written once more */
		for (int i = 0; i < STORE_KIND_N; i++) {
			x->type[i].synced = false;
			strbuf_fini(&b[i]);
			first_request(x, (enum store_kind)i, &b[i]);
		}
	}
	/* nothing is asked for, and nothing held that could be wrong: nothing to wait for */
	if (x->demand != NULL && store_count(x->store, STORE_ADDRESS) == 0)
		x->type[STORE_ADDRESS].synced = true;
	for (int i = 0; i < STORE_KIND_N; i++) {
		if (r == 0)
			r = grpc_send(&x->call, b[i].p, b[i].n, false);
		strbuf_fini(&b[i]);
	}
	return r;
}

static void on_watchdog(struct timer *t)
{
	struct xds *x = container_of(t, struct xds, watchdog);
	const char *why = xds_stalled(&x->progress, loop_now_ms(x->loop), grpc_partial(&x->call),
				      (x->type[STORE_ADDRESS].answered || x->demand != NULL) &&
					      x->type[STORE_POLICY].answered);

	if (why != NULL) {
		lose(x, M_XDS_END_ERROR, why);
		return;
	}
	loop_timer_set(x->loop, t, WATCH_MS, on_watchdog);
}

static void on_up(void *ctx)
{
	struct xds *x = ctx;
	struct istiod_metadata m;
	struct grpc_call_config cfg = {.method = METHOD,
				       .max_message = LIMIT_XDS_MESSAGE_BYTES,
				       .max_unsent = LIMIT_XDS_UNSENT_BYTES};
	struct err err = {0};
	int r = istiod_metadata(&x->config->xds, &m, &err);

	if (r == 0) {
		cfg.field = m.field;
		cfg.nfields = m.n;
		r = grpc_call_start(&x->call, x->client, &cfg, &call_ops, &err);
		istiod_metadata_fini(&m);
		if (r == 0 && subscribe(x) != 0)
			r = err_set(&err, ENOBUFS, "the requests are too large");
	}
	if (r != 0) {
		lose(x, M_XDS_END_CONNECTION, err.msg);
		return;
	}
	x->up = true;
	x->lost_ms = 0;
	x->progress = (struct xds_progress){loop_now_ms(x->loop), loop_now_ms(x->loop), 0};
	loop_timer_set(x->loop, &x->watchdog, WATCH_MS, on_watchdog);
	metric_set(M_XDS_CONNECTED, 1);
	log_info("xds", "stream established server=%s:%u", x->config->xds.host,
		 x->config->xds.port);
}

static void on_down(void *ctx, const struct err *why)
{
	struct xds *x = ctx;

	x->client = https_client_free(x->client);
	if (!x->call.live) /* else its end comes after the message that is being applied */
		lose(x, M_XDS_END_CONNECTION, why->msg);
}

static const struct https_client_ops client_ops = {.up = on_up, .down = on_down};

static void connect_now(struct xds *x)
{
	struct err err = {0};
	char *roots = istiod_roots(&x->config->xds, &err);

	if (roots != NULL)
		x->client = istiod_connect(x->loop, &x->config->xds, roots, &client_ops, x, &err);
	free(roots);
	if (x->client == NULL)
		lose(x, M_XDS_END_CONNECTION, err.msg);
}

static void on_due(void *ctx)
{
	xds_copy(ctx);
}

void xds_restored(struct xds *x)
{
	connect_now(x);
}

struct xds *xds_new(struct loop *l, const struct config_istiod *c, const char *node_name,
		    const char *const *dirs, void (*fn)(void *ctx, struct mesh *m), void *ctx)
{
	struct xds *x = xcalloc(1, sizeof(*x));
	struct image_of of;

	x->loop = l;
	x->config = c;
	x->node_name = node_name;
	x->fn = fn;
	x->ctx = ctx;
	x->server = xasprintf("%s:%u", c->xds.host, c->xds.port);
	of = (struct image_of){c->xds.cluster, x->server};
	x->keep = xds_keep_new(l, dirs, &of, on_due, x);
	if (c->on_demand)
		x->demand = demand_new();
	xds_apply_init(x);
	xds_restore(x);
	return x;
}

struct xds *xds_free(struct xds *x)
{
	struct store_copy *c;

	if (x == NULL)
		return NULL;
	grpc_cancel(&x->call);
	x->client = https_client_free(x->client);
	loop_timer_cancel(&x->retry);
	loop_timer_cancel(&x->watchdog);
	loop_timer_cancel(&x->expire);
	strbuf_fini(&x->unsubscribe);
	x->demand = demand_free(x->demand);
	c = xds_copy_now(x);
	if (c != NULL)
		xds_keep_save_now(x->keep, c);
	x->keep = xds_keep_free(x->keep);
	xds_apply_fini(x);
	free(x->server);
	free(x->text);
	free(x);
	return NULL;
}

bool xds_is_stale(const struct xds *x, uint64_t *ret_age_s)
{
	*ret_age_s = xds_stale_s(x);
	return x->stale;
}

const char *xds_kept(const struct xds *x, const char **ret_error)
{
	return xds_keep_path(x->keep, ret_error);
}

const char *xds_error(struct xds *x)
{
	struct strbuf b = {0};

	if (x->stale)
		strbuf_printf(&b, "the state is the last good one, %llu s old",
			      (unsigned long long)xds_stale_s(x));
	if (!x->up && x->down.msg[0] != '\0')
		strbuf_printf(&b, "%sno stream from istiod for %llu s: %s", b.n != 0 ? "; " : "",
			      (unsigned long long)(loop_now_ms(x->loop) - x->lost_ms) / 1000,
			      x->down.msg);
	for (int i = 0; i < STORE_KIND_N; i++)
		if (x->type[i].refused != NULL)
			strbuf_printf(&b, "%sistiod sent %s that are refused: %s",
				      b.n != 0 ? "; " : "", x->type[i].shown, x->type[i].refused);
	if (store_count_closed(x->store) != 0)
		strbuf_printf(&b, "%s%zu policies cannot be read and close what they apply to",
			      b.n != 0 ? "; " : "", store_count_closed(x->store));
	free(x->text);
	x->text = b.n != 0 ? strbuf_take(&b) : NULL;
	strbuf_fini(&b);
	return x->text != NULL ? x->text : "";
}
