/* SPDX-License-Identifier: Apache-2.0
 * http1_parse.c: see http1_parse.h.
 */
#include "lib/wire/http1_parse.h"

#include <errno.h>
#include <strings.h>

#define CHUNK_OVERHEAD_MAX (64u << 10) /* sizes, extensions and trailers of one body */
#define CHUNK_SIZE_MAX	   (1ull << 40)

size_t http1_head_end(struct str in)
{
	const char *at = in.n >= 4 ? memmem(in.p, in.n, "\r\n\r\n", 4) : NULL;

	return at != NULL ? (size_t)(at - in.p) + 4 : 0;
}

static bool is_token_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(const char *s)
{
	if (*s == '\0')
		return false;
	for (; *s != '\0'; s++)
		if (!is_token_char(*s))
			return false;
	return true;
}

/* Visible characters; field values also blanks and tabs. */
static bool is_text(const char *s, bool blanks)
{
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == 0x7f || c < 0x20 || c == ' ') {
			if (!(blanks && (c == ' ' || c == '\t')))
				return false;
		}
	}
	return true;
}

/* Ends the line at its CRLF and returns the next one; NULL when there is no line. */
static char *line_end(char *line, char *end)
{
	char *at = memmem(line, (size_t)(end - line), "\r\n", 2);

	if (at == NULL || memchr(line, '\0', (size_t)(at - line)) != NULL)
		return NULL;
	*at = '\0';
	return at + 2;
}

/* %XX and '+' in place. A NUL or a bad escape is an error. */
static int decode(char *s)
{
	char *out = s;

	for (; *s != '\0'; s++) {
		if (*s == '%') {
			int hi = char_hex(s[1]), lo = hi < 0 ? -1 : char_hex(s[2]);

			if (lo < 0 || (hi | lo) == 0)
				return -EINVAL;
			*out++ = (char)(hi << 4 | lo);
			s += 2;
		} else {
			*out++ = *s == '+' ? ' ' : *s;
		}
	}
	*out = '\0';
	return 0;
}

static int parse_query(char *q, struct http1_head *h)
{
	while (q != NULL && h->nquery < HTTP1_QUERY_MAX) {
		char *next = strchr(q, '&'), *value;

		if (next != NULL)
			*next++ = '\0';
		value = strchr(q, '=');
		if (value != NULL)
			*value++ = '\0';
		if (decode(q) < 0 || (value != NULL && decode(value) < 0))
			return -EINVAL;
		if (*q != '\0')
			h->query[h->nquery++] = (struct http1_pair){q, value != NULL ? value : ""};
		q = next;
	}
	return 0;
}

static int request_line(char *line, struct http1_head *h, unsigned int *ret_status)
{
	char *target = strchr(line, ' '), *version, *query;

	*ret_status = 400;
	if (target == NULL)
		return -EINVAL;
	*target++ = '\0';
	version = strchr(target, ' ');
	if (version == NULL)
		return -EINVAL;
	*version++ = '\0';
	if (!is_token(line) || *target != '/' || !is_text(target, false))
		return -EINVAL;
	if (strcmp(version, "HTTP/1.1") == 0)
		h->keep_alive = true;
	else if (strcmp(version, "HTTP/1.0") != 0) {
		*ret_status = 505;
		return -EINVAL;
	}
	query = strchr(target, '?');
	if (query != NULL)
		*query++ = '\0';
	h->method = line;
	h->path = target;
	return parse_query(query, h);
}

static int field_line(char *line, struct http1_head *h, unsigned int *ret_status)
{
	char *value = strchr(line, ':'), *end;

	*ret_status = 400;
	if (value == NULL)
		return -EINVAL;
	*value++ = '\0';
	while (*value == ' ' || *value == '\t')
		value++;
	for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t'); end--)
		end[-1] = '\0';
	if (!is_token(line) || !is_text(value, true))
		return -EINVAL;
	if (h->nfields == HTTP1_FIELDS_MAX) {
		*ret_status = 431;
		return -EINVAL;
	}
	h->field[h->nfields++] = (struct http1_pair){line, value};
	return 0;
}

