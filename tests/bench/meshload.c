/* SPDX-License-Identifier: Apache-2.0
 * meshload.c: the load client and server of the benchmarks: one thread, epoll, figures as one JSON
 * line.
 *
 *   meshload serve PORT                       echo on PORT, sink on PORT+1, never reads on PORT+2;
 *                                             runs until standard input ends
 *   meshload crr  IP PORT CONNS SECS [RATE]   connect, 1 byte each way, close
 *   meshload rr   IP PORT CONNS SECS SIZE [RATE]  ping-pong of SIZE bytes on kept connections
 *   meshload bulk IP PORT FLOWS SECS          streams to PORT+1
 *   meshload idle IP PORT CONNS               opens, one echo each, prints, holds until standard
 *                                             input ends
 *
 * RATE: an open loop of so many per second.
 * Latency of an open loop counts from the moment a request was due. Not here: judging the figures.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/os/clock.h"

#define BULK_CHUNK  (128 * 1024)
#define MAX_SAMPLES 4000000

struct conn {
	int fd;
	enum { C_FREE, C_CONNECTING, C_IDLE, C_WAIT_REPLY, C_BULK } state;
	uint64_t due_ns;
	size_t got;
};

static struct {
	int ep;
	struct sockaddr_in to;
	struct conn *conns;
	size_t nconns, size;
	uint64_t ok, failed, bytes, unfinished;
	uint32_t *samples_us;
	size_t nsamples;
	bool paced; /* kept connections, requests when they are due */
	int first_errno;
} g;

static char chunk[BULK_CHUNK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void sample(uint64_t since_ns)
{
	if (g.nsamples < MAX_SAMPLES)
		g.samples_us[g.nsamples++] = (uint32_t)((clock_mono_ns() - since_ns) / 1000);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint32_t quantile(double q)
{
	return g.nsamples == 0 ? 0 : g.samples_us[(size_t)(q * (double)(g.nsamples - 1))];
}

static void report(double secs)
{
	qsort(g.samples_us, g.nsamples, sizeof(uint32_t), by_value);
	printf("{\"secs\":%.3f,\"ok\":%llu,\"failed\":%llu,\"unfinished\":%llu,\"bytes\":%llu,"
	       "\"p50_us\":%u,\"p90_us\":%u,\"p99_us\":%u,\"max_us\":%u,\"error\":\"%s\"}\n",
	       secs, (unsigned long long)g.ok, (unsigned long long)g.failed,
	       (unsigned long long)g.unfinished, (unsigned long long)g.bytes, quantile(.5),
	       quantile(.9), quantile(.99), quantile(1),
	       g.first_errno ? strerror(g.first_errno) : "");
	fflush(stdout);
}

static void fail(struct conn *c, int e)
{
	if (g.first_errno == 0)
		g.first_errno = e;
	g.failed++;
	close(c->fd);
	c->state = C_FREE;
}

static void start(struct conn *c, uint64_t due_ns)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->due_ns = due_ns;
	c->got = 0;
	c->state = C_CONNECTING;
	if (connect(c->fd, (struct sockaddr *)&g.to, sizeof(g.to)) < 0 && errno != EINPROGRESS) {
		fail(c, errno);
		return;
	}
	if (epoll_ctl(g.ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		die("epoll_ctl");
}

/* True while the connection may go on. */
static bool send_request(struct conn *c)
{
	ssize_t n = send(c->fd, chunk, g.size, MSG_NOSIGNAL);

	if (n != (ssize_t)g.size) {
		fail(c, n < 0 ? errno : EIO);
		return false;
	}
	c->got = 0;
	c->state = C_WAIT_REPLY;
	return true;
}

/* True when the socket would take more: it gets no further edge and must be pumped again. */
static bool pump_bulk(struct conn *c)
{
	for (int i = 0; i < 4; i++) {
		ssize_t n = send(c->fd, chunk, sizeof(chunk), MSG_NOSIGNAL);

		if (n < 0) {
			if (errno != EAGAIN)
				fail(c, errno);
			return false;
		}
		g.bytes += (uint64_t)n;
	}
	return true;
}

/* One event of a client connection; returns true when a request was completed. */
static bool advance(struct conn *c, bool bulk)
{
	static char in[65536];

	if (c->state == C_CONNECTING) {
		int e = 0;
		socklen_t n = sizeof(e);
		struct tcp_info ti;
		socklen_t tn = sizeof(ti);

		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n);
		if (e != 0) {
			fail(c, e);
			return false;
		}
		if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &ti, &tn) < 0 ||
		    ti.tcpi_state == TCP_SYN_SENT)
			return false;
		if (bulk)
			c->state = C_BULK;
		else if (g.paced)
			c->state = C_IDLE;
		else if (!send_request(c))
			return false;
	}
	if (c->state != C_WAIT_REPLY)
		return false;
	for (;;) {
		ssize_t n = recv(c->fd, in, sizeof(in), 0);

		if (n < 0 && errno == EAGAIN)
			return false;
		if (n <= 0) {
			fail(c, n < 0 ? errno : ECONNRESET);
			return false;
		}
		c->got += (size_t)n;
		if (c->got >= g.size)
			break;
	}
	sample(c->due_ns);
	g.ok++;
	return true;
}

