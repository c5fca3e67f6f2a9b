/* SPDX-License-Identifier: Apache-2.0
 * export_feed.h: the watches of `ambientctl export-state`: each kind of object, from the Kubernetes
 * API into the store. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include "ctl/export_store.h"
#include "lib/base/err.h"
#include "lib/kube/kube_watch.h"

struct ex_feeds;
struct kube_conn;

struct ex_feed {
	struct kube_watch watch;
	struct ex_feeds *all;
	enum ex_kind kind;
	bool absent; /* and it was said */
};
struct ex_feeds {
	struct ex_store *store;
	struct ex_feed feed[EX_KIND_N];
	void (*changed)(void *ctx); /* an object, or how complete or current the picture is */
	void *ctx;
};
/* @changed runs often: it should only set a timer. */
void ex_feeds_init(struct ex_feeds *f, struct loop *l, struct kube_conn *c, struct ex_store *s,
		   void (*changed)(void *ctx), void *ctx);
void ex_feeds_fini(struct ex_feeds *f);
void ex_feeds_go(struct ex_feeds *f);		/* the connection is up */
bool ex_feeds_synced(const struct ex_feeds *f); /* everything was read once */
/* A refusal that trying again does not change (403 and the like): true with the sentence. */
bool ex_feeds_refused(const struct ex_feeds *f, struct err *ret);
/* What is wrong with the first feed that is not well, or "". */
const char *ex_feeds_error(const struct ex_feeds *f);
