/* SPDX-License-Identifier: Apache-2.0
 * log.c: see log.h. The filter is a few atomic words, so readers need no lock and a change needs no
 * memory. Scopes are compared by their hashes.
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

#include "lib/base/hash.h"
#include "lib/base/log_sink.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define TIME_TEXT_MAX	96
#define MAX_RULES	16
#define SCOPE_MAX	47
#define FILTER_TEXT_MAX (16 + MAX_RULES * (SCOPE_MAX + 8))
#define LINE_MAX_BYTES	4096

const char *const log_level_name[LOG_LV_N] = {
	[LOG_LV_OFF] = "off",	[LOG_LV_ERROR] = "error", [LOG_LV_WARN] = "warn",
	[LOG_LV_INFO] = "info", [LOG_LV_DEBUG] = "debug", [LOG_LV_TRACE] = "trace",
};

/* One word per rule: hash of the scope, and the level in its lowest three bits; 0: no rule. */
#define LEVEL_BITS 7u

static struct {
	_Atomic uint8_t def;
	_Atomic uint32_t n; /* rules in use, the rest is 0 */
	_Atomic uint64_t rule[MAX_RULES];
} filter = {.def = LOG_LV_INFO};
static char filter_text[FILTER_TEXT_MAX] = "info"; /* of the thread that changes it */
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

/* A filter as it was written, one rule per scope. */
struct parsed {
	enum log_level def;
	size_t n;
	struct {
		struct str scope;
		enum log_level lv;
	} rule[MAX_RULES];
};

static int add_rule(struct parsed *p, struct str scope, enum log_level lv)
{
	size_t i = 0;

	while (i < p->n && !str_eq(p->rule[i].scope, scope))
		i++;
	if (i == MAX_RULES || scope.n == 0 || scope.n > SCOPE_MAX)
		return -EINVAL;
	p->rule[i].scope = scope;
	p->rule[i].lv = lv;
	if (i == p->n)
		p->n++;
	return 0;
}

static int parse(const char *text, struct parsed *p)
{
	struct str rest = str_of(text), item;
	bool more = true;

	*p = (struct parsed){.def = LOG_LV_INFO};
	while (more) {
		struct str scope;
		enum log_level lv;
		bool scoped;

		more = str_cut(&rest, ',', &item);
		if (!more)
			item = rest;
		item = str_trim(item);
		scoped = str_cut(&item, '=', &scope);
		if (parse_level(item, &lv) != 0)
			return -EINVAL;
		if (!scoped)
			p->def = lv;
		else if (add_rule(p, scope, lv) != 0)
			return -EINVAL;
	}
	return 0;
}

static void remember_text(const struct parsed *p)
{
	size_t o = (size_t)snprintf(filter_text, sizeof(filter_text), "%s", log_level_name[p->def]);

	for (size_t i = 0; i < p->n; i++)
		o += (size_t)snprintf(filter_text + o, sizeof(filter_text) - o, ",%.*s=%s",
				      (int)p->rule[i].scope.n, p->rule[i].scope.p,
				      log_level_name[p->rule[i].lv]);
}

static uint64_t rule_word(struct str scope, enum log_level lv)
{
	return (hash_str(scope) & ~(uint64_t)LEVEL_BITS) | (uint64_t)lv;
}

int log_set_filter(const char *text)
{
	_cleanup_free_ char *copy = xstrdup(text); /* it may be filter_text */
	struct parsed p;

	if (parse(copy, &p) != 0)
		return -EINVAL;
	/* relaxed: a reader may see half of a change, and then judges one line by the old half */
	for (size_t i = 0; i < MAX_RULES; i++)
		atomic_store_explicit(&filter.rule[i],
				      i < p.n ? rule_word(p.rule[i].scope, p.rule[i].lv) : 0,
				      memory_order_relaxed);
	atomic_store_explicit(&filter.n, (uint32_t)p.n, memory_order_relaxed);
	atomic_store_explicit(&filter.def, (uint8_t)p.def, memory_order_relaxed);
	remember_text(&p);
	return 0;
}

const char *log_filter(void)
{
	return filter_text;
}

