/* SPDX-License-Identifier: Apache-2.0
 * fd.h: descriptors: closing, passing over unix sockets, identity.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "lib/base/attr.h"

struct err;

/* Closes @fd if it is >= 0, keeps errno, never retries (on Linux the descriptor is gone even after
 * EINTR); EBADF is a bug. Returns -1, for `fd = xclose(fd)`. */
int xclose(int fd);
static inline void closep(int *fd)
{
	(void)xclose(*fd);
}
/* Moves a descriptor out of a _cleanup_close_ variable. */
static inline int take_fd_(int *fd)
{
	int f = *fd;

	*fd = -1;
	return f;
}
#define take_fd(fd) take_fd_(&(fd))

/* CLOEXEC duplicate, or -errno. */
int fd_dup(int fd) _must_check_;
int fd_set_nonblock(int fd) _must_check_;

/* Sends one packet with @nfds descriptors (0 is fine) on a unix socket; the descriptors stay ours.
 * Returns 0 or -errno (-EAGAIN when the socket would block). */
int fd_send(int sock, const void *buf, size_t len, const int *fds, size_t nfds) _must_check_;

/* Receives one packet (SOCK_SEQPACKET) with CLOEXEC descriptors. @max_fds: room in @fds; more, or a
 * truncated packet or control area, is an error, and every received descriptor is closed then.
 * Returns the number of bytes (0: the peer closed), or -errno with a sentence in @err (-EAGAIN,
 * without a sentence, when nothing is there). @ret_nfds is set on success only; the caller owns
 * them. */
ssize_t fd_recv(int sock, void *buf, size_t cap, int *fds, size_t max_fds, size_t *ret_nfds,
		struct err *err) _must_check_;

/* uid of the process at the other end of a connected unix socket (SO_PEERCRED), 0 or -errno. */
int fd_peer_cred(int sock, uid_t *ret_uid, pid_t *ret_pid) _must_check_;

/* Reads a whole file of at most @max bytes. *ret (NUL added) is the caller's to free. */
int file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct err *err)
	_must_check_;
/* True while some process has the file open for writing: what is in it may be the half of it. A
 * file system that cannot tell, or a file of another user, reads as false. */
bool file_is_being_written(const char *path);
/* True when two looks at a path (stat(2)) saw the same file with the same content and mode. */
struct stat;
bool file_unchanged(const struct stat *a, const struct stat *b);
/* Writes through a temporary name in the same directory and renames; mode as given. */
int file_write_atomic(const char *path, const void *p, size_t n, mode_t mode, struct err *err)
	_must_check_;
/* The same, and it survives a crash of the machine: file and directory are synced. */
int file_write_durable(const char *path, const void *p, size_t n, mode_t mode, struct err *err)
	_must_check_;
/* Removes what writers of this path left that were killed: PATH.tmp.*. Not while one writes. */
void file_remove_halves(const char *path);
/* mkdir -p for one path, 0755 for parents, @mode for the last part. Existing is fine. */
int dir_make(const char *path, mode_t mode, struct err *err) _must_check_;
