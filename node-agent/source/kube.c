/* SPDX-License-Identifier: Apache-2.0
 * kube.c: see kube.h. The two watches into the store, and what the agent says about the source.
 */
#include "node-agent/source/kube.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/doc.h"
#include "lib/os/fd.h"
#include "node-agent/source/kube_conn.h"
#include "node-agent/source/kube_watch.h"
#include "node-agent/source/kubeconfig.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

#define ACCOUNT_DIR    "/var/run/secrets/kubernetes.io/serviceaccount"
#define STALE_AFTER_MS 2000 /* a watch that ends and goes on is no news */

struct kube {
	struct loop *loop;
	struct pods *pods;
	struct kubeconfig cfg;
	char *node;
	struct kube_conn *conn;
	struct kube_watch pod_watch, namespace_watch;
	struct kube_patch *patch; /* NULL until kube_write_back() */
	struct err conn_error;	  /* code 0: connected */
	uint64_t live_ms;	  /* when the picture was current last */
	bool live, synced;
	char error[ERR_MSG_MAX];
};

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
	int r = manifest_read_pod(object, &p, err);

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
}

static void sweep_pods(void *ctx, unsigned int generation)
{
	struct kube *k = ctx;

	pods_sweep(k->pods, &k->pod_watch, generation);
}

static int put_namespace(void *ctx, const struct doc *object, unsigned int generation,
			 struct err *err)
{
	struct kube *k = ctx;
	struct pod_namespace *n = NULL;
	char name[POD_NAME_MAX];
	int r = manifest_read_namespace(object, &n, err);

	if (r == 0)
		pods_put_namespace(k->pods, n, &k->namespace_watch, generation);
	else if (name_of(object, "name", name))
		pods_keep_namespace(k->pods, name, &k->namespace_watch, generation);
	return r;
}

static void namespace_gone(void *ctx, const struct doc *object)
{
	struct kube *k = ctx;
	char name[POD_NAME_MAX];

	if (name_of(object, "name", name))
		pods_remove_namespace(k->pods, name, &k->namespace_watch);
}

static void sweep_namespaces(void *ctx, unsigned int generation)
{
	struct kube *k = ctx;

	pods_sweep(k->pods, &k->namespace_watch, generation);
}

/* --- the state of the whole --- */

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
}

static void on_changed(void *ctx)
{
	struct kube *k = ctx;
	bool live = k->pod_watch.live && k->namespace_watch.live;

	if (k->live && !live)
		k->live_ms = loop_now_ms(k->loop);
	k->live = live;
	compose_error(k);
	if (k->synced || !kube_synced(k))
		return;
	k->synced = true;
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

	return k->pod_watch.state.synced && k->namespace_watch.state.synced;
}

const char *kube_error(const void *impl)
{
	return ((const struct kube *)impl)->error;
}

bool kube_stale(const void *impl, uint64_t *ret_age_ms)
{
	const struct kube *k = impl;

	*ret_age_ms = k->live ? 0 : loop_now_ms(k->loop) - k->live_ms;
	return *ret_age_ms > STALE_AFTER_MS;
}

const char *kube_where(const struct kube *k)
{
	return kube_conn_where(k->conn);
}

/* --- life --- */

static int read_kubeconfig(struct kube *k, const char *path, struct err *err)
{
	_cleanup_free_ char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/'), *text = NULL;
	size_t n = 0;
	int r = file_read(path, LIMIT_MANIFEST_BYTES, &text, &n, err);

	if (r < 0)
		return r;
	if (slash != NULL)
		*slash = '\0';
	r = kubeconfig_parse((struct str){text, n}, NULL, slash != NULL ? dir : ".", &k->cfg, err);
	explicit_bzero(text, n);
	free(text);
	return r < 0 ? err_wrap(err, "%s", path) : 0;
}

struct kube *kube_new(struct loop *l, const struct kube_config *cfg, struct pods *into,
		      struct err *err)
{
	struct kube *k = xcalloc(1, sizeof(*k));
	int r;

	k->loop = l;
	k->pods = into;
	k->node = xstrdup(cfg->node);
	k->live_ms = loop_now_ms(l);
	r = cfg->kubeconfig != NULL
		    ? read_kubeconfig(k, cfg->kubeconfig, err)
		    : kubeconfig_in_cluster(cfg->host, cfg->port,
					    cfg->account_dir != NULL ? cfg->account_dir
								     : ACCOUNT_DIR,
					    &k->cfg, err);
	if (r < 0)
		return kube_free(k);
	if (k->cfg.insecure)
		log_warn("kube", "insecure-skip-tls-verify: whoever answers is believed");
	k->conn = kube_conn_new(l, &k->cfg, &conn_ops, k);
	kube_watch_init(&k->pod_watch, l, k->conn, &pod_kind, k->node, k);
	kube_watch_init(&k->namespace_watch, l, k->conn, &namespace_kind, NULL, k);
	return k;
}

struct kube *kube_free(struct kube *k)
{
	if (k == NULL)
		return NULL;
	k->patch = kube_patch_free(k->patch);
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

void kube_pod_mesh_changed(struct kube *k, const char *ns, const char *name)
{
	if (k->patch != NULL)
		kube_patch_look(k->patch, ns, name);
}
