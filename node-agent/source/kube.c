/* SPDX-License-Identifier: Apache-2.0
 * kube.c: see kube.h. The two watches into the store, and what the agent says about the source.
 */
#include "node-agent/source/kube.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"
#include "lib/kube/kube_conn.h"
#include "lib/kube/kube_watch.h"
#include "lib/kube/kubeconfig.h"
#include "node-agent/source/kube_self.h"
#include "node-agent/source/last_file.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

/* A start does not believe the last picture before the API had this long to answer. */
#define LAST_AFTER_MS  3000
#define STALE_AFTER_MS 2000 /* a watch that ends and goes on is no news */

struct kube {
	struct loop *loop;
	struct pods *pods;
	struct kubeconfig cfg;
	char *node;
	const struct label_keys *keep;
	struct kube_conn *conn;
	struct kube_watch pod_watch, namespace_watch;
	struct kube_self self;
	struct kube_patch *patch; /* NULL until kube_write_back() */
	struct err conn_error;	  /* code 0: connected */
	uint64_t live_ms;	  /* when the picture was current last */
	bool live, synced;
	struct last_file last;
	struct timer last_due;
	bool last_taken;      /* a picture of the last life filled what was not listed */
	uint64_t last_age_ms; /* how old it was then */
	char error[ERR_MSG_MAX];
};

/* Every list was read to its end by this process. */
static bool listed(const struct kube *k)
{
	return k->pod_watch.state.synced && k->namespace_watch.state.synced;
}

static void picture_changed(struct kube *k)
{
	if (listed(k))
		last_file_changed(&k->last);
}

/* --- objects --- */

static bool name_of(const struct doc *object, const char *key, char buf[POD_NAME_MAX])
{
	struct str s = {0};

	return doc_opt_text(doc_get(object, "metadata"), key, &s, NULL) == 0 && s.n != 0 &&
	       str_to_cstr(s, buf, POD_NAME_MAX, NULL) == 0;
}

static int put_pod(void *ctx, const struct doc *object, unsigned int generation, struct err *err)
{
	struct kube *k = ctx;
	struct pod *p = NULL;
	int r = manifest_read_pod(object, k->keep, &p, err);

	if (r == 0 && p->uid == NULL) {
		(void)pod_free(p);
		r = err_set(err, EINVAL, "the pod has no metadata.uid");
	}
	if (r < 0) {
		char ns[POD_NAME_MAX], name[POD_NAME_MAX];

		if (name_of(object, "namespace", ns) && name_of(object, "name", name))
			pods_keep(k->pods, ns, name, &k->pod_watch, generation);
		return r;
	}
	/* the server filters; one that does not must not give us other nodes' pods */
	if (p->node_name == NULL || strcmp(p->node_name, k->node) != 0) {
		pods_remove(k->pods, p->ns, p->name, &k->pod_watch);
		(void)pod_free(p);
		return 0;
	}
	_cleanup_free_ char *p_ns = xstrdup(p->ns), *p_name = xstrdup(p->name);

	pods_put(k->pods, p, &k->pod_watch, generation);
	picture_changed(k);
	if (k->patch != NULL)
		kube_patch_look(k->patch, p_ns, p_name);
	return 0;
}

static void pod_gone(void *ctx, const struct doc *object)
{
	struct kube *k = ctx;
	char ns[POD_NAME_MAX], name[POD_NAME_MAX];

	if (name_of(object, "namespace", ns) && name_of(object, "name", name))
		pods_remove(k->pods, ns, name, &k->pod_watch);
	picture_changed(k);
}

static void sweep_pods(void *ctx, unsigned int generation)
{
	struct kube *k = ctx;

	pods_sweep(k->pods, &k->pod_watch, generation);
	picture_changed(k);
}

static int put_namespace(void *ctx, const struct doc *object, unsigned int generation,
			 struct err *err)
{
	struct kube *k = ctx;
	struct pod_namespace *n = NULL;
	char name[POD_NAME_MAX];
	int r = manifest_read_namespace(object, k->keep, &n, err);

	if (r == 0)
		pods_put_namespace(k->pods, n, &k->namespace_watch, generation);
	else if (name_of(object, "name", name))
		pods_keep_namespace(k->pods, name, &k->namespace_watch, generation);
	picture_changed(k);
	return r;
}

static void namespace_gone(void *ctx, const struct doc *object)
{
	struct kube *k = ctx;
	char name[POD_NAME_MAX];

	if (name_of(object, "name", name))
		pods_remove_namespace(k->pods, name, &k->namespace_watch);
	picture_changed(k);
}

