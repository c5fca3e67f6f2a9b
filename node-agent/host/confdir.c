/* SPDX-License-Identifier: Apache-2.0
 * confdir.c: see confdir.h.
 */
#include "node-agent/host/confdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"

#define TEMP_SUFFIX ".ambient-new" /* runtimes read no such name */

static void load(const char *dir, struct arena *a, struct confdir_file *f)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, f->name);
	size_t len;

	if (file_read(path, LIMIT_NETCONF_BYTES, &f->text, &len, &f->err) < 0 ||
	    cniconf_parse((struct str){f->text, len}, cniconf_kind_of(f->name), a, &f->c, &f->err) <
		    0)
		return; /* the reason stays in the record */
}

static int by_name(const void *x, const void *y)
{
	const struct confdir_file *a = x, *b = y;

	return strcmp(a->name, b->name);
}

static int list_names(DIR *dir, const char *path, struct confdir *d, struct err *err)
{
	for (struct dirent *e; (e = readdir(dir)) != NULL;) {
		struct stat st;

		if (cniconf_kind_of(e->d_name) == CNICONF_OTHER ||
		    fstatat(dirfd(dir), e->d_name, &st, 0) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (d->n == CONFDIR_FILES_MAX)
			return err_set(err, E2BIG, "%s has more than %d configurations", path,
				       CONFDIR_FILES_MAX);
		d->files = xrealloc_array(d->files, d->n + 1, sizeof(*d->files));
		d->files[d->n++] = (struct confdir_file){.name = xstrdup(e->d_name),
							 .mode = st.st_mode & 07777};
	}
	return 0;
}

int confdir_read(const char *path, struct confdir *ret, struct err *err)
{
	struct confdir d = {0};
	DIR *dir = opendir(path);
	int r;

	if (dir == NULL)
		return err_errno(err, errno, "list %s", path);
	d.arena = arena_new();
	r = list_names(dir, path, &d, err);
	(void)closedir(dir);
	if (r < 0) {
		confdir_fini(&d);
		return r;
	}
	if (d.n != 0)
		qsort(d.files, d.n, sizeof(*d.files), by_name);
	for (size_t i = 0; i < d.n; i++)
		load(path, d.arena, &d.files[i]);
	*ret = d;
	return 0;
}

void confdir_fini(struct confdir *d)
{
	for (size_t i = 0; i < d->n; i++) {
		free(d->files[i].name);
		free(d->files[i].text);
	}
	free(d->files);
	(void)arena_free(d->arena);
	*d = (struct confdir){0};
}

bool confdir_is_lost(const char *dir)
{
	struct stat st;

	return stat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0;
}

int confdir_lock(const char *dir, struct err *err)
{
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_errno(err, errno, "open %s", dir);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return take_fd(fd);
	if (errno == EWOULDBLOCK)
		return err_set(err, EBUSY, "%s is in use by another ambient-agent", dir);
	return err_errno(err, errno, "lock %s", dir);
}

static int write_all(int fd, const char *at, size_t left)
{
	while (left != 0) {
		ssize_t w = write(fd, at, left);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -EIO;
		at += w;
		left -= (size_t)w;
	}
	return 0;
}

static int write_temp(const char *temp, const void *p, size_t n, mode_t mode)
{
	_cleanup_close_ int fd = -1;
	int r;

	(void)unlink(temp); /* of an attempt that was killed */
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_all(fd, p, n);
	if (r < 0)
		return r;
	return fchmod(fd, mode) < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* A rename or an unlink is on the disk only after its directory is. */
static int sync_dir(const char *dir, struct err *err)
{
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return err_errno(err, errno, "sync %s", dir);
	return 0;
}

/* @dir/@name, or where that link leads. The caller frees both. */
static void resolve(const char *dir, const char *name, char **ret_path, char **ret_dir)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
	struct stat st;
	char *slash;

	*ret_path = lstat(path, &st) == 0 && S_ISLNK(st.st_mode) ? realpath(path, NULL) : NULL;
	if (*ret_path == NULL)
		*ret_path = take_ptr(path);
	*ret_dir = xstrdup(*ret_path);
	slash = strrchr(*ret_dir, '/');
	slash[slash == *ret_dir] = '\0';
}

int confdir_replace(const char *dir, const char *name, const void *p, size_t n, mode_t mode,
		    struct err *err)
{
	_cleanup_free_ char *path = NULL, *in = NULL, *temp = NULL;
	int r;

	resolve(dir, name, &path, &in);
	temp = xasprintf("%s/.%s" TEMP_SUFFIX, in, strrchr(path, '/') + 1);
	r = write_temp(temp, p, n, mode);
	if (r == 0 && rename(temp, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(temp);
		return err_errno(err, -r, "write %s", path);
	}
	return sync_dir(in, err);
}

int confdir_remove(const char *dir, const char *name, struct err *err)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

	if (unlink(path) == 0)
		return sync_dir(dir, err);
	return errno == ENOENT ? 0 : err_errno(err, errno, "remove %s", path);
}

void confdir_clean(const char *dir)
{
	DIR *d = opendir(dir);

	if (d == NULL)
		return;
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (e->d_name[0] == '.' && str_has_suffix(str_of(e->d_name), STR(TEMP_SUFFIX)))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	(void)closedir(d);
}
