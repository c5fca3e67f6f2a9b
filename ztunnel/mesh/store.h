/* SPDX-License-Identifier: Apache-2.0
 * store.h: everything that istiod has sent, by resource name and with its version, and snapshots of
 * it. Pure. Control thread.
 *
 * The next snapshot is kept up with every change, so taking one costs little however much there is.
 * Objects keep the order in which they came: it decides ties (mesh.c); a replaced one is the
 * newest, as in stock (remove and insert).
 */
#pragma once
#include "lib/base/list.h"
#include "ztunnel/mesh/mesh.h"

struct store;

enum store_kind { STORE_ADDRESS, STORE_POLICY, STORE_KIND_N };

/* @node: for the snapshots (mesh.h); copied. @keep: the resources' bytes are kept, too, for
 * store_copy_new(). */
struct store *store_new(struct str node, bool keep) _must_check_;
struct store *store_free(struct store *s); /* NULL is fine; returns NULL */

/* Take over the reference. A name that is there already gets the new object. @value: what the
 * object was made of. A policy with .closed stands for one that could not be read: its version is
 * empty, so istiod's is another one, but istiod must hear of it to tell that it is gone. */
void store_workload(struct store *s, struct workload *w, struct str version, struct str value);
void store_service(struct store *s, struct service *v, struct str name, struct str version,
		   struct str value);
void store_policy(struct store *s, struct policy *p, struct str version, struct str value);
/* Is there a policy of that name that could be read? */
bool store_has_policy(const struct store *s, struct str name);
/* Policies with .closed. */
size_t store_count_closed(const struct store *s);
/* False: there was none of that name. */
bool store_remove(struct store *s, enum store_kind kind, struct str name);
bool store_has(const struct store *s, enum store_kind kind, struct str name);
size_t store_count(const struct store *s, enum store_kind kind);
void store_each(const struct store *s, enum store_kind kind,
		void (*fn)(void *ctx, struct str name, struct str version), void *ctx);
/* Heap bytes of names and versions, without the objects. */
size_t store_bytes(const struct store *s);

/* A resource as it came. Immutable, counted by its holders (atomic). */
struct store_raw {
	atomic_uint refs;
	uint8_t kind; /* enum store_kind */
	bool closed;
	uint16_t nversion;
	uint32_t nname, nvalue;
	char text[]; /* name, version, value */
};
/* All of them at one time, for whoever writes them elsewhere. Made in steps, between which the
 * store must not change. */
struct store_copy {
	struct store_raw **v;
	size_t n;
	const struct store *store; /* while it is made */
	struct list *at;
};
struct store_copy *store_copy_new(const struct store *s) _must_check_;
/* True when it is whole; then it is independent of the store, and may go to another thread. */
bool store_copy_step(struct store_copy *c, size_t max);
struct store_copy *store_copy_free(struct store_copy *c); /* NULL is fine; any thread */

/* Everything that is there now. */
struct mesh *store_snapshot(struct store *s, uint64_t generation) _must_check_;
