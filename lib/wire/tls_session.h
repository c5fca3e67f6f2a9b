/* SPDX-License-Identifier: Apache-2.0
 * tls_session.h: one mutual TLS 1.3 connection over the caller's buffers.
 *
 * Theory of operation. A session does no I/O. Received bytes are lent to it (tls_session_feed) and
 * the caller then reads plaintext until nothing is left; a partial record stays inside OpenSSL, so
 * a fed buffer is always used up. Bytes to send are appended to a `struct tls_out`, which belongs
 * to the worker and is large enough for one batch: the library never sees a socket that would
 * block, so there is no write to repeat (datapath.md 10). An output that is full breaks the
 * session: it never waits.
 *
 * Errors are final. tls_session_error() then names the reason in words of ztunnel-spec 4.10.
 * Owner thread only. Source: ztunnel-spec 8.1, security.md T1-T4.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct tls_crl;
struct tls_identity;
struct tls_session;

struct tls_out {
	uint8_t *p; /* the caller's memory */
	size_t n, cap;
};

/* Room that one batch of @n plaintext bytes needs, with slack for handshake messages. */
#define TLS_OUT_CAP(n) ((n) + ((n) / 16384 + 2) * 22 + 65536)

enum tls_res {
	TLS_OK,	    /* handshake finished / bytes delivered */
	TLS_AGAIN,  /* wants more received bytes */
	TLS_CLOSED, /* the peer said close_notify */
	TLS_FAILED, /* tls_session_error() */
};

/* @expected: client role: acceptable peer identities (texts are copied; at most
 * ROUTE_IDENTITIES_MAX matter, none matches nobody). Server role: the peer's trust domain must be
 * our own, @expected is ignored. Takes a reference of @id. NULL when memory is short. */
struct tls_session *tls_session_new(struct tls_identity *id, bool server,
				    const char *const *expected, size_t nexpected) _must_check_;
struct tls_session *tls_session_free(struct tls_session *s); /* NULL is fine; returns NULL */

/* The lists that count from now on (reference taken; NULL: none). False when the peer is verified
 * already and one of them takes that back: the session still works, to say farewell. */
bool tls_session_crl(struct tls_session *s, struct tls_crl *crl);
/* The peer's certificate is revoked: the handshake failed for it, or tls_session_crl() said so. */
bool tls_session_revoked(const struct tls_session *s);

/* Lends received bytes; they must be used up by calls below before the buffer is reused. */
void tls_session_feed(struct tls_session *s, const uint8_t *p, size_t n);
size_t tls_session_unread(const struct tls_session *s); /* fed bytes not used yet */

/* Goes on with the handshake; TLS_OK exactly when it is finished. */
enum tls_res tls_session_handshake(struct tls_session *s, struct tls_out *out) _must_check_;
/* Decrypts into @buf until it is full (less than one record free) or the input is used up. @cap
 * must be at least 16384. TLS_OK with *ret_n > 0, TLS_AGAIN when there was nothing; TLS_CLOSED and
 * TLS_FAILED may come with *ret_n > 0 bytes that precede them. */
enum tls_res tls_session_read(struct tls_session *s, uint8_t *buf, size_t cap, size_t *ret_n,
			      struct tls_out *out) _must_check_;
/* Encrypts all of it. TLS_OK or TLS_FAILED. */
enum tls_res tls_session_write(struct tls_session *s, const uint8_t *p, size_t n,
			       struct tls_out *out) _must_check_;
/* Appends close_notify (best effort). */
void tls_session_shutdown(struct tls_session *s, struct tls_out *out);

const char *tls_session_error(const struct tls_session *s); /* "" while there is none */
/* The peer's SPIFFE identity, after the handshake. NULL before. */
const char *tls_session_peer(const struct tls_session *s);
