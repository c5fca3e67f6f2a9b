/* SPDX-License-Identifier: Apache-2.0
 * enrol.c: the list of sandboxes, what is decided about each, start and stop. The steps are in
 * transaction.c, ADD in add.c, DEL and GC in release.c, CHECK and status in report.c.
 */
#include "node-agent/enrol/enrol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/enrol/probes.h"
#include "node-agent/source/source.h"

#define HELD_WAIT_MS   20000 /* a stock ztunnel's longest pause before it connects again is 15 s */
#define OPEN_AGAIN_MS  1000
#define FORMER_LOOK_MS 1000
#define TURN_MS	       20   /* one iteration of the loop may take about this long */
#define PRUNE_AFTER_MS 5000 /* every pod has been looked at by then */

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

enum eligibility enrolment_decide(const struct enrolment *x, const struct pod *p, char *reason)
{
	const struct pod_namespace *ns = pods_namespace(x->owner->pods, x->at.ns);

	if (p != NULL && p->uid != NULL && x->at.uid[0] != '\0' &&
	    !pod_has_uid(p, x->at.uid, false)) {
		(void)snprintf(reason, ELIGIBILITY_REASON_MAX,
			       "the pod has uid %s in %s and %s at the runtime", p->uid,
			       x->owner->src->where, x->at.uid);
		return ELIGIBLE_UNKNOWN;
	}
	return eligibility_of(p, ns, x->owner->cfg, reason);
}

/* The source has no such pod any more; its sandbox may still run. Nothing of it may leave in the
 * clear, so rules that are in place stay until the runtime deletes the sandbox. */
static void pod_vanished(struct enrolment *x)
{
	const struct source *src = x->owner->src;
	struct err err = {0};

	/* a pod that this process never saw may be in a file that cannot be read: wait for it */
	if (!x->seen && src->error(src->impl)[0] != '\0') {
		(void)snprintf(x->reason, sizeof(x->reason), "the pod is not known while %s",
			       src->error(src->impl));
		enrolment_retry(x);
		return;
	}
	if (x->by_runtime && !x->wanted && !x->custody.held && !enrolment_drains(x) &&
	    x->state != ENROL_NEW && x->state != ENROL_QUARANTINED)
		return;
	if (x->rules)
		log_info("enrol", "released, rules stay until the sandbox is deleted " ENROL_POD,
			 ENROL_ARGS(x));
	if (enrolment_leave(x, false, true, &err) < 0)
		log_error("enrol", "release " ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
	if (!x->by_runtime) { /* nobody will send a DEL for it; its rules die with the namespace */
		enrolment_drop(x, false);
		return;
	}
	x->state = x->rules ? ENROL_FAILED : ENROL_NOT_IN_MESH;
	(void)snprintf(x->reason, sizeof(x->reason), "the pod is not in %s any more%s", src->where,
		       x->rules ? "; its rules stay until its sandbox is deleted" : "");
}

static bool is_former(const struct enrol *e)
{
	return e->src->former != NULL && e->src->former(e->src->impl);
}

static void on_former(struct timer *t)
{
	struct enrol *e = container_of(t, struct enrol, former);

	if (is_former(e)) {
		loop_timer_set(e->loop, t, FORMER_LOOK_MS, on_former);
		return;
	}
	list_for_each (n, &e->all)
		enrolment_again(container_of(n, struct enrolment, node));
}

/* The picture of the last life says that a captured pod is not in the mesh. The rules may be newer
 * than the picture (it is written later, or was not written at all), so they are believed: nobody
 * is let out of the mesh until the source itself has spoken. */
static void stay_in(struct enrolment *x, const struct pod *p, const char *reason)
{
	struct enrol *e = x->owner;
	char text[ERR_MSG_MAX];

	if (!timer_armed(&e->former))
		loop_timer_set(e->loop, &e->former, FORMER_LOOK_MS, on_former);
	(void)snprintf(text, sizeof(text),
		       "stays in the mesh until %.200s has been read; before: %.200s",
		       e->src->where, reason);
	log_limited(LOG_LV_WARN, "enrol", ENROL_POD " %s", ENROL_ARGS(x), text);
	if (!x->at.quarantined) {
		enrolment_go_in(x, p, text);
		return;
	}
	x->state = ENROL_QUARANTINED;
	(void)snprintf(x->reason, sizeof(x->reason), "%s", text);
}

void enrolment_reconcile(struct enrolment *x)
{
	const struct pod *p = pods_find(x->owner->pods, x->at.ns, x->at.name);
	char reason[ELIGIBILITY_REASON_MAX] = "";

	loop_timer_cancel(&x->retry);
	x->seen = x->seen || p != NULL;
	if (x->at.quarantined && enrolment_netns_gone(x)) {
		discover_scan_soon(x->owner); /* another of its processes may go on */
		enrolment_drop(x, false);
		return;
	}
	switch (enrolment_decide(x, p, reason)) {
	case ELIGIBLE_YES:
		enrolment_go_in(x, p, reason);
		return;
	case ELIGIBLE_NO:
		if (x->rules && is_former(x->owner))
			stay_in(x, p, reason);
		else
			enrolment_go_out(x, reason);
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
	/* a namespace's label may concern hundreds: between them others get their turn */
	if (clock_mono_ms() - loop_now_ms(x->owner->loop) > TURN_MS) {
		loop_ready(x->owner->loop, r);
		return;
	}
	x->backoff_ms = 0;
	enrolment_reconcile(x);
}

void enrolment_again(struct enrolment *x)
{
	x->again.fn = on_again;
	loop_ready(x->owner->loop, &x->again);
}

void enrol_pod_changed(struct enrol *e, const char *ns, const char *name)
{
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (strcmp(x->at.ns, ns) == 0 && strcmp(x->at.name, name) == 0)
			enrolment_again(x);
	}
	if (e->started) /* also a known one: its sandbox may be another by now */
		discover_scan_soon(e);
}

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
	enrol_prune_vault(e);
}

