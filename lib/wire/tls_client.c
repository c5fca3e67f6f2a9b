/* SPDX-License-Identifier: Apache-2.0
 * tls_client.c: see tls_client.h.
 */
#include "lib/wire/tls_client.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/ip.h"
#include "lib/wire/tls_internal.h"

#define TLS_CLIENT_MAGIC 0x7c11e475u
#define CHAIN_DEPTH	 8 /* public and enterprise authorities have longer chains than the mesh */

struct tls_client_ctx {
	SSL_CTX *ssl;
};

struct tls_client {
	uint32_t magic;
	bool failed, by_address;
	SSL *ssl;
	BIO *in, *out; /* owned by ssl */
	size_t sent;   /* bytes at the start of @out that are gone already */
	char error[256];
};

/* A key with a passphrase would make OpenSSL ask on the terminal. */
static int no_passphrase(char *buf, int size, int rw, void *arg)
{
	(void)buf;
	(void)size;
	(void)rw;
	(void)arg;
	return -1;
}

static BIO *bio_of(struct str pem, const char *what, struct err *err)
{
	BIO *b;

	if (pem.n > 1u << 20) {
		(void)err_set(err, E2BIG, "%s: more than 1 MiB", what);
		return NULL;
	}
	b = BIO_new_mem_buf(pem.p, (int)pem.n);
	bug_on(b == NULL);
	return b;
}

static bool at_pem_end(void)
{
	unsigned long e = ERR_peek_last_error();
	bool end = ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;

	ERR_clear_error();
	return end;
}

static int load_roots(SSL_CTX *ctx, struct str pem, struct err *err)
{
	BIO *b = bio_of(pem, "CA certificates", err);
	int n = 0;
	X509 *c;
	bool ok;

	if (b == NULL)
		return -E2BIG;
	while ((c = PEM_read_bio_X509(b, NULL, no_passphrase, NULL)) != NULL) {
		(void)X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), c);
		X509_free(c);
		n++;
	}
	ok = at_pem_end();
	BIO_free(b);
	if (ok && n > 0)
		return 0;
	return err_set(err, EINVAL, "CA certificates: %s",
		       ok ? "no certificate in the PEM text" : "damaged PEM certificate");
}

static int load_chain(SSL_CTX *ctx, struct str pem, struct err *err)
{
	BIO *b = bio_of(pem, "client certificate", err);
	bool first = true, ok = true;
	X509 *c;

	if (b == NULL)
		return -E2BIG;
	while (ok && (c = PEM_read_bio_X509(b, NULL, no_passphrase, NULL)) != NULL) {
		ok = first ? SSL_CTX_use_certificate(ctx, c) == 1
			   : SSL_CTX_add1_chain_cert(ctx, c) == 1;
		X509_free(c);
		first = false;
	}
	ok = ok && at_pem_end() && !first;
	BIO_free(b);
	if (ok)
		return 0;
	return err_set(err, EINVAL, "client certificate: %s",
		       first ? "no certificate in the PEM text" : tls_openssl_reason());
}

static int load_key(SSL_CTX *ctx, struct str pem, struct err *err)
{
	BIO *b = bio_of(pem, "client key", err);
	EVP_PKEY *key;
	bool ok;

	if (b == NULL)
		return -E2BIG;
	key = PEM_read_bio_PrivateKey(b, NULL, no_passphrase, NULL);
	BIO_free(b);
	if (key == NULL)
		return err_set(err, EINVAL, "client key: %s", tls_openssl_reason());
	ok = SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_check_private_key(ctx) == 1;
	EVP_PKEY_free(key);
	return ok ? 0
		  : err_set(err, EINVAL, "client key does not belong to the client certificate: %s",
			    tls_openssl_reason());
}

