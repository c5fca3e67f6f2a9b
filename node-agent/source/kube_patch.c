/* SPDX-License-Identifier: Apache-2.0
 * kube_patch.c: see kube_patch.h.
 */
#include "node-agent/source/kube_patch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"
#include "lib/kube/kube_conn.h"
#include "node-agent/source/pods.h"

#define ANNOTATION "ambient.istio.io/redirection"
#define PATCH_MS   10000
#define FIRST_MS   200
#define MAX_MS	   60000
#define CONFLICTS  3 /* tried again so often: the pod is the same as far as we know */

struct entry { /* one pod whose annotation is not as it should be */
	struct kube_patch *owner;
	struct list node;
	char *ns, *name, *uid;
	enum kube_mesh wish; /* of the request that is under way */
	uint64_t put;	     /* what was known of the pod then */
	unsigned int failures, conflicts;
	uint32_t status;
	struct https_req req;
	struct timer again;
	struct ready turn;
	struct deferred dead;
};

struct kube_patch {
	struct loop *loop;
	struct kube_conn *conn;
	struct pods *pods;
	kube_patch_mesh mesh;
	void *ctx;
	struct list entries;
	size_t count, running;
};

static const struct https_req_ops req_ops;

static struct entry *find(const struct kube_patch *k, const char *ns, const char *name)
{
	list_for_each (n, &k->entries) {
		struct entry *e = container_of(n, struct entry, node);

		if (strcmp(e->ns, ns) == 0 && strcmp(e->name, name) == 0)
			return e;
	}
	return NULL;
}

static void free_entry(struct deferred *d)
{
	struct entry *e = container_of(d, struct entry, dead);

	free(e->ns);
	free(e->name);
	free(e->uid);
	free(e);
}

static void drop(struct entry *e)
{
	struct kube_patch *k = e->owner;

	if (e->req.client != NULL)
		k->running--;
	https_req_cancel(&e->req);
	loop_timer_cancel(&e->again);
	loop_ready_cancel(&e->turn);
	list_remove(&e->node);
	k->count--;
	loop_defer(k->loop, &e->dead, free_entry);
}

/* UNSURE: nothing is to be done. */
static enum kube_mesh wish_of(const struct kube_patch *k, const struct pod *p)
{
	enum kube_mesh m = p->uid != NULL ? k->mesh(k->ctx, p) : KUBE_MESH_UNSURE;
	bool enabled = p->redirection != NULL && strcmp(p->redirection, "enabled") == 0;

	if ((m == KUBE_MESH_IN && enabled) || (m == KUBE_MESH_OUT && p->redirection == NULL))
		return KUBE_MESH_UNSURE;
	return m;
}

static int send_patch(struct entry *e, struct err *err)
{
	struct kube_patch *k = e->owner;
	_cleanup_strbuf_ struct strbuf body = {0};
	_cleanup_free_ char *path = xasprintf("%s/api/v1/namespaces/%s/pods/%s/status",
					      kube_conn_prefix(k->conn), e->ns, e->name);
	struct jsonw w;

	jsonw_init(&w, &body, false);
	jsonw_obj(&w, NULL);
	jsonw_obj(&w, "metadata");
	jsonw_cstr(&w, "uid", e->uid);
	jsonw_obj(&w, "annotations");
	jsonw_cstr(&w, ANNOTATION, e->wish == KUBE_MESH_IN ? "enabled" : NULL);
	jsonw_end_obj(&w);
	jsonw_end_obj(&w);
	jsonw_end_obj(&w);
	return kube_conn_request(k->conn, &e->req, "PATCH", path, "application/merge-patch+json",
				 (struct str){body.p, body.n}, PATCH_MS, &req_ops, err);
}

static void on_turn(struct ready *r);

static void turn(struct entry *e)
{
	e->turn.fn = on_turn;
	loop_ready(e->owner->loop, &e->turn);
}

static void on_again(struct timer *t)
{
	turn(container_of(t, struct entry, again));
}

static void retry(struct entry *e, const char *why)
{
	uint64_t ms = https_backoff_ms(++e->failures, FIRST_MS, MAX_MS, rand_u64());

	log_limited(LOG_LV_WARN, "kube", "cannot annotate pod=%s/%s: %s; next attempt in %llu ms",
		    e->ns, e->name, why, (unsigned long long)ms);
	loop_timer_set(e->owner->loop, &e->again, ms, on_again);
}

