/* SPDX-License-Identifier: Apache-2.0
 * enrol.c: the transaction that brings a pod into the mesh, and its reverse.
 *
 * Theory of operation. Every known sandbox is an `enrolment`. Whatever happens (an ADD, a label, a
 * restart, ztunnel coming back) only makes reconcile() compare what should be with what has been
 * done:
 *
 *   eligible      netns -> journal -> custody -> rules -> ZDS Add, ack -> probe set -> ENROLLED
 *   not eligible  probe set -> ZDS Del -> rules -> custody -> netns          -> NOT_IN_MESH
 *   unknown       nothing is changed; who waits is told to try again
 *
 * Sockets exist before rules, so what is captured always finds a queue. Each step is idempotent and
 * records that it is done, so a retry or a new process repeats what it must and nothing else. When
 * an ADD fails its steps are undone in reverse and the runtime gets the error. Without anybody
 * waiting, rules that are in place stay (fail closed), the state is PENDING or FAILED, and the
 * steps are tried again with growing pauses.
 *
 * A namespace descriptor is closed only after the rules in it are removed or given up for good.
 */
#include "node-agent/enrol/enrol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/zds.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/fault.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/enrol/probes.h"
#include "node-agent/source/source.h"

#define RETRY_FIRST_MS	250
#define RETRY_MAX_MS	30000
#define UNKNOWN_WAIT_MS 1000  /* a pod that the source is about to tell us of */
#define HELD_WAIT_MS	10000 /* ztunnel's way back after the agent's restart */
#define PRUNE_AFTER_MS	15000 /* every pod has been looked at by then */
#define POD_FMT		"pod=%s/%s uid=%s"
#define POD_ARGS(x)	(x)->at.ns, (x)->at.name, (x)->at.uid

static void enrolled(struct enrolment *x, const char *reason);

struct enrolment *enrolment_new(struct enrol *e, const struct attachment *at)
{
	struct enrolment *x = xcalloc(1, sizeof(*x));

	x->magic = ENROLMENT_MAGIC;
	x->owner = e;
	x->netns_fd = -1;
	x->by_runtime = true;
	list_init(&x->waiters);
	attachment_copy(&x->at, at);
	list_append(&e->all, &x->node);
	return x;
}

struct enrolment *enrolment_find(struct enrol *e, const char *container_id, const char *ifname)
{
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (strcmp(x->at.container_id, container_id) == 0 &&
		    (ifname[0] == '\0' || strcmp(x->at.ifname, ifname) == 0))
			return x;
	}
	return NULL;
}

struct enrolment *enrolment_find_uid(struct enrol *e, const char *uid)
{
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (uid[0] != '\0' && strcmp(x->at.uid, uid) == 0)
			return x;
	}
	return NULL;
}

/* --- waiting and answering --- */

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

void enrolment_answer(struct enrolment *x, const struct enrol_answer *a)
{
	struct list *n;

	while ((n = list_pop(&x->waiters)) != NULL)
		waiter_end(container_of(n, struct enrol_waiter, node), a);
}

static void answer_error(struct enrol_answer *a, unsigned int http, unsigned int code,
			 const char *msg, const char *details)
{
	*a = (struct enrol_answer){.http = http, .code = code};
	(void)snprintf(a->msg, sizeof(a->msg), "%s", msg);
	(void)snprintf(a->details, sizeof(a->details), "%s", details);
}

static void answer_ok(struct enrol_answer *a, const char *outcome, const char *reason)
{
	*a = (struct enrol_answer){.http = 200, .outcome = outcome};
	(void)snprintf(a->msg, sizeof(a->msg), "%s", reason);
}

/* --- the way in --- */

static int step_journal(struct enrolment *x, struct err *err)
{
	int r = fault_in("journal");

	if (r == 0)
		r = attachment_write(x->owner->journal, &x->at, err);
	if (r < 0)
		return err_wrap(err, "write the journal");
	fault_after("journal");
	return 0;
}

int enrolment_open_netns(struct enrolment *x, struct err *err)
{
	_cleanup_close_ int fd = -1;
	struct netns_id id;

	if (x->netns_fd >= 0)
		return 0;
	fd = netns_check_open(x->at.netns_path, &id, err);
	if (fd < 0)
		return fd;
	if (!netns_id_eq(id, x->at.id))
		return err_set(err, ESTALE, "network namespace %s is another one now",
			       x->at.netns_path);
	x->netns_fd = take_fd(fd);
	return 0;
}

