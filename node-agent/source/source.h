/* SPDX-License-Identifier: Apache-2.0
 * source.h: what the rest of the agent may ask a source of pods, whichever it is. What it delivers
 * is in struct pods (pods.h).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct jsonw;

struct source {
	const char *kind;  /* "manifests", "kubernetes" */
	const char *where; /* directory or URL */
	const void *impl;
	bool (*synced)(const void *impl);	/* everything that exists has been read once */
	const char *(*error)(const void *impl); /* "" when all is well */
	/* True when what is known may be out of date, and since when; NULL: cannot be. */
	bool (*stale)(const void *impl, uint64_t *ret_age_ms);
	/* True while some of what is known is only of the agent's last life: newer facts may have
	 * been acted on since it was written down. NULL: cannot be. */
	bool (*former)(const void *impl);
	/* Fields of its own in the status; may be NULL. */
	void (*print)(const void *impl, struct jsonw *w);
};
