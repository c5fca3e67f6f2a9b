/* SPDX-License-Identifier: Apache-2.0
 * transaction.c: the transaction that brings a pod into the mesh, and its reverse.
 *
 * Theory of operation. Every known sandbox is an `enrolment`. Whatever happens (an ADD, a label, a
 * restart, ztunnel coming back) only makes reconcile() compare what should be with what has been
 * done:
 *
 *   eligible      netns -> journal -> custody -> rules -> ZDS Add, ack -> probe set -> ENROLLED
 *   not eligible  capture off -> probe set -> ZDS Del -> custody -> connections end (drain.c)
 *                 -> rules -> netns                                          -> NOT_IN_MESH
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
#include "node-agent/enrol/journal.h"
#include "node-agent/enrol/fault.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/enrol/probes.h"

#define RETRY_FIRST_MS 250
#define RETRY_MAX_MS   30000

/* --- the way in --- */

static int step_journal(struct enrolment *x, struct err *err)
{
	int r = fault_in("journal");

	if (r == 0)
		r = journal_write(x->owner->journal, &x->at, err);
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

static int step_custody(struct enrolment *x, bool dns, struct err *err)
{
	int r = fault_in("custody");

	/* sockets that a stock ztunnel does not serve would take part of its connections */
	if (ztunnel_version(x->owner) == ZDS_V1 || x->await_held)
		return 0;
	if (r == 0)
		r = custody_open(&x->custody, x->at.uid, x->netns_fd, dns, err);
	if (r < 0)
		return r;
	fault_after("custody");
	return 0;
}

/* An agent of Istio's in iptables mode may have had the pod before us, or between two lives of
 * ours. Its rules and ours do the same and are there together for a moment; but nobody would ever
 * take them out. */
static int step_clean(struct enrolment *x, struct err *err)
{
	size_t found = 0;
	int r;

	if (x->cleaned || !x->owner->cfg->replace_istio_cni)
		return 0;
	r = nft_foreign_remove(x->netns_fd, false, &found, err);
	if (r < 0)
		return err_wrap(err, "remove the iptables rules of Istio's agent");
	if (found != 0)
		log_info("enrol",
			 "iptables rules of Istio's agent removed " ENROL_POD " tables=%zu",
			 ENROL_ARGS(x), found);
	x->cleaned = true;
	return 0;
}

static int step_rules(struct enrolment *x, const struct nft_pod_opts *o, struct err *err)
{
	struct err clean = {0};
	int r = fault_in("rules");

	x->rules = true; /* from here on something may be there */
	x->opts = *o;
	if (r == 0)
		r = nft_pod_apply(x->netns_fd, o, err);
	if (r < 0)
		return err_wrap(err, "put the rules in place");
	x->applied = true;
	x->passing = false;
	fault_after("rules");
	if (step_clean(x, &clean) < 0) /* tried again before it leaves */
		log_limited(LOG_LV_WARN, "enrol", ENROL_POD " %s", ENROL_ARGS(x), clean.msg);
	return 0;
}

static int local_steps(struct enrolment *x, const struct nft_pod_opts *o, struct err *err)
{
	int r = enrolment_open_netns(x, err);

	/* for a pod that nobody announced, its address is the only witness */
	if (r == 0 && x->at.quarantined && x->at.nips == 0)
		r = err_set(err, EINVAL, "the pod's address is not known yet");
	if (r == 0)
		r = netns_check_addresses(x->netns_fd, x->at.ips, x->at.nips, err);
	if (r == 0)
		r = step_custody(x, o->dns_capture, err);
	if (r == 0)
		r = step_rules(x, o, err);
	if (r == 0 && !o->dns_capture)
		custody_close_dns(&x->custody, x->at.uid, x->netns_fd);
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

bool enrol_ztunnel_usable(const struct enrol *e)
{
	return zds_server_version(e->zds) != 0 || in_grace(e);
}

static void on_retry(struct timer *t)
{
	struct enrolment *x = container_of(t, struct enrolment, retry);

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	enrolment_reconcile(x);
}

void enrolment_retry(struct enrolment *x)
{
	x->backoff_ms = x->backoff_ms == 0 ? RETRY_FIRST_MS : x->backoff_ms * 2;
	if (x->backoff_ms > RETRY_MAX_MS)
		x->backoff_ms = RETRY_MAX_MS;
	loop_timer_set(x->owner->loop, &x->retry, x->backoff_ms, on_retry);
}

/* A step failed. With somebody waiting: everything is undone and they get the error. Else what is
 * there stays, and the steps are tried again. */
void enrolment_failed(struct enrolment *x, unsigned int http, unsigned int code,
		      const struct err *why)
{
	struct enrol_answer a;
	struct err err = {0};

	log_warn("enrol", "cannot enrol " ENROL_POD " netns=%s: %s", ENROL_ARGS(x),
		 x->at.netns_path, why->msg);
	if (!list_empty(&x->waiters)) {
		enrol_answer_error(
			&a, http, code, why->msg,
			"All steps were undone. The runtime may try again; the agent's log and "
			"GET /v1/status say more.");
		if (enrolment_leave(x, true, true, &err) < 0)
			log_error("enrol", "undo " ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
		enrolment_answer(x, &a);
		enrolment_drop(x, false);
		return;
	}
	if (x->netns_fd >= 0 &&
	    (x->at.quarantined ||
	     (!x->applied && enrolment_was_in(pods_find(x->owner->pods, x->at.ns, x->at.name))))) {
		enrolment_quarantine(x, why->msg);
		return;
	}
	x->state = x->applied ? ENROL_PENDING : ENROL_FAILED;
	(void)snprintf(x->reason, sizeof(x->reason), "%s", why->msg);
	enrolment_retry(x);
}

void enrolment_refused(struct enrolment *x, const char *error)
{
	x->state = ENROL_PENDING; /* or the retry would find nothing to do */
	(void)snprintf(x->reason, sizeof(x->reason), "ztunnel: %s", error);
	enrolment_retry(x);
}

static void announce(struct enrolment *x);

static void on_announced(struct zds_add *add, int result, const char *error)
{
	struct enrolment *x = container_of(add, struct enrolment, add);
	bool recheck = x->recheck || x->passing;
	struct err err = {0};

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	x->recheck = false;
	if (!x->wanted)
		return; /* it has begun to leave since ztunnel was asked (drain.c) */
	if (recheck)
		enrolment_again(x);
	if (x->passing)
		return; /* it left and came back: the steps start with the rules */
	if (result == 0) {
		fault_after("zds");
		enrolment_finish(x, x->reason);
		if (x->refused && x->state == ENROL_ENROLLED)
			enrolment_refused(x, "another one refuses the pod");
		return;
	}
	if (result == -ECONNRESET) { /* the ztunnel before it may be there, or the queue waits */
		announce(x);
		return;
	}
	(void)err_set(&err, EAGAIN, "ztunnel: %s", error);
	enrolment_failed(x, 503, CNI_TRY_AGAIN, &err);
}

static void no_ztunnel(struct enrolment *x)
{
	struct err err = {0};

	if (in_grace(x->owner) && x->custody.held) {
		enrolment_finish(x, "ztunnel is away; new connections wait in the kernel's queue");
		return;
	}
	(void)err_set(&err, ENOTCONN, "no ztunnel is connected to %s", x->owner->cfg->ztunnel_sock);
	enrolment_failed(x, 503, CNI_NOT_AVAILABLE, &err);
}

static void announce(struct enrolment *x)
{
	struct err err = {0};

	x->state = ENROL_PENDING;
	x->refused = false;
	if (fault_in("zds") < 0) {
		(void)err_set(&err, EIO, "fault");
		enrolment_failed(x, 503, CNI_TRY_AGAIN, &err);
		return;
	}
	if (zds_server_add(x->owner->zds, &x->add, x->at.uid, on_announced) < 0)
		no_ztunnel(x);
}

/* The last step, and the end. */
void enrolment_finish(struct enrolment *x, const char *reason)
{
	bool acked = zds_server_version(x->owner->zds) != 0;
	struct enrol_answer a;
	struct err err = {0};
	int r = fault_in("probes");

	if (r == 0)
		r = probes_set(x->owner->probes, x->at.ips, x->at.nips, x->at.uid, &err);
	if (r < 0) {
		enrolment_failed(x, 503, CNI_TRY_AGAIN, &err);
		return;
	}
	x->probes = true;
	fault_after("probes");
	if (x->state != ENROL_ENROLLED || !list_empty(&x->waiters))
		log_info("enrol",
			 "enrolled " ENROL_POD " netns=%s inode=%llu custody=%s reason=\"%s\"",
			 ENROL_ARGS(x), x->at.netns_path, (unsigned long long)x->at.id.ino,
			 x->custody.held ? "yes" : "no", reason);
	x->state = acked ? ENROL_ENROLLED : ENROL_PENDING;
	if (reason != x->reason)
		(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	x->backoff_ms = 0;
	loop_timer_cancel(&x->retry);
	if (!acked)
		loop_timer_set(x->owner->loop, &x->retry, RETRY_MAX_MS, on_retry);
	enrol_answer_ok(&a, "enrolled", x->reason);
	enrolment_answer(x, &a);
	enrolment_tell(x);
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

/* What must be known before anything is done: the identity that ztunnel will use. *ret_news is set
 * if the journal does not have it yet. */
static int learn_identity(struct enrolment *x, const struct pod *p, bool *ret_news, struct err *err)
{
	struct attachment *at = &x->at;

	*ret_news = false;
	if (at->uid[0] == '\0' && p->uid != NULL) {
		(void)snprintf(at->uid, sizeof(at->uid), "%s", pod_runtime_uid(p));
		*ret_news = true;
	}
	if (at->uid[0] == '\0')
		return err_set(err, EINVAL,
			       "pod %s/%s has no UID: neither K8S_POD_UID in CNI_ARGS nor "
			       "metadata.uid says it",
			       at->ns, at->name);
	if (at->service_account == NULL || strcmp(at->service_account, p->service_account) != 0) {
		free(at->service_account);
		at->service_account = xstrdup(p->service_account);
		*ret_news = true;
	}
	/* an ADD without addresses (cni-spec 10.5), or a namespace that they do not fit yet */
	if ((at->nips == 0 || at->quarantined) && p->nips != 0) {
		at->nips = p->nips;
		memcpy(at->ips, p->ips, sizeof(at->ips));
		*ret_news = true;
	}
	return 0;
}

/* Queries are led away only to a ztunnel that answers them. Before any ztunnel has come, what is in
 * the pod stays: an agent that starts again must change nothing for the worse. */
static bool may_capture_dns(struct enrolment *x, const struct nft_pod_opts *o)
{
	enum nft_state st = NFT_ABSENT;
	bool served;

	if (zds_server_dns(x->owner->zds, &served))
		return served;
	return enrolment_open_netns(x, NULL) == 0 &&
	       nft_pod_check(x->netns_fd, o, &st, NULL, NULL) == 0 && st == NFT_PRESENT;
}

static void not_prepared(struct enrolment *x, int r, const struct err *why)
{
	x->prepared = false;
	enrolment_failed(x, r == -EINVAL ? 500 : 503, r == -EINVAL ? CNI_FAILED : CNI_TRY_AGAIN,
			 why);
}

void enrolment_go_in(struct enrolment *x, const struct pod *p, const char *reason)
{
	char ignored[ELIGIBILITY_REASON_MAX];
	struct nft_pod_opts o;
	struct err err = {0};
	bool news = false;
	int r;

	x->wanted = true;
	x->lingering = x->drained = false;
	loop_timer_cancel(&x->drain);
	if (x->add.peer != NULL) {
		x->recheck = true; /* ztunnel's answer goes on from here */
		return;
	}
	r = learn_identity(x, p, &news, &err);
	if (r == 0)
		r = eligibility_rules(p, x->owner->cfg, &o, ignored, &err);
	if (r < 0) {
		not_prepared(x, r, &err);
		return;
	}
	x->dns_wanted = o.dns_capture;
	o.dns_capture = o.dns_capture && may_capture_dns(x, &o);
	if (ignored[0] != '\0')
		log_limited(LOG_LV_WARN, "enrol", "annotation ignored " ENROL_POD " %s",
			    ENROL_ARGS(x), ignored);
	if (x->state == ENROL_ENROLLED && !x->passing && list_empty(&x->waiters) && !news &&
	    opts_same(&o, &x->opts))
		return;
	(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	if (!list_empty(&x->waiters) && !enrol_ztunnel_usable(x->owner)) {
		(void)err_set(&err, ENOTCONN, "no ztunnel is connected to %s",
			      x->owner->cfg->ztunnel_sock);
		enrolment_failed(x, 503, CNI_NOT_AVAILABLE, &err);
		return;
	}
	r = step_journal(x, &err);
	if (r == 0)
		r = local_steps(x, &o, &err);
	if (r < 0) {
		not_prepared(x, r, &err);
		return;
	}
	x->prepared = true;
	enrolment_unquarantine(x); /* it is the pod's, and connections find a queue */
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
		x->rules = x->applied = x->passing =
			false; /* the namespace is gone, and they with it */
		return 0;
	}
	if (r == 0)
		r = fault_in("leave-rules");
	if (r == 0)
		r = step_clean(x, err);
	if (r == 0)
		r = nft_pod_remove(x->netns_fd, err);
	if (r < 0)
		return err_wrap(err, "remove the rules");
	x->rules = x->applied = x->passing = false;
	fault_after("leave-rules");
	return 0;
}

int enrolment_leave(struct enrolment *x, bool remove_rules, bool tell, struct err *err)
{
	int r = 0;

	x->wanted = x->lingering = false;
	loop_timer_cancel(&x->drain);
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
	enrol_prune_vault(x->owner);
	x->drained = false;
	return 0;
}

static void free_enrolment(struct deferred *d)
{
	struct enrolment *x = container_of(d, struct enrolment, dead);

	free(x->look.diff);
	free(x);
}

void enrolment_drop(struct enrolment *x, bool keep_journal)
{
	struct enrol_answer a;

	enrol_answer_error(&a, 503, CNI_TRY_AGAIN, "the pod was deleted while it was being added",
			   "");
	enrolment_answer(x, &a);
	if (!keep_journal)
		journal_remove(x->owner->journal, x->at.container_id);
	x->magic = OBJ_DEAD;
	zds_server_add_cancel(&x->add);
	loop_timer_cancel(&x->retry);
	loop_timer_cancel(&x->drain);
	loop_ready_cancel(&x->again);
	list_remove(&x->node);
	custody_forget(&x->custody);
	x->netns_fd = xclose(x->netns_fd);
	attachment_fini(&x->at);
	loop_defer(x->owner->loop, &x->dead, free_enrolment);
}

void enrolment_go_out(struct enrolment *x, const char *reason)
{
	bool was_in = x->rules || x->custody.held;
	struct enrol_answer a;
	struct err err = {0};
	int r = step_journal(x, &err);

	if (r == 0 && enrolment_drain(x)) {
		enrol_answer_ok(&a, "not-in-mesh", reason);
		enrolment_answer(x, &a);
		return;
	}
	if (r == 0)
		r = enrolment_leave(x, true, true, &err);
	if (r < 0) {
		log_warn("enrol", "cannot release " ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
		if (!list_empty(&x->waiters)) {
			enrol_answer_error(&a, 503, CNI_TRY_AGAIN, err.msg, "");
			enrolment_answer(x, &a);
		}
		x->state = ENROL_FAILED;
		(void)snprintf(x->reason, sizeof(x->reason), "%s", err.msg);
		enrolment_retry(x);
		return;
	}
	if (was_in || x->state != ENROL_NOT_IN_MESH)
		log_info("enrol", "%s " ENROL_POD " reason=\"%s\"",
			 was_in ? "released" : "not in the mesh", ENROL_ARGS(x), reason);
	x->state = ENROL_NOT_IN_MESH;
	enrolment_unquarantine(x);
	x->backoff_ms = 0;
	loop_timer_cancel(&x->retry);
	(void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
	enrol_answer_ok(&a, "not-in-mesh", x->reason);
	enrolment_answer(x, &a);
	enrolment_tell(x);
}
