/* SPDX-License-Identifier: Apache-2.0
 * env.h: the CNI_* environment variables and CNI_ARGS, checked as the reference library does.
 *
 * Pure: the caller hands in how to look a variable up. Source: cni-spec 1.1, 1.3.
 */
#pragma once
#include "cni/fail.h"
#include "lib/base/str.h"

enum cni_verb {
	CNI_VERB_NONE,
	CNI_VERB_ADD,
	CNI_VERB_CHECK,
	CNI_VERB_DEL,
	CNI_VERB_GC,
	CNI_VERB_STATUS,
	CNI_VERB_VERSION,
	CNI_VERB_N
};
extern const char *const cni_verb_name[CNI_VERB_N];

struct cni_env {
	/* "" when not set */
	const char *container_id, *netns, *ifname;
	bool netns_override; /* CNI_NETNS_OVERRIDE: the plugin may share the pod's namespace */
	/* of CNI_ARGS; empty when absent */
	struct str pod_name, pod_namespace, pod_uid;
};

typedef const char *(*cni_getenv)(void *ctx, const char *name);

enum cni_verb cni_verb_parse(const char *s); /* CNI_VERB_NONE: unknown */
/* Reads what @verb needs. 0, or -1 with CNI_BAD_ENV in @f: every missing variable is named. The
 * texts point into what @get returned. */
int cni_env_load(enum cni_verb verb, cni_getenv get, void *ctx, struct cni_env *ret,
		 struct cni_fail *f) _must_check_;
/* CNI_ARGS alone: "K=V;K=V". 0 or -1. */
int cni_args_parse(struct str args, struct cni_env *ret, struct cni_fail *f) _must_check_;
/* A container id or a network name: [A-Za-z0-9][A-Za-z0-9_.-]*. */
bool cni_name_ok(struct str s);
