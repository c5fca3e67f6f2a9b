/* SPDX-License-Identifier: Apache-2.0
 * table.h: text in columns, with colour that does not count for the width. Pure.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

enum ctl_colour { CTL_PLAIN, CTL_GREEN, CTL_YELLOW, CTL_RED, CTL_BOLD, CTL_COLOUR_N };

/* Appends @s with control characters escaped (what others wrote must not move our cursor), cut to
 * @max characters (0: no limit), in @c if @colour. */
void ctl_put(struct strbuf *out, struct str s, size_t max, enum ctl_colour c, bool colour);

struct ctl_cell {
	char *text;
	enum ctl_colour colour;
};
struct ctl_table {
	size_t columns, n, cap;
	struct ctl_cell *cells; /* row after row */
};
void ctl_table_fini(struct ctl_table *t);
/* The next cell; rows fill by themselves. An empty text becomes "-". */
void ctl_table_add(struct ctl_table *t, struct str s, enum ctl_colour c);
/* Columns as wide as needed, two blanks between, none at the end of a line. */
void ctl_table_print(const struct ctl_table *t, bool colour, struct strbuf *out);