/* Version of the ztunnel that is, or was last, there; 0: none yet. */
static uint32_t ztunnel_version(const struct enrol *e)
{
	uint32_t v = zds_server_version(e->zds), left;

	if (v == 0) {
		(void)zds_server_left_ms(e->zds, &left);
		v = left;
	}
	return v;
}

static int step_custody(struct enrolment *x, struct err *err)
{
	int r = fault_in("custody");

	/* sockets that a stock ztunnel does not serve would take part of its connections */
	if (ztunnel_version(x->owner) == ZDS_V1 || x->await_held)
		return 0;
	if (r == 0)
		r = custody_open(&x->custody, x->at.uid, x->netns_fd, err);
	if (r < 0)
		return r;
	fault_after("custody");
	return 0;
}

static int step_rules(struct enrolment *x, const struct nft_pod_opts *o, struct err *err)
{
	int r = fault_in("rules");

	x->rules = true; /* from here on something may be there */
	x->opts = *o;
	if (r == 0)
		r = nft_pod_apply(x->netns_fd, o, err);
	if (r < 0)
		return err_wrap(err, "put the rules in place");
	fault_after("rules");
	return 0;
}

static int local_steps(struct enrolment *x, const struct nft_pod_opts *o, struct err *err)
{
	int r = enrolment_open_netns(x, err);

	if (r == 0)
		r = netns_check_addresses(x->netns_fd, x->at.ips, x->at.nips, err);
	if (r == 0)
		r = step_custody(x, err);
	if (r == 0)
		r = step_rules(x, o, err);
	return r;
}

/* True while connections may wait in the kernel for a ztunnel that was here a moment ago. */
static bool in_grace(const struct enrol *e)
{
	uint32_t version;
	uint64_t left = zds_server_left_ms(e->zds, &version);

	return left != 0 && version >= ZDS_V2_CUSTODY &&
	       loop_now_ms(e->loop) - left <= e->cfg->ztunnel_grace_ms;
}

static bool ztunnel_usable(const struct enrol *e)
{
	return zds_server_version(e->zds) != 0 || in_grace(e);
}

static void on_retry(struct timer *t)
{
	struct enrolment *x = container_of(t, struct enrolment, retry);

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	enrolment_reconcile(x);
}

static void retry_later(struct enrolment *x)
{
	x->backoff_ms = x->backoff_ms == 0 ? RETRY_FIRST_MS : x->backoff_ms * 2;
	if (x->backoff_ms > RETRY_MAX_MS)
		x->backoff_ms = RETRY_MAX_MS;
	loop_timer_set(x->owner->loop, &x->retry, x->backoff_ms, on_retry);
}

/* A step failed. With somebody waiting: everything is undone and they get the error. Else what is
 * there stays, and the steps are tried again. */
static void step_failed(struct enrolment *x, unsigned int http, unsigned int code,
			const struct err *why)
{
	struct enrol_answer a;
	struct err err = {0};

	log_warn("enrol", "cannot enrol " POD_FMT " netns=%s: %s", POD_ARGS(x), x->at.netns_path,
		 why->msg);
	if (!list_empty(&x->waiters)) {
		answer_error(
			&a, http, code, why->msg,
			"All steps were undone. The runtime may try again; the agent's log and "
			"GET /v1/status say more.");
		if (enrolment_leave(x, true, true, &err) < 0)
			log_error("enrol", "undo " POD_FMT ": %s", POD_ARGS(x), err.msg);
		enrolment_answer(x, &a);
		enrolment_drop(x, false);
		return;
	}
	x->state = x->rules ? ENROL_PENDING : ENROL_FAILED;
	(void)snprintf(x->reason, sizeof(x->reason), "%s", why->msg);
	retry_later(x);
}

static void announce(struct enrolment *x);

static void on_announced(struct zds_add *add, int result, const char *error)
{
	struct enrolment *x = container_of(add, struct enrolment, add);
	struct err err = {0};

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (result == 0) {
		fault_after("zds");
		enrolled(x, x->reason);
		return;
	}
	if (result == -ECONNRESET) { /* the ztunnel before it may be there, or the queue waits */
		announce(x);
		return;
	}
	(void)err_set(&err, EAGAIN, "ztunnel: %s", error);
	step_failed(x, 503, CNI_TRY_AGAIN, &err);
}

