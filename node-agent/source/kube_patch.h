/* SPDX-License-Identifier: Apache-2.0
 * kube_patch.h: the annotation ambient.istio.io/redirection of pods, kept as the mesh is.
 *
 * A JSON merge patch on the subresource pods/status (cni-spec 3.9), so that no right to change pods
 * is needed. It names the pod's UID: a pod that took the name meanwhile is not touched (409, which
 * is also the answer when others change the pod all the time; so it is tried again a few times).
 * Never in the way of enrolment: what was asked for a pod is one entry, later wishes replace
 * earlier ones, failures are tried again with growing pauses, at most KUBE_PATCH_MAX requests run
 * at once. Loop thread only.
 */
#pragma once
#include <stddef.h>
#include "lib/base/attr.h"

struct kube_conn;
struct kube_patch;
struct loop;
struct pod;
struct pods;

#define KUBE_PATCH_MAX 8

enum kube_mesh {
	KUBE_MESH_UNSURE, /* leave the annotation as it is */
	KUBE_MESH_IN,	  /* "enabled" */
	KUBE_MESH_OUT,	  /* none */
};
typedef enum kube_mesh (*kube_patch_mesh)(void *ctx, const struct pod *p);

struct kube_patch *kube_patch_new(struct loop *l, struct kube_conn *c, struct pods *pods,
				  kube_patch_mesh mesh, void *ctx) _must_check_;
struct kube_patch *kube_patch_free(struct kube_patch *k);
void kube_patch_look(struct kube_patch *k, const char *ns, const char *name);
void kube_patch_look_all(struct kube_patch *k); /* the connection is up, or everything was listed */
size_t kube_patch_waiting(const struct kube_patch *k);
