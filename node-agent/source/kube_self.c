/* SPDX-License-Identifier: Apache-2.0
 * kube_self.c: see kube_self.h.
 */
#include "node-agent/source/kube_self.h"

#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"
#include "lib/kube/kube_conn.h"
#include "node-agent/source/placement.h"

#define AGAIN_MS 100

static enum kube_self_verdict of_object(struct str body, const char **why)
{
	struct arena *a = arena_new();
	enum kube_self_verdict v = KUBE_SELF_UNKNOWN;
	const struct doc *root = NULL, *meta;

	*why = "its answer is not a DaemonSet";
	if (json_parse(body, a, &root, NULL) == 0 && doc_map(root, NULL) == 0) {
		meta = doc_get(root, "metadata");
		if (meta != NULL && doc_get(meta, "deletionTimestamp") != NULL) {
			*why = "its DaemonSet is being deleted";
			v = KUBE_SELF_LEAVES;
		} else if (meta != NULL && doc_get(meta, "uid") != NULL) {
			*why = "its DaemonSet is there";
			v = KUBE_SELF_STAYS;
		}
	}
	(void)arena_free(a);
	return v;
}

enum kube_self_verdict kube_self_decide(unsigned int status, struct str body, const char **why)
{
	switch (status) {
	case 200:
		return of_object(body, why);
	case 401:
		*why = "its service account is gone";
		return KUBE_SELF_LEAVES;
	case 403:
		*why = "its role is gone";
		return KUBE_SELF_LEAVES;
	case 404:
		*why = "its DaemonSet is gone";
		return KUBE_SELF_LEAVES;
	default:
		*why = "the API server does not say whether its DaemonSet is there";
		return KUBE_SELF_UNKNOWN;
	}
}

static void finish(struct kube_self *s, bool leaves, const char *why)
{
	https_req_cancel(&s->req);
	loop_timer_cancel(&s->again);
	loop_timer_cancel(&s->limit);
	s->done(s->ctx, leaves, why);
}

static void on_again(struct timer *t);

static void again(struct kube_self *s)
{
	loop_timer_set(s->loop, &s->again, AGAIN_MS, on_again);
}

static void on_head(struct https_req *r, unsigned int status, const struct h2_head *h)
{
	(void)h;
	container_of(r, struct kube_self, req)->status = status;
}

static void on_data(struct https_req *r, const uint8_t *p, size_t n)
{
	struct kube_self *s = container_of(r, struct kube_self, req);

	if (s->body.n + n <= KUBE_SELF_BODY_MAX)
		strbuf_add(&s->body, p, n);
	else
		s->status = 0; /* no DaemonSet is that large */
}

static void ask(struct kube_self *s);

static void daemonset_answered(struct kube_self *s)
{
	const char *why = "";
	enum kube_self_verdict v =
		kube_self_decide(s->status, (struct str){s->body.p, s->body.n}, &why);

	if (v == KUBE_SELF_UNKNOWN) {
		again(s);
	} else if (v == KUBE_SELF_LEAVES) {
		finish(s, true, why);
	} else {
		s->daemonset = s->body;
		s->body = (struct strbuf){0};
		s->at_node = true;
		ask(s);
	}
}

/* What a node says that may not be read, or is not there, is no reason to leave it. */
static void node_answered(struct kube_self *s)
{
	enum placement p = placement_of((struct str){s->daemonset.p, s->daemonset.n},
					(struct str){s->body.p, s->body.n});

	if (s->status == 0 || s->status >= 500)
		again(s);
	else if (s->status == 200 && p == PLACEMENT_NO)
		finish(s, true, "its DaemonSet does not want this node any more");
	else
		finish(s, false, "its DaemonSet is there");
}

static void on_end(struct https_req *r, const struct err *why)
{
	struct kube_self *s = container_of(r, struct kube_self, req);

	if (why != NULL)
		again(s);
	else if (s->at_node)
		node_answered(s);
	else
		daemonset_answered(s);
}

static const struct https_req_ops req_ops = {.head = on_head, .data = on_data, .end = on_end};

static void ask(struct kube_self *s)
{
	s->status = 0;
	s->body.n = 0;
	if (kube_conn_request(s->conn, &s->req, "GET", s->at_node ? s->node_path : s->path, NULL,
			      (struct str){0}, KUBE_SELF_MS, &req_ops, NULL) < 0)
		again(s); /* not connected right now */
}

static void on_again(struct timer *t)
{
	ask(container_of(t, struct kube_self, again));
}

static void on_limit(struct timer *t)
{
	struct kube_self *s = container_of(t, struct kube_self, limit);

	finish(s, false,
	       s->at_node ? "its DaemonSet is there"
			  : "the API server does not say whether its DaemonSet is there");
}

void kube_self_ask(struct kube_self *s, struct loop *l, struct kube_conn *c, const char *ns,
		   const char *node, void (*done)(void *ctx, bool leaves, const char *why),
		   void *ctx)
{
	s->loop = l;
	s->conn = c;
	s->path = xasprintf("%s/apis/apps/v1/namespaces/%s/daemonsets/" KUBE_SELF_DAEMONSET,
			    kube_conn_prefix(c), ns);
	s->node_path = xasprintf("%s/api/v1/nodes/%s", kube_conn_prefix(c), node);
	s->done = done;
	s->ctx = ctx;
	loop_timer_set(l, &s->limit, KUBE_SELF_MS, on_limit);
	ask(s);
}

void kube_self_fini(struct kube_self *s)
{
	https_req_cancel(&s->req);
	loop_timer_cancel(&s->again);
	loop_timer_cancel(&s->limit);
	strbuf_fini(&s->body);
	strbuf_fini(&s->daemonset);
	free(s->path);
	free(s->node_path);
	*s = (struct kube_self){0};
}
