/* SPDX-License-Identifier: Apache-2.0
 * serve.h: the DNS proxy of the pods on one data worker: their sockets, the mesh's answers, and
 * the resolvers for all other names. Source: ztunnel-spec 11.
 *
 * Everything here belongs to the worker's thread, except dns_sockets_*, which any thread may call.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/os/sock.h"

struct dns_pod;
struct dns_worker;
struct loop;
struct mesh;
struct metrics_worker;
struct resolv_conf;
struct workload;

struct dns_config {
	bool enabled;		   /* ISTIO_META_DNS_CAPTURE */
	struct mesh_dns_addr addr; /* ISTIO_META_DNS_PROXY_ADDR */
	char *cluster_domain;	   /* CLUSTER_DOMAIN, lower case; owned by the configuration */
	char *prefered_ns;	   /* PREFERED_SERVICE_NAMESPACE, may be empty */
	bool ipv6;		   /* IPV6_ENABLED: AAAA records of the mesh */
	size_t cache_bytes;	   /* AMBIENT_DNS_CACHE_BYTES, of a pod and worker; 0: off */
	uint32_t mark;		   /* of sockets in a pod's namespace */
};

/* The sockets of one pod, shared by the workers: they close with the last holder. */
struct dns_sockets {
	atomic_uint refs;
	int fds[MESH_DNS_N]; /* -1: not there */
};
/* The descriptors move here. One reference. */
struct dns_sockets *dns_sockets_new(int fds[MESH_DNS_N]) _must_check_;
struct dns_sockets *dns_sockets_ref(struct dns_sockets *s); /* NULL is fine */
void dns_sockets_unref(struct dns_sockets *s);

/* @idle (may be NULL): the last query that waited has ended. */
struct dns_worker *dns_worker_new(struct loop *l, const struct dns_config *cfg,
				  struct metrics_worker *metrics, void (*idle)(void *ctx),
				  void *ctx) _must_check_;
struct dns_worker *dns_worker_free(struct dns_worker *w); /* when its pods are gone */
/* Other resolvers from now on (copied). None at first. */
void dns_worker_resolvers(struct dns_worker *w, const struct resolv_conf *c);

size_t dns_worker_waiting(const struct dns_worker *w); /* queries without an answer */

/* Of the pod's owner, borrowed; each valid until the next call that replaces it. */
struct dns_view {
	int netns_fd;
	const char *ns, *name; /* for the log */
	const struct mesh *mesh;
	struct workload *wl; /* NULL while unknown: queries wait LIMIT_WORKLOAD_WAIT_MS */
};
/* Serves the pod on @s (reference taken over; NULL: serves nothing until dns_pod_sockets()). */
struct dns_pod *dns_pod_new(struct dns_worker *w, const struct dns_view *v, struct dns_sockets *s)
	_must_check_;
/* Queries that wait get no answer any more. NULL. */
struct dns_pod *dns_pod_free(struct dns_pod *p);
/* A new view of the same pod: who waits for its workload is looked at again. */
void dns_pod_view(struct dns_pod *p, const struct dns_view *v);
/* Other sockets (reference taken over; NULL: none). What was asked on the old ones is answered if
 * its client can still be reached. */
void dns_pod_sockets(struct dns_pod *p, struct dns_sockets *s);
/* Takes no query any more; those that wait are still answered, then it gives its sockets back. */
void dns_pod_drain(struct dns_pod *p);
void dns_pod_cut(struct dns_pod *p); /* those that wait get no answer */
