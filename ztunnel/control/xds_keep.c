/* SPDX-License-Identifier: Apache-2.0
 * xds_keep.c: see xds_keep.h.
 *
 * A save: the timer asks for a copy (references to the resources, made between two pieces of other
 * work), a thread writes it and posts its result. One at a time; the more there is, the longer the
 * pause before, except for policies.
 */
#include "ztunnel/control/xds_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/observe/metrics.h"

#define FILE_NAME      "ztunnel.mesh"
#define SAVE_SOON_MS   100 /* a policy: what is lost of it might be open */
#define SOON_PER_MB_MS 20
#define SAVE_AFTER_MS  1000
#define SAVE_PER_MB_MS 1000
#define SAVE_MAX_MS    30000
#define SAVE_AGAIN_MS  30000
#define TOUCH_MS       60000
#define FILE_MODE      0600
#define DIR_MODE       0700
#define BUFFER_BYTES   (256u << 10)
#define THREAD_STACK   (256u << 10)

struct job { /* with the thread, then on its way back */
	struct msg m;
	struct xds_keep *keep; /* NULL: gone meanwhile */
	pthread_t thread;
	struct store_copy *copy;
	char *path;
	struct image_of of;
	uint64_t bytes;
	struct err err;
	struct loop *loop;
};

struct xds_keep {
	struct loop *loop;
	struct image_of of;
	char *path; /* NULL: nothing is kept */
	char *text; /* while it is read */
	void (*due)(void *ctx);
	void *ctx;
	struct timer save;
	bool dirty;
	struct job *job;
	uint64_t bytes, touched_ms;
	struct err error; /* of the last attempt; code 0: well */
};

static void failed(struct xds_keep *k, const struct err *err)
{
	if (strcmp(err->msg, k->error.msg) != 0)
		log_warn("state", "the mesh state does not outlive this process: %s", err->msg);
	metric_add(M_STATE_KEEP_ERRORS, 1);
	k->error = *err;
}

/* ---- writing ---- */

struct out {
	int fd;
	struct image_sum sum;
	struct strbuf buf;
	int error;
};

static void flush(struct out *o)
{
	size_t at = 0;

	while (o->error == 0 && at < o->buf.n) {
		ssize_t w = write(o->fd, o->buf.p + at, o->buf.n - at);

		if (w > 0)
			at += (size_t)w;
		else if (errno != EINTR)
			o->error = errno;
	}
	o->buf.n = 0;
}

static void full(struct out *o, size_t from)
{
	image_sum_add(&o->sum, o->buf.p + from, o->buf.n - from);
	if (o->buf.n >= BUFFER_BYTES)
		flush(o);
}

static int write_records(struct job *j, int fd)
{
	const struct store_copy *c = j->copy;
	char sum[IMAGE_SUM_BYTES + 1];
	struct out o = {.fd = fd};
	uint64_t bytes = 0;

	for (size_t i = 0; i < c->n; i++)
		bytes += image_record_size(c->v[i]);
	if (bytes > LIMIT_MESH_IMAGE_BYTES)
		return err_set(&j->err, E2BIG, "%s would have %llu bytes, at most %u are written",
			       j->path, (unsigned long long)bytes, LIMIT_MESH_IMAGE_BYTES);
	j->bytes = bytes;
	image_sum_init(&o.sum);
	image_put_heading(&o.buf, &j->of, c->n, bytes);
	full(&o, 0);
	for (size_t i = 0; i < c->n && o.error == 0; i++) {
		size_t from = o.buf.n;

		image_put_record(&o.buf, c->v[i]);
		full(&o, from);
	}
	image_sum_text(&o.sum, sum);
	strbuf_add(&o.buf, sum, IMAGE_SUM_BYTES);
	flush(&o);
	strbuf_fini(&o.buf);
	return o.error != 0 ? err_errno(&j->err, o.error, "write %s", j->path) : 0;
}

static void write_file(struct job *j)
{
	_cleanup_free_ char *tmp = xasprintf("%s.tmp.XXXXXX", j->path);
	_cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC); /* mode 0600 */

	if (fd < 0) {
		(void)err_errno(&j->err, errno, "create %s", tmp);
		return;
	}
	if (write_records(j, fd) == 0 && (fchmod(fd, FILE_MODE) < 0 || rename(tmp, j->path) < 0))
		(void)err_errno(&j->err, errno, "replace %s", j->path);
	if (j->err.code != 0)
		(void)unlink(tmp);
}

