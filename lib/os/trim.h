/* SPDX-License-Identifier: Apache-2.0
 * trim.h: keeps only program text that is in use resident.
 */
#pragma once
#include <stddef.h>

/* Unmaps the resident pages of program text and constants of this process and its libraries. They
 * are clean copies of files: what is used again comes back with a minor fault, what only
 * initialisation touched (algorithm tables, provider set-up, option parsing: most of what is
 * resident at that point) does not. Any thread, now and then. Returns the
 * number of mapped bytes it went over. */
size_t trim_text(void);
