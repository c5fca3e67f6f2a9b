/* SPDX-License-Identifier: Apache-2.0
 * worker.c: the worker threads, and the messages the control thread sends them.
 *
 * Control calls post one message per worker; each carries its own references, so nothing is shared
 * but reference-counted objects. A worker that stops cuts its connections and frees everything in
 * its own thread; messages that come too late only give their references back.
 */
#include "ztunnel/data/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"
#include "ztunnel/dns/resolv_conf.h"

struct pod_msg { /* add, delete, identity, assumption */
	struct msg m;
	struct worker *w;
	struct pod_shared *sh;
	struct dns_sockets *dns;
	struct tls_identity *id;
	struct workload *wl;
	char *uid;
};
struct mesh_msg {
	struct msg m;
	struct worker *w;
	struct mesh *mesh;
};
struct crl_msg {
	struct msg m;
	struct worker *w;
	struct tls_crl *crl;
};
struct resolvers_msg {
	struct msg m;
	struct worker *w;
	struct resolv_conf conf;
};
struct drain {
	struct msg m; /* to the control loop */
	atomic_uint left;
	atomic_bool cancelled;
	struct loop *control;
	void (*done)(void *ctx);
	void *ctx;
};
struct drain_msg {
	struct msg m;
	struct worker *w;
	struct drain *d;
	uint64_t deadline_ms;
};

/* ---- worker side ---- */

static void pod_msg_free(struct pod_msg *m)
{
	pod_shared_unref(m->sh);
	dns_sockets_unref(m->dns);
	tls_identity_unref(m->id);
	workload_unref(m->wl);
	free(m->uid);
	free(m);
}

static void on_pod_add(struct loop *l, struct msg *msg)
{
	struct pod_msg *m = container_of(msg, struct pod_msg, m);
	struct worker *w = m->w;
	struct pod *p = w->stopping ? NULL : pod_find(w, m->sh->uid);

	(void)l;
	if (p != NULL && netns_id_eq(p->sh->netns, m->sh->netns)) {
		pod_replace_shared(p, take_ptr(m->sh), take_ptr(m->dns));
		if (m->id != NULL)
			pod_set_identity(p, m->id);
	} else if (!w->stopping) {
		if (p != NULL)
			pod_remove(p); /* same pod, new namespace: nothing of the old one is left */
		(void)pod_new(w, take_ptr(m->sh), take_ptr(m->dns), m->id);
	}
	pod_msg_free(m);
}

static void on_pod_del(struct loop *l, struct msg *msg)
{
	struct pod_msg *m = container_of(msg, struct pod_msg, m);
	struct pod *p = pod_find(m->w, m->uid);

	(void)l;
	if (p != NULL)
		pod_remove(p);
	pod_msg_free(m);
}

static void on_identity(struct loop *l, struct msg *msg)
{
	struct pod_msg *m = container_of(msg, struct pod_msg, m);
	struct pod *p = pod_find(m->w, m->uid);

	(void)l;
	if (p != NULL)
		pod_set_identity(p, m->id);
	pod_msg_free(m);
}

static void on_assume(struct loop *l, struct msg *msg)
{
	struct pod_msg *m = container_of(msg, struct pod_msg, m);
	struct pod *p = pod_find(m->w, m->uid);

	(void)l;
	if (p != NULL)
		pod_assume(p, m->wl);
	pod_msg_free(m);
}

struct wanted_msg { /* to the control loop */
	struct msg m;
	struct wanted_hub *hub;
	enum wish wish;
	char text[];
};

static void hub_unref(struct wanted_hub *h)
{
	if (atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1)
		free(h);
}

static void on_wanted(struct loop *l, struct msg *msg)
{
	struct wanted_msg *m = container_of(msg, struct wanted_msg, m);

	(void)l;
	if (m->hub->on[m->wish].fn != NULL)
		m->hub->on[m->wish].fn(m->hub->on[m->wish].ctx, m->text);
	hub_unref(m->hub);
	free(m);
}

