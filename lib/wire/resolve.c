/* SPDX-License-Identifier: Apache-2.0
 * resolve.c: see resolve.h.
 */
#include "lib/wire/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"

struct shared { /* between the loop and the thread */
	atomic_uint refs;
	char *host;
	int efd;
	void (*lookup)(const char *host, struct resolve_answer *ret);
	struct resolve_answer a;
};

struct resolve {
	struct loop *loop;
	struct watch watch;
	struct shared *s;
	void (*done)(void *, const struct resolve_answer *);
	void *ctx;
	struct deferred dead;
};

static atomic_uint threads;

static void shared_unref(struct shared *s)
{
	/* acq_rel: the last holder sees what the other wrote before it let go */
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	(void)xclose(s->efd);
	free(s->host);
	free(s);
}

static void add(struct resolve_answer *ret, const struct sockaddr *sa)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)sa;
	struct ip_addr ip;
	int r = -EINVAL;

	if (sa->sa_family == AF_INET)
		r = ip_from_bytes(&v4->sin_addr, 4, &ip);
	else if (sa->sa_family == AF_INET6)
		r = ip_from_bytes(&v6->sin6_addr, 16, &ip);
	if (r == 0 && ret->n < RESOLVE_ADDRS_MAX)
		ret->addr[ret->n++] = ip;
}

static void ring(struct shared *s)
{
	uint64_t one = 1;

	bug_on(write(s->efd, &one, sizeof(one)) != (ssize_t)sizeof(one));
}

/* As the system would. */
static void by_system(const char *host, struct resolve_answer *ret)
{
	/* Of both families, whatever the node has now: who connects tries one after the other. */
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	int r = getaddrinfo(host, NULL, &hints, &list);

	if (r != 0) {
		(void)snprintf(ret->why, sizeof(ret->why), "%s", gai_strerror(r));
		return;
	}
	for (const struct addrinfo *a = list; a != NULL; a = a->ai_next)
		add(ret, a->ai_addr);
	freeaddrinfo(list);
	if (ret->n == 0)
		(void)snprintf(ret->why, sizeof(ret->why), "the name has no address");
}

static void *run(void *arg)
{
	struct shared *s = arg;

	s->lookup(s->host, &s->a);
	ring(s); /* the eventfd orders the answer before the loop's read */
	shared_unref(s);
	atomic_fetch_sub_explicit(&threads, 1, memory_order_relaxed); /* only a count */
	return NULL;
}

static int start_thread(struct shared *s)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t t;
	int r;

	if (atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) >= RESOLVE_THREADS_MAX) {
		atomic_fetch_sub_explicit(&threads, 1, memory_order_relaxed);
		return -EAGAIN;
	}
	sigfillset(&all); /* signals are the main thread's */
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attr, 256 * 1024);
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	r = pthread_create(&t, &attr, run, s);
	(void)pthread_attr_destroy(&attr);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0) {
		atomic_fetch_sub_explicit(&threads, 1, memory_order_relaxed);
		atomic_fetch_sub_explicit(&s->refs, 1, memory_order_relaxed);
	}
	return -r;
}

static void free_resolve(struct deferred *d)
{
	free(container_of(d, struct resolve, dead));
}

struct resolve *resolve_cancel(struct resolve *r)
{
	if (r == NULL)
		return NULL;
	loop_unwatch(r->loop, &r->watch);
	shared_unref(take_ptr(r->s));
	loop_defer(r->loop, &r->dead, free_resolve);
	return NULL;
}

static void on_answer(struct watch *w, uint32_t events)
{
	struct resolve *r = container_of(w, struct resolve, watch);
	struct shared *s = r->s;
	uint64_t count;

	(void)events;
	if (read(w->fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
		return;
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed); /* ours, over the callback */
	(void)resolve_cancel(r);
	r->done(r->ctx, &s->a);
	shared_unref(s);
}

struct resolve *resolve_start(struct loop *l, const char *host,
			      void (*lookup)(const char *, struct resolve_answer *),
			      void (*done)(void *, const struct resolve_answer *), void *ctx,
			      struct err *err)
{
	struct resolve *r = xcalloc(1, sizeof(*r));
	int rc = 0;

	*r = (struct resolve){.loop = l, .done = done, .ctx = ctx};
	r->s = xcalloc(1, sizeof(*r->s));
	atomic_init(&r->s->refs, 1);
	r->s->host = xstrdup(host);
	r->s->lookup = lookup != NULL ? lookup : by_system;
	r->s->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->s->efd < 0)
		rc = -errno;
	if (rc == 0)
		rc = loop_watch(r->loop, &r->watch, r->s->efd, EPOLLIN, on_answer);
	if (rc == 0 && ip_parse(str_of(host), &r->s->a.addr[0]) == 0) {
		r->s->a.n = 1;
		r->s->a.ttl_s = UINT32_MAX;
		ring(r->s);
	} else if (rc == 0) {
		rc = start_thread(r->s);
	}
	if (rc == 0)
		return r;
	(void)err_errno(err, -rc, "look up %s", str_shown(str_of(host)));
	return resolve_cancel(r);
}
