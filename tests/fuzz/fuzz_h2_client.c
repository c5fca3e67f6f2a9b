/* SPDX-License-Identifier: Apache-2.0
 * fuzz_h2_client.c: what a server may answer to a client with four open CONNECTs.
 */
#include "tests/fuzz/fuzz_h2.h"

/* 0 for a connection that ended with an error: how early that is found may depend on the cuts. */
static uint64_t run(const uint8_t *p, size_t n, size_t step)
{
	static const struct h2_field f[] = {{{":method", 7}, {"CONNECT", 7}},
					    {{":authority", 10}, {"10.0.0.2:80", 11}}};
	static const uint8_t settings[] = "\0\0\0\4\0\0\0\0";
	struct side *s = side_new(false);
	uint64_t trace;

	for (int i = 0; i < 4; i++) {
		MUST(h2_request(s->h, f, 2, s) > 0);
		s->live++;
	}
	MUST(h2_send(s->h, &s->out) == 0);
	s->out.n = 0;
	MUST(h2_recv(s->h, settings, 9, 1000) == 0);
	trace = feed(s, p, n, step) == 0 && !h2_done(s->h) ? s->trace + 1 : 0;
	side_free(s);
	return trace;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint64_t whole = run(p, n, n + 1);

	for (size_t step = 1; step < 14; step += 12) {
		uint64_t cut = run(p, n, step);

		MUST(cut == whole || cut == 0 || whole == 0);
	}
	return 0;
}
