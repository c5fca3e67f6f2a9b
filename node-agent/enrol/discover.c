/* SPDX-License-Identifier: Apache-2.0
 * discover.c: finds sandboxes that nobody told this process about.
 *
 * After a restart: the journal names every sandbox, the service manager's descriptor store may have
 * kept sockets and namespace, and the namespace itself says whether rules are in it. For pods that
 * were there before the plugin was: a scan of /proc (cni-spec 3.10), which believes a process only
 * if its namespace carries one of the pod's addresses.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "node-agent/enrol/cgroup.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/journal.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/view.h"

#define SCAN_SOON_MS  50
#define SCAN_MAX_MS   30000
#define PROC_FILE_MAX 65536

/* The namespace by its path, else what the store kept, if it is still the one in the journal. */
static int find_netns(struct enrolment *x, struct custody_stored *s, struct err *err)
{
	struct netns_id id;
	int r = enrolment_open_netns(x, err);

	if (r == 0 || s == NULL || s->netns_fd < 0)
		return r;
	if (netns_id_of(s->netns_fd, &id) < 0 || !netns_id_eq(id, x->at.id))
		return r;
	x->netns_fd = fd_dup(s->netns_fd);
	return x->netns_fd < 0 ? x->netns_fd : 0;
}

/* What the store kept: the listening sockets and, behind them, the DNS proxy's. */
static int adopt_stored(struct enrolment *x, const struct custody_stored *s, struct err *err)
{
	int fds[MESH_SOCKETS_N];
	size_t n = MESH_L_N;

	memcpy(fds, s->fds, sizeof(s->fds));
	for (int i = 0; i < MESH_DNS_N; i++)
		if (s->dns[i] >= 0)
			fds[n++] = s->dns[i];
	return custody_adopt(&x->custody, x->at.uid, x->netns_fd, x->at.id, fds, n, err);
}

static void restore_one(void *ctx, const struct attachment *at)
{
	struct enrol *e = ctx;
	struct custody_stored *s = at->uid[0] != '\0' ? custody_stored_find(at->uid) : NULL;
	struct enrolment *x;
	struct err err = {0};
	int r;

	if (enrolment_find(e, at->container_id, "") != NULL)
		return; /* an ADD was faster: its journal entry is the new one */
	x = enrolment_new(e, at);
	x->by_runtime = !attachment_is_ours(at->container_id);
	r = find_netns(x, s, &err);
	if (r < 0) {
		log_info("discover", "sandbox is gone pod=%s/%s uid=%s container=%s: %s", at->ns,
			 at->name, at->uid, at->container_id, err.msg);
		enrolment_drop(x, false);
		return;
	}
	if (nft_pod_present(x->netns_fd, &x->rules, &err) < 0) {
		log_warn("discover", "pod=%s/%s: %s", at->ns, at->name, err.msg);
		x->rules = true; /* assume the worst: removal and repair both cope with none */
	} else {
		x->applied = x->rules;
	}
	if (s != NULL && adopt_stored(x, s, &err) == 0)
		s->adopted = true;
	x->wanted = x->rules && !at->quarantined; /* until the source says otherwise */
	x->await_held = x->wanted && !x->custody.held;
	log_info("discover", "sandbox found pod=%s/%s uid=%s container=%s rules=%s custody=%s",
		 at->ns, at->name, at->uid, at->container_id, x->rules ? "yes" : "no",
		 x->custody.held ? "kept" : "no");
	if (!x->rules && !x->custody.held)
		x->netns_fd = xclose(x->netns_fd);
}

void discover_restore(struct enrol *e)
{
	struct err err = {0};

	if (journal_load(e->journal, restore_one, e, &err) < 0)
		log_error("discover", "%s", err.msg);
	custody_stored_release();
}

/* --- /proc --- */

