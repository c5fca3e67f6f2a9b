/* SPDX-License-Identifier: Apache-2.0
 * xds_apply.c: from a response to the store, and from the store to a snapshot, a few milliseconds
 * at a time.
 *
 * Theory of operation. The store keeps the next snapshot up with every resource that is applied
 * (store.h), so taking one is quick. Responses that come quickly after each other go into one
 * snapshot, within GATHER_MS. The loop's other work has its turn between two slices.
 *
 * istiod pushes workloads before the policies that they name (istiod-ambient-spec 1.3), and a named
 * policy that is missing denies. So a snapshot waits for such policies, AWAIT_MS at most.
 *
 * What is kept on the node goes the same way: an image's resources are put into the store by the
 * decoder that took them, a copy for the next image is made between two other pieces of work. An
 * image is used whole or not at all. It is served when istiod has not completed it within ALONE_MS.
 *
 * A snapshot that is replaced may hold the last references to much; a worker that drops it last
 * would free all that. So it is kept here until the workers are done with it.
 */
#include <errno.h>
#include <stdlib.h>

#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "ztunnel/control/xds_internal.h"
#include "ztunnel/mesh/wds.h"
#include "ztunnel/observe/metrics.h"

#define SLICE_NS   4000000
#define STEP	   32 /* objects between two looks at the clock */
#define GATHER_MS  100
#define SWEEP_MS   100
#define AWAIT_MS   1000
#define ALONE_MS   3000 /* istiod's time to answer before a state of before is served */
#define AGE_MS	   5000
#define NACK_BYTES 16384

static void on_work(struct ready *r);

static void go_on(struct xds *x)
{
	loop_ready(x->loop, &x->work);
}

/* ---- a response ---- */

static void refuse(struct xds *x, struct str name, const char *why)
{
	char shown[300]; /* it goes into logs: no line ends, no escape sequences */

	x->nrefused++;
	metric_add(M_XDS_REFUSED, 1);
	if (x->nack.n < NACK_BYTES)
		strbuf_printf(&x->nack, "%s%s: %s", x->nack.n != 0 ? "; " : "",
			      str_show(name, shown, sizeof(shown)), why);
}

static void mark_dirty(struct xds *x)
{
	if (!x->dirty)
		x->dirty_ms = loop_now_ms(x->loop);
	x->dirty = true;
	x->policies = x->policies || x->current == &x->type[STORE_POLICY];
}

static void await_policies(struct xds *x, const struct workload *w)
{
	for (size_t i = 0; i < w->npolicies && x->nawaited < XDS_AWAITED_MAX; i++)
		if (!store_has(x->store, STORE_POLICY, w->policies[i]))
			x->awaited[x->nawaited++] = xstrndup(w->policies[i].p, w->policies[i].n);
}

static void await_no_more(struct xds *x)
{
	while (x->nawaited > 0)
		free(x->awaited[--x->nawaited]);
	loop_timer_cancel(&x->await);
}

/* Other policies than before: the file must have that as soon as a policy itself, or one that its
 * workload names would not be found there. */
static bool names_others(const struct xds *x, const struct workload *w)
{
	const struct workload *old =
		x->published != NULL ? mesh_workload_by_uid(x->published, w->uid) : NULL;
	bool same = old == NULL || old->npolicies == w->npolicies;

	for (size_t i = 0; old != NULL && same && i < w->npolicies; i++)
		same = str_eq(old->policies[i], w->policies[i]);
	return !same;
}

static int store_resource(struct xds *x, const struct xds_resource *r, struct err *err)
{
	struct wds_address a;
	struct policy *p;
	int rc;

	if (x->current == &x->type[STORE_POLICY]) {
		p = wds_policy(r->name, r->value, err);
		if (p == NULL)
			return -EINVAL;
		store_policy(x->store, p, r->version, r->value);
		return 0;
	}
	rc = wds_address(r->name, r->value, &a, err);
	if (rc != 0)
		return rc;
	if (a.workload != NULL) {
		await_policies(x, a.workload);
		x->policies = x->policies || names_others(x, a.workload);
		store_workload(x->store, a.workload, r->version, r->value);
	} else {
		store_service(x->store, a.service, r->name, r->version, r->value);
	}
	return 0;
}

