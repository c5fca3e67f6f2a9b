/* SPDX-License-Identifier: Apache-2.0
 * pick.h: chooses one endpoint of a service: health, ports, locality, weights. Pure: the random
 * number is an argument. Source: ztunnel-spec 4.4.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

struct picked {
	struct workload *wl; /* borrowed from the snapshot */
	uint16_t port;	     /* target port */
};
/* @src: who calls (its place counts for locality). False when nothing can be selected. Endpoints in
 * the caller's network are preferred to others in one case beyond the specification: gateways are
 * not supported yet, so a choice that would need one is repeated among the reachable ones. */
bool pick_endpoint(const struct mesh *m, const struct service *s, const struct workload *src,
		   uint16_t service_port, uint64_t random, struct picked *ret) _must_check_;
