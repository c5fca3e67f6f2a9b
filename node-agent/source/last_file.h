/* SPDX-License-Identifier: Apache-2.0
 * last_file.h: the file that holds the last good picture (last_state.h): written soon after a
 * change, through a rename; read once at a start while the API is away. A file that cannot be
 * written or read is told in the status and stops nothing. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/err.h"
#include "lib/event/loop.h"
#include "node-agent/source/last_state.h"

struct last_file { /* embed, zeroed */
	struct loop *loop;
	const struct pods *pods;
	struct last_state_of of;
	char *dir, *path; /* NULL: nothing is kept */
	/* The versions to note. */
	const char *pods_version, *namespaces_version;
	struct timer save, touch;
	struct err error; /* of the last attempt to write, or of reading; code 0: well */
	bool dirty;
};

/* @of's texts and the versions are borrowed and must outlive it. @dir "": nothing is kept. */
void last_file_init(struct last_file *f, struct loop *l, const struct pods *pods, const char *dir,
		    const struct last_state_of *of, const char *pods_version,
		    const char *namespaces_version);
/* Writes what is not written yet. */
void last_file_fini(struct last_file *f);
/* Something changed, or a whole list was read. Only when the picture is complete. */
void last_file_changed(struct last_file *f);
/* 0 with the picture and how old it is; -ENOENT without one, else -errno, told in @f->error. */
int last_file_load(struct last_file *f, struct manifest *ret, uint64_t *ret_age_ms) _must_check_;