static void no_ztunnel(struct enrolment *x)
{
	struct err err = {0};

	if (in_grace(x->owner) && x->custody.held) {
		enrolled(x, "ztunnel is away; new connections wait in the kernel's queue");
		return;
	}
	(void)err_set(&err, ENOTCONN, "no ztunnel is connected to %s", x->owner->cfg->ztunnel_sock);
	step_failed(x, 503, CNI_NOT_AVAILABLE, &err);
}

static void announce(struct enrolment *x)
{
	struct err err = {0};

	x->state = ENROL_PENDING;
	if (fault_in("zds") < 0) {
		(void)err_set(&err, EIO, "fault");
		step_failed(x, 503, CNI_TRY_AGAIN, &err);
		return;
	}
	if (zds_server_add(x->owner->zds, &x->add, x->at.uid, on_announced) < 0)
		no_ztunnel(x);
}

/* The last step, and the end. */
static void enrolled(struct enrolment *x, const char *reason)
{
	bool acked = zds_server_version(x->owner->zds) != 0;
	struct enrol_answer a;
	struct err err = {0};
	int r = fault_in("probes");

	if (r == 0)
		r = probes_set(x->owner->probes, x->at.ips, x->at.nips, x->at.uid, &err);
	if (r < 0) {
		step_failed(x, 503, CNI_TRY_AGAIN, &err);
		return;
	}
	x->probes = true;
	fault_after("probes");
	if (x->state != ENROL_ENROLLED || !list_empty(&x->waiters))
		log_info("enrol",
			 "enrolled " POD_FMT " netns=%s inode=%llu custody=%s reason=\"%s\"",
			 POD_ARGS(x), x->at.netns_path, (unsigned long long)x->at.id.ino,
			 x->custody.held ? "yes" : "no", reason);
	x->state = acked ? ENROL_ENROLLED : ENROL_PENDING;
	if (reason != x->reason)
		(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	x->backoff_ms = 0;
	loop_timer_cancel(&x->retry);
	if (!acked)
		loop_timer_set(x->owner->loop, &x->retry, RETRY_MAX_MS, on_retry);
	answer_ok(&a, "enrolled", x->reason);
	enrolment_answer(x, &a);
}

static bool opts_same(const struct nft_pod_opts *a, const struct nft_pod_opts *b)
{
	if (a->dns_capture != b->dns_capture || a->ingress_mode != b->ingress_mode ||
	    a->nifaces != b->nifaces)
		return false;
	for (size_t i = 0; i < a->nifaces; i++)
		if (strcmp(a->ifaces[i], b->ifaces[i]) != 0)
			return false;
	return true;
}

/* What must be known before anything is done: the identity that ztunnel will use. */
static int learn_identity(struct enrolment *x, const struct pod *p, struct err *err)
{
	if (x->at.uid[0] == '\0' && p->uid != NULL)
		(void)snprintf(x->at.uid, sizeof(x->at.uid), "%s", p->uid);
	if (x->at.uid[0] == '\0')
		return err_set(err, EINVAL,
			       "pod %s/%s has no UID: neither K8S_POD_UID in CNI_ARGS nor "
			       "metadata.uid says it",
			       x->at.ns, x->at.name);
	if (x->sa == NULL || strcmp(x->sa, p->service_account) != 0) {
		free(x->sa);
		x->sa = xstrdup(p->service_account);
	}
	if (x->at.nips == 0 && p->nips != 0) {
		x->at.nips = p->nips;
		memcpy(x->at.ips, p->ips, sizeof(x->at.ips));
	}
	return 0;
}

static void go_in(struct enrolment *x, const struct pod *p, const char *reason)
{
	char ignored[ELIGIBILITY_REASON_MAX];
	struct nft_pod_opts o;
	struct err err = {0};
	int r;

	x->wanted = true;
	if (x->add.peer != NULL)
		return; /* ztunnel's answer goes on from here */
	r = learn_identity(x, p, &err);
	if (r == 0)
		r = eligibility_rules(p, x->owner->cfg, &o, ignored, &err);
	if (r < 0) {
		step_failed(x, 500, CNI_FAILED, &err);
		return;
	}
	if (ignored[0] != '\0')
		log_limited(LOG_LV_WARN, "enrol", "annotation ignored " POD_FMT " %s", POD_ARGS(x),
			    ignored);
	if (x->state == ENROL_ENROLLED && list_empty(&x->waiters) && opts_same(&o, &x->opts))
		return;
	(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	if (!list_empty(&x->waiters) && !ztunnel_usable(x->owner)) {
		(void)err_set(&err, ENOTCONN, "no ztunnel is connected to %s",
			      x->owner->cfg->ztunnel_sock);
		step_failed(x, 503, CNI_NOT_AVAILABLE, &err);
		return;
	}
	r = step_journal(x, &err);
	if (r == 0)
		r = local_steps(x, &o, &err);
	if (r < 0)
		step_failed(x, r == -EINVAL ? 500 : 503, r == -EINVAL ? CNI_FAILED : CNI_TRY_AGAIN,
			    &err);
	else
		announce(x);
}

/* --- the way out --- */

static int leave_rules(struct enrolment *x, struct err *err)
{
	int r;

	if (!x->rules)
		return 0;
	r = enrolment_open_netns(x, err);
	if (r == -ENOENT || r == -ESTALE) {
		x->rules = false; /* the namespace is gone, and they with it */
		return 0;
	}
	if (r == 0)
		r = fault_in("leave-rules");
	if (r == 0)
		r = nft_pod_remove(x->netns_fd, err);
	if (r < 0)
		return err_wrap(err, "remove the rules");
	x->rules = false;
	fault_after("leave-rules");
	return 0;
}

int enrolment_leave(struct enrolment *x, bool remove_rules, bool tell, struct err *err)
{
	int r = 0;

	x->wanted = false;
	if (x->probes)
		probes_clear(x->owner->probes, x->at.ips, x->at.nips, x->at.uid);
	x->probes = false;
	fault_after("leave-probes");
	zds_server_add_cancel(&x->add);
	if (x->announced && tell)
		zds_server_del(x->owner->zds, x->at.uid);
	x->announced = false;
	fault_after("leave-zds");
	if (remove_rules)
		r = leave_rules(x, err);
	if (r < 0)
		return r; /* sockets and descriptor stay: what is captured must find a queue */
	custody_close(&x->custody, x->at.uid);
	x->netns_fd = xclose(x->netns_fd);
	return 0;
}

static void free_enrolment(struct deferred *d)
{
	free(container_of(d, struct enrolment, dead));
}

void enrolment_drop(struct enrolment *x, bool keep_journal)
{
	struct enrol_answer a;

	answer_error(&a, 503, CNI_TRY_AGAIN, "the pod was deleted while it was being added", "");
	enrolment_answer(x, &a);
	if (!keep_journal)
		attachment_remove(x->owner->journal, x->at.container_id);
	x->magic = OBJ_DEAD;
	zds_server_add_cancel(&x->add);
	loop_timer_cancel(&x->retry);
	loop_ready_cancel(&x->again);
	list_remove(&x->node);
	custody_forget(&x->custody);
	x->netns_fd = xclose(x->netns_fd);
	attachment_fini(&x->at);
	free(x->sa);
	loop_defer(x->owner->loop, &x->dead, free_enrolment);
}

static void go_out(struct enrolment *x, const char *reason)
{
	bool was_in = x->rules || x->custody.held;
	struct enrol_answer a;
	struct err err = {0};
	int r = step_journal(x, &err);

	if (r == 0)
		r = enrolment_leave(x, true, true, &err);
	if (r < 0) {
		log_warn("enrol", "cannot release " POD_FMT ": %s", POD_ARGS(x), err.msg);
		if (!list_empty(&x->waiters)) {
			answer_error(&a, 503, CNI_TRY_AGAIN, err.msg, "");
			enrolment_answer(x, &a);
		}
		x->state = ENROL_FAILED;
		(void)snprintf(x->reason, sizeof(x->reason), "%s", err.msg);
		retry_later(x);
		return;
	}
	if (was_in || x->state != ENROL_NOT_IN_MESH)
		log_info("enrol", "%s " POD_FMT " reason=\"%s\"",
			 was_in ? "released" : "not in the mesh", POD_ARGS(x), reason);
	x->state = ENROL_NOT_IN_MESH;
	x->backoff_ms = 0;
	loop_timer_cancel(&x->retry);
	(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	answer_ok(&a, "not-in-mesh", x->reason);
	enrolment_answer(x, &a);
}

/* The source has no such pod any more, or says it finished; its sandbox may still run. Nothing of
 * it may leave in the clear, so the rules stay until the runtime deletes the sandbox. */
static void pod_vanished(struct enrolment *x)
{
	struct err err = {0};

	if (!x->wanted && x->state == ENROL_FAILED)
		return;
	if (x->rules)
		log_info("enrol", "released, rules stay until the sandbox goes " POD_FMT,
			 POD_ARGS(x));
	if (enrolment_leave(x, false, true, &err) < 0)
		log_error("enrol", "release " POD_FMT ": %s", POD_ARGS(x), err.msg);
	x->state = x->rules ? ENROL_FAILED : ENROL_NEW;
	(void)snprintf(x->reason, sizeof(x->reason),
		       "the pod is not in %s any more; its rules stay until its sandbox is deleted",
		       x->owner->src->where);
}

/* --- deciding --- */

static enum eligibility decide(const struct enrolment *x, const struct pod *p, char *reason)
{
	const struct pod_namespace *ns = pods_namespace(x->owner->pods, x->at.ns);

	if (p != NULL && p->uid != NULL && x->at.uid[0] != '\0' && strcmp(p->uid, x->at.uid) != 0) {
		(void)snprintf(reason, ELIGIBILITY_REASON_MAX,
			       "the pod has uid %s in %s and %s at the runtime", p->uid,
			       x->owner->src->where, x->at.uid);
		return ELIGIBLE_UNKNOWN;
	}
	return eligibility_of(p, ns, x->owner->cfg, reason);
}

void enrolment_reconcile(struct enrolment *x)
{
	const struct pod *p = pods_find(x->owner->pods, x->at.ns, x->at.name);
	char reason[ELIGIBILITY_REASON_MAX] = "";

	loop_timer_cancel(&x->retry);
	switch (decide(x, p, reason)) {
	case ELIGIBLE_YES:
		go_in(x, p, reason);
		return;
	case ELIGIBLE_NO:
		go_out(x, reason);
		return;
	case ELIGIBLE_UNKNOWN:
		break;
	}
	if (!list_empty(&x->waiters))
		return; /* their time limit decides */
	if (p == NULL)
		pod_vanished(x);
	else
		(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
}

static void on_again(struct ready *r)
{
	struct enrolment *x = container_of(r, struct enrolment, again);

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	x->backoff_ms = 0;
	enrolment_reconcile(x);
}

static void again(struct enrolment *x)
{
	x->again.fn = on_again;
	loop_ready(x->owner->loop, &x->again);
}

void enrol_pod_changed(struct enrol *e, const char *ns, const char *name)
{
	bool known = false;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (strcmp(x->at.ns, ns) == 0 && strcmp(x->at.name, name) == 0) {
			again(x);
			known = true;
		}
	}
	if (!known && e->started)
		discover_scan_soon(e);
}

/* --- ADD --- */

static void on_add_limit(struct timer *t)
{
	struct enrol_waiter *w = container_of(t, struct enrol_waiter, limit);
	struct enrolment *x = w->on;
	char reason[ELIGIBILITY_REASON_MAX] = "";
	struct enrol_answer a;
	struct err err = {0};
	uint64_t now = loop_now_ms(x->owner->loop);

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (decide(x, pods_find(x->owner->pods, x->at.ns, x->at.name), reason) ==
	    ELIGIBLE_UNKNOWN) {
		bool fresh = x->state == ENROL_NEW && !x->rules;

		(void)err_set(&err, EAGAIN, "pod %s/%s: %s", x->at.ns, x->at.name, reason);
		answer_error(&a, 409, CNI_TRY_AGAIN, err.msg,
			     "Whether the pod belongs into the mesh is not known yet. The runtime "
			     "tries again.");
		log_warn("enrol", "ADD refused " POD_FMT ": %s", POD_ARGS(x), reason);
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
	step_failed(x, 503, CNI_TRY_AGAIN, &err);
}

static void refuse(struct enrol_waiter *w, unsigned int http, unsigned int code, const char *msg,
		   const char *details)
{
	struct enrol_answer a;

	answer_error(&a, http, code, msg, details);
	w->done(w, &a);
}

/* Others that stand in the way of a sandbox: the same pod's former one is replaced, a namespace
 * that another pod uses is refused. */
static int make_room(struct enrol *e, const struct attachment *req, struct netns_id id,
		     struct err *err)
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
			log_info("enrol", "sandbox replaced " POD_FMT " container=%s by=%s",
				 POD_ARGS(x), x->at.container_id, req->container_id);
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
		at.nips = req->nips;
		memcpy(at.ips, req->ips, sizeof(at.ips));
		if (req->uid[0] != '\0' && at.uid[0] == '\0')
			memcpy(at.uid, req->uid, sizeof(at.uid));
		x->at = at;
	} else {
		if (make_room(e, req, id, &err) < 0) {
			refuse(w, 500, CNI_FAILED, err.msg, "");
			return;
		}
		x = enrolment_new(e, req);
		x->at.id = id;
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

/* --- ztunnel --- */

static void zds_each(void *ctx, void (*fn)(void *, const char *), void *arg)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (x->wanted && x->rules)
			fn(arg, x->at.uid);
	}
}

static enum zds_describe zds_describe(void *ctx, const char *uid, uint32_t version,
				      struct zds_pod *ret)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);
	struct err err = {0};

	if (x == NULL || !x->wanted)
		return ZDS_POD_GONE;
	x->announced = true;
	if (enrolment_open_netns(x, &err) < 0)
		return ZDS_POD_KEEP;
	x->await_held = false;
	if (version < ZDS_V2_CUSTODY)
		custody_close(&x->custody, x->at.uid);
	else if (custody_open(&x->custody, x->at.uid, x->netns_fd, &err) < 0)
		log_warn("enrol", "no custody " POD_FMT ": %s", POD_ARGS(x), err.msg);
	*ret = (struct zds_pod){.uid = x->at.uid,
				.name = x->at.name,
				.ns = x->at.ns,
				.sa = x->sa,
				.netns_fd = x->netns_fd,
				.listeners = x->custody.held ? x->custody.fds : NULL};
	return ZDS_POD_ADD;
}

