/* SPDX-License-Identifier: Apache-2.0
 * tls_session.c: see tls_session.h. OpenSSL's only view of the world is a BIO over two buffers.
 */
#include "lib/wire/tls_session.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/wire/tls.h"
#include "lib/wire/tls_crl.h"
#include "lib/wire/tls_session_internal.h"

#define TLS_RECORD_MAX 16384

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

void tls_session_fail(struct tls_session *s, const char *fmt, ...)
{
	char buf[1024];
	va_list ap;

	s->failed = true;
	if (s->error != NULL)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	s->error = strdup(buf); /* NULL reads as "out of memory" */
}

void tls_session_set_peer(struct tls_session *s, const char *uri)
{
	free(s->peer);
	s->peer = strdup(uri);
}

static int bio_read(BIO *b, char *buf, size_t cap, size_t *ret)
{
	struct tls_session *s = BIO_get_data(b);
	size_t n = s->in_left < cap ? s->in_left : cap;

	BIO_clear_retry_flags(b);
	if (n == 0) {
		BIO_set_retry_read(b);
		return -1;
	}
	memcpy(buf, s->in, n);
	s->in += n;
	s->in_left -= n;
	*ret = n;
	return 1;
}

static int bio_write(BIO *b, const char *buf, size_t n, size_t *ret)
{
	struct tls_session *s = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	if (s->out == NULL || s->out->cap - s->out->n < n) {
		tls_session_fail(s, "tls error: output buffer is full");
		return 0;
	}
	memcpy(s->out->p + s->out->n, buf, n);
	s->out->n += n;
	*ret = n;
	return 1;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

static void make_method(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "worker buffers");
	bug_on(method == NULL || BIO_meth_set_read_ex(method, bio_read) != 1 ||
	       BIO_meth_set_write_ex(method, bio_write) != 1 ||
	       BIO_meth_set_ctrl(method, bio_ctrl) != 1);
}

/* The pointers and the texts in one block. */
static int copy_expected(struct tls_session *s, const char *const *v, size_t n)
{
	size_t bytes = n * sizeof(char *);
	char *at;

	for (size_t i = 0; i < n; i++)
		bytes += strlen(v[i]) + 1;
	if (n == 0)
		return 0;
	s->expected = malloc(bytes);
	if (s->expected == NULL)
		return -ENOMEM;
	at = (char *)(s->expected + n);
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(v[i]) + 1;

		s->expected[i] = memcpy(at, v[i], len);
		at += len;
	}
	s->nexpected = n;
	return 0;
}

static int attach_bio(struct tls_session *s)
{
	BIO *b = BIO_new(method);

	if (b == NULL)
		return -ENOMEM;
	BIO_set_data(b, s);
	BIO_set_init(b, 1);
	SSL_set_bio(s->ssl, b, b);
	return 0;
}

struct tls_session *tls_session_new(struct tls_identity *id, bool server,
				    const char *const *expected, size_t nexpected)
{
	struct tls_session *s = calloc(1, sizeof(*s));

	bug_on(pthread_once(&method_once, make_method) != 0);
	if (s == NULL)
		return NULL;
	s->magic = TLS_SESSION_MAGIC;
	s->server = server;
	s->id = tls_identity_ref(id);
	s->ssl = SSL_new(id->ctx);
	if (s->ssl == NULL || copy_expected(s, expected, server ? 0 : nexpected) < 0 ||
	    attach_bio(s) < 0)
		return tls_session_free(s);
	SSL_set_app_data(s->ssl, s);
	if (server)
		SSL_set_accept_state(s->ssl);
	else
		SSL_set_connect_state(s->ssl);
	return s;
}

struct tls_session *tls_session_free(struct tls_session *s)
{
	if (s == NULL)
		return NULL;
	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	SSL_free(s->ssl);
	tls_identity_unref(s->id);
	free(s->expected);
	free(s->peer);
	free(s->error);
	tls_crl_unref(s->crl);
	s->magic = OBJ_DEAD;
	free(s);
	return NULL;
}

