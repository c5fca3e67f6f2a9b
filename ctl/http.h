/* SPDX-License-Identifier: Apache-2.0
 * http.h: one GET over a unix socket, with a deadline.
 */
#pragma once
#include "lib/base/str.h"

struct err;

/* A configuration dump of 100,000 workloads is about 100 MB. */
#define CTL_ANSWER_MAX_BYTES (512u << 20)

struct ctl_answer {
	unsigned int status;
	struct str body; /* inside the text it was parsed from */
};

/* Pure: splits a whole HTTP/1.x answer. -EINVAL when it is none, or shorter than its
 * Content-Length. */
int ctl_answer_parse(struct str text, struct ctl_answer *ret, struct err *err) _must_check_;

/* Asks for @path on the socket at @socket_path, or at "127.0.0.1:15020": an IPv4 address and port.
 * @text gets everything received (the caller's, also after an error). -ETIMEDOUT after @deadline_ms
 * (of clock_mono_ms()); -ENOENT, -ECONNREFUSED, -EACCES from connecting say why nobody answers. */
int ctl_get(const char *socket_path, const char *path, uint64_t deadline_ms, struct strbuf *text,
	    struct ctl_answer *ret, struct err *err) _must_check_;
