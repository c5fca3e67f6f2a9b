/* SPDX-License-Identifier: Apache-2.0
 * tls_crl.h: revocation lists: which certificates count no more, whatever their dates say.
 *
 * Every certificate of a verified chain but the root is looked up in the lists of its issuer. One
 * that no list speaks of is good, and a list that is past its date still counts: an operator who is
 * late must not let the revoked back in. Source: ztunnel-spec 8.7; RFC 5280 5.
 */
#pragma once
#include <stddef.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct err;

/* Immutable, atomic reference count. */
struct tls_crl;
/* One DER list, or PEM with any number of "X509 CRL" blocks (others are skipped); nothing at all:
 * nothing is revoked. One bad list refuses them all: NULL with @err. Control thread. */
struct tls_crl *tls_crl_new(struct str text, struct err *err) _must_check_;
struct tls_crl *tls_crl_ref(struct tls_crl *c); /* NULL is fine */
void tls_crl_unref(struct tls_crl *c);
size_t tls_crl_lists(const struct tls_crl *c);
size_t tls_crl_revoked(const struct tls_crl *c); /* entries of all lists */
