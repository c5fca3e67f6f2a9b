/* SPDX-License-Identifier: Apache-2.0
 * last_state.h: the last good picture of pods and namespaces as text, and back. Pure.
 *
 * One line of heading (format, version, checksum and length of what follows), then a JSON document
 * whose pods and namespaces have the shape of the Kubernetes API, so that the reader of manifests
 * reads them. Only what decides anything is in it. A picture that was taken for another node,
 * another API server or with other selectors is refused: it would lack what they ask for.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;
struct label_keys;
struct manifest;
struct pods;

#define LAST_STATE_VERSION 1

/* What a picture is of. Texts are borrowed. */
struct last_state_of {
	const char *node, *server;
	const struct label_keys *keep;
};

/* @pods_version, @namespaces_version: the server's versions, for people who read the file. */
void last_state_print(const struct pods *s, const struct last_state_of *of,
		      const char *pods_version, const char *namespaces_version, struct strbuf *out);
/* 0 with what was in it (manifest_fini() is due), or -EINVAL with the reason. */
int last_state_parse(struct str text, const struct last_state_of *of, struct manifest *ret,
		     struct err *err) _must_check_;
int last_state_fuzz(const uint8_t *p, size_t n);
