/* SPDX-License-Identifier: Apache-2.0
 * xt.c: see xt.h. Pure.
 *
 * Theory of operation. Entries follow one another. A chain that somebody made begins with an entry
 * whose target is ERROR with the chain's name and ends before the next such entry; the kernel's own
 * chains come first and begin where hook_entry says. A target without a name is a verdict: negative
 * ends the walk, else it is the offset to go on from: that of the entry after it (no target at
 * all), or of the first rule of a chain (a jump). So: note what goes, then copy what stays to its
 * new place and turn every offset round.
 */
#include "nft/xt.h"

#include <errno.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

#define ENTRIES_MAX 1000000

struct item {
	uint32_t at, len, to; /* to: its new place */
	int32_t verdict;      /* of a target without a name; -1 else */
	bool head, gone;
	struct str chain; /* of a head */
};
struct items {
	struct item *v;
	size_t n, cap;
};

static void items_fini(struct items *x)
{
	free(x->v);
}

bool xt_is_istio_chain(struct str name)
{
	return str_eqc(name, "ISTIO_PRERT") || str_eqc(name, "ISTIO_OUTPUT") ||
	       str_eqc(name, "ISTIO_POSTRT");
}

/* What both families have in their own places. */
struct layout {
	size_t size, target_offset, next_offset, counters;
};
static const struct layout layouts[2] = {
	{sizeof(struct ipt_entry), offsetof(struct ipt_entry, target_offset),
	 offsetof(struct ipt_entry, next_offset), offsetof(struct ipt_entry, counters)},
	{sizeof(struct ip6t_entry), offsetof(struct ip6t_entry, target_offset),
	 offsetof(struct ip6t_entry, next_offset), offsetof(struct ip6t_entry, counters)},
};

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static int bad(struct err *err, uint32_t at)
{
	return err_set(err, EBADMSG, "a table of iptables makes no sense at offset %u", at);
}

static void push(struct items *x, const struct item *i)
{
	if (x->n == x->cap) {
		x->cap = x->cap * 2 + 64;
		x->v = xrealloc_array(x->v, x->cap, sizeof(*x->v));
	}
	x->v[x->n++] = *i;
}

/* Where the target of the entry at @p begins; 0: outside of it. */
static size_t target_of(const uint8_t *p, const struct layout *l, size_t len)
{
	size_t t = get16(p + l->target_offset);

	return t >= l->size && t % 8 == 0 && t + sizeof(struct xt_entry_target) <= len ? t : 0;
}

static bool read_item(const uint8_t *p, size_t left, const struct layout *l, struct item *i)
{
	struct xt_entry_target head;
	size_t t;

	if (left < l->size)
		return false;
	i->len = get16(p + l->next_offset);
	if (i->len < l->size || i->len > left || i->len % 8 != 0)
		return false;
	t = target_of(p, l, i->len);
	if (t == 0)
		return false;
	memcpy(&head, p + t, sizeof(head));
	i->verdict = -1;
	if (head.u.user.name[0] == '\0') {
		if (t + sizeof(struct xt_standard_target) > i->len)
			return false;
		memcpy(&i->verdict, p + t + offsetof(struct xt_standard_target, verdict),
		       sizeof(i->verdict));
	} else if (strncmp(head.u.user.name, XT_ERROR_TARGET, sizeof(head.u.user.name)) == 0) {
		const char *name =
			(const char *)p + t + offsetof(struct xt_error_target, errorname);
		size_t max = XT_FUNCTION_MAXNAMELEN;

		if (t + sizeof(struct xt_error_target) > i->len)
			return false;
		i->head = true;
		i->chain = (struct str){name, strnlen(name, max)};
	}
	return true;
}

static int read_items(const struct xt_table *t, const struct layout *l, struct items *x,
		      struct err *err)
{
	bool gone = false;

