/* SPDX-License-Identifier: Apache-2.0
 * export_store.h: what `ambientctl export-state` keeps of Kubernetes objects: only the fields that
 * the mesh state is made of, with every text held once. Pure.
 *
 * A cluster repeats itself: labels, service accounts and node names of 100 pods are the same few
 * texts. Equal texts are one pointer, so a selector is matched by comparing pointers.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/hash.h"
#include "lib/base/str.h"
#include "lib/format/ip.h"

/* --- texts --- */

struct ex_texts { /* zero to start */
	struct htab table;
};
/* The one copy of @s, with one reference more. @s holds no NUL. Never NULL. */
const char *ex_text(struct ex_texts *t, struct str s);
const char *ex_text_ref(const char *text);
void ex_text_drop(struct ex_texts *t, const char *text); /* NULL is fine */

/* --- objects --- */

enum ex_kind {
	EX_POD,
	EX_SERVICE,
	EX_SLICE,
	EX_NAMESPACE,
	EX_NODE,
	EX_POLICY, /* AuthorizationPolicy */
	EX_PEER,   /* PeerAuthentication */
	EX_KIND_N
};

struct ex_object {
	struct hnode node;
	enum ex_kind kind;
	unsigned int generation;
	uint64_t digest;       /* of everything that the state is made of */
	const char *ns, *name; /* "" for what has no namespace */
	char *note;	       /* what a person should know about it; NULL: nothing */
};

struct ex_pair {
	const char *key, *value;
};
struct ex_labels {
	struct ex_pair *v;
	size_t n;
};
/* Every pair of @selector is in @labels. True for an empty selector. */
bool ex_labels_match(const struct ex_labels *selector, const struct ex_labels *labels);

struct ex_port { /* pods and slices: a named port */
	const char *name;
	uint16_t port;
};
struct ex_pod {
	struct ex_object o;
	const char *uid, *node, *account, *workload, *canonical, *revision;
	struct ip_addr *ip;
	size_t nips;
	struct ex_labels labels;
	struct ex_port *port; /* TCP ports that have a name */
	size_t nports;
	bool ready, hbone, native_tunnel, host_network;
};

enum ex_distribution { EX_ANYWHERE, EX_CLOSE, EX_SAME_NODE, EX_DISTRIBUTION_N };

struct ex_service_port {
	const char *name;   /* "" when there is only one */
	const char *target; /* name of a container's port; NULL: the number */
	uint16_t port, target_port;
};
struct ex_service {
	struct ex_object o;
	struct ip_addr *vip;
	size_t nvips;
	struct ex_service_port *port; /* TCP only */
	size_t nports;
	struct ex_labels selector;
	unsigned int families; /* 0 not said, 4, 6, 10 both */
	enum ex_distribution distribution;
	bool own_distribution; /* it says so itself; the namespace is not asked */
	bool node_local;       /* internalTrafficPolicy: Local */
	bool not_ready_too;    /* publishNotReadyAddresses */
};

struct ex_endpoint {
	struct ip_addr ip;
	bool ready;
	const char *pod_ns, *pod, *uid; /* a pod's; NULL: nobody's */
};
struct ex_slice {
	struct ex_object o;
	const char *service;
	struct ex_port *port;
	size_t nports;
	struct ex_endpoint *endpoint;
	size_t nendpoints;
};

struct ex_namespace {
	struct ex_object o;
	const char *network; /* label topology.istio.io/network */
	enum ex_distribution distribution;
};

struct ex_node {
	struct ex_object o;
	const char *region, *zone, *subzone;
};

struct ex_policy {
	struct ex_object o;
	bool omitted; /* not ztunnel's business; `note` says why */
	bool selective, deny;
	struct ex_labels selector;
	char *rules; /* YAML below "  rules:", "" for none */
};

enum ex_mtls { EX_MTLS_UNSET, EX_MTLS_DISABLE, EX_MTLS_PERMISSIVE, EX_MTLS_STRICT, EX_MTLS_N };

struct ex_port_mtls {
	uint16_t port;
	enum ex_mtls mode;
};
struct ex_peer {
	struct ex_object o;
	const char *created;
	struct ex_labels selector; /* empty: the whole namespace */
	enum ex_mtls mode;
	struct ex_port_mtls *port; /* sorted */
	size_t nports;
};

/* A zeroed object of @kind; free it with ex_object_free() until it is in the store. */
struct ex_object *ex_object_new(enum ex_kind kind) __attribute__((returns_nonnull)) _must_check_;
struct ex_object *ex_object_free(struct ex_texts *t, struct ex_object *o);

/* --- the store --- */

struct ex_store { /* zero to start */
	struct ex_texts texts;
	struct htab table[EX_KIND_N];
};
void ex_store_fini(struct ex_store *s);
/* Takes @o. True: the state may look different now. */
bool ex_store_put(struct ex_store *s, struct ex_object *o);
bool ex_store_remove(struct ex_store *s, enum ex_kind kind, struct str ns, struct str name);
/* It still exists, although nothing new is known of it. */
void ex_store_keep(struct ex_store *s, enum ex_kind kind, struct str ns, struct str name,
		   unsigned int generation);
/* Removes what is not of @generation. True: there was something. */
bool ex_store_sweep(struct ex_store *s, enum ex_kind kind, unsigned int generation);
struct ex_object *ex_store_get(const struct ex_store *s, enum ex_kind kind, struct str ns,
			       struct str name);
size_t ex_store_count(const struct ex_store *s, enum ex_kind kind);
/* All of one kind by namespace and name; the caller frees the array. */
const struct ex_object **ex_store_sorted(const struct ex_store *s, enum ex_kind kind, size_t *ret_n)
	_must_check_;
