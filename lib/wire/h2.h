/* SPDX-License-Identifier: Apache-2.0
 * h2.h: one HTTP/2 connection, either role, over the caller's buffers (nghttp2 inside).
 *
 * Theory of operation. A session does no I/O and keeps no time. Received bytes go in through
 * h2_recv(), which calls back; frames due go out through h2_send() into a `struct h2_out` of the
 * caller. DATA is pulled, one stream at a time, by h2_send_stream(): the caller owns the schedule
 * (datapath.md 9.4), the library never picks a stream by itself. `want` says that a stream which
 * was stopped by flow control may go on. A frame is as large as window, peer and quantum allow, and
 * its payload is written by `pull` directly behind the place of its header: no copy.
 *
 * Flow control: connection credit is returned at arrival, stream credit when the caller says so
 * (h2_consume), so that a slow reader stops its own stream only (datapath.md 5.3).
 *
 * Floods (security.md H1-H4): header bytes and fields are counted while decoding; streams that end
 * before they were established and cheap control frames draw from token buckets; an empty bucket
 * ends the connection with ENHANCE_YOUR_CALM.
 *
 * A stream is (id, user pointer). After `closed` ran, or after h2_reset()/h2_detach(), no callback
 * names it again. Callbacks must not free the session. Owner thread only.
 * Source: RFC 9113, ztunnel-spec 7.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/base/limits.h"
#include "lib/base/str.h"

struct h2;

enum h2_code { /* RFC 9113 7 */
	       H2_NO_ERROR = 0,
	       H2_PROTOCOL_ERROR = 1,
	       H2_INTERNAL_ERROR = 2,
	       H2_STREAM_CLOSED = 5,
	       H2_REFUSED_STREAM = 7,
	       H2_CANCEL = 8,
	       H2_CONNECT_ERROR = 10,
	       H2_ENHANCE_YOUR_CALM = 11,
};

struct h2_out {
	uint8_t *p; /* the caller's memory */
	size_t n, cap;
};

struct h2_field {
	struct str name, value;
};

struct h2_head { /* valid during the callback */
	struct h2_field field[LIMIT_H2_FIELDS];
	size_t nfields;
	bool end_stream;
};
/* First field of that name; an empty str with p == NULL if absent. */
struct str h2_head_get(const struct h2_head *h, const char *name);

#define H2_PULL_NOTHING (-1) /* nothing now; the caller will schedule the stream again */
#define H2_PULL_DEAD	(-2) /* the caller reset the stream inside the callback */

struct h2_ops {
	/* Server: a request. Client: the answer to h2_request(). */
	void (*head)(void *ctx, int32_t id, void *user, const struct h2_head *head);
	void (*data)(void *ctx, int32_t id, void *user, const uint8_t *p, size_t n);
	void (*end)(void *ctx, int32_t id, void *user); /* the peer's END_STREAM */
	/* Gone, by both ends' END_STREAM (H2_NO_ERROR) or a reset. */
	void (*closed)(void *ctx, int32_t id, void *user, uint32_t code);
	/* Writes at most @cap bytes to @p. Returns the count (0 only together with *eof), or
	 * H2_PULL_*. */
	ssize_t (*pull)(void *ctx, int32_t id, void *user, uint8_t *p, size_t cap, bool *eof);
	void (*want)(void *ctx, int32_t id, void *user);
	void (*pong)(void *ctx);
	void (*goaway)(void *ctx, uint32_t code); /* the peer takes no new streams */
	/* Trailers, or the final answer after an informational one. NULL: not wanted. */
	void (*trailers)(void *ctx, int32_t id, void *user, const struct h2_head *head);
};

struct h2_config {
	bool server;
	uint32_t stream_window, connection_window, max_frame_size;
	uint32_t max_streams; /* server: offered; client: assumed until the peer's SETTINGS */
};

/* NULL when memory is short. @ops and @ctx must outlive the session. */
struct h2 *h2_new(const struct h2_config *cfg, const struct h2_ops *ops, void *ctx) _must_check_;
struct h2 *h2_free(struct h2 *h); /* runs `closed` for no stream; returns NULL */

/* Takes all of @n bytes. 0, or -EPROTO: the connection is over (h2_error()); frames may still be
 * due. */
int h2_recv(struct h2 *h, const uint8_t *p, size_t n, uint64_t now_ms) _must_check_;
/* Appends control frames and HEADERS. 0, or -EPROTO / -ENOMEM. */
int h2_send(struct h2 *h, struct h2_out *out) _must_check_;
/* Appends DATA of one stream, at most about @quantum bytes, with frames of at most @frame_max. 0 or
 * an error of the connection. */
int h2_send_stream(struct h2 *h, int32_t id, struct h2_out *out, size_t quantum, size_t frame_max)
	_must_check_;
bool h2_want_send(const struct h2 *h);
/* Nothing left to do for either side (after GOAWAY and the last stream, or an error). */
bool h2_done(const struct h2 *h);

/* Client: HEADERS without END_STREAM. Fields are copied. Returns the stream id or -errno. */
int32_t h2_request(struct h2 *h, const struct h2_field *f, size_t n, void *user) _must_check_;
/* Server. @end: HEADERS with END_STREAM, and then the rest of the request is not wanted. */
int h2_respond(struct h2 *h, int32_t id, const struct h2_field *f, size_t n, bool end) _must_check_;
void h2_set_user(struct h2 *h, int32_t id, void *user);
/* Forgets the stream's user: no callback names it again. */
void h2_detach(struct h2 *h, int32_t id);
void h2_reset(struct h2 *h, int32_t id, uint32_t code); /* and detaches */
void h2_consume(struct h2 *h, int32_t id, size_t n);	/* delivered: returns stream credit */
/* Offers another stream window, to streams that exist as well (memory budget). The connection's
 * stays: a smaller one would let slow streams stop the others. */
void h2_set_stream_window(struct h2 *h, uint32_t bytes);
/* How much the peer lets this stream send now; <= 0: blocked. */
int32_t h2_send_window(const struct h2 *h, int32_t id);
uint32_t h2_peer_max_streams(const struct h2 *h);

void h2_ping(struct h2 *h);
void h2_shutdown(struct h2 *h, bool final); /* GOAWAY: first the notice, then for good */
void h2_terminate(struct h2 *h, uint32_t code);
/* A stream that ended before it was established: draws a token; may end the connection. */
void h2_charge(struct h2 *h);
bool h2_calmed(const struct h2 *h); /* ended with ENHANCE_YOUR_CALM by us */
const char *h2_error(const struct h2 *h);