static void post_wanted(struct workers *all, enum wish wish, const char *text)
{
	size_t n = strlen(text) + 1;
	struct wanted_msg *m = xcalloc(1, sizeof(*m) + n);

	memcpy(m->text, text, n);
	m->wish = wish;
	m->m.fn = on_wanted;
	m->hub = all->wanted;
	atomic_fetch_add_explicit(&m->hub->refs, 1, memory_order_relaxed);
	loop_post(all->control, &m->m);
}

void worker_want_identity(struct pod *p)
{
	if (p->wanted)
		return;
	p->wanted = true;
	post_wanted(p->w->all, WISH_IDENTITY, p->sh->uid);
}

void worker_ask(struct worker *w, const char *key)
{
	post_wanted(w->all, WISH_ASK, key);
}

struct told_msg {
	struct msg m;
	struct worker *w;
	bool answered;
	size_t n;
	char key[];
};

static void on_told(struct loop *l, struct msg *msg)
{
	struct told_msg *m = container_of(msg, struct told_msg, m);

	(void)l;
	if (!m->w->stopping)
		ask_told(m->w, (struct str){m->key, m->n}, m->answered);
	free(m);
}

static void on_publish(struct loop *l, struct msg *msg)
{
	struct mesh_msg *m = container_of(msg, struct mesh_msg, m);
	struct worker *w = m->w;
	struct mesh *old = w->mesh;

	(void)l;
	w->mesh = m->mesh;
	htab_for_each (n, &w->pods)
		pod_refresh(container_of(n, struct pod, node));
	mesh_unref(old);
	free(m);
}

static void on_crl(struct loop *l, struct msg *msg)
{
	struct crl_msg *m = container_of(msg, struct crl_msg, m);
	struct worker *w = m->w;

	(void)l;
	tls_crl_unref(w->crl);
	w->crl = m->crl;
	htab_for_each (n, &w->pods)
		hsess_crl(container_of(n, struct pod, node));
	free(m);
}

static void on_resolvers(struct loop *l, struct msg *msg)
{
	struct resolvers_msg *m = container_of(msg, struct resolvers_msg, m);

	(void)l;
	if (m->w->dns != NULL)
		dns_worker_resolvers(m->w->dns, &m->conf);
	free(m);
}

static void on_dns_idle(void *ctx)
{
	turn_check_drained(ctx);
}

static void on_drain_deadline(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, drain_timer);

	htab_for_each (n, &w->pods) {
		struct pod *p = container_of(n, struct pod, node);

		pod_cut(p, "connection closed due to connection drain");
		if (p->dns != NULL)
			dns_pod_cut(p->dns);
	}
	turn_check_drained(w);
}

static void on_drain(struct loop *l, struct msg *msg)
{
	struct drain_msg *m = container_of(msg, struct drain_msg, m);
	struct worker *w = m->w;

	w->draining = true;
	w->drain_msg = msg;
	loop_timer_set(l, &w->drain_timer, m->deadline_ms, on_drain_deadline);
	htab_for_each (n, &w->pods) {
		struct pod *p = container_of(n, struct pod, node);

		pod_listen(p, false);
		if (p->dns != NULL)
			dns_pod_drain(p->dns);
		list_for_each_safe (sn, &p->sessions)
			hsess_goaway(container_of(sn, struct hsess, pod_node));
	}
	turn_check_drained(w);
}

static void on_all_drained(struct loop *l, struct msg *msg)
{
	struct drain *d = container_of(msg, struct drain, m);

	(void)l;
	d->done(d->ctx);
	free(d);
}

static void drain_left(struct drain *d)
{
	/* acq_rel: the last one sees `cancelled` of the others */
	if (atomic_fetch_sub_explicit(&d->left, 1, memory_order_acq_rel) != 1)
		return;
	if (atomic_load_explicit(&d->cancelled, memory_order_relaxed))
		free(d);
	else
		loop_post(d->control, &d->m);
}

void worker_drained(struct worker *w, struct msg *msg)
{
	struct drain_msg *m = container_of(msg, struct drain_msg, m);

	(void)w;
	drain_left(m->d);
	free(m);
}

