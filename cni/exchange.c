/* SPDX-License-Identifier: Apache-2.0
 * exchange.c: see exchange.h.
 */
#include "cni/exchange.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cni/rpc.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"

static uint64_t left_ms(uint64_t deadline_ms)
{
	uint64_t now = clock_mono_ms();

	return deadline_ms > now ? deadline_ms - now : 0;
}

/* 0, -ETIMEDOUT or -errno. */
static int wait_fd(int fd, short events, uint64_t deadline_ms)
{
	struct pollfd p = {.fd = fd, .events = events};
	int r;

	do
		r = poll(&p, 1, (int)left_ms(deadline_ms));
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	return r == 0 ? -ETIMEDOUT : 0;
}

int exchange_read_all(int fd, size_t max, uint64_t deadline_ms, char **ret, size_t *ret_len,
		      struct err *err)
{
	size_t cap = 16384, n = 0;
	_cleanup_free_ char *buf = xmalloc(cap);

	for (;;) {
		ssize_t k;
		int r = wait_fd(fd, POLLIN, deadline_ms);

		if (r == -ETIMEDOUT)
			return err_set(err, ETIMEDOUT, "its end did not come in time");
		if (r < 0)
			return err_errno(err, -r, "wait");
		k = read(fd, buf + n, cap - n);
		if (k < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (k < 0)
			return err_errno(err, errno, "read");
		if (k == 0)
			break;
		n += (size_t)k;
		if (n > max)
			return err_set(err, EFBIG, "more than %zu bytes", max);
		if (n == cap) {
			cap *= 2;
			buf = xrealloc_array(buf, cap, 1);
		}
	}
	*ret = take_ptr(buf);
	*ret_len = n;
	return 0;
}

/* A blocking connect with a send time limit: a unix socket whose queue is full makes connect wait,
 * and poll() cannot wait for that. */
static int connect_agent(const char *path, uint64_t deadline_ms, struct err *err)
{
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	uint64_t left = left_ms(deadline_ms);
	struct timeval tv = {.tv_sec = (time_t)(left / 1000),
			     .tv_usec = (suseconds_t)(left % 1000 * 1000)};

	if (s < 0)
		return err_errno(err, errno, "socket");
	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(err, ENAMETOOLONG, "the path is too long");
	memcpy(a.sun_path, path, strlen(path) + 1);
	if (left == 0)
		return err_set(err, ETIMEDOUT, "no time was left to connect");
	if (setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
		return err_errno(err, errno, "set time limit");
	if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0) {
		if (errno == EAGAIN)
			return err_set(err, ETIMEDOUT, "it does not accept connections");
		return err_errno(err, errno, "connect");
	}
	return take_fd(s);
}

/* An answer decides whether a pod may run outside of the mesh, so not everybody may give it. */
static int check_peer(int s, struct err *err)
{
	uid_t uid;
	int r = fd_peer_cred(s, &uid, NULL);

	if (r < 0)
		return err_errno(err, -r, "peer credentials");
	if (uid != 0 && uid != (uid_t)getauxval(AT_EUID))
		return err_set(err, EKEYREJECTED, "who listens there has uid %u, not 0", uid);
	return 0;
}

static int send_all(int s, struct str request, uint64_t deadline_ms, struct err *err)
{
	while (request.n != 0) {
		ssize_t k = send(s, request.p, request.n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (k > 0) {
			request.p += k;
			request.n -= (size_t)k;
		} else if (k < 0 && errno == EAGAIN) {
			if (wait_fd(s, POLLOUT, deadline_ms) < 0)
				return err_set(err, ETIMEDOUT, "it does not take the request");
		} else if (k < 0 && errno == EPIPE) {
			return 0; /* an answer, or its absence, says more */
		} else if (k < 0 && errno != EINTR) {
			return err_errno(err, errno, "send");
		}
	}
	return 0;
}

static int receive(int s, uint64_t deadline_ms, struct arena *a, struct http_answer *ret,
		   struct err *err)
{
	_cleanup_free_ char *buf = xmalloc(RPC_ANSWER_MAX + 1);
	struct http_answer got = {0};
	size_t n = 0;
	int r = 0;

	while (r == 0) {
		ssize_t k;

		if (wait_fd(s, POLLIN, deadline_ms) < 0)
			return err_set(err, ETIMEDOUT, "%s",
				       n != 0 ? "it did not finish its answer in time"
					      : "it did not answer in time");
		k = recv(s, buf + n, RPC_ANSWER_MAX + 1 - n, MSG_DONTWAIT);
		if (k < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (k < 0 && errno != ECONNRESET)
			return err_errno(err, errno, "receive");
		n += k > 0 ? (size_t)k : 0;
		if (n > RPC_ANSWER_MAX)
			return err_set(err, EMSGSIZE, "its answer is longer than %u bytes",
				       RPC_ANSWER_MAX);
		r = http_answer_parse((struct str){buf, n}, k <= 0, a, &got, err);
	}
	if (r < 0)
		return r;
	got.body = (struct str){arena_strndup(a, got.body.p, got.body.n), got.body.n};
	*ret = got;
	return 0;
}

int exchange_agent(const char *path, struct str request, uint64_t deadline_ms, struct arena *a,
		   struct http_answer *ret, struct err *err)
{
	_cleanup_close_ int s = connect_agent(path, deadline_ms, err);
	int r;

	if (s < 0)
		return s;
	r = check_peer(s, err);
	if (r == 0)
		r = send_all(s, request, deadline_ms, err);
	if (r == 0)
		r = receive(s, deadline_ms, a, ret, err);
	return r;
}

int exchange_write_all(int fd, const char *p, size_t n)
{
	while (n != 0) {
		ssize_t k = write(fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}
