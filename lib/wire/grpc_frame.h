/* SPDX-License-Identifier: Apache-2.0
 * grpc_frame.h: the bytes of gRPC over HTTP/2: message framing, status codes, the text of a status,
 * and walking over the fields of a protobuf message without copying it. Pure.
 *
 * Source: gRPC over HTTP/2 protocol description (Length-Prefixed-Message, Status, Timeout);
 * protobuf encoding (wire types).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;

enum grpc_code {
	GRPC_OK,
	GRPC_CANCELLED,
	GRPC_UNKNOWN,
	GRPC_INVALID_ARGUMENT,
	GRPC_DEADLINE_EXCEEDED,
	GRPC_NOT_FOUND,
	GRPC_ALREADY_EXISTS,
	GRPC_PERMISSION_DENIED,
	GRPC_RESOURCE_EXHAUSTED,
	GRPC_FAILED_PRECONDITION,
	GRPC_ABORTED,
	GRPC_OUT_OF_RANGE,
	GRPC_UNIMPLEMENTED,
	GRPC_INTERNAL,
	GRPC_UNAVAILABLE,
	GRPC_DATA_LOSS,
	GRPC_UNAUTHENTICATED,
	GRPC_CODE_N
};

/* "UNAVAILABLE" and so on. */
const char *grpc_code_name(enum grpc_code c);
/* The value of grpc-status; what is no number or no known code is GRPC_UNKNOWN. */
enum grpc_code grpc_code_parse(struct str s);
/* What an HTTP status other than 200 stands for. */
enum grpc_code grpc_code_of_http(unsigned int status);
/* Decodes the percent-encoded grpc-message into @buf, made fit for a log: control characters become
 * blanks, the end is cut. Returns @buf. */
const char *grpc_message_decode(struct str s, char *buf, size_t cap);

#define GRPC_PREFIX_BYTES 5
/* Appends one message with its prefix, not compressed. */
void grpc_frame_add(struct strbuf *out, const void *p, size_t n);

/* Takes messages out of a stream of bytes, however they are cut. Zero it and set .max first. */
struct grpc_reader {
	size_t max; /* bytes of one message */
	uint8_t prefix[GRPC_PREFIX_BYTES];
	unsigned int nprefix;
	uint8_t *p; /* the message so far; grows with what really came, not with what is promised */
	size_t n, cap, want;
};
/* Takes bytes off the front of @in. 1: *ret is a whole message, valid until the next call; 0: @in
 * is used up; -EMSGSIZE, -EPROTO (compressed, though nothing was offered) or -ENOMEM with @err. */
int grpc_reader_take(struct grpc_reader *r, struct str *in, struct str *ret, struct err *err)
	_must_check_;
/* The stream ended: true when that was in the middle of a message. */
bool grpc_reader_partial(const struct grpc_reader *r);
void grpc_reader_fini(struct grpc_reader *r);

/* One field of a protobuf message. */
struct pb_field {
	uint32_t number;
	uint8_t wire;	/* 0: varint; 1, 5: fixed; 2: bytes */
	uint64_t value; /* of a varint */
	struct str bytes;
};
/* Takes the next field off the front of @in. 1, 0 at the end, -EINVAL when it is no protobuf. */
int pb_next(struct str *in, struct pb_field *ret) _must_check_;

/* Appending fields. A message of another message: its bytes as a field. */
void pb_add_varint(struct strbuf *out, uint32_t number, uint64_t v);
void pb_add_bytes(struct strbuf *out, uint32_t number, struct str s);
void pb_add_double(struct strbuf *out, uint32_t number, double d);
/* The head of a bytes field whose @n bytes follow, and how long a whole one is. */
void pb_add_head(struct strbuf *out, uint32_t number, size_t n);
size_t pb_bytes_size(uint32_t number, size_t n);
