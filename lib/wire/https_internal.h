/* SPDX-License-Identifier: Apache-2.0
 * https_internal.h: shared by https_client.c, https_connect.c and https_request.c only.
 */
#pragma once
#include "lib/wire/https_client.h"
#include "lib/wire/resolve.h"
#include "lib/wire/tls_client.h"

#define HTTPS_MAGIC 0x68747073u

enum https_state { HTTPS_RESOLVING, HTTPS_CONNECTING, HTTPS_HANDSHAKE, HTTPS_UP, HTTPS_DOWN };

struct https_client {
	uint32_t magic;
	enum https_state state;
	bool freed;    /* by the caller; the memory lives until the end of the batch */
	bool draining; /* GOAWAY came */
	struct loop *loop;
	const struct https_client_ops *ops;
	void *ctx;
	char *host, *server_name, *authority;
	uint16_t port;
	uint64_t ping_ms, connect_ms;

	struct resolve *resolve;
	struct ip_addr addr[RESOLVE_ADDRS_MAX];
	size_t naddr, at; /* at: the next one to try */
	struct err last;  /* why the address before failed */
	int fd;
	struct watch watch;
	uint32_t interest;
	struct timer limit; /* of the whole attempt */
	struct timer next;  /* of one address when others are left */
	struct timer ping;
	uint64_t heard_ms;

	struct tls_client *tls;
	struct h2 *h2;
	struct list reqs;  /* https_req.node */
	struct list ready; /* https_req.ready: may have body to send */
	unsigned int nreqs;
	struct ready flush;
	struct deferred dead;
};

/* https_client.c */
void https_down(struct https_client *c, const struct err *why);
void https_flush_soon(struct https_client *c);
/* TCP is there: TLS begins. */
void https_connected(struct https_client *c);
/* https_connect.c */
int https_connect_start(struct https_client *c, struct err *err) _must_check_;
void https_connect_stop(struct https_client *c);
/* https_request.c */
extern const struct h2_ops https_h2_ops; /* ctx: struct https_client * */
void https_reqs_fail(struct https_client *c, const struct err *why);
void https_reqs_forget(struct https_client *c);
