/* SPDX-License-Identifier: Apache-2.0
 * sealed.h: a piece of memory with a descriptor, that nobody can change any more: for secrets that
 * one process keeps for another. Source: memfd_create(2), fcntl(2) F_ADD_SEALS.
 *
 * It has no name in any file system and is gone with its last descriptor and mapping; the kernel
 * clears its pages before somebody else gets them. It may be swapped unless it is locked.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"

struct err;

/* A close-on-exec descriptor with @n bytes in it, sealed and not executable; -errno. @name is for
 * /proc only. */
int sealed_new(const char *name, const void *p, size_t n, struct err *err) _must_check_;
/* Is @fd such memory, of 1 to @max bytes? 0 with its size, -EINVAL with the reason. */
int sealed_check(int fd, size_t max, size_t *ret_n, struct err *err) _must_check_;
/* Maps it for reading, left out of core dumps and, where the limit allows, locked into memory
 * (*ret_locked). NULL with @err. sealed_unmap() gives it back. */
const void *sealed_map(int fd, size_t n, bool *ret_locked, struct err *err) _must_check_;
void sealed_unmap(const void *p, size_t n); /* NULL is fine */
