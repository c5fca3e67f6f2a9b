/* SPDX-License-Identifier: Apache-2.0
 * manifests.h: pods and namespaces from a directory of Kubernetes manifests, followed with inotify.
 *
 * Files named *.yaml, *.yml and *.json are read, hidden ones and sub-directories are not; symbolic
 * links are followed (one whose name starts with ".." is how Kubernetes swaps mounted directories).
 * A file that cannot be read or parsed keeps its last good objects and its error is reported. The
 * directory may appear later. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"

struct err;
struct label_keys;
struct loop;
struct pods;
struct manifests;

/* Reads @dir once before it returns. @keep: labels that selectors look at; must outlive it (then
 * manifests_synced() says whether it could be listed). */
struct manifests *manifests_new(struct loop *l, const char *dir, const struct label_keys *keep,
				struct pods *into, struct err *err) _must_check_;
struct manifests *manifests_free(struct manifests *m);
/* The directory has been listed and every file in it was tried. */
bool manifests_synced(const struct manifests *m);
/* First problem in file order, "" when all is well. Valid until the next event. */
const char *manifests_error(const struct manifests *m);
const char *manifests_dir(const struct manifests *m);
