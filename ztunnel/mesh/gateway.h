/* SPDX-License-Identifier: Apache-2.0
 * gateway.h: from the reference to a waypoint or a network gateway to the workload that answers
 * there. Pure.
 * Source: ztunnel-spec 4.3 (steps 5 and 8), 4.5, 5.4.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"
#include "ztunnel/mesh/pick.h"

/* What is found belongs to the snapshot. */
struct gateway {
	struct workload *wl;
	struct service
		*service; /* by which it was found; NULL: named by the workload's own address */
	/* ip.len 0: the address of .wl->hostname, which must be looked up; without one, .wl can
	 * be reached through its network's gateway only */
	struct ip_port dial;
};

/* The waypoint of a service for one connection: drawn by weight where there are several, else the
 * one it names; NULL: it has none. */
const struct gateway_ref *gateway_of_service(const struct service *s, uint64_t random);
/* Where to dial @ref for a connection of @src to @orig (its family counts where the reference is a
 * name). @mode: PICK_WAYPOINT or, for a network gateway, PICK_STANDARD. False: nobody is there; the
 * connection is refused then, never sent around it. */
bool gateway_resolve(const struct mesh *m, const struct gateway_ref *ref, enum pick_mode mode,
		     const struct workload *src, const struct ip_addr *orig, uint64_t random,
		     struct gateway *ret) _must_check_;
/* Is @w itself one of those behind the reference? */
bool gateway_is_behind(const struct mesh *m, const struct gateway_ref *ref,
		       const struct workload *w);
/* Does the state hold what the reference names? Whether anybody is behind it is another question.
 */
bool gateway_known(const struct mesh *m, const struct gateway_ref *ref);
/* A reference to an address; @network is borrowed. */
struct gateway_ref gateway_at(struct str network, const struct ip_addr *ip);
/* "network/ip" or "namespace/hostname". Returns @buf. */
const char *gateway_text(const struct gateway_ref *ref, char *buf, size_t cap);

/* Which address of @w to dial for a connection to @orig (ztunnel-spec 4.6, steps 1 and 2). False:
 * it has none that the service allows. */
bool gateway_choose_ip(const struct workload *w, const struct service *s,
		       const struct ip_addr *orig, struct ip_addr *ret) _must_check_;