/* What the fields say about the body and the connection. */
static int framing(struct http1_head *h, unsigned int *ret_status)
{
	size_t lengths = 0;

	*ret_status = 400;
	for (size_t i = 0; i < h->nfields; i++) {
		const struct http1_pair *f = &h->field[i];

		if (strcasecmp(f->name, "Content-Length") == 0) {
			if (parse_u64(str_of(f->value), 0, UINT64_MAX, &h->length) != 0 ||
			    lengths++ != 0)
				return -EINVAL;
		} else if (strcasecmp(f->name, "Transfer-Encoding") == 0) {
			if (strcasecmp(f->value, "chunked") != 0) {
				*ret_status = 501;
				return -EINVAL;
			}
			h->chunked = true;
		} else if (strcasecmp(f->name, "Connection") == 0) {
			if (strcasestr(f->value, "close") != NULL)
				h->keep_alive = false;
		} else if (strcasecmp(f->name, "Expect") == 0) {
			h->expect_continue = strcasecmp(f->value, "100-continue") == 0;
		}
	}
	return h->chunked && lengths != 0 ? -EINVAL : 0;
}

int http1_head_parse(char *buf, size_t n, struct http1_head *ret, unsigned int *ret_status)
{
	char *end = buf + n, *line = buf, *next = line_end(line, end);

	*ret = (struct http1_head){0};
	*ret_status = 400;
	if (next == NULL || request_line(line, ret, ret_status) < 0)
		return -EINVAL;
	for (line = next; line < end; line = next) {
		next = line_end(line, end);
		if (next == NULL) {
			*ret_status = 400;
			return -EINVAL;
		}
		if (*line == '\0')
			return framing(ret, ret_status);
		if (field_line(line, ret, ret_status) < 0)
			return -EINVAL;
	}
	*ret_status = 400;
	return -EINVAL;
}

const char *http1_head_field(const struct http1_head *h, const char *name)
{
	for (size_t i = 0; i < h->nfields; i++)
		if (strcasecmp(h->field[i].name, name) == 0)
			return h->field[i].value;
	return NULL;
}

/* One byte of a size line. Sets the state at its end. */
static int size_byte(struct http1_chunks *c, char b)
{
	int d = char_hex(b);

	if (c->cr) {
		if (b != '\n' || !c->digits)
			return -EINVAL;
		c->cr = c->digits = c->extension = false;
		c->state = c->left != 0 ? CHUNK_DATA : CHUNK_TRAILER;
		c->line = 0;
	} else if (b == '\r') {
		c->cr = true;
	} else if (c->extension) {
		return 0;
	} else if (b == ';') {
		c->extension = true;
	} else if (d >= 0) {
		c->left = c->left << 4 | (unsigned int)d;
		c->digits = true;
		if (c->left > CHUNK_SIZE_MAX)
			return -EINVAL;
	} else {
		return -EINVAL;
	}
	return 0;
}

static int trailer_byte(struct http1_chunks *c, char b)
{
	if (!c->cr) {
		c->cr = b == '\r';
		c->line += b != '\r';
		return 0;
	}
	if (b != '\n')
		return -EINVAL;
	c->cr = false;
	if (c->line == 0)
		c->state = CHUNK_DONE;
	c->line = 0;
	return 0;
}

static int data_end_byte(struct http1_chunks *c, char b)
{
	if (b != (c->cr ? '\n' : '\r'))
		return -EINVAL;
	if (c->cr)
		c->state = CHUNK_SIZE;
	c->cr = !c->cr;
	return 0;
}

int http1_chunks_take(struct http1_chunks *c, struct str *in, struct str *ret_data)
{
	*ret_data = (struct str){"", 0};
	while (in->n != 0 && c->state != CHUNK_DONE) {
		int r;

		if (c->state == CHUNK_DATA) {
			size_t n = in->n < c->left ? in->n : (size_t)c->left;

			*ret_data = (struct str){in->p, n};
			in->p += n;
			in->n -= n;
			c->left -= n;
			if (c->left == 0)
				c->state = CHUNK_DATA_END;
			return 0;
		}
		r = c->state == CHUNK_SIZE	? size_byte(c, *in->p)
		    : c->state == CHUNK_TRAILER ? trailer_byte(c, *in->p)
						: data_end_byte(c, *in->p);
		if (r < 0 || ++c->overhead > CHUNK_OVERHEAD_MAX)
			return -EINVAL;
		in->p++;
		in->n--;
	}
	return 0;
}
