/* SPDX-License-Identifier: Apache-2.0
 * release.c: DEL and GC: the runtime is done with a sandbox. Never fails: a runtime that cannot
 * delete keeps the node busy for nothing, and the namespace dies with what is in it.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/journal.h"
#include "node-agent/view.h"

static void release(struct enrolment *x, const char *why)
{
	struct err err = {0};

	log_info("enrol", "%s pod=%s/%s uid=%s container=%s", why, x->at.ns, x->at.name, x->at.uid,
		 x->at.container_id);
	if (enrolment_leave(x, true, true, &err) < 0) {
		log_warn("enrol", "rules stay in a sandbox that is being deleted pod=%s/%s: %s",
			 x->at.ns, x->at.name, err.msg);
		if (enrolment_leave(x, false, true, &err) < 0)
			log_error("enrol", "%s", err.msg); /* only rules can fail */
	}
	enrolment_drop(x, false);
}

/* An entry without a container ID of the runtime (found by scan, or a stock plugin's). */
static bool is_same_pod(const struct enrolment *x, const struct attachment *req)
{
	if (x->by_runtime)
		return false;
	if (req->uid[0] != '\0' && x->at.uid[0] != '\0')
		return strcmp(x->at.uid, req->uid) == 0;
	return req->name != NULL && req->ns != NULL && req->name[0] != '\0' &&
	       strcmp(x->at.name, req->name) == 0 && strcmp(x->at.ns, req->ns) == 0;
}

void enrol_del(struct enrol *e, const struct attachment *req)
{
	struct enrolment *x = enrolment_find(e, req->container_id, req->ifname);

	if (x != NULL) {
		release(x, "sandbox deleted");
		return;
	}
	if (!e->started) /* not read yet: the entry must not come back to life */
		journal_remove(e->journal, req->container_id);
	list_for_each_safe (n, &e->all) {
		x = container_of(n, struct enrolment, node);
		if (is_same_pod(x, req))
			release(x, "sandbox deleted");
	}
}

static bool is_valid(const struct enrolment *x, const struct enrol_valid *valid, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(valid[i].container_id, x->at.container_id) == 0 &&
		    (valid[i].ifname[0] == '\0' || strcmp(valid[i].ifname, x->at.ifname) == 0))
			return true;
	return false;
}

static bool netns_gone(const struct enrolment *x)
{
	_cleanup_free_ char *path = view_path(x->at.netns_path);
	struct stat st;

	return stat(path, &st) < 0 ? errno == ENOENT
				   : st.st_ino != x->at.id.ino || st.st_dev != x->at.id.dev;
}

void enrol_gc(struct enrol *e, const struct enrol_valid *valid, size_t n)
{
	list_for_each_safe (at, &e->all) {
		struct enrolment *x = container_of(at, struct enrolment, node);

		if (!list_empty(&x->waiters) || is_valid(x, valid, n))
			continue; /* being added right now, or alive */
		if (x->by_runtime || netns_gone(x))
			release(x, "sandbox collected");
	}
}
