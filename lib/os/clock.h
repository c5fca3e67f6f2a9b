/* SPDX-License-Identifier: Apache-2.0
 * clock.h: time and randomness, the two inputs that pure code is handed.
 */
#pragma once
#include <stdint.h>
#include <time.h>

static inline uint64_t clock_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}
static inline uint64_t clock_mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}
/* CPU time of the calling thread, user and system. */
static inline uint64_t clock_thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}
static inline int64_t clock_wall_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
/* Fast non-cryptographic random number, seeded per thread from the kernel. */
uint64_t rand_u64(void);
/* Random bytes from the kernel; aborts if it cannot give them. */
void rand_bytes(void *p, size_t n);
