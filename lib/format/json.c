/* SPDX-License-Identifier: Apache-2.0
 * json.c: JSON text to a document tree; see json.h. Pure. Writing is in jsonw.c.
 *
 * Theory of operation. Three passes, each linear in the input:
 *   1. survey(): string-aware scan that bounds depth and the number of values and allows only
 *      plain characters in numbers and literals. It runs first because jsmn has no depth limit and
 *      walks its parent links at every closing bracket: depth times size is its cost.
 *   2. jsmn (strict, parent links) finds where every value starts and ends.
 *   3. The walk: a recursive descent (depth is bounded by then) over the text, taking the next
 *      token at every value. It enforces the grammar, which jsmn does not: jsmn accepts `[1,,2]`,
 *      `{"a" "b"}`, `01`, `tru`, a trailing comma and raw control characters.
 */
#include "lib/format/json.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#define JSMN_STATIC
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <jsmn.h>
#pragma GCC diagnostic pop

struct parser {
	struct str in;
	const jsmntok_t *tok;
	size_t ntok, next_tok;
	size_t pos;
	unsigned int line;
	struct arena *a;
	struct err *err;
};

static int fail_at(struct err *err, int code, struct str in, size_t pos, const char *what)
{
	unsigned int line = 1;

	for (size_t i = 0; i < pos && i < in.n; i++)
		line += in.p[i] == '\n';
	return err_set(err, code, "JSON line %u, offset %zu: %s", line, pos, what);
}

