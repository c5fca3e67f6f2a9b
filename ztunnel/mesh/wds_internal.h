/* SPDX-License-Identifier: Apache-2.0
 * wds_internal.h: between wds.c and wds_policy.c only.
 */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include "lib/base/str.h"

struct arena;
struct err;

/* Copies text into @a; -EINVAL naming @field when it holds a NUL or is no UTF-8. */
int wds_text(struct arena *a, ProtobufCBinaryData b, const char *field, struct str *ret,
	     struct err *err) _must_check_;
/* -EINVAL naming @field unless 0 <= @v < @n. */
int wds_enum(int32_t v, int n, const char *field, struct err *err) _must_check_;
