/* SPDX-License-Identifier: Apache-2.0
 * sealed.c: see sealed.h.
 */
#include "lib/os/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/os/fd.h"

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static int memory_new(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd;
}

int sealed_new(const char *name, const void *p, size_t n, struct err *err)
{
	_cleanup_close_ int fd = memory_new(name);
	const char *at = p;

	if (fd < 0)
		return err_errno(err, errno, "memfd_create");
	if (fchmod(fd, 0400) < 0)
		return err_errno(err, errno, "mode of sealed memory");
	while (n != 0) {
		ssize_t w = write(fd, at, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return err_errno(err, w < 0 ? errno : EIO, "write sealed memory");
		at += w;
		n -= (size_t)w;
	}
	if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return err_errno(err, errno, "seal memory");
	return take_fd(fd);
}

int sealed_check(int fd, size_t max, size_t *ret_n, struct err *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS)
		return err_set(err, EINVAL, "the descriptor is no sealed memory");
	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "sealed memory");
	if (!S_ISREG(st.st_mode) || st.st_size < 1 || (uintmax_t)st.st_size > max)
		return err_set(err, EINVAL, "sealed memory of %lld bytes, expected 1 to %zu",
			       (long long)st.st_size, max);
	*ret_n = (size_t)st.st_size;
	return 0;
}

const void *sealed_map(int fd, size_t n, bool *ret_locked, struct err *err)
{
	/* private: older kernels refuse a shared mapping of what is sealed; it reads the same pages
	 */
	void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED) {
		(void)err_errno(err, errno, "map sealed memory");
		return NULL;
	}
	(void)madvise(p, n, MADV_DONTDUMP); /* the process is not dumpable either */
	*ret_locked = mlock(p, n) == 0;
	return p;
}

void sealed_unmap(const void *p, size_t n)
{
	if (p != NULL)
		(void)munmap((void *)(uintptr_t)p, n);
}
