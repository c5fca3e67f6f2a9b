/* SPDX-License-Identifier: Apache-2.0
 * manifests.c: see manifests.h.
 *
 * Theory of operation. Any inotify event only says "look again": a short timer collects a burst,
 * then the whole directory is listed and every file whose identity (device, inode, size, change
 * time) differs is read again. So a lost event, an overflowed queue, an atomic rename and a swapped
 * symbolic link are all the same case. A slow timer looks again even without an event, which covers
 * what inotify cannot see (targets of links, network file systems).
 *
 * A file that is written in place is not read before its writer closes it.
 *
 * A scan has three passes, so that an object may move from one file to another: files that are gone
 * are marked, changed files are read and put, then marked files' objects are swept.
 */
#include "node-agent/source/manifests.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

#define SETTLE_MS     30   /* one editor's save is several events */
#define LOOK_AGAIN_MS 5000 /* without any event */
#define WRITER_MS     250
#define WRITER_MAX_MS 5000 /* then somebody should know */
#define FILES_MAX     4096
#define EVENTS                                                                                     \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF |   \
	 IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR)

struct file {
	struct list node;
	char *name;
	struct stat seen;
	bool read; /* was tried with the identity in @seen */
	bool present;
	unsigned int waits; /* for the present writer */
	struct err err;	    /* code 0: the last content is in the store */
};

struct manifests {
	struct loop *loop;
	struct pods *pods;
	const struct label_keys *keep;
	char *dir;
	int ifd, wd;
	struct watch watch;
	struct timer settle, look_again;
	struct list files; /* sorted by name */
	unsigned int generation;
	bool synced, missing_logged;
	struct err err; /* of the directory itself */
};

static void scan(struct manifests *m);

static void on_settled(struct timer *t)
{
	scan(container_of(t, struct manifests, settle));
}

static void on_look_again(struct timer *t)
{
	scan(container_of(t, struct manifests, look_again));
}

static void on_inotify(struct watch *w, uint32_t events)
{
	struct manifests *m = container_of(w, struct manifests, watch);
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	(void)events;
	for (int i = 0; i < 16; i++) {
		ssize_t n = read(w->fd, buf, sizeof(buf));

		if (n <= 0)
			break;
		for (char *p = buf; p < buf + n;) {
			struct inotify_event *e = (struct inotify_event *)(void *)p;

			if (e->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF))
				m->wd = -1; /* the directory itself went; scan() watches anew */
			p += sizeof(*e) + e->len;
		}
	}
	if (!timer_armed(&m->settle))
		loop_timer_set(m->loop, &m->settle, SETTLE_MS, on_settled);
}

static bool wanted_name(const char *name)
{
	struct str s = str_of(name);

	return name[0] != '.' &&
	       (str_has_suffix(s, STR(".yaml")) || str_has_suffix(s, STR(".yml")) ||
		str_has_suffix(s, STR(".json")));
}

/* Finds or makes the record of @name, in order. */
static struct file *file_get(struct manifests *m, const char *name)
{
	struct list *at = &m->files;
	struct file *f;

	list_for_each (n, &m->files) {
		int c = strcmp(container_of(n, struct file, node)->name, name);

		if (c == 0)
			return container_of(n, struct file, node);
		if (c > 0) {
			at = n;
			break;
		}
	}
	f = xcalloc(1, sizeof(*f));
	f->name = xstrdup(name);
	list_insert_between(&f->node, at->prev, at);
	return f;
}

static void file_forget(struct file *f)
{
	list_remove(&f->node);
	free(f->name);
	free(f);
}

/* An object that another, still present file holds is a mistake of this file. */
static int check_owners(struct manifests *m, struct file *f, const struct manifest *doc,
			struct err *err)
{
	for (size_t i = 0; i < doc->npods; i++) {
		const struct pod *p = doc->pods[i];
		const struct file *o = pods_other_owner(m->pods, p->ns, p->name, f);

		if (o != NULL && o->present)
			return err_set(err, EEXIST, "pod %s/%s is already defined in %s", p->ns,
				       p->name, o->name);
	}
	for (size_t i = 0; i < doc->nnamespaces; i++) {
		const char *name = doc->namespaces[i]->name;
		const struct file *o = pods_namespace_other_owner(m->pods, name, f);

		if (o != NULL && o->present)
			return err_set(err, EEXIST, "namespace %s is already defined in %s", name,
				       o->name);
	}
	return 0;
}

static int file_load(struct manifests *m, struct file *f, struct err *err)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", m->dir, f->name), *text = NULL;
	struct manifest doc = {0};
	size_t len;
	int r = file_read(path, LIMIT_MANIFEST_BYTES, &text, &len, err);

	if (r < 0)
		return r;
	if (file_is_being_written(path)) /* its end will bring us here again */
		return err_set(err, EAGAIN, "is being written");
	r = manifest_parse((struct str){text, len}, m->keep, &doc, err);
	if (r < 0)
		return r;
	r = check_owners(m, f, &doc, err);
	for (size_t i = 0; r == 0 && i < doc.nnamespaces; i++)
		pods_put_namespace(m->pods, take_ptr(doc.namespaces[i]), f, m->generation);
	for (size_t i = 0; r == 0 && i < doc.npods; i++)
		pods_put(m->pods, take_ptr(doc.pods[i]), f, m->generation);
	manifest_fini(&doc);
	if (r == 0)
		pods_sweep(m->pods, f, m->generation);
	return r;
}

