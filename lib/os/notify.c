/* SPDX-License-Identifier: Apache-2.0
 * notify.c: see notify.h.
 *
 * Not libsystemd: for these datagrams it maps itself and six libraries behind it (compression,
 * gcrypt) into the most privileged processes of a node, 1.2 MiB resident in each at start.
 */
#include "lib/os/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/os/fd.h"

bool notify_enabled(void)
{
	const char *path = getenv("NOTIFY_SOCKET");

	return path != NULL && (path[0] == '/' || path[0] == '@');
}

/* A socket connected to the manager, or -errno. */
static int connect_manager(int type)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const char *path = getenv("NOTIFY_SOCKET");
	_cleanup_close_ int s = -1;
	size_t n = strlen(path);
	socklen_t len;

	if (n >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	memcpy(a.sun_path, path, n);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
	if (path[0] == '@')
		a.sun_path[0] = '\0'; /* the abstract name space */
	s = socket(AF_UNIX, type, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&a, len) < 0)
		return -errno;
	return take_fd(s);
}

int notify_send(const char *state)
{
	_cleanup_close_ int s = -1;
	int r;

	if (!notify_enabled())
		return 0;
	s = connect_manager(SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (s < 0)
		return s;
	r = fd_send(s, state, strlen(state), NULL, 0);
	return r < 0 ? r : 1;
}

int notify_send_fds(const char *state, const int *fds, size_t nfds)
{
	static const struct timeval limit = {.tv_sec = 1};
	_cleanup_close_ int s = -1;
	int r;

	if (!notify_enabled())
		return 0;
	s = connect_manager(SOCK_DGRAM | SOCK_CLOEXEC);
	if (s < 0)
		return s;
	(void)setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	r = fd_send(s, state, strlen(state), fds, nfds);
	return r < 0 ? r : 1;
}

int notify_given_parse(const char *pid, const char *fds, const char *names, long me,
		       struct notify_given *ret)
{
	size_t have = 1;
	uint64_t who, n;

	*ret = (struct notify_given){0};
	if (pid == NULL || fds == NULL)
		return 0;
	if (parse_u64(str_of(pid), 1, INT32_MAX, &who) != 0 ||
	    parse_u64(str_of(fds), 0, NOTIFY_GIVEN_MAX, &n) != 0)
		return -EINVAL;
	if (who != (uint64_t)me || n == 0)
		return 0; /* meant for another process */
	for (const char *c = names; c != NULL && *c != '\0'; c++)
		have += *c == ':';
	if (names != NULL && have != n)
		return -EINVAL;
	*ret = (struct notify_given){.n = n, .names = names != NULL ? str_of(names) : STR("")};
	return 0;
}

bool notify_given_next(struct notify_given *g, int *ret_fd, struct str *ret_name)
{
	if (g->at == g->n)
		return false;
	*ret_fd = NOTIFY_GIVEN_FIRST + (int)g->at++;
	if (!str_cut(&g->names, ':', ret_name)) {
		*ret_name = g->names;
		g->names = (struct str){0};
	}
	return true;
}

int notify_given(struct notify_given *ret)
{
	int r = notify_given_parse(getenv("LISTEN_PID"), getenv("LISTEN_FDS"),
				   getenv("LISTEN_FDNAMES"), getpid(), ret);

	for (size_t i = 0; i < ret->n; i++)
		if (fcntl(NOTIFY_GIVEN_FIRST + (int)i, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	return r;
}

uint64_t notify_watchdog_parse(const char *usec, const char *pid, long me)
{
	uint64_t us, who;

	if (usec == NULL || parse_u64(str_of(usec), 1, UINT64_MAX, &us) != 0)
		return 0;
	if (pid != NULL && (parse_u64(str_of(pid), 1, INT32_MAX, &who) != 0 || who != (uint64_t)me))
		return 0; /* meant for another process */
	return us / 1000 != 0 ? us / 1000 : 1;
}

uint64_t notify_watchdog_ms(void)
{
	return notify_enabled() ? notify_watchdog_parse(getenv("WATCHDOG_USEC"),
							getenv("WATCHDOG_PID"), getpid())
				: 0;
}
