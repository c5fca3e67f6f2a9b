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

/* After a PEM reader said that it found no more: is that the end of the text? Empties the queue. */
bool tls_at_pem_end(void);

enum tls_crl_verdict {
	TLS_CRL_GOOD,
	TLS_CRL_REVOKED,
	TLS_CRL_UNSIGNED, /* the list names it, but is not its issuer's work: refused all the same
			   */
};
struct tls_crl;
/* @chain: verified, leaf first, root last. Any thread. */
enum tls_crl_verdict tls_crl_check(const struct tls_crl *c, const STACK_OF(X509) * chain);

/* Reason of the first queued OpenSSL error; empties the queue. Never NULL. */
const char *tls_openssl_reason(void);

#define TLS_SPIFFE_MAX 512
/* The certificate's only URI name, copied with a NUL into @buf. -EINVAL with a reason when there is
 * not exactly one URI, or it is not a SPIFFE identity (security.md T1). */
int tls_x509_identity(X509 *cert, char buf[TLS_SPIFFE_MAX], struct err *err) _must_check_;

/* SSL_CTX_set_cert_verify_callback target: chain first, then identity. */
int tls_verify_peer(X509_STORE_CTX *store, void *arg);
