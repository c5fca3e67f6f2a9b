/* SPDX-License-Identifier: Apache-2.0
 * grpc_frame.c: see grpc_frame.h.
 */
#include "lib/wire/grpc_frame.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

static const char *const code_name[GRPC_CODE_N] = {
	[GRPC_OK] = "OK",
	[GRPC_CANCELLED] = "CANCELLED",
	[GRPC_UNKNOWN] = "UNKNOWN",
	[GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
	[GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
	[GRPC_NOT_FOUND] = "NOT_FOUND",
	[GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
	[GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
	[GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
	[GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
	[GRPC_ABORTED] = "ABORTED",
	[GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
	[GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
	[GRPC_INTERNAL] = "INTERNAL",
	[GRPC_UNAVAILABLE] = "UNAVAILABLE",
	[GRPC_DATA_LOSS] = "DATA_LOSS",
	[GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

const char *grpc_code_name(enum grpc_code c)
{
	return (unsigned int)c < GRPC_CODE_N ? code_name[c] : code_name[GRPC_UNKNOWN];
}

enum grpc_code grpc_code_parse(struct str s)
{
	uint32_t n;

	return parse_u32(s, 0, GRPC_CODE_N - 1, &n) == 0 ? (enum grpc_code)n : GRPC_UNKNOWN;
}

enum grpc_code grpc_code_of_http(unsigned int status)
{
	switch (status) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	default:
		return GRPC_UNKNOWN;
	}
}

const char *grpc_message_decode(struct str s, char *buf, size_t cap)
{
	size_t n = 0;

	bug_on(cap == 0);
	for (size_t i = 0; i < s.n && n + 1 < cap; i++) {
		char c = s.p[i];

		if (c == '%' && i + 2 < s.n && char_hex(s.p[i + 1]) >= 0 &&
		    char_hex(s.p[i + 2]) >= 0) {
			c = (char)(char_hex(s.p[i + 1]) * 16 + char_hex(s.p[i + 2]));
			i += 2;
		}
		buf[n++] = (unsigned char)c < 0x20 || c == 0x7f ? ' ' : c;
	}
	buf[n] = '\0';
	while (n > 0 && !str_is_utf8((struct str){buf, n})) /* cut or broken: keep what is text */
		buf[--n] = '\0';
	return buf;
}

void grpc_frame_add(struct strbuf *out, const void *p, size_t n)
{
	uint8_t prefix[GRPC_PREFIX_BYTES] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16),
					     (uint8_t)(n >> 8), (uint8_t)n};

	bug_on(n > UINT32_MAX);
	strbuf_add(out, prefix, sizeof(prefix));
	strbuf_add(out, p, n);
}

static int begin(struct grpc_reader *r, struct err *err)
{
	size_t want = (size_t)r->prefix[1] << 24 | (size_t)r->prefix[2] << 16 |
		      (size_t)r->prefix[3] << 8 | r->prefix[4];

	if (r->prefix[0] != 0)
		return err_set(err, EPROTO,
			       "a compressed message, though no compression is spoken");
	if (want > r->max)
		return err_set(err, EMSGSIZE, "a message of %zu bytes, the limit is %zu", want,
			       r->max);
	r->want = want;
	r->n = 0;
	return 0;
}

static int make_room(struct grpc_reader *r, size_t more, struct err *err)
{
	size_t cap = r->cap != 0 ? r->cap : 4096;
	uint8_t *p;

	while (cap < r->n + more)
		cap *= 2;
	if (cap > r->want && r->want >= r->n + more)
		cap = r->want;
	if (cap <= r->cap)
		return 0;
	p = realloc(r->p, cap);
	if (p == NULL)
		return err_set(err, ENOMEM, "no memory for a message of %zu bytes", r->want);
	r->p = p;
	r->cap = cap;
	return 0;
}

int grpc_reader_take(struct grpc_reader *r, struct str *in, struct str *ret, struct err *err)
{
	size_t k;
	int rc;

	while (r->nprefix < GRPC_PREFIX_BYTES) {
		if (in->n == 0)
			return 0;
		r->prefix[r->nprefix++] = (uint8_t)*in->p;
		in->p++;
		in->n--;
		if (r->nprefix == GRPC_PREFIX_BYTES) {
			rc = begin(r, err);
			if (rc != 0)
				return rc;
		}
	}
	k = r->want - r->n < in->n ? r->want - r->n : in->n;
	if (k != 0) {
		rc = make_room(r, k, err);
		if (rc != 0)
			return rc;
		memcpy(r->p + r->n, in->p, k);
		r->n += k;
		in->p += k;
		in->n -= k;
	}
	if (r->n < r->want)
		return 0;
	r->nprefix = 0;
	/* an empty one has a place, too: nobody may count from nowhere */
	*ret = r->n != 0 ? (struct str){(const char *)r->p, r->n} : STR("");
	return 1;
}

bool grpc_reader_partial(const struct grpc_reader *r)
{
	return r->nprefix != 0;
}

void grpc_reader_fini(struct grpc_reader *r)
{
	free(take_ptr(r->p));
	r->n = r->cap = r->want = r->nprefix = 0;
}

static int varint(struct str *in, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; shift < 64; shift += 7) {
		uint8_t b;

		if (in->n == 0)
			return -EINVAL;
		b = (uint8_t)*in->p;
		in->p++;
		in->n--;
		if (shift == 63 && b > 1)
			return -EINVAL;
		v |= (uint64_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0) {
			*ret = v;
			return 0;
		}
	}
	return -EINVAL;
}

int pb_next(struct str *in, struct pb_field *ret)
{
	uint64_t key, n;

	if (in->n == 0)
		return 0;
	*ret = (struct pb_field){0};
	if (varint(in, &key) != 0 || key >> 3 == 0 || key >> 3 > UINT32_MAX >> 3)
		return -EINVAL;
	ret->number = (uint32_t)(key >> 3);
	ret->wire = (uint8_t)(key & 7);
	switch (ret->wire) {
	case 0:
		return varint(in, &ret->value) == 0 ? 1 : -EINVAL;
	case 1:
		n = 8;
		break;
	case 2:
		if (varint(in, &n) != 0)
			return -EINVAL;
		break;
	case 5:
		n = 4;
		break;
	default:
		return -EINVAL;
	}
	if (n > in->n)
		return -EINVAL;
	ret->bytes = (struct str){in->p, (size_t)n};
	in->p += n;
	in->n -= (size_t)n;
	return 1;
}

static size_t varint_size(uint64_t v)
{
	size_t n = 1;

	for (; v > 0x7f; v >>= 7)
		n++;
	return n;
}

static void add_varint(struct strbuf *out, uint64_t v)
{
	for (; v > 0x7f; v >>= 7)
		strbuf_putc(out, (char)(v | 0x80));
	strbuf_putc(out, (char)v);
}

void pb_add_varint(struct strbuf *out, uint32_t number, uint64_t v)
{
	add_varint(out, (uint64_t)number << 3);
	add_varint(out, v);
}

void pb_add_head(struct strbuf *out, uint32_t number, size_t n)
{
	add_varint(out, (uint64_t)number << 3 | 2);
	add_varint(out, n);
}

size_t pb_bytes_size(uint32_t number, size_t n)
{
	return varint_size((uint64_t)number << 3 | 2) + varint_size(n) + n;
}

void pb_add_bytes(struct strbuf *out, uint32_t number, struct str s)
{
	pb_add_head(out, number, s.n);
	strbuf_str(out, s);
}

void pb_add_double(struct strbuf *out, uint32_t number, double d)
{
	uint64_t v;

	memcpy(&v, &d, sizeof(v));
	add_varint(out, (uint64_t)number << 3 | 1);
	for (int i = 0; i < 64; i += 8)
		strbuf_putc(out, (char)(v >> i));
}
