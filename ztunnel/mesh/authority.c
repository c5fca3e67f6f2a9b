/* SPDX-License-Identifier: Apache-2.0
 * authority.c: see authority.h.
 */
#include "ztunnel/mesh/authority.h"

#define HOST_MAX 253 /* RFC 1035 2.3.4 */

bool authority_is_hostname(struct str s)
{
	size_t label = 0, last = 0;

	if (s.n == 0 || s.n > HOST_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (c == '.') {
			if (label == 0)
				return false;
			label = 0;
			last = i + 1;
			continue;
		}
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_'))
			return false;
		label++;
	}
	return label != 0 && !(s.p[last] >= '0' && s.p[last] <= '9');
}

bool authority_split(struct str authority, struct str *ret_host, uint16_t *ret_port)
{
	struct str rest = authority, host;

	if (!str_cut(&rest, ':', &host) || parse_u16(rest, 1, UINT16_MAX, ret_port) != 0)
		return false;
	*ret_host = host;
	return authority_is_hostname(host);
}
