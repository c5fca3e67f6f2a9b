/* SPDX-License-Identifier: Apache-2.0
 * tls_client.h: TLS to the servers of the control plane (API server, istiod): TLS 1.2 or 1.3, a CA
 * bundle, the server's name checked, an optional client certificate, ALPN h2. Not the mesh's own
 * mutual TLS, which names peers by SPIFFE identity: tls_session.h.
 *
 * A session does no I/O: received bytes go in, bytes to send are taken out; both are kept in
 * memory, bounded by what the caller feeds and writes before it takes. Owner thread only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;
struct tls_client;
struct tls_client_ctx;

struct tls_client_config {
	struct str ca_pem;	      /* empty: the system's trust store */
	struct str cert_pem, key_pem; /* both or neither */
	bool insecure;		      /* the server is not verified at all */
	bool tls13;		      /* nothing older than TLS 1.3 */
};

/* Reads the PEM texts (nothing is kept of them). NULL with @err naming which one is bad. */
struct tls_client_ctx *tls_client_ctx_new(const struct tls_client_config *cfg, struct err *err)
	_must_check_;
struct tls_client_ctx *
tls_client_ctx_free(struct tls_client_ctx *c); /* sessions keep their own reference */

/* @server_name: a DNS name (sent as SNI) or an IP address (not sent) that the certificate must
 * have. NULL with @err. */
struct tls_client *tls_client_new(struct tls_client_ctx *ctx, const char *server_name,
				  struct err *err) _must_check_;
struct tls_client *tls_client_free(struct tls_client *t);
/* Before the handshake: a certificate for this DNS name is good as well. With an address as server
 * name it is the only good one. */
int tls_client_accept_name(struct tls_client *t, const char *name, struct err *err) _must_check_;

enum tls_client_res {
	TLS_CLIENT_OK,
	TLS_CLIENT_AGAIN,  /* needs more received bytes */
	TLS_CLIENT_CLOSED, /* the server said close_notify */
	TLS_CLIENT_FAILED, /* tls_client_error(); final */
};
/* Takes all of @n received bytes. 0 or -ENOMEM. */
int tls_client_feed(struct tls_client *t, const uint8_t *p, size_t n) _must_check_;
/* TLS_CLIENT_OK exactly when it is finished and the server chose h2. */
enum tls_client_res tls_client_handshake(struct tls_client *t) _must_check_;
/* Up to @cap bytes of plaintext. */
enum tls_client_res tls_client_read(struct tls_client *t, uint8_t *buf, size_t cap, size_t *ret_n)
	_must_check_;
enum tls_client_res tls_client_write(struct tls_client *t, const uint8_t *p, size_t n) _must_check_;
void tls_client_shutdown(struct tls_client *t); /* queues close_notify */
/* Bytes to send; after sending, drop as many. */
struct str tls_client_pending(struct tls_client *t);
void tls_client_sent(struct tls_client *t, size_t n);
const char *tls_client_error(const struct tls_client *t);
