/* SPDX-License-Identifier: Apache-2.0
 * fuzz_spiffe.c: any bytes as a SPIFFE URI. Property: what is accepted formats back to the same
 * bytes.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/wire/spiffe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct str in = {(const char *)data, size};
	struct spiffe_id id, again;

	if (spiffe_parse(in, &id) != 0)
		return 0;
	spiffe_format(&id, &out);
	bug_on(!str_eq(in, (struct str){out.p, out.n}));
	bug_on(spiffe_parse((struct str){out.p, out.n}, &again) != 0 || !spiffe_eq(&id, &again));
	return 0;
}
