/* SPDX-License-Identifier: Apache-2.0
 * confdir.h: the node's directory of CNI configurations: what is in it, in the order in which
 * runtimes look, and how files are replaced so that a reader or a power cut never sees half of one.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include "lib/base/err.h"
#include "node-agent/host/cniconf.h"

#define CONFDIR_FILES_MAX 256

struct confdir_file {
	char *name, *text;
	mode_t mode;
	struct cniconf c;
	struct err err; /* code 0: @c is filled in; else why runtimes cannot use the file */
};

struct confdir {
	struct arena *arena;
	struct confdir_file *files; /* by name, byte by byte; .conf, .conflist and .json only */
	size_t n;
};

/* 0, or -errno when the directory cannot be listed or has too many files; a file that cannot be
 * used is no error. confdir_fini() is due after success only. */
int confdir_read(const char *dir, struct confdir *ret, struct err *err) _must_check_;
void confdir_fini(struct confdir *d);
static inline const struct confdir_file *confdir_find(const struct confdir *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->files[i].name, name) == 0)
			return &d->files[i];
	return NULL;
}

/* True when @dir can be opened and has no name any more: it was removed under the mount through
 * which we see it, and what comes in its place is not seen. */
bool confdir_is_lost(const char *dir);

/* Opens @dir and locks it for this process (flock, on the directory itself: whoever edits the same
 * directory meets the same lock, whatever its path). Returns the descriptor, the caller's; -EBUSY
 * when somebody has the lock, -ENOENT when there is no such directory, or another -errno. */
int confdir_lock(const char *dir, struct err *err) _must_check_;

/* Writes @n bytes into @dir/@name: under another name first, synced, then renamed. A symbolic link
 * stays one; its target is replaced. On error the old file is untouched. */
int confdir_replace(const char *dir, const char *name, const void *p, size_t n, mode_t mode,
		    struct err *err) _must_check_;
/* Nothing there is success. */
int confdir_remove(const char *dir, const char *name, struct err *err) _must_check_;
/* Removes what attempts to replace a file left behind when they were killed. */
void confdir_clean(const char *dir);
