/* SPDX-License-Identifier: Apache-2.0
 * kube_json.h: what the Kubernetes API sends: lists, cut into objects while they arrive, and watch
 * events, one a line. Pure.
 *
 * A page of 500 pods is megabytes; only one object of it is in memory at a time. The objects are
 * cut out by counting braces outside of strings; each one, and the envelope around them, then goes
 * through the strict parser (lib/format/json.h).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct arena;
struct doc;
struct err;

#define KUBE_RV_MAX	  128  /* resourceVersion, with NUL: numbers of etcd have 20 digits */
#define KUBE_CONTINUE_MAX 4096 /* token of the next page */

/* --- lists --- */

struct kube_list { /* zero to start */
	struct strbuf envelope, object;
	unsigned int depth; /* in the envelope, or in the object */
	bool in_text, escaped, in_items, comma, first, done;
	bool key_items; /* the last text at the first level was "items" */
	size_t key_at;	/* where in the envelope the text began */
};
/* Takes the next bytes; @object is called for each complete object. 0, -E2BIG, -EINVAL, or what
 * @object returned. Final after an error. */
int kube_list_feed(struct kube_list *l, struct str in,
		   int (*object)(void *ctx, struct str text, struct err *err), void *ctx,
		   struct err *err) _must_check_;
/* The end of the body: what is around the objects, in @a. *ret_continue is empty on the last page.
 * @kind: "PodList". */
int kube_list_end(const struct kube_list *l, const char *kind, struct arena *a, struct str *ret_rv,
		  struct str *ret_continue, struct err *err) _must_check_;
void kube_list_fini(struct kube_list *l); /* zero again */

/* --- watches --- */

enum kube_event_type {
	KUBE_ADDED,
	KUBE_MODIFIED,
	KUBE_DELETED,
	KUBE_BOOKMARK,
	KUBE_ERROR,
	KUBE_EVENT_N
};
struct kube_event {
	enum kube_event_type type;
	const struct doc *object; /* not for KUBE_ERROR */
	struct str rv;		  /* of the object */
	uint32_t code;		  /* KUBE_ERROR */
	struct str message;	  /* KUBE_ERROR */
};
/* @line must live as long as the event; the event lives in @a. */
int kube_event_parse(struct str line, struct arena *a, struct kube_event *ret, struct err *err)
	_must_check_;

struct kube_lines { /* zero to start */
	struct strbuf line;
};
/* Calls @fn for each complete line that is not blank. */
int kube_lines_feed(struct kube_lines *l, struct str in,
		    int (*fn)(void *ctx, struct str line, struct err *err), void *ctx,
		    struct err *err) _must_check_;
void kube_lines_fini(struct kube_lines *l);

/* The message of a Status body, "" when it is none. In @a. */
struct str kube_status_message(struct str body, struct arena *a);

int kube_event_fuzz(const uint8_t *p, size_t n);
