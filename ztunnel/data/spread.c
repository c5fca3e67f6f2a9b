/* SPDX-License-Identifier: Apache-2.0
 * spread.c: the HBONE connections of a pod take turns over the workers.
 *
 * Theory of operation. All workers wait on the same listening socket, and whoever is woken accepts
 * what is there. A peer node opens its few connections to a pod at about the same time, so one
 * worker used to get them all, and then carried all their bytes for hours, alone. So the one that
 * accepts hands the socket to the worker whose turn it is. Once per HBONE connection, which carries
 * many others, a message costs nothing.
 *
 * Nothing is handed to a worker that does not listen for the pod yet, nor to one that has as many
 * coming as one turn accepts: a flood belongs in the kernel's queue, not in a mailbox. And nothing
 * when workers drain: one that has said that it is done must not get another. `coming` and
 * `draining` are read and written in one order by all (seq_cst): either we see that they drain, or
 * the worker sees that something is coming and is not done before it has come.
 */
#include <stdlib.h>

#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

struct handed {
	struct msg m;
	struct worker *w; /* to whom */
	struct pod_shared *sh;
	struct ip_port peer;
	int fd; /* owned; -1: nothing has come after all */
};

static void serve(const struct handed *m)
{
	struct worker *w = m->w;
	struct pod *p = w->stopping ? NULL : pod_find(w, m->sh->uid);
	struct hsess *s;

	if (p == NULL || !netns_id_eq(p->sh->netns, m->sh->netns)) { /* cut, as pod_remove() does */
		(void)xclose(m->fd);
		return;
	}
	s = inbound_serve(p, m->fd, &m->peer);
	if (s != NULL && w->draining)
		hsess_goaway(s);
}

static void on_handed(struct loop *l, struct msg *msg)
{
	struct handed *m = container_of(msg, struct handed, m);
	struct worker *w = m->w;

	(void)l;
	if (m->fd >= 0)
		serve(m);
	pod_shared_unref(m->sh);
	free(m);
	atomic_fetch_sub(&w->coming, 1);
	turn_check_drained(w);
}

static bool hand_over(struct pod *p, struct worker *to, int fd, const struct ip_port *peer)
{
	struct handed *m;
	bool late;

	if (atomic_load(&to->all->draining) || atomic_load(&to->coming) >= ACCEPTS)
		return false;
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return false;
	atomic_fetch_add(&to->coming, 1);
	late = atomic_load(&to->all->draining);
	atomic_fetch_add_explicit(&p->sh->refs, 1, memory_order_relaxed);
	*m = (struct handed){
		.m.fn = on_handed, .w = to, .sh = p->sh, .peer = *peer, .fd = late ? -1 : fd};
	/* when it is late, too: the worker may already wait for what is coming */
	loop_post(to->loop, &m->m);
	return !late;
}

void inbound_accepted(struct pod *p, int fd, const struct ip_port *peer)
{
	struct workers *all = p->w->all;
	/* relaxed: any order of turns will do; a worker that counts itself has the pod in its
	 * table, and what is posted to it comes behind that */
	unsigned int turn = atomic_fetch_add_explicit(&p->sh->turn, 1, memory_order_relaxed);
	struct worker *to = all->w[turn % all->cfg.nworkers];

	if (to == p->w ||
	    atomic_load_explicit(&p->sh->listening, memory_order_relaxed) < all->cfg.nworkers ||
	    !hand_over(p, to, fd, peer))
		(void)inbound_serve(p, fd, peer);
}
