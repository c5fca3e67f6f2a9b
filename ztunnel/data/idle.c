/* SPDX-License-Identifier: Apache-2.0
 * idle.c: HBONE connections of known peers that carry nothing, and how many of them a peer may
 * have.
 *
 * Theory of operation. Whoever has a certificate may open connections to 15008 and leave them open;
 * each costs some 50 KiB. A pool leaves one or a few per peer; so a peer, which is an identity and
 * an address, may have LIMIT_IDLE_PEER of them at one pod and worker, and all together
 * LIMIT_IDLE_SESSIONS. Beyond that the one that has been idle longest is told to go, gracefully (a
 * stream that the peer opens at that moment is still served), and cut if it does not answer within
 * a second: until then it is no longer counted, so what a peer can have above its limit is what it
 * can open in that second.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "ztunnel/data/data.h"

#define GO_WITHIN_MS 1000

struct idle_peer {
	struct hnode node;    /* pod->idle_peers */
	struct list sessions; /* longest idle first */
	size_t n;
	struct ip_addr ip;
	char identity[];
};

static struct idle_peer *find(struct pod *p, const char *identity, const struct ip_addr *ip,
			      uint64_t hash)
{
	for (struct hnode *n = htab_first(&p->idle_peers, hash); n != NULL; n = htab_next(n)) {
		struct idle_peer *peer = container_of(n, struct idle_peer, node);

		if (ip_eq(&peer->ip, ip) && strcmp(peer->identity, identity) == 0)
			return peer;
	}
	return NULL;
}

static struct idle_peer *get(struct hsess *s)
{
	const char *identity = tls_session_peer(s->tls);
	uint64_t hash = hash_mix(hash_str(str_of(identity)), ip_hash(&s->peer.ip));
	struct idle_peer *peer = find(s->pod, identity, &s->peer.ip, hash);
	size_t len = strlen(identity) + 1;

	if (peer != NULL)
		return peer;
	peer = calloc(1, sizeof(*peer) + len);
	if (peer == NULL)
		return NULL;
	list_init(&peer->sessions);
	peer->ip = s->peer.ip;
	memcpy(peer->identity, identity, len);
	htab_insert(&s->pod->idle_peers, &peer->node, hash);
	return peer;
}

void idle_leave(struct hsess *s)
{
	struct idle_peer *peer = take_ptr(s->idle);

	if (peer == NULL)
		return;
	list_remove(&s->idle_node);
	list_remove(&s->idle_all);
	s->pod->w->nidle--;
	if (--peer->n != 0)
		return;
	htab_remove(&s->pod->idle_peers, &peer->node);
	free(peer);
}

static void send_away(struct hsess *s, const char *why)
{
	char a[IP_PORT_TEXT_MAX];

	log_limited(LOG_LV_WARN, "ztunnel::proxy::inbound",
		    "%s: the one of %s that has been idle longest is closed peer=%s", why,
		    tls_session_peer(s->tls), ip_port_format(&s->peer, a));
	idle_leave(s);
	hsess_leave_within(s, GO_WITHIN_MS);
}

void idle_enter(struct hsess *s)
{
	struct worker *w = s->pod->w;
	struct idle_peer *peer;

	if (!s->server || s->state != HS_OPEN || s->retired || s->nconns != 0 || s->idle != NULL)
		return;
	peer = get(s);
	if (peer == NULL) { /* out of memory: one idle connection less */
		hsess_goaway(s);
		return;
	}
	s->idle = peer;
	list_append(&peer->sessions, &s->idle_node);
	list_append(&w->idle, &s->idle_all);
	peer->n++;
	w->nidle++;
	if (peer->n > LIMIT_IDLE_PEER)
		send_away(container_of(peer->sessions.next, struct hsess, idle_node),
			  "too many idle HBONE connections of one peer");
	else if (w->nidle > LIMIT_IDLE_SESSIONS)
		send_away(container_of(w->idle.next, struct hsess, idle_all),
			  "too many idle HBONE connections");
}
