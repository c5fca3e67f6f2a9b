/* SPDX-License-Identifier: Apache-2.0
 * xds_keep.h: the file in which the state from istiod outlives ztunnel: read once at the start,
 * written soon after a change, through a rename, by a thread of its own: nothing waits for the
 * disk.
 *
 * The time of the file's last change says until when the state was current: it is touched once a
 * minute while nothing changes. It is not synced: after a power failure it is the old one, the new
 * one or damaged, and the checksum knows which. A file or directory that others could have written
 * is not read. What goes wrong is told once and stops nothing. Control thread.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "ztunnel/mesh/image.h"

struct loop;
struct xds_keep;

/* Uses the first of @dirs (NULL at the end) that can be made and written. @of's texts are borrowed.
 * @due runs when a copy should be saved. Never NULL; without a directory nothing is kept. */
struct xds_keep *xds_keep_new(struct loop *l, const char *const *dirs, const struct image_of *of,
			      void (*due)(void *ctx), void *ctx) _must_check_;
/* Waits for what is being written. NULL. */
struct xds_keep *xds_keep_free(struct xds_keep *k);
/* True with the image (valid until xds_keep_loaded()) and how old it is. */
bool xds_keep_load(struct xds_keep *k, struct image *ret, uint64_t *ret_age_ms);
/* The image was used, or (@why) could not be. */
void xds_keep_loaded(struct xds_keep *k, const char *why);
/* The state changed; @soon: in a way that must not be lost (a policy). */
void xds_keep_changed(struct xds_keep *k, bool soon);
/* Takes @c and writes it. */
void xds_keep_save(struct xds_keep *k, struct store_copy *c);
/* Is there a change that no xds_keep_save() has covered? */
bool xds_keep_is_due(const struct xds_keep *k);
/* The same at the end: writes before it returns. */
void xds_keep_save_now(struct xds_keep *k, struct store_copy *c);
/* The state is current; call it now and then. */
void xds_keep_touch(struct xds_keep *k);
/* The file's path, or "" with the reason in *ret_error; both valid until the loop goes on. */
const char *xds_keep_path(const struct xds_keep *k, const char **ret_error);
