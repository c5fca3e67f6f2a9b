/* SPDX-License-Identifier: Apache-2.0
 * fuzz_credential.c: any bytes as what the agent keeps. Property: what is taken is the same when it
 * is written again, or had another spelling of its numbers.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/wire/credential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	_cleanup_strbuf_ struct strbuf b = {0};
	struct credential c, again;
	struct err err = {0};

	if (credential_parse(text, &c, &err) != 0) {
		bug_on(err.msg[0] == '\0');
		return 0;
	}
	credential_put(&b, &c);
	bug_on(credential_parse((struct str){b.p, b.n}, &again, &err) != 0);
	bug_on(b.n != size || !str_eq(again.key, c.key) || !str_eq(again.roots, c.roots) ||
	       again.not_after != c.not_after);
	return 0;
}
