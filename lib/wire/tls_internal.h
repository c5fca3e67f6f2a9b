/* SPDX-License-Identifier: Apache-2.0
 * tls_internal.h: shared by tls.c, tls_verify.c and tls_session.c only.
 */
#pragma once
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "lib/base/str.h"

struct err;

struct tls_identity {
	atomic_uint refs;
	SSL_CTX *ctx;
	char *spiffe;
	struct str trust_domain; /* slice of spiffe */
	char *chain_pem, *roots_pem;
	time_t not_before, not_after;
};

/* Reason of the first queued OpenSSL error; empties the queue. Never NULL. */
const char *tls_openssl_reason(void);

#define TLS_SPIFFE_MAX 512
/* The certificate's only URI name, copied with a NUL into @buf. -EINVAL with a reason when there is
 * not exactly one URI, or it is not a SPIFFE identity (security.md T1). */
int tls_x509_identity(X509 *cert, char buf[TLS_SPIFFE_MAX], struct err *err) _must_check_;

/* SSL_CTX_set_cert_verify_callback target: chain first, then identity. */
int tls_verify_peer(X509_STORE_CTX *store, void *arg);
