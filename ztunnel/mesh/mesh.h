/* SPDX-License-Identifier: Apache-2.0
 * mesh.h: one immutable snapshot of the mesh state with its indices, and how to build one. Pure.
 *
 * Lookups: any thread that holds the snapshot. Building: control thread.
 * Source: ztunnel-spec 3.9, 4.1, 4.2, 10.1.
 */
#pragma once
#include "ztunnel/mesh/model.h"

struct err;
struct mesh;
struct mesh_builder;

struct mesh *mesh_ref(struct mesh *m);
void mesh_unref(struct mesh *m);
uint64_t mesh_generation(const struct mesh *m);

/* @node: this node's name (empty: every workload counts as local), copied. */
struct mesh_builder *mesh_builder_new(struct str node) _must_check_;
/* The next snapshot after @base, which is the newest one: shares with it what does not change, so
 * that a change costs about the same in a mesh of any size. */
struct mesh_builder *mesh_builder_on(const struct mesh *base) _must_check_;
struct mesh_builder *mesh_builder_free(struct mesh_builder *b);
/* Take over one reference of the object. -EEXIST for a duplicate uid/name. */
int mesh_builder_workload(struct mesh_builder *b, struct workload *w, struct err *err) _must_check_;
int mesh_builder_service(struct mesh_builder *b, struct service *s, struct err *err) _must_check_;
int mesh_builder_policy(struct mesh_builder *b, struct policy *p, struct err *err) _must_check_;
/* They must be there. */
void mesh_builder_drop_workload(struct mesh_builder *b, struct str uid);
void mesh_builder_drop_service(struct mesh_builder *b, struct str ns, struct str hostname);
void mesh_builder_drop_policy(struct mesh_builder *b, struct str key);
/* Consumes the builder. */
struct mesh *mesh_builder_finish(struct mesh_builder *b, uint64_t generation);
struct mesh *mesh_empty(void);
/* Nobody but the caller holds it any more. */
bool mesh_is_last(const struct mesh *m);

/* Borrowed results, valid while the snapshot is held; NULL when there is none. */
struct workload *mesh_workload_by_ip(const struct mesh *m, struct str network,
				     const struct ip_addr *ip);
struct workload *mesh_workload_by_uid(const struct mesh *m, struct str uid);
/* The pod behind a ZDS entry: (name, namespace, service account) on this node (ztunnel-spec 3.9).
 */
struct workload *mesh_local_workload(const struct mesh *m, struct str name, struct str ns,
				     struct str sa);
/* Some workload of this node, for what they have in common; NULL also where the node has no name.
 */
struct workload *mesh_any_local(const struct mesh *m);
/* Best service for a VIP as seen by @client_ns (ztunnel-spec 4.2); NULL client_ns.p: no filter. */
struct service *mesh_service_by_vip(const struct mesh *m, struct str network,
				    const struct ip_addr *ip, struct str client_ns);
struct service *mesh_service_by_host(const struct mesh *m, struct str ns, struct str hostname);
/* Best service of that hostname (letters count without case), of whatever namespace, as seen by
 * @client_ns (as above). */
struct service *mesh_service_by_name(const struct mesh *m, struct str hostname,
				     struct str client_ns);
/* The first workload of that hostname. */
struct workload *mesh_workload_by_host(const struct mesh *m, struct str ns, struct str hostname);
/* Every service with this hostname (letters count without case; one per namespace), in the order in
 * which they came. */
struct service *const *mesh_services_by_name(const struct mesh *m, struct str hostname,
					     size_t *ret_n);
bool mesh_has_wildcards(const struct mesh *m); /* a service is called "*.something" */
const struct endpoint *mesh_endpoints(const struct mesh *m, const struct service *s, size_t *ret_n);
struct policy *mesh_policy(const struct mesh *m, struct str key);
/* Policies of a scope: POLICY_GLOBAL (ns empty) or POLICY_NAMESPACE. */
struct policy *const *mesh_policies(const struct mesh *m, enum policy_scope scope, struct str ns,
				    size_t *ret_n);
size_t mesh_count_workloads(const struct mesh *m);
/* Visit everything, ordered by names (admin). */
void mesh_each_workload(const struct mesh *m, void (*fn)(void *ctx, struct workload *w), void *ctx);
void mesh_each_service(const struct mesh *m, void (*fn)(void *ctx, struct service *s), void *ctx);
void mesh_each_policy(const struct mesh *m, void (*fn)(void *ctx, struct policy *p), void *ctx);
