/* SPDX-License-Identifier: Apache-2.0
 * pod.c: a served pod on one worker: its listeners, its workload and certificate, its end.
 */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "lib/base/log.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define WAITING_ROUNDS 256 /* times ACCEPTS: more than a listening queue holds */

static uint64_t uid_hash(const char *uid)
{
	return hash_str(str_of(uid));
}

struct pod *pod_find(struct worker *w, const char *uid)
{
	for (struct hnode *n = htab_first(&w->pods, uid_hash(uid)); n != NULL; n = htab_next(n)) {
		struct pod *p = container_of(n, struct pod, node);

		if (strcmp(p->sh->uid, uid) == 0)
			return p;
	}
	return NULL;
}

void pod_shared_unref(struct pod_shared *sh)
{
	/* acq_rel: the last worker closes after everybody's last use */
	if (sh == NULL || atomic_fetch_sub_explicit(&sh->refs, 1, memory_order_acq_rel) != 1)
		return;
	mesh_listeners_close(sh->listeners);
	(void)xclose(sh->netns_fd);
	free(sh->uid);
	free(sh->name);
	free(sh->ns);
	free(sh->sa);
	free(sh);
}

/* ---- accepting ---- */

static void dispatch(struct listener *l, int fd, const struct ip_port *peer)
{
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
	fd = fd_dup(l->pod->sh->listeners[l->kind]); /* gets the lowest that is free */
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

static void on_accept(struct watch *watch, uint32_t events)
{
	struct listener *l = container_of(watch, struct listener, w);
	int last = last_comfortable();

	(void)events;
	OBJ_CHECK(l->pod, POD_MAGIC);
	for (int i = 0; i < ACCEPTS && l->w.added; i++) {
		struct sockaddr_storage ss;
		socklen_t n = sizeof(ss);
		struct ip_port peer;
		int fd = accept4(watch->fd, (struct sockaddr *)&ss, &n,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && is_shortage(errno))
			pause_accept(l, errno);
		if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
			return;
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0)
			continue;
		if (sockaddr_to_ip_port(&ss, &peer) < 0)
			(void)xclose(fd);
		else
			dispatch(l, fd, &peer);
		if (fd > last)
			pause_accept(l, EMFILE);
	}
}

static void listener_watch(struct listener *l)
{
	int r;

	if (l->w.added || l->pod->w->draining)
		return;
	/* every worker waits on it, one is woken */
	r = loop_watch(l->pod->w->loop, &l->w, l->pod->sh->listeners[l->kind],
		       EPOLLIN | EPOLLEXCLUSIVE, on_accept);
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
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	sock_ends_in_reset(fd, true);
	if (kind == MESH_L_INBOUND_HBONE || cfg->keepalive_time_s == 0)
		return;
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, cfg->keepalive_time_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, cfg->keepalive_interval_s);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, cfg->keepalive_retries);
}

void pod_listen(struct pod *p, bool on)
{
	for (int i = 0; i < MESH_L_N; i++) {
		struct listener *l = &p->listeners[i];

		if (on) {
			listener_options(p->w->cfg, p->sh->listeners[i], l->kind);
			listener_watch(l);
		} else {
			loop_unwatch(p->w->loop, &l->w);
			loop_timer_cancel(&l->pause);
		}
	}
}

/* ---- life ---- */

struct pod *pod_new(struct worker *w, struct pod_shared *sh, struct tls_identity *id)
{
	struct pod *p = xcalloc(1, sizeof(*p));

	p->magic = POD_MAGIC;
	p->w = w;
	p->sh = sh;
	p->id = tls_identity_ref(id);
	p->next_port = (uint32_t)(rand_u64() % 20000);
	for (int i = 0; i < MESH_L_N; i++)
		p->listeners[i] = (struct listener){.pod = p, .kind = (enum mesh_listener)i};
	list_init(&p->conns);
	list_init(&p->sessions);
	list_init(&p->parked);
	list_init(&p->dials);
	htab_init(&p->pool);
	htab_insert(&w->pods, &p->node, uid_hash(sh->uid));
	pod_refresh(p);
	pod_listen(p, true);
	return p;
}

static void pod_free(struct deferred *d)
{
	struct pod *p = container_of(d, struct pod, defer);

	htab_fini(&p->pool);
	strbuf_fini(&p->baggage);
	workload_unref(p->wl);
	tls_identity_unref(p->id);
	pod_shared_unref(p->sh);
	p->magic = OBJ_DEAD;
	free(p);
}

