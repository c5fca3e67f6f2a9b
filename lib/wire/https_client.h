/* SPDX-License-Identifier: Apache-2.0
 * https_client.h: one HTTP/2 connection over TLS to a server of the control plane, many requests on
 * it at once. Kubernetes' API and gRPC are built on this.
 *
 * An object is one connection: name lookup, TCP, TLS, HTTP/2, then requests until `down`. It never
 * connects again by itself; the caller frees it and makes another one after a pause of its choice
 * (https_backoff_ms). Nothing blocks the loop.
 *
 * Bounds: the time until the connection is up, the silence of a peer (pings), the head of an answer
 * (lib/wire/h2.h), the time of each request; the body of an answer is not kept here at all, but
 * streamed, and a caller that takes credit itself (`manual`) stops the server when it stops.
 *
 * Callbacks run from the loop and may call anything here, https_client_free() included.
 * Loop thread only. Source: RFC 9113.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/event/loop.h"
#include "lib/wire/h2.h"

struct https_client;
struct https_req;
struct tls_client_ctx;

struct https_config {
	const char *host; /* name or address to connect to */
	uint16_t port;
	const char *server_name; /* what the certificate must have; NULL: host */
	const char *alt_name;	 /* or this; NULL: nothing else */
	const char *authority;	 /* NULL: host:port */
	struct tls_client_ctx *tls;
	uint64_t connect_ms; /* until it is up; 0: LIMIT_HTTPS_CONNECT_MS */
	uint64_t ping_ms; /* silence after which the peer is asked, and twice that until it is given
			     up; 0: LIMIT_H2_PING_INTERVAL_MS */
};

struct https_client_ops {
	void (*up)(void *ctx);
	/* Once, also when it never came up. All requests have ended before. */
	void (*down)(void *ctx, const struct err *why);
};

/* Texts are copied. Starts connecting. NULL with @err when the configuration is bad. */
struct https_client *https_client_new(struct loop *l, const struct https_config *cfg,
				      const struct https_client_ops *ops, void *ctx,
				      struct err *err) _must_check_;
/* Requests that are under way are forgotten without a callback; NULL is fine; returns NULL. */
struct https_client *https_client_free(struct https_client *c);
bool https_client_usable(const struct https_client *c); /* up, and takes new requests */

/* What a request hears. `end` comes exactly once, last, unless https_req_cancel() or
 * https_client_free() came first; the request may be used again or freed in it. */
struct https_req_ops {
	void (*head)(struct https_req *r, unsigned int status, const struct h2_head *h);
	void (*data)(struct https_req *r, const uint8_t *p, size_t n);
	void (*trailers)(struct https_req *r, const struct h2_head *h); /* may be NULL */
	/* @why NULL: the answer is complete. */
	void (*end)(struct https_req *r, const struct err *why);
};

/* Embed it, zeroed. The fields are the client's business. */
struct https_req {
	struct https_client *client; /* NULL: not under way */
	const struct https_req_ops *ops;
	int32_t id;
	unsigned int status; /* 0 until the head came */
	bool manual, ended, body_done, complete;
	size_t unconsumed, max_unsent;
	struct strbuf body; /* not sent yet */
	size_t body_sent;
	struct list node, ready;
	struct timer deadline;
};

struct https_call {
	const char *method, *path;
	const struct h2_field *field; /* beside the pseudo headers; names in lower case */
	size_t nfields;		      /* at most HTTPS_FIELDS_MAX */
	struct str body;	      /* copied */
	bool open;		      /* more body follows with https_req_send() */
	bool manual;		      /* credit comes back with https_req_consume() only */
	uint64_t deadline_ms; /* for the whole request; 0: none (a watch with its own clock) */
	size_t max_unsent;    /* for https_req_send(); 0: LIMIT_HTTPS_UNSENT_BYTES */
};
#define HTTPS_FIELDS_MAX 28

/* 0, or -ENOTCONN (not usable), -EAGAIN (the server's limit of concurrent streams). */
int https_request(struct https_client *c, struct https_req *r, const struct https_call *call,
		  const struct https_req_ops *ops, struct err *err) _must_check_;
/* More request body; -ENOBUFS when max_unsent would be passed, -ENOTCONN after the end. */
int https_req_send(struct https_req *r, const void *p, size_t n, bool last) _must_check_;
void https_req_consume(struct https_req *r, size_t n);
void https_req_cancel(struct https_req *r); /* safe when not under way */

/* Pause before attempt number @failures (1, 2, ...): doubles from @first_ms to @max_ms, minus up to
 * half of it at random. */
uint64_t https_backoff_ms(unsigned int failures, uint64_t first_ms, uint64_t max_ms,
			  uint64_t random);
