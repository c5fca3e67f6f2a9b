/* SPDX-License-Identifier: Apache-2.0
 * fuzz_attachment.c: any text as a journal entry. Property: what is read is written back and read
 * again as the same.
 */
#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "node-agent/enrol/attachment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct attachment a = {0}, b = {0};
	_cleanup_strbuf_ struct strbuf one = {0}, two = {0};
	struct err err = {0};

	if (attachment_parse((struct str){(const char *)data, size}, &a, &err) < 0) {
		bug_on(err.msg[0] == '\0');
		return 0;
	}
	attachment_print(&a, &one);
	bug_on(attachment_parse((struct str){one.p, one.n}, &b, &err) < 0);
	attachment_print(&b, &two);
	bug_on(!str_eq((struct str){one.p, one.n}, (struct str){two.p, two.n}));
	attachment_fini(&a);
	attachment_fini(&b);
	return 0;
}