bool log_enabled(enum log_level lv, const char *scope)
{
	enum log_level max =
		(enum log_level)atomic_load_explicit(&filter.def, memory_order_relaxed);
	uint32_t n = atomic_load_explicit(&filter.n, memory_order_relaxed);
	uint64_t key = n != 0 ? rule_word(str_of(scope), 0) : 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t r = atomic_load_explicit(&filter.rule[i], memory_order_relaxed);

		if ((r & ~(uint64_t)LEVEL_BITS) == key)
			max = (enum log_level)(r & LEVEL_BITS);
	}
	return lv <= max;
}

/* How long the character at @s is when it may be shown as it is; 0: a control character (also those
 * of ISO 6429 beyond ASCII, which terminals obey) or no UTF-8. */
static size_t printable(const char *s, size_t n)
{
	unsigned char c = (unsigned char)s[0], d = n > 1 ? (unsigned char)s[1] : 0;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	return c == 0xc2 && d < 0xa0 ? 0 : str_utf8_len((struct str){s, n});
}

static size_t hex_escape(char *out, const char *prefix, unsigned char c)
{
	static const char digits[] = "0123456789abcdef";
	size_t n = strlen(prefix);

	memcpy(out, prefix, n);
	out[n] = digits[c >> 4];
	out[n + 1] = digits[c & 15];
	return n + 2;
}

#define ESCAPE_MAX 6 /* "\u001b" */

static size_t json_escape(char *out, size_t cap, const char *s, size_t n)
{
	size_t o = 0;

	for (size_t i = 0; i < n && o + ESCAPE_MAX < cap;) {
		size_t k = printable(s + i, n - i);

		if (s[i] == '"' || s[i] == '\\')
			out[o++] = '\\';
		if (k == 0)
			o += hex_escape(out + o, "\\u00", (unsigned char)s[i++]);
		for (; k != 0; k--)
			out[o++] = s[i++];
	}
	return o;
}

/* One event is one line, and nothing in it commands a terminal. Tabs are our own separators. */
static size_t text_escape(char *out, size_t cap, const char *s, size_t n)
{
	size_t o = 0;

	for (size_t i = 0; i < n && o + ESCAPE_MAX < cap;) {
		size_t k = printable(s + i, n - i);

		if (k == 0 && (s[i] == '\n' || s[i] == '\r')) {
			out[o++] = ' ';
			i++;
		} else if (k == 0 && s[i] == '\t') {
			out[o++] = s[i++];
		} else if (k == 0) {
			o += hex_escape(out + o, "\\x", (unsigned char)s[i++]);
		}
		for (; k != 0; k--)
			out[o++] = s[i++];
	}
	return o;
}

/* "2026-01-02T03:04:05.678901Z". The part up to the second is kept: lines come in crowds. */
static void format_time(char ts[TIME_TEXT_MAX], long long wall_us)
{
	static _Thread_local time_t kept = -1;
	static _Thread_local char text[TIME_TEXT_MAX - 8];
	time_t sec = (time_t)(wall_us / 1000000);
	unsigned int us = (unsigned int)(wall_us % 1000000);
	size_t n;

	if (sec != kept) {
		struct tm tm;

		gmtime_r(&sec, &tm);
		(void)snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d",
			       tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
			       tm.tm_sec);
		kept = sec;
	}
	n = strlen(text);
	memcpy(ts, text, n);
	ts[n] = '.';
	for (size_t i = 6; i != 0; i--, us /= 10)
		ts[n + i] = (char)('0' + us % 10);
	memcpy(ts + n + 7, "Z", 2);
}

size_t log_format(char *buf, size_t cap, long long wall_us, enum log_level lv, const char *scope,
		  const char *msg, size_t msg_len)
{
	static const int priority[LOG_LV_N] = {6, 3, 4, 6, 7, 7};
	char ts[TIME_TEXT_MAX];
	size_t o;
	int n;

	format_time(ts, wall_us);
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
	o += text_escape(buf + o, cap - o - 1, msg, msg_len);
	buf[o++] = '\n';
	return o;
}

size_t log_line_now(char *buf, size_t cap, enum log_level lv, const char *scope, const char *msg,
		    size_t msg_len)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return log_format(buf, cap, (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000, lv, scope,
			  msg, msg_len);
}

void log_write(enum log_level lv, const char *scope, const char *fmt, ...)
{
	char msg[LINE_MAX_BYTES], line[LINE_MAX_BYTES + 256];
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
	n = log_line_now(line, sizeof(line), lv, scope, msg, (size_t)m);
	if (thread_sink != NULL)
		thread_sink(thread_sink_ctx, line, n);
	else
		log_sink_put(line, n);
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
