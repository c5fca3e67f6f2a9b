/* SPDX-License-Identifier: Apache-2.0
 * zds.h: the socket that ztunnels connect to: snapshot, adds, deletes, socket custody.
 *
 * Source: cni-spec 4. A peer that says version 1 gets stock's exchange byte for byte; one that says
 * 2 or above may return listening sockets it still holds (Held) and gets them with every Add; from
 * 3 on it hands over credentials to be kept, and gets those of a pod with its Add.
 * Knows descriptors and UIDs only; who is in the mesh is answered by the operations below. Loop
 * thread only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/base/list.h"

struct err;
struct loop;
struct zds_peer;
struct zds_server;

/* What an Add says. Descriptors are borrowed for the call. */
struct zds_pod {
	const char *uid, *name, *ns, *sa;
	int netns_fd;
	const int *listeners; /* MESH_L_N of them, or NULL */
	int credential;	      /* sealed memory of its identity; -1: none */
	const int *dns;	      /* MESH_DNS_N of them, -1 where there is none; or NULL */
	bool dns_not_captured;
};

enum zds_describe { ZDS_POD_GONE, ZDS_POD_ADD, ZDS_POD_KEEP };

struct zds_ops {
	/* Calls fn(arg, uid) for every pod that belongs into a snapshot. */
	void (*each)(void *ctx, void (*fn)(void *arg, const char *uid), void *arg);
	/* Right before an Add for a peer that said @version, and, with @dns, that it answers DNS:
	 * what to send. KEEP means the namespace is not known (allowed in a snapshot only). */
	enum zds_describe (*describe)(void *ctx, const char *uid, uint32_t version, bool dns,
				      struct zds_pod *ret);
	/* An Add or Keep was answered; @error is "" for success. */
	void (*acked)(void *ctx, const char *uid, const char *error);
	/* A version 2 peer still holds these sockets. Everything is borrowed. */
	void (*held)(void *ctx, const char *uid, int netns_fd, const int *fds,
		     const uint16_t *ports, size_t n);
	/* A version 3 peer hands over an identity's certificate and key, to be kept for the next
	 * one. @fd is borrowed, its contents are not looked at yet. */
	void (*credential)(void *ctx, const char *identity, int fd);
	/* A peer came (its hello and what it held were read), finished its snapshot, or went. */
	void (*peers_changed)(void *ctx);
};

struct zds_server *zds_server_new(struct loop *l, int listen_fd, const struct zds_ops *ops,
				  void *ctx) _must_check_;
/* From now on connections are accepted. Until then they wait: a snapshot that lacks a pod would
 * make ztunnel drop it. */
int zds_server_open(struct zds_server *s, struct err *err) _must_check_;
struct zds_server *zds_server_free(struct zds_server *s);

/* An Add whose answer somebody waits for. Embed it, zeroed. */
struct zds_add {
	struct list node; /* of the peer it was sent to */
	struct zds_peer *peer;
	/* Once. @result: 0, -EREMOTEIO (ztunnel refuses, @error says why), -ECONNRESET (the
	 * connection ended first), -ECANCELED (the pod left). */
	void (*done)(struct zds_add *a, int result, const char *error);
	char uid[64];
};
/* Sends an Add to the newest ztunnel. Returns 0 and calls @done later (also when the connection
 * ends first), or -ENOTCONN. Every wait is limited. */
int zds_server_add(struct zds_server *s, struct zds_add *a, const char *uid,
		   void (*done)(struct zds_add *a, int result, const char *error)) _must_check_;
void zds_server_add_cancel(struct zds_add *a); /* @done will not run; safe when not active */
/* Tells every ztunnel; there is nobody to wait for (its answer cannot change anything). */
void zds_server_del(struct zds_server *s, const char *uid);

/* Version that the newest ztunnel said; 0: none is connected. */
uint32_t zds_server_version(const struct zds_server *s);
/* Whether DNS of pods is answered by the newest ztunnel or, when none is connected, was by the last
 * one. A stock one cannot say; it does unless told otherwise, and its agent counts on it. False
 * when there has been none yet. */
bool zds_server_dns(const struct zds_server *s, bool *ret_served) _must_check_;
/* When the last one went (loop time, 0: never one) and what version it said. */
uint64_t zds_server_left_ms(const struct zds_server *s, uint32_t *ret_version);

struct zds_peer_info {
	pid_t pid;
	uint32_t version;
	bool snapshot, newest, draining, dns;
};
void zds_server_each_peer(const struct zds_server *s,
			  void (*fn)(void *arg, const struct zds_peer_info *i), void *arg);
