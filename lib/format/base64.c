/* SPDX-License-Identifier: Apache-2.0
 * base64.c: see base64.h.
 */
#include "lib/format/base64.h"

#include <errno.h>

static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(struct str s, void *ret, size_t *ret_n)
{
	unsigned int bits = 0, have = 0, pads = 0, count = 0;
	uint8_t *out = ret;
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		int v = value_of(c);

		if (c == '\n' || c == '\r' || c == ' ' || c == '\t')
			continue;
		count++;
		if (c == '=') {
			pads++;
			continue;
		}
		if (v < 0 || pads != 0)
			return -EINVAL;
		bits = (bits << 6 | (unsigned int)v) & 0xffffff;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
		}
	}
	/* whole groups of four, and the bits that padding cuts off must be zero */
	if (count % 4 != 0 || pads > 2 || have != pads * 2 || (bits & ((1u << have) - 1)) != 0)
		return -EINVAL;
	*ret_n = n;
	return 0;
}