/* Answers of a snapshot: they finish what was pending. */
static void zds_acked(void *ctx, const char *uid, const char *error)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);

	if (x == NULL || !x->wanted || x->add.peer != NULL || x->netns_fd < 0)
		return;
	if (error[0] == '\0' && x->state == ENROL_PENDING)
		enrolled(x, "ztunnel took the pod with its snapshot");
	else if (error[0] != '\0')
		retry_later(x);
}

static void zds_held(void *ctx, const char *uid, int netns_fd, const int *fds,
		     const uint16_t *ports, size_t n)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);
	struct err err = {0};
	struct netns_id id;

	(void)ports; /* custody_adopt() asks the kernel */
	if (x == NULL || x->custody.held)
		return;
	if (netns_check(netns_fd, &err) < 0 || netns_id_of(netns_fd, &id) < 0 ||
	    !netns_id_eq(id, x->at.id)) {
		log_warn("enrol", "sockets that ztunnel holds are of another namespace " POD_FMT,
			 POD_ARGS(x));
		return;
	}
	if (x->netns_fd < 0)
		x->netns_fd = fd_dup(netns_fd);
	if (x->netns_fd < 0 ||
	    custody_adopt(&x->custody, x->at.uid, x->netns_fd, id, fds, n, &err) < 0) {
		log_warn("enrol", "sockets that ztunnel holds are refused " POD_FMT ": %s",
			 POD_ARGS(x), err.msg);
		return;
	}
	x->await_held = false;
	log_info("enrol", "sockets came back from ztunnel " POD_FMT, POD_ARGS(x));
}

