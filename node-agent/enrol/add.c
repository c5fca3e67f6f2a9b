/* SPDX-License-Identifier: Apache-2.0
 * add.c: the CNI ADD: who waits for what, and the sandboxes that stand in its way.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/enrol/probes.h"

#define UNKNOWN_WAIT_MS 1000 /* a pod that the source is about to tell us of */

static void waiter_end(struct enrol_waiter *w, const struct enrol_answer *a)
{
	enrol_waiter_cancel(w);
	w->done(w, a);
}

void enrol_waiter_cancel(struct enrol_waiter *w)
{
	list_remove(&w->node);
	loop_timer_cancel(&w->limit);
	w->on = NULL;
}

void enrol_waiter_abandon(struct enrol_waiter *w)
{
	struct enrolment *x = w->on;

	enrol_waiter_cancel(w);
	/* nothing was decided and nobody will hear of it: as if it never came */
	if (x != NULL && x->state == ENROL_NEW && !x->rules && list_empty(&x->waiters))
		enrolment_drop(x, false);
}

void enrolment_answer(struct enrolment *x, const struct enrol_answer *a)
{
	struct list *n;

	while ((n = list_pop(&x->waiters)) != NULL)
		waiter_end(container_of(n, struct enrol_waiter, node), a);
}

void enrol_answer_error(struct enrol_answer *a, unsigned int http, unsigned int code,
			const char *msg, const char *details)
{
	*a = (struct enrol_answer){.http = http, .code = code};
	(void)snprintf(a->msg, sizeof(a->msg), "%s", msg);
	(void)snprintf(a->details, sizeof(a->details), "%s", details);
}

void enrol_answer_ok(struct enrol_answer *a, const char *outcome, const char *reason)
{
	*a = (struct enrol_answer){.http = 200, .outcome = outcome};
	(void)snprintf(a->msg, sizeof(a->msg), "%s", reason);
}

static void on_add_limit(struct timer *t)
{
	struct enrol_waiter *w = container_of(t, struct enrol_waiter, limit);
	struct enrolment *x = w->on;
	char reason[ELIGIBILITY_REASON_MAX] = "";
	struct enrol_answer a;
	struct err err = {0};
	uint64_t now = loop_now_ms(x->owner->loop);

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (enrolment_decide(x, pods_find(x->owner->pods, x->at.ns, x->at.name), reason) ==
	    ELIGIBLE_UNKNOWN) {
		bool fresh = x->state == ENROL_NEW && !x->rules;

		(void)err_set(&err, EAGAIN, "pod %s/%s: %s", x->at.ns, x->at.name, reason);
		enrol_answer_error(
			&a, 409, CNI_TRY_AGAIN, err.msg,
			"Whether the pod belongs into the mesh is not known yet. The runtime "
			"tries again.");
		log_warn("enrol", "ADD refused " ENROL_POD ": %s", ENROL_ARGS(x), reason);
		waiter_end(w, &a);
		if (fresh && list_empty(&x->waiters))
			enrolment_drop(x, false);
		return;
	}
	if (now < w->deadline_ms) {
		loop_timer_set(x->owner->loop, t, w->deadline_ms - now, on_add_limit);
		return;
	}
	(void)err_set(&err, ETIMEDOUT, "ztunnel did not answer in time");
	enrolment_failed(x, 503, CNI_TRY_AGAIN, &err);
}

static void refuse(struct enrol_waiter *w, unsigned int http, unsigned int code, const char *msg,
		   const char *details)
{
	struct enrol_answer a;

	enrol_answer_error(&a, http, code, msg, details);
	w->done(w, &a);
}

/* Others that stand in the way of a sandbox: the same pod's former one is replaced, a namespace
 * that another pod uses is refused. Sets what they leave behind for the new one to undo. */
static int make_room(struct enrol *e, const struct attachment *req, struct netns_id id,
		     bool *ret_rules, bool *ret_announced, struct err *err)
{
	list_for_each_safe (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);
		bool same_pod =
			strcmp(x->at.ns, req->ns) == 0 && strcmp(x->at.name, req->name) == 0;
		bool same_uid = req->uid[0] != '\0' && strcmp(x->at.uid, req->uid) == 0;
		struct err ignored = {0};

		if (!same_pod && !same_uid && !netns_id_eq(x->at.id, id))
			continue;
		if (!same_pod && !same_uid && x->netns_fd >= 0)
			return err_set(err, EINVAL,
				       "network namespace %s is that of pod %s/%s (container %s)",
				       req->netns_path, x->at.ns, x->at.name, x->at.container_id);
		if (same_pod || same_uid)
			log_info("enrol", "sandbox replaced " ENROL_POD " container=%s by=%s",
				 ENROL_ARGS(x), x->at.container_id, req->container_id);
		*ret_rules |= x->rules && netns_id_eq(x->at.id, id);
		*ret_announced |= x->announced && same_uid;
		if (enrolment_leave(x, false, !same_uid, &ignored) < 0)
			log_warn("enrol", "replace: %s", ignored.msg);
		enrolment_drop(x, false);
	}
	return 0;
}

void enrol_add(struct enrol *e, const struct attachment *req, uint64_t deadline_ms,
	       struct enrol_waiter *w)
{
	_cleanup_close_ int fd = -1;
	struct enrolment *x;
	struct netns_id id;
	struct err err = {0};
	uint64_t wait = deadline_ms < UNKNOWN_WAIT_MS ? deadline_ms : UNKNOWN_WAIT_MS;

	if (!e->started) {
		refuse(w, 503, CNI_NOT_AVAILABLE, "the agent has not read its pods yet", "");
		return;
	}
	fd = netns_check_open(req->netns_path, &id, &err);
	if (fd < 0) {
		refuse(w, fd == -EINVAL ? 400 : 500,
		       fd == -EINVAL ? CNI_BAD_ENVIRONMENT : CNI_FAILED, err.msg,
		       "CNI_NETNS must be the path of the pod's network namespace.");
		return;
	}
	x = enrolment_find(e, req->container_id, "");
	if (x != NULL && netns_id_eq(x->at.id, id) && strcmp(x->at.ns, req->ns) == 0 &&
	    strcmp(x->at.name, req->name) == 0) {
		struct attachment at = x->at;

		/* the same again: the addresses may be others */
		if (x->probes)
			probes_clear(e->probes, at.ips, at.nips, at.uid);
		x->probes = false;
		at.nips = req->nips;
		memcpy(at.ips, req->ips, sizeof(at.ips));
		if (req->uid[0] != '\0' && at.uid[0] == '\0')
			memcpy(at.uid, req->uid, sizeof(at.uid));
		x->at = at;
	} else {
		bool rules = false, announced = false;

		if (make_room(e, req, id, &rules, &announced, &err) < 0) {
			refuse(w, 500, CNI_FAILED, err.msg, "");
			return;
		}
		x = enrolment_new(e, req);
		x->at.id = id;
		x->by_runtime = !attachment_is_ours(req->container_id);
		x->rules = rules;
		x->announced = announced;
		x->cleaned = !rules; /* a new namespace: nobody was there before us */
	}
	if (x->netns_fd < 0)
		x->netns_fd = take_fd(fd);
	w->enrol = e;
	w->on = x;
	w->deadline_ms = loop_now_ms(e->loop) + deadline_ms;
	list_append(&x->waiters, &w->node);
	loop_timer_set(e->loop, &w->limit, wait, on_add_limit);
	enrolment_reconcile(x);
}