static void on_kubelet_found(void *ctx)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);
		struct err err = {0};

		if (x->state == ENROL_ENROLLED &&
		    probes_set(e->probes, x->at.ips, x->at.nips, x->at.uid, &err) < 0)
			log_warn("enrol", ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
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
		enrolment_again(x);
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
	e->vault = vault_new(l);
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
	loop_timer_cancel(&e->open_zds);
	loop_timer_cancel(&e->former);
	loop_ready_cancel(&e->prune_vault);
	(void)vault_free(e->vault);
	(void)probes_free(e->probes);
	free(e->journal);
	free(e);
	return NULL;
}

void enrol_set_zds(struct enrol *e, struct zds_server *s)
{
	e->zds = s;
}

static void open_zds(struct enrol *e);

static void on_open_zds(struct timer *t)
{
	open_zds(container_of(t, struct enrol, open_zds));
}

/* Without it no ztunnel ever comes, and every pod waits for one. */
static void open_zds(struct enrol *e)
{
	struct err err = {0};

	if (zds_server_open(e->zds, &err) == 0)
		return;
	log_error("enrol", "%s; tried again in %d ms", err.msg, OPEN_AGAIN_MS);
	loop_timer_set(e->loop, &e->open_zds, OPEN_AGAIN_MS, on_open_zds);
}

void enrol_start(struct enrol *e)
{
	if (e->started)
		return;
	discover_restore(e);
	e->started = true;
	list_for_each_safe (n, &e->all)
		enrolment_again(container_of(n, struct enrolment, node));
	loop_timer_set(e->loop, &e->held_limit, HELD_WAIT_MS, on_held_limit);
	loop_timer_set(e->loop, &e->prune, PRUNE_AFTER_MS, on_prune);
	discover_scan_soon(e);
	open_zds(e);
}

bool enrol_started(const struct enrol *e, char *reason)
{
	reason[0] = '\0';
	if (!e->started)
		(void)snprintf(reason, ERR_MSG_MAX, "%s has not been read yet", e->src->where);
	return e->started;
}

bool enrol_ready(const struct enrol *e, char *reason)
{
	if (!enrol_started(e, reason))
		return false;
	if (!enrol_ztunnel_usable(e)) {
		(void)snprintf(reason, ERR_MSG_MAX, "no ztunnel is connected to %s",
			       e->cfg->ztunnel_sock);
		return false;
	}
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