static void zds_peers_changed(void *ctx)
{
	struct enrol *e = ctx;

	if (zds_server_version(e->zds) == 0)
		return;
	/* what the peer holds has been read: nothing more comes back */
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		x->await_held = false;
		if (x->state == ENROL_FAILED || (x->state == ENROL_PENDING && !x->rules))
			again(x); /* the others are in its snapshot */
	}
}

const struct zds_ops enrol_zds_ops = {
	.each = zds_each,
	.describe = zds_describe,
	.acked = zds_acked,
	.held = zds_held,
	.peers_changed = zds_peers_changed,
};

/* --- life --- */

static bool keep_probe(void *ctx, const struct ip_addr *ip, struct str uid)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (!x->probes || !str_eqc(uid, x->at.uid))
			continue;
		for (size_t i = 0; i < x->at.nips; i++)
			if (ip_eq(&x->at.ips[i], ip))
				return true;
	}
	return false;
}

static void on_prune(struct timer *t)
{
	struct enrol *e = container_of(t, struct enrol, prune);

	/* a pod that still waits for its turn may own an entry */
	list_for_each (n, &e->all)
		if (container_of(n, struct enrolment, node)->state == ENROL_PENDING) {
			loop_timer_set(e->loop, t, PRUNE_AFTER_MS, on_prune);
			return;
		}
	probes_prune(e->probes, keep_probe, e);
}

