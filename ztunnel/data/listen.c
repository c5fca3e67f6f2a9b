/* SPDX-License-Identifier: Apache-2.0
 * listen.c: the listening sockets of a pod on one worker: accepting, pausing, and going over to
 * other sockets without losing a connection.
 */
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define WAITING_ROUNDS 256  /* times ACCEPTS: more than a listening queue holds */
#define RETIRED_MS     1000 /* handshakes end; a SYN that was dropped comes again after 1 s */

static void dispatch(struct listener *l, int fd, const struct ip_port *peer)
{
	if (l->retired) /* it was inherited */
		(void)setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, NULL, 0);
	switch (l->kind) {
	case MESH_L_OUTBOUND:
		outbound_accepted(l->pod, fd, peer);
		break;
	case MESH_L_INBOUND_PLAIN:
		plain_accepted(l->pod, fd, peer);
		break;
	case MESH_L_INBOUND_HBONE:
		inbound_accepted(l->pod, fd, peer);
		break;
	case MESH_L_N:
	default:
		(void)xclose(fd);
	}
}

static void listener_watch(struct listener *l);
static void on_pause_over(struct timer *t);

/* Out of descriptors or memory: connections wait in the kernel's queue, we do not spin. */
static void pause_accept(struct listener *l, int error)
{
	struct worker *w = l->pod->w;

	metric_add(M_ACCEPT_ERRORS, 1);
	log_limited(LOG_LV_WARN, "ztunnel::proxy", "accept on %s of %s/%s: %s; pausing",
		    mesh_listener_name[l->kind], l->pod->sh->ns, l->pod->sh->name, strerror(error));
	loop_unwatch(w->loop, &l->w);
	loop_timer_set(w->loop, &l->pause, ACCEPT_PAUSE_MS, on_pause_over);
}

/* The highest descriptor after which nothing more is accepted: what is above is for the dials of
 * what was. Descriptors are given out lowest first. */
static int last_comfortable(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur > INT_MAX)
		return INT_MAX;
	return (int)r.rlim_cur - LIMIT_FD_RESERVE;
}

/* Whether what is accepted now could be dialled. Without that look every pause would let one more
 * in, until nothing is left for the dials. Who has no connection at all does not wait for others.
 */
static bool has_descriptors(const struct listener *l)
{
	int fd;

	if (atomic_load_explicit(&l->pod->w->st.connections, memory_order_relaxed) == 0)
		return true;
	fd = fd_dup(l->fd); /* gets the lowest that is free */
	if (fd >= 0)
		(void)xclose(fd);
	return fd >= 0 && fd <= last_comfortable();
}

static void on_pause_over(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, pause);

	if (has_descriptors(l))
		listener_watch(l);
	else
		loop_timer_set(l->pod->w->loop, t, ACCEPT_PAUSE_MS, on_pause_over);
}

static bool is_shortage(int e)
{
	return e == EMFILE || e == ENFILE || e == ENOBUFS || e == ENOMEM;
}

/* Up to ACCEPTS of them. False: there may be more, also when a pause cut it short. */
static bool accept_some(struct listener *l)
{
	int last = last_comfortable();

	for (int i = 0; i < ACCEPTS && !timer_armed(&l->pause); i++) {
		struct sockaddr_storage ss;
		socklen_t n = sizeof(ss);
		struct ip_port peer;
		int fd = accept4(l->fd, (struct sockaddr *)&ss, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

		int e = fd < 0 ? errno : 0;

		if (is_shortage(e))
			pause_accept(l, e);
		if (e != 0 && e != ECONNABORTED && e != EINTR)
			return true;
		if (fd < 0)
			continue;
		if (sockaddr_to_ip_port(&ss, &peer) < 0)
			(void)xclose(fd);
		else
			dispatch(l, fd, &peer);
		if (fd > last)
			pause_accept(l, EMFILE);
	}
	return false;
}

/* The home worker tells the others how it is. */
static void look_after_home(struct listener *l, bool emptied)
{
	struct worker *w = l->pod->w;
	struct churn *c = &l->pod->sh->churn;

	if (busy_due(&w->busy, loop_now_ns(w->loop)))
		busy_look(&w->busy, loop_now_ns(w->loop), clock_thread_ns());
	churn_busy(c, w->busy.permille);
	if (!emptied)
		churn_crowded(c);
}

static bool stands_back(const struct listener *l)
{
	return l->kind != MESH_L_INBOUND_HBONE && !l->retired && !l->pod->home &&
	       churn_stand_back(&l->pod->sh->churn, loop_now_ns(l->pod->w->loop));
}

static void on_stood_back(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, pause);

	if (stands_back(l))
		loop_timer_set(l->pod->w->loop, t, STAND_BACK_MS, on_stood_back);
	else
		listener_watch(l);
}

