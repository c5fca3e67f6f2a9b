/* SPDX-License-Identifier: Apache-2.0
 * http_answer.c: see http_answer.h. Pure.
 */
#include "cni/http_answer.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

struct head {
	unsigned int status;
	bool has_length, chunked;
	uint64_t length;
};

static int garbage(struct err *err, const char *what)
{
	return err_set(err, EBADMSG, "%s", what);
}

static int unfinished(bool eof, const char *where, struct err *err)
{
	return eof ? err_set(err, ECONNRESET, "the connection ended in the middle of the %s", where)
		   : 0;
}

/* One line without its CRLF (a lone LF is taken too, RFC 9112 2.2). False when it is incomplete. */
static bool cut_line(struct str *in, struct str *ret)
{
	if (!str_cut(in, '\n', ret))
		return false;
	if (ret->n != 0 && ret->p[ret->n - 1] == '\r')
		ret->n--;
	return true;
}

static int parse_status(struct str line, struct head *h, struct err *err)
{
	struct str code;
	uint64_t v;

	if (!str_has_prefix(line, STR("HTTP/1.1 ")) && !str_has_prefix(line, STR("HTTP/1.0 ")))
		return garbage(err, "the answer is not HTTP/1.1");
	code = (struct str){line.p + 9, line.n - 9};
	if (code.n > 3) {
		if (code.p[3] != ' ')
			return garbage(err, "the answer has no status number");
		code.n = 3;
	}
	if (parse_u64(code, 200, 599, &v) < 0)
		return garbage(err, "the answer has no status number from 200 to 599");
	h->status = (unsigned int)v;
	return 0;
}

static int parse_field(struct str line, struct head *h, struct err *err)
{
	struct str name;

	if (!str_cut(&line, ':', &name) || name.n == 0)
		return garbage(err, "a header line of the answer has no name");
	line = str_trim(line);
	if (str_eq_nocase(name, STR("content-length"))) {
		if (h->has_length || parse_u64(line, 0, LIMIT_HTTP_BODY_BYTES, &h->length) < 0)
			return garbage(err, "the answer's Content-Length is not a number within "
					    "64 KiB, or it is there twice");
		h->has_length = true;
	} else if (str_eq_nocase(name, STR("transfer-encoding"))) {
		if (h->chunked || !str_eq_nocase(line, STR("chunked")))
			return garbage(err, "the answer's Transfer-Encoding is not understood");
		h->chunked = true;
	}
	return 0;
}

/* 1 when the head is complete; @in is what follows it then. */
static int parse_head(struct str *in, bool eof, struct head *h, struct err *err)
{
	static const struct str magic = {"HTTP/1.", 7};
	struct str line;
	int r;

	if (in->n == 0 && eof)
		return err_set(err, ECONNRESET, "the connection was closed without an answer");
	if (memcmp(in->p, magic.p, in->n < magic.n ? in->n : magic.n) != 0)
		return garbage(err, "the answer is not HTTP/1.1");
	if (!cut_line(in, &line))
		return unfinished(eof, "answer's first line", err);
	r = parse_status(line, h, err);
	if (r < 0)
		return r;
	for (;;) {
		if (!cut_line(in, &line))
			return unfinished(eof, "answer's head", err);
		if (line.n == 0)
			break;
		r = parse_field(line, h, err);
		if (r < 0)
			return r;
	}
	if (h->has_length && h->chunked)
		return garbage(err, "the answer has both a length and chunks");
	return 1;
}

static int chunk_size(struct str line, size_t *ret)
{
	struct str hex = line;
	size_t v = 0;

	(void)str_cut(&line, ';', &hex); /* extensions are skipped */
	hex = str_trim(hex);
	if (hex.n == 0 || hex.n > 6)
		return -EINVAL;
	for (size_t i = 0; i < hex.n; i++) {
		char c = hex.p[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (size_t)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v << 4 | (size_t)((c | 0x20) - 'a' + 10);
		else
			return -EINVAL;
	}
	*ret = v;
	return 0;
}

/* Walks the chunks; with @out it also joins them. 1 when the last one is there. */
static int walk_chunks(struct str in, bool eof, char *out, size_t *ret_n, struct err *err)
{
	struct str line;
	size_t n = 0, size;

	for (;;) {
		if (!cut_line(&in, &line))
			return unfinished(eof, "answer's body", err);
		if (chunk_size(line, &size) < 0)
			return garbage(err, "the answer's body has a chunk without a size");
		if (size == 0)
			break;
		if (size > LIMIT_HTTP_BODY_BYTES - n)
			return garbage(err, "the answer's body is larger than 64 KiB");
		if (in.n < size + 2)
			return unfinished(eof, "answer's body", err);
		if (in.p[size] != '\r' || in.p[size + 1] != '\n')
			return garbage(err, "the answer's body has a chunk of another size than "
					    "announced");
		if (out != NULL)
			memcpy(out + n, in.p, size);
		n += size;
		in = (struct str){in.p + size + 2, in.n - size - 2};
	}
	*ret_n = n;
	return 1;
}

/* Allocates only once everything is there: this runs again for every piece that arrives. */
static int parse_chunks(struct str in, bool eof, struct arena *a, struct str *ret, struct err *err)
{
	size_t n = 0;
	int r = walk_chunks(in, eof, NULL, &n, err);
	char *out;

	if (r <= 0)
		return r;
	out = arena_alloc(a, n + 1);
	*ret = (struct str){out, n};
	return walk_chunks(in, eof, out, &n, err);
}

int http_answer_parse(struct str in, bool eof, struct arena *a, struct http_answer *ret,
		      struct err *err)
{
	struct head h = {0};
	struct str body = {0};
	int r = parse_head(&in, eof, &h, err);

	if (r <= 0)
		return r;
	if (h.chunked) {
		r = parse_chunks(in, eof, a, &body, err);
		if (r <= 0)
			return r;
	} else if (h.has_length) {
		if (in.n < h.length)
			return unfinished(eof, "answer's body", err);
		body = (struct str){in.p, (size_t)h.length};
	} else {
		if (!eof)
			return 0;
		body = in;
	}
	*ret = (struct http_answer){.status = h.status, .body = body};
	return 1;
}