static int fill(SSL_CTX *ctx, const struct tls_client_config *cfg, struct err *err)
{
	static const unsigned char alpn[] = {2, 'h', '2'};
	int r = 0;

	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	(void)SSL_CTX_set_max_cert_list(ctx, 64 * 1024);
	SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH);
	SSL_CTX_set_verify(ctx, cfg->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
	/* RFC 9113 9.2.2 forbids most of TLS 1.2: only AEAD with ephemeral keys */
	if (SSL_CTX_set_min_proto_version(ctx, cfg->tls13 ? TLS1_3_VERSION : TLS1_2_VERSION) != 1 ||
	    SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1 ||
	    SSL_CTX_set_alpn_protos(ctx, alpn, sizeof(alpn)) != 0)
		return err_set(err, EINVAL, "TLS parameters: %s", tls_openssl_reason());
	if (cfg->ca_pem.n != 0)
		r = load_roots(ctx, cfg->ca_pem, err);
	else if (!cfg->insecure && SSL_CTX_set_default_verify_paths(ctx) != 1)
		r = err_set(err, EINVAL, "the system's CA certificates: %s", tls_openssl_reason());
	if (r == 0 && (cfg->cert_pem.n != 0) != (cfg->key_pem.n != 0))
		r = err_set(err, EINVAL,
			    "a client certificate needs its key, and the key its "
			    "certificate");
	if (r == 0 && cfg->cert_pem.n != 0)
		r = load_chain(ctx, cfg->cert_pem, err);
	if (r == 0 && cfg->key_pem.n != 0)
		r = load_key(ctx, cfg->key_pem, err);
	return r;
}

struct tls_client_ctx *tls_client_ctx_new(const struct tls_client_config *cfg, struct err *err)
{
	struct tls_client_ctx *c = xcalloc(1, sizeof(*c));

	c->ssl = SSL_CTX_new(TLS_client_method());
	bug_on(c->ssl == NULL);
	return fill(c->ssl, cfg, err) == 0 ? c : tls_client_ctx_free(c);
}

struct tls_client_ctx *tls_client_ctx_free(struct tls_client_ctx *c)
{
	if (c == NULL)
		return NULL;
	SSL_CTX_free(c->ssl);
	free(c);
	return NULL;
}

static int expect_name(SSL *ssl, const char *name, struct err *err)
{
	X509_VERIFY_PARAM *p = SSL_get0_param(ssl);
	struct ip_addr ip;
	bool ok;

	X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (ip_parse(str_of(name), &ip) == 0)
		ok = X509_VERIFY_PARAM_set1_ip(p, ip.b, ip.len) == 1;
	else
		ok = name[0] != '\0' && X509_VERIFY_PARAM_set1_host(p, name, 0) == 1 &&
		     SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
			      (void *)(uintptr_t)name) == 1;
	ERR_clear_error();
	return ok ? 0
		  : err_set(err, EINVAL, "server name %s: expected a DNS name or an IP address",
			    str_shown(str_of(name)));
}

struct tls_client *tls_client_new(struct tls_client_ctx *ctx, const char *server_name,
				  struct err *err)
{
	struct tls_client *t = xcalloc(1, sizeof(*t));

	t->magic = TLS_CLIENT_MAGIC;
	t->ssl = SSL_new(ctx->ssl);
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	bug_on(t->ssl == NULL || t->in == NULL || t->out == NULL);
	BIO_set_mem_eof_return(t->in, -1);
	BIO_set_mem_eof_return(t->out, -1);
	SSL_set_bio(t->ssl, t->in, t->out);
	SSL_set_connect_state(t->ssl);
	t->by_address = ip_parse(str_of(server_name), &(struct ip_addr){0}) == 0;
	return expect_name(t->ssl, server_name, err) == 0 ? t : tls_client_free(t);
}

struct tls_client *tls_client_free(struct tls_client *t)
{
	if (t == NULL)
		return NULL;
	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	SSL_free(t->ssl);
	t->magic = OBJ_DEAD;
	free(t);
	return NULL;
}

int tls_client_accept_name(struct tls_client *t, const char *name, struct err *err)
{
	X509_VERIFY_PARAM *p = SSL_get0_param(t->ssl);
	bool ok = name[0] != '\0' && X509_VERIFY_PARAM_add1_host(p, name, 0) == 1;

	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	/* OpenSSL wants an address and a name both, where both are set */
	ok = ok && (!t->by_address || X509_VERIFY_PARAM_set1_ip(p, NULL, 0) == 1);
	ERR_clear_error();
	return ok ? 0
		  : err_set(err, EINVAL, "server name %s: expected a DNS name",
			    str_shown(str_of(name)));
}

