/* SPDX-License-Identifier: Apache-2.0
 * state_file.c: see state_file.h.
 *
 * Theory of operation. inotify watches the directory that holds the name and, when that is a
 * symlink, the directory of each further name on the way to the file. Any event there starts a
 * short timer; when it fires, the file's identity (device, inode, size, times) is compared with
 * what was read last, and only a difference leads to a read. The way is walked again each time,
 * since a swapped symlink moves it. A slow periodic look covers what inotify does not see.
 *
 * A file that is written in place is not read before its writer closes it: its first half may well
 * be a complete document without the policies of the second.
 */
#include "ztunnel/control/state_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "ztunnel/mesh/local_state.h"
#include "ztunnel/observe/metrics.h"

#define SETTLE_MS     30
#define LOOK_MS	      10000
#define WRITER_MS     250
#define WRITER_MAX_MS 5000 /* then somebody should know */
#define LINKS_MAX     8
#define DIR_EVENTS                                                                                 \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB |        \
	 IN_DELETE_SELF | IN_MOVE_SELF)

struct state_file {
	struct loop *loop;
	char *path, *node, *error;
	void (*fn)(void *, struct mesh *);
	void *ctx;
	int inotify, wd[LINKS_MAX];
	struct watch watch;
	struct timer settle, look;
	struct stat last;
	bool loaded;
	unsigned int waits; /* for the present writer */
	uint64_t generation;
};

/* Watches the directory of @file under number @i. */
static void watch_dir(struct state_file *s, size_t i, const char *file)
{
	const char *slash = strrchr(file, '/');
	char dir[PATH_MAX];
	int wd;

	(void)snprintf(dir, sizeof(dir), "%.*s", slash == NULL ? 1 : (int)(slash - file),
		       slash == NULL ? "." : file);
	wd = inotify_add_watch(s->inotify, dir[0] != '\0' ? dir : "/", DIR_EVENTS);
	if (s->wd[i] >= 0 && s->wd[i] != wd) {
		size_t same = 0;

		for (size_t k = 0; k < LINKS_MAX; k++)
			same += k != i && s->wd[k] == s->wd[i];
		if (same == 0)
			(void)inotify_rm_watch(s->inotify, s->wd[i]);
	}
	s->wd[i] = wd;
}

/* Where the symlink @path leads, or false when it is none. @path is replaced. */
static bool follow(char path[PATH_MAX])
{
	char target[PATH_MAX], next[2 * PATH_MAX], *slash = strrchr(path, '/');
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	if (target[0] == '/' || slash == NULL)
		(void)snprintf(next, sizeof(next), "%s", target);
	else
		(void)snprintf(next, sizeof(next), "%.*s/%s", (int)(slash - path), path, target);
	if (strlen(next) >= PATH_MAX)
		return false;
	memcpy(path, next, strlen(next) + 1);
	return true;
}

static void arm(struct state_file *s)
{
	char path[PATH_MAX];
	size_t i = 0;

	(void)snprintf(path, sizeof(path), "%s", s->path);
	do
		watch_dir(s, i++, path);
	while (i < LINKS_MAX && follow(path));
}

static void refuse(struct state_file *s, const char *why)
{
	if (s->error == NULL || strcmp(s->error, why) != 0)
		log_error("state", "%s: %s%s", s->path, why,
			  s->loaded ? "; the last good state stays in use" : "");
	free(s->error);
	s->error = xstrdup(why);
	metric_add(M_STATE_RELOAD_ERRORS, 1);
}

static void on_settle(struct timer *t);

/* False: somebody writes, look again soon. */
static bool writer_is_done(struct state_file *s)
{
	if (!file_is_being_written(s->path)) {
		s->waits = 0;
		return true;
	}
	if (++s->waits == WRITER_MAX_MS / WRITER_MS)
		refuse(s, "a process keeps it open for writing, so that it may be incomplete");
	loop_timer_set(s->loop, &s->settle, WRITER_MS, on_settle);
	return false;
}

static void load(struct state_file *s)
{
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	struct mesh *m;
	size_t n;

	if (file_read(s->path, LIMIT_STATE_FILE_BYTES, &text, &n, &err) != 0) {
		refuse(s, err.msg);
		return;
	}
	if (!writer_is_done(s)) { /* one came while we read */
		s->last = (struct stat){0};
		return;
	}
	m = local_state_parse((struct str){text, n}, str_of(s->node), s->generation + 1, &err);
	if (m == NULL) {
		refuse(s, err.msg);
		return;
	}
	s->generation++;
	s->loaded = true;
	free(take_ptr(s->error));
	metric_add(M_STATE_RELOADS, 1);
	log_info("state", "state taken over from %s workloads=%zu generation=%llu", s->path,
		 mesh_count_workloads(m), (unsigned long long)s->generation);
	s->fn(s->ctx, m);
	mesh_unref(m);
}

static void check(struct state_file *s)
{
	struct stat now = {0};

	arm(s);
	if (stat(s->path, &now) != 0) {
		if (s->error == NULL || s->last.st_ino != 0)
			refuse(s, strerror(errno));
		s->last = (struct stat){0};
		return;
	}
	if (file_unchanged(&now, &s->last) || !writer_is_done(s))
		return;
	s->last = now;
	load(s);
}

static void on_settle(struct timer *t)
{
	check(container_of(t, struct state_file, settle));
}

static void on_look(struct timer *t)
{
	struct state_file *s = container_of(t, struct state_file, look);

	check(s);
	loop_timer_set(s->loop, &s->look, LOOK_MS, on_look);
}

static void on_inotify(struct watch *w, uint32_t events)
{
	struct state_file *s = container_of(w, struct state_file, watch);
	char buf[4096];

	(void)events;
	while (read(s->inotify, buf, sizeof(buf)) > 0)
		; /* what happened does not matter, that something did does */
	if (!timer_armed(&s->settle))
		loop_timer_set(s->loop, &s->settle, SETTLE_MS, on_settle);
}

struct state_file *state_file_new(struct loop *l, const char *path, struct str node,
				  void (*fn)(void *ctx, struct mesh *m), void *ctx)
{
	struct state_file *s = xcalloc(1, sizeof(*s));

	s->loop = l;
	s->path = xstrdup(path);
	s->node = xstrndup(node.p != NULL ? node.p : "", node.n);
	s->fn = fn;
	s->ctx = ctx;
	for (size_t i = 0; i < LINKS_MAX; i++)
		s->wd[i] = -1;
	s->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (s->inotify < 0 || loop_watch(l, &s->watch, s->inotify, EPOLLIN, on_inotify) != 0)
		log_warn("state", "no inotify: changes of %s are noticed within %d s", path,
			 LOOK_MS / 1000);
	on_look(&s->look);
	return s;
}

struct state_file *state_file_free(struct state_file *s)
{
	if (s == NULL)
		return NULL;
	loop_unwatch(s->loop, &s->watch);
	loop_timer_cancel(&s->settle);
	loop_timer_cancel(&s->look);
	(void)xclose(s->inotify);
	free(s->path);
	free(s->node);
	free(s->error);
	free(s);
	return NULL;
}

bool state_file_loaded(const struct state_file *s)
{
	return s->loaded;
}

const char *state_file_error(const struct state_file *s)
{
	return s->error != NULL ? s->error : "";
}
