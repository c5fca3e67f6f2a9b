/* SPDX-License-Identifier: Apache-2.0
 * credential.c: see credential.h.
 */
#include "lib/wire/credential.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/wire/spiffe.h"

#define HEADING "ambient-credential 1"

void credential_put(struct strbuf *out, const struct credential *c)
{
	strbuf_printf(out, HEADING "\n%.*s\n%lld %zu %zu %zu\n", STR_FMT(c->spiffe),
		      (long long)c->not_after, c->key.n, c->chain.n, c->roots.n);
	strbuf_str(out, c->key);
	strbuf_str(out, c->chain);
	strbuf_str(out, c->roots);
}

static bool take_number(struct str *line, char end, uint64_t max, uint64_t *ret)
{
	struct str word = *line;

	if (end != '\0' && !str_cut(line, end, &word))
		return false;
	return parse_u64(word, 0, max, ret) == 0;
}

static bool take_part(struct str *text, uint64_t n, struct str *ret)
{
	if (n == 0 || n > text->n)
		return false;
	*ret = (struct str){text->p, (size_t)n};
	text->p += n;
	text->n -= (size_t)n;
	return true;
}

int credential_parse(struct str text, struct credential *ret, struct err *err)
{
	struct str line, rest = text;
	uint64_t end, key, chain, roots;
	struct spiffe_id id;

	if (!str_cut(&rest, '\n', &line) || !str_eqc(line, HEADING))
		return err_set(err, EINVAL, "credential: expected the heading \"" HEADING "\"");
	if (!str_cut(&rest, '\n', &ret->spiffe) || spiffe_parse(ret->spiffe, &id) != 0)
		return err_set(err, EINVAL, "credential: expected a SPIFFE identity");
	if (!str_cut(&rest, '\n', &line) || !take_number(&line, ' ', INT64_MAX, &end) ||
	    !take_number(&line, ' ', SIZE_MAX, &key) ||
	    !take_number(&line, ' ', SIZE_MAX, &chain) ||
	    !take_number(&line, '\0', SIZE_MAX, &roots))
		return err_set(err, EINVAL,
			       "credential: expected its end and the lengths of its parts");
	ret->not_after = (int64_t)end;
	if (!take_part(&rest, key, &ret->key) || !take_part(&rest, chain, &ret->chain) ||
	    !take_part(&rest, roots, &ret->roots) || rest.n != 0)
		return err_set(err, EINVAL, "credential: its parts are not as long as it says");
	return 0;
}
