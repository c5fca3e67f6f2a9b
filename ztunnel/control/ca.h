/* SPDX-License-Identifier: Apache-2.0
 * ca.h: where certificates come from: one interface, two providers. Control thread.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct err;
struct istiod_config;
struct loop;
struct tls_identity;
struct ca;

/* The development CA: signs in this process with a root kept in @dir (dev-root.pem, dev-root.key,
 * mode 0600), made there on first use under a lock, so that several ztunnels and nodes can share
 * the directory. NOT for production: whoever reads the key can be anybody; its certificates say so
 * ("ambient DEVELOPMENT CA"). */
struct ca *ca_dev_new(struct loop *l, const char *dir, uint64_t ttl_s, struct err *err)
	_must_check_;
/* The Istio CA: CreateCertificate over gRPC for every identity, with the node's token and the
 * identity as ImpersonatedIdentity (ztunnel-spec 8.2, 8.3). @cfg is borrowed. What it answers is
 * taken only when it is for that identity and key, leads to its roots and is valid today. The roots
 * that the CA itself is trusted by are read again before each request: changed ones mean a new
 * connection, and requests that are under way end on the old one. */
struct ca *ca_istio_new(struct loop *l, const struct istiod_config *cfg, uint64_t ttl_s);
struct ca *ca_free(struct ca *ca); /* open requests fail; NULL is fine; returns NULL */

/* Issues a certificate for @spiffe with a fresh P-256 key; @done gets a reference it owns, or NULL
 * and an error text. May call @done before returning. */
void ca_issue(struct ca *ca, const char *spiffe,
	      void (*done)(void *ctx, struct tls_identity *id, const char *error), void *ctx);
const char *ca_name(const struct ca *ca); /* "development CA (dir)", "Istio CA (host:port)" */
bool ca_is_dev(const struct ca *ca);
