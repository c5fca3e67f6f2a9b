/* SPDX-License-Identifier: Apache-2.0
 * certs.h: one certificate per identity, kept fresh for as long as somebody needs it.
 *
 * Pods with the same identity share one. Renewed at half of the remaining life, with jitter, so
 * that many do not come at once; when renewal fails a valid certificate stays in use and the next
 * try backs off (1 s doubling to 150 s, ztunnel-spec 8.4). Control thread.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"
#include "lib/base/list.h"

struct ca;
struct certs;
struct cert_entry;
struct loop;
struct tls_identity;

struct certs *certs_new(struct loop *l, struct ca *ca) _must_check_;
struct certs *certs_free(struct certs *c); /* NULL; subscribers must be gone */

/* Somebody who needs a certificate. Embed it; zero it first. */
struct cert_sub {
	struct list node;
	struct cert_entry *entry;
	/* Runs for the first certificate and for every renewed one; @id is borrowed. Runs before
	 * certs_subscribe() returns when there is one already. Must not unsubscribe. */
	void (*fn)(struct cert_sub *s, struct tls_identity *id);
};
void certs_subscribe(struct certs *c, struct cert_sub *s, const char *spiffe,
		     void (*fn)(struct cert_sub *, struct tls_identity *));
/* Safe when not subscribed. The last one to leave forgets the certificate. */
void certs_unsubscribe(struct certs *c, struct cert_sub *s);
/* What the sub's identity is, or NULL. */
const char *cert_sub_spiffe(const struct cert_sub *s);

enum cert_state { CERT_INITIALIZING, CERT_AVAILABLE, CERT_UNAVAILABLE };
struct cert_info {
	const char *spiffe;
	enum cert_state state;
	const char *error;	       /* of the last try, NULL when it worked */
	const struct tls_identity *id; /* NULL when there is none */
};
/* Sorted by identity. */
void certs_each(struct certs *c, void (*fn)(void *ctx, const struct cert_info *i), void *ctx);
