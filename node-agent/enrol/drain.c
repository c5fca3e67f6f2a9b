/* SPDX-License-Identifier: Apache-2.0
 * drain.c: the way out of the mesh of a pod that goes on running.
 *
 * Theory of operation. What the mesh carries for a pod lives by the rules' address translation and
 * by ztunnel. And peers send HBONE for as long as they have not heard that the pod left. So:
 *
 *   lingering  New connections are not captured any more and the API says so; ztunnel goes on
 *              serving the pod: what it carries, and what peers still send to it. For LINGER_MS at
 *              least, then until the last connection has ended, or the configured limit.
 *   ending     ztunnel and the accept queues let go. If the rules went before the last socket, an
 *              application that was cut would send on, to the peer itself and in the clear.
 *   then       the rules go (enrolment_reconcile).
 *
 * A ztunnel that has not come to this agent yet (both were restarted, or the agent alone) serves
 * the pod all the same. It cuts what it carries when our first snapshot does not name the pod; so
 * the rules wait for the last socket then too, until the limit.
 */
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "lib/os/clock.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/probes.h"

#define TURN_MS	       20   /* one iteration of the loop may take about this long */
#define LINGER_MS      3000 /* what peers need to hear of a change, and a little more */
#define LINGER_LOOK_MS 500  /* a look walks all sockets of the machine */
#define DRAIN_LOOK_MS  20
#define END_MS	       2000 /* ztunnel closes in milliseconds, a busy machine less so */

/* A look walks all sockets of the machine, milliseconds of it, and 100 pods may leave at once:
 * others have their turn in between. */
static bool put_off(struct enrolment *x, void (*look)(struct timer *))
{
	if (clock_mono_ms() - loop_now_ms(x->owner->loop) < TURN_MS)
		return false;
	loop_timer_set(x->owner->loop, &x->drain, LOOP_TICK_MS, look);
	return true;
}

static void on_look(struct timer *t)
{
	struct enrolment *x = container_of(t, struct enrolment, drain);
	size_t left = 0, apps;
	struct err err = {0};

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (put_off(x, on_look))
		return;
	if (nft_pod_carried(x->netns_fd, &left, &apps, &err) < 0)
		log_warn("enrol", "the end of " ENROL_POD " is not waited for: %s", ENROL_ARGS(x),
			 err.msg);
	else if (left != 0 && loop_now_ms(x->owner->loop) - x->drain_since < x->drain_limit_ms) {
		loop_timer_set(x->owner->loop, t, DRAIN_LOOK_MS, on_look);
		return;
	} else if (left != 0)
		log_warn("enrol", "%zu connections did not end with " ENROL_POD, left,
			 ENROL_ARGS(x));
	x->drained = true;
	enrolment_reconcile(x);
}

/* The second part: the rules wait for the last socket, but not longer than @limit_ms. */
static void wait_for_end(struct enrolment *x, uint64_t limit_ms)
{
	x->drain_since = loop_now_ms(x->owner->loop);
	x->drain_limit_ms = limit_ms;
	loop_timer_set(x->owner->loop, &x->drain, DRAIN_LOOK_MS, on_look);
}

static void end_service(struct enrolment *x)
{
	x->lingering = false;
	zds_server_add_cancel(&x->add);
	zds_server_del(x->owner->zds, x->at.uid);
	x->announced = false;
	custody_close(&x->custody, x->at.uid);
	wait_for_end(x, END_MS);
}

static void on_linger(struct timer *t)
{
	struct enrolment *x = container_of(t, struct enrolment, drain);
	uint64_t limit = x->owner->cfg->release_limit_ms;
	uint64_t now = loop_now_ms(x->owner->loop);
	size_t all, apps = 0;
	struct err err = {0};

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (put_off(x, on_linger))
		return;
	if (nft_pod_carried(x->netns_fd, &all, &apps, &err) < 0)
		log_warn("enrol", "connections of " ENROL_POD " are not waited for: %s",
			 ENROL_ARGS(x), err.msg);
	if (apps != 0 && now - x->drain_since < limit) {
		loop_timer_set(x->owner->loop, t, LINGER_LOOK_MS, on_linger);
		return;
	}
	if (apps != 0)
		log_warn("enrol",
			 "%zu connections through the mesh are cut after %llu ms " ENROL_POD, apps,
			 (unsigned long long)(now - x->drain_since), ENROL_ARGS(x));
	end_service(x);
}

static bool carries(const struct enrolment *x)
{
	size_t all, apps;

	return nft_pod_carried(x->netns_fd, &all, &apps, NULL) == 0 && all != 0;
}

bool enrolment_drains(const struct enrolment *x)
{
	return timer_armed(&x->drain) || x->drained;
}

bool enrolment_drain(struct enrolment *x)
{
	uint64_t limit = x->owner->cfg->release_limit_ms;
	struct err err = {0};

	if (timer_armed(&x->drain))
		return true;
	if (!x->rules || x->drained || enrolment_open_netns(x, &err) < 0 ||
	    (!x->announced && !carries(x)) || nft_pod_release(x->netns_fd, &err) < 0)
		return false; /* nothing to wait for, or the removal will say what is wrong */
	x->passing = true;
	x->wanted = false;
	if (x->probes)
		probes_clear(x->owner->probes, x->at.ips, x->at.nips, x->at.uid);
	x->probes = false;
	x->state = ENROL_PENDING;
	(void)snprintf(x->reason, sizeof(x->reason),
		       "leaves the mesh: its connections through it end");
	if (x->announced) {
		x->lingering = true;
		x->drain_since = loop_now_ms(x->owner->loop);
		loop_timer_set(x->owner->loop, &x->drain, limit < LINGER_MS ? limit : LINGER_MS,
			       on_linger);
	} else {
		custody_close(&x->custody, x->at.uid);
		wait_for_end(x, limit > END_MS ? limit : END_MS);
	}
	enrolment_tell(x);
	return true;
}
