/* SPDX-License-Identifier: Apache-2.0
 * local_internal.h: between local_state.c and local_policy.c only.
 */
#pragma once
#include "lib/format/doc.h"
#include "ztunnel/mesh/model.h"

struct err;

/* Optional text that must be one of @names[0..n) (NULL entries are skipped): its index to *ret. */
int local_enum(const struct doc *map, const char *key, const char *const *names, int n, int *ret,
	       struct err *err) _must_check_;
/* Optional and required text, copied into @a; required text must not be empty. */
int local_text(struct arena *a, const struct doc *map, const char *key, struct str *ret,
	       struct err *err) _must_check_;
int local_need_text(struct arena *a, const struct doc *map, const char *key, struct str *ret,
		    struct err *err) _must_check_;
/* A list item that must be text. */
int local_item_text(const struct doc *d, struct str *ret, struct err *err) _must_check_;

/* Fills a new policy from its document. */
int local_policy_fill(struct policy *p, const struct doc *d, struct err *err) _must_check_;
