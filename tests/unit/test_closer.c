/* SPDX-License-Identifier: Apache-2.0
 * test_closer.c: descriptors that another thread closes: all of them, from several threads, none
 * twice.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/os/closer.h"

#define PIPES	100 /* each thread */
#define THREADS 3
#define ROUNDS	8

/* The other end says when one was closed. */
static void wait_closed(int reader)
{
	struct pollfd p = {.fd = reader, .events = POLLIN};
	char c;

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(read(reader, &c, 1), 0);
	assert_int_equal(close(reader), 0);
}

static void closer__closes_and_starts_again(void **state)
{
	(void)state;
	for (int i = 0; i < 200; i++) { /* the thread may be ending right now */
		int p[2];

		assert_int_equal(pipe2(p, O_CLOEXEC), 0);
		closer_close(p[1]);
		wait_closed(p[0]);
	}
}

static void *many(void *arg)
{
	int(*p)[2] = arg;

	for (int i = 0; i < PIPES; i++)
		closer_close(p[i][1]);
	return NULL;
}

static void closer__many_from_several_threads(void **state)
{
	static int p[THREADS][PIPES][2];

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		pthread_t t[THREADS];

		for (int i = 0; i < THREADS; i++)
			for (int k = 0; k < PIPES; k++)
				assert_int_equal(pipe2(p[i][k], O_CLOEXEC), 0);
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&t[i], NULL, many, p[i]), 0);
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_join(t[i], NULL), 0);
		for (int i = 0; i < THREADS; i++)
			for (int k = 0; k < PIPES; k++)
				wait_closed(p[i][k][0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(closer__closes_and_starts_again),
		cmocka_unit_test(closer__many_from_several_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
