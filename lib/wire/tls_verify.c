/* SPDX-License-Identifier: Apache-2.0
 * tls_verify.c: is this certificate chain somebody, and the one we want?
 *
 * Names are compared by length and bytes; a NUL inside a name, a second URI, or anything that is
 * not a SPIFFE identity refuses the certificate (security.md T1). DNS names are never looked at.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/wire/spiffe.h"
#include "lib/wire/tls.h"
#include "lib/wire/tls_internal.h"
#include "lib/wire/tls_session_internal.h"

static int copy_identity(const ASN1_IA5STRING *uri, char buf[TLS_SPIFFE_MAX], struct err *err)
{
	struct str s = {(const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri)};
	struct spiffe_id id;

	if (spiffe_parse(s, &id) < 0)
		return err_set(err, EINVAL, "URI \"%s\" is not spiffe://<domain>/ns/<ns>/sa/<sa>",
			       str_shown(s));
	return str_to_cstr(s, buf, TLS_SPIFFE_MAX, err);
}

int tls_x509_identity(X509 *cert, char buf[TLS_SPIFFE_MAX], struct err *err)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	const ASN1_IA5STRING *uri = NULL;
	int uris = 0, r;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);

		if (n->type != GEN_URI)
			continue;
		uri = n->d.uniformResourceIdentifier;
		uris++;
	}
	if (uris != 1)
		r = err_set(err, EINVAL, "expected exactly one URI name, got %d", uris);
	else
		r = copy_identity(uri, buf, err);
	GENERAL_NAMES_free(names);
	return r;
}

int tls_der_identity(const uint8_t *der, size_t n, char *buf, size_t cap, struct err *err)
{
	const unsigned char *p = der;
	char text[TLS_SPIFFE_MAX];
	X509 *cert = n <= 65536 ? d2i_X509(NULL, &p, (long)n) : NULL;
	int r;

	if (cert == NULL)
		return err_set(err, EINVAL, "not a certificate: %s", tls_openssl_reason());
	r = tls_x509_identity(cert, text, err);
	X509_free(cert);
	return r < 0 ? r : str_to_cstr(str_of(text), buf, cap, err);
}

static bool is_expected(const struct tls_session *s, const char *uri)
{
	for (size_t i = 0; i < s->nexpected; i++)
		if (strcmp(s->expected[i], uri) == 0)
			return true;
	return false;
}

static int check_server(struct tls_session *s, const char *uri)
{
	struct strbuf want = {0};

	if (is_expected(s, uri))
		return 1;
	for (size_t i = 0; i < s->nexpected; i++)
		strbuf_printf(&want, "%s%s", i != 0 ? ", " : "", s->expected[i]);
	tls_session_fail(
		s,
		"identity verification error: peer did not present the expected SAN (%s), got %s",
		want.n != 0 ? want.p : "none", uri);
	strbuf_fini(&want);
	return 0;
}

static int check_client(struct tls_session *s, const char *uri)
{
	struct spiffe_id peer;

	if (spiffe_parse(str_of(uri), &peer) == 0 && str_eq(peer.trust_domain, s->id->trust_domain))
		return 1;
	tls_session_fail(s,
			 "identity verification error: peer is of another trust domain: expected "
			 "trustdomain %.*s, got %s",
			 STR_FMT(s->id->trust_domain), uri);
	return 0;
}

bool tls_session_unrevoked(struct tls_session *s, const STACK_OF(X509) * chain)
{
	enum tls_crl_verdict v = s->crl != NULL ? tls_crl_check(s->crl, chain) : TLS_CRL_GOOD;

	if (v == TLS_CRL_GOOD)
		return true;
	s->revoked = true;
	tls_session_fail(s,
			 v == TLS_CRL_REVOKED
				 ? "tls error: peer certificate: certificate revoked"
				 : "tls error: peer certificate: named by a revocation list that "
				   "its issuer has not signed");
	return false;
}

int tls_verify_peer(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_session *s = SSL_get_app_data(ssl);
	char uri[TLS_SPIFFE_MAX];
	struct err err = {0};
	int ok;

	(void)arg;
	if (X509_verify_cert(store) != 1) {
		tls_session_fail(s, "tls error: peer certificate: %s",
				 X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
		return 0;
	}
	if (!tls_session_unrevoked(s, X509_STORE_CTX_get0_chain(store))) {
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED); /* the alert's name */
		return 0;
	}
	if (tls_x509_identity(X509_STORE_CTX_get0_cert(store), uri, &err) < 0) {
		tls_session_fail(s, "identity verification error: peer certificate: %s", err.msg);
		ok = 0;
	} else {
		ok = s->server ? check_client(s, uri) : check_server(s, uri);
	}
	if (!ok)
		X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	else
		tls_session_set_peer(s, uri);
	return ok;
}

static int check_purpose(SSL_CTX *ssl, int purpose, struct err *err)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	STACK_OF(X509) *chain = NULL;
	int r = 0;

	(void)SSL_CTX_get0_chain_certs(ssl, &chain);
	if (ctx == NULL ||
	    X509_STORE_CTX_init(ctx, SSL_CTX_get_cert_store(ssl), SSL_CTX_get0_certificate(ssl),
				chain) != 1 ||
	    X509_STORE_CTX_set_purpose(ctx, purpose) != 1) {
		r = err_set(err, EINVAL, "certificate: %s", tls_openssl_reason());
	} else {
		X509_STORE_CTX_set_depth(ctx, LIMIT_TLS_CHAIN_DEPTH);
		if (X509_verify_cert(ctx) != 1)
			r = err_set(err, EINVAL, "certificate: %s",
				    X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
	}
	X509_STORE_CTX_free(ctx);
	ERR_clear_error();
	return r;
}

int tls_identity_check(const struct tls_identity *id, struct err *err)
{
	int r = check_purpose(id->ctx, X509_PURPOSE_SSL_SERVER, err);

	return r != 0 ? r : check_purpose(id->ctx, X509_PURPOSE_SSL_CLIENT, err);
}
