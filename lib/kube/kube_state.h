/* SPDX-License-Identifier: Apache-2.0
 * kube_state.h: what to ask the API for next, for one kind of object. Pure.
 *
 * Theory of operation. The picture is first listed, page by page, then followed by a watch from the
 * list's version on. A watch ends often (the server closes it after some minutes): it goes on from
 * the last version that was seen, in an event or a bookmark. When the server has forgotten that
 * version (410), or sent something that cannot be understood, the picture is listed anew.
 *
 *	LIST --page, more to come--> LIST (next page)	LIST --last page--> WATCH
 *	LIST --410--> LIST (first page)			WATCH --410, garbage--> LIST (first page)
 *	both --anything else that fails--> the same again, after a pause
 *
 * A watch that is refused KUBE_WATCH_REFUSED_MAX times in a row is listed anew too: after a
 *restored backup a server may be behind the version that we have seen.
 *
 * A failure never takes anything away: what was read last stays until a complete list says
 * otherwise.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/kube/kube_json.h"

#define KUBE_PAGE		500
#define KUBE_ABSENT_MS		10000 /* between two looks for a resource that is not there */
#define KUBE_ABSENT_SURE_MS	60000 /* a server that starts may not know all resources yet */
#define KUBE_BACKOFF_MS		200
#define KUBE_BACKOFF_MAX_MS	30000
#define KUBE_RETRY_AFTER_MAX_MS 60000 /* a server may not silence us for longer */
#define KUBE_WATCH_REFUSED_MAX	5
#define KUBE_SHORT_WATCH_MS	1000 /* a watch that ended in order before it gave anything */
#define KUBE_WATCH_SECONDS                                                                         \
	290 /* asked of the server; up to half more, so that not all come back at once */

enum kube_phase { KUBE_LIST, KUBE_WATCH };

enum kube_failure {
	KUBE_LOST,    /* connection or time limit */
	KUBE_STATUS,  /* the server answered something else than 200, or an ERROR event */
	KUBE_GARBAGE, /* what came cannot be understood */
};

struct kube_state { /* zero to start */
	enum kube_phase phase;
	bool synced;	       /* a complete list was read */
	char rv[KUBE_RV_MAX];  /* of the list being read, then of the last event */
	char *next;	       /* token of the next page, NULL: the first */
	unsigned int failures; /* since something was understood */
	bool present;	       /* the server has this resource */
	bool older;	       /* ask for the resource of the older version */
	bool other_tried;      /* one of the two was not found, the other one is being asked for */
	uint64_t missing_ms;   /* since when it is not found although it was; 0: it is */
};
void kube_state_fini(struct kube_state *s);

/* A page was read. True: the list is complete, the watch comes next. */
bool kube_state_page(struct kube_state *s, struct str rv, struct str next);
/* An event or a bookmark came. */
void kube_state_event(struct kube_state *s, struct str rv);
/* The server ended the watch in order after @lived_ms, @events of which came. Returns the pause in
 * ms before it goes on. */
uint64_t kube_state_watch_ended(struct kube_state *s, uint64_t lived_ms, uint64_t events,
				uint64_t random);
/* The watch that is about to fail lived for @lived_ms: long enough, and the pauses start anew. */
void kube_state_lived(struct kube_state *s, uint64_t lived_ms);
/* @status and @retry_after_ms (0: not said) for KUBE_STATUS. Returns the pause in ms. */
uint64_t kube_state_failed(struct kube_state *s, enum kube_failure f, uint32_t status,
			   uint64_t retry_after_ms, uint64_t random);
/* What is known may be wrong: the next request is a list, from its first page on. */
void kube_state_anew(struct kube_state *s);

/* A resource that a server need not have was not found (404). */
enum kube_missing {
	KUBE_MISSING_OTHER,  /* ask for its other version, at once */
	KUBE_MISSING_UNSURE, /* it was there: a failure like any other */
	KUBE_MISSING_SURE,   /* the picture is empty; after the pause it is looked for again */
};
enum kube_missing kube_state_missing(struct kube_state *s, bool has_older, uint64_t now_ms,
				     uint64_t random, uint64_t *ret_pause_ms);
/* It answered. */
void kube_state_found(struct kube_state *s);
/* Path of the next request. @resource: "/api/v1/pods"; @node: only objects on that node, or NULL;
 * @labels: a label selector, or NULL. */
void kube_state_path(const struct kube_state *s, const char *prefix, const char *resource,
		     const char *node, const char *labels, uint64_t random, struct strbuf *out);
