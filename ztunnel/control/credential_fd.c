/* SPDX-License-Identifier: Apache-2.0
 * credential_fd.c: see credential_fd.h. Buffers have their final size from the start: one that
 * grows leaves copies behind.
 */
#include "ztunnel/control/credential_fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/os/sealed.h"
#include "lib/wire/credential.h"
#include "lib/wire/tls.h"

#define KEY_BYTES  16384
#define HEAD_BYTES 1024

static void wipe(struct strbuf *b)
{
	if (b->p != NULL)
		explicit_bzero(b->p, b->cap);
	strbuf_fini(b);
}

static struct strbuf sized(size_t n)
{
	return (struct strbuf){.p = xmalloc(n), .cap = n};
}

int credential_seal(const struct tls_identity *id, struct err *err)
{
	struct strbuf key = sized(KEY_BYTES), text = {0};
	struct credential c = {.spiffe = str_of(tls_identity_spiffe(id)),
			       .not_after = tls_identity_not_after(id),
			       .chain = str_of(tls_identity_chain_pem(id)),
			       .roots = str_of(tls_identity_roots_pem(id))};
	int r = tls_identity_key_pem(id, &key);

	if (r == 0) {
		c.key = (struct str){key.p, key.n};
		text = sized(HEAD_BYTES + key.n + c.chain.n + c.roots.n);
		credential_put(&text, &c);
		r = text.n <= LIMIT_CREDENTIAL_BYTES
			    ? sealed_new("ambient-credential", text.p, text.n, err)
			    : err_set(err, E2BIG, "a credential of %zu bytes, at most %u are kept",
				      text.n, LIMIT_CREDENTIAL_BYTES);
	} else {
		(void)err_set(err, EINVAL, "the key cannot be read");
	}
	wipe(&key);
	wipe(&text);
	return r;
}

static int read_all(int fd, char *p, size_t n, struct err *err)
{
	size_t at = 0;

	while (at < n) {
		ssize_t r = pread(fd, p + at, n - at, (off_t)at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return err_errno(err, r < 0 ? errno : EIO, "read sealed memory");
		at += (size_t)r;
	}
	return 0;
}

static struct tls_identity *take(struct str text, struct err *err)
{
	struct credential c;
	struct tls_identity *id;

	if (credential_parse(text, &c, err) != 0)
		return NULL;
	id = tls_identity_new(c.chain, c.key, c.roots, err);
	if (id == NULL)
		return NULL;
	if (!str_eqc(c.spiffe, tls_identity_spiffe(id)))
		(void)err_set(err, EINVAL, "the certificate is for %s, not for %s",
			      tls_identity_spiffe(id), str_shown(c.spiffe));
	else if (tls_identity_check(id, err) == 0)
		return id;
	tls_identity_unref(id);
	return NULL;
}

struct tls_identity *credential_open(int fd, struct err *err)
{
	struct tls_identity *id = NULL;
	size_t n;
	char *p;

	if (sealed_check(fd, LIMIT_CREDENTIAL_BYTES, &n, err) != 0)
		return NULL;
	p = xmalloc(n);
	if (read_all(fd, p, n, err) == 0)
		id = take((struct str){p, n}, err);
	explicit_bzero(p, n);
	free(p);
	return id;
}
