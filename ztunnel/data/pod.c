/* SPDX-License-Identifier: Apache-2.0
 * pod.c: a served pod on one worker: its workload and certificate, its end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

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
	dns_sockets_unref(sh->dns);
	(void)xclose(sh->netns_fd);
	free(sh->uid);
	free(sh->name);
	free(sh->ns);
	free(sh->sa);
	free(sh);
}

/* ---- life ---- */

static struct dns_view dns_view(const struct pod *p)
{
	return (struct dns_view){.netns_fd = p->sh->netns_fd,
				 .ns = p->sh->ns,
				 .name = p->sh->name,
				 .mesh = p->w->mesh,
				 .wl = pod_source(p)};
}

static void tell_dns(struct pod *p)
{
	struct dns_view view = dns_view(p);

	if (p->dns != NULL)
		dns_pod_view(p->dns, &view);
}

struct pod *pod_new(struct worker *w, struct pod_shared *sh, struct dns_sockets *dns,
		    struct tls_identity *id)
{
	struct dns_view view;
	struct pod *p = xcalloc(1, sizeof(*p));

	p->magic = POD_MAGIC;
	p->w = w;
	p->sh = sh;
	p->id = tls_identity_ref(id);
	p->home = uid_hash(sh->uid) % w->cfg->nworkers == w->index;
	p->next_port = (uint32_t)(rand_u64() % 20000);
	list_init(&p->conns);
	list_init(&p->sessions);
	list_init(&p->parked);
	list_init(&p->dials);
	list_init(&p->retired);
	htab_init(&p->pool);
	htab_init(&p->idle_peers);
	htab_insert(&w->pods, &p->node, uid_hash(sh->uid));
	pod_refresh(p);
	pod_listen(p, true);
	view = dns_view(p);
	if (w->dns != NULL)
		p->dns = dns_pod_new(w->dns, &view, dns);
	else
		dns_sockets_unref(dns);
	if (p->dns != NULL && w->draining)
		dns_pod_drain(p->dns);
	return p;
}

static void pod_free(struct deferred *d)
{
	struct pod *p = container_of(d, struct pod, defer);

	htab_fini(&p->pool);
	htab_fini(&p->idle_peers);
	strbuf_fini(&p->baggage);
	workload_unref(p->wl);
	workload_unref(p->assumed);
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
	p->dns = dns_pod_free(p->dns);
	pod_listen(p, false);
	listeners_drop_retired(p);
	pod_cut(p, "connection closed due to connection drain");
	late_resets_soon(p);
	list_remove(&p->dial_node);
	htab_remove(&p->w->pods, &p->node);
	loop_defer(p->w->loop, &p->defer, pod_free);
}

void pod_replace_shared(struct pod *p, struct pod_shared *sh, struct dns_sockets *dns)
{
	listeners_retire(p, sh); /* the table's key does not change: same uid */
	pod_refresh(p);
	if (dns != NULL && p->dns != NULL)
		dns_pod_sockets(p->dns, dns);
	else
		dns_sockets_unref(dns);
	pod_listen(p, true);
}

/* ---- workload and certificate ---- */

static void make_baggage(struct pod *p)
{
	p->baggage.n = 0;
	if (pod_source(p) != NULL)
		baggage_format(pod_source(p), &p->baggage);
}

void pod_refresh(struct pod *p)
{
	struct workload *wl = mesh_local_workload(p->w->mesh, str_of(p->sh->name),
						  str_of(p->sh->ns), str_of(p->sh->sa));

	workload_ref(wl);
	workload_unref(p->wl);
	p->wl = wl;
	if (wl != NULL) {
		workload_unref(p->assumed);
		p->assumed = NULL;
	}
	make_baggage(p);
	tell_dns(p);
	list_for_each_safe (n, &p->conns)
		conn_recheck(container_of(n, struct conn, pod_node));
	conns_resume(&p->parked);
}

struct workload *pod_source(const struct pod *p)
{
	return p->wl != NULL ? p->wl : p->assumed;
}

void pod_assume(struct pod *p, struct workload *wl)
{
	if (p->wl != NULL)
		wl = NULL; /* it has come meanwhile */
	workload_ref(wl);
	workload_unref(p->assumed);
	p->assumed = wl;
	make_baggage(p);
	tell_dns(p);
	conns_resume(&p->parked);
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
	p->wanted = false;
	pool_retire(p);
	list_for_each_safe (n, &p->sessions) {
		struct hsess *s = container_of(n, struct hsess, pod_node);

		if (s->state == HS_PARKED && id != NULL)
			hsess_start_server(s);
		else if (s->server && s->state == HS_OPEN && another)
			hsess_goaway(s);
	}
	conns_resume(&p->parked);
}
