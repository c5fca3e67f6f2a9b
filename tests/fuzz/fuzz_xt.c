/* SPDX-License-Identifier: Apache-2.0
 * fuzz_xt.c: tables of the older packet filter, as the kernel hands them out and damaged, with the
 * chains of Istio's agent taken out.
 *
 * The first byte: bit 0 the family, the rest which hooks are valid; then ten offsets of four bytes
 * (entries and underflows of the hooks), then entries. Checked beyond crashes: what comes out is
 * no longer, can be taken apart again, and has nothing more to take out.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "nft/xt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD (1 + 2 * XT_HOOKS * sizeof(uint32_t))

/* No entry is shorter than this, and the smallest target is in it. */
static uint32_t count(const uint8_t *p, size_t n, bool v6)
{
	size_t next = v6 ? 142 : 90; /* of next_offset in ip6t_entry and ipt_entry */
	uint32_t found = 0;

	for (size_t at = 0; at + next + 2 <= n;) {
		uint16_t len;

		memcpy(&len, p + at + next, sizeof(len));
		found++;
		at += len;
		if (len == 0)
			break;
	}
	return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct xt_table t = {0};
	struct err err = {0};
	uint32_t before;
	bool v6;
	int r;

	if (size < HEAD || size > 1 << 20)
		return 0;
	v6 = (data[0] & 1) != 0;
	t.valid_hooks = data[0] >> 1 & 0x1f;
	memcpy(t.hook_entry, data + 1, sizeof(t.hook_entry));
	memcpy(t.underflow, data + 1 + sizeof(t.hook_entry), sizeof(t.underflow));
	t.size = (uint32_t)(size - HEAD);
	t.entries = xmalloc(t.size + 1);
	memcpy(t.entries, data + HEAD, t.size);
	t.n = count(t.entries, t.size, v6);
	before = t.size;
	r = xt_strip(&t, v6, &err);
	bug_on(r < 0 && err.msg[0] == '\0');
	if (r >= 0) {
		_cleanup_free_ uint64_t *counters = xcalloc(t.n + 1, 2 * sizeof(*counters));

		bug_on(t.size > before || (r == 0 && t.size != before));
		xt_counters_of(&t, v6, counters);
		bug_on(xt_strip(&t, v6, &err) != 0);
	}
	free(t.entries);
	return 0;
}
