/* SPDX-License-Identifier: Apache-2.0
 * image.c: see image.h.
 *
 *   ambient-ztunnel mesh state 1 <records> <bytes>\n
 *   <cluster> <server>\n                    (blanks and line ends in them are shown escaped)
 *   records: kind, closed (1 byte each), length of version (2), name (4), value (4), big endian;
 *            then the three texts
 *   16 hexadecimal digits\n
 */
#include "ztunnel/mesh/image.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/err.h"

#define HEADING	   "ambient-ztunnel mesh state "
#define HEAD_BYTES 12
#define OF_MAX	   1024

/* FNV-1a, 64 bits. */
void image_sum_init(struct image_sum *s)
{
	s->h = 0xcbf29ce484222325ull;
}

void image_sum_add(struct image_sum *s, const void *p, size_t n)
{
	const unsigned char *b = p;
	uint64_t h = s->h;

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * 0x100000001b3ull;
	s->h = h;
}

void image_sum_text(const struct image_sum *s, char ret[IMAGE_SUM_BYTES + 1])
{
	(void)snprintf(ret, IMAGE_SUM_BYTES + 1, "%016llx\n", (unsigned long long)s->h);
}

size_t image_record_size(const struct store_raw *r)
{
	return HEAD_BYTES + (size_t)r->nname + r->nversion + r->nvalue;
}

static void put_of(struct strbuf *out, const struct image_of *of)
{
	char shown[OF_MAX];

	strbuf_puts(out, str_show(str_of(of->cluster), shown, sizeof(shown)));
	strbuf_putc(out, ' ');
	strbuf_puts(out, str_show(str_of(of->server), shown, sizeof(shown)));
	strbuf_putc(out, '\n');
}

void image_put_heading(struct strbuf *out, const struct image_of *of, size_t n, uint64_t bytes)
{
	strbuf_printf(out, HEADING "%d %zu %llu\n", IMAGE_VERSION, n, (unsigned long long)bytes);
	put_of(out, of);
}

static void put_be(struct strbuf *out, uint64_t v, unsigned int bytes)
{
	while (bytes-- > 0)
		strbuf_putc(out, (char)(v >> (8 * bytes)));
}

void image_put_record(struct strbuf *out, const struct store_raw *r)
{
	put_be(out, r->kind, 1);
	put_be(out, r->closed, 1);
	put_be(out, r->nversion, 2);
	put_be(out, r->nname, 4);
	put_be(out, r->nvalue, 4);
	strbuf_add(out, r->text, (size_t)r->nname + r->nversion + r->nvalue);
}

static int check_sum(struct str file, struct err *err)
{
	char text[IMAGE_SUM_BYTES + 1];
	struct image_sum s;

	image_sum_init(&s);
	image_sum_add(&s, file.p, file.n - IMAGE_SUM_BYTES);
	image_sum_text(&s, text);
	if (memcmp(text, file.p + file.n - IMAGE_SUM_BYTES, IMAGE_SUM_BYTES) != 0)
		return err_set(err, EINVAL,
			       "it is damaged: the checksum is not that of its contents");
	return 0;
}

/* Takes the heading off @rest. */
static int check_heading(struct str *rest, size_t *ret_n, uint64_t *ret_bytes, struct err *err)
{
	struct str line, version, count;
	uint64_t n;
	uint32_t v;

	if (!str_has_prefix(*rest, STR(HEADING)) || !str_cut(rest, '\n', &line))
		return err_set(err, EINVAL, "expected the heading \"" HEADING "...\"");
	line.p += sizeof(HEADING) - 1;
	line.n -= sizeof(HEADING) - 1;
	if (!str_cut(&line, ' ', &version) || parse_u32(version, 0, UINT32_MAX, &v) != 0)
		return err_set(err, EINVAL, "expected a version in the heading");
	if (v != IMAGE_VERSION)
		return err_set(err, EINVAL, "version %u, expected %d", v, IMAGE_VERSION);
	if (!str_cut(&line, ' ', &count) || parse_u64(count, 0, SIZE_MAX, &n) != 0 ||
	    parse_u64(line, 0, UINT64_MAX, ret_bytes) != 0)
		return err_set(err, EINVAL, "expected the number and bytes of records");
	*ret_n = (size_t)n;
	return 0;
}

int image_open(struct str file, const struct image_of *of, struct image *ret, struct err *err)
{
	_cleanup_strbuf_ struct strbuf want = {0};
	struct str rest = file;
	uint64_t bytes = 0;
	size_t n = 0;
	int r = check_heading(&rest, &n, &bytes, err);

	if (r != 0)
		return r;
	put_of(&want, of);
	if (file.n < IMAGE_SUM_BYTES || rest.n < IMAGE_SUM_BYTES)
		return err_set(err, EINVAL, "it is cut off after %zu bytes", file.n);
	r = check_sum(file, err);
	if (r != 0)
		return r;
	if (!str_has_prefix(rest, (struct str){want.p, want.n}))
		return err_set(err, EINVAL, "it is of another mesh than %s, %s",
			       str_shown(str_of(of->cluster)), str_shown(str_of(of->server)));
	rest.p += want.n;
	rest.n -= want.n;
	if (rest.n < IMAGE_SUM_BYTES || rest.n - IMAGE_SUM_BYTES != bytes)
		return err_set(err, EINVAL, "its records do not have the %llu bytes of the heading",
			       (unsigned long long)bytes);
	*ret = (struct image){{rest.p, rest.n - IMAGE_SUM_BYTES}, n};
	return 0;
}

static uint64_t be(const char *p, unsigned int bytes)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < bytes; i++)
		v = v << 8 | (unsigned char)p[i];
	return v;
}

static struct str take(struct str *in, size_t n)
{
	struct str s = {in->p, n};

	in->p += n;
	in->n -= n;
	return s;
}

int image_next(struct image *i, struct image_record *ret)
{
	size_t nversion, nname, nvalue;
	struct str in = i->rest;

	if (i->left == 0)
		return in.n == 0 ? 0 : -EINVAL;
	if (in.n < HEAD_BYTES || (unsigned char)in.p[0] >= STORE_KIND_N ||
	    (unsigned char)in.p[1] > 1)
		return -EINVAL;
	ret->kind = (enum store_kind)(unsigned char)in.p[0];
	ret->closed = in.p[1] != 0;
	nversion = (size_t)be(in.p + 2, 2);
	nname = (size_t)be(in.p + 4, 4);
	nvalue = (size_t)be(in.p + 8, 4);
	(void)take(&in, HEAD_BYTES);
	if (nname > in.n || nversion > in.n - nname || nvalue > in.n - nname - nversion)
		return -EINVAL;
	ret->name = take(&in, nname);
	ret->version = take(&in, nversion);
	ret->value = take(&in, nvalue);
	i->rest = in;
	i->left--;
	return 1;
}
