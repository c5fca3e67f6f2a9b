/* SPDX-License-Identifier: Apache-2.0
 * fuzz_h2_server.c: what a client may send to an HBONE server, after its preface. In one piece
 * and cut, the same events must follow.
 */
#include "tests/fuzz/fuzz_h2.h"

/* 0 for a connection that ended with an error: how early that is found may depend on the cuts. */
static uint64_t run(const uint8_t *p, size_t n, size_t step)
{
	static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	struct side *s = side_new(true);
	uint64_t trace;

	MUST(h2_recv(s->h, preface, 33, 1000) == 0);
	trace = feed(s, p, n, step) == 0 && !h2_done(s->h) ? s->trace + 1 : 0;
	MUST(s->live <= LIMIT_H2_STREAMS);
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