struct wanted_pod {
	const struct pod *pod;
	struct candidate { /* a namespace in which one of the pod's processes lives */
		int netns_fd;
		struct netns_id id;
		uint64_t start_time;
		char path[64];
	} proven, suspect; /* with one of the pod's addresses, without */
	struct err why;	   /* the suspect is not proven */
};

struct scan {
	struct enrol *e;
	struct wanted_pod *want;
	size_t n, cap;
};

static bool has_sandbox(struct enrol *e, const struct pod *p)
{
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (strcmp(x->at.ns, p->ns) == 0 && strcmp(x->at.name, p->name) == 0 &&
		    (!list_empty(&x->waiters) || !enrolment_netns_gone(x)))
			return true;
	}
	return false;
}

static void collect(void *ctx, const struct pod *p)
{
	char reason[ELIGIBILITY_REASON_MAX];
	struct scan *s = ctx;

	if (p->uid == NULL || has_sandbox(s->e, p) ||
	    eligibility_of(p, pods_namespace(s->e->pods, p->ns), s->e->cfg, reason) != ELIGIBLE_YES)
		return;
	if (s->n == s->cap) {
		s->cap = s->cap != 0 ? s->cap * 2 : 8;
		s->want = xrealloc_array(s->want, s->cap, sizeof(*s->want));
	}
	s->want[s->n++] =
		(struct wanted_pod){.pod = p, .proven.netns_fd = -1, .suspect.netns_fd = -1};
}

static bool read_uid(const char *pid, char uid[CGROUP_UID_LEN + 1])
{
	_cleanup_free_ char *path = xasprintf("%s/proc/%s/cgroup", view_root(), pid), *text = NULL;
	size_t n;

	return file_read(path, PROC_FILE_MAX, &text, &n, NULL) == 0 &&
	       cgroup_pod_uid((struct str){text, n}, uid) == 0;
}

static uint64_t read_start_time(const char *pid)
{
	_cleanup_free_ char *path = xasprintf("%s/proc/%s/stat", view_root(), pid), *text = NULL;
	uint64_t t = UINT64_MAX;
	size_t n;

	if (file_read(path, PROC_FILE_MAX, &text, &n, NULL) == 0 &&
	    cgroup_start_time((struct str){text, n}, &t) < 0)
		t = UINT64_MAX;
	return t;
}

/* @pid's cgroup names @w. */
static void weigh(struct wanted_pod *w, const char *pid)
{
	struct candidate *c;
	struct netns_id id;
	struct err err = {0};
	char path[64];
	uint64_t start;
	int fd, r;

	(void)snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	fd = netns_check_open(path, &id, &err);
	if (fd < 0)
		return;
	start = read_start_time(pid);
	r = w->pod->nips == 0 ? err_set(&err, EINVAL, "the pod's address is not known yet")
			      : netns_check_addresses(fd, w->pod->ips, w->pod->nips, &err);
	/* who names a process by an annotation, which anybody may write, must prove it */
	if (r < 0 && w->pod->runtime_uid != NULL) {
		(void)xclose(fd);
		return;
	}
	c = r == 0 ? &w->proven : &w->suspect;
	if (r < 0)
		w->why = err;
	if (c->netns_fd >= 0 && start >= c->start_time) {
		(void)xclose(fd);
		return;
	}
	(void)xclose(c->netns_fd);
	*c = (struct candidate){.netns_fd = fd, .id = id, .start_time = start};
	memcpy(c->path, path, sizeof(path));
}

static void look_at_process(struct scan *s, const char *pid)
{
	char uid[CGROUP_UID_LEN + 1];

	if (!read_uid(pid, uid))
		return;
	for (size_t i = 0; i < s->n; i++)
		if (pod_has_uid(s->want[i].pod, uid, true))
			weigh(&s->want[i], pid);
}

/* It is in a sandbox that we know: of this pod, whose path went, or of another, which a process of
 * this one has entered. */
