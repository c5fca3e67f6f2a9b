/* SPDX-License-Identifier: Apache-2.0
 * claims.c: what a peer says about itself in the headers of a CONNECT or of its answer. Claims, not
 * facts (security.md E3): names for metrics and log lines come from them. Source: ztunnel-spec 5.7.
 */

#include "ztunnel/data/data.h"

bool claims_baggage(const struct h2_head *h, struct baggage *ret)
{
	bool any = false;

	*ret = (struct baggage){0};
	for (size_t i = 0; i < h->nfields; i++) {
		if (!str_eqc(h->field[i].name, "baggage"))
			continue;
		baggage_parse(h->field[i].value, ret);
		any = true;
	}
	return any;
}

bool claims_other_network(const struct h2_head *h, const char *ours)
{
	struct str v = h2_head_get(h, "x-forwarded-network");

	return v.p != NULL && !str_eq_nocase(v, str_of(ours));
}