/* What was refused must not open what it was meant to close. A good version that is there stays. */
static void close_policy(struct xds *x, const struct xds_resource *r)
{
	struct policy *p;

	if (x->current != &x->type[STORE_POLICY] || r->name.n == 0 || r->name.n > XDS_NAME_BYTES ||
	    !str_is_utf8(r->name) || store_has_policy(x->store, r->name))
		return;
	p = wds_policy_closed(r->name, r->value);
	if (p == NULL) {
		if (store_remove(x->store, STORE_POLICY, r->name))
			mark_dirty(x); /* it was taken for another kind before */
		return;
	}
	log_limited(LOG_LV_ERROR, "xds",
		    "the policy %s cannot be read and no good version of it is known: until istiod "
		    "changes or removes it %s %s",
		    str_shown(r->name),
		    p->action == POLICY_DENY ? "all is denied" : "it allows nothing",
		    p->scope == POLICY_GLOBAL ? "on this node" : "in its namespace");
	store_policy(x->store, p, STR(""), r->value);
	mark_dirty(x);
}

/* Also when it is refused below: there will be no other answer. */
static void answer(struct xds *x, const struct xds_resource *r)
{
	struct xds_resource walk = *r;
	struct str alias;

	xds_demand_answered(x, r->name);
	while (!r->broken && xds_next_alias(&walk, &alias))
		xds_demand_answered(x, alias);
}

static void apply_one(struct xds *x, const struct xds_resource *r)
{
	struct err err = {0};
	size_t refused = x->nrefused;

	x->bytes += r->value.n;
	if (x->current == NULL)
		return;
	if (x->demand != NULL && x->current == &x->type[STORE_ADDRESS])
		answer(x, r);
	if (r->broken)
		refuse(x, STR("(unnamed)"), "not a resource");
	else if (r->name.n == 0)
		refuse(x, STR("(unnamed)"), "no name");
	else if (r->value.n > LIMIT_XDS_RESOURCE_BYTES)
		refuse(x, r->name, "larger than the limit");
	else if (store_resource(x, r, &err) != 0)
		refuse(x, r->name, err.msg);
	else
		mark_dirty(x);
	if (x->nrefused != refused)
		close_policy(x, r);
}

static void report(struct xds *x)
{
	struct xds_type *t = x->current;

	if (t == NULL) {
		log_limited(LOG_LV_WARN, "xds", "istiod sent a type that nobody asked for: %s",
			    str_shown(x->response.type_url));
		return;
	}
	metric_add(t == &x->type[STORE_POLICY] ? M_XDS_MESSAGES_POLICY : M_XDS_MESSAGES_ADDRESS, 1);
	metric_add(t == &x->type[STORE_POLICY] ? M_XDS_BYTES_POLICY : M_XDS_BYTES_ADDRESS,
		   (int64_t)x->bytes);
	free(take_ptr(t->refused));
	if (x->nrefused == 0) {
		log_debug("xds", "response type=%s resources=%zu removed=%zu", t->shown,
			  x->response.nresources, x->response.nremoved);
		return;
	}
	t->refused = xstrndup(x->nack.p, x->nack.n);
	log_limited(LOG_LV_WARN, "xds",
		    "%zu of %zu resources are refused, what was there of them before stays "
		    "type=%s: %.2000s",
		    x->nrefused, x->response.nresources, t->shown, t->refused);
}

/* The response is applied. */
static void conclude(struct xds *x)
{
	struct strbuf nack = x->nack;

	report(x);
	x->nack = (struct strbuf){0};
	if (nack.n >= NACK_BYTES)
		strbuf_printf(&nack, "; %zu in all", x->nrefused);
	if (x->current != NULL && x->nrefused == 0 && !x->current->synced) {
		x->current->synced = true;
		mark_dirty(x); /* also when there is nothing of this type */
	}
	x->have = false;
	xds_answer(x, (struct str){nack.p, nack.n}); /* may bring the next message */
	strbuf_fini(&nack);
}

/* True when the response is done. */
static bool apply_some(struct xds *x)
{
	struct xds_resource r;
	struct str name;

	for (int i = 0; i < STEP && !x->removing; i++) {
		if (xds_next_resource(&x->response, &r)) {
			apply_one(x, &r);
			continue;
		}
		x->removing = true; /* after the updates (ztunnel-spec 9.3) */
		xds_response_rewind(&x->response, x->message);
	}
	for (int i = 0; i < STEP && x->removing; i++) {
		if (!xds_next_removed(&x->response, &name))
			return true;
		if (x->current == NULL)
			continue;
		if (x->current == &x->type[STORE_ADDRESS])
			xds_demand_answered(x, name);
		if (store_remove(x->store, (enum store_kind)(x->current - x->type), name))
			mark_dirty(x);
	}
	return false;
}

int xds_take(struct xds *x, struct str message, struct err *err)
{
	int r = xds_response_open(message, &x->response, err);

	if (r != 0)
		return r;
	x->have = true;
	x->removing = false;
	x->message = message;
	x->nrefused = x->bytes = 0;
	x->current = NULL;
	for (int i = 0; i < STORE_KIND_N; i++)
		if (str_eq(x->type[i].url, x->response.type_url))
			x->current = &x->type[i];
	if (x->current != NULL)
		x->current->answered = true;
	go_on(x);
	return 0;
}

