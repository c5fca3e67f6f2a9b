/* SPDX-License-Identifier: Apache-2.0
 * state_file.h: the local mesh state file (LOCAL_XDS_PATH): read at start and again whenever it
 * changes. A file that cannot be used leaves the last good state in place. Control thread.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct err;
struct loop;
struct mesh;
struct state_file;

/* Reads @path and watches it: written in place, replaced by rename, or reached through symlinks
 * that are swapped (Kubernetes ConfigMap). @fn gets every new good snapshot (borrowed), the first
 * one possibly before this returns. A missing or bad file at start is logged and waited for. */
struct state_file *state_file_new(struct loop *l, const char *path, struct str node,
				  void (*fn)(void *ctx, struct mesh *m), void *ctx) _must_check_;
struct state_file *state_file_free(struct state_file *s); /* NULL */
/* True once a good state was read. */
bool state_file_loaded(const struct state_file *s);
/* Why the file as it is now was refused: "" when it was not. */
const char *state_file_error(const struct state_file *s);
