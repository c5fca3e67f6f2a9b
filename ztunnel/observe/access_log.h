/* SPDX-License-Identifier: Apache-2.0
 * access_log.h: one line per connection, as stock writes it (ztunnel-spec 13.4), never in the way
 * of traffic.
 *
 * A worker pushes fixed records into its own bounded single-producer ring; the control thread
 * formats and writes. A full ring drops the record and counts it (M_ACCESS_LOG_DROPPED). Ordinary
 * log lines of workers go through the same ring (log_set_thread_sink).
 */
#pragma once
#include "lib/base/log.h"
#include "lib/base/str.h"
#include "ztunnel/observe/conn_info.h"

struct loop;
struct access_log_worker; /* producer side, one per worker */
struct access_log;	  /* consumer side, control thread */

struct access_log *access_log_new(struct loop *control, size_t nworkers) _must_check_;
struct access_log *access_log_free(struct access_log *l); /* drains first; NULL */
struct access_log_worker *access_log_worker(struct access_log *l, size_t index);
/* Makes this thread's log_*() lines go through the ring. Worker thread, once. */
void access_log_adopt_thread(struct access_log_worker *w);

/* Worker thread. "connection opened", at debug level only: what is known of @c by then. */
void access_log_opened(struct access_log_worker *w, const struct conn_info *c);
/* Worker thread. "connection complete"; @error NULL for success (static or copied: at most 192
 * bytes are kept). Takes its own references of workloads and service. */
void access_log_complete(struct access_log_worker *w, const struct conn_info *c,
			 enum conn_flag flag, const char *error, uint64_t now_ns);
/* Are decisions on policies logged at this level (AUTHZ_POLICY_INFO_LOGGING), and at all? */
enum log_level access_log_policy_level(bool info);
bool access_log_wants_policies(bool info);
/* One line of a policy decision about @c (ztunnel-spec 10.4), scope "state", at most
 * LIMIT_POLICY_LINES of them in LIMIT_POLICY_LINES_MS; one that comes after ones that were left out
 * says how many. @message: a constant. @policy: at most 512 bytes are kept. */
void access_log_policy(struct access_log_worker *w, enum log_level lv, const char *message,
		       struct str policy, const struct conn_info *c);
/* "connection failed" before anything was decided (ztunnel-spec 4.9, 13.4). */
void access_log_early(struct access_log_worker *w, enum conn_reporter r, const struct ip_port *src,
		      const struct ip_port *dst, const char *error);