static void give_up_drain(struct worker *w)
{
	struct drain_msg *m;

	if (w->drain_msg == NULL)
		return;
	m = container_of(take_ptr(w->drain_msg), struct drain_msg, m);
	/* relaxed: ordered by the counter */
	atomic_store_explicit(&m->d->cancelled, true, memory_order_relaxed);
	drain_left(m->d);
	free(m);
}

/* In the worker's thread: its connections end, their records are written. */
static void worker_stop(struct worker *w)
{
	w->stopping = true;
	give_up_drain(w);
	htab_for_each (n, &w->pods)
		pod_remove(container_of(n, struct pod, node));
	names_fini(w);
	asks_fini(w);
	late_resets_now(w);
	loop_timer_cancel(&w->drain_timer);
	loop_ready_cancel(&w->turn);
}

/* After the thread is gone: until then the control thread may still wake its loop. */
static void worker_free(struct worker *w)
{
	loop_free(w->loop);
	pipes_free(w);
	w->dns = dns_worker_free(w->dns);
	htab_fini(&w->pods);
	mesh_unref(w->mesh);
	tls_crl_unref(w->crl);
	free(w->rx);
	free(w->plain);
	free(w->stage.p);
	free(w->ct.p);
	free(w);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	char name[16];

	(void)snprintf(name, sizeof(name), "ztunnel-%u", w->index);
	(void)pthread_setname_np(pthread_self(), name);
	access_log_adopt_thread(w->log);
	loop_run(w->loop);
	worker_stop(w);
	return NULL;
}

/* ---- control side ---- */

static struct worker *worker_new(struct workers *all, unsigned int index, struct access_log *log,
				 struct mesh *mesh)
{
	struct worker *w = xcalloc(1, sizeof(*w));

	w->all = all;
	w->index = index;
	w->cfg = &all->cfg;
	w->loop = loop_new();
	w->mesh = mesh_ref(mesh);
	w->metrics = all->metrics[index];
	w->log = access_log_worker(log, index);
	if (w->cfg->dns.enabled)
		w->dns = dns_worker_new(w->loop, &w->cfg->dns, w->metrics, on_dns_idle, w);
	htab_init(&w->pods);
	names_init(w);
	asks_init(w);
	list_init(&w->dirty);
	list_init(&w->dial_pods);
	list_init(&w->touched);
	list_init(&w->backlogged);
	list_init(&w->late_resets);
	list_init(&w->handshakes);
	list_init(&w->idle);
	list_init(&w->pipes);
	w->turn.fn = turn_run;
	w->rx = xmalloc(RX_BYTES);
	w->plain = xmalloc(PLAIN_BYTES);
	w->stage = (struct h2_out){.p = xmalloc(STAGE_BYTES), .cap = STAGE_BYTES};
	w->ct = (struct tls_out){.p = xmalloc(TLS_OUT_CAP(STAGE_BYTES)),
				 .cap = TLS_OUT_CAP(STAGE_BYTES)};
	return w;
}

/* Signals belong to the control thread. */
static int thread_start(struct worker *w)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, NULL, worker_main, w);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

struct workers *workers_start(const struct worker_config *cfg, struct loop *control,
			      struct access_log *log, struct mesh *initial, struct err *err)
{
	struct workers *all = xcalloc(1, sizeof(*all));

