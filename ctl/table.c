/* SPDX-License-Identifier: Apache-2.0
 * table.c: see table.h. Pure.
 */
#include "ctl/table.h"

#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

static const char *const escape[CTL_COLOUR_N] = {
	[CTL_PLAIN] = "",	[CTL_GREEN] = "\033[32m", [CTL_YELLOW] = "\033[33m",
	[CTL_RED] = "\033[31m", [CTL_BOLD] = "\033[1m",
};

/* Characters on the screen: every byte that does not continue a UTF-8 sequence. */
static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s != '\0'; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void put_safe(struct strbuf *out, struct str s)
{
	bool utf8 = str_is_utf8(s);

	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		/* C1 controls are two bytes in UTF-8: c2 80 to c2 9f */
		bool c1 = c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xa0;

		if (c < 0x20 || c == 0x7f || c1 || (c >= 0x80 && !utf8)) {
			strbuf_printf(out, "\\x%02x", c);
			if (c1 && utf8)
				strbuf_printf(out, "\\x%02x", (unsigned char)s.p[++i]);
		} else {
			strbuf_putc(out, (char)c);
		}
	}
}

/* Keeps @max characters, the last three of them dots when something was cut. */
static void cut(struct strbuf *b, size_t from, size_t max)
{
	size_t n = 0, keep = b->n;

	if (max < 4 || width(b->p + from) <= max)
		return;
	for (size_t i = from; i < b->n; i++)
		if (((unsigned char)b->p[i] & 0xc0) != 0x80 && n++ == max - 3)
			keep = i;
	b->n = keep;
	strbuf_puts(b, "...");
}

void ctl_put(struct strbuf *out, struct str s, size_t max, enum ctl_colour c, bool colour)
{
	size_t from;

	if (colour)
		strbuf_puts(out, escape[c]);
	from = out->n;
	put_safe(out, s);
	if (max != 0 && out->n != from)
		cut(out, from, max);
	if (colour && c != CTL_PLAIN)
		strbuf_puts(out, "\033[0m");
}

void ctl_table_fini(struct ctl_table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i].text);
	free(t->cells);
	*t = (struct ctl_table){0};
}

void ctl_table_add(struct ctl_table *t, struct str s, enum ctl_colour c)
{
	struct strbuf b = {0};

	put_safe(&b, s.n != 0 ? s : STR("-"));
	if (t->n == t->cap) {
		t->cap = t->cap != 0 ? t->cap * 2 : 64;
		t->cells = xrealloc_array(t->cells, t->cap, sizeof(*t->cells));
	}
	t->cells[t->n++] = (struct ctl_cell){strbuf_take(&b), c};
}

static size_t column_width(const struct ctl_table *t, size_t column)
{
	size_t max = 0;

	for (size_t i = column; i < t->n; i += t->columns) {
		size_t w = width(t->cells[i].text);

		max = w > max ? w : max;
	}
	return max;
}

void ctl_table_print(const struct ctl_table *t, bool colour, struct strbuf *out)
{
	_cleanup_free_ size_t *widths = xcalloc(t->columns, sizeof(size_t));

	bug_on(t->columns == 0 || t->n % t->columns != 0);
	for (size_t i = 0; i < t->columns; i++)
		widths[i] = column_width(t, i);
	for (size_t i = 0; i < t->n; i++) {
		const struct ctl_cell *c = &t->cells[i];
		size_t column = i % t->columns;

		if (colour)
			strbuf_puts(out, escape[c->colour]);
		strbuf_puts(out, c->text);
		if (colour && c->colour != CTL_PLAIN)
			strbuf_puts(out, "\033[0m");
		if (column + 1 == t->columns) {
			strbuf_putc(out, '\n');
			continue;
		}
		for (size_t w = width(c->text); w < widths[column] + 2; w++)
			strbuf_putc(out, ' ');
	}
}
