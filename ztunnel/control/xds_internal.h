/* SPDX-License-Identifier: Apache-2.0
 * xds_internal.h: between xds.c (the stream) and xds_apply.c (what comes from it) only.
 */
#pragma once
#include "lib/base/err.h"
#include "lib/event/loop.h"
#include "lib/wire/grpc.h"
#include "ztunnel/control/xds_keep.h"
#include "ztunnel/control/xds_wire.h"
#include "ztunnel/mesh/demand.h"
#include "ztunnel/mesh/store.h"

#define XDS_AWAITED_MAX 16

struct xds_type {
	struct str url;
	const char *shown;
	bool answered; /* on this stream */
	bool synced;   /* one response was taken as a whole, and the store is complete since */
	char *refused; /* names and reasons of the last response; NULL: none */
};

struct xds {
	struct loop *loop;
	const struct config_istiod *config;
	const char *node_name;
	void (*fn)(void *ctx, struct mesh *m);
	void *ctx;

	/* the stream */
	struct https_client *client;
	struct grpc_call call;
	bool up;
	unsigned int failures;
	struct xds_progress progress;
	uint64_t lost_ms;
	struct timer retry, watchdog;
	struct err down;
	char *text; /* xds_error() */

	/* what came */
	struct store *store;
	struct xds_type type[STORE_KIND_N];
	bool have; /* a message is held by the call */
	bool removing;
	struct str message;
	struct xds_response response;
	struct xds_type *current; /* NULL: a type that we did not ask for */
	struct strbuf nack;
	size_t nrefused, bytes;

	/* on-demand mode: xds_demand.c */
	struct demand *demand;	   /* NULL: everything is subscribed */
	struct strbuf unsubscribe; /* names, as fields of the next request */
	unsigned int nothing;	   /* names that are nobody's, so far */
	struct timer expire;
	void (*told)(void *ctx, struct str key, bool answered);
	void *told_ctx;

	/* what is kept on the node */
	struct xds_keep *keep; /* NULL: nothing (tests) */
	char *server;
	struct image image;
	bool restoring;	   /* the image is being read */
	bool restored;	   /* it was, and istiod has not sent everything anew */
	bool stale;	   /* .published is from the image and was not completed since */
	bool policies;	   /* the change is one of policies */
	int64_t kept_ms;   /* wall clock: until when the image was current */
	uint64_t serve_ms; /* when a restored state is served without istiod */
	struct timer stale_timer;
	struct store_copy *copy; /* being made */

	/* snapshots */
	bool dirty;
	uint64_t dirty_ms, generation;
	char *awaited[XDS_AWAITED_MAX]; /* policies that new workloads name and that are not here */
	size_t nawaited;
	struct timer await;
	struct ready work;
	struct mesh *published, **old; /* old ones that workers still hold */
	size_t nold;
	struct timer sweep;
};

void xds_apply_init(struct xds *x);
void xds_apply_fini(struct xds *x);
/* A message has come and is held. Negative with @err: the stream cannot go on. */
int xds_take(struct xds *x, struct str message, struct err *err) _must_check_;
/* Forgets the message that is being applied. */
void xds_forget(struct xds *x);
/* xds.c: the response is applied; tells the server, and lets the next one come. */
void xds_answer(struct xds *x, struct str error);
/* xds.c: sends a request. -ENOBUFS: the server does not read, and the stream has ended. */
int xds_send(struct xds *x, const struct strbuf *b);
/* xds_demand.c. Sends what was asked for and what is not wanted any more. */
void xds_demand_send(struct xds *x);
/* The part of the first request of a stream: to nothing but what is waited for. */
void xds_demand_first(struct xds *x, struct strbuf *out);
/* istiod has named this resource, as one that is there or is not. */
void xds_demand_answered(struct xds *x, struct str name);
/* What was answered is in the state that was handed out. */
void xds_demand_tell(struct xds *x);
/* The stream is gone, and with it what was subscribed. */
void xds_demand_lost(struct xds *x);
/* xds.c: the image is in the store, or there is none: connect. */
void xds_restored(struct xds *x);
/* The image may be read now; xds_restored() follows. */
void xds_restore(struct xds *x);
/* Seconds since the state was current, while it is stale. */
uint64_t xds_stale_s(const struct xds *x);
/* Copies all at once, for the end. NULL when nothing is due. */
struct store_copy *xds_copy_now(struct xds *x);
/* The timer of xds_keep.h. */
void xds_copy(struct xds *x);
