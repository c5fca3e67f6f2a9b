/* SPDX-License-Identifier: Apache-2.0
 * serve.c: see serve.h and dns_internal.h: a pod's sockets, and what becomes of a message.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/dns/dns_internal.h"
#include "ztunnel/observe/metrics.h"

#define PAUSE_MS    100
#define ACCEPTS	    16
#define DNS_UDP_MAX 65000 /* what one datagram can carry, and some room */

/* ---- what is kept ---- */

/* The metrics are the process's, the sums the worker's. */
static void tell_cached(struct dns_worker *w)
{
	if (memcmp(&w->told, &w->cached, sizeof(w->told)) == 0)
		return;
	metric_add(M_DNS_CACHE_ENTRIES, (int64_t)(w->cached.entries - w->told.entries));
	metric_add(M_DNS_CACHE_BYTES, (int64_t)(w->cached.bytes - w->told.bytes));
	metric_add(M_DNS_CACHE_EVICTIONS, (int64_t)(w->cached.evicted - w->told.evicted));
	w->told = w->cached;
}

static void forget(struct dns_pod *p)
{
	dns_cache_clear(&p->cache);
	p->cache_round++;
	tell_cached(p->w);
}

static struct dns_pod *fullest(struct dns_worker *w)
{
	struct dns_pod *most = NULL;

	list_for_each (n, &w->pods) {
		struct dns_pod *p = container_of(n, struct dns_pod, node);

		if (most == NULL || p->cache.bytes > most->cache.bytes)
			most = p;
	}
	return most;
}

static void keep(const struct dns_req *r, const uint8_t *answer, size_t n)
{
	struct dns_worker *w = r->pod->w;

	if (r->cache_round != r->pod->cache_round)
		return;
	dns_cache_put(&r->pod->cache, &r->q, answer, n, loop_now_ms(w->loop));
	while (w->cached.bytes > LIMIT_DNS_CACHE_BYTES && dns_cache_evict(&fullest(w)->cache))
		;
	tell_cached(w);
}

/* ---- sockets that are shared ---- */

struct dns_sockets *dns_sockets_new(int fds[MESH_DNS_N])
{
	struct dns_sockets *s = xcalloc(1, sizeof(*s));

	atomic_init(&s->refs, 1);
	for (int i = 0; i < MESH_DNS_N; i++) {
		s->fds[i] = fds[i];
		fds[i] = -1;
	}
	return s;
}

