/* SPDX-License-Identifier: Apache-2.0
 * diff.c: what is wanted against what was found, named by table, chain and rule. Pure.
 *
 * Within a chain the longest common sequence of rules is what both have; of the rest, a wanted and
 * a found rule at the same place count as one that was changed.
 */
#include "nft/readback.h"

#include <stdarg.h>
#include <stdio.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

struct diff {
	const struct nft_ruleset *want;
	const struct nft_found *f;
	struct strbuf *out;
	bool all; /* also what is as wanted, and each rule of what is missing */
	size_t n;
};

static bool chain_eq(const struct nft_chain_def *d, const struct nft_found_chain *c)
{
	if ((d->type != NULL) != c->base)
		return false;
	return !c->base || (strcmp(d->type, c->type) == 0 && d->hook == c->hook &&
			    d->prio == c->prio && c->accepts);
}

static const struct nft_found_chain *find_chain(const struct nft_found *f, size_t table,
						const char *name)
{
	for (size_t i = 0; i < f->nchains; i++)
		if (f->chains[i].table == table && strcmp(f->chains[i].name, name) == 0)
			return &f->chains[i];
	return NULL;
}

static const struct nft_chain_def *wanted_chain(const struct nft_table_def *t, const char *name)
{
	for (size_t i = 0; i < t->nchains; i++)
		if (strcmp(t->chains[i].name, name) == 0)
			return &t->chains[i];
	return NULL;
}

bool nft_chain_wanted(const struct nft_found *f, const struct nft_found_chain *c)
{
	const struct nft_chain_def *d = wanted_chain(&f->tables[c->table], c->name);

	return d != NULL && chain_eq(d, c);
}

bool nft_shape_eq(const struct nft_found *f, size_t table)
{
	const struct nft_table_def *t = &f->tables[table];
	size_t n = 0;

	if (!f->table[table].there || f->table[table].flags != 0 || f->table[table].others != 0 ||
	    f->chains_more != 0)
		return false;
	for (size_t i = 0; i < f->nchains; i++) {
		if (f->chains[i].table != table)
			continue;
		if (!nft_chain_wanted(f, &f->chains[i]))
			return false;
		n++;
	}
	return n == t->nchains;
}

__attribute__((format(printf, 2, 3))) static void line(struct diff *d, const char *fmt, ...)
{
	char buf[256];
	va_list ap;

	d->n++;
	if (d->out == NULL)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	strbuf_puts(d->out, buf);
}

static void end_line(struct diff *d)
{
	if (d->out != NULL)
		strbuf_putc(d->out, '\n');
}

static void say_wanted(struct diff *d, const struct nft_rule *r)
{
	if (d->out != NULL)
		nft_rule_print(r, d->out);
}

static void say_found(struct diff *d, const struct nft_ops *o)
{
	if (d->out != NULL)
		nft_ops_print(o, d->out);
}

/* The rules of one chain, both ways. */
struct pair {
	const char *table, *chain;
	const struct nft_rule *want[NFT_RULES_MAX];
	struct nft_ops want_ops[NFT_RULES_MAX];
	const struct nft_ops *have[NFT_FOUND_RULES_MAX];
	size_t nwant, nhave;
	/* lcs[i][j]: common sequence of want[i..] and have[j..] */
	uint8_t lcs[NFT_RULES_MAX + 1][NFT_FOUND_RULES_MAX + 1];
};

static void collect(const struct diff *d, size_t t, size_t c, struct pair *p)
{
	p->table = d->want->tables[t].name;
	p->chain = d->want->tables[t].chains[c].name;
	p->nwant = p->nhave = 0;
	for (size_t i = 0; i < d->want->nrules; i++) {
		const struct nft_rule *r = &d->want->rules[i];

		if (r->table != t || r->chain != c)
			continue;
		nft_rule_ops(r, &p->want_ops[p->nwant]);
		p->want[p->nwant++] = r;
	}
	for (size_t i = 0; i < d->f->nrules; i++)
		if (d->f->rules[i].table == t && strcmp(d->f->rules[i].chain, p->chain) == 0)
			p->have[p->nhave++] = &d->f->rules[i].ops;
}

static void fill_lcs(struct pair *p)
{
	for (size_t i = p->nwant + 1; i-- > 0;)
		for (size_t j = p->nhave + 1; j-- > 0;) {
			if (i == p->nwant || j == p->nhave)
				p->lcs[i][j] = 0;
			else if (nft_ops_eq(&p->want_ops[i], p->have[j]))
				p->lcs[i][j] = (uint8_t)(p->lcs[i + 1][j + 1] + 1);
			else
				p->lcs[i][j] = p->lcs[i + 1][j] > p->lcs[i][j + 1]
						       ? p->lcs[i + 1][j]
						       : p->lcs[i][j + 1];
		}
}

static void say_missing(struct diff *d, const struct pair *p, size_t i)
{
	line(d, "missing: %s %s rule %zu: ", p->table, p->chain, i + 1);
	say_wanted(d, p->want[i]);
	end_line(d);
}

