/* SPDX-License-Identifier: Apache-2.0
 * tls_helper.h: certificates for tests, good and bad ones.
 */
#pragma once
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

struct test_ca {
	X509 *cert;
	EVP_PKEY *key;
	char *pem;
};

static inline char *pem_of(X509 *c, EVP_PKEY *key)
{
	BIO *b = BIO_new(BIO_s_mem());
	char *p, *out;
	long n;

	if (c != NULL)
		PEM_write_bio_X509(b, c);
	else
		PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL);
	n = BIO_get_mem_data(b, &p);
	out = xstrndup(p, (size_t)n); /* strndup: ASan's strict checks want a NUL */
	BIO_free(b);
	return out;
}

static inline X509 *cert_base(EVP_PKEY *key, const char *cn, long from_s, long to_s)
{
	X509 *c = X509_new();
	static long serial = 1;

	X509_set_version(c, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(c), serial++);
	X509_gmtime_adj(X509_getm_notBefore(c), from_s);
	X509_gmtime_adj(X509_getm_notAfter(c), to_s);
	X509_set_pubkey(c, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "O", MBSTRING_ASC,
				   (const unsigned char *)cn, -1, -1, 0);
	return c;
}

static inline void add_ext(X509 *c, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	X509_add_ext(c, e, -1);
	X509_EXTENSION_free(e);
}

static inline struct test_ca test_ca_new(void)
{
	struct test_ca ca = {.key = EVP_EC_gen("P-256")};

	ca.cert = cert_base(ca.key, "test root", -3600, 3600);
	X509_set_issuer_name(ca.cert, X509_get_subject_name(ca.cert));
	add_ext(ca.cert, NID_basic_constraints, "critical,CA:TRUE");
	add_ext(ca.cert, NID_key_usage, "critical,keyCertSign");
	X509_sign(ca.cert, ca.key, EVP_sha256());
	ca.pem = pem_of(ca.cert, NULL);
	return ca;
}

static inline void test_ca_free(struct test_ca *ca)
{
	X509_free(ca->cert);
	EVP_PKEY_free(ca->key);
	free(ca->pem);
}

struct leaf_opts {
	struct str uri[3]; /* raw bytes; n == 0 ends the list */
	const char *dns;
	const char *eku; /* NULL: server and client */
	long from_s, to_s;
};

static inline void add_names(X509 *c, const struct leaf_opts *o)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();

	for (int i = 0; i < 3 && o->uri[i].n != 0; i++) {
		GENERAL_NAME *g = GENERAL_NAME_new();
		ASN1_IA5STRING *s = ASN1_IA5STRING_new();

		ASN1_STRING_set(s, o->uri[i].p, (int)o->uri[i].n);
		GENERAL_NAME_set0_value(g, GEN_URI, s);
		sk_GENERAL_NAME_push(names, g);
	}
	if (o->dns != NULL) {
		GENERAL_NAME *g = GENERAL_NAME_new();
		ASN1_IA5STRING *s = ASN1_IA5STRING_new();

		ASN1_STRING_set(s, o->dns, -1);
		GENERAL_NAME_set0_value(g, GEN_DNS, s);
		sk_GENERAL_NAME_push(names, g);
	}
	if (sk_GENERAL_NAME_num(names) != 0)
		X509_add1_ext_i2d(c, NID_subject_alt_name, names, 1, 0);
	GENERAL_NAMES_free(names);
}

/* A CA below @ca. */
static inline struct test_ca test_ca_below(const struct test_ca *ca)
{
	struct test_ca sub = {.key = EVP_EC_gen("P-256")};

	sub.cert = cert_base(sub.key, "test intermediate", -3600, 3600);
	X509_set_issuer_name(sub.cert, X509_get_subject_name(ca->cert));
	add_ext(sub.cert, NID_basic_constraints, "critical,CA:TRUE");
	add_ext(sub.cert, NID_key_usage, "critical,keyCertSign");
	X509_sign(sub.cert, ca->key, EVP_sha256());
	sub.pem = pem_of(sub.cert, NULL);
	return sub;
}

/* A list of @ca that names @revoked (NULL: nobody), good from and until; the caller frees it. */
static inline X509_CRL *crl_new(const struct test_ca *ca, X509 *revoked, long from_s, long to_s)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *t = X509_gmtime_adj(NULL, from_s);

	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->cert));
	X509_CRL_set1_lastUpdate(crl, t);
	X509_gmtime_adj(t, to_s);
	X509_CRL_set1_nextUpdate(crl, t);
	if (revoked != NULL) {
		X509_REVOKED *r = X509_REVOKED_new();

		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked));
		X509_REVOKED_set_revocationDate(r, t);
		X509_CRL_add0_revoked(crl, r);
	}
	ASN1_TIME_free(t);
	X509_CRL_sort(crl);
	X509_CRL_sign(crl, ca->key, EVP_sha256());
	return crl;
}

static inline char *crl_pem(X509_CRL *crl)
{
	BIO *b = BIO_new(BIO_s_mem());
	char *p, *out;
	long n;

	PEM_write_bio_X509_CRL(b, crl);
	n = BIO_get_mem_data(b, &p);
	out = xstrndup(p, (size_t)n);
	BIO_free(b);
	return out;
}

/* Signed by @ca; the caller frees both. */
static inline X509 *leaf_new(const struct test_ca *ca, const struct leaf_opts *o, EVP_PKEY *key)
{
	X509 *c = cert_base(key, "leaf", o->from_s, o->to_s);

	X509_set_issuer_name(c, X509_get_subject_name(ca->cert));
	add_ext(c, NID_basic_constraints, "critical,CA:FALSE");
	add_ext(c, NID_key_usage, "critical,digitalSignature");
	add_ext(c, NID_ext_key_usage, o->eku != NULL ? o->eku : "serverAuth,clientAuth");
	add_names(c, o);
	X509_sign(c, ca->key, EVP_sha256());
	return c;
}
