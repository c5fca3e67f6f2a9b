/* SPDX-License-Identifier: Apache-2.0
 * clock.c: randomness. The generator is xorshift128+ (Vigna, 2014), seeded per thread.
 */
#include "lib/os/clock.h"

#include <sys/random.h>

#include "lib/base/bug.h"

static _Thread_local uint64_t state[2];

void rand_bytes(void *p, size_t n)
{
	char *at = p;

	while (n != 0) {
		ssize_t k = getrandom(at, n < 256 ? n : 256, 0);

		bug_on(k <= 0);
		at += k;
		n -= (size_t)k;
	}
}

uint64_t rand_u64(void)
{
	uint64_t a, b;

	while ((state[0] | state[1]) == 0)
		rand_bytes(state, sizeof(state));
	a = state[0];
	b = state[1];
	state[0] = b;
	a ^= a << 23;
	state[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
	return state[1] + b;
}
