/* SPDX-License-Identifier: Apache-2.0
 * ca.h: where certificates come from. One interface; today one provider, the development CA; the
 * Istio CA protocol is another provider of the same interface later.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct err;
struct loop;
struct tls_identity;
struct ca;

/* The development CA: signs in this process with a root kept in @dir (dev-root.pem, dev-root.key,
 * mode 0600), made there on first use under a lock, so that several ztunnels and nodes can share
 * the directory. NOT for production: whoever reads the key can be anybody; its certificates say so
 * ("ambient DEVELOPMENT CA"). */
struct ca *ca_dev_new(struct loop *l, const char *dir, uint64_t ttl_s, struct err *err)
	_must_check_;
struct ca *ca_free(struct ca *ca);

/* Issues a certificate for @spiffe with a fresh P-256 key; @done gets a reference it owns, or NULL
 * and an error text. May call @done before returning. Control thread. */
void ca_issue(struct ca *ca, const char *spiffe,
	      void (*done)(void *ctx, struct tls_identity *id, const char *error), void *ctx);
const char *ca_name(const struct ca *ca); /* "development CA (dir)" */
