/* SPDX-License-Identifier: Apache-2.0
 * dial.c: connect() from inside a pod's namespace, several per visit.
 *
 * All dials of one pod and turn share one pair of setns calls (datapath.md 4.1). A connection to
 * the same host is complete when connect() returns, so completion is looked at at once, before
 * epoll. The client's address is kept by binding to it with an explicit port and SO_REUSEADDR: that
 * is the only way that does not degrade with TIME_WAITs (datapath.md 4.2). The mark keeps our own
 * packets out of the redirection.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "lib/base/log.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

/* Where the client's own port cannot be used. Plain TCP never can: the pod's conntrack knows the
 * client's connection to us by the same four-tuple. So these are ports that clients do not choose
 * by themselves (below the ephemeral range). */
#define PORT_FIRST    10240u
#define PORT_COUNT    22528u
#define BIND_TRIES    8
#define SCOPE	      "ztunnel::proxy"
#define RESERVED_PORT 1024

static void set_int(int fd, int level, int name, int v)
{
	(void)setsockopt(fd, level, name, &v, sizeof(v));
}

static void keepalive_options(const struct worker_config *cfg, int fd)
{
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)cfg->keepalive_time_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)cfg->keepalive_interval_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)cfg->keepalive_retries);
}

/* A marked socket; inside the namespace. Returns it or -errno. */
static int open_socket(const struct worker_config *cfg, int family, bool keepalive)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	/* without its mark our packet would be captured again */
	if (cfg->mark != 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_MARK, &cfg->mark, sizeof(cfg->mark)) < 0) {
		int e = errno;

		(void)xclose(fd);
		return -e;
	}
	sock_stream_options(fd);
	sock_ends_in_reset(fd, true);
	if (keepalive && cfg->keepalive_time_s != 0)
		keepalive_options(cfg, fd);
	return fd;
}

static bool make_transparent(int fd, int family)
{
	int one = 1;

	if (family == AF_INET)
		return setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof(one)) == 0;
	return setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &one, sizeof(one)) == 0;
}

static int connect_to(int fd, int family, const struct ip_port *dst)
{
	struct sockaddr_storage ss;
	socklen_t n = ip_port_to_sockaddr(dst, family, &ss);

	if (connect(fd, (struct sockaddr *)&ss, n) == 0 || errno == EINPROGRESS)
		return 0;
	return -errno;
}

/* One attempt with one source port. No keepalive: the application is in the same kernel, which
 * knows when it is gone. Returns the socket, or -errno; *ret_bind: it was bind()'s or an option's,
 * not connect()'s. */
static int try_spoofed(const struct worker_config *cfg, const struct dial *d, uint16_t port,
		       bool *ret_bind)
{
	int family = d->src.ip.len == 4 ? AF_INET : AF_INET6, one = 1, r;
	_cleanup_close_ int fd = open_socket(cfg, family, false);
	struct ip_port src = {d->src.ip, port};
	struct sockaddr_storage ss;
	socklen_t n = ip_port_to_sockaddr(&src, family, &ss);

	*ret_bind = true;
	if (fd < 0)
		return fd;
	if (!make_transparent(fd, family) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&ss, n) < 0)
		return -errno;
	*ret_bind = false;
	r = connect_to(fd, family, &d->dst);
	return r < 0 ? r : take_fd(fd);
}

/* Each worker has its own ports: two that counted alike would meet at every one. */
static uint16_t next_port(struct pod *p)
{
	uint32_t n = p->next_port++ * p->w->cfg->nworkers + p->w->index;

	return (uint16_t)(PORT_FIRST + n % PORT_COUNT);
}

static int dial_plain(const struct worker_config *cfg, const struct dial *d)
{
	int family = d->dst.ip.len == 4 ? AF_INET : AF_INET6, r;
	_cleanup_close_ int fd = open_socket(cfg, family, true);

	if (fd < 0)
		return fd;
	r = connect_to(fd, family, &d->dst);
	return r < 0 ? r : take_fd(fd);
}