struct dns_sockets *dns_sockets_ref(struct dns_sockets *s)
{
	if (s != NULL)
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void dns_sockets_unref(struct dns_sockets *s)
{
	/* acq_rel: the last one closes after everybody's last use */
	if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	mesh_dns_close(s->fds);
	free(s);
}

struct dns_worker *dns_worker_new(struct loop *l, const struct dns_config *cfg,
				  struct metrics_worker *metrics, void (*idle)(void *ctx),
				  void *ctx)
{
	struct dns_worker *w = xcalloc(1, sizeof(*w));

	w->loop = l;
	w->cfg = cfg;
	w->metrics = metrics;
	w->idle = idle;
	w->idle_ctx = ctx;
	w->settings = (struct dns_settings){.cluster_domain = str_of(cfg->cluster_domain),
					    .prefered_ns = str_of(cfg->prefered_ns),
					    .ipv6 = cfg->ipv6};
	list_init(&w->pods);
	return w;
}

struct dns_worker *dns_worker_free(struct dns_worker *w)
{
	bug_on(w != NULL && !list_empty(&w->pods));
	free(w);
	return NULL;
}

void dns_worker_resolvers(struct dns_worker *w, const struct resolv_conf *c)
{
	w->resolvers = *c;
	/* they may know other names, or other answers */
	list_for_each (n, &w->pods)
		forget(container_of(n, struct dns_pod, node));
}

/* ---- answers ---- */

void dns_send(struct dns_pod *p, const struct dns_from *from, size_t n)
{
	struct dns_worker *w = p->w;
	int fd;

	if (from->conn != NULL) {
		w->out[0] = (uint8_t)(n >> 8);
		w->out[1] = (uint8_t)n;
		tcp_send(from->conn, 2 + n);
		return;
	}
	fd = p->sockets != NULL ? p->sockets->fds[from->kind] : -1;
	/* a client that does not read loses answers, as on any path */
	if (fd >= 0)
		(void)sendto(fd, w->out + 2, n, MSG_DONTWAIT | MSG_NOSIGNAL,
			     (const struct sockaddr *)&from->peer, from->peer_len);
}

static size_t room_of(const struct dns_from *from, const struct dns_query *q)
{
	return from->conn != NULL	  ? DNS_MESSAGE_MAX
	       : q->payload < DNS_UDP_MAX ? q->payload
					  : DNS_UDP_MAX;
}

static void reply(struct dns_pod *p, const struct dns_from *from, const struct dns_query *q,
		  const struct dns_reply *r)
{
	dns_send(p, from, dns_reply_write(q, r, p->w->out + 2, room_of(from, q)));
}

static void reply_rcode(struct dns_pod *p, const struct dns_from *from, const struct dns_query *q,
			enum dns_rcode rcode)
{
	reply(p, from, q, &(struct dns_reply){.rcode = rcode});
}

/* ztunnel-spec 11.7 */
static void log_result(const struct dns_pod *p, const struct dns_query *q, struct str domain,
		       const char *result, const char *why, size_t endpoints)
{
	char text[DNS_TEXT_MAX];

	if (!log_enabled(LOG_LV_DEBUG, DNS_SCOPE))
		return;
	if (!dns_name_text(&q->name, text))
		(void)snprintf(text, sizeof(text), "(no host name)");
	log_write(LOG_LV_DEBUG, DNS_SCOPE,
		  "src.workload=\"%s\" src.namespace=\"%s\" query=\"%s\" domain=\"%.*s\" "
		  "result=\"%s%s%s%s\" endpoints=%zu",
		  p->view.name, p->view.ns, str_shown(str_of(text)), STR_FMT(domain), result,
		  why != NULL ? " (" : "", why != NULL ? why : "", why != NULL ? ")" : "",
		  endpoints);
}

/* ---- queries that wait ---- */

static void unlisten(struct dns_pod *p)
{
	for (int i = 0; i < MESH_DNS_N; i++) {
		loop_unwatch(p->w->loop, &p->l[i].w);
		loop_timer_cancel(&p->l[i].pause);
	}
}

static void req_free(struct deferred *d)
{
	free(container_of(d, struct dns_req, defer));
}

static void give_sockets_back(struct dns_pod *p)
{
	unlisten(p);
	dns_sockets_unref(p->sockets);
	p->sockets = NULL;
}

static void lead_no_more(struct dns_req *r)
{
	if (r->leads)
		htab_remove(&r->pod->leaders, &r->lead);
	r->leads = false;
}

void req_cancel(struct dns_req *r)
{
	struct dns_pod *p = r->pod;

	if (r->from.conn != NULL && r->from.conn->req == r)
		r->from.conn->req = NULL;
	forward_stop(r);
	loop_timer_cancel(&r->timer);
	lead_no_more(r);
	while (list_pop(&r->followers) != NULL)
		; /* of a pod that is cut, they end with it */
	list_remove(&r->follow_node);
	list_remove(&r->node);
	list_remove(&r->send_node);
	p->nreqs--;
	p->w->nreqs--;
	loop_defer(p->w->loop, &r->defer, req_free);
	if (p->draining && p->nreqs == 0)
		give_sockets_back(p);
	if (p->w->nreqs == 0 && p->w->idle != NULL)
		p->w->idle(p->w->idle_ctx);
}

/* @letters: the question is to have those of the client. */
static void end_one(struct dns_req *r, const uint8_t *answer, size_t n, const char *why,
		    bool letters)
{
	struct dns_pod *p = r->pod;
	struct dns_conn *c = r->from.conn;

	if (c != NULL)
		c->req = NULL; /* a connection that breaks takes its query along */
	if (r->start_ns != 0)
		dns_metrics_upstream_end(r->series, clock_mono_ns() - r->start_ns, answer != NULL);
	log_result(p, &r->q, STR(""), answer != NULL ? "forwarded" : "forwarding failed", why, 0);
	if (answer != NULL) {
		memcpy(p->w->out + 2, answer, n);
		if (letters)
			dns_set_letters(p->w->out + 2, &r->q);
		n = dns_forwarded(p->w->out + 2, n, &r->q, room_of(&r->from, &r->q));
		dns_send(p, &r->from, n);
	} else {
		reply_rcode(p, &r->from, &r->q, DNS_SERVFAIL);
	}
	req_cancel(r);
	if (c != NULL)
		tcp_answered(c);
}

void req_end(struct dns_req *r, const uint8_t *answer, size_t n, const char *why)
{
	/* a resolver that changes letters does so for all: their clients can tell, as this one can
	 */
	bool letters = answer != NULL && dns_same_letters(answer, &r->q);
	struct list followers, *f;

	list_init(&followers);
	list_splice(&followers, &r->followers);
	lead_no_more(r);
	if (answer != NULL)
		keep(r, answer, n);
	/* the leader last: after the last of all the worker may be told that it is idle */
	while ((f = list_pop(&followers)) != NULL)
		end_one(container_of(f, struct dns_req, follow_node), answer, n, why, letters);
	end_one(r, answer, n, why, false);
}

static struct dns_pod *greediest(struct dns_worker *w)
{
	struct dns_pod *most = NULL;

