/* SPDX-License-Identifier: Apache-2.0
 * limits.h: every limit has a name, a unit, a reason and a source. docs/limits.md repeats this
 * list.
 */
#pragma once

/* Documents */
#define LIMIT_NETCONF_BYTES                                                                        \
	(1u << 20)		/* plugin stdin: far above any real netconf (issue: 1 MiB)         \
				 */
#define LIMIT_DOC_DEPTH	     32 /* nesting of JSON and YAML: security.md P1 */
#define LIMIT_DOC_NODES	     (16u << 20) /* values in one document: 1 M workloads, 2 GB of tree */
#define LIMIT_MANIFEST_BYTES (4u << 20)	 /* one manifest file */
#define LIMIT_STATE_FILE_BYTES                                                                     \
	(512u << 20) /* local mesh state: 100,000 workloads are about 60 MB */

/* ZDS (cni-spec 4.1): both stock peers read into 1024 bytes */
#define LIMIT_ZDS_PACKET_BYTES 1024
#define LIMIT_ZDS_FDS	       8 /* netns and listeners of one pod, with room to notice too many */

/* HBONE peers (security.md H1-H4, T2, T3) */
#define LIMIT_H2_HEADER_LIST_BYTES   8192 /* decoded header list of one CONNECT; it needs < 1 KiB */
#define LIMIT_H2_FIELDS		     48	  /* header fields; HBONE needs under 20 */
#define LIMIT_H2_CONTINUATIONS	     8
#define LIMIT_H2_STREAMS	     200  /* MAX_CONCURRENT_STREAMS we offer (ztunnel-spec 7.1) */
#define LIMIT_H2_RESETS_BURST	     200  /* streams that end before they are established ... */
#define LIMIT_H2_RESETS_PER_SEC	     50	  /* ... and how fast that allowance refills */
#define LIMIT_H2_CHEAP_BURST	     1000 /* PING, SETTINGS, PRIORITY, empty DATA, tiny credit */
#define LIMIT_H2_CHEAP_PER_SEC	     100  /* a well-behaved peer needs about one a second */
#define LIMIT_TLS_SHAKES_PER_TURN    8	  /* handshake steps between two looks at other traffic */
#define LIMIT_FD_RESERVE	     32	  /* descriptors kept for the dials of what was accepted */
#define LIMIT_TLS_CHAIN_DEPTH	     4
#define LIMIT_TLS_HANDSHAKES_PENDING 1024 /* per worker, before authentication */
#define LIMIT_TLS_HANDSHAKE_MS	     10000
#define LIMIT_CONNECT_MS	     10000 /* TCP connect upstream (ztunnel-spec 1.8) */
#define LIMIT_CONNECT_RESPONSE_MS                                                                  \
	20000 /* answer to CONNECT: the peer's own connect limit and slack */
#define LIMIT_WORKLOAD_WAIT_MS	  5000	/* own workload not known yet (ztunnel-spec 3.9) */
#define LIMIT_H2_PING_INTERVAL_MS 10000 /* ztunnel-spec 7.2 */
#define LIMIT_H2_PING_TIMEOUT_MS  20000
#define LIMIT_HALF_CLOSED_MS	  3600000 /* a half-closed pair with no byte moving for this long */
#define LIMIT_LATE_RESET_MS	  60000	  /* a reset that waits until it cannot get lost */
#define LIMIT_LATE_RESETS	  1024	  /* such, per worker */
#define LIMIT_UNDELIVERED_BYTES	  (64u << 20) /* per worker, bytes received and not yet taken */

/* Control sockets */
#define LIMIT_HTTP_HEAD_BYTES  8192
#define LIMIT_HTTP_BODY_BYTES  (64u << 10) /* agent's event socket */
#define LIMIT_HTTP_CONNECTIONS 64
#define LIMIT_HTTP_IDLE_SEC    15

/* Servers of the control plane: the Kubernetes API, istiod */
#define LIMIT_HTTPS_CONNECT_MS	 10000 /* lookup, TCP and TLS together */
#define LIMIT_HTTPS_STREAMS	 100   /* requests at once on one connection; we need under 20 */
#define LIMIT_HTTPS_UNSENT_BYTES (1u << 20) /* of one request's body */
#define LIMIT_KUBE_OBJECT_BYTES	 (4u << 20) /* one object in JSON; etcd takes 1.5 MiB of it */
