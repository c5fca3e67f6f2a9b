/* SPDX-License-Identifier: Apache-2.0
 * tcp.c: DNS over TCP with a client (RFC 1035 4.2.2, RFC 7766): messages with their length in
 * front, one after the other. While one waits for its answer nothing more is read: what a client
 * sends ahead waits in the kernel, and the memory of a connection is one query and one answer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/os/fd.h"
#include "ztunnel/dns/dns_internal.h"

static void conn_free(struct deferred *d)
{
	struct dns_conn *c = container_of(d, struct dns_conn, defer);

	free(c->out);
	free(c);
}

void tcp_close(struct dns_conn *c)
{
	struct dns_pod *p = c->pod;

	if (c->dead)
		return;
	c->dead = true;
	if (c->req != NULL)
		req_cancel(c->req);
	loop_unwatch(p->w->loop, &c->w);
	c->w.fd = xclose(c->w.fd);
	loop_timer_cancel(&c->idle);
	list_remove(&c->node);
	p->nconns--;
	loop_defer(p->w->loop, &c->defer, conn_free);
}

static void on_idle(struct timer *t)
{
	tcp_close(container_of(t, struct dns_conn, idle));
}

/* Returns false when the connection is over. */
static bool flush(struct dns_conn *c)
{
	ssize_t n = send(c->w.fd, c->out + c->out_off, c->out_n - c->out_off,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		tcp_close(c);
		return false;
	}
	c->out_off += n > 0 ? (size_t)n : 0;
	if (c->out_off == c->out_n) {
		free(c->out);
		c->out = NULL;
	}
	return true;
}

void tcp_send(struct dns_conn *c, size_t n)
{
	const uint8_t *p = c->pod->w->out;
	ssize_t sent;

	if (c->dead)
		return;
	sent = send(c->w.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && (errno == EAGAIN || errno == EINTR))
		sent = 0;
	if (sent == (ssize_t)n)
		return;
	c->out = sent >= 0 ? malloc(n - (size_t)sent) : NULL;
	if (c->out == NULL) {
		tcp_close(c);
		return;
	}
	c->out_n = n - (size_t)sent;
	c->out_off = 0;
	memcpy(c->out, p + sent, c->out_n);
}

/* Handles the first message if it is complete and may be handled. */
static bool take_message(struct dns_conn *c)
{
	struct dns_from from = {.conn = c};
	size_t n;

	if (c->dead || c->req != NULL || c->out != NULL || c->in_n < 2)
		return false;
	n = (size_t)c->in[0] << 8 | c->in[1];
	if (n > LIMIT_DNS_QUERY_BYTES) {
		tcp_close(c);
		return false;
	}
	if (c->in_n < 2 + n)
		return false;
	loop_timer_set(c->pod->w->loop, &c->idle, LIMIT_DNS_TCP_IDLE_MS, on_idle);
	if (dns_handle(c->pod, &from, c->in + 2, n) == DNS_IGNORED) {
		tcp_close(c);
		return false;
	}
	c->in_n -= 2 + n;
	memmove(c->in, c->in + 2 + n, c->in_n);
	forward_flush(c->pod);
	return true;
}

static void process(struct dns_conn *c)
{
	uint32_t events;

	c->busy = true;
	while (take_message(c))
		;
	c->busy = false;
	if (c->dead)
		return;
	if (c->req != NULL) /* it has a time limit of its own */
		loop_timer_cancel(&c->idle);
	events = c->out != NULL ? EPOLLOUT : c->req != NULL ? 0 : EPOLLIN;
	if (events == c->events)
		return;
	c->events = events;
	if (loop_rewatch(c->pod->w->loop, &c->w, events) < 0)
		tcp_close(c);
}

void tcp_answered(struct dns_conn *c)
{
	if (c->dead || c->busy)
		return;
	loop_timer_set(c->pod->w->loop, &c->idle, LIMIT_DNS_TCP_IDLE_MS, on_idle);
	process(c);
}

static void on_conn(struct watch *watch, uint32_t events)
{
	struct dns_conn *c = container_of(watch, struct dns_conn, w);
	ssize_t n;

	if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
		tcp_close(c);
		return;
	}
	if (c->out != NULL && !flush(c))
		return;
	if ((events & EPOLLIN) != 0) {
		n = recv(watch->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			tcp_close(c);
			return;
		}
		c->in_n += n > 0 ? (size_t)n : 0;
	}
	process(c);
}

void tcp_accepted(struct dns_pod *p, int fd)
{
	_cleanup_close_ int mine = fd;
	struct dns_conn *c;

	if (p->nconns >= LIMIT_DNS_CONNECTIONS)
		tcp_close(container_of(p->conns.next, struct dns_conn, node));
	c = malloc(sizeof(*c));
	if (c == NULL)
		return;
	memset(c, 0, offsetof(struct dns_conn, in));
	c->pod = p;
	c->events = EPOLLIN;
	if (loop_watch(p->w->loop, &c->w, mine, EPOLLIN, on_conn) < 0) {
		free(c);
		return;
	}
	(void)take_fd(mine);
	list_append(&p->conns, &c->node);
	p->nconns++;
	loop_timer_set(p->w->loop, &c->idle, LIMIT_DNS_TCP_IDLE_MS, on_idle);
}