static bool is_known(struct enrol *e, struct netns_id id)
{
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (netns_id_eq(x->at.id, id) && (x->netns_fd >= 0 || !enrolment_netns_gone(x)))
			return true;
	}
	return false;
}

/* What was known of the pod is of a sandbox that is gone. */
static void forget_former(struct enrol *e, const struct pod *p)
{
	list_for_each_safe (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);
		struct err err = {0};

		if (strcmp(x->at.ns, p->ns) != 0 || strcmp(x->at.name, p->name) != 0)
			continue;
		log_info("discover", "former sandbox is gone " ENROL_POD " container=%s",
			 ENROL_ARGS(x), x->at.container_id);
		if (enrolment_leave(x, false, true, &err) < 0)
			log_warn("discover", "%s", err.msg);
		enrolment_drop(x, false);
	}
}

static void adopt_found(struct enrol *e, struct wanted_pod *w, struct candidate *c)
{
	struct attachment at = {.netns_path = c->path,
				.id = c->id,
				.name = w->pod->name,
				.ns = w->pod->ns,
				.nips = w->pod->nips};
	struct enrolment *x;

	(void)snprintf(at.container_id, sizeof(at.container_id), "scan-%s",
		       pod_runtime_uid(w->pod));
	(void)snprintf(at.uid, sizeof(at.uid), "%s", pod_runtime_uid(w->pod));
	memcpy(at.ips, w->pod->ips, sizeof(at.ips));
	forget_former(e, w->pod);
	x = enrolment_new(e, &at);
	x->by_runtime = false;
	x->netns_fd = take_fd(c->netns_fd);
	log_info("discover", "running pod found pod=%s/%s uid=%s netns=%s", at.ns, at.name, at.uid,
		 at.netns_path);
	if (c == &w->suspect)
		enrolment_quarantine(x, w->why.msg);
	else
		enrolment_reconcile(x);
}

static void scan_proc(struct scan *s)
{
	_cleanup_free_ char *proc = view_path("/proc");
	DIR *d = opendir(proc);

	if (d == NULL)
		return;
	for (struct dirent *ent; (ent = readdir(d)) != NULL;)
		if (ent->d_name[0] >= '1' && ent->d_name[0] <= '9')
			look_at_process(s, ent->d_name);
	(void)closedir(d);
}

static void on_scan(struct timer *t)
{
	struct enrol *e = container_of(t, struct enrol, scan);
	struct scan s = {.e = e};
	size_t missing = 0;

	pods_each(e->pods, collect, &s);
	if (s.n != 0)
		scan_proc(&s);
	for (size_t i = 0; i < s.n; i++) {
		struct wanted_pod *w = &s.want[i];

		if (w->proven.netns_fd < 0 && w->suspect.netns_fd < 0)
			missing++;
		else if (w->proven.netns_fd >= 0 && !is_known(e, w->proven.id))
			adopt_found(e, w, &w->proven);
		else if (w->proven.netns_fd < 0 && !is_known(e, w->suspect.id))
			adopt_found(e, w, &w->suspect);
		(void)xclose(w->proven.netns_fd);
		(void)xclose(w->suspect.netns_fd);
	}
	free(s.want);
	if (missing == 0) {
		e->scan_ms = 0;
		return;
	}
	/* most often the pod is only about to be created: its ADD will come */
	e->scan_ms = e->scan_ms == 0 ? 1000 : e->scan_ms * 2;
	if (e->scan_ms > SCAN_MAX_MS)
		e->scan_ms = SCAN_MAX_MS;
	loop_timer_set(e->loop, &e->scan, e->scan_ms, on_scan);
}

void discover_scan_soon(struct enrol *e)
{
	if (timer_armed(&e->scan) && e->scan_ms == 0)
		return; /* due already: changes without end must not put it off */
	e->scan_ms = 0;
	loop_timer_set(e->loop, &e->scan, SCAN_SOON_MS, on_scan);
}
