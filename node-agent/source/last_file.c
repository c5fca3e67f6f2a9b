/* SPDX-License-Identifier: Apache-2.0
 * last_file.c: see last_file.h.
 *
 * The time of the file's last change says until when the picture was current: it is touched once a
 * minute while nothing changes. It is not synced to the disk: after a power failure it is the old
 * one, the new one or damaged, and the checksum knows which.
 */
#include "node-agent/source/last_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"

#define FILE_NAME     "kubernetes.state"
#define SAVE_AFTER_MS 1000 /* a namespace's label is many changes */
#define SAVE_AGAIN_MS 10000
#define TOUCH_MS      60000
#define FILE_MODE     0600
#define DIR_MODE      0700

static void on_save(struct timer *t);

static void failed(struct last_file *f, const struct err *err)
{
	if (strcmp(err->msg, f->error.msg) != 0)
		log_warn("kube", "the last good picture is not kept: %s", err->msg);
	f->error = *err;
}

static int save(struct last_file *f)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	struct err err = {0};
	int r = dir_make(f->dir, DIR_MODE, &err);

	last_state_print(f->pods, &f->of, f->pods_version, f->namespaces_version, &text);
	if (r == 0 && text.n > LIMIT_LAST_STATE_BYTES)
		r = err_set(&err, E2BIG, "%s would have %zu bytes, at most %u are written", f->path,
			    text.n, LIMIT_LAST_STATE_BYTES);
	if (r == 0)
		r = file_write_atomic(f->path, text.p, text.n, FILE_MODE, &err);
	if (r < 0) {
		failed(f, &err);
		return r;
	}
	if (f->error.code != 0)
		log_info("kube", "the last good picture is kept again file=%s", f->path);
	f->error = (struct err){0};
	f->dirty = false;
	return 0;
}

static void on_touch(struct timer *t)
{
	struct last_file *f = container_of(t, struct last_file, touch);

	/* whoever removed it did not want the picture to be lost */
	if (utimensat(AT_FDCWD, f->path, NULL, 0) < 0)
		last_file_changed(f);
	loop_timer_set(f->loop, t, TOUCH_MS, on_touch);
}

static void on_save(struct timer *t)
{
	struct last_file *f = container_of(t, struct last_file, save);

	if (save(f) < 0)
		loop_timer_set(f->loop, t, SAVE_AGAIN_MS, on_save);
	else
		loop_timer_set(f->loop, &f->touch, TOUCH_MS, on_touch);
}

void last_file_changed(struct last_file *f)
{
	if (f->path == NULL)
		return;
	f->dirty = true;
	if (!timer_armed(&f->save))
		loop_timer_set(f->loop, &f->save, SAVE_AFTER_MS, on_save);
}

int last_file_load(struct last_file *f, struct manifest *ret, uint64_t *ret_age_ms)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;
	struct err err = {0};
	int64_t age;
	size_t n;
	int r;

	if (f->path == NULL || (stat(f->path, &st) < 0 && errno == ENOENT))
		return -ENOENT;
	r = file_read(f->path, LIMIT_LAST_STATE_BYTES, &text, &n, &err);
	if (r == 0)
		r = last_state_parse((struct str){text, n}, &f->of, ret, &err);
	if (r < 0) {
		(void)err_wrap(&err, "%s", f->path);
		log_warn("kube", "the last good picture is ignored: %s", err.msg);
		f->error = err;
		return r;
	}
	/* a clock that was set back must not make it younger than nothing */
	age = clock_wall_us() / 1000 - (int64_t)st.st_mtim.tv_sec * 1000;
	*ret_age_ms = age > 0 ? (uint64_t)age : 0;
	return 0;
}

void last_file_init(struct last_file *f, struct loop *l, const struct pods *pods, const char *dir,
		    const struct last_state_of *of, const char *pods_version,
		    const char *namespaces_version)
{
	*f = (struct last_file){.loop = l,
				.pods = pods,
				.of = *of,
				.pods_version = pods_version,
				.namespaces_version = namespaces_version};
	if (dir == NULL || dir[0] == '\0')
		return;
	f->dir = xstrdup(dir);
	f->path = xasprintf("%s/" FILE_NAME, dir);
	file_remove_halves(f->path);
}

void last_file_fini(struct last_file *f)
{
	if (f->path == NULL)
		return;
	loop_timer_cancel(&f->save);
	loop_timer_cancel(&f->touch);
	if (f->dirty)
		(void)save(f);
	free(f->dir);
	free(f->path);
	*f = (struct last_file){0};
}
