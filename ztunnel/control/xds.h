/* SPDX-License-Identifier: Apache-2.0
 * xds.h: the mesh state from istiod: delta ADS, types Address and Authorization, all of it.
 *
 * A response is taken resource by resource: a bad one is refused by name (NACK, log, status) and
 * its last good version stays; the others take effect. Responses are applied
 * in slices of a few milliseconds, however large they are. Nothing is handed out before both types
 * have come once without a refusal. When istiod is away the state stays as it is; after a reconnect
 * we tell what we hold, and get what changed. The state outlives this process (xds_keep.h): at a
 * start it is read, istiod is told of it, and when istiod does not answer within seconds it is
 * served and called stale. Control thread.
 * Source: ztunnel-spec 9; istiod-ambient-spec 1.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct config_istiod;
struct loop;
struct mesh;
struct xds;

/* @c and @node_name are borrowed. @dirs: where the state may be kept, NULL at the end; copied.
 * @fn gets every new snapshot (borrowed). */
struct xds *xds_new(struct loop *l, const struct config_istiod *c, const char *node_name,
		    const char *const *dirs, void (*fn)(void *ctx, struct mesh *m), void *ctx)
	_must_check_;
struct xds *xds_free(struct xds *x); /* NULL is fine; returns NULL */
/* On-demand mode (XDS_ON_DEMAND) only: Address is subscribed by name. Asks istiod about a key
 * ("network/ip" or "namespace/hostname"; copied); what waits for it goes together with what others
 * ask. @fn of xds_on_told() runs, perhaps at once, when the snapshot holds what istiod said, be it
 * that there is nothing; or, @answered false, when nothing came within LIMIT_WORKLOAD_WAIT_MS or
 * too many questions wait. */
void xds_ask(struct xds *x, struct str key);
void xds_on_told(struct xds *x, void (*fn)(void *ctx, struct str key, bool answered), void *ctx);
/* Questions that wait, and whether the mode is on. */
bool xds_on_demand(const struct xds *x, size_t *ret_waiting);
/* What is not as it should be: no connection, refused resources; "" when nothing. Valid until the
 * loop goes on. */
const char *xds_error(struct xds *x);
/* The state in use is that of an earlier life, and istiod has not confirmed it: how old it is. */
bool xds_is_stale(const struct xds *x, uint64_t *ret_age_s);
/* Where the state is kept, and what is wrong with that ("": nothing). */
const char *xds_kept(const struct xds *x, const char **ret_error);
