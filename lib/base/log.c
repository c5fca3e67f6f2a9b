/* SPDX-License-Identifier: Apache-2.0
 * log.c: see log.h. The filter is replaced as a whole behind one atomic pointer; old filters are
 * kept (they are small and change only when an operator asks), so that readers need no lock.
 */
#include "lib/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

#define MAX_RULES      16
#define LINE_MAX_BYTES 4096

const char *const log_level_name[LOG_LV_N] = {
	[LOG_LV_OFF] = "off",	[LOG_LV_ERROR] = "error", [LOG_LV_WARN] = "warn",
	[LOG_LV_INFO] = "info", [LOG_LV_DEBUG] = "debug", [LOG_LV_TRACE] = "trace",
};

struct filter {
	struct filter *older; /* keeps replaced filters reachable */
	enum log_level def;
	size_t n;
	struct {
		char scope[48];
		enum log_level lv;
	} rule[MAX_RULES];
};

static struct filter boot = {.def = LOG_LV_INFO};
static _Atomic(struct filter *) current = &boot;
static bool as_json, under_journal;
static _Thread_local void (*thread_sink)(void *, const char *, size_t);
static _Thread_local void *thread_sink_ctx;

void log_init(void)
{
	const char *f = getenv("LOG_FORMAT");

	as_json = f != NULL && strcmp(f, "json") == 0;
	under_journal = getenv("JOURNAL_STREAM") != NULL;
}

static int parse_level(struct str s, enum log_level *ret)
{
	for (int i = 0; i < LOG_LV_N; i++)
		if (str_eqc(s, log_level_name[i])) {
			*ret = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

int log_set_filter(const char *text)
{
	_cleanup_free_ struct filter *f = xcalloc(1, sizeof(*f));
	struct str rest = str_of(text), item;
	bool more = true;

	f->def = LOG_LV_INFO;
	while (more) {
		struct str scope;

		more = str_cut(&rest, ',', &item);
		if (!more)
			item = rest;
		item = str_trim(item);
		if (str_cut(&item, '=', &scope)) {
			if (f->n == MAX_RULES || scope.n == 0 ||
			    str_to_cstr(scope, f->rule[f->n].scope, sizeof(f->rule[0].scope),
					NULL) != 0 ||
			    parse_level(item, &f->rule[f->n].lv) != 0)
				return -EINVAL;
			f->n++;
		} else if (parse_level(item, &f->def) != 0) {
			return -EINVAL;
		}
	}
	f->older = atomic_load_explicit(&current, memory_order_relaxed);
	/* pairs with the acquire load in log_enabled() */
	atomic_store_explicit(&current, take_ptr(f), memory_order_release);
	return 0;
}

bool log_enabled(enum log_level lv, const char *scope)
{
	const struct filter *f = atomic_load_explicit(&current, memory_order_acquire);
	enum log_level max = f->def;

	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->rule[i].scope, scope) == 0)
			max = f->rule[i].lv;
	return lv <= max;
}

static size_t json_escape(char *out, size_t cap, const char *s, size_t n)
{
	size_t o = 0;

	for (size_t i = 0; i < n && o + 7 < cap; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == '"' || c == '\\') {
			out[o++] = '\\';
			out[o++] = (char)c;
		} else if (c < 0x20) {
			o += (size_t)snprintf(out + o, cap - o, "\\u%04x", c);
		} else {
			out[o++] = (char)c;
		}
	}
	return o;
}

size_t log_format(char *buf, size_t cap, long long wall_us, enum log_level lv, const char *scope,
		  const char *msg, size_t msg_len)
{
	static const int priority[LOG_LV_N] = {6, 3, 4, 6, 7, 7};
	time_t sec = (time_t)(wall_us / 1000000);
	struct tm tm;
	char ts[96];
	size_t o;
	int n;

	gmtime_r(&sec, &tm);
	n = snprintf(ts, sizeof(ts), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year + 1900,
		     tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		     (int)(wall_us % 1000000));
	(void)n;
	if (as_json) {
		n = snprintf(buf, cap,
			     "{\"level\":\"%s\",\"time\":\"%s\",\"scope\":\"%s\",\"message\":\"",
			     log_level_name[lv], ts, scope);
		o = (size_t)n;
		o += json_escape(buf + o, cap - o - 4, msg, msg_len);
		memcpy(buf + o, "\"}\n", 3);
		return o + 3;
	}
	if (under_journal)
		n = snprintf(buf, cap, "<%d>%s\t%s\t", priority[lv], log_level_name[lv], scope);
	else
		n = snprintf(buf, cap, "%s\t%s\t%s\t", ts, log_level_name[lv], scope);
	o = (size_t)n;
	if (msg_len > cap - o - 1)
		msg_len = cap - o - 1;
	for (size_t i = 0; i < msg_len; i++) /* one event is one line */
		buf[o + i] = msg[i] == '\n' || msg[i] == '\r' ? ' ' : msg[i];
	o += msg_len;
	buf[o++] = '\n';
	return o;
}

void log_write(enum log_level lv, const char *scope, const char *fmt, ...)
{
	char msg[LINE_MAX_BYTES], line[LINE_MAX_BYTES + 256];
	struct timespec ts;
	va_list ap;
	size_t n;
	int m, saved = errno;

	va_start(ap, fmt);
	m = vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	if (m < 0)
		m = 0;
	if ((size_t)m >= sizeof(msg))
		m = sizeof(msg) - 1;
	clock_gettime(CLOCK_REALTIME, &ts);
	n = log_format(line, sizeof(line), (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000, lv,
		       scope, msg, (size_t)m);
	if (thread_sink != NULL)
		thread_sink(thread_sink_ctx, line, n);
	else if (write(STDERR_FILENO, line, n) < 0)
		errno = saved; /* nowhere left to report it */
	errno = saved;
}

void log_set_thread_sink(void (*sink)(void *, const char *, size_t), void *ctx)
{
	thread_sink = sink;
	thread_sink_ctx = ctx;
}

bool log_ratelimit_ok(struct log_ratelimit *rl, unsigned int burst, unsigned int per_ms,
		      unsigned int *ret_suppressed)
{
	struct timespec ts;
	long long now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	now = (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	*ret_suppressed = 0;
	if (rl->count == 0 || now - rl->window_start_ms >= (long long)per_ms) {
		*ret_suppressed = rl->suppressed;
		rl->suppressed = 0;
		rl->window_start_ms = now;
		rl->count = 0;
	}
	if (rl->count >= burst) {
		rl->suppressed++;
		return false;
	}
	rl->count++;
	return true;
}
