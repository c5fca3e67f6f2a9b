/* SPDX-License-Identifier: Apache-2.0
 * fuzz_crl.c: a file of revocation lists. What is refused says why; what is taken counts its lists.
 */
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/wire/tls_crl.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct err e = {0};
	struct tls_crl *c = tls_crl_new((struct str){(const char *)p, n}, &e);

	if (c == NULL && e.msg[0] == '\0')
		abort();
	if (c != NULL && tls_crl_lists(c) == 0 && tls_crl_revoked(c) != 0)
		abort();
	tls_crl_unref(c);
	return 0;
}
