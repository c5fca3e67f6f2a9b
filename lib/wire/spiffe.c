/* SPDX-License-Identifier: Apache-2.0
 * spiffe.c: see spiffe.h. Pure.
 */
#include "lib/wire/spiffe.h"

#include <errno.h>

/* Cuts one part off the front. The last part of a URI has no slash after it. */
static int take_part(struct str *rest, bool last, struct str *ret)
{
	if (last)
		*ret = *rest;
	else if (!str_cut(rest, '/', ret))
		return -EINVAL;
	if (ret->n == 0)
		return -EINVAL;
	for (size_t i = 0; i < ret->n; i++)
		if (ret->p[i] <= 0x20 || ret->p[i] >= 0x7f || ret->p[i] == '/')
			return -EINVAL;
	return 0;
}

int spiffe_parse(struct str uri, struct spiffe_id *ret)
{
	const struct str scheme = STR("spiffe://");
	struct spiffe_id id = {0};
	struct str word;

	if (!str_has_prefix(uri, scheme))
		return -EINVAL;
	uri.p += scheme.n;
	uri.n -= scheme.n;
	if (take_part(&uri, false, &id.trust_domain) != 0)
		return -EINVAL;
	if (take_part(&uri, false, &word) != 0 || !str_eqc(word, "ns"))
		return -EINVAL;
	if (take_part(&uri, false, &id.ns) != 0)
		return -EINVAL;
	if (take_part(&uri, false, &word) != 0 || !str_eqc(word, "sa"))
		return -EINVAL;
	if (take_part(&uri, true, &id.sa) != 0)
		return -EINVAL;
	*ret = id;
	return 0;
}

bool spiffe_eq(const struct spiffe_id *a, const struct spiffe_id *b)
{
	return str_eq(a->trust_domain, b->trust_domain) && str_eq(a->ns, b->ns) &&
	       str_eq(a->sa, b->sa);
}

void spiffe_format(const struct spiffe_id *id, struct strbuf *out)
{
	strbuf_puts(out, "spiffe://");
	strbuf_str(out, id->trust_domain);
	strbuf_puts(out, "/ns/");
	strbuf_str(out, id->ns);
	strbuf_puts(out, "/sa/");
	strbuf_str(out, id->sa);
}
