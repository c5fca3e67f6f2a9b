/* SPDX-License-Identifier: Apache-2.0
 * dnsload.c: a resolver that answers everything at once, and queries at a steady rate.
 *
 *   dnsload serve ADDRESS                      answers A 192.0.2.1 on port 53
 *   dnsload ask ADDRESS NAME RATE SECONDS      prints: sent, answered, median and p99 in us;
 *                                              NAME *.x: every query has another name under x
 *
 * Queries go out when their time has come, whether others have been answered or not. They leave
 * from many ports, as those of many lookups do.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOCKETS 128
#define IDS	65536
#define SAMPLES 2000000
#define LAST_MS 1500 /* waited for answers at the end */
#define DIGITS	8    /* of the label that stands for '*' */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static int die(const char *what)
{
	perror(what);
	return 1;
}

static struct sockaddr_in server_at(const char *text)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};

	if (inet_pton(AF_INET, text, &a.sin_addr) != 1)
		exit(die(text));
	return a;
}

static int serve(const char *addr)
{
	struct sockaddr_in a = server_at(addr), peer;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
	static const uint8_t answer[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1};
	uint8_t m[1024];

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return die("bind");
	for (;;) {
		socklen_t len = sizeof(peer);
		ssize_t n = recvfrom(fd, m, 512, 0, (struct sockaddr *)&peer, &len);

		if (n < 17)
			continue;
		m[2] = 0x81; /* an answer, recursion was asked for */
		m[3] = 0x80;
		m[7] = 1;
		memcpy(m + n, answer, sizeof(answer));
		(void)sendto(fd, m, (size_t)n + sizeof(answer), 0, (struct sockaddr *)&peer, len);
	}
}

static size_t make_query(uint8_t *m, const char *name)
{
	size_t n = 12;

	memset(m, 0, 12);
	m[2] = 1;
	m[5] = 1;
	if (*name == '*') {
		m[n] = DIGITS;
		n += 1 + DIGITS;
		name += name[1] == '.' ? 2 : 1;
	}
	while (*name != '\0') {
		size_t label = strcspn(name, ".");

		m[n++] = (uint8_t)label;
		memcpy(m + n, name, label);
		n += label;
		name += label + (name[label] == '.');
	}
	memcpy(m + n, "\0\0\1\0\1", 5);
	return n + 5;
}

/* Not the same in two runs. */
static void make_new(uint8_t *m, uint64_t n)
{
	char digits[DIGITS + 1];

	(void)snprintf(digits, sizeof(digits), "%08x",
		       (unsigned int)(n ^ (uint64_t)getpid() << 20) & 0xffffffffu);
	memcpy(m + 13, digits, DIGITS);
}

struct run {
	struct pollfd fds[SOCKETS];
	uint64_t sent_at[IDS]; /* 0: answered, or never asked */
	uint32_t *us;
	size_t sent, answered;
};

static void take_answers(struct run *r, int fd)
{
	uint8_t m[1024];

	for (;;) {
		ssize_t n = recv(fd, m, sizeof(m), MSG_DONTWAIT);
		unsigned int id = n >= 12 ? (unsigned int)m[0] << 8 | m[1] : 0;

		if (n < 0)
			return;
		if (n < 12 || (m[3] & 15) != 0 || r->sent_at[id] == 0 || r->answered == SAMPLES)
			continue;
		r->us[r->answered++] = (uint32_t)((now_ns() - r->sent_at[id]) / 1000);
		r->sent_at[id] = 0;
	}
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int ask(const char *addr, const char *name, unsigned long rate, unsigned long seconds)
{
	struct sockaddr_in a = server_at(addr);
	struct run *r = calloc(1, sizeof(*r));
	uint64_t start, end, step;
	uint8_t m[512];
	size_t n = make_query(m, name);

	if (r == NULL || rate == 0 || (r->us = calloc(SAMPLES, sizeof(*r->us))) == NULL)
		return die("memory");
	for (int i = 0; i < SOCKETS; i++) {
		r->fds[i] = (struct pollfd){socket(AF_INET, SOCK_DGRAM, 0), POLLIN, 0};
		if (connect(r->fds[i].fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			return die("connect");
	}
	step = 1000000000ull / rate;
	start = now_ns();
	end = start + seconds * 1000000000ull;
	for (uint64_t now = start; now < end + LAST_MS * 1000000ull; now = now_ns()) {
		for (; r->sent * step <= now - start && r->sent < rate * seconds; r->sent++) {
			unsigned int id = (unsigned int)(r->sent % (IDS - 1) + 1);

			m[0] = (uint8_t)(id >> 8);
			m[1] = (uint8_t)id;
			if (*name == '*')
				make_new(m, r->sent);
			r->sent_at[id] = now_ns();
			(void)send(r->fds[r->sent % SOCKETS].fd, m, n, MSG_DONTWAIT);
		}
		if (r->answered == rate * seconds)
			break;
		if (poll(r->fds, SOCKETS, 1) <= 0)
			continue;
		for (int i = 0; i < SOCKETS; i++)
			if (r->fds[i].revents != 0)
				take_answers(r, r->fds[i].fd);
	}
	qsort(r->us, r->answered, sizeof(*r->us), by_size);
	printf("%zu %zu %u %u\n", r->sent, r->answered,
	       r->answered != 0 ? r->us[r->answered / 2] : 0,
	       r->answered != 0 ? r->us[r->answered * 99 / 100] : 0);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		return serve(argv[2]);
	if (argc == 6 && strcmp(argv[1], "ask") == 0)
		return ask(argv[2], argv[3], strtoul(argv[4], NULL, 10),
			   strtoul(argv[5], NULL, 10));
	(void)fprintf(stderr, "usage: dnsload serve ADDRESS | ask ADDRESS NAME RATE SECONDS\n");
	return 2;
}
