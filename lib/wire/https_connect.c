/* SPDX-License-Identifier: Apache-2.0
 * https_connect.c: from a name to a connected socket: lookup, then one address after the other.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/https_internal.h"

#define ADDRESS_MS 3000 /* for one address while others are left */

static void try_next(struct https_client *c);

static void drop_socket(struct https_client *c)
{
	loop_timer_cancel(&c->next);
	loop_unwatch(c->loop, &c->watch);
	c->fd = xclose(c->fd);
}

static const char *address_text(const struct https_client *c, char buf[IP_PORT_TEXT_MAX])
{
	struct ip_port a = {.ip = c->addr[c->at - 1], .port = c->port};

	return ip_port_format(&a, buf);
}

static void address_failed(struct https_client *c, int code)
{
	char text[IP_PORT_TEXT_MAX];

	(void)err_errno(&c->last, code, "connect to %s", address_text(c, text));
	drop_socket(c);
	try_next(c);
}

static void on_address_limit(struct timer *t)
{
	address_failed(container_of(t, struct https_client, next), ETIMEDOUT);
}

static void on_connect(struct watch *w, uint32_t events)
{
	struct https_client *c = container_of(w, struct https_client, watch);
	socklen_t len = sizeof(int);
	int code = 0;

	(void)events;
	OBJ_CHECK(c, HTTPS_MAGIC);
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		code = errno;
	if (code != 0) {
		address_failed(c, code);
		return;
	}
	loop_timer_cancel(&c->next);
	loop_unwatch(c->loop, &c->watch);
	https_connected(c);
}

static int dial(struct https_client *c, const struct ip_addr *ip)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(c->port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(c->port)};
	bool four = ip->len == 4;
	int one = 1, r;

	c->fd = socket(four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return -errno;
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	memcpy(&v4.sin_addr, ip->b, 4);
	memcpy(&v6.sin6_addr, ip->b, 16);
	r = four ? connect(c->fd, (const struct sockaddr *)&v4, sizeof(v4))
		 : connect(c->fd, (const struct sockaddr *)&v6, sizeof(v6));
	if (r < 0 && errno != EINPROGRESS)
		return -errno;
	return loop_watch(c->loop, &c->watch, c->fd, EPOLLOUT, on_connect);
}

static void try_next(struct https_client *c)
{
	int r;

	c->state = HTTPS_CONNECTING;
	if (c->at == c->naddr) {
		https_down(c, &c->last);
		return;
	}
	r = dial(c, &c->addr[c->at++]);
	if (r < 0)
		address_failed(c, -r);
	else if (c->at < c->naddr)
		loop_timer_set(c->loop, &c->next, ADDRESS_MS, on_address_limit);
}

static void on_resolved(void *ctx, const struct resolve_answer *a)
{
	struct https_client *c = ctx;

	OBJ_CHECK(c, HTTPS_MAGIC);
	c->resolve = NULL;
	if (a->n == 0) {
		(void)err_set(&c->last, EHOSTUNREACH, "look up %s: %s", c->host, a->why);
		https_down(c, &c->last);
		return;
	}
	memcpy(c->addr, a->addr, a->n * sizeof(a->addr[0]));
	c->naddr = a->n;
	try_next(c);
}

static void on_limit(struct timer *t)
{
	struct https_client *c = container_of(t, struct https_client, limit);
	static const char *const what[] = {[HTTPS_RESOLVING] = "the name lookup",
					   [HTTPS_CONNECTING] = "the TCP connection",
					   [HTTPS_HANDSHAKE] = "the TLS handshake",
					   [HTTPS_UP] = "the connection",
					   [HTTPS_DOWN] = "the connection"};
	struct err err = {0};

	OBJ_CHECK(c, HTTPS_MAGIC);
	(void)err_set(&err, ETIMEDOUT, "%s took longer than %llu ms", what[c->state],
		      (unsigned long long)c->connect_ms);
	https_down(c, &err);
}

int https_connect_start(struct https_client *c, struct err *err)
{
	c->state = HTTPS_RESOLVING;
	c->resolve = resolve_start(c->loop, c->host, NULL, on_resolved, c, err);
	if (c->resolve == NULL)
		return -EIO; /* the sentence is in @err */
	loop_timer_set(c->loop, &c->limit, c->connect_ms, on_limit);
	return 0;
}

void https_connect_stop(struct https_client *c)
{
	c->resolve = resolve_cancel(c->resolve);
	loop_timer_cancel(&c->limit);
	drop_socket(c);
}
