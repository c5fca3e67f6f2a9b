/* SPDX-License-Identifier: Apache-2.0
 * base64.h: base64 text to bytes (RFC 4648 4, padded; line breaks and blanks are skipped). Pure.
 */
#pragma once
#include "lib/base/str.h"

/* Bytes that @n characters can hold at most. */
#define BASE64_DECODED_MAX(n) ((n) / 4 * 3 + 3)
/* Writes to @ret (BASE64_DECODED_MAX(s.n) bytes). 0 or -EINVAL. */
int base64_decode(struct str s, void *ret, size_t *ret_n) _must_check_;
