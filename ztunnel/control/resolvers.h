/* SPDX-License-Identifier: Apache-2.0
 * resolvers.h: keeps the DNS proxy's resolvers those of ztunnel's own resolv.conf. Control thread.
 *
 * The file is looked at every few seconds: it may be replaced, or be a link to one that is, and
 * nothing waits for the change. One that is away or names nobody leaves the last ones in place.
 */
#pragma once
#include "lib/base/attr.h"

struct loop;
struct resolv_conf;
struct resolvers;
struct workers;

struct resolvers *resolvers_new(struct loop *l, struct workers *w, const char *path) _must_check_;
struct resolvers *resolvers_free(struct resolvers *r); /* NULL */
/* In force now, borrowed. */
const struct resolv_conf *resolvers_conf(const struct resolvers *r);
