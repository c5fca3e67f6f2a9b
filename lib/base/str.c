/* SPDX-License-Identifier: Apache-2.0
 * str.c: see str.h. Pure.
 */
#include "lib/base/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

struct str str_word(struct str *line)
{
	struct str w;

	while (line->n != 0 && is_blank(line->p[0]))
		*line = (struct str){line->p + 1, line->n - 1};
	w = (struct str){line->p, 0};
	while (w.n < line->n && !is_blank(line->p[w.n]))
		w.n++;
	*line = (struct str){line->p + w.n, line->n - w.n};
	return w;
}

bool str_eq_nocase(struct str a, struct str b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
			return false;
	return true;
}

bool str_has_prefix(struct str s, struct str prefix)
{
	return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

bool str_has_suffix(struct str s, struct str suffix)
{
	return s.n >= suffix.n &&
	       (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

bool str_cut(struct str *s, char c, struct str *ret_head)
{
	const char *at = s->n != 0 ? memchr(s->p, c, s->n) : NULL;

	if (at == NULL)
		return false;
	*ret_head = (struct str){s->p, (size_t)(at - s->p)};
	s->n -= (size_t)(at - s->p) + 1;
	s->p = at + 1;
	return true;
}

struct str str_trim(struct str s)
{
	while (s.n != 0 && (s.p[0] == ' ' || s.p[0] == '\t')) {
		s.p++;
		s.n--;
	}
	while (s.n != 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

int str_to_cstr(struct str s, char *buf, size_t cap, struct err *err)
{
	if (s.n != 0 && memchr(s.p, '\0', s.n) != NULL)
		return err_set(err, EINVAL, "text contains a NUL byte");
	if (s.n >= cap)
		return err_set(err, ENAMETOOLONG, "text of %zu bytes is longer than %zu", s.n,
			       cap - 1);
	if (s.n != 0)
		memcpy(buf, s.p, s.n);
	buf[s.n] = '\0';
	return 0;
}

size_t str_utf8_len(struct str s)
{
	unsigned int need, cp, min;
	unsigned char c;

	if (s.n == 0 || s.p[0] == '\0')
		return 0;
	c = (unsigned char)s.p[0];
	if (c < 0x80)
		return 1;
	if ((c & 0xe0) == 0xc0) {
		need = 1;
		cp = c & 0x1f;
		min = 0x80;
	} else if ((c & 0xf0) == 0xe0) {
		need = 2;
		cp = c & 0x0f;
		min = 0x800;
	} else if ((c & 0xf8) == 0xf0) {
		need = 3;
		cp = c & 0x07;
		min = 0x10000;
	} else {
		return 0;
	}
	if (s.n <= need)
		return 0;
	for (unsigned int k = 1; k <= need; k++) {
		unsigned char d = (unsigned char)s.p[k];

		if ((d & 0xc0) != 0x80)
			return 0;
		cp = cp << 6 | (d & 0x3f);
	}
	if (cp < min || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return 0;
	return need + 1;
}

/* How many of the first characters are plain ASCII and no NUL; not all that are need be counted. */
static size_t plain_run(struct str s)
{
	const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
	size_t n = 0;

	for (uint64_t v; s.n - n >= sizeof(v); n += sizeof(v)) {
		memcpy(&v, s.p + n, sizeof(v));
		if (((v | (v - ones)) & tops) != 0) /* a top bit, or a borrow from zero */
			break;
	}
	return n;
}

bool str_is_utf8(struct str s)
{
	while (s.n != 0) {
		size_t n = plain_run(s);

		if (n == 0)
			n = str_utf8_len(s);
		if (n == 0)
			return false;
		s.p += n;
		s.n -= n;
	}
	return true;
}

int char_hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

const char *str_show(struct str s, char *buf, size_t cap)
{
	static const char hex[] = "0123456789abcdef";
	size_t o = 0;

	bug_on(cap < 8);
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		bool plain = c >= 0x20 && c != 0x7f && c != '"' && c != '\\';

		if (o + (plain ? 1 : 4) + 3 >= cap) {
			memcpy(buf + o, "...", 3);
			o += 3;
			break;
		}
		if (plain) {
			buf[o++] = (char)c;
		} else {
			buf[o++] = '\\';
			buf[o++] = 'x';
			buf[o++] = hex[c >> 4];
			buf[o++] = hex[c & 15];
		}
	}
	buf[o] = '\0';
	return buf;
}

int parse_u64(struct str s, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (s.n == 0 || (s.n > 1 && s.p[0] == '0'))
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
			return -ERANGE;
	}
	if (v < min || v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}

int parse_u32(struct str s, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint64_t v;
	int r = parse_u64(s, min, max, &v);

	if (r == 0)
		*ret = (uint32_t)v;
	return r;
}

int parse_u16(struct str s, uint16_t min, uint16_t max, uint16_t *ret)
{
	uint64_t v;
	int r = parse_u64(s, min, max, &v);

	if (r == 0)
		*ret = (uint16_t)v;
	return r;
}

int parse_duration_ms(struct str s, uint64_t *ret_ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {"d", 86400000}};
	uint64_t total = 0;

	if (s.n == 0)
		return -EINVAL;
	while (s.n != 0) {
		size_t digits = 0, letters, i;
		uint64_t v;

		while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9')
			digits++;
		if (parse_u64((struct str){s.p, digits}, 0, UINT64_MAX / 86400000, &v) != 0)
			return -EINVAL;
		letters = digits;
		while (letters < s.n && s.p[letters] >= 'a' && s.p[letters] <= 'z')
			letters++;
		if (letters == digits) { /* a bare number: seconds, and nothing may follow */
			if (digits != s.n || total != 0)
				return -EINVAL;
			*ret_ms = v * 1000;
			return 0;
		}
		for (i = 0; i < ARRAY_LEN(units); i++)
			if (str_eqc((struct str){s.p + digits, letters - digits}, units[i].unit))
				break;
		if (i == ARRAY_LEN(units))
			return -EINVAL;
		total += v * units[i].ms;
		s.p += letters;
		s.n -= letters;
	}
	*ret_ms = total;
	return 0;
}

static void grow(struct strbuf *b, size_t n)
{
	size_t need = b->n + n + 1;

	bug_on(need < n);
	if (need <= b->cap)
		return;
	b->cap = need < 64 ? 64 : need + need / 2;
	b->p = xrealloc_array(b->p, b->cap, 1);
}

void strbuf_fini(struct strbuf *b)
{
	free(b->p);
	*b = (struct strbuf){0};
}

void strbuf_add(struct strbuf *b, const void *p, size_t n)
{
	grow(b, n);
	if (n != 0)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	b->p[b->n] = '\0';
}

void strbuf_str(struct strbuf *b, struct str s)
{
	strbuf_add(b, s.p, s.n);
}

void strbuf_puts(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s));
}

void strbuf_putc(struct strbuf *b, char c)
{
	strbuf_add(b, &c, 1);
}

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap, again;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	bug_on(n < 0);
	grow(b, (size_t)n);
	(void)vsnprintf(b->p + b->n, b->cap - b->n, fmt, again);
	va_end(again);
	b->n += (size_t)n;
}

char *strbuf_take(struct strbuf *b)
{
	char *p = b->p != NULL ? b->p : xstrdup("");

	*b = (struct strbuf){0};
	return p;
}
