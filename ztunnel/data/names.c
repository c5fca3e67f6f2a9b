/* SPDX-License-Identifier: Apache-2.0
 * names.c: addresses of workloads that have a hostname only (ztunnel-spec 4.6, step 4).
 *
 * The names are those of the mesh state; they are looked up as ztunnel itself would, in its own
 * namespace and with its own resolv.conf, not as the pod would. One look-up per name and worker;
 * whoever asks meanwhile waits for it, LIMIT_LOOKUP_MS at most. What is found holds as long as its
 * records say, within bounds (addresses.h); while the resolvers are away, what they said last
 * stands for some minutes, and nobody waits for them. Who waited decides again, with the number it
 * drew before, and so finds the same name with its addresses.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/wire/resolve.h"
#include "ztunnel/data/data.h"
#include "ztunnel/dns/addresses.h"
#include "ztunnel/dns/lookup.h"

#define AT_ONCE	     4 /* look-ups of one worker */
#define TRY_AGAIN_MS 200

struct name {
	struct hnode h;	  /* worker->names.table */
	struct list used; /* worker->names.all, the one that was asked for longest ago first */
	struct list wait; /* worker->names.queue, while it has no turn yet */
	struct worker *w;
	struct resolve *lookup; /* on its way */
	struct list waiters;	/* conns, by park_node */
	struct known known;	/* about what follows */
	struct ip_addr addr[RESOLVE_ADDRS_MAX];
	size_t n;
	char why[128]; /* n == 0 */
	char host[];
};

static struct name *find(struct worker *w, const char *host, uint64_t hash)
{
	for (struct hnode *n = htab_first(&w->names.table, hash); n != NULL; n = htab_next(n)) {
		struct name *e = container_of(n, struct name, h);

		if (strcmp(e->host, host) == 0)
			return e;
	}
	return NULL;
}

static void drop(struct name *e)
{
	struct worker *w = e->w;

	e->lookup = resolve_cancel(e->lookup);
	if (list_linked(&e->wait))
		list_remove(&e->wait);
	list_remove(&e->used);
	htab_remove(&w->names.table, &e->h);
	free(e);
}

static bool is_idle(const struct name *e)
{
	return e->lookup == NULL && !list_linked(&e->wait) && list_empty(&e->waiters);
}

static void make_room(struct worker *w)
{
	list_for_each_safe (n, &w->names.all) {
		if (w->names.table.count < LIMIT_NAMES)
			return;
		if (is_idle(container_of(n, struct name, used)))
			drop(container_of(n, struct name, used));
	}
}

static struct name *get(struct worker *w, const char *host)
{
	uint64_t hash = hash_str(str_of(host));
	struct name *e = find(w, host, hash);
	size_t n = strlen(host) + 1;

	if (e != NULL) {
		list_remove(&e->used);
		list_append(&w->names.all, &e->used);
		return e;
	}
	make_room(w);
	e = xcalloc(1, sizeof(*e) + n);
	e->w = w;
	memcpy(e->host, host, n);
	list_init(&e->waiters);
	list_append(&w->names.all, &e->used);
	htab_insert(&w->names.table, &e->h, hash);
	return e;
}

static void start_next(struct worker *w);

/* The answer is in the entry: everybody goes on. */
static void answered(struct name *e)
{
	struct list all, *n;

	list_init(&all);
	list_splice(&all, &e->waiters);
	while ((n = list_pop(&all)) != NULL) {
		struct conn *c = container_of(n, struct conn, park_node);

		loop_timer_cancel(&c->timer);
		outbound_go(c); /* it is not counted again while it says CS_LOOKUP */
	}
}

static void on_answer(void *ctx, const struct resolve_answer *a)
{
	struct name *e = ctx;
	struct worker *w = e->w;

	e->lookup = NULL;
	w->names.nlookups--;
	if (known_update(&e->known,
			 a->n != 0 ? LOOKED_UP_FOUND
			 : a->none ? LOOKED_UP_NONE
				   : LOOKED_UP_FAILED,
			 a->ttl_s, e->n != 0, loop_now_ms(w->loop))) {
		e->n = a->n;
		memcpy(e->addr, a->addr, a->n * sizeof(a->addr[0]));
		(void)snprintf(e->why, sizeof(e->why), "%s", a->n == 0 ? a->why : "");
	} else {
		log_limited(LOG_LV_WARN, "proxy", "%s: %s; its last addresses stand",
			    str_shown(str_of(e->host)), a->why);
	}
	answered(e);
	start_next(w);
}

static void on_again(struct timer *t)
{
	start_next(container_of(t, struct worker, names.again));
}

static void start_next(struct worker *w)
{
	while (!list_empty(&w->names.queue) && w->names.nlookups < AT_ONCE) {
		struct name *e = container_of(w->names.queue.next, struct name, wait);

		e->lookup = resolve_start(w->loop, e->host, lookup_addresses, on_answer, e, NULL);
		if (e->lookup == NULL) { /* other workers have taken all that may run */
			loop_timer_set(w->loop, &w->names.again, TRY_AGAIN_MS, on_again);
			return;
		}
		w->names.nlookups++;
		list_remove(&e->wait);
	}
}

static void on_late(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	conn_end(c, END_RESET, FLAG_CONNECT,
		 "no ip addresses were resolved for workload: no answer in time");
}

enum names_res names_get(struct conn *c, const char *host, const struct ip_addr **ret,
			 size_t *ret_n, const char **ret_why)
{
	struct worker *w = c->pod->w;
	struct name *e = get(w, host);
	bool usable, again;

	metric_add(M_ON_DEMAND_DNS, c->state != CS_LOOKUP); /* once for each connection */
	usable = known_usable(&e->known, loop_now_ms(w->loop), &again);
	if (again && e->lookup == NULL && !list_linked(&e->wait)) {
		list_append(&w->names.queue, &e->wait);
		start_next(w);
	}
	if (usable) {
		*ret = e->addr;
		*ret_n = e->n;
		*ret_why = e->why;
		return e->n != 0 ? NAMES_FOUND : NAMES_NONE;
	}
	conn_unpark(c, CS_LOOKUP);
	list_append(&e->waiters, &c->park_node);
	loop_timer_set(w->loop, &c->timer, LIMIT_LOOKUP_MS, on_late);
	return NAMES_WAIT;
}

void names_init(struct worker *w)
{
	htab_init(&w->names.table);
	list_init(&w->names.all);
	list_init(&w->names.queue);
}

void names_fini(struct worker *w)
{
	loop_timer_cancel(&w->names.again);
	while (!list_empty(&w->names.all))
		drop(container_of(w->names.all.next, struct name, used));
	htab_fini(&w->names.table);
}
