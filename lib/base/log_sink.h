/* SPDX-License-Identifier: Apache-2.0
 * log_sink.h: where finished log lines leave the process: standard error, without ever waiting for
 * it.
 *
 * Theory of operation. A reader that has stopped (a full pipe, a journal that hangs) must not stop
 * us. What standard error does not take at once is kept, LIMIT_LOG_BYTES at most; beyond that whole
 * lines are dropped and counted, and as soon as there is room again a line says how many. The flags
 * of the descriptor that we were given belong to whoever else has it, so pipes and terminals are
 * opened anew with O_NONBLOCK, sockets are sent to with MSG_DONTWAIT, and what can be neither is
 * asked with poll(2) first. Regular files are simply written.
 *
 * Any thread. lib/event/log_pump.h goes on with what was kept; without it the next line does.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Looks at descriptor 2; again after it was replaced. Without a call lines are written as to a
 * file.
 */
void log_sink_open(void);
/* Takes whole lines, newlines included. Never blocks, keeps errno. */
void log_sink_put(const char *lines, size_t n);
/* Writes what was kept. True when nothing is left. */
bool log_sink_flush(void);
/* The descriptor that gets writable when flushing makes sense again. */
int log_sink_fd(void);
/* Lines dropped since the start. */
uint64_t log_sink_dropped(void);
/* @fn runs, in the thread that logs, when something had to be kept and nothing was before. NULL:
 * nobody. Must not log. */
void log_sink_on_backlog(void (*fn)(void *ctx), void *ctx);
/* At the end of a program: waits for a reader that reads, LOG_SINK_LAST_MS without progress at
 * most.
 */
#define LOG_SINK_LAST_MS 500
void log_sink_close(void);