	all->cfg = *cfg;
	all->cfg.network = xstrdup(cfg->network != NULL ? cfg->network : "");
	all->cfg.trust_domain = xstrdup(cfg->trust_domain != NULL ? cfg->trust_domain : "");
	all->cfg.dns.cluster_domain = xstrdup(cfg->dns.enabled ? cfg->dns.cluster_domain : "");
	all->cfg.dns.prefered_ns = xstrdup(cfg->dns.enabled ? cfg->dns.prefered_ns : "");
	all->control = control;
	all->wanted = xcalloc(1, sizeof(*all->wanted));
	atomic_init(&all->wanted->refs, 1);
	htab_init(&all->pods);
	list_init(&all->dumps);
	all->w = xcalloc(cfg->nworkers, sizeof(struct worker *));
	all->metrics = xcalloc(cfg->nworkers, sizeof(struct metrics_worker *));
	for (unsigned int i = 0; i < cfg->nworkers; i++) {
		int r;

		all->metrics[i] = metrics_worker_new();
		all->w[i] = worker_new(all, i, log, initial);
		all->n = i + 1;
		r = thread_start(all->w[i]);
		if (r < 0) {
			worker_free(all->w[i]);
			metrics_worker_free(all->metrics[i]);
			all->n = i;
			(void)err_errno(err, -r, "start worker thread %u", i);
			return workers_free(all);
		}
	}
	return all;
}

struct workers *workers_free(struct workers *all)
{
	if (all == NULL)
		return NULL;
	for (unsigned int i = 0; i < all->n; i++)
		loop_stop_async(all->w[i]->loop);
	for (unsigned int i = 0; i < all->n; i++)
		bug_on(pthread_join(all->w[i]->thread, NULL) != 0);
	for (unsigned int i = 0; i < all->n; i++) { /* until now they posted to each other */
		worker_free(all->w[i]);
		metrics_worker_free(all->metrics[i]);
	}
	for (int i = 0; i < WISH_N; i++)
		all->wanted->on[i].fn = NULL;
	hub_unref(all->wanted);
	dumps_orphan(all); /* the last workers may just have finished one */
	htab_for_each (n, &all->pods) {
		struct served_pod *p = container_of(n, struct served_pod, node);

		pod_shared_unref(p->sh);
		free(p);
	}
	htab_fini(&all->pods);
	free(all->w);
	free(all->metrics);
	free(all->cfg.network);
	free(all->cfg.trust_domain);
	free(all->cfg.dns.cluster_domain);
	free(all->cfg.dns.prefered_ns);
	free(all);
	return NULL;
}

struct served_pod *served_find(struct workers *w, const char *uid)
{
	uint64_t hash = hash_str(str_of(uid));

	for (struct hnode *n = htab_first(&w->pods, hash); n != NULL; n = htab_next(n)) {
		struct served_pod *p = container_of(n, struct served_pod, node);

		if (strcmp(p->sh->uid, uid) == 0)
			return p;
	}
	return NULL;
}

static void post_pod(struct workers *all, void (*fn)(struct loop *, struct msg *),
		     struct pod_shared *sh, struct dns_sockets *dns, const char *uid,
		     struct tls_identity *id)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct pod_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = fn;
		m->w = all->w[i];
		m->id = tls_identity_ref(id);
		m->dns = dns_sockets_ref(dns);
		if (uid != NULL)
			m->uid = xstrdup(uid);
		if (sh != NULL) {
			atomic_fetch_add_explicit(&sh->refs, 1, memory_order_relaxed);
			m->sh = sh;
		}
		loop_post(all->w[i]->loop, &m->m);
	}
}

int workers_pod_add(struct workers *w, const struct worker_pod_info *info, int netns_fd,
		    int listeners[MESH_L_N], struct dns_sockets *dns, bool dns_given,
		    struct tls_identity *id, struct err *err)
{
	struct pod_shared *sh = xcalloc(1, sizeof(*sh));
	struct served_pod *p = served_find(w, info->uid);

	atomic_init(&sh->refs, 1);
	atomic_init(&sh->turn, (unsigned int)hash_str(str_of(info->uid))); /* pods begin anywhere */
	sh->uid = xstrdup(info->uid);
	sh->name = xstrdup(info->name);
	sh->ns = xstrdup(info->ns);
	sh->sa = xstrdup(info->sa);
	sh->netns_fd = netns_fd;
	memcpy(sh->listeners, listeners, sizeof(sh->listeners));
	sh->dns = dns_given ? dns_sockets_ref(dns) : NULL;
	if (netns_id_of(netns_fd, &sh->netns) < 0) {
		pod_shared_unref(sh);
		return err_set(err, EBADF, "pod %s: bad network namespace descriptor", info->uid);
	}
	if (p == NULL) {
		p = xcalloc(1, sizeof(*p));
		htab_insert(&w->pods, &p->node, hash_str(str_of(info->uid)));
	} else {
		pod_shared_unref(p->sh);
	}
	p->sh = sh;
	post_pod(w, on_pod_add, sh, dns, NULL, id);
	return 0;
}