static int dial_spoofed(const struct worker_config *cfg, struct dial *d)
{
	uint16_t port = d->src.port >= RESERVED_PORT ? d->src.port : next_port(d->pod);
	bool at_bind = false;
	int r = -EADDRINUSE;
	char buf[IP_TEXT_MAX];

	for (int i = 0; i < BIND_TRIES; i++) {
		r = try_spoofed(cfg, d, port, &at_bind);
		if (r != -EADDRINUSE && (r != -EADDRNOTAVAIL || at_bind))
			break;
		/* long-lived connections may hold a run of them */
		d->pod->next_port += (uint32_t)(rand_u64() % 64) * (uint32_t)i;
		port = next_port(d->pod);
	}
	if (r >= 0 || !at_bind || r == -EMFILE || r == -ENFILE)
		return r;
	log_limited(LOG_LV_WARN, SCOPE,
		    "cannot keep the client's address %s (%s), connecting without it",
		    ip_format(&d->src.ip, buf), strerror(-r));
	return dial_plain(cfg, d);
}

static void dial_open(const struct worker_config *cfg, struct dial *d)
{
	bool spoof = d->src.ip.len != 0 && d->src.ip.len == d->dst.ip.len &&
		     !ip_eq(&d->src.ip, &d->dst.ip); /* a pod that calls itself: ztunnel-spec 1.8 */
	int r = spoof ? dial_spoofed(cfg, d) : dial_plain(cfg, d);

	d->leg->borrowed = spoof;
	d->leg->w.fd = r >= 0 ? r : -1;
	d->open_error = r >= 0 ? 0 : -r;
}

static void on_timeout(struct timer *t)
{
	struct dial *d = container_of(t, struct dial, timer);

	d->done(d, ETIMEDOUT);
}

static bool is_connected(int fd)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	return getpeername(fd, (struct sockaddr *)&ss, &n) == 0;
}

static void on_connect_event(struct watch *w, uint32_t events);

static void dial_finish(struct dial *d)
{
	struct worker *w = d->pod->w;
	int r;

	if (d->open_error != 0) {
		d->done(d, d->open_error);
		return;
	}
	if (is_connected(d->leg->w.fd)) {
		d->done(d, 0);
		return;
	}
	/* the leg's callback is replaced by its owner once connected */
	r = loop_watch(w->loop, &d->leg->w, d->leg->w.fd, LEG_READ | EPOLLOUT, on_connect_event);
	if (r < 0)
		d->done(d, -r);
}

static void on_connect_event(struct watch *watch, uint32_t events)
{
	struct leg *l = container_of(watch, struct leg, w);
	struct dial *d = l->dial;
	int e = leg_so_error(l);

	leg_events(l, events); /* edges do not come twice */
	if (e == 0 && !is_connected(l->w.fd))
		return; /* not yet */
	d->done(d, e);
}

struct dial *dial_start(struct pod *p, struct leg *leg, const struct ip_port *dst,
			const struct ip_port *src, void (*done)(struct dial *, int), void *owner)
{
	struct dial *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->pod = p;
	d->leg = leg;
	d->dst = *dst;
	if (src != NULL)
		d->src = *src;
	d->done = done;
	d->owner = owner;
	leg->dial = d;
	list_append(&p->dials, &d->node);
	if (!list_linked(&p->dial_node))
		list_append(&p->w->dial_pods, &p->dial_node);
	loop_timer_set(p->w->loop, &d->timer, LIMIT_CONNECT_MS, on_timeout);
	turn_request(p->w);
	return d;
}

struct dial *dial_free(struct dial *d)
{
	if (d == NULL)
		return NULL;
	list_remove(&d->node);
	loop_timer_cancel(&d->timer);
	d->leg->dial = NULL;
	free(d);
	return NULL;
}

static void fail_all(struct list *batch, int error)
{
	struct list *n;

	while ((n = list_pop(batch)) != NULL) {
		struct dial *d = container_of(n, struct dial, node);

		d->done(d, error);
	}
}

static void dial_pod(struct pod *p)
{
	struct list batch, *n;
	int r = netns_enter(p->sh->netns_fd);

	list_init(&batch);
	list_splice(&batch, &p->dials);
	if (r < 0) {
		fail_all(&batch, -r);
		return;
	}
	list_for_each (it, &batch)
		dial_open(p->w->cfg, container_of(it, struct dial, node));
	netns_leave();
	/* a callback may free other dials of the batch: they unlink themselves */
	while ((n = list_pop(&batch)) != NULL)
		dial_finish(container_of(n, struct dial, node));
}

void dial_batch(struct worker *w)
{
	struct list *n;

	while ((n = list_pop(&w->dial_pods)) != NULL)
		dial_pod(container_of(n, struct pod, dial_node));
}
