/* SPDX-License-Identifier: Apache-2.0
 * report.c: what workers tell about themselves: open connections for /config_dump, counters.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/format/json.h"
#include "ztunnel/data/data.h"

struct pod_part { /* one pod on one worker: JSON objects, comma-separated */
	struct list node;
	char *uid;
	struct strbuf inbound, outbound;
};
struct dump {
	struct msg m;	     /* to the control loop */
	struct list node;    /* all->dumps */
	struct workers *all; /* NULL: gone before the answer arrived */
	struct loop *control;
	unsigned int n; /* workers */
	atomic_uint left;
	void (*done)(void *ctx, struct strbuf *json);
	void *ctx;
	struct list *parts; /* one list per worker, written by it only */
};
struct dump_msg {
	struct msg m;
	struct worker *w;
	struct dump *d;
};

static void add_conn(struct pod_part *part, const struct conn *c)
{
	bool outbound = c->kind == CONN_OUT;
	struct strbuf *out = outbound ? &part->outbound : &part->inbound;
	const struct conn_info *i = &c->info;
	char buf[IP_PORT_TEXT_MAX];
	struct jsonw w;

	if (!c->opened)
		return;
	if (out->n != 0)
		strbuf_putc(out, ',');
	jsonw_init(&w, out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "src", ip_port_format(&i->src_addr, buf));
	jsonw_cstr(&w, "originalDst", ip_port_format(&i->orig_dst, buf));
	/* of what comes in, as stock: where the application is, not the tunnel's own port */
	jsonw_cstr(&w, "actualDst", ip_port_format(outbound ? &i->dst_addr : &i->orig_dst, buf));
	jsonw_cstr(&w, "protocol", i->via == VIA_HBONE ? "HBONE" : "TCP");
	jsonw_end_obj(&w);
}

static void on_dump(struct loop *l, struct msg *msg)
{
	struct dump_msg *m = container_of(msg, struct dump_msg, m);
	struct worker *w = m->w;
	struct dump *d = m->d;

	(void)l;
	htab_for_each (n, &w->pods) {
		struct pod *p = container_of(n, struct pod, node);
		struct pod_part *part = xcalloc(1, sizeof(*part));

		part->uid = xstrdup(p->sh->uid);
		list_for_each (cn, &p->conns)
			add_conn(part, container_of(cn, struct conn, pod_node));
		list_append(&d->parts[w->index], &part->node);
	}
	free(m);
	/* acq_rel: the control thread reads every worker's list after the last one */
	if (atomic_fetch_sub_explicit(&d->left, 1, memory_order_acq_rel) == 1)
		loop_post(d->control, &d->m);
}

static void collect(const struct dump *d, const char *uid, bool inbound, struct strbuf *out)
{
	strbuf_putc(out, '[');
	for (unsigned int i = 0; i < d->n; i++) {
		list_for_each (n, &d->parts[i]) {
			struct pod_part *part = container_of(n, struct pod_part, node);
			struct strbuf *b = inbound ? &part->inbound : &part->outbound;

			if (b->n == 0 || strcmp(part->uid, uid) != 0)
				continue;
			if (out->p[out->n - 1] != '[')
				strbuf_putc(out, ',');
			strbuf_add(out, b->p, b->n);
		}
	}
	strbuf_putc(out, ']');
}

static void write_pod(const struct dump *d, const struct pod_shared *sh, struct jsonw *w)
{
	_cleanup_strbuf_ struct strbuf in = {0}, out = {0};

	collect(d, sh->uid, true, &in);
	collect(d, sh->uid, false, &out);
	jsonw_obj_k(w, str_of(sh->uid));
	jsonw_cstr(w, "state", "Up");
	jsonw_obj(w, "connections");
	jsonw_raw(w, "inbound", (struct str){in.p, in.n});
	jsonw_raw(w, "outbound", (struct str){out.p, out.n});
	jsonw_end_obj(w);
	jsonw_obj(w, "info");
	jsonw_cstr(w, "name", sh->name);
	jsonw_cstr(w, "namespace", sh->ns);
	jsonw_cstr(w, "serviceAccount", sh->sa);
	jsonw_end_obj(w);
	jsonw_end_obj(w);
}

static void dump_free(struct dump *d)
{
	for (unsigned int i = 0; i < d->n; i++) {
		struct list *n;

		while ((n = list_pop(&d->parts[i])) != NULL) {
			struct pod_part *part = container_of(n, struct pod_part, node);

			free(part->uid);
			strbuf_fini(&part->inbound);
			strbuf_fini(&part->outbound);
			free(part);
		}
	}
	free(d->parts);
	free(d);
}

static void on_all_dumped(struct loop *l, struct msg *msg)
{
	struct dump *d = container_of(msg, struct dump, m);
	_cleanup_strbuf_ struct strbuf json = {0};
	struct jsonw w;

	(void)l;
	jsonw_init(&w, &json, false);
	jsonw_obj(&w, NULL);
	if (d->all != NULL)
		htab_for_each (n, &d->all->pods)
			write_pod(d, container_of(n, struct served_pod, node)->sh, &w);
	jsonw_end_obj(&w);
	list_remove(&d->node);
	d->done(d->ctx, &json);
	dump_free(d);
}

void workers_dump(struct workers *all, void (*done)(void *ctx, struct strbuf *json), void *ctx)
{
	struct dump *d = xcalloc(1, sizeof(*d));

	d->m.fn = on_all_dumped;
	d->all = all;
	d->control = all->control;
	d->n = all->n;
	list_append(&all->dumps, &d->node);
	d->done = done;
	d->ctx = ctx;
	atomic_init(&d->left, all->n);
	d->parts = xcalloc(all->n, sizeof(struct list));
	for (unsigned int i = 0; i < all->n; i++)
		list_init(&d->parts[i]);
	for (unsigned int i = 0; i < all->n; i++) {
		struct dump_msg *m = xcalloc(1, sizeof(*m));

		m->m.fn = on_dump;
		m->w = all->w[i];
		m->d = d;
		loop_post(all->w[i]->loop, &m->m);
	}
}

void dumps_orphan(struct workers *all)
{
	struct list *n;

	while ((n = list_pop(&all->dumps)) != NULL)
		container_of(n, struct dump, node)->all = NULL;
}

struct metrics_worker *const *workers_metrics(struct workers *w, size_t *ret_n)
{
	*ret_n = w->n;
	return w->metrics;
}

unsigned int workers_count(const struct workers *all)
{
	return all->n;
}

uint64_t workers_tls_accepted(const struct workers *all, unsigned int i)
{
	return atomic_load_explicit(&all->w[i]->st.tls_accepted, memory_order_relaxed);
}

void workers_stats(struct workers *all, struct worker_stats *ret)
{
	*ret = (struct worker_stats){0};
	for (unsigned int i = 0; i < all->n; i++) {
		struct worker *w = all->w[i];

		/* relaxed: a rough picture */
		ret->connections += atomic_load_explicit(&w->st.connections, memory_order_relaxed);
		ret->streams += atomic_load_explicit(&w->st.streams, memory_order_relaxed);
		ret->pooled += atomic_load_explicit(&w->st.pooled, memory_order_relaxed);
		ret->tls_accepted +=
			atomic_load_explicit(&w->st.tls_accepted, memory_order_relaxed);
		ret->buffers_bytes += atomic_load_explicit(&w->st.buffers, memory_order_relaxed);
		ret->undelivered_bytes +=
			atomic_load_explicit(&w->st.undelivered, memory_order_relaxed);
		ret->parked += atomic_load_explicit(&w->st.parked, memory_order_relaxed);
	}
}
