/* SPDX-License-Identifier: Apache-2.0
 * fuzz_cniconf.c: CNI configurations as other programs write them, with our entry put in and taken
 * out.
 *
 * The first byte says how: bit 0 a list or a single one, bit 1 owned or chained, bit 2 in place of
 * stock. Checked beyond crashes: what comes out is a list that can be read, has our entry once and
 * last, and holds every other plugin byte for byte in the old order; putting in twice changes
 * nothing more; taking out gives what taking out of the original gives, which is the original
 * itself if we were not in there.
 */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "node-agent/host/cniconf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct str excluded[] = {{"kube-system", 11}};
static const struct cniconf_entry entry = {
	.run_dir = {"/var/run/istio-cni", 18},
	.excluded = excluded,
	.nexcluded = 1,
};

static struct str of(const struct strbuf *b)
{
	return (struct str){b->p != NULL ? b->p : "", b->n};
}

static bool has_type(const struct doc *plugin, const char *type)
{
	const struct doc *d = doc_get(plugin, "type");

	return d != NULL && d->kind == DOC_TEXT && str_eqc(d->text, type);
}

/* The next plugin of another program, or NULL. */
static const struct doc *other(const struct doc *d, bool stock_too)
{
	while (d != NULL &&
	       (has_type(d, CNICONF_PLUGIN) || (stock_too && has_type(d, CNICONF_STOCK))))
		d = d->next;
	return d;
}

static void same_others(const struct cniconf *was, const struct cniconf *is, bool replaced)
{
	bool list = was->kind == CNICONF_LIST;
	const struct doc *x = list ? other(was->plugins->child, replaced) : was->root;
	const struct doc *y = other(is->plugins->child, false), *last = NULL;

	for (; x != NULL && y != NULL; y = other(y->next, false)) {
		bug_on(!str_eq(x->raw, y->raw));
		x = list ? other(x->next, replaced) : NULL;
	}
	bug_on(x != NULL || y != NULL);
	for (const struct doc *d = is->plugins->child; d != NULL; d = d->next)
		last = d;
	for (const struct doc *d = is->plugins->child; d != NULL; d = d->next)
		bug_on(has_type(d, CNICONF_PLUGIN) != (d == last));
}

static void same_fields(const struct cniconf *was, const struct cniconf *is)
{
	const struct doc *y = is->root->child;

	if (was->kind != CNICONF_LIST)
		return;
	for (const struct doc *x = was->root->child; x != NULL; x = x->next, y = y->next) {
		bug_on(y == NULL || !str_eq(x->key, y->key));
		bug_on(!str_eqc(x->key, "plugins") && !str_eq(x->raw, y->raw));
	}
	bug_on(y != NULL);
}

static void take_out(const struct cniconf *was, const struct cniconf *is, bool replaced)
{
	_cleanup_strbuf_ struct strbuf a = {0}, b = {0};
	enum cniconf_rest before = cniconf_remove(was, &a), after = cniconf_remove(is, &b);

	bug_on(before == CNICONF_REST_SAME && !str_eq(of(&a), was->text));
	bug_on(after == CNICONF_REST_SAME);
	if (is->place == CNICONF_OWNED)
		bug_on(after != CNICONF_REST_NOTHING);
	else if (!replaced && was->place != CNICONF_OWNED)
		bug_on(!str_eq(of(&a), of(&b)));
	if (was->kind != CNICONF_LIST && is->place != CNICONF_OWNED)
		bug_on(after != CNICONF_REST_SINGLE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_strbuf_ struct strbuf once = {0}, twice = {0};
	enum cniconf_place place;
	struct cniconf was, is;
	struct arena *a;
	bool replace;

	if (size == 0)
		return 0;
	place = data[0] & 2 ? CNICONF_OWNED : CNICONF_CHAINED;
	replace = data[0] & 4;
	a = arena_new();
	if (cniconf_parse((struct str){(const char *)data + 1, size - 1},
			  data[0] & 1 ? CNICONF_LIST : CNICONF_SINGLE, a, &was, NULL) == 0 &&
	    cniconf_add(&was, place, &entry, replace, &once, NULL) == 0) {
		bug_on(cniconf_parse(of(&once), CNICONF_LIST, a, &is, NULL) != 0);
		bug_on(place == CNICONF_OWNED ? is.place != place : is.place == CNICONF_OWNED);
		same_others(&was, &is, replace);
		same_fields(&was, &is);
		take_out(&was, &is, was.has_stock);
		bug_on(cniconf_add(&is, place, &entry, replace, &twice, NULL) != 0);
		bug_on(!str_eq(of(&once), of(&twice)));
	}
	(void)arena_free(a);
	return 0;
}