static void on_accept(struct watch *watch, uint32_t events)
{
	struct listener *l = container_of(watch, struct listener, w);
	bool back = stands_back(l), emptied;

	(void)events;
	OBJ_CHECK(l->pod, POD_MAGIC);
	/* First of all: who comes from here on wakes the home worker. Who came before may have
	 * woken nobody but us, and is ours. */
	if (back)
		loop_unwatch(l->pod->w->loop, &l->w);
	emptied = accept_some(l);
	if (back && !timer_armed(&l->pause)) {
		if (emptied)
			loop_timer_set(l->pod->w->loop, &l->pause, STAND_BACK_MS, on_stood_back);
		else
			listener_watch(l);
	}
	if (l->pod->home && l->kind != MESH_L_INBOUND_HBONE && !l->retired)
		look_after_home(l, emptied);
}

static void listener_watch(struct listener *l)
{
	int r;

	if (l->w.added || (l->pod->w->draining && !l->retired))
		return;
	/* every worker waits on it, one is woken */
	r = loop_watch(l->pod->w->loop, &l->w, l->fd, EPOLLIN | EPOLLEXCLUSIVE, on_accept);
	if (r == 0)
		return;
	log_limited(LOG_LV_ERROR, "ztunnel::proxy", "cannot watch %s of %s/%s: %s; trying again",
		    mesh_listener_name[l->kind], l->pod->sh->ns, l->pod->sh->name, strerror(-r));
	loop_timer_set(l->pod->w->loop, &l->pause, ACCEPT_PAUSE_MS, on_pause_over);
}

static void set_int(int fd, int level, int name, uint64_t v)
{
	int i = v > 32767 ? 32767 : (int)v;

	(void)setsockopt(fd, level, name, &i, sizeof(i));
}

/* Accepted sockets inherit these: no system call per connection. 15008 has HTTP/2 pings instead of
 * keepalive (ztunnel-spec 1.6). */
static void listener_options(const struct worker_config *cfg, int fd, enum mesh_listener kind)
{
	(void)setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, NULL,
			 0); /* it may have been retired before */
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	sock_ends_in_reset(fd, true);
	if (kind == MESH_L_INBOUND_HBONE || cfg->keepalive_time_s == 0)
		return;
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, cfg->keepalive_time_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, cfg->keepalive_interval_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, cfg->keepalive_retries);
}

static void listener_unwatch(struct listener *l)
{
	loop_unwatch(l->pod->w->loop, &l->w);
	loop_timer_cancel(&l->pause);
}

void pod_listen(struct pod *p, bool on)
{
	if (on) /* relaxed: spread.c */
		atomic_fetch_add_explicit(&p->sh->listening, 1, memory_order_relaxed);
	for (int i = 0; i < MESH_L_N; i++) {
		struct listener *l = &p->listeners[i];

		if (on) {
			*l = (struct listener){
				.pod = p, .kind = (enum mesh_listener)i, .fd = p->sh->listeners[i]};
			listener_options(p->w->cfg, l->fd, l->kind);
			listener_watch(l);
		} else if (l->pod != NULL) {
			listener_unwatch(l);
		}
	}
}

