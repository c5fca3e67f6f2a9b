/* SPDX-License-Identifier: Apache-2.0
 * enrol.h: who is in the mesh on this node, and how they get in and out.
 *
 * The CNI verbs (from serve/events.c), changes of pods and namespaces (from source/) and ztunnel
 * (from serve/zds.c) all end here, in one state machine per pod (enrol.c). Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/event/loop.h"

struct attachment;
struct config;
struct enrol;
struct jsonw;
struct pod;
struct pods;
struct source;
struct strbuf;
struct zds_ops;
struct zds_server;

/* CNI error codes that we use (CNI specification, "Error"; docs/agent-api.md). */
enum cni_code {
	CNI_BAD_ENVIRONMENT = 4,
	CNI_BAD_CONFIG = 7,
	CNI_TRY_AGAIN = 11,
	CNI_NOT_AVAILABLE = 50,
	CNI_FAILED = 999,
};

/* What a verb ends in. */
struct enrol_answer {
	unsigned int http;   /* 200, or an error with @code */
	unsigned int code;   /* CNI error code, 0 on success */
	const char *outcome; /* "enrolled", "not-in-mesh", "ok" */
	char msg[ERR_MSG_MAX];
	char details[2048];
};

/* Somebody who waits for an ADD to end. Embed it, zeroed. */
struct enrol_waiter {
	struct list node;
	struct enrol *enrol;
	struct enrolment *on;
	uint64_t deadline_ms; /* loop time */
	struct timer limit;
	void (*done)(struct enrol_waiter *w, const struct enrol_answer *a); /* once */
};

struct enrol *enrol_new(struct loop *l, const struct config *cfg, const struct pods *pods,
			const struct source *src, struct err *err) _must_check_;
/* Stops: descriptors are closed, pods stay enrolled (a stop is no uninstall). */
struct enrol *enrol_free(struct enrol *e);
/* The server must outlive neither: set once, before the loop runs. */
void enrol_set_zds(struct enrol *e, struct zds_server *s);
extern const struct zds_ops enrol_zds_ops; /* ctx: struct enrol * */
/* Finds what the last life left behind (journal, descriptor store) and looks at every pod. Call
 * when the source has been read. */
void enrol_start(struct enrol *e);

/* Look at this pod again, soon. */
void enrol_pod_changed(struct enrol *e, const char *ns, const char *name);

/* ADD: @req is copied; w->done runs later or before this returns, exactly once, within
 * @deadline_ms. */
void enrol_add(struct enrol *e, const struct attachment *req, uint64_t deadline_ms,
	       struct enrol_waiter *w);
void enrol_waiter_cancel(struct enrol_waiter *w); /* done will not run; safe when not waiting */
/* The same when the client went away: an ADD that is not decided yet is forgotten, one that is on
 * its way goes on (the runtime's DEL will undo it). */
void enrol_waiter_abandon(struct enrol_waiter *w);
void enrol_check(struct enrol *e, const struct attachment *req, struct enrol_answer *ret);
/* Always succeeds. @req needs a container ID only. */
void enrol_del(struct enrol *e, const struct attachment *req);
/* Releases what the runtime does not know any more. */
struct enrol_valid {
	char container_id[129];
	char ifname[16];
};
void enrol_gc(struct enrol *e, const struct enrol_valid *valid, size_t n);
/* What may be said about a pod to the rest of the mesh. */
enum enrol_mesh { ENROL_MESH_UNSURE, ENROL_MESH_IN, ENROL_MESH_OUT };
enum enrol_mesh enrol_pod_mesh(struct enrol *e, const struct pod *p);
/* @fn: that may have changed for this pod. It must not call back into enrol.h except for
 * enrol_pod_mesh(). */
void enrol_set_observer(struct enrol *e, void (*fn)(void *ctx, const char *ns, const char *name),
			void *ctx);
/* Can pods be taken now? @ret_reason (ERR_MSG_MAX) says why not. */
bool enrol_ready(const struct enrol *e, char *ret_reason);
/* The part of it that does not depend on ztunnel: what there is to know has been read. */
bool enrol_started(const struct enrol *e, char *ret_reason);

/* Reading every pod's rules back, a few pods in each turn of the loop so that nothing else has to
 * wait. Embed it, zeroed. */
struct enrol_look {
	struct enrol *enrol;
	struct ready again;
	uint64_t since;
	void (*done)(struct enrol_look *k); /* once, never before enrol_look_start() returns */
};
void enrol_look_start(struct enrol *e, struct enrol_look *k);
void enrol_look_cancel(struct enrol_look *k); /* done will not run; safe when not looking */

/* The "pods" and "ztunnels" lists of GET /v1/status. @rules: with what the last look saw; call it
 * from enrol_look.done. */
void enrol_print_pods(struct enrol *e, bool rules, struct jsonw *w);
void enrol_print_ztunnels(const struct enrol *e, struct jsonw *w);
/* Everything about the rules and sockets of the pods that @key names (namespace/name, UID,
 * container ID or its first 8 characters or more), as one list "pods". Returns how many. */
size_t enrol_print_rules(struct enrol *e, const char *key, struct jsonw *w);
/* The "probes" object of GET /v1/node. */
void enrol_print_probes(const struct enrol *e, struct jsonw *w);
size_t enrol_count(const struct enrol *e, size_t *ret_enrolled);
/* The states of GET /v1/status. */
#define ENROL_SHOWN_N 5
extern const char *const enrol_shown_name[ENROL_SHOWN_N];
size_t enrol_count_shown(const struct enrol *e, unsigned int shown);
size_t enrol_ztunnels(const struct enrol *e); /* connected */
