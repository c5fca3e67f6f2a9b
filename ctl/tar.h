/* SPDX-License-Identifier: Apache-2.0
 * tar.h: writes a tape archive. Pure. Source: POSIX.1-2017, pax, "ustar Interchange Format".
 */
#pragma once
#include <stdint.h>
#include "lib/base/str.h"

#define CTL_TAR_NAME_MAX 99

/* Appends one regular file, mode 0600, owned by root. @name: at most CTL_TAR_NAME_MAX bytes;
 * @mtime: seconds since the epoch. */
void ctl_tar_file(struct strbuf *out, const char *name, struct str content, int64_t mtime);
/* The end of the archive. */
void ctl_tar_end(struct strbuf *out);
/* Appends @s as one part of a file's name: letters, digits, '.', '_' and '-' stay, everything else
 * becomes '_', as does a leading '.'; at most @max bytes. */
void ctl_tar_name(struct strbuf *out, struct str s, size_t max);