/* ---- other sockets for the same pod ---- */

/* Sockets of before: watched until nothing can be in their queues. */
struct retired {
	struct list node; /* pod->retired */
	struct pod *pod;
	struct pod_shared *sh; /* reference */
	struct timer timer;
	struct listener l[MESH_L_N];
};

/* No new handshake: a SYN is dropped and comes again, to another socket. All else passes. */
static void refuse_syns(int fd)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13), /* flags, of the TCP header */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TH_SYN | TH_ACK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TH_SYN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(f), .filter = f};

	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

/* Sockets of one port with SO_REUSEPORT are a group, numbered in the order in which they began to
 * listen; the program chooses who gets a SYN. A number that nobody has means: as without it. */
static void steer(int fd, uint32_t index)
{
	struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, index)};
	struct sock_fprog prog = {.len = ARRAY_LEN(f), .filter = f};

	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &prog, sizeof(prog));
}

static void retired_free(struct retired *r)
{
	struct pod *p = r->pod;

	for (int i = 0; i < MESH_L_N; i++)
		listener_unwatch(&r->l[i]);
	loop_timer_cancel(&r->timer);
	list_remove(&r->node);
	pod_shared_unref(r->sh);
	free(r);
	for (int i = 0, off = 0; list_empty(&p->retired) && i < MESH_L_N; i++)
		(void)setsockopt(p->sh->listeners[i], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &off,
				 sizeof(off));
}

void listeners_drop_retired(struct pod *p)
{
	list_for_each_safe (n, &p->retired)
		retired_free(container_of(n, struct retired, node));
}

/* Takes what is left. False when that had to stop: short of descriptors. */
static bool take_waiting(struct listener *l)
{
	struct pollfd pfd = {.fd = l->fd, .events = POLLIN};

	if (!l->w.added && !timer_armed(&l->pause)) /* not retired: the same socket as before */
		return true;
	for (int n = 0; n < WAITING_ROUNDS && l->w.added && poll(&pfd, 1, 0) == 1; n++)
		on_accept(&l->w, EPOLLIN);
	return l->w.added;
}

static void on_retired(struct timer *t)
{
	struct retired *r = container_of(t, struct retired, timer);
	bool done = true;

	for (int i = 0; i < MESH_L_N; i++)
		done &= take_waiting(&r->l[i]);
	if (done)
		retired_free(r);
	else
		loop_timer_set(r->pod->w->loop, t, RETIRED_MS, on_retired);
}

/* Two descriptors of one socket: nothing is closed, nothing changes. */
static bool same_socket(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

/* Closing a listening socket resets what waits in its queue and what is half through a handshake.
 * So the old ones get no new handshakes any more, are served a little longer, and go when they are
 * empty. The new ones listen already: whoever made them says so by handing them over. */
void listeners_retire(struct pod *p, struct pod_shared *sh)
{
	struct retired *r = xcalloc(1, sizeof(*r));
	uint32_t before = 1;

	list_for_each (n, &p->retired)
		before++;
	r->pod = p;
	r->sh = p->sh;
	list_append(&p->retired, &r->node);
	pod_listen(p, false);
	p->sh = sh;
	for (int i = 0; i < MESH_L_N; i++) {
		struct listener *l = &r->l[i];

		*l = (struct listener){.pod = p,
				       .kind = (enum mesh_listener)i,
				       .fd = r->sh->listeners[i],
				       .retired = true};
		if (same_socket(l->fd, sh->listeners[i]))
			continue;
		steer(sh->listeners[i], before);
		refuse_syns(l->fd);
		listener_watch(l);
		loop_timer_set(p->w->loop, &r->timer, RETIRED_MS, on_retired);
	}
	if (!timer_armed(&r->timer))
		retired_free(r);
}
