/* SPDX-License-Identifier: Apache-2.0
 * fuzz_baggage.c: any bytes as a `baggage` header. Property: what is taken lies within the line, is
 * text, and survives being written and read again.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "ztunnel/mesh/baggage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void within(struct str s, struct str line)
{
	bug_on(s.n != 0 && (s.p < line.p || s.p + s.n > line.p + line.n || !str_is_utf8(s)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str line = {(const char *)data, size};
	struct baggage b = {0}, again = {0};
	struct strbuf out = {0};
	struct workload *w;

	baggage_parse(line, &b);
	within(b.cluster, line);
	within(b.ns, line);
	within(b.workload_name, line);
	within(b.canonical_name, line);
	within(b.canonical_revision, line);
	within(b.region, line);
	within(b.zone, line);
	w = baggage_workload(&b, b.canonical_name, NULL);
	baggage_format(w, &out);
	baggage_parse((struct str){out.p, out.n}, &again);
	bug_on(!str_eq(again.ns, b.ns) || !str_eq(again.zone, b.zone) ||
	       !str_eq(again.workload_name, b.workload_name) ||
	       (b.workload_name.n != 0 && again.type != b.type));
	strbuf_fini(&out);
	workload_unref(w);
	return 0;
}
