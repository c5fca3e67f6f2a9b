/* SPDX-License-Identifier: Apache-2.0
 * closer.c: see closer.h.
 *
 * A thread begins with the first descriptor and ends with the last one, so a process at rest has
 * none. The lock is held for a few instructions only, never while something is closed.
 */
#include "lib/os/closer.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/base/mem.h"
#include "lib/os/fd.h"

#define WAITING_MAX 512 /* two for each of the 110 pods that leave at once, and some */
#define STACK_BYTES (64 * 1024)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int waiting[WAITING_MAX]; /* a ring */
static size_t first, count;
static bool running;

static int next_fd(void)
{
	int fd = -1;

	(void)pthread_mutex_lock(&lock);
	if (count == 0) {
		running = false;
	} else {
		fd = waiting[first];
		first = (first + 1) % WAITING_MAX;
		count--;
	}
	(void)pthread_mutex_unlock(&lock);
	return fd;
}

static void *run(void *arg)
{
	int fd;

	(void)arg;
	while ((fd = next_fd()) >= 0)
		(void)xclose(fd);
	return NULL;
}

static bool start_thread(void)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t t;
	int r;

	sigfillset(&all); /* signals are the main thread's */
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&t, &attr, run, NULL);
	(void)pthread_attr_destroy(&attr);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r == 0;
}

void closer_close(int fd)
{
	bool queued = false;

	(void)pthread_mutex_lock(&lock);
	if (!running)
		running = start_thread(); /* it asks for the lock first */
	if (running && count < WAITING_MAX) {
		waiting[(first + count) % WAITING_MAX] = fd;
		count++;
		queued = true;
	}
	(void)pthread_mutex_unlock(&lock);
	if (!queued)
		(void)xclose(fd);
}
