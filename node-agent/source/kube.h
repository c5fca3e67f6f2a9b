/* SPDX-License-Identifier: Apache-2.0
 * kube.h: pods of this node and all namespaces from the Kubernetes API, and the annotation that
 * tells the mesh's control plane which pods are in.
 *
 * When the API is away the last good picture stays in force and is marked stale (kube_stale). It is
 * also kept in a file (last_file.h), for a start while the API is away. What
 * was never seen is unknown, never "not in the mesh". Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "node-agent/source/kube_patch.h"

struct err;
struct jsonw;
struct kube;
struct kubeconfig;
struct label_keys;
struct loop;
struct pods;

struct kube_config {
	const char *kubeconfig;	       /* path; NULL: what a pod is given */
	const char *host, *port;       /* KUBERNETES_SERVICE_HOST and _PORT, without a kubeconfig */
	const char *account_dir;       /* token and ca.crt; NULL:
					  /var/run/secrets/kubernetes.io/serviceaccount */
	const char *node;	       /* this node's name; required */
	const struct label_keys *keep; /* labels that selectors look at; must outlive it */
	const char *state_dir;	       /* where the last picture is kept; NULL or "": nowhere */
};

/* Where the server is and who we are there; the caller ends with kubeconfig_fini(), also on
 * failure.
 */
int kube_config_read(const struct kube_config *cfg, struct kubeconfig *ret, struct err *err)
	_must_check_;
/* Starts connecting; NULL with @err when the configuration is bad. */
struct kube *kube_new(struct loop *l, const struct kube_config *cfg, struct pods *into,
		      struct err *err) _must_check_;
struct kube *kube_free(struct kube *k);
/* From now on the annotation follows what @mesh says. */
void kube_write_back(struct kube *k, kube_patch_mesh mesh, void *ctx);
/* What @mesh says about this pod may have changed. */
void kube_pod_mesh_changed(struct kube *k, const char *ns, const char *name);

/* Whether the DaemonSet that started us goes for good (kube_self.h). Once; @done from the loop. */
void kube_ask_self(struct kube *k, const char *ns,
		   void (*done)(void *ctx, bool leaves, const char *why), void *ctx);

/* struct source (source.h): @impl is a struct kube. */
bool kube_synced(const void *impl);
const char *kube_error(const void *impl);
bool kube_stale(const void *impl, uint64_t *ret_age_ms);
bool kube_former(const void *impl);		    /* the last life's picture is in force */
void kube_print(const void *impl, struct jsonw *w); /* "lastState" */
const char *kube_where(const struct kube *k);
