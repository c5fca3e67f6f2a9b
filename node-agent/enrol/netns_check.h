/* SPDX-License-Identifier: Apache-2.0
 * netns_check.h: is this path really the network namespace of this pod? Three witnesses: the path
 * opens as a network namespace, it is not the node's, and an interface in it carries one of the
 * pod's addresses. A pod paired with another's namespace would get the other's identity
 * (security.md I1).
 */
#pragma once
#include <stddef.h>
#include "lib/format/ip.h"
#include "lib/os/netns.h"

struct err;

/* Remembers the node's own namespaces (ours, and that of process 1). Call once at start. */
int netns_check_init(struct err *err) _must_check_;
/* True for the node's namespaces. */
bool netns_check_is_host(struct netns_id id);

/* Opens @path and checks the first two witnesses. Returns the descriptor (the caller's) and its
 * identity, or -EINVAL (a wrong path or namespace), -ENOENT (gone) or another -errno. */
int netns_check_open(const char *path, struct netns_id *ret_id, struct err *err) _must_check_;
/* The third witness; without addresses there is nothing to check. 0 or -EINVAL. */
int netns_check_addresses(int netns_fd, const struct ip_addr *ips, size_t n, struct err *err)
	_must_check_;