/* Decides with what is known now, and acts. */
static void on_turn(struct ready *r)
{
	struct entry *e = container_of(r, struct entry, turn);
	struct kube_patch *k = e->owner;
	const struct pod *p = pods_find(k->pods, e->ns, e->name);
	enum kube_mesh wish = p != NULL ? wish_of(k, p) : KUBE_MESH_UNSURE;
	struct err err = {0};

	if (e->req.client != NULL || timer_armed(&e->again))
		return; /* its end looks again */
	if (wish == KUBE_MESH_UNSURE) {
		drop(e);
		return;
	}
	if (!kube_conn_usable(k->conn) || k->running >= KUBE_PATCH_MAX)
		return; /* kube_patch_look_all(), or the end of another one */
	free(e->uid);
	e->uid = xstrdup(p->uid);
	e->wish = wish;
	e->put = p->put;
	e->status = 0;
	if (send_patch(e, &err) < 0)
		retry(e, err.msg);
	else
		k->running++;
}

static void on_head(struct https_req *r, unsigned int status, const struct h2_head *h)
{
	(void)h;
	container_of(r, struct entry, req)->status = status;
}

static void on_data(struct https_req *r, const uint8_t *p, size_t n)
{
	(void)r; /* the whole pod, which the watch brings as well */
	(void)p;
	(void)n;
}

static void on_end(struct https_req *r, const struct err *why)
{
	struct entry *e = container_of(r, struct entry, req);
	struct kube_patch *k = e->owner;
	const char *value = e->wish == KUBE_MESH_IN ? "enabled" : NULL;
	const struct pod *p = pods_find(k->pods, e->ns, e->name);
	bool same = p == NULL || p->uid == NULL || strcmp(p->uid, e->uid) == 0;
	char text[64];

	k->running--;
	list_for_each (n, &k->entries)
		turn(container_of(n, struct entry, node));
	if (why != NULL) {
		retry(e, why->msg);
	} else if (e->status == 200) {
		log_debug("kube", "annotated pod=%s/%s uid=%s redirection=%s", e->ns, e->name,
			  e->uid, value != NULL ? value : "none");
		if (p != NULL && p->put == e->put) /* else an event may be newer than the answer */
			pods_set_redirection(k->pods, e->ns, e->name, e->uid, value);
		e->failures = e->conflicts = 0;
	} else if (e->status == 409 && same && e->conflicts++ < CONFLICTS) {
		/* it gave up between others' changes, or we have yet to hear of another pod */
		retry(e, "the API server answered 409");
	} else if (e->status == 404 || e->status == 409) {
		/* gone, or another pod by now: it has its turn, or its own events to come */
		if (same)
			drop(e);
		else
			e->failures = e->conflicts = 0;
	} else {
		if (e->status == 401)
			kube_conn_refused(k->conn);
		(void)snprintf(text, sizeof(text), "the API server answered %u%s", e->status,
			       e->status == 403 ? " (patch on pods/status is needed)" : "");
		retry(e, text);
	}
}

static const struct https_req_ops req_ops = {.head = on_head, .data = on_data, .end = on_end};

void kube_patch_look(struct kube_patch *k, const char *ns, const char *name)
{
	const struct pod *p = pods_find(k->pods, ns, name);
	struct entry *e = find(k, ns, name);

	if (e == NULL) {
		if (p == NULL || wish_of(k, p) == KUBE_MESH_UNSURE)
			return;
		e = xcalloc(1, sizeof(*e));
		e->owner = k;
		e->ns = xstrdup(ns);
		e->name = xstrdup(name);
		list_append(&k->entries, &e->node);
		k->count++;
	}
	turn(e);
}

static void look_one(void *ctx, const struct pod *p)
{
	kube_patch_look(ctx, p->ns, p->name);
}

void kube_patch_look_all(struct kube_patch *k)
{
	list_for_each (n, &k->entries)
		turn(container_of(n, struct entry, node));
	pods_each(k->pods, look_one, k);
}

size_t kube_patch_waiting(const struct kube_patch *k)
{
	return k->count;
}

struct kube_patch *kube_patch_new(struct loop *l, struct kube_conn *c, struct pods *pods,
				  kube_patch_mesh mesh, void *ctx)
{
	struct kube_patch *k = xcalloc(1, sizeof(*k));

	*k = (struct kube_patch){.loop = l, .conn = c, .pods = pods, .mesh = mesh, .ctx = ctx};
	list_init(&k->entries);
	return k;
}

struct kube_patch *kube_patch_free(struct kube_patch *k)
{
	if (k == NULL)
		return NULL;
	while (!list_empty(&k->entries))
		drop(container_of(k->entries.next, struct entry, node));
	free(k);
	return NULL;
}
