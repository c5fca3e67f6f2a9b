/* SPDX-License-Identifier: Apache-2.0
 * grpc.h: one gRPC call on a connection of https_client.h: unary or bidirectional.
 *
 * Theory of operation. What arrives is cut into messages; each one is shown to `message`. A
 * receiver that needs longer holds the message (grpc_hold): it stays where it is, nothing after it
 * is looked at, no credit goes back to the server, and so the server stops. grpc_release() goes on.
 * What can pile up meanwhile is one stream window (lib/wire/https_client.c).
 *
 * `end` comes exactly once, last, and after a held message was released, unless grpc_cancel() came
 * first. Failures below gRPC have gRPC's codes too: a lost connection or a reset stream is
 * UNAVAILABLE, no answer in time DEADLINE_EXCEEDED, broken framing INTERNAL, a message over the
 * limit RESOURCE_EXHAUSTED.
 *
 * Loop thread only. Source: gRPC over HTTP/2.
 */
#pragma once
#include "lib/wire/grpc_frame.h"
#include "lib/wire/https_client.h"

struct grpc_call;

struct grpc_ops {
	/* @m is valid until the return, or until grpc_release() after grpc_hold(). May cancel the
	 * call, must neither free its memory nor start it again. */
	void (*message)(struct grpc_call *c, struct str m);
	/* @why: "CODE: sentence", empty with GRPC_OK. The call's memory is the owner's again. */
	void (*end)(struct grpc_call *c, enum grpc_code code, const char *why);
};

/* Embed it, zeroed. The fields are the call's business. */
struct grpc_call {
	struct https_req req;
	const struct grpc_ops *ops;
	struct grpc_reader in;
	struct strbuf kept; /* came while a message was held */
	size_t owed;	    /* credit that was not given back */
	bool live, unary, held, feeding, ended, have_status, got_message;
	enum grpc_code code;
	char why[256];
};

struct grpc_call_config {
	const char *method;	      /* "/package.Service/Method" */
	const struct h2_field *field; /* metadata; names in lower case */
	size_t nfields;		      /* at most GRPC_FIELDS_MAX */
	size_t max_message;	      /* bytes of one received message */
	size_t max_unsent;	      /* bytes that grpc_send() may leave waiting */
	uint64_t deadline_ms;	      /* for all of it, told to the server; 0: none */
	bool unary;		      /* one message each way */
};
#define GRPC_FIELDS_MAX 24

/* 0, or -errno of https_request() with @err. No callback runs before it returns. */
int grpc_call_start(struct grpc_call *c, struct https_client *client,
		    const struct grpc_call_config *cfg, const struct grpc_ops *ops, struct err *err)
	_must_check_;
/* Sends one message. @last: and no more. 0, -ENOBUFS (max_unsent), -ENOTCONN (it ended). */
int grpc_send(struct grpc_call *c, const void *p, size_t n, bool last) _must_check_;
/* In `message`: keep the message, and nothing more until grpc_release(). */
void grpc_hold(struct grpc_call *c);
/* May call `message` and `end` before it returns; safe when nothing is held or the call is over. */
void grpc_release(struct grpc_call *c);
/* Ends it without a callback; safe when it is not under way. */
void grpc_cancel(struct grpc_call *c);
/* Bytes that have come of a message that is not complete yet; 0: none. */
size_t grpc_partial(const struct grpc_call *c);