static void job_free(struct job *j)
{
	(void)store_copy_free(j->copy);
	free(j->path);
	free(j);
}

static void on_save(struct timer *t)
{
	struct xds_keep *k = container_of(t, struct xds_keep, save);

	if (k->job == NULL)
		k->due(k->ctx);
	else
		loop_timer_set(k->loop, t, SAVE_SOON_MS, on_save); /* one at a time */
}

static void finish(struct xds_keep *k, const struct job *j)
{
	if (j->err.code != 0) {
		failed(k, &j->err);
		k->dirty = true;
		loop_timer_set(k->loop, &k->save, SAVE_AGAIN_MS, on_save);
		return;
	}
	if (k->error.code != 0)
		log_info("state", "the mesh state is kept again file=%s", k->path);
	k->error = (struct err){0};
	k->bytes = j->bytes;
	k->touched_ms = loop_now_ms(k->loop);
}

static void on_written(struct loop *l, struct msg *m)
{
	struct job *j = container_of(m, struct job, m);
	struct xds_keep *k = j->keep;

	(void)l;
	if (k != NULL) {
		bug_on(pthread_join(j->thread, NULL) != 0);
		k->job = NULL;
		finish(k, j);
	}
	job_free(j);
}

static void *writer(void *arg)
{
	struct job *j = arg;

	(void)pthread_setname_np(pthread_self(), "ztunnel-state");
	write_file(j);
	j->copy = store_copy_free(j->copy);
	j->m.fn = on_written;
	loop_post(j->loop, &j->m);
	return NULL;
}

static struct job *job_new(struct xds_keep *k, struct store_copy *c)
{
	struct job *j = xcalloc(1, sizeof(*j));

	j->keep = k;
	j->copy = c;
	j->path = xstrdup(k->path);
	j->of = k->of;
	j->loop = k->loop;
	k->dirty = false;
	return j;
}

void xds_keep_save(struct xds_keep *k, struct store_copy *c)
{
	struct job *j = job_new(k, c);
	pthread_attr_t attr;
	int r;

	bug_on(k->job != NULL || pthread_attr_init(&attr) != 0);
	(void)pthread_attr_setstacksize(&attr, THREAD_STACK);
	k->job = j;
	r = pthread_create(&j->thread, &attr, writer, j);
	(void)pthread_attr_destroy(&attr);
	if (r == 0)
		return;
	k->job = NULL;
	(void)err_errno(&j->err, r, "start a thread");
	finish(k, j);
	job_free(j);
}

/* Its message is in the mailbox then. */
static void await_job(struct xds_keep *k)
{
	if (k->job == NULL)
		return;
	bug_on(pthread_join(k->job->thread, NULL) != 0);
	k->job->keep = NULL;
	k->job = NULL;
}

void xds_keep_save_now(struct xds_keep *k, struct store_copy *c)
{
	struct job *j = job_new(k, c);

	await_job(k); /* or what it has would come in the place of what is newer */
	write_file(j);
	if (j->err.code != 0)
		failed(k, &j->err);
	job_free(j);
}

bool xds_keep_is_due(const struct xds_keep *k)
{
	return k->path != NULL && k->dirty;
}

void xds_keep_changed(struct xds_keep *k, bool soon)
{
	uint64_t mb = k->bytes >> 20;
	uint64_t ms =
		soon ? SAVE_SOON_MS + mb * SOON_PER_MB_MS : SAVE_AFTER_MS + mb * SAVE_PER_MB_MS;

	if (k->path == NULL)
		return;
	k->dirty = true;
	ms = ms < SAVE_MAX_MS ? ms : SAVE_MAX_MS;
	if (!timer_armed(&k->save) || k->save.deadline_ms > loop_now_ms(k->loop) + ms)
		loop_timer_set(k->loop, &k->save, ms, on_save);
}

void xds_keep_touch(struct xds_keep *k)
{
	uint64_t now = loop_now_ms(k->loop);

	if (k->path == NULL || k->dirty || k->job != NULL || k->error.code != 0 ||
	    now - k->touched_ms < TOUCH_MS)
		return;
	k->touched_ms = now;
	if (utimensat(AT_FDCWD, k->path, NULL, AT_SYMLINK_NOFOLLOW) < 0)
		xds_keep_changed(k, false); /* somebody removed it */
}

/* ---- reading ---- */

static int check_owner(const struct stat *st, mode_t others, const char *path, struct err *err)
{
	if (st->st_uid != geteuid() || (st->st_mode & others) != 0)
		return err_set(err, EPERM, "%s is not ours alone (owner %u, mode %04o)", path,
			       (unsigned int)st->st_uid, (unsigned int)(st->st_mode & 07777));
	return 0;
}

