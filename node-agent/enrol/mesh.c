/* SPDX-License-Identifier: Apache-2.0
 * mesh.c: what others may say about a pod: in the mesh, not in it, or better nothing.
 */
#include "node-agent/enrol/enrol_internal.h"

enum enrol_mesh enrol_pod_mesh(struct enrol *e, const struct pod *p)
{
	struct enrolment *x = p->uid != NULL ? enrolment_find_uid(e, pod_runtime_uid(p)) : NULL;
	char reason[ELIGIBILITY_REASON_MAX];

	if (x != NULL && x->state == ENROL_ENROLLED)
		return ENROL_MESH_IN;
	if (x != NULL && timer_armed(&x->drain))
		return ENROL_MESH_OUT; /* peers must hear it while HBONE is still served */
	if (x != NULL)
		return x->state == ENROL_NOT_IN_MESH ? ENROL_MESH_OUT : ENROL_MESH_UNSURE;
	/* no sandbox that we know: it may be found yet, unless the pod must not be in anyway */
	if (e->started &&
	    eligibility_of(p, pods_namespace(e->pods, p->ns), e->cfg, reason) == ELIGIBLE_NO)
		return ENROL_MESH_OUT;
	return ENROL_MESH_UNSURE;
}

void enrol_set_observer(struct enrol *e, void (*fn)(void *, const char *, const char *), void *ctx)
{
	e->observer = fn;
	e->observer_ctx = ctx;
}

void enrolment_tell(const struct enrolment *x)
{
	if (x->owner->observer != NULL)
		x->owner->observer(x->owner->observer_ctx, x->at.ns, x->at.name);
}
