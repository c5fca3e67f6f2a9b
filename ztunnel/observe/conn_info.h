/* SPDX-License-Identifier: Apache-2.0
 * conn_info.h: what is known about one proxied connection, for metrics, the access log and
 * `connections` in the config dump. Filled by the data path, read by metrics.h and access_log.h.
 * Source: ztunnel-spec 13.2-13.4.
 */
#pragma once
#include <stdint.h>
#include "ztunnel/mesh/model.h"

enum conn_reporter { REPORTER_SOURCE, REPORTER_DESTINATION, REPORTER_N };
enum conn_flag { /* response_flags, ztunnel-spec 13.3 */
		 FLAG_NONE,
		 FLAG_DENY,
		 FLAG_CONNECT,
		 FLAG_TLS_FAILURE,
		 FLAG_H2_HANDSHAKE,
		 FLAG_NETWORK_POLICY,
		 FLAG_IDENTITY,
		 FLAG_CERT_REVOKED,
		 FLAG_N
};
enum conn_via { VIA_TCP, VIA_HBONE, VIA_N };

struct metric_series; /* observe/metrics.h */

struct conn_info {
	enum conn_reporter reporter;
	enum conn_via via;	    /* HBONE = mutual TLS */
	struct workload *src, *dst; /* references held by this struct; NULL = unknown */
	struct service *service;    /* reference held; NULL = none */
	struct ip_port src_addr;    /* client */
	struct ip_port dst_addr;    /* outbound: dialled; inbound HBONE: pod:15008; passthrough:
				       original destination */
	struct ip_port orig_dst;    /* what the application asked for */
	struct ip_port hbone_addr;  /* CONNECT authority; ip.len 0 if none, or with a port: that
				       port of the service's hostname */
	char *peer_identity;	    /* owned; SPIFFE text of the TLS peer, NULL if none */
	uint64_t start_ns;
	uint64_t bytes_recv;	      /* downstream -> upstream (towards the destination) */
	uint64_t bytes_sent;	      /* upstream -> downstream */
	struct metric_series *series; /* NULL until opened was counted */
};
/* Drops references; leaves zeroes. */
void conn_info_fini(struct conn_info *c);
