/* SPDX-License-Identifier: Apache-2.0
 * ca_csr.h: a key, the request to have it certified, and the answer turned into an identity.
 * Control thread. Source: ztunnel-spec 8.2.
 */
#pragma once
#include <stddef.h>
#include "lib/base/str.h"

struct err;
struct tls_identity;

struct ca_csr {
	char *key_pem; /* PKCS#8, secret: wiped by ca_csr_fini() */
	char *csr_pem; /* SHA-256, empty subject, one critical URI name */
};
/* A new P-256 key each time. 0 or -EIO. */
int ca_csr_new(struct ca_csr *c, const char *spiffe, struct err *err) _must_check_;
void ca_csr_fini(struct ca_csr *c);

/* @chain: the PEM texts of the answer: leaf, intermediates, and last the roots. NULL with @err,
 * unless the leaf is for @spiffe and our key, leads to the roots for both roles, and is valid
 * today.
 */
struct tls_identity *ca_csr_accept(const struct ca_csr *c, const char *spiffe,
				   const struct str *chain, size_t n, struct err *err) _must_check_;
