/* SPDX-License-Identifier: Apache-2.0
 * ca_csr.c: see ca_csr.h.
 */
#include "ztunnel/control/ca_csr.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/wire/tls.h"

static STACK_OF(X509_EXTENSION) * uri_extension(const char *spiffe)
{
	STACK_OF(X509_EXTENSION) *list = NULL;
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *n = GENERAL_NAME_new();
	ASN1_IA5STRING *uri = ASN1_IA5STRING_new();

	if (names != NULL && n != NULL && uri != NULL &&
	    ASN1_STRING_set(uri, spiffe, (int)strlen(spiffe)) == 1) {
		GENERAL_NAME_set0_value(n, GEN_URI, uri);
		uri = NULL;
		if (sk_GENERAL_NAME_push(names, n) > 0) {
			n = NULL;
			(void)X509V3_add1_i2d(&list, NID_subject_alt_name, names, 1, 0);
		}
	}
	ASN1_IA5STRING_free(uri);
	GENERAL_NAME_free(n);
	GENERAL_NAMES_free(names);
	return list;
}

static char *pem_text(BIO *b)
{
	char *p;
	long n = BIO_get_mem_data(b, &p);

	return xstrndup(p, (size_t)n);
}

static bool sign(X509_REQ *req, EVP_PKEY *key, const char *spiffe)
{
	STACK_OF(X509_EXTENSION) *ext = uri_extension(spiffe);
	bool ok = ext != NULL && X509_REQ_set_version(req, X509_REQ_VERSION_1) == 1 &&
		  X509_REQ_set_pubkey(req, key) == 1 && X509_REQ_add_extensions(req, ext) == 1 &&
		  X509_REQ_sign(req, key, EVP_sha256()) != 0;

	sk_X509_EXTENSION_pop_free(ext, X509_EXTENSION_free);
	return ok;
}

int ca_csr_new(struct ca_csr *c, const char *spiffe, struct err *err)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509_REQ *req = X509_REQ_new();
	BIO *kb = BIO_new(BIO_s_secmem()), *rb = BIO_new(BIO_s_mem());
	bool ok = key != NULL && req != NULL && kb != NULL && rb != NULL &&
		  sign(req, key, spiffe) && PEM_write_bio_X509_REQ(rb, req) == 1 &&
		  PEM_write_bio_PKCS8PrivateKey(kb, key, NULL, NULL, 0, NULL, NULL) == 1;

	*c = (struct ca_csr){0};
	if (ok) {
		c->key_pem = pem_text(kb);
		c->csr_pem = pem_text(rb);
	}
	BIO_free_all(kb);
	BIO_free_all(rb);
	X509_REQ_free(req);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return ok ? 0 : err_set(err, EIO, "OpenSSL cannot make a key and a request");
}

void ca_csr_fini(struct ca_csr *c)
{
	if (c->key_pem != NULL)
		explicit_bzero(c->key_pem, strlen(c->key_pem));
	free(c->key_pem);
	free(c->csr_pem);
	*c = (struct ca_csr){0};
}

struct tls_identity *ca_csr_accept(const struct ca_csr *c, const char *spiffe,
				   const struct str *chain, size_t n, struct err *err)
{
	_cleanup_strbuf_ struct strbuf own = {0};
	struct tls_identity *id;
	const char *got;

	if (n < 2 || n > LIMIT_CA_CHAIN + 1) {
		(void)err_set(
			err, EPROTO,
			n == 0	 ? "the answer holds no certificate"
			: n == 1 ? "no root certificate present in the answer"
				 : "the answer holds a chain of %zu certificates, the limit is "
				   "%d",
			n - 1, LIMIT_CA_CHAIN);
		return NULL;
	}
	for (size_t i = 0; i + 1 < n; i++) {
		strbuf_str(&own, chain[i]);
		if (chain[i].n != 0 && chain[i].p[chain[i].n - 1] != '\n')
			strbuf_putc(&own, '\n');
	}
	id = tls_identity_new((struct str){own.p, own.n}, str_of(c->key_pem), chain[n - 1], err);
	if (id == NULL)
		return NULL;
	got = tls_identity_spiffe(id);
	if (strcmp(got, spiffe) != 0)
		(void)err_set(err, EPROTO, "the certificate is for %s, asked was %s",
			      str_shown(str_of(got)), spiffe);
	else if (tls_identity_check(id, err) == 0)
		return id;
	tls_identity_unref(id);
	return NULL;
}
