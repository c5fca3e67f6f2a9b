/* SPDX-License-Identifier: Apache-2.0
 * tls.h: all of OpenSSL that the data path touches: identities, mutual TLS 1.3 sessions over
 * caller's buffers.
 *
 * Source: ztunnel-spec 8.1, 5.1; security.md T1-T4. TLS 1.3 only, AES-256-GCM then AES-128-GCM,
 * ALPN h2, no SNI, no tickets, no resumption. A session does no I/O: the caller feeds it received
 * bytes and gets bytes to send (datapath.md 9.2: buffers belong to the worker, an idle session owns
 * none).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include "lib/base/str.h"

struct err;

/* A workload's certificate, key and roots, ready for both roles. Immutable, atomic reference count:
 * shared by all workers. */
struct tls_identity;
/* @chain_pem: leaf first, then intermediates; @key_pem PKCS#8; @roots_pem: one or more. The leaf
 * must carry exactly one SPIFFE URI. NULL with @err. Control thread. */
struct tls_identity *tls_identity_new(struct str chain_pem, struct str key_pem,
				      struct str roots_pem, struct err *err) _must_check_;
struct tls_identity *tls_identity_ref(struct tls_identity *id);
void tls_identity_unref(struct tls_identity *id);
/* Would a peer accept it now? The chain leads to the roots, for both roles, and is valid today.
 * -EINVAL with the reason. Control thread. */
int tls_identity_check(const struct tls_identity *id, struct err *err) _must_check_;
/* Appends the private key, PKCS#8 in PEM; the caller wipes it. -EINVAL when the key cannot be read.
 * Control thread. */
int tls_identity_key_pem(const struct tls_identity *id, struct strbuf *out) _must_check_;
const char *tls_identity_spiffe(const struct tls_identity *id);
time_t tls_identity_not_before(const struct tls_identity *id);
time_t tls_identity_not_after(const struct tls_identity *id);
const char *tls_identity_chain_pem(const struct tls_identity *id);
const char *tls_identity_roots_pem(const struct tls_identity *id);

/* The only URI name of a DER certificate, as a SPIFFE identity; -EINVAL with the reason. Any
 * thread; touches nothing else (fuzz target x509_spiffe). */
int tls_der_identity(const uint8_t *der, size_t n, char *buf, size_t cap, struct err *err)
	_must_check_;
