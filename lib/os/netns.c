/* SPDX-License-Identifier: Apache-2.0
 * netns.c: see netns.h.
 */
#include "lib/os/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/os/fd.h"

/* The thread's home, opened on its first visit elsewhere. Threads that enter namespaces live as
 * long as the process, so the descriptor is not closed. */
static _Thread_local int home_fd = -1;

int netns_check(int fd, struct err *err)
{
	int type = ioctl(fd, NS_GET_NSTYPE);

	if (type < 0)
		return err_set(err, EINVAL, "descriptor is not a namespace");
	if (type != CLONE_NEWNET)
		return err_set(err, EINVAL, "descriptor is a namespace of another kind");
	return 0;
}

int netns_open(const char *path, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, errno, "open network namespace %s", path);
	if (netns_check(fd, err) < 0)
		return err_wrap(err, "network namespace %s", path);
	return take_fd(fd);
}

int netns_id_of(int fd, struct netns_id *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret = (struct netns_id){.dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

int netns_id_self(struct netns_id *ret)
{
	struct stat st;

	if (stat("/proc/thread-self/ns/net", &st) < 0)
		return -errno;
	*ret = (struct netns_id){.dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

int netns_enter(int fd)
{
	if (home_fd < 0) {
		home_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		if (home_fd < 0)
			return -errno;
	}
	return setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

void netns_leave(void)
{
	bug_on(setns(home_fd, CLONE_NEWNET) < 0);
}

int netns_call(int fd, int (*fn)(void *, struct err *), void *ctx, struct err *err)
{
	int r = netns_enter(fd);

	if (r < 0)
		return err_errno(err, -r, "enter network namespace");
	r = fn(ctx, err);
	netns_leave();
	return r;
}
