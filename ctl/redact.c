/* SPDX-License-Identifier: Apache-2.0
 * redact.c: see redact.h. Pure.
 *
 * One pass: at each place a list of recognisers is asked how many bytes of a secret begin there.
 * What has to be read to know, they read from the start of a word only: linear in the text.
 */
#include "ctl/redact.h"

#include <strings.h>

#include "lib/base/mem.h"

#define MARK	      "[redacted]"
#define JWT_MIN	      20
#define PEM_LABEL_MAX 40
#define URL_USER_MAX  512

static bool is_base64(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '+' || c == '/' || c == '=' || c == '-' || c == '_';
}

static bool is_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '_' || c == '-' || c == '.';
}

static bool starts(struct str s, const char *with)
{
	return str_has_prefix(s, str_of(with));
}

static bool starts_any_case(struct str s, const char *with)
{
	size_t n = strlen(with);

	return s.n >= n && strncasecmp(s.p, with, n) == 0;
}

static struct str from(struct str s, size_t n)
{
	return (struct str){s.p + n, s.n - n};
}

/* "-----BEGIN EC PRIVATE KEY-----" up to the end of its last line; everything when that is missing.
 */
static size_t private_key(struct str s)
{
	const char *label, *end;

	if (!starts(s, "-----BEGIN "))
		return 0;
	label = memmem(s.p, s.n < PEM_LABEL_MAX ? s.n : PEM_LABEL_MAX, "PRIVATE KEY-----", 16);
	if (label == NULL)
		return 0;
	end = memmem(label, (size_t)(s.p + s.n - label), "-----END ", 9);
	if (end == NULL)
		return s.n;
	end += 9;
	end = memmem(end, (size_t)(s.p + s.n - end), "-----", 5);
	return end != NULL ? (size_t)(end + 5 - s.p) : s.n;
}

/* The same in base64: "-----BEGIN" begins like this. */
static size_t encoded_pem(struct str s)
{
	size_t n = 0;

	if (!starts(s, "LS0tLS1CRUdJT"))
		return 0;
	while (n < s.n && is_base64(s.p[n]))
		n++;
	return n;
}

/* Header and claims begin with {" in base64. */
static size_t web_token(struct str s)
{
	size_t n = 0, dots = 0;

	if (!starts(s, "eyJ"))
		return 0;
	while (n < s.n && (is_word(s.p[n]) || s.p[n] == '='))
		dots += s.p[n++] == '.';
	return dots != 0 && n >= JWT_MIN ? n : 0;
}

static size_t not_blank(struct str s)
{
	size_t n = 0;

	while (n < s.n && s.p[n] > ' ' && s.p[n] != '"' && s.p[n] != '\'' && s.p[n] != '\\')
		n++;
	return n;
}

/* The names whose values are secret, and the endings that make them harmless. */
static bool is_secret_name(struct str name)
{
	static const char *const parts[] = {
		"token",    "passw",  "secret",	 "privatekey", "private-key", "private_key",
		"key-data", "apikey", "api-key", "api_key",    "credential",  "authorization"};
	static const char *const harmless[] = {"file",	"path", "dir",	    "_name", "name",
					       "names", "ref",	"audience", "ttl"};

	for (size_t k = 0; k < ARRAY_LEN(harmless); k++) {
		size_t n = strlen(harmless[k]);

		if (name.n > n && strncasecmp(name.p + name.n - n, harmless[k], n) == 0)
			return false;
	}
	for (size_t i = 0; i < name.n; i++)
		for (size_t k = 0; k < ARRAY_LEN(parts); k++)
			if (starts_any_case(from(name, i), parts[k]))
				return true;
	return false;
}

/* How long a quoted text is inside its quotes. A quote that the JSON around it escapes (\") counts
 * as the text's own end when it began like that. */
static size_t quoted(struct str s, char quote, bool escaped)
{
	size_t n = 0;

	while (n < s.n && s.p[n] != '\n') {
		if (escaped && s.p[n] == '\\' && n + 1 < s.n && s.p[n + 1] == quote)
			return n;
		if (s.p[n] == quote)
			return n;
		n += s.p[n] == '\\' && n + 1 < s.n ? 2 : 1;
	}
	return n < s.n ? n : s.n;
}

