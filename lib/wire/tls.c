/* SPDX-License-Identifier: Apache-2.0
 * tls.c: identities: certificate, key and roots turned into one SSL_CTX.
 *
 * The context is made once per certificate, serves both roles (a session says which it plays, and
 * OpenSSL then verifies the peer for the other one) and is shared by all workers (OpenSSL counts
 * references with atomics and only reads a context after set-up). Sessions: tls_session.c.
 */
#include "lib/wire/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/wire/spiffe.h"
#include "lib/wire/tls_internal.h"

const char *tls_openssl_reason(void)
{
	unsigned long e = ERR_get_error();
	const char *r = e != 0 ? ERR_reason_error_string(e) : NULL;

	ERR_clear_error();
	return r != NULL ? r : "unknown OpenSSL error";
}

static BIO *bio_of(struct str pem)
{
	BIO *b = BIO_new_mem_buf(pem.p, (int)pem.n);

	bug_on(b == NULL);
	return b;
}

/* A key with a passphrase would make OpenSSL ask on the terminal. */
static int no_passphrase(char *buf, int size, int rw, void *arg)
{
	(void)buf;
	(void)size;
	(void)rw;
	(void)arg;
	return -1;
}

/* The end of a PEM text is reported as an error by OpenSSL. */
bool tls_at_pem_end(void)
{
	unsigned long e = ERR_peek_last_error();
	bool end = ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;

	ERR_clear_error();
	return end;
}

static STACK_OF(X509) * certs_parse(struct str pem, const char *what, struct err *err)
{
	STACK_OF(X509) *list = sk_X509_new_null();
	BIO *b = bio_of(pem);
	X509 *c;
	bool ok;

	bug_on(list == NULL);
	while ((c = PEM_read_bio_X509(b, NULL, no_passphrase, NULL)) != NULL) {
		/* OpenSSL looks into a certificate's extensions once, at its first use: now, not
		 * in a handshake for which other threads' wait; a bad one is refused there */
		(void)X509_check_purpose(c, -1, 0);
		bug_on(sk_X509_push(list, c) == 0);
	}
	ok = tls_at_pem_end();
	BIO_free(b);
	if (ok && sk_X509_num(list) > 0)
		return list;
	(void)err_set(err, EINVAL, "%s: %s", what,
		      ok ? "no certificate in the PEM text" : "damaged PEM certificate");
	sk_X509_pop_free(list, X509_free);
	return NULL;
}

static int set_groups(SSL_CTX *ctx)
{
	/* '*' sends a key share for both, so that a peer without ML-KEM needs no second flight;
	 * libraries before 3.5 know neither the group nor the mark */
	int r = SSL_CTX_set1_groups_list(ctx, "*X25519MLKEM768:*X25519:P-256:P-384") == 1 ||
		SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") == 1;

	ERR_clear_error();
	return r;
}

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *outlen,
		     const unsigned char *in, unsigned int inlen, void *arg)
{
	(void)ssl;
	(void)arg;
	for (unsigned int i = 0; i < inlen; i += in[i] + 1u)
		if (in[i] == 2 && i + 2 < inlen && in[i + 1] == 'h' && in[i + 2] == '2') {
			*out = in + i + 1;
			*outlen = 2;
			return SSL_TLSEXT_ERR_OK;
		}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Everything that does not depend on certificates (ztunnel-spec 8.1). */
static int ctx_parameters(SSL_CTX *ctx)
{
	static const unsigned char alpn[] = {2, 'h', '2'};

	SSL_CTX_set_security_level(ctx, 2);
	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
					       SSL_OP_NO_RENEGOTIATION |
					       SSL_OP_CIPHER_SERVER_PREFERENCE);
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	(void)SSL_CTX_set_max_cert_list(ctx, 32 * 1024);
	SSL_CTX_set_verify_depth(ctx, LIMIT_TLS_CHAIN_DEPTH);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_cert_verify_callback(ctx, tls_verify_peer, NULL);
	SSL_CTX_set_alpn_select_cb(ctx, select_h2, NULL);
	return SSL_CTX_set_alpn_protos(ctx, alpn, sizeof(alpn)) == 0 &&
	       SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
	       SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
	       SSL_CTX_set_ciphersuites(ctx, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256") ==
		       1 &&
	       SSL_CTX_set_num_tickets(ctx, 0) == 1 && set_groups(ctx);
}

static SSL_CTX *ctx_new(STACK_OF(X509) * chain, EVP_PKEY *key, STACK_OF(X509) * roots,
			struct err *err)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	STACK_OF(X509) * intermediates;
	int ok;

	bug_on(ctx == NULL);
	intermediates = X509_chain_up_ref(chain);
	bug_on(intermediates == NULL);
	X509_free(sk_X509_shift(intermediates));
	ok = ctx_parameters(ctx) &&
	     SSL_CTX_use_cert_and_key(ctx, sk_X509_value(chain, 0), key, intermediates, 1) == 1;
	for (int i = 0; ok && i < sk_X509_num(roots); i++)
		ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), sk_X509_value(roots, i));
	sk_X509_pop_free(intermediates, X509_free);
	if (ok)
		return ctx;
	(void)err_set(err, EINVAL, "certificate and key: %s", tls_openssl_reason());
	SSL_CTX_free(ctx);
	return NULL;
}

