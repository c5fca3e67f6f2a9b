/* SPDX-License-Identifier: Apache-2.0
 * decide.h: what to do with one connection. Pure: (snapshot, source, destination, random number)
 * in, decision out.
 *
 * Source: ztunnel-spec 4.3 (outbound steps), 4.4, 4.6, 4.8, 5.3-5.7 (inbound), 1.9 (loops). What is
 * not decided yet (waypoints, network gateways) is refused with its error text, never bypassed.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

enum route_kind {
	ROUTE_REFUSE,	   /* .error says why; the application's connection is reset */
	ROUTE_PASSTHROUGH, /* plain TCP to .dial */
	ROUTE_HBONE,	   /* CONNECT .authority through .dial, peer must be one of .identities */
	ROUTE_KIND_N
};

#define ROUTE_IDENTITIES_MAX 8
#define ROUTE_ERROR_MAX	     192

struct route {
	enum route_kind kind;
	struct ip_port dial;
	struct ip_port authority;
	const char *identities[ROUTE_IDENTITIES_MAX]; /* borrowed from the snapshot */
	size_t nidentities;
	struct workload *dst;	     /* borrowed; NULL: unknown destination */
	struct service *service;     /* borrowed; NULL: not addressed to a service */
	char error[ROUTE_ERROR_MAX]; /* texts of ztunnel-spec 4.10 */
};

/* Outbound from local workload @src (never NULL) to the original destination. @network: this
 * node's. */
void decide_outbound(const struct mesh *m, const struct workload *src, struct str network,
		     const struct ip_port *orig_dst, uint64_t random, struct route *ret);

/* Loop protection (ztunnel-spec 1.9). */
bool decide_port_is_ours(uint16_t port);
bool decide_outbound_loops(const struct ip_port *orig_dst);

/* Inbound HBONE: is this CONNECT for this pod, and where does it go? */
struct inbound_target {
	unsigned int status;	 /* 0 = go on; else the HTTP status to answer (400, 503) */
	struct ip_port app;	 /* where to connect inside the pod */
	struct service *service; /* borrowed: destination service label, may be NULL */
	char error[ROUTE_ERROR_MAX];
};
/* @authority: as received (untrusted). @conn_dst: local address of the TLS connection.
 * @forwarded_host: from the forwarded header, may be empty. security.md C1: table of hostile
 * authorities in the unit test. */
void decide_inbound(const struct mesh *m, const struct workload *local, struct str network,
		    struct str authority, const struct ip_port *conn_dst, struct str forwarded_host,
		    struct inbound_target *ret);
/* Parses `forwarded`: for="ip:port" and host=. Missing or bad parts are left zero/empty (it is a
 * claim of the peer: only the client's port and a label come from it). */
void decide_parse_forwarded(struct str value, struct ip_port *ret_for, struct str *ret_host);
