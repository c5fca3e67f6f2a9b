/* SPDX-License-Identifier: Apache-2.0
 * flows.h: the TCP connections that a running pod has when it joins. Private to nft/.
 *
 * A pod without our rules has no connection tracking. The moment a nat chain appears, the next
 * packet of every old connection looks like the first one of a new connection and would be
 * redirected, which ends it. Told about the old connections first, the kernel leaves them alone.
 */
#pragma once
#include <stddef.h>
#include "lib/base/attr.h"

struct err;
struct nft_ns;

/* Counts the namespace's TCP sockets that are not listeners of the mesh itself, in any state. 0 in
 * a namespace that is being set up. -EOPNOTSUPP when that cannot be known here (no /proc, no
 * inet_diag). */
int nft_flows_count(int netns_fd, size_t *ret, struct err *err) _must_check_;
/* Counts the sockets with the mesh's mark that are neither listeners nor over: @ret_all, and
 * without those between two ztunnels @ret_apps. */
int nft_flows_carried(int netns_fd, size_t *ret_all, size_t *ret_apps, struct err *err)
	_must_check_;
/* Gives connection tracking an entry without address translation for each established connection.
 * An entry that is there already is kept. A kernel that cannot be told: -EOPNOTSUPP. */
int nft_flows_keep(int netns_fd, struct nft_ns *ns, struct err *err) _must_check_;
