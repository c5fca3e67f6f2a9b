/* SPDX-License-Identifier: Apache-2.0
 * tls_crl.c: see tls_crl.h. The lists are only read once they are shared; OpenSSL sorts the entries
 * of a list at its first lookup, so that one is made here.
 */
#include "lib/wire/tls_crl.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/wire/tls_internal.h"

struct tls_crl {
	atomic_uint refs;
	X509_CRL **list;
	size_t n, revoked;
};

struct tls_crl *tls_crl_ref(struct tls_crl *c)
{
	if (c != NULL) /* relaxed: see model.c */
		atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void tls_crl_unref(struct tls_crl *c)
{
	/* acq_rel: the last holder sees what the others did */
	if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < c->n; i++)
		X509_CRL_free(c->list[i]);
	free(c->list);
	free(c);
}

size_t tls_crl_lists(const struct tls_crl *c)
{
	return c->n;
}

size_t tls_crl_revoked(const struct tls_crl *c)
{
	return c->revoked;
}

/* What changes the meaning of a list and is not understood here (RFC 5280 5.2). */
static int check_extensions(X509_CRL *crl, struct err *err)
{
	ISSUING_DIST_POINT *idp;
	bool indirect;

	if (X509_CRL_get_ext_by_NID(crl, NID_delta_crl, -1) >= 0)
		return err_set(err, EINVAL, "a delta list; only complete ones are understood");
	for (int i = 0; i < X509_CRL_get_ext_count(crl); i++) {
		X509_EXTENSION *e = X509_CRL_get_ext(crl, i);

		if (X509_EXTENSION_get_critical(e) &&
		    OBJ_obj2nid(X509_EXTENSION_get_object(e)) != NID_issuing_distribution_point)
			return err_set(err, EINVAL, "a critical extension that is not understood");
	}
	idp = X509_CRL_get_ext_d2i(crl, NID_issuing_distribution_point, NULL, NULL);
	indirect = idp != NULL && idp->indirectCRL > 0;
	ISSUING_DIST_POINT_free(idp);
	return indirect ? err_set(err, EINVAL, "a list about other issuers' certificates") : 0;
}

/* Takes @crl over. */
static int add(struct tls_crl *c, X509_CRL *crl, struct err *err)
{
	ASN1_INTEGER *none = ASN1_INTEGER_new();
	X509_REVOKED *entry;
	int n;

	if (check_extensions(crl, err) != 0) {
		ASN1_INTEGER_free(none);
		X509_CRL_free(crl);
		return err_wrap(err, "list %zu", c->n + 1);
	}
	bug_on(none == NULL);
	(void)X509_CRL_get0_by_serial(crl, &entry, none); /* sorts */
	ASN1_INTEGER_free(none);
	n = sk_X509_REVOKED_num(X509_CRL_get_REVOKED(crl)); /* -1: it has no such field */
	c->list = xrealloc_array(c->list, c->n + 1, sizeof(X509_CRL *));
	c->list[c->n++] = crl;
	c->revoked += n > 0 ? (size_t)n : 0;
	return 0;
}

static int add_der(struct tls_crl *c, const unsigned char *der, size_t n, struct err *err)
{
	const unsigned char *p = der;
	X509_CRL *crl = d2i_X509_CRL(NULL, &p, (long)n);

	if (crl == NULL)
		return err_set(err, EINVAL, "list %zu: %s", c->n + 1, tls_openssl_reason());
	if (p != der + n) {
		X509_CRL_free(crl);
		return err_set(err, EINVAL, "list %zu: something follows it", c->n + 1);
	}
	return add(c, crl, err);
}

static int add_pem(struct tls_crl *c, struct str text, struct err *err)
{
	BIO *b = BIO_new_mem_buf(text.p, (int)text.n);
	char *name, *head;
	unsigned char *der;
	long n;
	int r = 0;

	bug_on(b == NULL);
	while (r == 0 && PEM_read_bio(b, &name, &head, &der, &n) == 1) {
		if (strcmp(name, PEM_STRING_X509_CRL) == 0)
			r = add_der(c, der, (size_t)n, err);
		OPENSSL_free(name);
		OPENSSL_free(head);
		OPENSSL_free(der);
	}
	BIO_free(b);
	if (r == 0 && !tls_at_pem_end())
		r = err_set(err, EINVAL, "damaged PEM text after list %zu", c->n);
	return r;
}

static bool is_pem(struct str s)
{
	return memmem(s.p, s.n, "-----BEGIN ", 11) != NULL;
}

static bool is_blank(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (strchr(" \t\r\n", s.p[i]) == NULL || s.p[i] == '\0')
			return false;
	return true;
}

struct tls_crl *tls_crl_new(struct str text, struct err *err)
{
	struct tls_crl *c = xcalloc(1, sizeof(*c));
	int r = 0;

	atomic_init(&c->refs, 1);
	if (text.n > INT32_MAX)
		r = err_set(err, EINVAL, "too large");
	else if (is_blank(text))
		;
	else if (is_pem(text))
		r = add_pem(c, text, err);
	else
		r = add_der(c, (const unsigned char *)text.p, text.n, err);
	ERR_clear_error();
	if (r == 0)
		return c;
	tls_crl_unref(c);
	return NULL;
}

enum tls_crl_verdict tls_crl_check(const struct tls_crl *c, const STACK_OF(X509) * chain)
{
	for (int i = 0; i + 1 < sk_X509_num(chain); i++) {
		X509 *cert = sk_X509_value(chain, i);
		EVP_PKEY *issuer = X509_get0_pubkey(sk_X509_value(chain, i + 1));

		for (size_t k = 0; k < c->n; k++) {
			X509_REVOKED *entry;

			if (X509_CRL_get0_by_cert(c->list[k], &entry, cert) != 1)
				continue; /* not its issuer's, not in it, or taken back */
			if (issuer != NULL && X509_CRL_verify(c->list[k], issuer) == 1)
				return TLS_CRL_REVOKED;
			ERR_clear_error();
			return TLS_CRL_UNSIGNED;
		}
	}
	return TLS_CRL_GOOD;
}
