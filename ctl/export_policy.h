/* SPDX-License-Identifier: Apache-2.0
 * export_policy.h: AuthorizationPolicy and PeerAuthentication of security.istio.io, as far as
 * ztunnel can enforce them. Pure. Source: istiod-ambient-spec 7.1-7.4.
 *
 * Theory of operation. A rule becomes clauses, which must all hold: one of its `to`, one of its
 * `from`, and each `when`. A clause holds when one of its matches does. An empty match never holds,
 * a rule without clauses always does.
 *
 * HTTP attributes are not ztunnel's: an ALLOW rule with one is left out, a DENY rule is kept
 * without it. As with istiod.
 *
 * A value that is no port, no address or no principal is where we differ: istiod drops it, which
 * can widen an ALLOW and empty a DENY. Here an ALLOW match that depends on it never holds, and a
 * DENY clause that is left without anything always does. A policy that cannot be read at all denies
 * everything in its scope. Each is noted.
 */
#pragma once
#include "ctl/export_store.h"

struct doc;
struct ex_reader;

/* Never fails: what cannot be understood becomes stricter, never absent. */
void ex_read_policy(struct ex_reader *r, const struct doc *d, struct ex_policy *p);
void ex_read_peer(struct ex_reader *r, const struct doc *d, struct ex_peer *p);
