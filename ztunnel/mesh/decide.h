/* SPDX-License-Identifier: Apache-2.0
 * decide.h: what to do with one connection. Pure: (snapshot, source, destination, random number)
 * in, decision out.
 *
 * Source: ztunnel-spec 4.3 (outbound steps), 4.4-4.8, 5.3-5.7 (inbound), 1.9 (loops). What leads
 * nowhere is refused with its error text, never bypassed.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

/* What the state does not hold, so that the decision may be another one once it does: on-demand
 * mode asks for it (ztunnel-spec 9.6), .missing_ref being what is asked for. Bits, of which each is
 * asked for once for a connection. */
enum missing {
	MISSING_NOTHING = 0,
	MISSING_ADDRESS = 1,   /* nobody has the address that was asked for */
	MISSING_ENDPOINTS = 2, /* the service is known, and nobody who could be chosen for it */
	MISSING_GATEWAY = 4,   /* a waypoint's or network gateway's reference leads nowhere */
	MISSING_SOURCE = 8,    /* inbound: nobody has the peer's address */
};

enum route_kind {
	ROUTE_REFUSE,	   /* .error says why; the application's connection is reset */
	ROUTE_PASSTHROUGH, /* plain TCP to .dial */
	ROUTE_HBONE,	   /* CONNECT .authority through .dial, peer must be one of .identities */
	/* The same to a network gateway, with the authority .service->hostname:.authority.port, and
	 * within that tunnel a second one, whose peer must be one that .inner names */
	ROUTE_DOUBLE_HBONE,
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
	bool via_waypoint; /* HBONE to a waypoint: .dst is the waypoint, .authority the original
			      destination */
	/* Not empty: .dial (and .authority, where it is the same host) has no address yet, it is
	 * one of this name's: decide_resolved(). Borrowed. */
	struct str lookup;
	struct workload *dst;	 /* borrowed; NULL: unknown destination */
	struct service *inner;	 /* borrowed; ROUTE_DOUBLE_HBONE: its subject_alt_names */
	struct service *service; /* borrowed; NULL: not addressed to a service */
	enum missing missing;
	struct gateway_ref missing_ref; /* its texts are borrowed */
	char error[ROUTE_ERROR_MAX];	/* texts of ztunnel-spec 4.10 */
};

/* Outbound from local workload @src (never NULL) to the original destination. @network: this
 * node's. */
void decide_outbound(const struct mesh *m, const struct workload *src, struct str network,
		     const struct ip_port *orig_dst, uint64_t random, struct route *ret);

/* One of the addresses that the name of .lookup has (@n > 0): of the family of @orig where there is
 * one (ztunnel-spec 4.6, step 4). The route is then complete, or refused. */
void decide_resolved(struct route *r, const struct ip_addr *v, size_t n, const struct ip_addr *orig,
		     uint64_t random);

/* Loop protection (ztunnel-spec 1.9). */
bool decide_port_is_ours(uint16_t port);
bool decide_outbound_loops(const struct ip_port *orig_dst);

/* Inbound HBONE: is this CONNECT for this pod, and where does it go? */
struct inbound_target {
	unsigned int status;	 /* 0 = go on; else the HTTP status to answer (400, 503) */
	struct ip_port app;	 /* where to connect inside the pod */
	struct service *service; /* borrowed: destination service label, may be NULL */
	/* The workload has a PROXY application tunnel: the header of the PROXY protocol goes
	 * first and says .tunnel, what was asked for (ztunnel-spec 5.6). */
	bool proxy;
	struct ip_port tunnel;
	enum missing missing;		/* .status would perhaps be another one with it */
	struct gateway_ref missing_ref; /* its texts are borrowed */
	char error[ROUTE_ERROR_MAX];
};
/* @authority: as received (untrusted). @conn_dst: local address of the TLS connection.
 * @forwarded_host: from the forwarded header, may be empty. security.md C1: table of hostile
 * authorities in the unit test. */
void decide_inbound(const struct mesh *m, const struct workload *local, struct str network,
		    struct str authority, const struct ip_port *conn_dst, struct str forwarded_host,
		    struct inbound_target *ret);
/* Which service an inbound connection to @port of @local is labelled with: the one of @local whose
 * hostname the client forwarded (untrusted, may be empty), else the first of @local with this
 * target port, else NULL. Borrowed. Source: ztunnel-spec 5.7; plaintext forwards no name. */
struct service *decide_service_label(const struct mesh *m, const struct workload *local,
				     struct str forwarded_host, uint16_t port);
/* Parses `forwarded`: for="ip:port" and host=. Missing or bad parts are left zero/empty (it is a
 * claim of the peer: only the client's port and a label come from it). */
void decide_parse_forwarded(struct str value, struct ip_port *ret_for, struct str *ret_host);