/* After "[": texts up to the bracket that closes them. 0 for a list of anything else. */
static size_t list_of_texts(struct str s)
{
	size_t n = 0, value = 0;

	while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\t' || s.p[n] == '\n' || s.p[n] == '\r'))
		n++;
	if (n == s.n || (s.p[n] != '"' && s.p[n] != '\''))
		return 0;
	while (n < s.n && s.p[n] != ']') {
		char c = s.p[n++];

		if (c == '"' || c == '\'') {
			value = quoted(from(s, n), c, false);
			n += n + value < s.n ? value + 1 : value;
		}
	}
	return n;
}

/* How far the line that @i is in is indented. */
static size_t indent(struct str line)
{
	size_t n = 0;

	while (n < line.n && line.p[n] == ' ')
		n++;
	return n;
}

/* After "|" or ">" of YAML: its own line, and the lines that are a block, as deep as the first.
 * False when it is no such mark. */
static bool block(struct str s, size_t *ret_head, size_t *ret_value)
{
	size_t n = 0, deep = 0;

	while (n < s.n && strchr("+-0123456789 \r", s.p[n]) != NULL && s.p[n] != '\0')
		n++;
	if (n == s.n || s.p[n] != '\n')
		return false;
	*ret_head = ++n;
	while (n < s.n) {
		struct str rest = from(s, n), line;
		size_t in;

		if (!str_cut(&rest, '\n', &line))
			line = from(s, n);
		in = indent(line);
		if (in < line.n) {
			deep = deep == 0 ? in : deep;
			if (in == 0 || in < deep)
				break;
		}
		n += line.n + (n + line.n < s.n);
	}
	*ret_value = n - *ret_head;
	return true;
}

static bool one_of(struct str s, const char *set)
{
	return s.n == 0 || (s.p[0] != '\0' && strchr(set, s.p[0]) != NULL);
}

/* A number or word of JSON, and what must follow it in an object; 0 when it is something else. */
static size_t json_scalar(struct str s)
{
	size_t n = 0, end;

	while (n < s.n && (is_word(s.p[n]) || s.p[n] == '+'))
		n++;
	for (end = n; end < s.n && (s.p[end] == ' ' || s.p[end] == '\t');)
		end++;
	if (n == 0 || !one_of(from(s, end), ",}]\r\n\\\""))
		return 0;
	if (end < s.n && s.p[end] == ',' && !one_of(from(s, end + 1), " \t\r\n\\\""))
		return 0;
	return n;
}

static size_t plain_word(struct str s)
{
	static const char *const words[] = {"true", "false", "null"};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (starts(s, words[i]) && one_of(from(s, strlen(words[i])), ",}] \t\r\n\\\""))
			return strlen(words[i]);
	return 0;
}

/* A value without quotes: a scalar of JSON behind a name in quotes (@json), else all to the end of
 * the line, for in YAML, NAME=value and headers commas, brackets, blanks and quotes are part of it;
 * inside of a quoted text (@inside) to its end, or to a line's end that is escaped in it. */
static size_t bare(struct str s, bool json, bool inside)
{
	size_t n = plain_word(s);

	if (n == 0 && json)
		n = json_scalar(s);
	if (n != 0)
		return n;
	for (; n < s.n && s.p[n] != '\r' && s.p[n] != '\n'; n++)
		if (inside && (s.p[n] == '"' || (s.p[n] == '\\' && one_of(from(s, n + 1), "nr\""))))
			break;
	return n;
}

/* After a secret's name: what comes before its value, and the value. 0 for no value. @inside: the
 * name is inside of a quoted text, or is one itself. */
