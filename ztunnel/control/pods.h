/* SPDX-License-Identifier: Apache-2.0
 * pods.h: the pods that this ztunnel serves: brings together what the agent says (namespace,
 * sockets), what the mesh state says (identity) and the certificate. Control thread.
 *
 * A pod that the mesh state does not hold yet opens connections as what the agent says that it is
 * (assume.h), and its certificate is asked for at once. Source: ztunnel-spec 3.4, 3.8, 3.9.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/os/sock.h"

struct assume_node;
struct certs;
struct dns_config;
struct err;
struct mesh;
struct pods;
struct workers;
struct zds_msg;

/* @node and @dns, the DNS proxy's settings, are borrowed for good. */
struct pods *pods_new(struct workers *w, struct certs *certs, const struct listener_opts *opts,
		      const struct assume_node *node, const struct dns_config *dns) _must_check_;
/* Forgets everything; does not stop the workers' service (that is workers_free()). NULL. */
struct pods *pods_free(struct pods *p);

/* Serves the pod of @add. @netns_fd and the sockets in @listeners and in @dns (all -1: open them in
 * the namespace) move here, also on failure. The same uid with the same namespace and no other
 * sockets is success without action. Marks the pod as named in snapshot @epoch. */
int pods_add(struct pods *p, const struct zds_msg *add, int netns_fd, int listeners[MESH_L_N],
	     int dns[MESH_DNS_N], unsigned int epoch, struct err *err) _must_check_;
/* What the agent has kept of the pod's identity: used when there is no certificate yet, and when it
 * is of the pod's namespace and service account. @fd stays the caller's. @from: certs_adopt(). */
void pods_credential(struct pods *p, const char *uid, int fd, unsigned int from);
/* Marks a pod as still wanted; unknown ones are ignored. */
void pods_keep(struct pods *p, const char *uid, unsigned int epoch);
/* Takes the mark back; the pod goes with the next pods_prune(). */
void pods_unmark(struct pods *p, const char *uid);
/* Stops serving; unknown is fine. */
void pods_del(struct pods *p, const char *uid);
/* Stops every pod that @epoch did not name. */
void pods_prune(struct pods *p, unsigned int epoch);

/* A new snapshot of the mesh (reference taken): identities are looked up again. */
void pods_mesh(struct pods *p, struct mesh *m);

size_t pods_count(const struct pods *p);
/* Uids of all pods as they are now: a heap array of heap strings, the caller frees both. */
char **pods_uids(const struct pods *p, size_t *ret_n) _must_check_;
