/* SPDX-License-Identifier: Apache-2.0
 * jsonw.c: writing JSON; see json.h. Pure. What it writes is valid JSON whatever the texts hold.
 */
#include "lib/format/json.h"

#include "lib/base/bug.h"

void jsonw_init(struct jsonw *w, struct strbuf *out, bool pretty)
{
	*w = (struct jsonw){.out = out, .pretty = pretty};
}

static void new_line(struct jsonw *w)
{
	if (!w->pretty)
		return;
	strbuf_putc(w->out, '\n');
	for (unsigned int i = 0; i < w->depth; i++)
		strbuf_puts(w->out, "  ");
}

/* Length of the UTF-8 character at the start of @s, 0 when there is none. */
static size_t utf8_len(struct str s)
{
	for (size_t n = 1; n <= 4 && n <= s.n; n++)
		if (str_is_utf8((struct str){s.p, n}))
			return n;
	return 0;
}

static void put_text(struct strbuf *out, struct str s)
{
	strbuf_putc(out, '"');
	while (s.n != 0) {
		unsigned char c = (unsigned char)s.p[0];
		size_t n = 1;

		if (c == '"' || c == '\\') {
			strbuf_putc(out, '\\');
			strbuf_putc(out, (char)c);
		} else if (c == '\n') {
			strbuf_puts(out, "\\n");
		} else if (c < 0x20 || c == 0x7f) {
			strbuf_printf(out, "\\u%04x", c);
		} else if (c < 0x80) {
			strbuf_putc(out, (char)c);
		} else {
			n = utf8_len(s);
			if (n != 0) {
				strbuf_add(out, s.p, n);
			} else { /* a byte that is no UTF-8 is shown as the replacement character */
				strbuf_puts(out, "\\ufffd");
				n = 1;
			}
		}
		s.p += n;
		s.n -= n;
	}
	strbuf_putc(out, '"');
}

static void begin(struct jsonw *w, const struct str *key)
{
	if (w->need_comma)
		strbuf_putc(w->out, ',');
	if (w->depth != 0)
		new_line(w);
	if (key != NULL) {
		put_text(w->out, *key);
		strbuf_puts(w->out, w->pretty ? ": " : ":");
	}
	w->need_comma = true;
}

static void begin_c(struct jsonw *w, const char *key)
{
	struct str k = str_of(key);

	begin(w, key != NULL ? &k : NULL);
}

static void open(struct jsonw *w, char c)
{
	strbuf_putc(w->out, c);
	w->depth++;
	w->need_comma = false;
}

static void close(struct jsonw *w, char c)
{
	bug_on(w->depth == 0);
	w->depth--;
	if (w->need_comma)
		new_line(w);
	strbuf_putc(w->out, c);
	w->need_comma = true;
}

void jsonw_obj(struct jsonw *w, const char *key)
{
	begin_c(w, key);
	open(w, '{');
}

void jsonw_end_obj(struct jsonw *w)
{
	close(w, '}');
}

void jsonw_list(struct jsonw *w, const char *key)
{
	begin_c(w, key);
	open(w, '[');
}

void jsonw_end_list(struct jsonw *w)
{
	close(w, ']');
}

void jsonw_str(struct jsonw *w, const char *key, struct str v)
{
	begin_c(w, key);
	put_text(w->out, v);
}

void jsonw_cstr(struct jsonw *w, const char *key, const char *v)
{
	if (v == NULL)
		jsonw_null(w, key);
	else
		jsonw_str(w, key, str_of(v));
}

void jsonw_int(struct jsonw *w, const char *key, long long v)
{
	begin_c(w, key);
	strbuf_printf(w->out, "%lld", v);
}

void jsonw_bool(struct jsonw *w, const char *key, bool v)
{
	begin_c(w, key);
	strbuf_puts(w->out, v ? "true" : "false");
}

void jsonw_null(struct jsonw *w, const char *key)
{
	begin_c(w, key);
	strbuf_puts(w->out, "null");
}

void jsonw_raw(struct jsonw *w, const char *key, struct str json)
{
	begin_c(w, key);
	strbuf_str(w->out, json);
}

void jsonw_obj_k(struct jsonw *w, struct str key)
{
	begin(w, &key);
	open(w, '{');
}

void jsonw_list_k(struct jsonw *w, struct str key)
{
	begin(w, &key);
	open(w, '[');
}

void jsonw_str_k(struct jsonw *w, struct str key, struct str v)
{
	begin(w, &key);
	put_text(w->out, v);
}
