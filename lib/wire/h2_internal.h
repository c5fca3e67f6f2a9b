/* SPDX-License-Identifier: Apache-2.0
 * h2_internal.h: shared by h2.c and h2_send.c only.
 */
#pragma once
#include <nghttp2/nghttp2.h>

#include "lib/base/limits.h"
#include "lib/wire/h2.h"

#define H2_MAGIC 0x48325e55u

struct h2_block { /* a header block while it is decoded */
	struct h2_head head;
	size_t used;
	char text[LIMIT_H2_HEADER_LIST_BYTES];
};

struct h2_bucket {
	uint64_t since_ms;
	uint32_t used;
};

struct h2 {
	uint32_t magic;
	bool failed, calmed;
	struct h2_config cfg;
	const struct h2_ops *ops;
	void *ctx;
	nghttp2_session *ng;
	struct h2_block *block; /* NULL outside of a header block */
	uint64_t now_ms;
	struct h2_bucket resets, cheap;
	const char *error; /* static text */
	/* inside h2_send_stream() */
	struct h2_out *out;
	int32_t current;
	size_t quantum, frame_max;
};

extern char h2_detached;
extern const struct h2_ops h2_no_ops;
void *h2_user(const struct h2 *h, int32_t id);
void h2_send_callbacks(nghttp2_session_callbacks *cb);
