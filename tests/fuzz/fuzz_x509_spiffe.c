/* SPDX-License-Identifier: Apache-2.0
 * fuzz_x509_spiffe.c: a peer's certificate (DER) to its identity. What is accepted must be a SPIFFE
 * identity without NUL, and be found in the certificate as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/wire/spiffe.h"
#include "lib/wire/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct err e = {0};
	struct spiffe_id id;
	char uri[512];

	if (tls_der_identity(p, n, uri, sizeof(uri), &e) < 0) {
		if (e.msg[0] == '\0')
			abort();
		return 0;
	}
	if (spiffe_parse(str_of(uri), &id) < 0 || memmem(p, n, uri, strlen(uri)) == NULL)
		abort();
	return 0;
}
