/* SPDX-License-Identifier: Apache-2.0
 * pods.h: the agent's picture of this node's pods and of all namespaces.
 *
 * A source (a directory of manifests now, the Kubernetes API later) puts objects in; everything
 * else only reads and is told which pod to look at again. Objects belong to the store; a pointer
 * is valid until the next call that changes the store. Loop thread only. Pure: no I/O.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/hash.h"
#include "lib/format/ip.h"
#include "node-agent/source/labels.h"

struct err;
struct pods;

#define POD_IPS_MAX  8
#define POD_NAME_MAX 254 /* with NUL: Kubernetes allows 253 */
#define POD_UID_MAX  64

/* The facts that decide anything here (cni-spec 3.2). Texts are owned; NULL means absent. */
struct pod {
	struct hnode node;
	const void *owner; /* which file or watch put it there */
	unsigned int generation;
	uint64_t
		put; /* counts up with every event that brought a pod, and this was the last here */
	char *name, *ns;
	char *uid; /* NULL in a manifest that was never given to an API server */
	/* Of a static pod, which the API knows by a mirror with a UID of its own: the UID that
	 * kubelet and runtime use (annotation kubernetes.io/config.mirror); else NULL. */
	char *runtime_uid;
	char *service_account;
	char *node_name;
	char *mode;	      /* label istio.io/dataplane-mode */
	struct labels labels; /* that the configured selectors look at */
	char *app;	      /* label app: recognises ztunnel's own pods */
	char *bypass_inbound; /* annotation ambient.istio.io/bypass-inbound-capture */
	char *dns_capture;    /* annotation ambient.istio.io/dns-capture */
	char *reroute_ifaces; /* annotation istio.io/reroute-virtual-interfaces */
	char *redirection;    /* annotation ambient.istio.io/redirection: what we wrote back */
	bool host_network, sidecar, terminal;
	struct ip_addr ips[POD_IPS_MAX];
	size_t nips;
};
struct pod_namespace {
	struct hnode node;
	const void *owner;
	unsigned int generation;
	char *name;
	char *mode; /* label istio.io/dataplane-mode */
	struct labels labels;
};

struct pod *pod_free(struct pod *p); /* NULL is fine; returns NULL */
/* True when @uid is the pod's UID, or what the runtime calls it. @loose: '-' does not count, as in
 * a cgroup's name. */
bool pod_has_uid(const struct pod *p, const char *uid, bool loose);
/* What the runtime calls it; NULL when nobody said. */
const char *pod_runtime_uid(const struct pod *p);
struct pod_namespace *pod_namespace_free(struct pod_namespace *n);

/* @changed(ctx, ns, name): look at this pod again (it came, went, changed, or its namespace did).
 */
struct pods *pods_new(void (*changed)(void *ctx, const char *ns, const char *name), void *ctx)
	_must_check_;
struct pods *pods_free(struct pods *s);

const struct pod *pods_find(const struct pods *s, const char *ns, const char *name);
const struct pod *pods_find_uid(const struct pods *s, const char *uid); /* linear */
const struct pod_namespace *pods_namespace(const struct pods *s, const char *name);
/* How often somebody was told, since the start. */
struct pods_changes {
	uint64_t added, updated, deleted;
};
const struct pods_changes *pods_changes(const struct pods *s);
size_t pods_count(const struct pods *s);
size_t pods_namespace_count(const struct pods *s);
void pods_each(const struct pods *s, void (*fn)(void *ctx, const struct pod *p), void *ctx);

void pods_each_namespace(const struct pods *s, void (*fn)(void *ctx, const struct pod_namespace *n),
			 void *ctx);

/* An object of another owner with the same name: that owner, else NULL. */
const void *pods_other_owner(const struct pods *s, const char *ns, const char *name,
			     const void *owner);
const void *pods_namespace_other_owner(const struct pods *s, const char *name, const void *owner);
/* Puts @p (ownership moves here) in the place of any object with the same name. Tells about it
 * only when something differs. @generation marks it for pods_sweep(). */
void pods_put(struct pods *s, struct pod *p, const void *owner, unsigned int generation);
void pods_put_namespace(struct pods *s, struct pod_namespace *n, const void *owner,
			unsigned int generation);
/* Marks an object with @generation without changing it: it exists, but could not be read. */
void pods_keep(struct pods *s, const char *ns, const char *name, const void *owner,
	       unsigned int generation);
void pods_keep_namespace(struct pods *s, const char *name, const void *owner,
			 unsigned int generation);
/* Removes one object, if @owner put it. */
void pods_remove(struct pods *s, const char *ns, const char *name, const void *owner);
void pods_remove_namespace(struct pods *s, const char *name, const void *owner);
/* The annotation of a pod is now @value (NULL: none); nobody is told, it decides nothing. Not when
 * the pod has another UID by now. */
void pods_set_redirection(struct pods *s, const char *ns, const char *name, const char *uid,
			  const char *value);
/* Removes what @owner put with another generation (0: everything it put). */
void pods_sweep(struct pods *s, const void *owner, unsigned int generation);
