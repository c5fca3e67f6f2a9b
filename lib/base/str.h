/* SPDX-License-Identifier: Apache-2.0
 * str.h: strings with a length, a growable buffer, and numbers from text.
 *
 * What comes from a peer is a `struct str`: it may hold any byte, NUL included, and does not own
 * its memory. str_to_cstr() is the one border to C strings; it refuses an embedded NUL.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "lib/base/attr.h"

struct err;
struct arena;

struct str {
	const char *p;
	size_t n;
};

#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})
/* printf("%.*s", STR_FMT(s)) */
#define STR_FMT(s) (int)(s).n, (s).p

static inline struct str str_of(const char *s)
{
	return (struct str){s, s != NULL ? strlen(s) : 0};
}
static inline bool str_eq(struct str a, struct str b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_eqc(struct str a, const char *b)
{
	/* most comparisons with a list of names end at the first character */
	if (b == NULL || (a.n != 0 && a.p[0] != b[0]))
		return b == NULL && a.n == 0;
	return str_eq(a, str_of(b));
}
/* Of names whose case says nothing (ASCII, whatever the locale): hosts, headers. */
static inline char ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}
bool str_eq_nocase(struct str a, struct str b);
bool str_has_prefix(struct str s, struct str prefix);
bool str_has_suffix(struct str s, struct str suffix);
/* Splits at the first @c: @ret_head gets what is before it and @s what is after; false (untouched)
 * if there is none. */
bool str_cut(struct str *s, char c, struct str *ret_head);
struct str str_trim(struct str s); /* blanks and tabs at both ends */
/* Takes the next word off a line, between blanks, tabs and carriage returns; empty at its end. */
struct str str_word(struct str *line);
/* Copies into @buf with a NUL. -EINVAL on an embedded NUL, -ENAMETOOLONG if it does not fit. */
int str_to_cstr(struct str s, char *buf, size_t cap, struct err *err) _must_check_;
/* Length of the valid character at the start, 0 without one (RFC 3629: no surrogates, no overlong
 * forms; NUL does not count). */
size_t str_utf8_len(struct str s);
/* True for valid UTF-8 without NUL. */
bool str_is_utf8(struct str s);
int char_hex(char c); /* value of a hexadecimal digit of either case; -1 for another character */
/* Writes a shortened, escaped copy of @s (for error messages and logs): at most @cap-1 characters,
 * control characters and quotes as \xNN. Returns @buf. */
const char *str_show(struct str s, char *buf, size_t cap);
#define STR_SHOW_MAX 96
#define str_shown(s) str_show((s), (char[STR_SHOW_MAX]){0}, STR_SHOW_MAX)

/* Full-match, range-checked decimal numbers. 0 or -EINVAL / -ERANGE. No sign, no blank, no leading
 * zero except "0" itself. */
int parse_u64(struct str s, uint64_t min, uint64_t max, uint64_t *ret) _must_check_;
int parse_u32(struct str s, uint32_t min, uint32_t max, uint32_t *ret) _must_check_;
int parse_u16(struct str s, uint16_t min, uint16_t max, uint16_t *ret) _must_check_;
/* Durations as in "10s", "1m30s", "500ms", "2h"; a bare number is seconds
 * (ztunnel-spec 2.1). Result in milliseconds. */
int parse_duration_ms(struct str s, uint64_t *ret_ms) _must_check_;

/* Growable text buffer, always NUL-terminated once written to. */
struct strbuf {
	char *p;
	size_t n, cap;
};
void strbuf_fini(struct strbuf *b); /* frees; the buffer is empty again */
void strbuf_add(struct strbuf *b, const void *p, size_t n);
void strbuf_str(struct strbuf *b, struct str s);
void strbuf_puts(struct strbuf *b, const char *s);
void strbuf_putc(struct strbuf *b, char c);
void strbuf_printf(struct strbuf *b, const char *fmt, ...) _printf_(2, 3);
char *strbuf_take(struct strbuf *b); /* the caller frees */
#define _cleanup_strbuf_ _cleanup_(strbuf_fini)