void workers_pod_del(struct workers *w, const char *uid)
{
	struct served_pod *p = served_find(w, uid);

	if (p == NULL)
		return;
	post_pod(w, on_pod_del, NULL, NULL, uid, NULL);
	htab_remove(&w->pods, &p->node);
	pod_shared_unref(p->sh);
	free(p);
}

void workers_pod_identity(struct workers *w, const char *uid, struct tls_identity *id)
{
	post_pod(w, on_identity, NULL, NULL, uid, id);
}

void workers_pod_assume(struct workers *all, const char *uid, struct workload *wl)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct pod_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_assume;
		m->w = all->w[i];
		m->wl = workload_ref(wl);
		m->uid = xstrdup(uid);
		loop_post(all->w[i]->loop, &m->m);
	}
}

void workers_on_wanted(struct workers *w, void (*fn)(void *, const char *), void *ctx)
{
	w->wanted->on[WISH_IDENTITY].fn = fn;
	w->wanted->on[WISH_IDENTITY].ctx = ctx;
}

void workers_on_ask(struct workers *w, void (*fn)(void *, const char *), void *ctx)
{
	w->wanted->on[WISH_ASK].fn = fn;
	w->wanted->on[WISH_ASK].ctx = ctx;
}

void workers_told(struct workers *all, struct str key, bool answered)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct told_msg *m = xcalloc(1, sizeof(*m) + key.n);

		m->m.fn = on_told;
		m->w = all->w[i];
		m->answered = answered;
		m->n = key.n;
		memcpy(m->key, key.p, key.n);
		loop_post(all->w[i]->loop, &m->m);
	}
}

void workers_publish(struct workers *all, struct mesh *mesh)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct mesh_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_publish;
		m->w = all->w[i];
		m->mesh = mesh_ref(mesh);
		loop_post(all->w[i]->loop, &m->m);
	}
}

void workers_crl(struct workers *all, struct tls_crl *crl)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct crl_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_crl;
		m->w = all->w[i];
		m->crl = tls_crl_ref(crl);
		loop_post(all->w[i]->loop, &m->m);
	}
}

void workers_resolvers(struct workers *all, const struct resolv_conf *c)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct resolvers_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_resolvers;
		m->w = all->w[i];
		m->conf = *c;
		loop_post(all->w[i]->loop, &m->m);
	}
}

bool workers_pod_fds(struct workers *w, const char *uid, int *ret_netns,
		     int ret_listeners[MESH_L_N], int ret_dns[MESH_DNS_N])
{
	struct served_pod *p = served_find(w, uid);

	if (p == NULL)
		return false;
	*ret_netns = p->sh->netns_fd;
	memcpy(ret_listeners, p->sh->listeners, sizeof(p->sh->listeners));
	for (int i = 0; i < MESH_DNS_N; i++)
		ret_dns[i] = p->sh->dns != NULL ? p->sh->dns->fds[i] : -1;
	return true;
}

void workers_drain(struct workers *all, uint64_t deadline_ms, void (*done)(void *ctx), void *ctx)
{
	struct drain *d = xcalloc(1, sizeof(*d));

	atomic_store(&all->draining, true);
	atomic_init(&d->left, all->n);
	d->m.fn = on_all_drained;
	d->control = all->control;
	d->done = done;
	d->ctx = ctx;
	for (unsigned int i = 0; i < all->n; i++) {
		struct drain_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_drain;
		m->w = all->w[i];
		m->d = d;
		m->deadline_ms = deadline_ms;
		loop_post(all->w[i]->loop, &m->m);
	}
}