static void sweep_namespaces(void *ctx, unsigned int generation)
{
	struct kube *k = ctx;

	pods_sweep(k->pods, &k->namespace_watch, generation);
	picture_changed(k);
}

static void compose_error(struct kube *k)
{
	const struct kube_watch *both[] = {&k->pod_watch, &k->namespace_watch};

	k->error[0] = '\0';
	if (k->conn_error.code != 0) {
		(void)snprintf(k->error, sizeof(k->error), "%s", k->conn_error.msg);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(both) && k->error[0] == '\0'; i++)
		if (both[i]->error.code != 0)
			(void)snprintf(k->error, sizeof(k->error), "%s", both[i]->error.msg);
	for (size_t i = 0; i < ARRAY_LEN(both) && k->error[0] == '\0'; i++)
		if (both[i]->bad[0] != '\0')
			(void)snprintf(k->error, sizeof(k->error), "%s", both[i]->bad);
	/* a pod that the old picture lacks is not known to be gone: enrol/ asks for an error */
	if (k->error[0] == '\0' && kube_former(k))
		(void)snprintf(
			k->error, sizeof(k->error),
			"%s has not been read yet; what is known is of the agent's last life",
			kube_conn_where(k->conn));
}

/* --- the last life's picture --- */

/* What this life has read already is newer. */
static void take_pod(struct kube *k, struct pod *p)
{
	if (k->pod_watch.state.synced || pods_find(k->pods, p->ns, p->name) != NULL ||
	    p->node_name == NULL || strcmp(p->node_name, k->node) != 0)
		(void)pod_free(p);
	else
		pods_put(k->pods, p, &k->pod_watch, 0); /* 0: the first list sweeps it */
}

static void take_namespace(struct kube *k, struct pod_namespace *n)
{
	if (k->namespace_watch.state.synced || pods_namespace(k->pods, n->name) != NULL)
		(void)pod_namespace_free(n);
	else
		pods_put_namespace(k->pods, n, &k->namespace_watch, 0);
}

static void on_last_due(struct timer *t)
{
	struct kube *k = container_of(t, struct kube, last_due);
	struct manifest m = {0};

	if (listed(k) || last_file_load(&k->last, &m, &k->last_age_ms) < 0)
		return;
	for (size_t i = 0; i < m.nnamespaces; i++)
		take_namespace(k, take_ptr(m.namespaces[i]));
	for (size_t i = 0; i < m.npods; i++)
		take_pod(k, take_ptr(m.pods[i]));
	manifest_fini(&m);
	k->last_taken = true;
	compose_error(k);
	log_warn("kube",
		 "%s does not answer: what was known %llu s ago is in force file=%s pods=%zu "
		 "namespaces=%zu",
		 kube_conn_where(k->conn), (unsigned long long)(k->last_age_ms / 1000),
		 k->last.path, pods_count(k->pods), pods_namespace_count(k->pods));
}

/* --- the state of the whole --- */

static void on_changed(void *ctx)
{
	struct kube *k = ctx;
	bool live = k->pod_watch.live && k->namespace_watch.live;

	if (k->live && !live)
		k->live_ms = loop_now_ms(k->loop);
	if (live)
		k->last_age_ms = 0;
	k->live = live;
	compose_error(k);
	if (k->synced || !listed(k))
		return;
	k->synced = true;
	loop_timer_cancel(&k->last_due);
	log_info("kube", "everything has been read server=%s pods=%zu namespaces=%zu",
		 kube_conn_where(k->conn), pods_count(k->pods), pods_namespace_count(k->pods));
}

static const struct kube_kind pod_kind = {.resource = "/api/v1/pods",
					  .list_kind = "PodList",
					  .plural = "pods",
					  .put = put_pod,
					  .gone = pod_gone,
					  .sweep = sweep_pods,
					  .changed = on_changed};
static const struct kube_kind namespace_kind = {.resource = "/api/v1/namespaces",
						.list_kind = "NamespaceList",
						.plural = "namespaces",
						.put = put_namespace,
						.gone = namespace_gone,
						.sweep = sweep_namespaces,
						.changed = on_changed};

static void on_up(void *ctx)
{
	struct kube *k = ctx;

	if (k->conn_error.code != 0)
		log_info("kube", "connected again server=%s", kube_conn_where(k->conn));
	k->conn_error = (struct err){0};
	compose_error(k);
	kube_watch_go(&k->namespace_watch);
	kube_watch_go(&k->pod_watch);
	if (k->patch != NULL)
		kube_patch_look_all(k->patch);
}

