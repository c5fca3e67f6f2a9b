/* SPDX-License-Identifier: Apache-2.0
 * reset.c: resets that must not get lost.
 *
 * A RST counts only when it is exactly at the place the receiver expects (RFC 5961). A slow server
 * whose buffer is full drops what was sent last, so ours is not; it then asks with an ACK and any
 * host would answer with a second RST. Not here: the ACK goes to the client's address, which we
 * only borrow (IP_TRANSPARENT), and without a socket the kernel has no route from it. The server
 * would wait for ever. So a socket with a borrowed address is kept until everything it has sent is
 * acknowledged, and reset then.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define FIRST_MS 16
#define NEXT_MS	 100
#define GONE_MS                                                                                    \
	2000 /* of a pod that is served no more: it was deleted, or it lives and answers           \
	      */

struct late_reset {
	struct list node; /* worker->late_resets */
	struct timer timer;
	struct worker *w;
	const struct pod *pod; /* NULL: it is served no more */
	int fd;		       /* ends in a reset when it is closed */
	uint64_t until_ms;
};

static bool has_unacked(int fd)
{
	struct tcp_info i = {0};
	socklen_t n = sizeof(i);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n) == 0 && i.tcpi_unacked != 0;
}

static void late_reset_end(struct late_reset *r)
{
	loop_timer_cancel(&r->timer);
	list_remove(&r->node);
	r->w->nlate_resets--;
	(void)xclose(r->fd);
	free(r);
}

static void on_time(struct timer *t)
{
	struct late_reset *r = container_of(t, struct late_reset, timer);

	if (!has_unacked(r->fd) || loop_now_ms(r->w->loop) >= r->until_ms)
		late_reset_end(r);
	else
		loop_timer_set(r->w->loop, t, NEXT_MS, on_time);
}

bool reset_later(struct pod *p, struct leg *l)
{
	struct worker *w = p->w;
	struct late_reset *r;

	if (!l->borrowed || w->nlate_resets >= LIMIT_LATE_RESETS || !has_unacked(l->w.fd))
		return false;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return false;
	loop_unwatch(w->loop, &l->w);
	r->w = w;
	r->pod = p;
	r->fd = take_fd(l->w.fd);
	r->until_ms = loop_now_ms(w->loop) + LIMIT_LATE_RESET_MS;
	list_append(&w->late_resets, &r->node);
	w->nlate_resets++;
	loop_timer_set(w->loop, &r->timer, FIRST_MS, on_time);
	return true;
}

void late_resets_soon(struct pod *p)
{
	uint64_t soon = loop_now_ms(p->w->loop) + GONE_MS;

	list_for_each (n, &p->w->late_resets) {
		struct late_reset *r = container_of(n, struct late_reset, node);

		if (r->pod != p)
			continue;
		r->pod = NULL;
		if (r->until_ms > soon)
			r->until_ms = soon;
	}
}

void late_resets_now(struct worker *w)
{
	while (!list_empty(&w->late_resets))
		late_reset_end(container_of(w->late_resets.next, struct late_reset, node));
}
