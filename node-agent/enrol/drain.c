/* SPDX-License-Identifier: Apache-2.0
 * drain.c: the pause of a pod that leaves the mesh while it runs.
 *
 * What the mesh carries for a pod lives by the rules' address translation. If they went first, the
 * application would not hear that its connections ended: it would send on, to the peer itself and
 * in the clear, and wait for answers until its own patience ends. So capture stops first, ztunnel
 * and the accept queues let go, and the rules follow when the last connection has ended, or after a
 * limit.
 */
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "nft/nft.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/probes.h"

#define DRAIN_LOOK_MS 20
#define DRAIN_LOOKS   100 /* two seconds: ztunnel closes in milliseconds, a busy machine less so */

static void on_look(struct timer *t)
{
	struct enrolment *x = container_of(t, struct enrolment, drain);
	size_t left = 0;
	struct err err = {0};

	OBJ_CHECK(x, ENROLMENT_MAGIC);
	if (nft_pod_carried(x->netns_fd, &left, &err) < 0)
		log_warn("enrol", "the end of " ENROL_POD " is not waited for: %s", ENROL_ARGS(x),
			 err.msg);
	else if (left != 0 && x->drain_looks++ < DRAIN_LOOKS) {
		loop_timer_set(x->owner->loop, t, DRAIN_LOOK_MS, on_look);
		return;
	} else if (left != 0)
		log_warn("enrol", "%zu connections did not end with " ENROL_POD, left,
			 ENROL_ARGS(x));
	enrolment_reconcile(x);
}

bool enrolment_drain(struct enrolment *x)
{
	struct err err = {0};

	if (timer_armed(&x->drain))
		return true;
	if (!x->rules || !x->announced || enrolment_open_netns(x, &err) < 0 ||
	    nft_pod_release(x->netns_fd, &err) < 0)
		return false; /* nothing to wait for, or the removal will say what is wrong */
	x->wanted = false;
	if (x->probes)
		probes_clear(x->owner->probes, x->at.ips, x->at.nips, x->at.uid);
	x->probes = false;
	zds_server_add_cancel(&x->add);
	zds_server_del(x->owner->zds, x->at.uid);
	x->announced = false;
	custody_close(&x->custody, x->at.uid);
	x->state = ENROL_PENDING;
	(void)snprintf(x->reason, sizeof(x->reason), "its connections through the mesh end");
	x->drain_looks = 0;
	loop_timer_set(x->owner->loop, &x->drain, DRAIN_LOOK_MS, on_look);
	return true;
}
