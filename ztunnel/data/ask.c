/* SPDX-License-Identifier: Apache-2.0
 * ask.c: connections that wait for what istiod says about a destination or a peer that the state
 * does not hold (ztunnel-spec 9.6: on-demand mode).
 *
 * One question per key and worker; whoever needs the same waits with it. The control thread ends
 * every wait, with an answer or without, so there is no timer here. A snapshot that comes meanwhile
 * wakes nobody: the answer follows it.
 */
#include <stdlib.h>
#include <string.h>

#include "ztunnel/data/data.h"
#include "ztunnel/mesh/demand.h"
#include "ztunnel/mesh/gateway.h"

struct ask {
	struct hnode h;	     /* worker->asks */
	struct list waiters; /* conns, by park_node */
	size_t n;
	char key[];
};

static struct ask *find(struct worker *w, struct str key)
{
	for (struct hnode *n = htab_first(&w->asks, hash_str(key)); n != NULL; n = htab_next(n)) {
		struct ask *a = container_of(n, struct ask, h);

		if (str_eq((struct str){a->key, a->n}, key))
			return a;
	}
	return NULL;
}

static void drop(struct worker *w, struct ask *a)
{
	htab_remove(&w->asks, &a->h);
	free(a);
}

bool ask_waits(struct conn *c, enum missing what, const struct gateway_ref *ref)
{
	struct worker *w = c->pod->w;
	char key[DEMAND_KEY_MAX];
	struct str k;
	struct ask *a;

	if (!w->cfg->on_demand || what == MISSING_NOTHING || (c->asked & what) != 0)
		return false;
	k = str_of(gateway_text(ref, key, sizeof(key)));
	c->unanswered = k.n + 1 == sizeof(key); /* cut: nobody can be asked */
	c->asked |= (uint8_t)what;
	if (c->unanswered)
		return false;
	a = find(w, k);
	if (a == NULL) {
		a = xcalloc(1, sizeof(*a) + k.n + 1);
		a->n = k.n;
		memcpy(a->key, k.p, k.n);
		list_init(&a->waiters);
		htab_insert(&w->asks, &a->h, hash_str(k));
		worker_ask(w, a->key);
	}
	conn_unpark(c, CS_ASKING);
	list_append(&a->waiters, &c->park_node);
	return true;
}

bool ask_source(struct conn *c, const struct ip_addr *peer)
{
	struct worker *w = c->pod->w;
	struct gateway_ref at = gateway_at(str_of(w->cfg->network), peer);

	return mesh_workload_by_ip(w->mesh, at.addr.network, peer) == NULL &&
	       ask_waits(c, MISSING_SOURCE, &at);
}

void ask_told(struct worker *w, struct str key, bool answered)
{
	struct ask *a = find(w, key);
	struct list waiters;

	if (a == NULL)
		return;
	list_init(&waiters);
	list_splice(&waiters, &a->waiters);
	drop(w, a);
	list_for_each (n, &waiters)
		container_of(n, struct conn, park_node)->unanswered = !answered;
	conns_resume(&waiters);
}

void asks_init(struct worker *w)
{
	htab_init(&w->asks);
}

void asks_fini(struct worker *w)
{
	htab_for_each (n, &w->asks)
		drop(w, container_of(n, struct ask, h));
	htab_fini(&w->asks);
}
