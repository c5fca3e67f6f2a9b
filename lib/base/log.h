/* SPDX-License-Identifier: Apache-2.0
 * log.h: one line per event on standard error.
 *
 * Text form (ztunnel-spec 13.4, so that stock's log tooling reads ours):
 *   <RFC 3339 UTC with microseconds>Z TAB level TAB scope TAB message and key=value pairs
 * Control characters other than tabs, and bytes that are no UTF-8, come out as \x1b; line ends as
 * blanks. JSON form with LOG_FORMAT=json: {"level":..,"time":..,"scope":..,"message":..}. Under
 * systemd (JOURNAL_STREAM set) lines carry a <N> priority and no time.
 *
 * Logging never waits for whoever reads standard error (log_sink.h). A data worker must not even
 * make the system call: it installs a sink with log_set_thread_sink(), which queues.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"

enum log_level {
	LOG_LV_OFF,
	LOG_LV_ERROR,
	LOG_LV_WARN,
	LOG_LV_INFO,
	LOG_LV_DEBUG,
	LOG_LV_TRACE,
	LOG_LV_N
};

extern const char *const log_level_name[LOG_LV_N];

/* Reads LOG_FORMAT and JOURNAL_STREAM; call once from main before threads exist. */
void log_init(void);
/* Filter: "info" or "info,access=off,zds=debug" (comma list of level or scope=level; the last of a
 * kind wins; 16 scopes of 47 bytes at most). Returns 0, or -EINVAL and leaves the old filter. One
 * thread; others may log meanwhile. */
int log_set_filter(const char *filter) _must_check_;
/* The filter in force, each scope once; for the thread that sets it, until it does. */
const char *log_filter(void);
bool log_enabled(enum log_level lv, const char *scope);
void log_write(enum log_level lv, const char *scope, const char *fmt, ...) _printf_(3, 4);
/* Formats one line (newline included) as log_write would; for queued writers. Returns its length,
 * cut to @cap. @wall_us: microseconds since the epoch. */
size_t log_format(char *buf, size_t cap, long long wall_us, enum log_level lv, const char *scope,
		  const char *msg, size_t msg_len);
/* The same with the present time. */
size_t log_line_now(char *buf, size_t cap, enum log_level lv, const char *scope, const char *msg,
		    size_t msg_len);
/* Sends this thread's finished lines to @sink instead of standard error. */
void log_set_thread_sink(void (*sink)(void *ctx, const char *line, size_t n), void *ctx);

#define log_at(lv, scope, ...)                                                                     \
	do {                                                                                       \
		if (log_enabled(lv, scope))                                                        \
			log_write(lv, scope, __VA_ARGS__);                                         \
	} while (0)
#define log_error(scope, ...) log_at(LOG_LV_ERROR, scope, __VA_ARGS__)
#define log_warn(scope, ...)  log_at(LOG_LV_WARN, scope, __VA_ARGS__)
#define log_info(scope, ...)  log_at(LOG_LV_INFO, scope, __VA_ARGS__)
#define log_debug(scope, ...) log_at(LOG_LV_DEBUG, scope, __VA_ARGS__)

/* A static limiter for lines that a peer can cause: at most @burst per @per_ms, per call site. When
 * a line is let through again it says how many were suppressed. */
struct log_ratelimit {
	long long window_start_ms;
	unsigned int count, suppressed;
};
bool log_ratelimit_ok(struct log_ratelimit *rl, unsigned int burst, unsigned int per_ms,
		      unsigned int *ret_suppressed);
#define log_limited(lv, scope, fmt, ...)                                                           \
	do {                                                                                       \
		static _Thread_local struct log_ratelimit rl_;                                     \
		unsigned int sup_;                                                                 \
		if (log_enabled(lv, scope) && log_ratelimit_ok(&rl_, 10, 5000, &sup_)) {           \
			if (sup_ != 0)                                                             \
				log_write(lv, scope, fmt " suppressed=%u", ##__VA_ARGS__, sup_);   \
			else                                                                       \
				log_write(lv, scope, fmt, ##__VA_ARGS__);                          \
		}                                                                                  \
	} while (0)