static int fail(struct parser *p, const char *what)
{
	return fail_at(p->err, EINVAL, p->in, p->pos, what);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_word(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       c == '+' || c == '-' || c == '.';
}

/* Position after the string that opens at @i; in.n when it does not end. */
static size_t skip_string(struct str in, size_t i)
{
	for (i++; i < in.n && in.p[i] != '"'; i++)
		if (in.p[i] == '\\')
			i++;
	return i < in.n ? i + 1 : in.n;
}

/* A number or literal must end where jsmn ends it too, or the two would see different brackets. */
static int skip_word(struct str in, size_t *pos, struct err *err)
{
	size_t i = *pos;

	while (i < in.n && is_word(in.p[i]))
		i++;
	if (i == *pos)
		return fail_at(err, EINVAL, in, i, "unexpected character");
	if (i < in.n && !is_blank(in.p[i]) && in.p[i] != ',' && in.p[i] != ']' && in.p[i] != '}')
		return fail_at(err, EINVAL, in, i, "unexpected character in a number or literal");
	*pos = i;
	return 0;
}

static int survey(struct str in, size_t *ret_values, struct err *err)
{
	size_t depth = 0, values = 0, i = 0;

	if (in.n > INT_MAX / 2)
		return err_set(err, E2BIG, "JSON text of %zu bytes is too large", in.n);
	while (i < in.n) {
		char c = in.p[i];

		if (is_blank(c) || c == ',' || c == ':') {
			i++;
			continue;
		}
		if (c == '}' || c == ']') {
			if (depth == 0)
				return fail_at(err, EINVAL, in, i, "unexpected closing bracket");
			depth--;
			i++;
			continue;
		}
		if (++values > LIMIT_DOC_NODES)
			return fail_at(err, E2BIG, in, i, "too many values");
		if (c == '{' || c == '[') {
			if (++depth > LIMIT_DOC_DEPTH)
				return fail_at(err, E2BIG, in, i, "nested too deeply");
			i++;
		} else if (c == '"') {
			i = skip_string(in, i);
		} else {
			int r = skip_word(in, &i, err);

			if (r < 0)
				return r;
		}
	}
	*ret_values = values;
	return 0;
}

static void skip_blanks(struct parser *p)
{
	while (p->pos < p->in.n && is_blank(p->in.p[p->pos]))
		p->line += p->in.p[p->pos++] == '\n';
}

static char peek(const struct parser *p)
{
	return p->pos < p->in.n ? p->in.p[p->pos] : '\0';
}

/* The next token, which must start at @start: the walk and jsmn agree or the text is refused. */
static const jsmntok_t *take_token(struct parser *p, jsmntype_t type, size_t start)
{
	const jsmntok_t *t;

	if (p->next_tok >= p->ntok)
		return NULL;
	t = &p->tok[p->next_tok];
	if (t->type != type || (size_t)t->start != start || t->end < t->start)
		return NULL;
	p->next_tok++;
	return t;
}

static int hex4(struct str s, size_t at, unsigned int *ret)
{
	unsigned int v = 0;

	if (s.n - at < 4)
		return -EINVAL;
	for (size_t i = at; i < at + 4; i++) {
		int digit = char_hex(s.p[i]);

		if (digit < 0)
			return -EINVAL;
		v = v << 4 | (unsigned int)digit;
	}
	*ret = v;
	return 0;
}

static size_t put_utf8(char *out, unsigned int cp)
{
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		out[0] = (char)(0xc0 | cp >> 6);
		out[1] = (char)(0x80 | (cp & 0x3f));
		return 2;
	}
	if (cp < 0x10000) {
		out[0] = (char)(0xe0 | cp >> 12);
		out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
		out[2] = (char)(0x80 | (cp & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | cp >> 18);
	out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
	out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
	out[3] = (char)(0x80 | (cp & 0x3f));
	return 4;
}

/* \uXXXX at @at (the backslash), with its second half for characters outside the base plane.
 * Returns the bytes consumed or -EINVAL. */
static int unescape_u(struct parser *p, struct str s, size_t at, unsigned int *ret)
{
	unsigned int hi, lo;

	if (hex4(s, at + 2, &hi) != 0)
		return fail(p, "\\u needs four hexadecimal digits");
	if (hi == 0)
		return fail(p, "\\u0000 is not allowed in text");
	if (hi < 0xd800 || hi > 0xdfff) {
		*ret = hi;
		return 6;
	}
	if (hi > 0xdbff || s.n - at < 12 || s.p[at + 6] != '\\' || s.p[at + 7] != 'u' ||
	    hex4(s, at + 8, &lo) != 0 || lo < 0xdc00 || lo > 0xdfff)
		return fail(p, "half of a surrogate pair");
	*ret = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
	return 12;
}

/* Decodes @s, which has at least one escape, into the arena. Decoding never grows a text. */
static int unescape(struct parser *p, struct str s, struct str *ret)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char *out = arena_alloc(p->a, s.n + 1);
	size_t o = 0, i = 0;

	while (i < s.n) {
		const char *at;

		if (s.p[i] != '\\') {
			out[o++] = s.p[i++];
			continue;
		}
		if (s.n - i < 2)
			return fail(p, "unfinished escape");
		if (s.p[i + 1] == 'u') {
			unsigned int cp = 0;
			int n = unescape_u(p, s, i, &cp);

			if (n < 0)
				return n;
			o += put_utf8(out + o, cp);
			i += (size_t)n;
			continue;
		}
		at = memchr(from, s.p[i + 1], sizeof(from) - 1);
		if (at == NULL)
			return fail(p, "unknown escape");
		out[o++] = to[at - from];
		i += 2;
	}
	*ret = (struct str){out, o};
	return 0;
}

static int parse_text(struct parser *p, struct str *ret)
{
	const jsmntok_t *t = take_token(p, JSMN_STRING, p->pos + 1);
	struct str s;
	int r = 0;

	if (t == NULL)
		return fail(p, "expected text");
	s = (struct str){p->in.p + t->start, (size_t)(t->end - t->start)};
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 0x20)
			return fail(p, "control character in text");
	if (!str_is_utf8(s))
		return fail(p, "text is not UTF-8");
	if (s.n != 0 && memchr(s.p, '\\', s.n) != NULL)
		r = unescape(p, s, &s);
	if (r < 0)
		return r;
	p->pos = (size_t)t->end + 1;
	*ret = s;
	return 0;
}

static size_t digits(struct str s, size_t i)
{
	size_t from = i;

	while (i < s.n && s.p[i] >= '0' && s.p[i] <= '9')
		i++;
	return i - from;
}

static bool is_number(struct str s)
{
	size_t i = 0, n;

	if (i < s.n && s.p[i] == '-')
		i++;
	n = digits(s, i);
	if (n == 0 || (n > 1 && s.p[i] == '0'))
		return false;
	i += n;
	if (i < s.n && s.p[i] == '.') {
		n = digits(s, ++i);
		if (n == 0)
			return false;
		i += n;
	}
	if (i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
		i++;
		if (i < s.n && (s.p[i] == '+' || s.p[i] == '-'))
			i++;
		n = digits(s, i);
		if (n == 0)
			return false;
		i += n;
	}
	return i == s.n;
}

static int word_value(struct parser *p, struct str s, struct doc *d)
{
	if (str_eqc(s, "true") || str_eqc(s, "false")) {
		d->kind = DOC_BOOL;
		d->truth = s.p[0] == 't';
	} else if (str_eqc(s, "null")) {
		d->kind = DOC_NULL;
	} else if (is_number(s)) {
		d->kind = DOC_NUMBER;
		d->text = s;
	} else {
		return fail(p, "expected a value");
	}
	p->pos += s.n;
	return 0;
}

