/* SPDX-License-Identifier: Apache-2.0
 * plain.c: plain TCP that arrives at a pod (15006): authorization without an identity, then relay.
 * Source: ztunnel-spec 6.
 */
#include <errno.h>

#include "ztunnel/data/data.h"

static void on_dialled(struct dial *d, int error)
{
	struct conn *c = d->owner;
	char buf[128];

	dial_free(d);
	if (error == 0) {
		relay_start(c);
		return;
	}
	io_error_text(buf, sizeof(buf), "connection failed", error);
	conn_end(c, END_RESET, FLAG_CONNECT, buf);
}

void plain_go(struct conn *c)
{
	struct pod *p = c->pod;
	struct worker *w = p->w;
	struct conn_info *i = &c->info;
	struct ip_port src = {0};
	char why[192];

	if (p->wl == NULL) {
		conn_park(c);
		return;
	}
	if (ask_source(c, &i->src_addr.ip))
		return;
	conn_unpark(c, CS_DIALING);
	i->src = workload_ref(
		mesh_workload_by_ip(w->mesh, str_of(w->cfg->network), &i->src_addr.ip));
	i->dst = workload_ref(p->wl);
	i->dst_addr = i->orig_dst;
	i->service = service_ref(
		decide_service_label(w->mesh, p->wl, (struct str){0}, i->orig_dst.port));
	conn_opened(c);
	if (!conn_allowed(c, why, sizeof(why))) {
		conn_end(c, END_RESET, FLAG_DENY, why);
		return;
	}
	if (w->cfg->orig_src != 0)
		src.ip = i->src_addr.ip; /* not the port: dial.c */
	if (dial_start(p, &c->r.up, &i->orig_dst, &src, on_dialled, c) == NULL)
		conn_end(c, END_RESET, FLAG_CONNECT, "out of memory");
}

void plain_accepted(struct pod *p, int fd, const struct ip_port *peer)
{
	struct conn *c = conn_new(p, CONN_IN_PLAIN);

	if (c == NULL) {
		struct leg l = {.w = {.fd = fd}};

		leg_reset(p, &l);
		return;
	}
	c->app.w.fd = fd;
	c->info.src_addr = *peer;
	if (sock_original_dst(fd, &c->info.orig_dst) < 0)
		conn_end(c, END_RESET, FLAG_NONE, "io error: no original destination");
	else if (decide_port_is_ours(c->info.orig_dst.port))
		conn_end(c, END_RESET, FLAG_NONE, "attempted recursive call to ourselves");
	else
		plain_go(c);
}
