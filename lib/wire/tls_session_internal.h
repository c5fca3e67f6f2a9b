/* SPDX-License-Identifier: Apache-2.0
 * tls_session_internal.h: shared by tls_session.c and tls_verify.c only.
 */
#pragma once
#include "lib/wire/tls_internal.h"
#include "lib/wire/tls_session.h"

#define TLS_SESSION_MAGIC 0x715e5510u

struct tls_session {
	uint32_t magic;
	bool server, failed, closed, revoked;
	SSL *ssl;
	struct tls_identity *id;
	const uint8_t *in; /* lent by tls_session_feed() */
	size_t in_left;
	struct tls_out *out; /* valid inside one call */
	char **expected;     /* one allocation */
	size_t nexpected;
	char *peer, *error;
	struct tls_crl *crl; /* reference; NULL: nothing is revoked */
};

/* Records the first reason; later ones are consequences. */
void tls_session_fail(struct tls_session *s, const char *fmt, ...) _printf_(2, 3);
/* The peer's chain against the session's lists; false: it is refused, and the reason is recorded.
 */
bool tls_session_unrevoked(struct tls_session *s, const STACK_OF(X509) * chain);
void tls_session_set_peer(struct tls_session *s, const char *uri);
