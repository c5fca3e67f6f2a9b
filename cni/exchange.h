/* SPDX-License-Identifier: Apache-2.0
 * exchange.h: the plugin's input and output: standard input, one request to the agent, one write.
 *
 * Every wait ends at a deadline, an absolute time of clock_mono_ms(). One thread.
 */
#pragma once
#include <stdint.h>
#include "cni/http_answer.h"
#include "lib/base/attr.h"

struct arena;
struct err;

/* Reads @fd to its end. *ret (n bytes) is the caller's to free. 0, -EFBIG beyond @max, -ETIMEDOUT,
 * or -errno of read. */
int exchange_read_all(int fd, size_t max, uint64_t deadline_ms, char **ret, size_t *ret_len,
		      struct err *err) _must_check_;
/* Connects to the agent's socket, sends @request and waits for the whole answer, which lives in
 * @a. 0, or the errno of the failure with a sentence that names what was being waited for:
 * -ENOENT, -ECONNREFUSED, -EACCES of connect; -ETIMEDOUT; -ECONNRESET: closed before the end;
 * -EBADMSG: not an HTTP answer; -EMSGSIZE: longer than RPC_ANSWER_MAX; -EKEYREJECTED: who listens
 * there is neither root nor the user we run as. */
int exchange_agent(const char *path, struct str request, uint64_t deadline_ms, struct arena *a,
		   struct http_answer *ret, struct err *err) _must_check_;
/* Writes all of it. 0 or -errno. */
int exchange_write_all(int fd, const char *p, size_t n) _must_check_;
