/* SPDX-License-Identifier: Apache-2.0
 * mesh_internal.h: a snapshot as mesh.c reads it and mesh_edit.c makes it.
 */
#pragma once
#include "ztunnel/mesh/index.h"
#include "ztunnel/mesh/mesh.h"

enum mesh_index {
	IX_UID,	    /* workloads; holds them */
	IX_IP,	    /* workloads of a network and address */
	IX_WL_HOST, /* workloads by namespace and hostname */
	IX_LOCAL,   /* workloads of this node by name, namespace and service account */
	IX_HOST,    /* services by namespace and hostname; holds them */
	IX_NAME,    /* services by hostname, of all namespaces */
	IX_EPS,	    /* endpoints of a service, which may not be there yet */
	IX_HIDDEN,  /* those that may not be used for their health */
	IX_VIP,	    /* services */
	IX_POLICY,  /* policies by name; holds them */
	IX_SCOPE,   /* policies of a namespace */
	IX_N
};
extern const struct ix_kind mesh_kind[IX_N];

/* The key of whichever index: what it has not stays empty. */
struct mesh_key {
	struct str a, b, c;
	const struct ip_addr *ip;
};
/* Hashes of keys. */
uint64_t mesh_hash_net_ip(struct str network, const struct ip_addr *ip);
uint64_t mesh_hash_two(struct str a, struct str b);
/* Of a hostname, in which letters count without case (RFC 4343). */
uint64_t mesh_hash_name(struct str hostname);
uint64_t mesh_hash_local(struct str name, struct str ns, struct str sa);

/* Element of IX_IP: the key lies beside the pointer, for a workload is far away. */
struct ip_entry {
	struct workload *wl;
	struct net_ip key;
};
struct cidr_entry { /* element of mesh.cidrs */
	struct service *svc;
	struct str network;
	struct ip_cidr cidr;
};
extern const struct ix_kind mesh_cidr_kind, mesh_global_kind;

struct mesh {
	atomic_uint refs;
	uint64_t generation, edit;
	size_t nworkloads, nservices, npolicies, nwildcards;
	struct str node; /* the end of this allocation */
	struct ix ix[IX_N];
	struct ix_set *cidrs, *global;
	struct workload *any_local;
};

/* The first (or only) object. */
static inline void *mesh_first(struct ix_view v)
{
	return v.n != 0 ? *(void *const *)v.v : NULL;
}
static inline struct ix_view mesh_find(const struct mesh *m, enum mesh_index i, uint64_t hash,
				       const struct mesh_key *k)
{
	return ix_find(&m->ix[i], &mesh_kind[i], hash, k);
}
static inline struct ix_view mesh_set(const struct ix_set *s) /* one that stands alone */
{
	return s != NULL ? (struct ix_view){s->v, s->n} : (struct ix_view){NULL, 0};
}