static void say_unexpected(struct diff *d, const struct pair *p, size_t j)
{
	line(d, "unexpected: %s %s rule %zu: ", p->table, p->chain, j + 1);
	say_found(d, p->have[j]);
	end_line(d);
}

static void say_changed(struct diff *d, const struct pair *p, size_t i, size_t j)
{
	line(d, "changed: %s %s rule %zu: wanted: ", p->table, p->chain, i + 1);
	say_wanted(d, p->want[i]);
	if (d->out != NULL)
		strbuf_puts(d->out, "; found: ");
	say_found(d, p->have[j]);
	end_line(d);
}

static void say_present(struct diff *d, const struct pair *p, size_t i)
{
	if (!d->all)
		return;
	line(d, "present: %s %s rule %zu: ", p->table, p->chain, i + 1);
	d->n--; /* not a difference */
	say_wanted(d, p->want[i]);
	end_line(d);
}

static void diff_rules(struct diff *d, size_t t, size_t c, struct pair *p)
{
	size_t i = 0, j = 0;

	collect(d, t, c, p);
	fill_lcs(p);
	while (i < p->nwant || j < p->nhave) {
		bool want = i < p->nwant, have = j < p->nhave;

		if (want && have && nft_ops_eq(&p->want_ops[i], p->have[j])) {
			say_present(d, p, i++);
			j++;
		} else if (want && have && p->lcs[i + 1][j + 1] == p->lcs[i][j]) {
			say_changed(d, p, i++, j++);
		} else if (want && (!have || p->lcs[i + 1][j] == p->lcs[i][j])) {
			say_missing(d, p, i++);
		} else {
			say_unexpected(d, p, j++);
		}
	}
}

static void diff_chains(struct diff *d, size_t t, struct pair *p)
{
	const struct nft_table_def *tab = &d->want->tables[t];

	for (size_t c = 0; c < tab->nchains; c++) {
		const struct nft_chain_def *def = &tab->chains[c];
		const struct nft_found_chain *have = find_chain(d->f, t, def->name);

		if (have == NULL) {
			line(d, "missing: %s chain %s", tab->name, def->name);
			end_line(d);
			if (d->all)
				diff_rules(d, t, c, p);
			continue;
		}
		if (!chain_eq(def, have)) {
			line(d,
			     "changed: %s chain %s: wanted: %s hook %u priority %d policy accept; "
			     "found: %s hook %u priority %d policy %s",
			     tab->name, def->name, def->type != NULL ? def->type : "no type",
			     def->hook, def->prio, have->base ? have->type : "no type", have->hook,
			     have->prio, !have->base || have->accepts ? "accept" : "drop");
			end_line(d);
		}
		diff_rules(d, t, c, p);
	}
	for (size_t i = 0; i < d->f->nchains; i++)
		if (d->f->chains[i].table == t && wanted_chain(tab, d->f->chains[i].name) == NULL) {
			line(d, "unexpected: %s chain %s", tab->name, d->f->chains[i].name);
			end_line(d);
		}
}

static void diff_table(struct diff *d, size_t t, struct pair *p)
{
	const struct nft_found_table *have = &d->f->table[t];
	const char *name = d->f->tables[t].name;

	if (t >= d->want->ntables) {
		if (have->there) {
			line(d, "unexpected: table %s", name);
			end_line(d);
		}
		return;
	}
	if (!have->there) {
		line(d, "missing: table %s", name);
		end_line(d);
		if (d->all)
			diff_chains(d, t, p);
		return;
	}
	if (have->flags != 0) {
		line(d, "changed: table %s: wanted: no flags; found: flags 0x%x%s", name,
		     have->flags, have->flags & 1 ? " (dormant)" : "");
		end_line(d);
	}
	if (have->others != 0) {
		line(d, "unexpected: %s: %zu sets, objects or flow tables", name, have->others);
		end_line(d);
	}
	diff_chains(d, t, p);
}

static size_t compare(const struct nft_ruleset *want, const struct nft_found *f, bool all,
		      struct strbuf *out)
{
	_cleanup_free_ struct pair *p = xcalloc(1, sizeof(*p));
	struct diff d = {.want = want, .f = f, .all = all, .out = out};

	for (size_t t = 0; t < f->ntables; t++)
		diff_table(&d, t, p);
	if (f->rules_more != 0 || f->chains_more != 0) {
		line(&d, "unexpected: %zu rules and %zu chains beyond what is compared",
		     f->rules_more, f->chains_more);
		end_line(&d);
	}
	return d.n;
}

size_t nft_diff(const struct nft_ruleset *want, const struct nft_found *f, struct strbuf *out)
{
	return compare(want, f, false, out);
}

size_t nft_list(const struct nft_ruleset *want, const struct nft_found *f, struct strbuf *out)
{
	return compare(want, f, true, out);
}
