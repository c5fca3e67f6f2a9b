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
#define LIMIT_LAST_STATE_BYTES                                                                     \
	(16u << 20) /* the agent's last picture: 5,000 namespaces take 0.5 MB */
#define LIMIT_STATE_FILE_BYTES                                                                     \
	(512u << 20) /* local mesh state: 100,000 workloads are about 60 MB */
#define LIMIT_MESH_IMAGE_BYTES                                                                     \
	(512u << 20) /* istiod's state as kept on the node: 100,000 workloads are some 30 MB */

/* ZDS (cni-spec 4.1): both stock peers read into 1024 bytes */
#define LIMIT_ZDS_PACKET_BYTES 1024
#define LIMIT_ZDS_FDS	       10 /* netns, 7 sockets, credential, and one to notice too many */
#define LIMIT_CREDENTIAL_BYTES (320u << 10) /* certificate, key and roots: what a CA may answer */
#define LIMIT_CREDENTIALS      2048	    /* identities of one node that the agent keeps */

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
#define LIMIT_IDLE_PEER		     64 /* idle connections of one identity and address at one pod */
#define LIMIT_IDLE_SESSIONS	     8192  /* idle connections of known peers, per worker */
#define LIMIT_CONNECT_MS	     10000 /* TCP connect upstream (ztunnel-spec 1.8) */
#define LIMIT_CONNECT_RESPONSE_MS                                                                  \
	20000 /* answer to CONNECT: the peer's own connect limit and slack */
#define LIMIT_CARRIER_CLOSE_MS	  5000	/* gateway's end of a tunnel whose inner one has ended */
#define LIMIT_LOOKUP_MS		  10000 /* a workload that has a hostname only */
#define LIMIT_NAMES		  1024	/* such hostnames, per worker */
#define LIMIT_WORKLOAD_WAIT_MS	  5000	/* own workload not known yet (ztunnel-spec 3.9) */
#define LIMIT_H2_PING_INTERVAL_MS 10000 /* ztunnel-spec 7.2 */
#define LIMIT_H2_PING_TIMEOUT_MS  20000
#define LIMIT_HALF_CLOSED_MS	  3600000 /* a half-closed pair with no byte moving for this long */
#define LIMIT_LATE_RESET_MS	  60000	  /* a reset that waits until it cannot get lost */
#define LIMIT_LATE_RESETS	  1024	  /* such, per worker */
#define LIMIT_UNDELIVERED_BYTES	  (64u << 20) /* per worker, bytes received and not yet taken */

/* The DNS proxy. Of a pod or a worker: on each worker */
#define LIMIT_DNS_QUERY_BYTES	 4096 /* a question with every option in use has under 1 KiB */
#define LIMIT_DNS_ADDRESSES	 4096 /* in one answer; more do not fit into 64 KiB */
#define LIMIT_DNS_POD_QUERIES	 1024 /* of a pod that wait; each may hold a descriptor */
#define LIMIT_DNS_WORKER_QUERIES 4096 /* of all pods; who has most gives way */
#define LIMIT_DNS_CONNECTIONS	 64   /* TCP, of a pod */
#define LIMIT_DNS_TCP_IDLE_MS	 5000 /* ztunnel-spec 11.1 */
#define LIMIT_DNS_CACHE_BYTES	 (16u << 20) /* of all pods; who has most gives way */
#define LIMIT_DNS_QUERY_MS	 15000 /* all attempts for one; clients give up after 10 to 15 s */

/* The log */
#define LIMIT_LOG_BYTES	   (256u << 10) /* lines that standard error has not taken yet */
#define LIMIT_POLICY_LINES 1000		/* decisions on policies that one worker logs ... */
#define LIMIT_POLICY_LINES_MS                                                                      \
	5000 /* ... in this time; 200 a second are more than anybody reads                         \
	      */

/* Control sockets */
#define LIMIT_HTTP_HEAD_BYTES  8192
#define LIMIT_HTTP_BODY_BYTES  (64u << 10) /* agent's event socket */
#define LIMIT_HTTP_CONNECTIONS 64
#define LIMIT_HTTP_IDLE_SEC    15

/* Servers of the control plane: the Kubernetes API, istiod */
#define LIMIT_HTTPS_CONNECT_MS	 10000 /* lookup, TCP and TLS together */
#define LIMIT_HTTPS_STREAMS	 100   /* requests at once on one connection; we need under 20 */
#define LIMIT_HTTPS_UNSENT_BYTES (1u << 20)   /* of one request's body */
#define LIMIT_XDS_MESSAGE_BYTES	 (200u << 20) /* as stock (istiod-ambient-spec 1) */
#define LIMIT_XDS_RESOURCE_BYTES (4u << 20)   /* one of it; etcd takes 1.5 MiB */
#define LIMIT_XDS_UNSENT_BYTES	 (64u << 20)  /* versions of what we hold, after a reconnect */
#define LIMIT_XDS_MEMBERSHIPS	 4096	      /* services of one workload */
#define LIMIT_XDS_STALL_MS	 120000	      /* no answer at all, or half a message */
#define LIMIT_DEMAND_WAITING	 4096 /* on-demand questions without an answer, of the node */
#define LIMIT_DEMAND_FRESH	 4096 /* answers that are remembered for a second */
#define LIMIT_CA_ANSWER_BYTES	 (256u << 10) /* a chain and the mesh's roots */
#define LIMIT_CA_CHAIN		 8     /* certificates of ours in an answer; peers allow fewer */
#define LIMIT_CA_REQUESTS	 8     /* at once (ztunnel-spec 8.4) */
#define LIMIT_CA_CALL_MS	 10000 /* one certificate */
#define LIMIT_CRL_BYTES		 (16u << 20) /* revocation lists; 400,000 entries */
#define LIMIT_TOKEN_BYTES	 (16u << 10)
#define LIMIT_KUBE_OBJECT_BYTES	 (4u << 20) /* one object in JSON; etcd takes 1.5 MiB of it */
