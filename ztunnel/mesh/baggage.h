/* SPDX-License-Identifier: Apache-2.0
 * baggage.h: how a workload describes itself in the `baggage` header of a CONNECT and of its
 * answer. Pure. Source: ztunnel-spec 4.12, 5.7.
 *
 * What a peer says here is a claim: it becomes labels of metrics and names in log lines, nothing is
 * decided by it.
 */
#pragma once
#include "ztunnel/mesh/model.h"

struct baggage { /* slices of what was parsed; an empty one is absent */
	struct str cluster, ns, workload_name, canonical_name, canonical_revision, region, zone;
	enum wl_type type;
};

void baggage_format(const struct workload *w, struct strbuf *out);
/* One header line, into @b: what is there already and not in the line stays. Unknown keys, and
 * values that are no text or longer than any label, count as absent. */
void baggage_parse(struct str line, struct baggage *b);
/* A workload that is known by its description only; one reference. @identity: what its certificate
 * says, @name: how log lines call it. */
struct workload *baggage_workload(const struct baggage *b, struct str name, const char *identity)
	_must_check_;
