/* SPDX-License-Identifier: Apache-2.0
 * fail.c: see fail.h. Pure.
 */
#include "cni/fail.h"

#include <stdarg.h>
#include <stdio.h>

#include "lib/format/json.h"

/* Without the character that was cut in its middle, if any. Bytes that are no UTF-8 for another
 * reason stay: the writer shows them as U+FFFD. */
static struct str whole_chars(const char *s)
{
	struct str all = str_of(s);

	for (size_t cut = 0; cut <= 3 && cut <= all.n; cut++)
		if (str_is_utf8((struct str){all.p, all.n - cut}))
			return (struct str){all.p, all.n - cut};
	return all;
}

int cni_fail_set(struct cni_fail *f, int code, const char *fmt, ...)
{
	va_list ap;

	f->code = code;
	f->details[0] = '\0';
	va_start(ap, fmt);
	(void)vsnprintf(f->msg, sizeof(f->msg), fmt, ap);
	va_end(ap);
	return -1;
}

int cni_fail_details(struct cni_fail *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(f->details, sizeof(f->details), fmt, ap);
	va_end(ap);
	return -1;
}

void cni_fail_write(const struct cni_fail *f, const char *version, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "cniVersion", version);
	jsonw_int(&w, "code", f->code);
	jsonw_str(&w, "msg", whole_chars(f->msg));
	if (f->details[0] != '\0')
		jsonw_str(&w, "details", whole_chars(f->details));
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}