	list_for_each (n, &w->pods) {
		struct dns_pod *p = container_of(n, struct dns_pod, node);

		if (most == NULL || p->nreqs > most->nreqs)
			most = p;
	}
	return most;
}

/* Whether @p may have one more: who has most of all gives way to who has less. */
static bool make_room(struct dns_pod *p)
{
	struct dns_pod *most;
	struct dns_req *r;

	if (p->nreqs >= LIMIT_DNS_POD_QUERIES)
		return false;
	if (p->w->nreqs < LIMIT_DNS_WORKER_QUERIES)
		return true;
	most = greediest(p->w);
	if (most == p)
		return false;
	r = container_of(most->reqs.next, struct dns_req, node);
	if (!list_empty(&r->followers)) /* one of them, not all */
		r = container_of(r->followers.next, struct dns_req, follow_node);
	req_end(r, NULL, 0, "too many queries wait");
	return true;
}

static struct dns_req *req_new(struct dns_pod *p, const struct dns_from *from,
			       const struct dns_query *q, const uint8_t *msg,
			       struct dns_series *series)
{
	struct dns_req *r = make_room(p) ? malloc(sizeof(*r) + q->end) : NULL;

	if (r == NULL) {
		log_limited(LOG_LV_WARN, DNS_SCOPE,
			    "too many DNS queries of %s/%s wait for an answer; refused", p->view.ns,
			    p->view.name);
		return NULL;
	}
	*r = (struct dns_req){.pod = p, .from = *from, .q = *q, .series = series, .n = q->end};
	memcpy(r->msg, msg, q->end);
	list_init(&r->followers);
	list_append(&p->reqs, &r->node);
	p->nreqs++;
	p->w->nreqs++;
	if (from->conn != NULL)
		from->conn->req = r;
	return r;
}

/* ---- a message ---- */

/* The mesh's own answer; false: a resolver must be asked. */
static bool answer_locally(struct dns_pod *p, const struct dns_from *from,
			   const struct dns_query *q)
{
	static const char *const result[] = {
		[DNS_SUCCESS] = "success",
		[DNS_NO_SUPPORT] = "service does not support this record type",
		[DNS_NO_RECORDS] = "no records",
	};
	struct dns_worker *w = p->w;
	size_t max = room_of(from, q) / 16 + 1;
	struct dns_answer a =
		dns_answer(&w->settings, p->view.mesh, p->view.wl, q, w->addrs,
			   max < LIMIT_DNS_ADDRESSES ? max : LIMIT_DNS_ADDRESSES, rand_u64());

	if (a.found == DNS_FORWARD)
		return false;
	log_result(p, q, a.service->hostname, result[a.found], NULL, a.naddrs);
	reply(p, from, q,
	      &(struct dns_reply){.authoritative = true,
				  .alias_labels = a.alias_labels,
				  .addrs = w->addrs,
				  .naddrs = a.naddrs,
				  .ttl = DNS_TTL_S});
	return true;
}

/* What was kept of an earlier answer. False: a resolver must be asked. */
static bool answer_from_cache(struct dns_pod *p, const struct dns_from *from,
			      const struct dns_query *q)
{
	struct dns_worker *w = p->w;
	size_t n;

	if (p->cache.max_bytes == 0 || !dns_question_shared(q))
		return false;
	n = dns_cache_get(&p->cache, q, loop_now_ms(w->loop), w->out + 2, room_of(from, q));
	metric_add(n != 0 ? M_DNS_CACHE_HITS : M_DNS_CACHE_MISSES, 1);
	if (n == 0)
		return false;
	log_result(p, q, STR(""), "cached", NULL, 0);
	dns_send(p, from, dns_forwarded(w->out + 2, n, q, room_of(from, q)));
	return true;
}

static struct dns_req *leader_of(const struct dns_req *r, uint64_t hash)
{
	for (struct hnode *n = htab_first(&r->pod->leaders, hash); n != NULL; n = htab_next(n)) {
		struct dns_req *l = container_of(n, struct dns_req, lead);

		/* one that takes less would be told that it was cut */
		if (l->q.payload == r->q.payload && dns_question_same(&l->q, &r->q))
			return l;
	}
	return NULL;
}

/* To a resolver, or behind who has just asked it the same. */
static void ask(struct dns_req *r)
{
	struct dns_pod *p = r->pod;
	uint64_t now = loop_now_ms(p->w->loop), hash;
	struct dns_req *l;

	if (r->from.conn == NULL && dns_question_shared(&r->q)) {
		hash = dns_question_hash(&r->q);
		l = leader_of(r, hash);
		if (l != NULL && now - l->lead_since_ms < JOIN_MS) {
			list_append(&l->followers, &r->follow_node);
			metric_add(M_DNS_CACHE_JOINED, 1);
			return;
		}
		if (l != NULL)
			lead_no_more(l);
		htab_insert(&p->leaders, &r->lead, hash);
		r->leads = true;
		r->lead_since_ms = now;
	}
	forward_start(r);
}

static struct dns_series *series_of(const struct dns_pod *p, const struct dns_from *from,
				    const struct dns_query *q)
{
	return dns_metrics_get(p->w->metrics, dns_type_text(q->type), from->conn != NULL,
			       p->view.wl);
}

static void on_no_workload(struct timer *t)
{
	req_end(container_of(t, struct dns_req, timer), NULL, 0, "the workload is not known");
}

static enum dns_handled handle_query(struct dns_pod *p, const struct dns_from *from,
				     const struct dns_query *q, const uint8_t *msg)
{
	struct dns_series *series = series_of(p, from, q);
	struct dns_req *r;

	dns_metrics_request(series);
	if (q->edns && q->edns_version != 0) {
		reply_rcode(p, from, q, DNS_BADVERS);
		return DNS_ANSWERED;
	}
	if (p->view.wl != NULL && (answer_locally(p, from, q) || answer_from_cache(p, from, q)))
		return DNS_ANSWERED;
	r = req_new(p, from, q, msg, series);
	if (r == NULL) {
		reply_rcode(p, from, q, DNS_SERVFAIL);
		return DNS_ANSWERED;
	}
	if (p->view.wl != NULL)
		ask(r);
	else
		loop_timer_set(p->w->loop, &r->timer, LIMIT_WORKLOAD_WAIT_MS, on_no_workload);
	return DNS_WAITS;
}

enum dns_handled dns_handle(struct dns_pod *p, const struct dns_from *from, const uint8_t *msg,
			    size_t n)
{
	struct dns_query q;

	switch (dns_parse(msg, n, &q)) {
	case DNS_KIND_QUERY:
		return handle_query(p, from, &q, msg);
	case DNS_KIND_RESPONSE:
		/* an answer to an answer, with a forged sender, would never end */
		if (from->conn == NULL)
			return DNS_IGNORED;
		reply_rcode(p, from, &q, DNS_FORMERR);
		return DNS_ANSWERED;
	case DNS_KIND_BROKEN:
		reply_rcode(p, from, &q, DNS_FORMERR);
		return DNS_ANSWERED;
	case DNS_KIND_NOTIMP:
		reply_rcode(p, from, &q, DNS_NOTIMP);
		return DNS_ANSWERED;
	case DNS_KIND_NONE:
		break;
	}
	return DNS_IGNORED;
}

/* ---- sockets ---- */

static void read_datagrams(struct dns_listener *l)
{
	struct dns_pod *p = l->pod;
	struct sockaddr_storage from[DNS_BATCH];
	struct mmsghdr m[DNS_BATCH] = {0};
	struct iovec iov[DNS_BATCH];
	int n;

	for (int i = 0; i < DNS_BATCH; i++) {
		iov[i] = (struct iovec){p->w->in[i], sizeof(p->w->in[i])};
		m[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
					       .msg_namelen = sizeof(from[i]),
					       .msg_iov = &iov[i],
					       .msg_iovlen = 1};
	}
	n = recvmmsg(l->w.fd, m, DNS_BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++) {
		struct dns_from f = {.kind = l->kind, .peer_len = m[i].msg_hdr.msg_namelen};

		memcpy(&f.peer, &from[i], f.peer_len);
		/* one that was cut lacks its end and is broken */
		(void)dns_handle(p, &f, p->w->in[i], m[i].msg_len);
	}
	forward_flush(p);
}

static void listener_watch(struct dns_listener *l);

static void on_pause_over(struct timer *t)
{
	listener_watch(container_of(t, struct dns_listener, pause));
}

static void accept_some(struct dns_listener *l)
{
	struct dns_worker *w = l->pod->w;

	for (int i = 0; i < ACCEPTS; i++) {
		int fd = accept4(l->w.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			tcp_accepted(l->pod, fd);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		/* out of descriptors or memory: they wait in the kernel's queue */
		log_limited(LOG_LV_WARN, DNS_SCOPE, "accept for %s/%s: %s; pausing",
			    l->pod->view.ns, l->pod->view.name, strerror(errno));
		loop_unwatch(w->loop, &l->w);
		loop_timer_set(w->loop, &l->pause, PAUSE_MS, on_pause_over);
		return;
	}
}

static void on_socket(struct watch *watch, uint32_t events)
{
	struct dns_listener *l = container_of(watch, struct dns_listener, w);

	(void)events;
	if (l->kind == MESH_DNS_TCP4 || l->kind == MESH_DNS_TCP6)
		accept_some(l);
	else
		read_datagrams(l);
}

static void listener_watch(struct dns_listener *l)
{
	/* every worker waits on it, one is woken */
	int r = loop_watch(l->pod->w->loop, &l->w, l->pod->sockets->fds[l->kind],
			   EPOLLIN | EPOLLEXCLUSIVE, on_socket);

	if (r == 0)
		return;
	log_limited(LOG_LV_ERROR, DNS_SCOPE, "cannot watch DNS of %s/%s: %s; trying again",
		    l->pod->view.ns, l->pod->view.name, strerror(-r));
	loop_timer_set(l->pod->w->loop, &l->pause, PAUSE_MS, on_pause_over);
}

void dns_pod_sockets(struct dns_pod *p, struct dns_sockets *s)
{
	unlisten(p);
	dns_sockets_unref(p->sockets);
	p->sockets = s;
	for (int i = 0; s != NULL && !p->draining && i < MESH_DNS_N; i++)
		if (s->fds[i] >= 0)
			listener_watch(&p->l[i]);
}

struct dns_pod *dns_pod_new(struct dns_worker *w, const struct dns_view *v, struct dns_sockets *s)
{
	struct dns_pod *p = xcalloc(1, sizeof(*p));

	p->w = w;
	p->view = *v;
	list_init(&p->reqs);
	list_init(&p->to_send);
	list_init(&p->conns);
	list_init(&p->idle);
	htab_init(&p->leaders);
	dns_cache_init(&p->cache, w->cfg->cache_bytes, &w->cached);
	for (int i = 0; i < MESH_DNS_N; i++)
		p->l[i] =
			(struct dns_listener){.pod = p, .kind = (enum mesh_dns)i, .w = {.fd = -1}};
	list_append(&w->pods, &p->node);
	dns_pod_sockets(p, s);
	return p;
}

struct dns_pod *dns_pod_free(struct dns_pod *p)
{
	if (p == NULL)
		return NULL;
	unlisten(p);
	dns_pod_cut(p);
	forward_drop_idle(p);
	loop_timer_cancel(&p->idle_timer);
	forget(p);
	dns_cache_fini(&p->cache);
	htab_fini(&p->leaders);
	dns_sockets_unref(p->sockets);
	list_remove(&p->node);
	free(p);
	return NULL;
}

/* A query that waits for the workload. Anything may happen to the others while one is answered. */
static struct dns_req *first_waiting(struct dns_pod *p)
{
	list_for_each (n, &p->reqs) {
		struct dns_req *r = container_of(n, struct dns_req, node);

		if (r->start_ns == 0 && !list_linked(&r->send_node) &&
		    !list_linked(&r->follow_node))
			return r;
	}
	return NULL;
}

void dns_pod_view(struct dns_pod *p, const struct dns_view *v)
{
	struct dns_conn *c;
	struct dns_req *r;

	p->view = *v;
	if (v->wl == NULL)
		return;
	while ((r = first_waiting(p)) != NULL) {
		c = r->from.conn;
		loop_timer_cancel(&r->timer);
		if (c != NULL)
			c->req = NULL;
		if (answer_locally(p, &r->from, &r->q)) {
			req_cancel(r);
			if (c != NULL)
				tcp_answered(c);
			continue;
		}
		if (c != NULL)
			c->req = r;
		ask(r);
	}
	forward_flush(p);
}

void dns_pod_drain(struct dns_pod *p)
{
	p->draining = true;
	unlisten(p);
	if (p->nreqs == 0)
		give_sockets_back(p);
}

size_t dns_worker_waiting(const struct dns_worker *w)
{
	return w->nreqs;
}

void dns_pod_cut(struct dns_pod *p)
{
	while (!list_empty(&p->conns))
		tcp_close(container_of(p->conns.next, struct dns_conn, node));
	while (!list_empty(&p->reqs))
		req_cancel(container_of(p->reqs.next, struct dns_req, node));
}
