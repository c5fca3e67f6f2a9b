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

/* The builder takes over one reference of each object added. -EEXIST for a duplicate uid/name. */
struct mesh_builder *mesh_builder_new(void) _must_check_;
struct mesh_builder *mesh_builder_free(struct mesh_builder *b);
int mesh_builder_workload(struct mesh_builder *b, struct workload *w, struct err *err) _must_check_;
int mesh_builder_service(struct mesh_builder *b, struct service *s, struct err *err) _must_check_;
int mesh_builder_policy(struct mesh_builder *b, struct policy *p, struct err *err) _must_check_;
/* Consumes the builder. @node: this node's name (empty: every workload counts as local). */
struct mesh *mesh_builder_finish(struct mesh_builder *b, struct str node, uint64_t generation);
struct mesh *mesh_empty(void);

/* Borrowed results, valid while the snapshot is held; NULL when there is none. */
struct workload *mesh_workload_by_ip(const struct mesh *m, struct str network,
				     const struct ip_addr *ip);
struct workload *mesh_workload_by_uid(const struct mesh *m, struct str uid);
/* The pod behind a ZDS entry: (name, namespace, service account) on this node (ztunnel-spec 3.9).
 */
struct workload *mesh_local_workload(const struct mesh *m, struct str name, struct str ns,
				     struct str sa);
/* Best service for a VIP as seen by @client_ns (ztunnel-spec 4.2); NULL client_ns.p: no filter. */
struct service *mesh_service_by_vip(const struct mesh *m, struct str network,
				    const struct ip_addr *ip, struct str client_ns);
struct service *mesh_service_by_host(const struct mesh *m, struct str ns, struct str hostname);
const struct endpoint *mesh_endpoints(const struct mesh *m, const struct service *s, size_t *ret_n);
struct policy *mesh_policy(const struct mesh *m, struct str key);
/* Policies of a scope: POLICY_GLOBAL (ns empty) or POLICY_NAMESPACE. */
struct policy *const *mesh_policies(const struct mesh *m, enum policy_scope scope, struct str ns,
				    size_t *ret_n);
size_t mesh_count_workloads(const struct mesh *m);
/* Visit everything (admin). */
void mesh_each_workload(const struct mesh *m, void (*fn)(void *ctx, struct workload *w), void *ctx);
void mesh_each_service(const struct mesh *m, void (*fn)(void *ctx, struct service *s), void *ctx);
void mesh_each_policy(const struct mesh *m, void (*fn)(void *ctx, struct policy *p), void *ctx);