static int asn1_time(const ASN1_TIME *t, time_t *ret)
{
	struct tm tm;

	if (ASN1_TIME_to_tm(t, &tm) != 1)
		return -EINVAL;
	*ret = timegm(&tm);
	return 0;
}

/* Reads what the certificate says about itself. */
static int fill(struct tls_identity *id, X509 *leaf, struct err *err)
{
	char uri[TLS_SPIFFE_MAX];
	struct spiffe_id parsed;
	int r = tls_x509_identity(leaf, uri, err);

	if (r < 0)
		return err_wrap(err, "certificate");
	id->spiffe = xstrdup(uri);
	bug_on(spiffe_parse(str_of(id->spiffe), &parsed) < 0);
	id->trust_domain = parsed.trust_domain;
	if (asn1_time(X509_get0_notBefore(leaf), &id->not_before) < 0 ||
	    asn1_time(X509_get0_notAfter(leaf), &id->not_after) < 0)
		return err_set(err, EINVAL, "certificate: validity dates cannot be read");
	return 0;
}

static EVP_PKEY *key_parse(struct str pem, struct err *err)
{
	BIO *b = bio_of(pem);
	EVP_PKEY *key = PEM_read_bio_PrivateKey(b, NULL, no_passphrase, NULL);

	BIO_free(b);
	if (key == NULL)
		(void)err_set(err, EINVAL, "private key: %s", tls_openssl_reason());
	return key;
}

static int build(struct tls_identity *id, struct str chain_pem, struct str key_pem,
		 struct str roots_pem, struct err *err)
{
	STACK_OF(X509) *chain = certs_parse(chain_pem, "certificate chain", err);
	STACK_OF(X509) *roots = chain ? certs_parse(roots_pem, "root certificates", err) : NULL;
	EVP_PKEY *key = roots != NULL ? key_parse(key_pem, err) : NULL;
	int r = -EINVAL;

	if (key != NULL)
		r = fill(id, sk_X509_value(chain, 0), err);
	if (r == 0) {
		id->ctx = ctx_new(chain, key, roots, err);
		r = id->ctx != NULL ? 0 : -EINVAL;
	}
	EVP_PKEY_free(key);
	sk_X509_pop_free(chain, X509_free);
	sk_X509_pop_free(roots, X509_free);
	return r;
}

struct tls_identity *tls_identity_new(struct str chain_pem, struct str key_pem,
				      struct str roots_pem, struct err *err)
{
	struct tls_identity *id = xcalloc(1, sizeof(*id));

	atomic_init(&id->refs, 1);
	if (build(id, chain_pem, key_pem, roots_pem, err) < 0) {
		tls_identity_unref(id);
		return NULL;
	}
	id->chain_pem = xstrndup(chain_pem.p, chain_pem.n);
	id->roots_pem = xstrndup(roots_pem.p, roots_pem.n);
	return id;
}

struct tls_identity *tls_identity_ref(struct tls_identity *id)
{
	if (id != NULL)
		atomic_fetch_add_explicit(&id->refs, 1, memory_order_relaxed);
	return id;
}

void tls_identity_unref(struct tls_identity *id)
{
	/* acq_rel: the last holder sees what the others wrote before they let go */
	if (id == NULL || atomic_fetch_sub_explicit(&id->refs, 1, memory_order_acq_rel) != 1)
		return;
	SSL_CTX_free(id->ctx);
	free(id->spiffe);
	free(id->chain_pem);
	free(id->roots_pem);
	free(id);
}

int tls_identity_key_pem(const struct tls_identity *id, struct strbuf *out)
{
	EVP_PKEY *key = SSL_CTX_get0_privatekey(id->ctx);
	BIO *b = BIO_new(BIO_s_mem()); /* cleared when it grows and when it goes */
	char *p = NULL;
	int ok;
	long n;

	bug_on(b == NULL);
	ok = key != NULL && PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) == 1;
	n = ok ? BIO_get_mem_data(b, &p) : 0;
	if (n > 0)
		strbuf_add(out, p, (size_t)n);
	BIO_free(b);
	ERR_clear_error();
	return n > 0 ? 0 : -EINVAL;
}

const char *tls_identity_spiffe(const struct tls_identity *id)
{
	return id->spiffe;
}

time_t tls_identity_not_before(const struct tls_identity *id)
{
	return id->not_before;
}

time_t tls_identity_not_after(const struct tls_identity *id)
{
	return id->not_after;
}

const char *tls_identity_chain_pem(const struct tls_identity *id)
{
	return id->chain_pem;
}

const char *tls_identity_roots_pem(const struct tls_identity *id)
{
	return id->roots_pem;
}
