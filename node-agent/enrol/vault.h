/* SPDX-License-Identifier: Apache-2.0
 * vault.h: certificates and keys of the node's identities, kept for the next ztunnel.
 *
 * ztunnel hands them over as sealed memory and gets them back with the pods when it starts again,
 * so that it serves while the CA is away. They are never written to a disk and never printed; they
 * are locked into memory where the limit allows; under systemd its descriptor store keeps them
 * while the agent restarts. One goes when it has expired, when another one of the same pods takes
 * its place, and when no pod of its namespace and service account is left. Loop thread.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/str.h"

struct err;
struct loop;
struct vault;

struct vault *vault_new(struct loop *l) _must_check_;
/* Lets go of everything; the descriptor store keeps its own. NULL. */
struct vault *vault_free(struct vault *v);
/* Takes a duplicate of @fd. -EINVAL with the reason when it is no credential that is valid now. The
 * caller has asked vault_whose() whether it wants it. */
int vault_put(struct vault *v, int fd, struct err *err) _must_check_;
/* Namespace and service account of the credential in @fd; a heap text of both, NUL after each. NULL
 * with @err. */
char *vault_whose(int fd, const char **ret_sa, struct err *err) _must_check_;
/* The descriptor for pods of @ns and @sa, borrowed; -1: none. */
int vault_get(struct vault *v, const char *ns, const char *sa);
/* Forgets what @wanted does not want. */
void vault_prune(struct vault *v, bool (*wanted)(void *ctx, const char *ns, const char *sa),
		 void *ctx);
size_t vault_count(const struct vault *v);

/* A descriptor that the service manager kept from our last life: taken when its name is ours. Kept
 * aside until vault_new() takes it. */
bool vault_stored_take(struct str name, int fd);
void vault_stored_release(void); /* at the end, should there have been no vault */
