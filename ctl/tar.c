/* SPDX-License-Identifier: Apache-2.0
 * tar.c: see tar.h. Pure.
 */
#include "ctl/tar.h"

#include <assert.h>

#include "lib/base/attr.h"
#include "lib/base/bug.h"

#define BLOCK 512

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type,
		linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8],
		prefix[155], pad[12];
};
static_assert(sizeof(struct header) == BLOCK, "a header is one block");

/* Octal digits and a NUL, the whole width of the field. */
static void octal(char *field, size_t width, uint64_t v)
{
	for (size_t i = width - 1; i-- > 0; v >>= 3)
		field[i] = (char)('0' + (v & 7));
	field[width - 1] = '\0';
}

static void pad(struct strbuf *out, size_t n)
{
	static const char zero[2 * BLOCK];

	strbuf_add(out, zero, n);
}

void ctl_tar_file(struct strbuf *out, const char *name, struct str content, int64_t mtime)
{
	struct header h = {.type = '0', .magic = "ustar", .version = {'0', '0'}};
	const unsigned char *p = (const unsigned char *)&h;
	unsigned int sum = 0;

	bug_on(strlen(name) > CTL_TAR_NAME_MAX || content.n >= (1ull << 33));
	memcpy(h.name, name, strlen(name));
	octal(h.mode, sizeof(h.mode), 0600);
	octal(h.uid, sizeof(h.uid), 0);
	octal(h.gid, sizeof(h.gid), 0);
	octal(h.size, sizeof(h.size), content.n);
	octal(h.mtime, sizeof(h.mtime), mtime > 0 ? (uint64_t)mtime : 0);
	memset(h.checksum, ' ', sizeof(h.checksum)); /* counts as blanks */
	for (size_t i = 0; i < sizeof(h); i++)
		sum += p[i];
	octal(h.checksum, sizeof(h.checksum) - 1, sum);
	strbuf_add(out, &h, sizeof(h));
	strbuf_str(out, content);
	pad(out, (BLOCK - content.n % BLOCK) % BLOCK);
}

void ctl_tar_end(struct strbuf *out)
{
	pad(out, (size_t)2 * BLOCK);
}

void ctl_tar_name(struct strbuf *out, struct str s, size_t max)
{
	for (size_t i = 0; i < s.n && i < max; i++) {
		char c = s.p[i];
		bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			    (c >= '0' && c <= '9') || c == '_' || c == '-' || (c == '.' && i != 0);

		strbuf_putc(out, fine ? c : '_');
	}
}