int tls_client_feed(struct tls_client *t, const uint8_t *p, size_t n)
{
	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	while (n != 0) {
		int k = BIO_write(t->in, p, n < 65536 ? (int)n : 65536);

		if (k <= 0)
			return -ENOMEM;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

static enum tls_client_res fail(struct tls_client *t, const char *what, const char *why)
{
	if (!t->failed)
		(void)snprintf(t->error, sizeof(t->error), "%s%s%s", what, why[0] ? ": " : "", why);
	t->failed = true;
	return TLS_CLIENT_FAILED;
}

/* Why a call of OpenSSL gave nothing. */
static enum tls_client_res outcome(struct tls_client *t, int r, const char *what)
{
	long verify;

	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return TLS_CLIENT_AGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return TLS_CLIENT_CLOSED;
	default:
		break;
	}
	verify = SSL_get_verify_result(t->ssl);
	if (verify != X509_V_OK && SSL_get_verify_mode(t->ssl) != SSL_VERIFY_NONE) {
		ERR_clear_error();
		return fail(t, "the server's certificate is not valid",
			    X509_verify_cert_error_string(verify));
	}
	return fail(t, what, tls_openssl_reason());
}

enum tls_client_res tls_client_handshake(struct tls_client *t)
{
	const unsigned char *proto;
	unsigned int n;
	int r;

	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	if (t->failed)
		return TLS_CLIENT_FAILED;
	ERR_clear_error();
	r = SSL_do_handshake(t->ssl);
	if (r != 1)
		return outcome(t, r, "TLS handshake");
	SSL_get0_alpn_selected(t->ssl, &proto, &n);
	if (n != 2 || memcmp(proto, "h2", 2) != 0)
		return fail(t, "the server does not speak HTTP/2 (ALPN h2 was not chosen)", "");
	return TLS_CLIENT_OK;
}

enum tls_client_res tls_client_read(struct tls_client *t, uint8_t *buf, size_t cap, size_t *ret_n)
{
	int r;

	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	*ret_n = 0;
	if (t->failed)
		return TLS_CLIENT_FAILED;
	ERR_clear_error();
	r = SSL_read(t->ssl, buf, cap < 65536 ? (int)cap : 65536);
	if (r <= 0)
		return outcome(t, r, "TLS read");
	*ret_n = (size_t)r;
	return TLS_CLIENT_OK;
}

enum tls_client_res tls_client_write(struct tls_client *t, const uint8_t *p, size_t n)
{
	OBJ_CHECK(t, TLS_CLIENT_MAGIC);
	if (t->failed)
		return TLS_CLIENT_FAILED;
	ERR_clear_error();
	while (n != 0) {
		int r = SSL_write(t->ssl, p, n < 65536 ? (int)n : 65536);

		if (r <= 0) /* a memory BIO takes everything: this is final */
			return fail(t, "TLS write", tls_openssl_reason());
		p += r;
		n -= (size_t)r;
	}
	return TLS_CLIENT_OK;
}

void tls_client_shutdown(struct tls_client *t)
{
	if (!t->failed && SSL_is_init_finished(t->ssl))
		(void)SSL_shutdown(t->ssl);
	ERR_clear_error();
}

struct str tls_client_pending(struct tls_client *t)
{
	char *p = NULL;
	long n = BIO_get_mem_data(t->out, &p);

	bug_on(n < 0 || (size_t)n < t->sent);
	return (struct str){p + t->sent, (size_t)n - t->sent};
}

void tls_client_sent(struct tls_client *t, size_t n)
{
	bug_on(n > tls_client_pending(t).n);
	t->sent += n;
	if (tls_client_pending(t).n != 0)
		return;
	(void)BIO_reset(t->out);
	t->sent = 0;
}

const char *tls_client_error(const struct tls_client *t)
{
	return t->error;
}
