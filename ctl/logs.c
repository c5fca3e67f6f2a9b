/* SPDX-License-Identifier: Apache-2.0
 * logs.c: see logs.h. Bounded: LOG_BYTES of each, the newest FILES_MAX files of a container,
 * PODS_MAX pods and CONTAINERS_MAX containers of each.
 */
#include "ctl/logs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/journal.h"
#include "ctl/log_pick.h"
#include "ctl/tar.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"

#define LOG_BYTES      (2u << 20)
#define FILES_MAX      2
#define PODS_MAX       16
#define CONTAINERS_MAX 8
#define UNITS_MAX      16

struct collecting {
	const struct ctl_logs_sink *to;
	struct str cgroups;
	size_t n, pods;
};

/* --- the journal --- */

static void put_unit(struct collecting *c, struct str unit)
{
	_cleanup_free_ char *name = xstrndup(unit.p, unit.n);
	_cleanup_free_ char *source = xasprintf("journal: %s", name);
	_cleanup_strbuf_ struct strbuf file = {0}, text = {0};
	struct err err = {0};
	bool cut;

	strbuf_puts(&file, "logs/");
	ctl_tar_name(&file, unit, 40);
	strbuf_puts(&file, ".log");
	if (ctl_journal_tail(name, LOG_BYTES, &text, &cut, &err) < 0)
		c->to->missing(c->to->ctx, file.p, source, err.msg);
	else
		c->to->log(c->to->ctx, file.p, source, (struct str){text.p, text.n}, cut);
}

/* The units that run now, and those of our package. */
static void put_units(struct collecting *c)
{
	struct str seen[UNITS_MAX] = {STR("ambient-agent.service"), STR("ztunnel.service")};
	struct str rest = c->cgroups, line;
	size_t n = 2;

	while (n < UNITS_MAX && str_cut(&rest, '\n', &line)) {
		struct str unit = ctl_log_unit(line);
		bool known = unit.n == 0;

		for (size_t i = 0; i < n; i++)
			known |= str_eq(seen[i], unit);
		/* a kubelet's own unit is around its pods under some drivers */
		if (!known && (memmem(unit.p, unit.n, "ztunnel", 7) != NULL ||
			       memmem(unit.p, unit.n, "ambient", 7) != NULL))
			seen[n++] = unit;
	}
	for (size_t i = 0; i < n; i++)
		put_unit(c, seen[i]);
}

/* --- files of the kubelet --- */

static int read_tail(const char *path, char **ret, struct str *text, bool *cut, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	size_t want, n = 0;
	off_t from;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "read %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s is no file", path);
	/* one byte more: what is cut then begins with the next line */
	want = st.st_size > (off_t)LOG_BYTES ? LOG_BYTES + 1 : (size_t)st.st_size;
	from = st.st_size - (off_t)want;
	*ret = xmalloc(want + 1);
	while (n < want) {
		ssize_t r = pread(fd, *ret + n, want - n, from + (off_t)n);

		if (r < 0)
			return err_errno(err, errno, "read %s", path);
		if (r == 0)
			break; /* it was rotated meanwhile */
		n += (size_t)r;
	}
	*cut = from > 0;
	*text = ctl_log_tail((struct str){*ret, n}, LOG_BYTES);
	return 0;
}

static void put_log(struct collecting *c, struct str pod, const char *container, const char *path)
{
	_cleanup_strbuf_ struct strbuf name = {0};
	_cleanup_free_ char *buf = NULL;
	struct err err = {0};
	struct str text;
	bool cut = false;

	strbuf_printf(&name, "logs/%02zu_", c->n++);
	ctl_tar_name(&name, ctl_log_pod_name(pod), 24);
	strbuf_putc(&name, '_');
	ctl_tar_name(&name, str_of(container), 10);
	strbuf_puts(&name, ".log");
	if (read_tail(path, &buf, &text, &cut, &err) < 0)
		c->to->missing(c->to->ctx, name.p, path, err.msg);
	else
		c->to->log(c->to->ctx, name.p, path, text, cut);
}

struct found {
	char *name;
	struct timespec at;
};

static int newest_first(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->at.tv_sec != y->at.tv_sec)
		return x->at.tv_sec < y->at.tv_sec ? 1 : -1;
	return (x->at.tv_nsec < y->at.tv_nsec) - (x->at.tv_nsec > y->at.tv_nsec);
}

/* "0.log", and "0.log.20261126-151515" when it was rotated; not what is compressed. */
static bool is_log(struct str name)
{
	return memmem(name.p, name.n, ".log", 4) != NULL && !str_has_suffix(name, STR(".gz")) &&
	       !str_has_suffix(name, STR(".tmp"));
}

static void put_container(struct collecting *c, struct str pod, const char *dir, const char *name)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
	struct found files[64];
	size_t n = 0;
	DIR *d = opendir(path);

	if (d == NULL)
		return; /* a file beside the folders, or gone meanwhile */
	for (const struct dirent *e; n < ARRAY_LEN(files) && (e = readdir(d)) != NULL;) {
		struct stat st;

		if (is_log(str_of(e->d_name)) && fstatat(dirfd(d), e->d_name, &st, 0) == 0 &&
		    S_ISREG(st.st_mode))
			files[n++] = (struct found){xstrdup(e->d_name), st.st_mtim};
	}
	(void)closedir(d);
	qsort(files, n, sizeof(files[0]), newest_first);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *file = xasprintf("%s/%s", path, files[i].name);

		if (i < FILES_MAX)
			put_log(c, pod, name, file);
		free(files[i].name);
	}
}

static void put_pod(struct collecting *c, const char *root, const char *folder)
{
	_cleanup_free_ char *dir = xasprintf("%s/%s", root, folder);
	DIR *d = opendir(dir);
	size_t n = 0;

	if (d == NULL)
		return;
	c->pods++;
	for (const struct dirent *e; n < CONTAINERS_MAX && (e = readdir(d)) != NULL;)
		if (e->d_name[0] != '.') {
			put_container(c, str_of(folder), dir, e->d_name);
			n++;
		}
	(void)closedir(d);
}

static void put_pods(struct collecting *c, const char *root)
{
	DIR *d = opendir(root);

	if (d == NULL) {
		c->to->missing(c->to->ctx, "logs/pods", root, strerror(errno));
		return;
	}
	for (const struct dirent *e; c->pods < PODS_MAX && (e = readdir(d)) != NULL;)
		if (ctl_log_pod_is_ours(str_of(e->d_name), c->cgroups))
			put_pod(c, root, e->d_name);
	(void)closedir(d);
	if (c->pods == 0)
		c->to->missing(c->to->ctx, "logs/pods", root,
			       "no pod of agent or ztunnel is there");
}

void ctl_logs_collect(struct str cgroups, const char *pod_logs, const struct ctl_logs_sink *to)
{
	struct collecting c = {.to = to, .cgroups = cgroups};

	put_units(&c);
	put_pods(&c, pod_logs);
}
