/* SPDX-License-Identifier: Apache-2.0
 * quarantine.c: a pod that runs, belongs into the mesh and cannot be brought into it.
 *
 * It came up without our plugin: restored by its runtime, or created while the plugin was not in
 * the chain. What cannot be done properly (its namespace is not proven to be its own, a step
 * fails) must not mean that it talks in the clear. So the rules go in alone: with nobody behind
 * the ports they lead to, its TCP is refused in both directions. No ztunnel hears of it, so it has
 * no identity. The reason is in the status, and the steps are tried again.
 *
 * Only where the mesh was promised: the pod was found without a sandbox of ours, or the API says
 * that it is in. A pod that is only labelled while it runs keeps what it has when a step fails.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/log.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/fault.h"
#include "node-agent/enrol/journal.h"
#include "node-agent/source/pods.h"
#include "node-agent/view.h"

bool enrolment_was_in(const struct pod *p)
{
	return p != NULL && p->redirection != NULL && strcmp(p->redirection, "enabled") == 0;
}

bool enrolment_netns_gone(const struct enrolment *x)
{
	_cleanup_free_ char *path = view_path(x->at.netns_path);
	struct stat st;

	return stat(path, &st) < 0 ||
	       !netns_id_eq((struct netns_id){.dev = st.st_dev, .ino = st.st_ino}, x->at.id);
}

void enrolment_quarantine(struct enrolment *x, const char *why)
{
	struct nft_pod_opts o = {.dns_capture = x->owner->cfg->dns_capture,
				 .probe_v4 = x->owner->cfg->probe_v4,
				 .probe_v6 = x->owner->cfg->probe_v6};
	bool news = !x->at.quarantined;
	struct err err = {0};
	int r;

	x->wanted = false; /* no ztunnel may be told */
	x->at.quarantined = true;
	if (news && journal_write(x->owner->journal, &x->at, &err) < 0)
		log_warn("enrol", "quarantine of " ENROL_POD " is not in the journal: %s",
			 ENROL_ARGS(x), err.msg);
	/* also where rules may be there already: the step that puts them in may be what failed */
	x->opts = o;
	x->rules = true;
	if (fault_in("quarantine") < 0)
		r = err_set(&err, EIO, "fault");
	else
		r = nft_pod_apply(x->netns_fd, &o, &err);
	if (r < 0) {
		log_error("enrol", "cannot quarantine " ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
		x->state = ENROL_FAILED;
		(void)snprintf(x->reason, sizeof(x->reason),
			       "not in the mesh and perhaps not in quarantine: %.200s; %.200s", why,
			       err.msg);
		enrolment_retry(x);
		return;
	}
	x->applied = true;
	custody_close(&x->custody, x->at.uid); /* refused, not kept waiting */
	if (news)
		log_warn("enrol", "quarantined " ENROL_POD " netns=%s reason=\"%s\"", ENROL_ARGS(x),
			 x->at.netns_path, why);
	x->state = ENROL_QUARANTINED;
	(void)snprintf(x->reason, sizeof(x->reason), "%.480s", why);
	enrolment_retry(x);
}

void enrolment_unquarantine(struct enrolment *x)
{
	struct err err = {0};

	if (!x->at.quarantined)
		return;
	x->at.quarantined = false;
	if (journal_write(x->owner->journal, &x->at, &err) < 0)
		log_warn("enrol",
			 "the end of the quarantine of " ENROL_POD " is not in the journal: %s",
			 ENROL_ARGS(x), err.msg);
}
