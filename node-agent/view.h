/* SPDX-License-Identifier: Apache-2.0
 * view.h: how the agent sees its node: as its own, or, as a pod of Istio's chart, below a mount of
 * the node's files (/host) and from a network and a process namespace that are not the node's
 * (cni-spec 3.14).
 *
 * Paths that go in and out of the agent (of runtimes, journal, status) are the node's; only who
 * opens one asks here for the path in the agent's own view. Set once at start, before threads.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"

struct err;

/* @root: "" or an absolute path without a trailing slash; borrowed for the life of the process. */
void view_set(const char *root);
/* The root: "" when the node's files are ours. */
const char *view_root(void);
/* @path of the node as we open it; the caller frees. Runtimes say /run/netns or /var/run/netns,
 * which are one; Istio's chart mounts the latter. */
char *view_path(const char *path) _must_check_;
/* Opens the node's network namespace: that of its process 1, or our own without a root. The
 * descriptor is the caller's; -errno says that the node's /proc is not there. */
int view_netns(struct err *err) _must_check_;
/* False when we are in a network namespace of our own: the runtime that starts our pod calls our
 * own plugin. Unknown is false. */
bool view_shares_network(void);