void pod_cut(struct pod *p, const char *error)
{
	while (!list_empty(&p->conns))
		conn_end(container_of(p->conns.next, struct conn, pod_node), END_RESET, FLAG_NONE,
			 error);
	/* only now: a session that ends would let its streams try another one */
	while (!list_empty(&p->sessions))
		hsess_fail(container_of(p->sessions.next, struct hsess, pod_node), FLAG_NONE, NULL);
}

void pod_remove(struct pod *p)
{
	OBJ_CHECK(p, POD_MAGIC);
	pod_listen(p, false);
	pod_cut(p, "connection closed due to connection drain");
	list_remove(&p->dial_node);
	htab_remove(&p->w->pods, &p->node);
	loop_defer(p->w->loop, &p->defer, pod_free);
}

/* Closing a listening socket resets what waits in its queue: take it before the sockets go. */
static void accept_waiting(struct pod *p)
{
	for (int i = 0; i < MESH_L_N; i++) {
		struct listener *l = &p->listeners[i];
		struct pollfd pfd = {.fd = l->w.fd, .events = POLLIN};

		for (int n = 0; n < WAITING_ROUNDS && l->w.added && poll(&pfd, 1, 0) == 1; n++)
			on_accept(&l->w, EPOLLIN);
	}
}

void pod_replace_shared(struct pod *p, struct pod_shared *sh)
{
	accept_waiting(p);
	pod_listen(p, false);
	/* the table's key must not change: same uid */
	pod_shared_unref(p->sh);
	p->sh = sh;
	pod_refresh(p);
	pod_listen(p, true);
}

/* ---- workload and certificate ---- */

static void add_kv(struct strbuf *b, const char *key, struct str v)
{
	if (v.n == 0)
		return;
	strbuf_printf(b, "%s%s=", b->n != 0 ? "," : "", key);
	strbuf_str(b, v);
}

/* ztunnel-spec 4.12 */
static void make_baggage(struct pod *p)
{
	const struct workload *wl = p->wl;
	char key[48];

	p->baggage.n = 0;
	if (wl == NULL)
		return;
	(void)snprintf(key, sizeof(key), "k8s.%s.name", wl_type_name[wl->type]);
	add_kv(&p->baggage, "k8s.cluster.name", wl->cluster);
	add_kv(&p->baggage, "k8s.namespace.name", wl->ns);
	add_kv(&p->baggage, key, wl->workload_name);
	add_kv(&p->baggage, "service.name", wl->canonical_name);
	add_kv(&p->baggage, "service.version", wl->canonical_revision);
	add_kv(&p->baggage, "cloud.region", wl->region);
	add_kv(&p->baggage, "cloud.availability_zone", wl->zone);
}

static void retry_parked(struct pod *p)
{
	struct list all, *n;

	list_init(&all);
	list_splice(&all, &p->parked);
	while ((n = list_pop(&all)) != NULL) {
		struct conn *c = container_of(n, struct conn, park_node);

		if (c->kind == CONN_OUT)
			outbound_go(c);
		else if (c->kind == CONN_IN_PLAIN)
			plain_go(c);
		else
			inbound_go(c);
	}
}

void pod_refresh(struct pod *p)
{
	struct workload *wl = mesh_local_workload(p->w->mesh, str_of(p->sh->name),
						  str_of(p->sh->ns), str_of(p->sh->sa));

	workload_ref(wl);
	workload_unref(p->wl);
	p->wl = wl;
	make_baggage(p);
	list_for_each_safe (n, &p->conns)
		conn_recheck(container_of(n, struct conn, pod_node));
	retry_parked(p);
}

/* @old is not just renewed: peers that checked it should not go on speaking to it. */
static bool is_another(const struct tls_identity *old, const struct tls_identity *id)
{
	return old != NULL &&
	       (id == NULL || strcmp(tls_identity_spiffe(old), tls_identity_spiffe(id)) != 0);
}

void pod_set_identity(struct pod *p, struct tls_identity *id)
{
	bool another = is_another(p->id, id);

	tls_identity_ref(id);
	tls_identity_unref(p->id);
	p->id = id;
	pool_retire(p);
	list_for_each_safe (n, &p->sessions) {
		struct hsess *s = container_of(n, struct hsess, pod_node);

		if (s->state == HS_PARKED && id != NULL)
			hsess_start_server(s);
		else if (s->server && s->state == HS_OPEN && another)
			hsess_goaway(s);
	}
	retry_parked(p);
}
