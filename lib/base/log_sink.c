/* SPDX-License-Identifier: Apache-2.0
 * log_sink.c: see log_sink.h. The buffer is a ring of bytes; a line that was begun is always ended.
 */
#include "lib/base/log_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/limits.h"
#include "lib/base/log.h"

#define NOTE_BYTES 256

enum kind { KIND_FILE, KIND_NONBLOCK, KIND_SOCKET, KIND_POLLED };

static struct {
	pthread_mutex_t lock;
	enum kind kind;
	int fd;	   /* STDERR_FILENO, or our own description of the same thing */
	char *buf; /* LIMIT_LOG_BYTES; NULL until something had to be kept */
	size_t at, n;
	uint64_t dropped, told;
	void (*backlog)(void *);
	void *backlog_ctx;
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO};

static void look_at(void)
{
	struct stat st;
	int fd;

	g.kind = KIND_FILE;
	if (fstat(STDERR_FILENO, &st) < 0 || S_ISREG(st.st_mode))
		return;
	g.kind = S_ISSOCK(st.st_mode) ? KIND_SOCKET : KIND_POLLED;
	if (g.kind == KIND_SOCKET)
		return;
	fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return; /* no /proc, or not ours to open: POLLED does as well */
	g.kind = KIND_NONBLOCK;
	g.fd = fd;
}

void log_sink_open(void)
{
	(void)pthread_mutex_lock(&g.lock);
	if (g.fd != STDERR_FILENO)
		(void)close(g.fd);
	g.fd = STDERR_FILENO;
	look_at();
	(void)pthread_mutex_unlock(&g.lock);
}

/* One system call; bytes taken, 0 when it would block, -1 when nobody is there any more. */
static ssize_t write_once(const char *p, size_t n)
{
	struct pollfd pfd = {.fd = g.fd, .events = POLLOUT};
	ssize_t r;

	if (g.kind == KIND_POLLED) {
		if (poll(&pfd, 1, 0) != 1)
			return 0;
		n = n < PIPE_BUF ? n : PIPE_BUF; /* writable means: this much at least */
	}
	do
		r = g.kind == KIND_SOCKET ? send(g.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL)
					  : write(g.fd, p, n);
	while (r < 0 && errno == EINTR);
	return r < 0 && errno == EAGAIN ? 0 : r;
}

/* Returns how much is done with: taken, or lost together with its reader. */
static size_t write_some(const char *p, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = write_once(p + done, n - done);

		if (r < 0)
			return n;
		if (r == 0)
			break;
		done += (size_t)r;
	}
	return done;
}

static void append(const char *p, size_t n)
{
	size_t end = (g.at + g.n) % LIMIT_LOG_BYTES, first = LIMIT_LOG_BYTES - end;

	first = first < n ? first : n;
	memcpy(g.buf + end, p, first);
	memcpy(g.buf, p + first, n - first);
	g.n += n;
}

static size_t make_note(char note[NOTE_BYTES])
{
	char msg[96];
	int n = snprintf(msg, sizeof(msg), "standard error was not read: lines dropped=%llu",
			 (unsigned long long)(g.dropped - g.told));

	return log_line_now(note, NOTE_BYTES, LOG_LV_WARN, "log", msg, (size_t)n);
}

/* One whole line, or the rest of one that was begun (@begun: it must fit). */
static void keep_line(const char *p, size_t n, bool begun)
{
	size_t room = LIMIT_LOG_BYTES - g.n;

	if (!begun && g.dropped != g.told && room >= n + NOTE_BYTES) {
		char note[NOTE_BYTES];

		append(note, make_note(note));
		g.told = g.dropped;
		room = LIMIT_LOG_BYTES - g.n;
	}
	/* room for the note is kept free, so that it comes where the lines are missing */
	if ((begun && room >= n) || (g.dropped == g.told && room >= n + NOTE_BYTES))
		append(p, n);
	else
		g.dropped++;
}

static void keep(const char *p, size_t n, bool begun)
{
	if (g.buf == NULL)
		g.buf = malloc(LIMIT_LOG_BYTES);
	while (n != 0) {
		const char *nl = memchr(p, '\n', n);
		size_t line = nl != NULL ? (size_t)(nl - p) + 1 : n;

		if (g.buf != NULL)
			keep_line(p, line, begun);
		else
			g.dropped++;
		begun = false;
		p += line;
		n -= line;
	}
}

static bool flush(void)
{
	while (g.n != 0) {
		size_t first = LIMIT_LOG_BYTES - g.at < g.n ? LIMIT_LOG_BYTES - g.at : g.n;
		size_t done = write_some(g.buf + g.at, first);

		g.at = (g.at + done) % LIMIT_LOG_BYTES;
		g.n -= done;
		if (done < first)
			return false;
	}
	if (g.dropped != g.told && g.buf != NULL) {
		char note[NOTE_BYTES];

		g.at = 0;
		append(note, make_note(note));
		g.told = g.dropped;
		return flush();
	}
	free(g.buf);
	g.buf = NULL;
	g.at = 0;
	return true;
}

void log_sink_put(const char *lines, size_t n)
{
	int saved = errno;
	bool waited, waits;
	size_t done = 0;
	void (*backlog)(void *) = NULL;
	void *ctx;

	(void)pthread_mutex_lock(&g.lock);
	waited = g.buf != NULL;
	if (!waited || flush())
		done = write_some(lines, n);
	if (done < n)
		keep(lines + done, n - done, done != 0 && lines[done - 1] != '\n');
	waits = g.buf != NULL;
	if (waits && !waited)
		backlog = g.backlog;
	ctx = g.backlog_ctx;
	(void)pthread_mutex_unlock(&g.lock);
	if (backlog != NULL)
		backlog(ctx);
	errno = saved;
}

bool log_sink_flush(void)
{
	bool empty;

	(void)pthread_mutex_lock(&g.lock);
	empty = flush();
	(void)pthread_mutex_unlock(&g.lock);
	return empty;
}

int log_sink_fd(void)
{
	return g.fd;
}

uint64_t log_sink_dropped(void)
{
	uint64_t n;

	(void)pthread_mutex_lock(&g.lock);
	n = g.dropped;
	(void)pthread_mutex_unlock(&g.lock);
	return n;
}

void log_sink_on_backlog(void (*fn)(void *ctx), void *ctx)
{
	(void)pthread_mutex_lock(&g.lock);
	g.backlog = fn;
	g.backlog_ctx = ctx;
	(void)pthread_mutex_unlock(&g.lock);
}

void log_sink_close(void)
{
	struct pollfd pfd = {.fd = g.fd, .events = POLLOUT};

	log_sink_on_backlog(NULL, NULL);
	while (!log_sink_flush() && poll(&pfd, 1, LOG_SINK_LAST_MS) == 1)
		;
	(void)pthread_mutex_lock(&g.lock);
	free(g.buf);
	g.buf = NULL;
	g.n = g.at = 0;
	g.told = g.dropped; /* there is nobody to tell */
	if (g.fd != STDERR_FILENO)
		(void)close(g.fd);
	g.fd = STDERR_FILENO;
	g.kind = KIND_FILE;
	(void)pthread_mutex_unlock(&g.lock);
}
