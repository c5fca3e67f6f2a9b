/* SPDX-License-Identifier: Apache-2.0
 * certs.h: one certificate per identity, kept fresh for as long as somebody needs it.
 *
 * Pods with the same identity share one. Renewed at half of the remaining life, with jitter, so
 * that many do not come at once; when renewal fails a valid certificate stays in use and the next
 * try backs off (1 s doubling to 150 s, ztunnel-spec 8.4; to 15 s while a connection waits). One
 * that has expired is taken back. When the CA answers again after failures, whoever has no
 * certificate is asked for within a second. At most LIMIT_CA_REQUESTS requests are under way; of
 * those that wait, identities for which a connection waits go first, then others without a
 * certificate, then renewals. When the CA hands out other roots than before, the certificates with
 * the old ones are asked for again soon, so that the node's pods trust one set of roots. Control
 * thread.
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
	/* Runs for the first certificate and for every renewed one; @id is borrowed, NULL: the last
	 * one has expired. Runs before certs_subscribe() returns when there is one already. Must
	 * not unsubscribe. */
	void (*fn)(struct cert_sub *s, struct tls_identity *id);
};
void certs_subscribe(struct certs *c, struct cert_sub *s, const char *spiffe,
		     void (*fn)(struct cert_sub *, struct tls_identity *));
/* Safe when not subscribed. The last one to leave forgets the certificate. */
void certs_unsubscribe(struct certs *c, struct cert_sub *s);
/* A connection waits for its certificate: it goes before others. Safe when not subscribed. */
void certs_waited(struct cert_sub *s);
/* A certificate from elsewhere (an earlier life), valid now: used when it is for this identity and
 * there is none yet. Its reference is not taken over. @from: whatever cert_info shows of it. */
void certs_adopt(struct cert_sub *s, struct tls_identity *id, unsigned int from);
/* @fn gets each certificate that the CA issues (borrowed). One listener. */
void certs_on_issued(struct certs *c, void (*fn)(void *ctx, struct tls_identity *id), void *ctx);
/* What the sub's identity is, or NULL. */
const char *cert_sub_spiffe(const struct cert_sub *s);

enum cert_state { CERT_INITIALIZING, CERT_AVAILABLE, CERT_UNAVAILABLE };
struct cert_info {
	const char *spiffe;
	enum cert_state state;
	const char *error;	       /* of the last try, NULL when it worked */
	const struct tls_identity *id; /* NULL when there is none */
	unsigned int from;	       /* of certs_adopt(); 0: the CA issued it to us */
};
/* Sorted by identity. */
void certs_each(struct certs *c, void (*fn)(void *ctx, const struct cert_info *i), void *ctx);
