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
/* PICK_WAYPOINT: an endpoint with an application tunnel serves a port that the service does not
 * define. */
enum pick_mode { PICK_STANDARD, PICK_WAYPOINT };
/* @src: who calls (its place counts for locality). False when nothing can be selected. What is
 * picked may be on another network than @src: decide.c goes through its gateway then. One there
 * that names no gateway is picked only when there is no other: the refusal names it then. */
bool pick_endpoint(const struct mesh *m, const struct service *s, const struct workload *src,
		   uint16_t service_port, enum pick_mode mode, uint64_t random, struct picked *ret)
	_must_check_;