static void on_kubelet_found(void *ctx)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);
		struct err err = {0};

		if (x->state == ENROL_ENROLLED &&
		    probes_set(e->probes, x->at.ips, x->at.nips, x->at.uid, &err) < 0)
			log_warn("enrol", POD_FMT ": %s", POD_ARGS(x), err.msg);
	}
	if (e->started)
		loop_timer_set(e->loop, &e->prune, PRUNE_AFTER_MS, on_prune);
}

static void on_held_limit(struct timer *t)
{
	struct enrol *e = container_of(t, struct enrol, held_limit);

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (!x->await_held)
			continue;
		x->await_held = false;
		again(x);
	}
}

struct enrol *enrol_new(struct loop *l, const struct config *cfg, const struct pods *pods,
			const struct source *src, struct err *err)
{
	struct enrol *e = xcalloc(1, sizeof(*e));

	e->loop = l;
	e->cfg = cfg;
	e->pods = pods;
	e->src = src;
	list_init(&e->all);
	e->journal = xasprintf("%s/attachments", cfg->run_dir);
	if (netns_check_init(err) < 0 || dir_make(e->journal, 0700, err) < 0)
		return enrol_free(e);
	e->probes = probes_new(l, cfg, on_kubelet_found, e, err);
	if (e->probes == NULL)
		return enrol_free(e);
	return e;
}