/* False while somebody writes it in place: the label that keeps pods in the mesh may be in the half
 * that is not there yet. What was read before stays in force. */
static bool writer_is_done(struct manifests *m, struct file *f, const char *path)
{
	bool writing = file_is_being_written(path);

	if (writing && f->waits++ == WRITER_MAX_MS / WRITER_MS)
		log_warn("manifests", "%s is not read: a process keeps it open for writing", path);
	if (writing)
		loop_timer_set(m->loop, &m->settle, WRITER_MS, on_settled);
	else
		f->waits = 0;
	return !writing;
}

static void file_refresh(struct manifests *m, struct file *f, const char *path,
			 const struct stat *st)
{
	struct err err = {0};

	if (f->read && file_unchanged(&f->seen, st) && f->err.code != EEXIST)
		return;
	if (!writer_is_done(m, f, path)) {
		if (!f->read) /* its pods are not gone, they are not known yet */
			(void)err_set(&f->err, EAGAIN, "%s is being written", path);
		return;
	}
	f->seen = *st;
	f->read = true;
	if (file_load(m, f, &err) == 0) {
		if (f->err.code != 0)
			log_info("manifests", "file is good again file=%s/%s", m->dir, f->name);
		f->err = (struct err){0};
		return;
	}
	(void)err_wrap(&err, "%s/%s", m->dir, f->name);
	if (strcmp(err.msg, f->err.msg) != 0)
		log_warn("manifests", "%s; its last good objects stay in force", err.msg);
	f->err = err;
}

static void directory_failed(struct manifests *m, int code)
{
	(void)err_errno(&m->err, code, "list %s", m->dir);
	if (!m->missing_logged)
		log_warn("manifests",
			 "%s: no pod is known until the directory is there; waiting for it",
			 m->err.msg);
	m->missing_logged = true;
}

static void watch_directory(struct manifests *m)
{
	if (m->wd < 0)
		m->wd = inotify_add_watch(m->ifd, m->dir, EVENTS);
}

/* Pass 1: which files are there. False when the directory cannot be listed. */
static bool mark_present(struct manifests *m)
{
	DIR *d = opendir(m->dir);
	size_t count = 0;

	if (d == NULL) {
		directory_failed(m, errno);
		return false;
	}
	list_for_each (n, &m->files)
		container_of(n, struct file, node)->present = false;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		struct stat st;

		if (!wanted_name(e->d_name) || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
		    !S_ISREG(st.st_mode))
			continue;
		if (++count > FILES_MAX)
			break;
		file_get(m, e->d_name)->present = true;
	}
	(void)closedir(d);
	m->err = (struct err){0};
	if (count > FILES_MAX)
		(void)err_set(&m->err, E2BIG,
			      "%s: more than %d manifest files, the rest is ignored", m->dir,
			      FILES_MAX);
	m->missing_logged = false;
	return true;
}

static void scan(struct manifests *m)
{
	loop_timer_cancel(&m->settle);
	loop_timer_set(m->loop, &m->look_again, LOOK_AGAIN_MS, on_look_again);
	watch_directory(m);
	if (!mark_present(m))
		return;
	m->generation = m->generation + 1 != 0 ? m->generation + 1 : 1;
	list_for_each (n, &m->files) {
		struct file *f = container_of(n, struct file, node);
		_cleanup_free_ char *path = xasprintf("%s/%s", m->dir, f->name);
		struct stat st;

		if (f->present && stat(path, &st) == 0)
			file_refresh(m, f, path, &st);
	}
	list_for_each_safe (n, &m->files) {
		struct file *f = container_of(n, struct file, node);

		if (f->present)
			continue;
		pods_sweep(m->pods, f, 0);
		log_info("manifests", "file is gone file=%s/%s", m->dir, f->name);
		file_forget(f);
	}
	m->synced = true;
}

struct manifests *manifests_new(struct loop *l, const char *dir, const struct label_keys *keep,
				struct pods *into, struct err *err)
{
	struct manifests *m = xcalloc(1, sizeof(*m));
	int r;

	m->loop = l;
	m->pods = into;
	m->dir = xstrdup(dir);
	m->keep = keep;
	m->wd = -1;
	list_init(&m->files);
	m->ifd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (m->ifd < 0) {
		(void)err_errno(err, errno, "inotify");
		return manifests_free(m);
	}
	r = loop_watch(l, &m->watch, m->ifd, EPOLLIN, on_inotify);
	if (r < 0) {
		(void)err_errno(err, -r, "watch inotify");
		return manifests_free(m);
	}
	scan(m);
	return m;
}

struct manifests *manifests_free(struct manifests *m)
{
	if (m == NULL)
		return NULL;
	loop_timer_cancel(&m->settle);
	loop_timer_cancel(&m->look_again);
	loop_unwatch(m->loop, &m->watch);
	(void)xclose(m->ifd);
	list_for_each_safe (n, &m->files)
		file_forget(container_of(n, struct file, node));
	free(m->dir);
	free(m);
	return NULL;
}

bool manifests_synced(const struct manifests *m)
{
	return m->synced;
}

const char *manifests_error(const struct manifests *m)
{
	if (m->err.code != 0)
		return m->err.msg;
	list_for_each (n, &m->files) {
		const struct file *f = container_of(n, struct file, node);

		if (f->err.code != 0)
			return f->err.msg;
	}
	return "";
}

const char *manifests_dir(const struct manifests *m)
{
	return m->dir;
}