static int parse_value(struct parser *p, struct doc *d);

static int parse_member(struct parser *p, struct doc *map, struct doc *d)
{
	int r;

	if (map->kind == DOC_MAP) {
		if (peek(p) != '"')
			return fail(p, "expected a key in quotes");
		r = parse_text(p, &d->key);
		if (r < 0)
			return r;
		skip_blanks(p);
		if (peek(p) != ':')
			return fail(p, "expected ':' after the key");
		p->pos++;
		skip_blanks(p);
	}
	return parse_value(p, d);
}

static int parse_children(struct parser *p, struct doc *d, char close)
{
	struct doc **tail = &d->child;
	const struct doc *dup;
	char path[120];
	int r;

	p->pos++;
	skip_blanks(p);
	while (peek(p) != close || d->count != 0) {
		struct doc *c = arena_alloc(p->a, sizeof(*c));

		c->parent = d;
		c->index = d->count++;
		*tail = c;
		tail = &c->next;
		r = parse_member(p, d, c);
		if (r < 0)
			return r;
		skip_blanks(p);
		if (peek(p) == close)
			break;
		if (peek(p) != ',')
			return fail(p,
				    close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
		p->pos++;
		skip_blanks(p);
	}
	p->pos++;
	dup = d->kind == DOC_MAP ? doc_duplicate(d) : NULL;
	if (dup != NULL)
		return err_set(p->err, EINVAL, "JSON line %u: field %s appears twice", dup->line,
			       doc_path(dup, path, sizeof(path)));
	return 0;
}

/* One value at p->pos. Recursion is bounded by survey(). */
static int parse_value(struct parser *p, struct doc *d)
{
	size_t start = p->pos;
	char c = peek(p);
	const jsmntok_t *t;
	int r;

	d->line = p->line;
	if (c == '"') {
		d->kind = DOC_TEXT;
		r = parse_text(p, &d->text);
	} else if (c == '{' || c == '[') {
		if (take_token(p, c == '{' ? JSMN_OBJECT : JSMN_ARRAY, start) == NULL)
			return fail(p, "unexpected bracket");
		d->kind = c == '{' ? DOC_MAP : DOC_LIST;
		r = parse_children(p, d, c == '{' ? '}' : ']');
	} else {
		t = take_token(p, JSMN_PRIMITIVE, start);
		if (t == NULL)
			return fail(p, "expected a value");
		r = word_value(p, (struct str){p->in.p + start, (size_t)(t->end - t->start)}, d);
	}
	if (r == 0)
		d->raw = (struct str){p->in.p + start, p->pos - start};
	return r;
}

/* jsmn's strict mode wants a bracket around numbers and literals; RFC 8259 allows them alone. */
static int bare_word(struct parser *p, struct doc *d)
{
	size_t end = p->pos;

	while (end < p->in.n && is_word(p->in.p[end]))
		end++;
	d->line = p->line;
	d->raw = (struct str){p->in.p + p->pos, end - p->pos};
	return word_value(p, d->raw, d);
}

static int parse_top(struct parser *p, jsmntok_t *tok, size_t values, struct doc *d)
{
	jsmn_parser jp;
	int n;

	skip_blanks(p);
	if (p->pos == p->in.n)
		return fail(p, "no value in it");
	if (is_word(peek(p)))
		return bare_word(p, d);
	jsmn_init(&jp);
	n = jsmn_parse(&jp, p->in.p, p->in.n, tok, (unsigned int)values);
	if (n == JSMN_ERROR_PART)
		return fail_at(p->err, EINVAL, p->in, p->in.n, "the text ends too early");
	if (n < 0)
		return fail_at(p->err, EINVAL, p->in, jp.pos, "not JSON from here on");
	p->tok = tok;
	p->ntok = (size_t)n;
	return parse_value(p, d);
}

int json_parse(struct str in, struct arena *a, const struct doc **ret, struct err *err)
{
	struct parser p = {.in = in, .line = 1, .a = a, .err = err};
	_cleanup_free_ jsmntok_t *tok = NULL;
	struct doc *d = arena_alloc(a, sizeof(*d));
	size_t values = 0;
	int r = survey(in, &values, err);

	if (r < 0)
		return r;
	tok = calloc(values + 1, sizeof(*tok));
	if (tok == NULL)
		return err_set(err, ENOMEM, "no memory for JSON of %zu values", values);
	r = parse_top(&p, tok, values, d);
	if (r < 0)
		return r;
	skip_blanks(&p);
	if (p.pos != in.n)
		return fail(&p, "something follows the document");
	*ret = d;
	return 0;
}