static void on_down(void *ctx, const struct err *why)
{
	struct kube *k = ctx;

	if (strcmp(k->conn_error.msg, why->msg) != 0)
		log_warn("kube", "no connection to the Kubernetes API: %s%s", why->msg,
			 k->synced ? "; the last picture stays in force" : "");
	k->conn_error = *why;
	compose_error(k);
}

static const struct kube_conn_ops conn_ops = {.up = on_up, .down = on_down};

bool kube_synced(const void *impl)
{
	const struct kube *k = impl;

	return k->last_taken || listed(k);
}

const char *kube_error(const void *impl)
{
	return ((const struct kube *)impl)->error;
}

bool kube_stale(const void *impl, uint64_t *ret_age_ms)
{
	const struct kube *k = impl;

	*ret_age_ms = k->live ? 0 : loop_now_ms(k->loop) - k->live_ms + k->last_age_ms;
	return *ret_age_ms > STALE_AFTER_MS;
}

bool kube_former(const void *impl)
{
	const struct kube *k = impl;

	return k->last_taken && !listed(k);
}

void kube_print(const void *impl, struct jsonw *w)
{
	const struct kube *k = impl;

	jsonw_obj(w, "lastState");
	jsonw_cstr(w, "file", k->last.path);
	jsonw_bool(w, "inForce", kube_former(k));
	jsonw_cstr(w, "error", k->last.error.msg);
	jsonw_end_obj(w);
}

const char *kube_where(const struct kube *k)
{
	return kube_conn_where(k->conn);
}

/* --- life --- */

int kube_config_read(const struct kube_config *cfg, struct kubeconfig *ret, struct err *err)
{
	return cfg->kubeconfig != NULL
		       ? kube_conn_config(cfg->kubeconfig, ret, err)
		       : kubeconfig_in_cluster(cfg->host, cfg->port,
					       cfg->account_dir != NULL ? cfg->account_dir
									: KUBE_ACCOUNT_DIR,
					       ret, err);
}

struct kube *kube_new(struct loop *l, const struct kube_config *cfg, struct pods *into,
		      struct err *err)
{
	struct kube *k = xcalloc(1, sizeof(*k));
	int r;

	k->loop = l;
	k->pods = into;
	k->node = xstrdup(cfg->node);
	k->keep = cfg->keep;
	k->live_ms = loop_now_ms(l);
	r = kube_config_read(cfg, &k->cfg, err);
	if (r < 0)
		return kube_free(k);
	if (k->cfg.insecure)
		log_warn("kube", "insecure-skip-tls-verify: whoever answers is believed");
	k->conn = kube_conn_new(l, &k->cfg, "ambient-agent/" VERSION, &conn_ops, k);
	last_file_init(&k->last, l, into, cfg->state_dir,
		       &(struct last_state_of){.node = k->node,
					       .server = kube_conn_where(k->conn),
					       .keep = k->keep},
		       k->pod_watch.state.rv, k->namespace_watch.state.rv);
	loop_timer_set(l, &k->last_due, LAST_AFTER_MS, on_last_due);
	kube_watch_init(&k->pod_watch, l, k->conn, &pod_kind, k->node, k);
	kube_watch_init(&k->namespace_watch, l, k->conn, &namespace_kind, NULL, k);
	return k;
}

struct kube *kube_free(struct kube *k)
{
	if (k == NULL)
		return NULL;
	loop_timer_cancel(&k->last_due);
	last_file_fini(&k->last);
	k->patch = kube_patch_free(k->patch);
	kube_self_fini(&k->self);
	if (k->conn != NULL) {
		kube_watch_fini(&k->pod_watch);
		kube_watch_fini(&k->namespace_watch);
	}
	k->conn = kube_conn_free(k->conn);
	kubeconfig_fini(&k->cfg);
	free(k->node);
	free(k);
	return NULL;
}

void kube_write_back(struct kube *k, kube_patch_mesh mesh, void *ctx)
{
	k->patch = kube_patch_new(k->loop, k->conn, k->pods, mesh, ctx);
}

void kube_ask_self(struct kube *k, const char *ns,
		   void (*done)(void *ctx, bool leaves, const char *why), void *ctx)
{
	kube_self_ask(&k->self, k->loop, k->conn, ns, k->node, done, ctx);
}

void kube_pod_mesh_changed(struct kube *k, const char *ns, const char *name)
{
	if (k->patch != NULL)
		kube_patch_look(k->patch, ns, name);
}
