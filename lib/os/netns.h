/* SPDX-License-Identifier: Apache-2.0
 * netns.h: network namespaces: open, compare, and do one thing inside.
 *
 * A namespace is only ever entered inside netns_call(): enter, run a function that creates sockets
 * or talks netlink, come back. Nothing that can call back into a loop runs inside. A process that
 * cannot come back aborts (architecture.md 4, style R58). Needs CAP_SYS_ADMIN. Any thread; affects
 * only the calling thread.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/base/attr.h"

struct err;

/* Identity of a namespace: inode and device of its nsfs file (ztunnel-spec 1.6). */
struct netns_id {
	dev_t dev;
	ino_t ino;
};
static inline bool netns_id_eq(struct netns_id a, struct netns_id b)
{
	return a.dev == b.dev && a.ino == b.ino;
}

/* Opens @path (/var/run/netns/x, /proc/1/ns/net) CLOEXEC and checks that it is a network namespace.
 * Returns the descriptor (the caller's) or -errno. */
int netns_open(const char *path, struct err *err) _must_check_;
/* Checks that @fd refers to a network namespace (NS_GET_NSTYPE). 0 or -EINVAL. */
int netns_check(int fd, struct err *err) _must_check_;
int netns_id_of(int fd, struct netns_id *ret) _must_check_;
/* Identity of the calling thread's namespace. */
int netns_id_self(struct netns_id *ret) _must_check_;

/* Runs @fn(ctx, err) inside the namespace @fd and returns what it returned, or -errno of entering.
 */
int netns_call(int fd, int (*fn)(void *ctx, struct err *err), void *ctx, struct err *err)
	_must_check_;

/* The two halves, for a worker that dials several times in one go (datapath.md 4.1). netns_enter()
 * returns 0 or -errno; after success netns_leave() must follow before anything else happens. */
int netns_enter(int fd) _must_check_;
void netns_leave(void);
