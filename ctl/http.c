/* SPDX-License-Identifier: Apache-2.0
 * http.c: see http.h. HTTP/1.0, so that the answer is never chunked and ends with the connection.
 */
#include "ctl/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "lib/base/err.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"

/* Cuts a line off, without its line end. False when there is no whole line. */
static bool take_line(struct str *s, struct str *ret)
{
	if (!str_cut(s, '\n', ret))
		return false;
	if (ret->n != 0 && ret->p[ret->n - 1] == '\r')
		ret->n--;
	return true;
}

static int parse_status(struct str line, unsigned int *ret, struct err *err)
{
	struct str proto, code = line, rest;
	uint32_t v;

	if (!str_has_prefix(line, STR("HTTP/1.")) || !str_cut(&code, ' ', &proto))
		return err_set(err, EINVAL, "not an HTTP answer: %s", str_shown(line));
	rest = code;
	if (str_cut(&rest, ' ', &proto))
		code = proto;
	if (parse_u32(code, 100, 599, &v) != 0)
		return err_set(err, EINVAL, "not an HTTP status: %s", str_shown(line));
	*ret = v;
	return 0;
}

int ctl_answer_parse(struct str text, struct ctl_answer *ret, struct err *err)
{
	struct ctl_answer a = {0};
	struct str line, name;
	uint64_t length = UINT64_MAX;
	int r;

	if (!take_line(&text, &line))
		return err_set(err, EINVAL, "the answer has no HTTP head");
	r = parse_status(line, &a.status, err);
	if (r < 0)
		return r;
	for (;;) {
		if (!take_line(&text, &line))
			return err_set(err, EINVAL, "the HTTP head does not end");
		if (line.n == 0)
			break;
		if (!str_cut(&line, ':', &name))
			return err_set(err, EINVAL, "not an HTTP header: %s", str_shown(line));
		if (str_eq_nocase(name, STR("Transfer-Encoding")))
			return err_set(err, EINVAL, "the answer is chunked, which HTTP/1.0 is not");
		if (str_eq_nocase(name, STR("Content-Length")) &&
		    parse_u64(str_trim(line), 0, CTL_ANSWER_MAX_BYTES, &length) != 0)
			return err_set(err, EINVAL, "not a content length: %s", str_shown(line));
	}
	if (length != UINT64_MAX && text.n < length)
		return err_set(err, EINVAL, "the answer ends after %zu of %llu bytes", text.n,
			       (unsigned long long)length);
	if (length != UINT64_MAX)
		text.n = length;
	a.body = text;
	*ret = a;
	return 0;
}

static int wait_for(int fd, short events, uint64_t deadline_ms, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = events};
	uint64_t now = clock_mono_ms();
	int n = 0;

	if (now < deadline_ms)
		n = poll(&p, 1, (int)(deadline_ms - now));
	if (n < 0 && errno != EINTR)
		return err_errno(err, errno, "poll");
	if (n == 0)
		return err_set(err, ETIMEDOUT, "no answer in time");
	return 0;
}

static int send_all(int fd, struct str s, uint64_t deadline_ms, struct err *err)
{
	while (s.n != 0) {
		ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);
		int r;

		if (n > 0) {
			s.p += n;
			s.n -= (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return err_errno(err, errno, "send");
		r = wait_for(fd, POLLOUT, deadline_ms, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int receive_all(int fd, uint64_t deadline_ms, struct strbuf *text, struct err *err)
{
	char buf[65536];

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		int r;

		if (n == 0)
			return 0;
		if (n > 0) {
			if (text->n + (size_t)n > CTL_ANSWER_MAX_BYTES)
				return err_set(err, E2BIG, "the answer is larger than %u bytes",
					       CTL_ANSWER_MAX_BYTES);
			strbuf_add(text, buf, (size_t)n);
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return err_errno(err, errno, "receive");
		r = wait_for(fd, POLLIN, deadline_ms, err);
		if (r < 0)
			return r;
	}
}

/* A full accept queue answers EAGAIN to a non-blocking connect on a unix socket, and poll() cannot
 * wait for it; short pauses until the deadline can. */
static int connect_until(const char *path, uint64_t deadline_ms, struct err *err)
{
	for (;;) {
		int fd = unix_connect(path, SOCK_STREAM, true, err);

		if (fd != -EAGAIN || clock_mono_ms() + 20 >= deadline_ms)
			return fd;
		(void)poll(NULL, 0, 20);
	}
}

static int connect_tcp(const char *where, uint64_t deadline_ms, struct err *err)
{
	struct str ip, port = str_of(where);
	struct sockaddr_in to = {.sin_family = AF_INET};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(int);
	int error = 0, r;
	uint16_t n;
	char text[16];

	if (!str_cut(&port, ':', &ip) || parse_u16(port, 1, 65535, &n) != 0 ||
	    str_to_cstr(ip, text, sizeof(text), NULL) < 0 ||
	    inet_pton(AF_INET, text, &to.sin_addr) != 1)
		return err_set(err, EINVAL, "expected /path or IPv4:port");
	to.sin_port = htons(n);
	if (fd < 0)
		return err_errno(err, errno, "socket");
	if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)
		return err_errno(err, errno, "connect");
	r = wait_for(fd, POLLOUT, deadline_ms, err);
	if (r < 0)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0)
		return err_errno(err, error != 0 ? error : errno, "connect");
	return take_fd(fd);
}

int ctl_get(const char *socket_path, const char *path, uint64_t deadline_ms, struct strbuf *text,
	    struct ctl_answer *ret, struct err *err)
{
	_cleanup_strbuf_ struct strbuf request = {0};
	bool tcp = strchr(socket_path, '/') == NULL && strchr(socket_path, ':') != NULL;
	_cleanup_close_ int fd = tcp ? connect_tcp(socket_path, deadline_ms, err)
				     : connect_until(socket_path, deadline_ms, err);
	int r;

	if (fd < 0)
		return fd;
	strbuf_printf(&request, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path);
	r = send_all(fd, (struct str){request.p, request.n}, deadline_ms, err);
	if (r == 0)
		r = receive_all(fd, deadline_ms, text, err);
	if (r == 0)
		r = ctl_answer_parse((struct str){text->p, text->n}, ret, err);
	return r < 0 ? err_wrap(err, "%s", socket_path) : 0;
}
