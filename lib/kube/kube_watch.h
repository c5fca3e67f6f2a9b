/* SPDX-License-Identifier: Apache-2.0
 * kube_watch.h: one kind of object, listed and followed over a connection that comes and goes.
 * Decisions are kube_state.c's, the grammar is kube_json.c's; this file does the requests.
 * Loop thread only.
 * Both files log, under the scope "kube", although they are in lib/: what goes wrong here is tried
 * again and never returned, and every caller would say the same.
 */
#pragma once
#include "lib/wire/https_client.h"
#include "lib/kube/kube_json.h"
#include "lib/kube/kube_state.h"

struct kube_conn;
struct kube_watch;

/* What differs between kinds. Objects are borrowed. */
struct kube_kind {
	const char *resource;  /* "/api/v1/pods" */
	const char *list_kind; /* "PodList" */
	const char *plural;    /* for messages */
	const char *labels;    /* label selector; NULL: all objects */
	/* A server may have no such resource (404): then the picture is empty, and looked for again
	 * from time to time. What was there once is given up after KUBE_ABSENT_SURE_MS only. */
	bool optional;
	const char *older; /* optional: the resource in an older version of its API; or NULL */
	/* It exists and is like this. -EINVAL when it cannot be read: what was known of it stays.
	 */
	int (*put)(void *ctx, const struct doc *object, unsigned int generation, struct err *err);
	void (*gone)(void *ctx, const struct doc *object);
	void (*sweep)(void *ctx, unsigned int generation); /* the others do not exist */
	void (*changed)(void *ctx); /* synced, live or error may have changed */
};

struct kube_watch { /* embed, zeroed */
	const struct kube_kind *kind;
	void *ctx;
	struct loop *loop;
	struct kube_conn *conn;
	char *node;
	struct kube_state state;
	unsigned int generation;
	struct https_req req;
	struct timer pause;
	bool live;   /* a watch is established: the picture is current */
	bool absent; /* optional: the server has no such resource */
	uint32_t status;
	uint64_t retry_after_ms, began_ms, events;
	struct kube_list list;
	struct kube_lines lines;
	struct strbuf body;    /* of an error */
	struct err error;      /* of the last request; code 0: well */
	uint32_t refusal;      /* the status behind @error; 0: another reason */
	bool bad_seen;	       /* in the list being read */
	char bad[ERR_MSG_MAX]; /* object that could not be read, and why; "" */
	char bad_name[512];
};

/* @node: only objects placed there; NULL: all. */
void kube_watch_init(struct kube_watch *w, struct loop *l, struct kube_conn *c,
		     const struct kube_kind *kind, const char *node, void *ctx);
void kube_watch_fini(struct kube_watch *w);
void kube_watch_go(struct kube_watch *w); /* the connection is up */