bool tls_session_crl(struct tls_session *s, struct tls_crl *crl)
{
	const STACK_OF(X509) *chain = s->peer != NULL ? SSL_get0_verified_chain(s->ssl) : NULL;
	struct tls_crl *old = s->crl;

	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	if (crl == old) /* the handshake asked these, or the last call did */
		return !s->revoked;
	s->crl = tls_crl_ref(crl);
	tls_crl_unref(old);
	if (crl != NULL && s->peer != NULL && tls_crl_check(crl, chain) != TLS_CRL_GOOD)
		s->revoked = true;
	return !s->revoked;
}

bool tls_session_revoked(const struct tls_session *s)
{
	return s->revoked;
}

void tls_session_feed(struct tls_session *s, const uint8_t *p, size_t n)
{
	bug_on(s->in_left != 0);
	s->in = p;
	s->in_left = n;
}

size_t tls_session_unread(const struct tls_session *s)
{
	return s->in_left;
}

/* What an OpenSSL call that did not succeed means. */
static enum tls_res result(struct tls_session *s, int r)
{
	int e = SSL_get_error(s->ssl, r);

	if (s->failed)
		goto failed;
	if (e == SSL_ERROR_WANT_READ)
		return TLS_AGAIN;
	if (e == SSL_ERROR_ZERO_RETURN) {
		s->closed = true;
		return TLS_CLOSED;
	}
	tls_session_fail(s, "tls error: %s", tls_openssl_reason());
failed:
	ERR_clear_error(); /* the queue belongs to the thread: the next session must find it empty
			    */
	return TLS_FAILED;
}

enum tls_res tls_session_handshake(struct tls_session *s, struct tls_out *out)
{
	enum tls_res res = TLS_OK;
	int r;

	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	if (s->failed)
		return TLS_FAILED;
	s->out = out;
	r = SSL_do_handshake(s->ssl);
	if (r != 1)
		res = result(s, r);
	else if (s->peer == NULL) {
		tls_session_fail(s, "tls error: peer presented no certificate");
		res = TLS_FAILED;
	}
	s->out = NULL;
	return res;
}

enum tls_res tls_session_read(struct tls_session *s, uint8_t *buf, size_t cap, size_t *ret_n,
			      struct tls_out *out)
{
	enum tls_res res = TLS_OK;
	size_t n = 0;

	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	*ret_n = 0;
	if (s->failed || s->closed)
		return s->failed ? TLS_FAILED : TLS_CLOSED;
	s->out = out;
	while (res == TLS_OK && cap - n >= TLS_RECORD_MAX) {
		size_t got = 0;
		int r = SSL_read_ex(s->ssl, buf + n, cap - n, &got);

		if (r == 1)
			n += got;
		else
			res = result(s, r);
	}
	s->out = NULL;
	*ret_n = n;
	return res == TLS_AGAIN && n != 0 ? TLS_OK : res;
}

enum tls_res tls_session_write(struct tls_session *s, const uint8_t *p, size_t n,
			       struct tls_out *out)
{
	enum tls_res res = TLS_OK;
	size_t done = 0;
	int r;

	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	if (s->failed)
		return TLS_FAILED;
	s->out = out;
	r = n != 0 ? SSL_write_ex(s->ssl, p, n, &done) : 1;
	if (r != 1) {
		res = result(s, r);
		if (res != TLS_FAILED) { /* an output that never blocks cannot ask for more input */
			tls_session_fail(s, "tls error: write outside of an established session");
			res = TLS_FAILED;
		}
	}
	s->out = NULL;
	return res;
}

void tls_session_shutdown(struct tls_session *s, struct tls_out *out)
{
	OBJ_CHECK(s, TLS_SESSION_MAGIC);
	if (s->failed || !SSL_is_init_finished(s->ssl))
		return;
	s->out = out;
	(void)SSL_shutdown(s->ssl);
	ERR_clear_error();
	s->out = NULL;
}

const char *tls_session_error(const struct tls_session *s)
{
	if (!s->failed)
		return "";
	return s->error != NULL ? s->error : "tls error: out of memory";
}

const char *tls_session_peer(const struct tls_session *s)
{
	return s->peer;
}