void xds_forget(struct xds *x)
{
	x->have = false;
	strbuf_fini(&x->nack);
}

/* ---- snapshots ---- */

static void on_sweep(struct timer *t)
{
	struct xds *x = container_of(t, struct xds, sweep);
	size_t n = 0;

	for (size_t i = 0; i < x->nold; i++)
		if (mesh_is_last(x->old[i]))
			mesh_unref(x->old[i]);
		else
			x->old[n++] = x->old[i];
	x->nold = n;
	if (n != 0)
		loop_timer_set(x->loop, t, SWEEP_MS, on_sweep);
}

static bool complete(const struct xds *x)
{
	for (int i = 0; i < STORE_KIND_N; i++)
		if (!x->type[i].synced)
			return false;
	return true;
}

uint64_t xds_stale_s(const struct xds *x)
{
	int64_t age = clock_wall_us() / 1000 - x->kept_ms;

	return x->stale && age > 0 ? (uint64_t)age / 1000 : 0;
}

static void on_age(struct timer *t)
{
	struct xds *x = container_of(t, struct xds, stale_timer);

	metric_set(M_STATE_STALE_SECONDS, (int64_t)xds_stale_s(x));
	loop_timer_set(x->loop, t, AGE_MS, on_age);
}

/* Says what the snapshot is that is handed out now. */
static void now_current(struct xds *x, bool first)
{
	bool was = x->stale;

	x->stale = !complete(x);
	if (x->stale && !was) {
		log_warn("xds",
			 "istiod does not answer: serving the last good state, %llu s old "
			 "workloads=%zu policies=%zu",
			 (unsigned long long)xds_stale_s(x), mesh_count_workloads(x->published),
			 store_count(x->store, STORE_POLICY));
		on_age(&x->stale_timer);
	} else if (!x->stale && (was || first)) {
		loop_timer_cancel(&x->stale_timer);
		metric_set(M_STATE_STALE_SECONDS, 0);
		log_info("xds", "the state is complete workloads=%zu generation=%llu",
			 mesh_count_workloads(x->published), (unsigned long long)x->generation);
	}
	if (!x->stale && x->keep != NULL)
		xds_keep_changed(x->keep, x->policies);
	x->policies = false;
}

static void publish(struct xds *x, struct mesh *m)
{
	bool first = x->published == NULL;

	if (!first) {
		x->old = xrealloc_array(x->old, x->nold + 1, sizeof(struct mesh *));
		x->old[x->nold++] = x->published;
		if (!timer_armed(&x->sweep))
			loop_timer_set(x->loop, &x->sweep, SWEEP_MS, on_sweep);
	}
	x->published = m;
	metric_add(M_STATE_RELOADS, 1);
	now_current(x, first);
	x->fn(x->ctx, m);
}

static void on_await(struct timer *t)
{
	go_on(container_of(t, struct xds, await));
}

/* True while policies that were named lately may still come. */
static bool waits_for_policies(struct xds *x)
{
	uint64_t since = loop_now_ms(x->loop) - x->dirty_ms;
	bool missing = false;

	for (size_t i = 0; i < x->nawaited; i++)
		missing = missing || !store_has(x->store, STORE_POLICY, str_of(x->awaited[i]));
	if (!missing || since >= AWAIT_MS)
		return false;
	if (!timer_armed(&x->await))
		loop_timer_set(x->loop, &x->await, AWAIT_MS - since, on_await);
	return true;
}

/* A state of before is served when istiod had its time to answer. */
static bool may_publish(const struct xds *x)
{
	return complete(x) || (x->restored && loop_now_ms(x->loop) >= x->serve_ms);
}

static bool is_time_to_build(struct xds *x)
{
	return x->dirty && may_publish(x) &&
	       (!x->have || loop_now_ms(x->loop) - x->dirty_ms > GATHER_MS) &&
	       !waits_for_policies(x);
}

static void start_over(struct xds *x)
{
	x->store = store_free(x->store);
	x->store = store_new(str_of(x->node_name), x->keep != NULL);
	x->dirty = false;
	x->restoring = false;
	await_no_more(x);
}

