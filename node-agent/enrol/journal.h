/* SPDX-License-Identifier: Apache-2.0
 * journal.h: the attachments on disk: one JSON file per container in <run dir>/attachments.
 *
 * Written through a rename, for every pod that the runtime told us about, in the mesh or not: so a
 * running pod can be enrolled when its label changes, and everything is found again after a
 * restart. Entries of namespaces that are gone are dropped then.
 */
#pragma once
#include "lib/base/attr.h"

struct attachment;
struct err;

int journal_write(const char *dir, const struct attachment *a, struct err *err) _must_check_;
/* What is not there is fine. */
void journal_remove(const char *dir, const char *container_id);
/* Calls fn for every readable entry (borrowed); bad files are logged and left alone, halves of a
 * write that was killed are removed. */
int journal_load(const char *dir, void (*fn)(void *ctx, const struct attachment *a), void *ctx,
		 struct err *err) _must_check_;