static struct conn *next_in(int state)
{
	static size_t hint;

	for (size_t i = 0; i < g.nconns; i++) {
		struct conn *c = &g.conns[(hint + i) % g.nconns];

		if ((int)c->state == state) {
			hint = (hint + i + 1) % g.nconns;
			return c;
		}
	}
	return NULL;
}

static void client(const char *mode, double secs, double rate)
{
	bool crr = strcmp(mode, "crr") == 0, bulk = strcmp(mode, "bulk") == 0,
	     idle = strcmp(mode, "idle") == 0;
	uint64_t t0 = clock_mono_ns(), end = t0 + (uint64_t)(secs * 1e9), started = 0;
	bool stopping = false, writable = false;

	if (rate == 0 || g.paced)
		for (size_t i = 0; i < g.nconns; i++)
			start(&g.conns[i], clock_mono_ns());
	for (;;) {
		struct epoll_event ev[256];
		uint64_t now = clock_mono_ns();
		int n, wait = 20;

		if (now >= end && !stopping)
			stopping = true;
		if (stopping && (!crr || now >= end + 2000000000ull))
			break;
		if (bulk && writable)
			wait = 0;
		if (rate != 0 && !stopping) {
			uint64_t due = (uint64_t)((double)(now - t0) / 1e9 * rate);
			struct conn *c;

			while (started < due && (c = next_in(g.paced ? C_IDLE : C_FREE)) != NULL) {
				uint64_t due_ns = t0 + (uint64_t)((double)started++ / rate * 1e9);

				if (!g.paced) {
					start(c, due_ns);
				} else {
					c->due_ns = due_ns;
					(void)send_request(c);
				}
			}
			wait = 1;
		}
		n = epoll_wait(g.ep, ev, 256, wait);
		for (int i = 0; i < n; i++) {
			struct conn *c = ev[i].data.ptr;

			if (c->state == C_FREE)
				continue;
			if (c->state == C_BULK) {
				continue; /* pumped below */
			}
			if (!advance(c, bulk)) {
				if (c->state == C_FREE && crr && rate == 0 && !stopping)
					start(c, clock_mono_ns());
				continue;
			}
			if (crr) {
				close(c->fd);
				c->state = C_FREE;
				if (rate == 0 && !stopping)
					start(c, clock_mono_ns());
			} else if (g.paced) {
				c->state = C_IDLE;
			} else if (!idle) {
				c->due_ns = clock_mono_ns();
				(void)send_request(c);
			}
		}
		writable = false;
		for (size_t i = 0; bulk && i < g.nconns; i++)
			if (g.conns[i].state == C_BULK)
				writable |= pump_bulk(&g.conns[i]);
		if (crr && stopping) {
			bool busy = false;

			for (size_t i = 0; i < g.nconns; i++)
				busy |= g.conns[i].state != C_FREE;
			if (!busy)
				break;
		}
		if (idle && g.ok + g.failed >= g.nconns)
			break;
	}
	for (size_t i = 0; crr && i < g.nconns; i++)
		g.unfinished += g.conns[i].state != C_FREE;
	report((double)(clock_mono_ns() - t0) / 1e9);
	if (idle)
		while (read(STDIN_FILENO, chunk, sizeof(chunk)) > 0)
			;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, s = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (s >= 0) {
		setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(s, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(s, 4096) == 0)
			return s;
		close(s);
	}
	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s, (struct sockaddr *)&a4, sizeof(a4)) < 0 || listen(s, 4096) < 0)
		die("listen");
	return s;
}