static int read_whole(int fd, const char *path, size_t n, char **ret, struct err *err)
{
	_cleanup_free_ char *text = xmalloc(n + 1);
	size_t at = 0;

	while (at < n) {
		ssize_t r = read(fd, text + at, n - at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? err_errno(err, errno, "read %s", path)
				     : err_set(err, EINVAL, "%s became shorter", path);
		at += (size_t)r;
	}
	*ret = take_ptr(text);
	return 0;
}

static int read_file(struct xds_keep *k, size_t *ret_n, int64_t *ret_mtime_ms, struct err *err)
{
	_cleanup_close_ int fd =
		open(k->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? -ENOENT : err_errno(err, errno, "open %s", k->path);
	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s", k->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s is no ordinary file", k->path);
	if (check_owner(&st, 0077, k->path, err) != 0)
		return -EPERM;
	if ((uint64_t)st.st_size > LIMIT_MESH_IMAGE_BYTES)
		return err_set(err, E2BIG, "%s has %lld bytes, at most %u are read", k->path,
			       (long long)st.st_size, LIMIT_MESH_IMAGE_BYTES);
	*ret_n = (size_t)st.st_size;
	*ret_mtime_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
	return read_whole(fd, k->path, *ret_n, &k->text, err);
}

bool xds_keep_load(struct xds_keep *k, struct image *ret, uint64_t *ret_age_ms)
{
	int64_t mtime_ms = 0, age;
	struct err err = {0};
	size_t n = 0;
	int r;

	if (k->path == NULL)
		return false;
	r = read_file(k, &n, &mtime_ms, &err);
	if (r == 0) {
		r = image_open((struct str){k->text, n}, &k->of, ret, &err);
		if (r != 0)
			(void)err_wrap(&err, "%s", k->path);
	}
	if (r == -ENOENT)
		return false;
	if (r != 0) {
		xds_keep_loaded(k, err.msg);
		return false;
	}
	/* a clock that was set back must not make it younger than nothing */
	age = clock_wall_us() / 1000 - mtime_ms;
	*ret_age_ms = age > 0 ? (uint64_t)age : 0;
	k->bytes = n;
	return true;
}

void xds_keep_loaded(struct xds_keep *k, const char *why)
{
	free(take_ptr(k->text));
	if (why == NULL)
		return;
	log_warn("state", "the last mesh state is ignored, it comes from istiod or not at all: %s",
		 why);
	(void)err_set(&k->error, EINVAL, "the last one was ignored: %s", why);
	metric_add(M_STATE_KEEP_ERRORS, 1);
}

/* ---- the directory ---- */

static int use_dir(const char *dir, struct err *err)
{
	struct stat st;
	int r = dir_make(dir, DIR_MODE, err);

	if (r != 0)
		return r;
	if (lstat(dir, &st) < 0)
		return err_errno(err, errno, "%s", dir);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "%s is no directory", dir);
	if (check_owner(&st, 0022, dir, err) != 0)
		return -EPERM;
	return access(dir, W_OK | X_OK) == 0 ? 0 : err_errno(err, errno, "%s", dir);
}

struct xds_keep *xds_keep_new(struct loop *l, const char *const *dirs, const struct image_of *of,
			      void (*due)(void *ctx), void *ctx)
{
	struct xds_keep *k = xcalloc(1, sizeof(*k));
	struct err err = {0};

	k->loop = l;
	k->of = *of;
	k->due = due;
	k->ctx = ctx;
	for (; *dirs != NULL && k->path == NULL; dirs++) {
		err = (struct err){0};
		if (use_dir(*dirs, &err) != 0)
			continue;
		k->path = xasprintf("%s/" FILE_NAME, *dirs);
		file_remove_halves(k->path);
	}
	if (k->path == NULL && err.code != 0)
		failed(k, &err);
	else if (k->path == NULL)
		(void)err_set(&k->error, ENOENT, "it is switched off");
	return k;
}

struct xds_keep *xds_keep_free(struct xds_keep *k)
{
	if (k == NULL)
		return NULL;
	loop_timer_cancel(&k->save);
	await_job(k);
	free(k->text);
	free(k->path);
	free(k);
	return NULL;
}

const char *xds_keep_path(const struct xds_keep *k, const char **ret_error)
{
	*ret_error = k->error.msg;
	return k->path != NULL ? k->path : "";
}
