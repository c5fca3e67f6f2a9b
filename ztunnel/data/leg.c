/* SPDX-License-Identifier: Apache-2.0
 * leg.c: one TCP socket: readiness flags, addresses, the two ways to close.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define ORIGINAL_DST 80 /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: kernel headers clash */

void leg_init(struct leg *l)
{
	*l = (struct leg){.w = {.fd = -1}};
}

int leg_watch(struct worker *w, struct leg *l, void (*fn)(struct watch *, uint32_t))
{
	if (l->w.added) { /* since dial.c waited for it, with EPOLLOUT; its edges are spent */
		l->w.fn = fn;
		l->out_armed = l->rd_ready = true;
		return 0;
	}
	return loop_watch(w->loop, &l->w, l->w.fd, LEG_READ, fn);
}

void leg_events(struct leg *l, uint32_t events)
{
	/* read until the end: a short read proves nothing (recv() stops at urgent data as well) */
	if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) != 0)
		l->rdhup = l->rd_ready = true;
	if ((events & EPOLLERR) != 0)
		l->error = true;
	if ((events & EPOLLIN) != 0)
		l->rd_ready = true;
	if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0)
		l->wr_block = false;
}

void leg_blocked(struct worker *w, struct leg *l)
{
	l->wr_block = true;
	if (l->out_armed || !l->w.added)
		return;
	l->out_armed = true;
	bug_on(loop_rewatch(w->loop, &l->w, LEG_READ | EPOLLOUT) < 0);
}

void sock_ends_in_reset(int fd, bool yes)
{
	struct linger lin = {.l_onoff = yes, .l_linger = 0};

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &lin, sizeof(lin));
}

/* The last descriptor of a socket takes its epoll entry along: one system call less. */
static void close_fd(struct leg *l)
{
	l->w.added = false;
	l->w.fd = xclose(l->w.fd);
}

void leg_close(struct worker *w, struct leg *l)
{
	(void)w;
	if (l->w.fd >= 0)
		sock_ends_in_reset(l->w.fd, false);
	close_fd(l);
}

void leg_reset(struct pod *p, struct leg *l)
{
	if (l->w.fd >= 0)
		sock_ends_in_reset(l->w.fd, true);
	if (!reset_later(p, l))
		close_fd(l);
}

int leg_so_error(const struct leg *l)
{
	int e = 0;
	socklen_t n = sizeof(e);

	return getsockopt(l->w.fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0 ? errno : e;
}

int sockaddr_to_ip_port(const void *sa, struct ip_port *ret)
{
	const struct sockaddr_in *a4 = sa;
	const struct sockaddr_in6 *a6 = sa;
	struct ip_port a = {0};

	if (a4->sin_family == AF_INET) {
		a.port = ntohs(a4->sin_port);
		if (ip_from_bytes(&a4->sin_addr, 4, &a.ip) < 0)
			return -EINVAL;
	} else if (a4->sin_family == AF_INET6) {
		a.port = ntohs(a6->sin6_port);
		if (ip_from_bytes(&a6->sin6_addr, 16, &a.ip) < 0)
			return -EINVAL;
	} else {
		return -EAFNOSUPPORT;
	}
	*ret = a;
	return 0;
}

socklen_t ip_port_to_sockaddr(const struct ip_port *a, int family, void *storage)
{
	struct sockaddr_in *a4 = storage;
	struct sockaddr_in6 *a6 = storage;

	if (family == AF_INET) {
		*a4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(a->port)};
		memcpy(&a4->sin_addr, a->ip.b, 4);
		return sizeof(*a4);
	}
	*a6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
	if (a->ip.len == 4) {
		a6->sin6_addr.s6_addr[10] = a6->sin6_addr.s6_addr[11] = 0xff;
		memcpy(a6->sin6_addr.s6_addr + 12, a->ip.b, 4);
	} else {
		memcpy(&a6->sin6_addr, a->ip.b, 16);
	}
	return sizeof(*a6);
}

int sock_local_addr(int fd, struct ip_port *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		return -errno;
	return sockaddr_to_ip_port(&ss, ret);
}

int sock_original_dst(int fd, struct ip_port *ret)
{
	struct sockaddr_storage ss = {0};
	socklen_t n = sizeof(struct sockaddr_in);

	if (getsockopt(fd, SOL_IP, ORIGINAL_DST, &ss, &n) == 0)
		return sockaddr_to_ip_port(&ss, ret);
	n = sizeof(struct sockaddr_in6);
	if (getsockopt(fd, SOL_IPV6, ORIGINAL_DST, &ss, &n) == 0)
		return sockaddr_to_ip_port(&ss, ret);
	return sock_local_addr(fd, ret); /* TPROXY, or not redirected (ztunnel-spec 1.7) */
}

void sock_stream_options(int fd)
{
	int one = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}