/* data.u64 of the server: descriptor, and what is done with it. */
enum { ECHO, SINK, STALL, KINDS };
#define SRV(fd, kind) ((uint64_t)(fd) << 2 | (kind))

static void serve_conn(int fd, uint64_t kind)
{
	static char buf[1 << 20];

	if (kind == STALL) { /* an error, or the end of both directions */
		close(fd);
		return;
	}

	for (int i = 0; i < 8; i++) {
		ssize_t n = recv(fd, buf, sizeof(buf), kind == SINK ? MSG_TRUNC : 0);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close(fd);
			return;
		}
		if (kind == ECHO && send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n) {
			close(fd);
			return;
		}
	}
}

static void serve(uint16_t port)
{
	int ls[KINDS], ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev[256];

	for (uint64_t i = 0; i < KINDS; i++) {
		struct epoll_event e = {.events = EPOLLIN};

		ls[i] = listen_on((uint16_t)(port + i));
		e.data.u64 = SRV(ls[i], i);

		epoll_ctl(ep, EPOLL_CTL_ADD, ls[i], &e);
	}
	ev[0] = (struct epoll_event){.events = EPOLLIN, .data.u64 = SRV(STDIN_FILENO, 0)};
	epoll_ctl(ep, EPOLL_CTL_ADD, STDIN_FILENO, &ev[0]);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int n = epoll_wait(ep, ev, 256, -1);

		for (int i = 0; i < n; i++) {
			int fd = (int)(ev[i].data.u64 >> 2);
			uint64_t kind = ev[i].data.u64 & 3;

			if (fd == STDIN_FILENO) {
				if (read(fd, chunk, sizeof(chunk)) <= 0)
					return;
			} else if (fd == ls[kind]) {
				int c;

				while ((c = accept4(fd, NULL, NULL,
						    SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
					struct epoll_event e = {.events =
									kind == STALL ? 0 : EPOLLIN,
								.data.u64 = SRV(c, kind)};
					int one = 1;

					setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
					epoll_ctl(ep, EPOLL_CTL_ADD, c, &e);
				}
			} else {
				serve_conn(fd, kind);
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct rlimit rl;
	long port, conns;
	double rate = 0;

	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &rl);
	}
	if (argc == 3 && strcmp(argv[1], "serve") == 0) {
		serve((uint16_t)strtol(argv[2], NULL, 10));
		return 0;
	}
	if (argc < 5) {
		fprintf(stderr, "usage: meshload serve PORT | crr|rr|bulk|idle IP PORT CONNS [SECS "
				"[RATE|SIZE [RATE]]]\n");
		return 2;
	}
	port = strtol(argv[3], NULL, 10);
	conns = strtol(argv[4], NULL, 10);
	g.to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	if (inet_pton(AF_INET, argv[2], &g.to.sin_addr) != 1)
		die("address");
	if (strcmp(argv[1], "bulk") == 0)
		g.to.sin_port = htons((uint16_t)(port + 1));
	g.ep = epoll_create1(EPOLL_CLOEXEC);
	g.size = strcmp(argv[1], "rr") == 0 && argc > 6 ? (size_t)strtol(argv[6], NULL, 10) : 1;
	g.nconns = (size_t)conns;
	if (strcmp(argv[1], "crr") == 0 && argc > 6)
		g.nconns = 4096; /* an open loop takes as many as it needs */
	g.conns = calloc(g.nconns, sizeof(*g.conns));
	g.samples_us = malloc(MAX_SAMPLES * sizeof(*g.samples_us));
	if (g.conns == NULL || g.samples_us == NULL)
		die("memory");
	g.paced = strcmp(argv[1], "rr") == 0 && argc > 7;
	if (g.paced)
		rate = strtod(argv[7], NULL);
	else if (strcmp(argv[1], "crr") == 0 && argc > 6)
		rate = strtod(argv[6], NULL);
	client(argv[1], argc > 5 ? strtod(argv[5], NULL) : 30, rate);
	return 0;
}
