/* SPDX-License-Identifier: Apache-2.0
 * export_reader.h: reading fields with one error for all, and a digest of what was taken; shared by
 * export_read.c and export_policy.c. Pure.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "ctl/export_store.h"
#include "lib/base/attr.h"

struct doc;
struct err;

struct ex_reader {
	struct ex_texts *texts;
	uint64_t digest;
	bool bad; /* a field has the wrong kind; @err has the first one */
	struct err *err;
};
/* Absent, null, or no such map: empty, NULL or false. The wrong kind is noted in the reader. */
struct str ex_rd_text(struct ex_reader *r, const struct doc *map, const char *key);
bool ex_rd_bool(struct ex_reader *r, const struct doc *map, const char *key, bool absent);
const struct doc *ex_rd_map(struct ex_reader *r, const struct doc *map, const char *key);
const struct doc *ex_rd_list(struct ex_reader *r, const struct doc *map, const char *key);
/* 0 when absent, and when it is no port number from 1 to 65535, which is an error. */
uint16_t ex_rd_port(struct ex_reader *r, const struct doc *map, const char *key);
void ex_rd_bad(struct ex_reader *r, const struct doc *d, const char *fmt, ...) _printf_(3, 4);

const char *ex_rd_keep(struct ex_reader *r, struct str s); /* into texts and digest */
void ex_rd_mix(struct ex_reader *r, uint64_t v);
void ex_rd_labels(struct ex_reader *r, const struct doc *map, struct ex_labels *ret);
