/* SPDX-License-Identifier: Apache-2.0
 * trim.h: keeps only program text that is in use resident.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Unmaps the resident pages of program text and constants of this process and its libraries. They
 * are clean copies of files: what is used again comes back with a minor fault, what only
 * initialisation touched (algorithm tables, provider set-up, option parsing: most of what is
 * resident at that point) does not. Any thread, now and then. Returns the
 * number of mapped bytes it went over. */
size_t trim_text(void);

/* When to do it. The program looks every few seconds: it is due once after each burst of work, when
 * one look finds that nothing happened since the last one, and every TRIM_BUSY_MS where there is no
 * such pause. Pure. */
#define TRIM_BUSY_MS 30000
struct trim_pace {		  /* zero to start */
	uint64_t looked, trimmed; /* number of events at the last look, and when it was due */
	uint64_t at_ms;
	bool once;
};
/* @events: how many there were until now, in any unit. */
bool trim_due(struct trim_pace *p, uint64_t events, uint64_t now_ms);