	for (uint32_t at = 0; at < t->size;) {
		struct item i = {.at = at};

		if (x->n == ENTRIES_MAX || !read_item(t->entries + at, t->size - at, l, &i))
			return bad(err, at);
		if (i.head)
			gone = xt_is_istio_chain(i.chain);
		i.gone = gone;
		push(x, &i);
		at += i.len;
	}
	return x->n == t->n ? 0 : bad(err, t->size);
}

/* The entry at @offset; NULL: none begins there. */
static struct item *find(const struct items *x, uint32_t offset)
{
	size_t lo = 0, hi = x->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (x->v[mid].at < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < x->n && x->v[lo].at == offset ? &x->v[lo] : NULL;
}

static bool is_jump(const struct item *i)
{
	return i->verdict >= 0 && (uint32_t)i->verdict != i->at + i->len;
}

/* Jumps into a chain that goes, go; false: one leads nowhere. */
static bool drop_jumps(struct items *x, bool *ret_any)
{
	*ret_any = false;
	for (size_t k = 0; k < x->n; k++) {
		struct item *i = &x->v[k];

		if (!i->gone && is_jump(i)) {
			const struct item *to = find(x, (uint32_t)i->verdict);

			if (to == NULL)
				return false;
			i->gone = to->gone;
		}
		*ret_any = *ret_any || i->gone;
	}
	return true;
}

/* The new offset of what begins at @offset, or of what follows it in its chain. */
static bool moved(const struct items *x, uint32_t offset, uint32_t *ret)
{
	const struct item *i = find(x, offset);

	while (i != NULL && i->gone && i + 1 < x->v + x->n)
		i++;
	if (i == NULL || i->gone)
		return false;
	*ret = i->to;
	return true;
}

static bool turn_verdict(const struct items *x, const struct item *i, uint8_t *entry,
			 const struct layout *l)
{
	size_t at = target_of(entry, l, i->len) + offsetof(struct xt_standard_target, verdict);
	uint32_t to = i->to + i->len;
	int32_t v;

	if (i->verdict < 0)
		return true;
	if (is_jump(i) && !moved(x, (uint32_t)i->verdict, &to))
		return false;
	v = (int32_t)to;
	memcpy(entry + at, &v, sizeof(v));
	return true;
}

static bool turn_hooks(const struct items *x, struct xt_table *t)
{
	for (unsigned int h = 0; h < XT_HOOKS; h++)
		if ((t->valid_hooks & (1u << h)) != 0 &&
		    (!moved(x, t->hook_entry[h], &t->hook_entry[h]) ||
		     !moved(x, t->underflow[h], &t->underflow[h])))
			return false;
	return true;
}

int xt_strip(struct xt_table *t, bool v6, struct err *err)
{
	const struct layout *l = &layouts[v6 ? 1 : 0];
	_cleanup_(items_fini) struct items x = {0};
	uint32_t size = 0, n = 0;
	bool any;
	int r = read_items(t, l, &x, err);

	if (r < 0)
		return r;
	if (!drop_jumps(&x, &any))
		return bad(err, 0);
	if (!any)
		return 0;
	for (size_t k = 0; k < x.n; k++) {
		x.v[k].to = size;
		size += x.v[k].gone ? 0 : x.v[k].len;
	}
	/* a place is never later than it was: whatever is copied has not been written over */
	for (size_t k = 0; k < x.n; k++) {
		struct item *i = &x.v[k];

		if (i->gone)
			continue;
		memmove(t->entries + i->to, t->entries + i->at, i->len);
		if (!turn_verdict(&x, i, t->entries + i->to, l))
			return bad(err, i->at);
		n++;
	}
	if (!turn_hooks(&x, t))
		return bad(err, size);
	t->size = size;
	t->n = n;
	return 1;
}

void xt_counters_of(const struct xt_table *t, bool v6, uint64_t *out)
{
	const struct layout *l = &layouts[v6 ? 1 : 0];

	for (uint32_t at = 0; at < t->size; at += get16(t->entries + at + l->next_offset)) {
		memcpy(out, t->entries + at + l->counters, 2 * sizeof(*out));
		out += 2;
	}
}