/* One resource of the image, by the way that it came. */
static int restore_one(struct xds *x, const struct image_record *i, struct err *err)
{
	struct xds_resource r = {.name = i->name, .version = i->version, .value = i->value};
	struct policy *p;

	if (r.name.n == 0 || r.name.n > XDS_NAME_BYTES || r.version.n > XDS_VERSION_BYTES ||
	    !str_is_utf8(r.name) || r.value.n > LIMIT_XDS_RESOURCE_BYTES)
		return err_set(err, EINVAL, "not a resource");
	x->current = &x->type[i->kind];
	if (store_resource(x, &r, err) == 0)
		return 0;
	if (!i->closed) /* what was in force must not be missing now */
		return -EINVAL;
	p = wds_policy_closed(r.name, r.value);
	if (p != NULL)
		store_policy(x->store, p, STR(""), r.value);
	return 0;
}

static void on_alone(struct timer *t)
{
	go_on(container_of(t, struct xds, stale_timer));
}

static void restore_some(struct xds *x)
{
	struct image_record i;
	struct err err = {0};
	int r = 1;

	for (int n = 0; n < STEP && (r = image_next(&x->image, &i)) == 1; n++)
		if (restore_one(x, &i, &err) != 0) {
			r = err_wrap(&err, "%s", str_shown(i.name));
			break;
		}
	if (r == 1)
		return;
	if (r != 0) {
		start_over(x);
		xds_keep_loaded(x->keep, err.msg[0] != '\0' ? err.msg : "a damaged record");
	} else {
		x->restoring = false;
		x->restored = true;
		x->serve_ms = loop_now_ms(x->loop) + ALONE_MS;
		loop_timer_set(x->loop, &x->stale_timer, ALONE_MS, on_alone);
		await_no_more(x);
		mark_dirty(x);
		xds_keep_loaded(x->keep, NULL);
		log_info("xds",
			 "the last good state is here workloads_and_services=%zu policies=%zu",
			 store_count(x->store, STORE_ADDRESS), store_count(x->store, STORE_POLICY));
	}
	x->current = NULL;
	xds_restored(x);
}

void xds_restore(struct xds *x)
{
	uint64_t age_ms;

	if (x->keep == NULL || !xds_keep_load(x->keep, &x->image, &age_ms)) {
		xds_restored(x);
		return;
	}
	x->kept_ms = clock_wall_us() / 1000 - (int64_t)age_ms;
	x->restoring = true;
	go_on(x);
}

void xds_copy(struct xds *x)
{
	if (x->copy == NULL && complete(x)) {
		x->copy = store_copy_new(x->store);
		go_on(x);
	}
}

struct store_copy *xds_copy_now(struct xds *x)
{
	struct store_copy *c;

	x->copy = store_copy_free(x->copy);
	if (x->keep == NULL || !xds_keep_is_due(x->keep) || !complete(x))
		return NULL;
	c = store_copy_new(x->store);
	(void)store_copy_step(c, SIZE_MAX);
	return c;
}

/* One small step; false when there is nothing to do. */
static bool step(struct xds *x)
{
	if (x->restoring) {
		restore_some(x);
		return true;
	}
	if (x->copy != NULL) {
		if (store_copy_step(x->copy, STEP))
			xds_keep_save(x->keep, take_ptr(x->copy));
		return true;
	}

	if (is_time_to_build(x)) {
		await_no_more(x);
		x->dirty = false;
		publish(x, store_snapshot(x->store, ++x->generation));
		return true;
	}
	if (x->demand != NULL && demand_has_answered(x->demand) && !x->dirty && !x->have) {
		xds_demand_tell(x);
		return true;
	}
	if (!x->have)
		return false;
	if (apply_some(x))
		conclude(x);
	return true;
}

static void on_work(struct ready *r)
{
	struct xds *x = container_of(r, struct xds, work);
	uint64_t start = clock_mono_ns();

	xds_demand_send(x);
	while (step(x))
		if (clock_mono_ns() - start > SLICE_NS) {
			go_on(x);
			return;
		}
}

void xds_apply_init(struct xds *x)
{
	x->type[STORE_ADDRESS].url = STR("type.googleapis.com/istio.workload.Address");
	x->type[STORE_ADDRESS].shown = "Address";
	x->type[STORE_POLICY].url = STR("type.googleapis.com/istio.security.Authorization");
	x->type[STORE_POLICY].shown = "Authorization";
	x->store = store_new(str_of(x->node_name), x->keep != NULL);
	x->work.fn = on_work;
}

void xds_apply_fini(struct xds *x)
{
	loop_ready_cancel(&x->work);
	loop_timer_cancel(&x->sweep);
	loop_timer_cancel(&x->stale_timer);
	x->copy = store_copy_free(x->copy);
	await_no_more(x);
	x->store = store_free(x->store);
	for (size_t i = 0; i < x->nold; i++)
		mesh_unref(x->old[i]);
	free(x->old);
	mesh_unref(x->published);
	strbuf_fini(&x->nack);
	for (int i = 0; i < STORE_KIND_N; i++)
		free(x->type[i].refused);
}
