/* SPDX-License-Identifier: Apache-2.0
 * source.h: what the rest of the agent may ask a source of pods, whichever it is. What it delivers
 * is in struct pods (pods.h).
 */
#pragma once
#include <stdbool.h>

struct source {
	const char *kind;  /* "manifests" */
	const char *where; /* directory or URL */
	const void *impl;
	bool (*synced)(const void *impl);	/* everything that exists has been read once */
	const char *(*error)(const void *impl); /* "" when all is well */
};
