/* SPDX-License-Identifier: Apache-2.0
 * fd.c: see fd.h.
 */
#include "lib/os/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define FDS_MAX 16

int xclose(int fd)
{
	int saved = errno;

	if (fd >= 0)
		bug_on(close(fd) < 0 && errno == EBADF);
	errno = saved;
	return -1;
}

int fd_dup(int fd)
{
	int n = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return n < 0 ? -errno : n;
}

int fd_set_nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int fd_send(int sock, const void *buf, size_t len, const int *fds, size_t nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} ctl = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	bug_on(nfds > FDS_MAX);
	if (nfds != 0) {
		struct cmsghdr *c;

		msg.msg_control = ctl.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

ssize_t fd_recv(int sock, void *buf, size_t cap, int *fds, size_t max_fds, size_t *ret_nfds,
		struct err *err)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} ctl;
	struct iovec iov = {.iov_base = buf, .iov_len = cap};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ctl.buf,
			     .msg_controllen = sizeof(ctl.buf)};
	int got[FDS_MAX];
	size_t ngot = 0;
	ssize_t n;
	int r = 0;

	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		if (errno == EAGAIN)
			return -EAGAIN;
		return err_errno(err, errno, "receive");
	}
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
		size_t k;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		bug_on(ngot + k > FDS_MAX);
		memcpy(got + ngot, CMSG_DATA(c), k * sizeof(int));
		ngot += k;
	}
	if (msg.msg_flags & MSG_TRUNC)
		r = err_set(err, EMSGSIZE, "packet is longer than %zu bytes", cap);
	else if (msg.msg_flags & MSG_CTRUNC)
		r = err_set(err, EMSGSIZE, "packet carries too many descriptors");
	else if (ngot > max_fds)
		r = err_set(err, EMSGSIZE, "packet carries %zu descriptors, at most %zu expected",
			    ngot, max_fds);
	if (r < 0) {
		for (size_t i = 0; i < ngot; i++)
			(void)xclose(got[i]);
		return r;
	}
	for (size_t i = 0; i < ngot; i++)
		fds[i] = got[i];
	if (ret_nfds != NULL)
		*ret_nfds = ngot;
	return n;
}

int fd_peer_cred(int sock, uid_t *ret_uid, pid_t *ret_pid)
{
	struct ucred uc;
	socklen_t n = sizeof(uc);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &uc, &n) < 0)
		return -errno;
	*ret_uid = uc.uid;
	if (ret_pid != NULL)
		*ret_pid = uc.pid;
	return 0;
}

int file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_free_ char *buf = NULL;
	size_t len = 0, cap = 0;
	struct stat st;

	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
		cap = (size_t)st.st_size < max ? (size_t)st.st_size : max;
	cap = cap < 4096 ? 4096 : cap + 1;
	buf = malloc(cap + 1);
	if (buf == NULL)
		return err_set(err, ENOMEM, "read %s: out of memory", path);
	for (;;) {
		ssize_t n = read(fd, buf + len, cap - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "read %s", path);
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return err_set(err, EFBIG, "%s is larger than %zu bytes", path, max);
		if (len == cap) {
			char *more = realloc(buf, cap * 2 + 1);

			if (more == NULL)
				return err_set(err, ENOMEM, "read %s: out of memory", path);
			buf = more;
			cap *= 2;
		}
	}
	buf[len] = '\0';
	*ret = take_ptr(buf);
	if (ret_len != NULL)
		*ret_len = len;
	return 0;
}

bool file_is_being_written(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	/* the kernel grants a read lease only while nobody writes; whoever comes in the moment that
	 * we have it waits for its end, and we hear of it by a signal that is ignored by default */
	if (fd < 0 || fcntl(fd, F_SETSIG, SIGURG) < 0)
		return false;
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN;
	(void)fcntl(fd, F_SETLEASE, F_UNLCK);
	return false;
}

bool file_unchanged(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

void file_remove_halves(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
		slash != NULL ? xstrndup(path, (size_t)(slash - path) + 1) : xstrdup("./");
	_cleanup_free_ char *prefix = xasprintf("%s.tmp.", slash != NULL ? slash + 1 : path);
	DIR *d = opendir(dir);

	if (d == NULL)
		return;
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (str_has_prefix(str_of(e->d_name), str_of(prefix)))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	(void)closedir(d);
}

static int write_replacing(const char *path, const void *p, size_t n, mode_t mode, bool sync,
			   struct err *err)
{
	_cleanup_free_ char *tmp = xasprintf("%s.tmp.XXXXXX", path);
	_cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC);
	const char *at = p;
	size_t left = n;

	if (fd < 0)
		return err_errno(err, errno, "create %s", tmp);
	while (left != 0) {
		ssize_t w = write(fd, at, left);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0) {
			int e = errno;

			(void)unlink(tmp);
			return err_errno(err, e, "write %s", tmp);
		}
		at += w;
		left -= (size_t)w;
	}
	if (fchmod(fd, mode) < 0 || (sync && fsync(fd) < 0) || rename(tmp, path) < 0) {
		int e = errno;

		(void)unlink(tmp);
		return err_errno(err, e, "replace %s", path);
	}
	return 0;
}

int file_write_atomic(const char *path, const void *p, size_t n, mode_t mode, struct err *err)
{
	return write_replacing(path, p, n, mode, false, err);
}

int file_write_durable(const char *path, const void *p, size_t n, mode_t mode, struct err *err)
{
	_cleanup_free_ char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/');
	_cleanup_close_ int fd = -1;
	int r = write_replacing(path, p, n, mode, true, err);

	if (r < 0)
		return r;
	if (slash != NULL)
		slash[slash == dir] = '\0';
	fd = open(slash != NULL ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno(err, errno, "sync the directory of %s", path);
	return 0;
}

int dir_make(const char *path, mode_t mode, struct err *err)
{
	_cleanup_free_ char *p = xstrdup(path);

	for (char *s = p + 1; *s != '\0'; s++) {
		if (*s != '/')
			continue;
		*s = '\0';
		if (mkdir(p, 0755) < 0 && errno != EEXIST)
			return err_errno(err, errno, "create directory %s", p);
		*s = '/';
	}
	if (mkdir(p, mode) < 0 && errno != EEXIST)
		return err_errno(err, errno, "create directory %s", p);
	return 0;
}
