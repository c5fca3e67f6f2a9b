/* SPDX-License-Identifier: Apache-2.0
 * image.h: what istiod has sent, as one file, and back. Pure.
 *
 * A heading in text (format, version, number and bytes of the records, and what mesh they are of),
 * the records (each resource as it came, with its name and version), and a checksum of all before
 * it. A file is taken whole or not at all. The checksum finds damage; it does not keep a forger
 * out.
 */
#pragma once
#include <stdbool.h>
#include "ztunnel/mesh/store.h"

struct err;

#define IMAGE_VERSION	1
#define IMAGE_SUM_BYTES 17

/* What an image is of. Texts are borrowed. */
struct image_of {
	const char *cluster, *server;
};

struct image_sum {
	uint64_t h;
};
void image_sum_init(struct image_sum *s);
void image_sum_add(struct image_sum *s, const void *p, size_t n);
/* The last bytes of the file. */
void image_sum_text(const struct image_sum *s, char ret[IMAGE_SUM_BYTES + 1]);

/* Bytes of one record, and what the heading says of all of them. */
size_t image_record_size(const struct store_raw *r);
void image_put_heading(struct strbuf *out, const struct image_of *of, size_t n, uint64_t bytes);
void image_put_record(struct strbuf *out, const struct store_raw *r);

struct image_record { /* slices of the file */
	enum store_kind kind;
	bool closed;
	struct str name, version, value;
};
struct image {
	struct str rest;
	size_t left; /* records */
};
/* Checks the heading, the length, the checksum and what it is of. -EINVAL with the reason. */
int image_open(struct str file, const struct image_of *of, struct image *ret, struct err *err)
	_must_check_;
/* 1 with the next record, 0 at the end, -EINVAL when it is none. */
int image_next(struct image *i, struct image_record *ret) _must_check_;