struct enrol *enrol_free(struct enrol *e)
{
	if (e == NULL)
		return NULL;
	while (!list_empty(&e->all))
		enrolment_drop(container_of(e->all.next, struct enrolment, node), true);
	loop_timer_cancel(&e->scan);
	loop_timer_cancel(&e->held_limit);
	loop_timer_cancel(&e->prune);
	(void)probes_free(e->probes);
	free(e->journal);
	free(e);
	return NULL;
}

void enrol_set_zds(struct enrol *e, struct zds_server *s)
{
	e->zds = s;
}

void enrol_start(struct enrol *e)
{
	if (e->started)
		return;
	discover_restore(e);
	e->started = true;
	list_for_each_safe (n, &e->all)
		again(container_of(n, struct enrolment, node));
	loop_timer_set(e->loop, &e->held_limit, HELD_WAIT_MS, on_held_limit);
	loop_timer_set(e->loop, &e->prune, PRUNE_AFTER_MS, on_prune);
	discover_scan_soon(e);
}

bool enrol_ready(const struct enrol *e, char *reason)
{
	if (!e->started) {
		(void)snprintf(reason, ERR_MSG_MAX, "%s has not been read yet", e->src->where);
		return false;
	}
	if (!ztunnel_usable(e)) {
		(void)snprintf(reason, ERR_MSG_MAX, "no ztunnel is connected to %s",
			       e->cfg->ztunnel_sock);
		return false;
	}
	reason[0] = '\0';
	return true;
}

size_t enrol_count(const struct enrol *e, size_t *ret_enrolled)
{
	size_t all = 0;

	*ret_enrolled = 0;
	list_for_each (n, &e->all) {
		all++;
		*ret_enrolled += container_of(n, struct enrolment, node)->state == ENROL_ENROLLED;
	}
	return all;
}