static size_t value_after(struct str s, bool inside, size_t *ret_value)
{
	bool escaped = false, json = false, deep = false;
	size_t n = 0, head;
	char quote;

	if (n < s.n && s.p[n] == '\\') {
		n++;
		deep = true;
	}
	if (n < s.n && (s.p[n] == '"' || s.p[n] == '\'')) {
		n++;
		json = true;
	}
	while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\t'))
		n++;
	if (n == s.n || (s.p[n] != ':' && s.p[n] != '='))
		return 0;
	n++;
	while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\t'))
		n++;
	if (n + 1 < s.n && s.p[n] == '\\' && s.p[n + 1] == '"') {
		escaped = true;
		n++;
	}
	if (n == s.n)
		return 0;
	quote = s.p[n];
	if (quote == '"' || quote == '\'') {
		n++;
		*ret_value = quoted(from(s, n), quote, escaped);
		return n;
	}
	if (quote == '{')
		return 0;
	if (quote == '[') {
		*ret_value = list_of_texts(from(s, n + 1));
		return *ret_value != 0 ? n + 1 : 0;
	}
	if ((quote == '|' || quote == '>') && block(from(s, n + 1), &head, ret_value))
		return n + 1 + head;
	/* a name in plain quotes is over: what it was inside of is no text any more */
	*ret_value = bare(from(s, n), json, inside && (deep || !json));
	return n;
}

static bool is_plain(struct str v)
{
	return v.n == 0 || str_eqc(v, "true") || str_eqc(v, "false") || str_eqc(v, "null");
}

/* A whole word at @s: copies name and what follows it, leaves out the value. */
static size_t named(struct str s, size_t word, bool inside, struct strbuf *out)
{
	size_t value = 0, skip;

	if (!is_secret_name((struct str){s.p, word}))
		return 0;
	skip = value_after(from(s, word), inside, &value);
	if (skip == 0 || is_plain((struct str){s.p + word + skip, value}))
		return 0;
	strbuf_add(out, s.p, word + skip);
	strbuf_puts(out, MARK);
	return word + skip + value;
}

/* "://me:password@": how much is before the '@'. */
static size_t user_of_url(struct str s)
{
	bool colon = false;

	if (!starts(s, "://"))
		return 0;
	for (size_t n = 3; n < s.n && n < URL_USER_MAX; n++) {
		char c = s.p[n];

		if (c == '@')
			return colon ? n : 0;
		if (c <= ' ' || c == '/' || c == '"' || c == '\'' || c == '\\')
			return 0;
		colon |= c == ':';
	}
	return 0;
}

static size_t by_form(struct str s, bool in_word)
{
	size_t n = private_key(s);

	if (n == 0 && !in_word)
		n = encoded_pem(s);
	if (n == 0 && !in_word)
		n = web_token(s);
	return n;
}

/* "Bearer x", "Basic x": the value. */
static size_t authorization(struct str s, struct strbuf *out)
{
	size_t n = starts_any_case(s, "bearer ") ? 7 : starts_any_case(s, "basic ") ? 6 : 0, v;

	if (n == 0)
		return 0;
	v = not_blank(from(s, n));
	if (v < 8)
		return 0;
	strbuf_add(out, s.p, n);
	strbuf_puts(out, MARK);
	return n + v;
}

/* Where the text that was passed on ends. */
struct place {
	bool inside;  /* of double quotes; they end with their line */
	bool escaped; /* the next character belongs to a backslash */
	bool in_word;
};

static void advance(struct place *at, struct str shown)
{
	for (size_t i = 0; i < shown.n; i++) {
		char c = shown.p[i];

		at->in_word = is_word(c) && !at->escaped;
		if (c == '\n')
			at->inside = false;
		else if (c == '"' && !at->escaped)
			at->inside = !at->inside;
		at->escaped = c == '\\' && !at->escaped;
	}
}

size_t ctl_redact(struct str in, struct strbuf *out)
{
	struct place at = {0};
	size_t taken = 0;

	for (size_t i = 0; i < in.n;) {
		struct str s = from(in, i);
		size_t n = by_form(s, at.in_word), word = 0, shown = out->n;

		if (n != 0) {
			strbuf_puts(out, MARK);
		} else if ((n = user_of_url(s)) != 0) {
			strbuf_puts(out, "://" MARK);
		} else if (!at.in_word && !at.escaped && is_word(in.p[i])) {
			while (word < s.n && is_word(s.p[word]))
				word++;
			n = authorization(s, out);
			if (n == 0)
				n = named(s, word, at.inside, out);
		}
		taken += n != 0;
		if (n == 0) {
			strbuf_putc(out, in.p[i]);
			n = 1;
		}
		advance(&at, (struct str){out->p + shown, out->n - shown});
		i += n;
	}
	return taken;
}
