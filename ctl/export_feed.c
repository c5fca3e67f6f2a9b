/* SPDX-License-Identifier: Apache-2.0
 * export_feed.c: see export_feed.h.
 */
#include "ctl/export_feed.h"

#include <errno.h>

#include "ctl/export_read.h"
#include "lib/base/log.h"
#include "lib/format/doc.h"
#include "lib/kube/kube_conn.h"

static struct str meta_text(const struct doc *object, const char *key)
{
	struct str s = {"", 0};

	if (doc_opt_text(doc_get(object, "metadata"), key, &s, NULL) < 0)
		return (struct str){"", 0};
	return s;
}

static void changed(struct ex_feed *f)
{
	f->all->changed(f->all->ctx);
}

static int put(void *ctx, const struct doc *object, unsigned int generation, struct err *err)
{
	struct ex_feed *f = ctx;
	struct ex_store *s = f->all->store;
	struct str ns = meta_text(object, "namespace"), name = meta_text(object, "name");
	struct ex_object *o = NULL;
	bool news;
	int r = ex_read(f->kind, object, &s->texts, &o, err);

	if (r < 0) {
		ex_store_keep(s, f->kind, ns, name, generation);
		return r;
	}
	if (o != NULL)
		o->generation = generation;
	news = o != NULL ? ex_store_put(s, o) : ex_store_remove(s, f->kind, ns, name);
	if (news && o != NULL && o->note != NULL)
		log_limited(LOG_LV_WARN, "export", "%s %.*s/%.*s: %s", f->watch.kind->plural,
			    STR_FMT(ns), STR_FMT(name), o->note);
	if (news)
		changed(f);
	return 0;
}

static void gone(void *ctx, const struct doc *object)
{
	struct ex_feed *f = ctx;

	if (ex_store_remove(f->all->store, f->kind, meta_text(object, "namespace"),
			    meta_text(object, "name")))
		changed(f);
}

static void sweep(void *ctx, unsigned int generation)
{
	struct ex_feed *f = ctx;

	if (ex_store_sweep(f->all->store, f->kind, generation))
		changed(f);
}

static void on_changed(void *ctx)
{
	struct ex_feed *f = ctx;

	if (f->watch.absent && !f->absent)
		log_info("export", "this cluster has no %s (no such resource)",
			 f->watch.kind->plural);
	f->absent = f->watch.absent;
	changed(f);
}

#define OPS .put = put, .gone = gone, .sweep = sweep, .changed = on_changed

static const struct kube_kind kinds[EX_KIND_N] = {
	[EX_POD] = {.resource = "/api/v1/pods", .list_kind = "PodList", .plural = "pods", OPS},
	[EX_SERVICE] = {.resource = "/api/v1/services",
			.list_kind = "ServiceList",
			.plural = "services",
			OPS},
	/* The endpoints of a service with a selector are the pods that it selects; what Kubernetes'
	 * own controller writes about them is most of the slices, and says nothing new. */
	[EX_SLICE] = {.resource = "/apis/discovery.k8s.io/v1/endpointslices",
		      .list_kind = "EndpointSliceList",
		      .plural = "endpointslices",
		      .labels = "endpointslice.kubernetes.io/managed-by!="
				"endpointslice-controller.k8s.io",
		      OPS},
	[EX_NAMESPACE] = {.resource = "/api/v1/namespaces",
			  .list_kind = "NamespaceList",
			  .plural = "namespaces",
			  OPS},
	[EX_NODE] = {.resource = "/api/v1/nodes", .list_kind = "NodeList", .plural = "nodes", OPS},
	[EX_POLICY] = {.resource = "/apis/security.istio.io/v1/authorizationpolicies",
		       .older = "/apis/security.istio.io/v1beta1/authorizationpolicies",
		       .list_kind = "AuthorizationPolicyList",
		       .plural = "authorizationpolicies",
		       .optional = true,
		       OPS},
	[EX_PEER] = {.resource = "/apis/security.istio.io/v1/peerauthentications",
		     .older = "/apis/security.istio.io/v1beta1/peerauthentications",
		     .list_kind = "PeerAuthenticationList",
		     .plural = "peerauthentications",
		     .optional = true,
		     OPS},
};

void ex_feeds_init(struct ex_feeds *f, struct loop *l, struct kube_conn *c, struct ex_store *s,
		   void (*on_any)(void *ctx), void *ctx)
{
	*f = (struct ex_feeds){.store = s, .changed = on_any, .ctx = ctx};
	for (int k = 0; k < EX_KIND_N; k++) {
		struct ex_feed *x = &f->feed[k];

		x->all = f;
		x->kind = (enum ex_kind)k;
		kube_watch_init(&x->watch, l, c, &kinds[k], NULL, x);
	}
}

void ex_feeds_fini(struct ex_feeds *f)
{
	for (int k = 0; k < EX_KIND_N; k++)
		kube_watch_fini(&f->feed[k].watch);
}

void ex_feeds_go(struct ex_feeds *f)
{
	for (int k = 0; k < EX_KIND_N; k++)
		kube_watch_go(&f->feed[k].watch);
}

bool ex_feeds_synced(const struct ex_feeds *f)
{
	for (int k = 0; k < EX_KIND_N; k++)
		if (!f->feed[k].watch.state.synced)
			return false;
	return true;
}

bool ex_feeds_refused(const struct ex_feeds *f, struct err *ret)
{
	for (int k = 0; k < EX_KIND_N; k++) {
		const struct kube_watch *w = &f->feed[k].watch;
		uint32_t s = w->error.code != 0 ? w->refusal : 0;

		/* 408, 410 and 429 are about the moment */
		if (s >= 400 && s < 500 && s != 408 && s != 410 && s != 429) {
			*ret = w->error;
			return true;
		}
	}
	return false;
}

const char *ex_feeds_error(const struct ex_feeds *f)
{
	for (int k = 0; k < EX_KIND_N; k++)
		if (f->feed[k].watch.error.code != 0)
			return f->feed[k].watch.error.msg;
	return "";
}
