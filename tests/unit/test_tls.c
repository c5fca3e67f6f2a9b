/* SPDX-License-Identifier: Apache-2.0
 * test_tls.c: who gets through a handshake and who does not; records over lent buffers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/wire/tls.h"
#include "lib/wire/tls_crl.h"
#include "lib/wire/tls_session.h"
#include "lib/wire/tls_session_internal.h"
#include "tests/unit/tls_helper.h"

#define A "spiffe://cluster.local/ns/default/sa/a"
#define B "spiffe://cluster.local/ns/default/sa/b"

static struct test_ca ca, other_ca;

static struct tls_identity *identity(const struct test_ca *issuer, const struct test_ca *trusted,
				     const struct leaf_opts *o)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *c = leaf_new(issuer, o, key);
	_cleanup_free_ char *chain = pem_of(c, NULL), *k = pem_of(NULL, key);
	struct err e = {0};
	struct tls_identity *id =
		tls_identity_new(str_of(chain), str_of(k), str_of(trusted->pem), &e);

	X509_free(c);
	EVP_PKEY_free(key);
	if (id == NULL)
		fail_msg("%s", e.msg);
	return id;
}

static struct tls_identity *good(const char *uri)
{
	struct leaf_opts o = {.uri = {str_of(uri)}, .from_s = -60, .to_s = 3600};

	return identity(&ca, &ca, &o);
}

/* An identity that tls_identity_new() itself would refuse: its client context presents @o. */
static struct tls_identity *forged(const struct test_ca *issuer, const struct leaf_opts *o)
{
	struct tls_identity *id = good(A);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *c = leaf_new(issuer, o, key);

	assert_int_equal(SSL_CTX_use_cert_and_key(id->ctx, c, key, NULL, 1), 1);
	assert_int_equal(SSL_CTX_use_cert_and_key(id->ctx, c, key, NULL, 1), 1);
	X509_free(c);
	EVP_PKEY_free(key);
	return id;
}

struct pair {
	struct tls_session *client, *server;
	uint8_t c2s[1 << 20], s2c[1 << 20], plain[1 << 20];
	struct tls_out to_server, to_client;
};

static struct pair *pair_new(struct tls_identity *c, struct tls_identity *s, const char *expect)
{
	struct pair *p = calloc(1, sizeof(*p));

	p->client = tls_session_new(c, false, &expect, expect != NULL ? 1 : 0);
	p->server = tls_session_new(s, true, NULL, 0);
	p->to_server = (struct tls_out){p->c2s, 0, sizeof(p->c2s)};
	p->to_client = (struct tls_out){p->s2c, 0, sizeof(p->s2c)};
	return p;
}

static void pair_free(struct pair *p)
{
	tls_session_free(p->client);
	tls_session_free(p->server);
	free(p);
}

/* One side's turn with what the other has sent, @step bytes at a time (0: all at once). */
static enum tls_res turn(struct tls_session *s, struct tls_out *in, struct tls_out *out,
			 size_t step)
{
	enum tls_res r = TLS_AGAIN;
	size_t at = 0;

	if (in->n == 0)
		return tls_session_handshake(s, out);
	while (at < in->n && r == TLS_AGAIN) {
		size_t n = step != 0 && in->n - at > step ? step : in->n - at;

		tls_session_feed(s, in->p + at, n);
		r = tls_session_handshake(s, out);
		at += n - tls_session_unread(s);
		if (r == TLS_AGAIN)
			assert_int_equal(tls_session_unread(s), 0);
	}
	if (at != in->n) /* what follows the handshake stays lent: copy it for later */
		memmove(in->p, in->p + at, in->n - at);
	in->n -= at;
	s->in_left = 0;
	return r;
}

static void shake(struct pair *p, size_t step, enum tls_res *rc, enum tls_res *rs)
{
	*rc = *rs = TLS_AGAIN;
	for (int i = 0; i < 6; i++) {
		if (*rc == TLS_AGAIN)
			*rc = turn(p->client, &p->to_client, &p->to_server, step);
		if (*rs == TLS_AGAIN)
			*rs = turn(p->server, &p->to_server, &p->to_client, step);
	}
}

static void expect_shake(struct tls_identity *c, struct tls_identity *s, const char *expect,
			 bool server_refuses, const char *error)
{
	struct pair *p = pair_new(c, s, expect);
	enum tls_res rc, rs;

	shake(p, 0, &rc, &rs);
	if (error == NULL) {
		assert_int_equal(rc, TLS_OK);
		assert_int_equal(rs, TLS_OK);
		assert_string_equal(tls_session_peer(p->client), expect);
	} else {
		struct tls_session *who = server_refuses ? p->server : p->client;

		assert_int_equal(server_refuses ? rs : rc, TLS_FAILED);
		if (strstr(tls_session_error(who), error) == NULL)
			fail_msg("expected \"%s\" in \"%s\"", error, tls_session_error(who));
		assert_int_not_equal(rs,
				     TLS_OK); /* a server never opens for a client that failed */
	}
	pair_free(p);
	tls_identity_unref(c);
	tls_identity_unref(s);
}

static void handshake__both_good(void **st)
{
	(void)st;
	expect_shake(good(A), good(B), B, false, NULL);
}

static void handshake__byte_by_byte(void **st)
{
	struct tls_identity *a = good(A), *b = good(B);
	struct pair *p = pair_new(a, b, B);
	enum tls_res rc, rs;

	(void)st;
	shake(p, 1, &rc, &rs);
	assert_int_equal(rc, TLS_OK);
	assert_int_equal(rs, TLS_OK);
	assert_string_equal(tls_session_peer(p->server), A);
	pair_free(p);
	tls_identity_unref(a);
	tls_identity_unref(b);
}

static void handshake__wrong_identity(void **st)
{
	(void)st;
	expect_shake(good(A), good(B), "spiffe://cluster.local/ns/default/sa/c", false,
		     "peer did not present the expected SAN "
		     "(spiffe://cluster.local/ns/default/sa/c), got " B);
}

static void handshake__nobody_expected(void **st)
{
	(void)st;
	expect_shake(good(A), good(B), NULL, false, "(none), got");
}

static void handshake__wrong_trust_domain(void **st)
{
	(void)st;
	expect_shake(good("spiffe://evil.local/ns/default/sa/a"), good(B), B, true,
		     "expected trustdomain cluster.local");
}

static void handshake__no_client_certificate(void **st)
{
	struct tls_identity *c = good(A);
	SSL_CTX *bare = SSL_CTX_new(TLS_client_method());

	(void)st;
	SSL_CTX_set_cert_verify_callback(bare, tls_verify_peer, NULL);
	SSL_CTX_set_verify(bare, SSL_VERIFY_PEER, NULL);
	X509_STORE_add_cert(SSL_CTX_get_cert_store(bare), ca.cert);
	SSL_CTX_free(c->ctx);
	c->ctx = bare;
	expect_shake(c, good(B), B, true, "peer did not return a certificate");
}

static void handshake__other_root(void **st)
{
	struct leaf_opts o = {.uri = {STR(A)}, .from_s = -60, .to_s = 3600};

	(void)st;
	expect_shake(identity(&other_ca, &ca, &o), good(B), B, true,
		     "certificate signature failure");
}

struct bad_leaf {
	const char *name, *error;
	struct leaf_opts o;
};
static const struct bad_leaf bad[] = {
	{"expired", "certificate has expired", {.uri = {STR(A)}, .from_s = -7200, .to_s = -60}},
	{"not_yet_valid",
	 "certificate is not yet valid",
	 {.uri = {STR(A)}, .from_s = 600, .to_s = 3600}},
	{"server_only_eku",
	 "unsuitable certificate purpose",
	 {.uri = {STR(A)}, .eku = "serverAuth", .from_s = -60, .to_s = 3600}},
	{"two_uris",
	 "expected exactly one URI name, got 2",
	 {.uri = {STR(A), STR(B)}, .from_s = -60, .to_s = 3600}},
	{"no_uri",
	 "expected exactly one URI name, got 0",
	 {.dns = "a.example", .from_s = -60, .to_s = 3600}},
	{"nul_in_san",
	 "is not spiffe://",
	 {.uri = {STR(A "\0.evil")}, .from_s = -60, .to_s = 3600}},
	{"nul_at_end", "is not spiffe://", {.uri = {STR(A "\0")}, .from_s = -60, .to_s = 3600}},
	{"http_uri",
	 "is not spiffe://",
	 {.uri = {STR("https://cluster.local/ns/default/sa/a")}, .from_s = -60, .to_s = 3600}},
	{"extra_part", "is not spiffe://", {.uri = {STR(A "/x")}, .from_s = -60, .to_s = 3600}},
};

static void handshake__bad_leaf(void **st)
{
	const struct bad_leaf *b = *st;

	expect_shake(forged(&ca, &b->o), good(B), B, true, b->error);
}

/* The same certificates as a server: the client must refuse them just so. */
static void handshake__bad_server(void **st)
{
	const struct bad_leaf *b = *st;

	expect_shake(good(A), forged(&ca, &b->o), A, false, b->error);
}

static void identity__refuses(void **st)
{
	_cleanup_free_ char *junk = xstrdup("not pem");
	struct err e = {0};

	(void)st;
	assert_null(tls_identity_new(str_of(junk), str_of(junk), str_of(ca.pem), &e));
	assert_non_null(strstr(e.msg, "no certificate in the PEM text"));
	assert_null(tls_identity_new(str_of(ca.pem), str_of(junk), str_of(ca.pem), &e));
	assert_non_null(strstr(e.msg, "private key"));
}

static void identity__key_must_match(void **st)
{
	struct leaf_opts o = {.uri = {STR(A)}, .from_s = -60, .to_s = 3600};
	EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
	X509 *c = leaf_new(&ca, &o, key);
	_cleanup_free_ char *chain = pem_of(c, NULL), *k = pem_of(NULL, other);
	struct err e = {0};

	(void)st;
	assert_null(tls_identity_new(str_of(chain), str_of(k), str_of(ca.pem), &e));
	assert_non_null(strstr(e.msg, "certificate and key"));
	X509_free(c);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static void data__batch_in_pieces(void **st)
{
	struct tls_identity *a = good(A), *b = good(B);
	struct pair *p = pair_new(a, b, B);
	static uint8_t sent[300000];
	enum tls_res rc, rs;
	size_t got = 0, at = 0;

	(void)st;
	shake(p, 0, &rc, &rs);
	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (uint8_t)(i * 31 + i / 251);
	p->to_server.n = 0;
	assert_int_equal(tls_session_write(p->client, sent, sizeof(sent), &p->to_server), TLS_OK);
	while (at < p->to_server.n) { /* odd pieces, so that records are cut everywhere */
		size_t n = p->to_server.n - at < 7919 ? p->to_server.n - at : 7919, k;

		tls_session_feed(p->server, p->c2s + at, n);
		rs = tls_session_read(p->server, p->plain + got, sizeof(p->plain) - got, &k,
				      &p->to_client);
		assert_true(rs == TLS_OK || rs == TLS_AGAIN);
		assert_int_equal(tls_session_unread(p->server), 0);
		got += k;
		at += n;
	}
	assert_int_equal(got, sizeof(sent));
	assert_memory_equal(p->plain, sent, sizeof(sent));
	pair_free(p);
	tls_identity_unref(a);
	tls_identity_unref(b);
}

static void data__close_and_damage(void **st)
{
	struct tls_identity *a = good(A), *b = good(B);
	struct pair *p = pair_new(a, b, B);
	enum tls_res rc, rs;
	size_t n;

	(void)st;
	shake(p, 0, &rc, &rs);
	p->to_server.n = 0;
	assert_int_equal(tls_session_write(p->client, (const uint8_t *)"x", 1, &p->to_server),
			 TLS_OK);
	tls_session_shutdown(p->client, &p->to_server);
	tls_session_feed(p->server, p->c2s, p->to_server.n);
	rs = tls_session_read(p->server, p->plain, sizeof(p->plain), &n, &p->to_client);
	assert_int_equal(rs, TLS_CLOSED); /* and the byte before it is not lost */
	assert_int_equal(n, 1);
	/* the other direction: one flipped bit ends the session */
	p->to_client.n = 0;
	assert_int_equal(tls_session_write(p->server, (const uint8_t *)"abc", 3, &p->to_client),
			 TLS_OK);
	p->s2c[p->to_client.n - 1] ^= 1;
	tls_session_feed(p->client, p->s2c, p->to_client.n);
	assert_int_equal(tls_session_read(p->client, p->plain, sizeof(p->plain), &n, &p->to_server),
			 TLS_FAILED);
	assert_int_equal(n, 0);
	pair_free(p);
	tls_identity_unref(a);
	tls_identity_unref(b);
}

static void data__output_full(void **st)
{
	struct tls_identity *a = good(A), *b = good(B);
	struct pair *p = pair_new(a, b, B);
	struct tls_out tiny = {p->c2s, 0, 64};
	enum tls_res rc, rs;

	(void)st;
	shake(p, 0, &rc, &rs);
	assert_int_equal(tls_session_write(p->client, p->plain, 1000, &tiny), TLS_FAILED);
	assert_string_equal(tls_session_error(p->client), "tls error: output buffer is full");
	pair_free(p);
	tls_identity_unref(a);
	tls_identity_unref(b);
}

static void plaintext__refused(void **st)
{
	struct tls_identity *b = good(B);
	struct tls_session *s = tls_session_new(b, true, NULL, 0);
	static uint8_t buf[65536];
	struct tls_out out = {buf, 0, sizeof(buf)};
	static const char req[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

	(void)st;
	tls_session_feed(s, (const uint8_t *)req, sizeof(req) - 1);
	assert_int_equal(tls_session_handshake(s, &out), TLS_FAILED);
	assert_non_null(strstr(tls_session_error(s), "http request"));
	tls_session_free(s);
	tls_identity_unref(b);
}

static int setup(void **st)
{
	(void)st;
	ca = test_ca_new();
	other_ca = test_ca_new();
	return 0;
}

static int teardown(void **st)
{
	(void)st;
	test_ca_free(&ca);
	test_ca_free(&other_ca);
	return 0;
}

/* ---- revocation (ztunnel-spec 8.7) ---- */

static struct tls_crl *lists_of(const char *pem)
{
	struct err e = {0};
	struct tls_crl *c = tls_crl_new(str_of(pem), &e);

	if (c == NULL)
		fail_msg("%s", e.msg);
	return c;
}

/* An identity below an intermediate, and the certificates of its chain. */
struct below {
	struct test_ca sub;
	X509 *leaf;
	struct tls_identity *id;
};

static struct below below_new(void)
{
	struct below b = {.sub = test_ca_below(&ca)};
	struct leaf_opts o = {.uri = {STR(A)}, .from_s = -60, .to_s = 3600};
	EVP_PKEY *key = EVP_EC_gen("P-256");
	_cleanup_free_ char *leaf = NULL, *k = pem_of(NULL, key), *chain = NULL;
	struct err e = {0};

	b.leaf = leaf_new(&b.sub, &o, key);
	leaf = pem_of(b.leaf, NULL);
	chain = xasprintf("%s%s", leaf, b.sub.pem);
	b.id = tls_identity_new(str_of(chain), str_of(k), str_of(ca.pem), &e);
	if (b.id == NULL)
		fail_msg("%s", e.msg);
	EVP_PKEY_free(key);
	return b;
}

static void below_free(struct below *b)
{
	tls_identity_unref(b->id);
	X509_free(b->leaf);
	test_ca_free(&b->sub);
}

/* A handshake of @b's identity as client, server B with lists in @pem. */
static void shake_with_lists(struct below *b, const char *pem, bool before, const char *error)
{
	struct tls_identity *server = good(B);
	struct pair *p = pair_new(b->id, server, B);
	struct tls_crl *lists = lists_of(pem);
	enum tls_res rc, rs;

	if (before)
		assert_true(tls_session_crl(p->server, lists));
	shake(p, 0, &rc, &rs);
	if (before && error != NULL) {
		assert_int_equal(rs, TLS_FAILED);
		assert_true(tls_session_revoked(p->server));
		if (strstr(tls_session_error(p->server), error) == NULL)
			fail_msg("expected \"%s\" in \"%s\"", error, tls_session_error(p->server));
	} else {
		assert_int_equal(rs, TLS_OK);
		assert_int_equal(tls_session_crl(p->server, lists), error == NULL);
		assert_int_equal(tls_session_revoked(p->server), error != NULL);
		assert_string_equal(tls_session_error(p->server), "");
	}
	tls_crl_unref(lists);
	pair_free(p);
	tls_identity_unref(server);
}

static void revoked__table(void **st)
{
	struct below b = below_new();
	struct test_ca impostor = test_ca_below(&other_ca); /* the same name, another key */
	const struct {
		const char *title;
		const struct test_ca *issuer;
		X509 *names;
		long from_s, to_s;
		const char *error;
	} rows[] = {
		{"the leaf", &b.sub, b.leaf, -60, 3600, "certificate revoked"},
		{"the intermediate", &ca, b.sub.cert, -60, 3600, "certificate revoked"},
		{"a list past its date", &b.sub, b.leaf, -7200, -3600, "certificate revoked"},
		{"nobody", &b.sub, NULL, -60, 3600, NULL},
		{"somebody else", &b.sub, other_ca.cert, -60, 3600, NULL},
		{"the leaf's number at another issuer", &ca, b.leaf, -60, 3600, NULL},
		{"a list that its issuer has not signed", &impostor, b.leaf, -60, 3600,
		 "its issuer has not signed"},
		{"the root, which is trusted by itself", &ca, ca.cert, -60, 3600, NULL},
	};

	(void)st;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		X509_CRL *crl =
			crl_new(rows[i].issuer, rows[i].names, rows[i].from_s, rows[i].to_s);
		_cleanup_free_ char *pem = crl_pem(crl);

		print_message("row: %s\n", rows[i].title);
		shake_with_lists(&b, pem, true, rows[i].error);
		shake_with_lists(&b, pem, false, rows[i].error);
		X509_CRL_free(crl);
	}
	shake_with_lists(&b, "", true, NULL);
	test_ca_free(&impostor);
	below_free(&b);
}

/* The client looks at the server's chain, too, and says why with an alert. */
static void revoked__server(void **st)
{
	struct below b = below_new();
	struct tls_identity *client = good(B);
	X509_CRL *crl = crl_new(&b.sub, b.leaf, -60, 3600);
	_cleanup_free_ char *pem = crl_pem(crl);
	struct tls_crl *lists = lists_of(pem);
	struct pair *p = pair_new(client, b.id, A);
	enum tls_res rc, rs;

	(void)st;
	assert_true(tls_session_crl(p->client, lists));
	shake(p, 0, &rc, &rs);
	assert_int_equal(rc, TLS_FAILED);
	assert_int_equal(rs, TLS_FAILED);
	assert_non_null(strstr(tls_session_error(p->client), "certificate revoked"));
	assert_non_null(strstr(tls_session_error(p->server), "alert certificate revoked"));
	pair_free(p);
	tls_crl_unref(lists);
	X509_CRL_free(crl);
	tls_identity_unref(client);
	below_free(&b);
}

static void lists__texts(void **st)
{
	X509_CRL *one = crl_new(&ca, ca.cert, -60, 60), *two = crl_new(&other_ca, NULL, -60, 60);
	X509_CRL *delta = crl_new(&ca, NULL, -60, 60);
	_cleanup_free_ char *p1 = crl_pem(one), *p2 = crl_pem(two), *pd = NULL;
	_cleanup_free_ char *both = xasprintf("words\n%s%s%s", p1, ca.pem, p2);
	_cleanup_free_ char *cut = xasprintf("%s%.*s", p1, (int)strlen(p2) - 30, p2);
	_cleanup_free_ char *mixed = NULL, *longer = NULL;
	unsigned char *der = NULL;
	int n = i2d_X509_CRL(one, &der);
	ASN1_INTEGER *number = ASN1_INTEGER_new();
	struct tls_crl *c;

	(void)st;
	ASN1_INTEGER_set(number, 1);
	X509_CRL_add1_ext_i2d(delta, NID_delta_crl, number, 1, 0);
	X509_CRL_sign(delta, ca.key, EVP_sha256());
	pd = crl_pem(delta);
	mixed = xasprintf("%s%s", p1, pd);
	longer = memcpy(xcalloc(1, (size_t)n + 1), der, (size_t)n);

	const struct {
		struct str text;
		size_t lists, revoked;
		const char *error;
	} rows[] = {
		{STR(""), 0, 0, NULL},
		{STR(" \n\t\r\n"), 0, 0, NULL},
		{str_of(ca.pem), 0, 0, NULL}, /* other blocks are skipped */
		{str_of(p1), 1, 1, NULL},
		{str_of(both), 2, 1, NULL},
		{{(char *)der, (size_t)n}, 1, 1, NULL},
		{{longer, (size_t)n + 1}, 0, 0, "something follows"},
		{{(char *)der, (size_t)n - 1}, 0, 0, "list 1: "},
		{str_of(cut), 0, 0, "damaged PEM text after list 1"},
		{str_of(mixed), 0, 0, "list 2: a delta list"},
		{STR("no list"), 0, 0, "list 1: "},
		{STR("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"), 0, 0, "list 1: "},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};

		print_message("row: %zu\n", i);
		c = tls_crl_new(rows[i].text, &e);
		if (rows[i].error != NULL) {
			assert_null(c);
			if (strstr(e.msg, rows[i].error) == NULL)
				fail_msg("expected \"%s\" in \"%s\"", rows[i].error, e.msg);
			continue;
		}
		if (c == NULL)
			fail_msg("%s", e.msg);
		assert_int_equal(tls_crl_lists(c), rows[i].lists);
		assert_int_equal(tls_crl_revoked(c), rows[i].revoked);
		tls_crl_unref(c);
	}
	ASN1_INTEGER_free(number);
	OPENSSL_free(der);
	X509_CRL_free(one);
	X509_CRL_free(two);
	X509_CRL_free(delta);
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		cmocka_unit_test(handshake__both_good),
		cmocka_unit_test(handshake__byte_by_byte),
		cmocka_unit_test(handshake__wrong_identity),
		cmocka_unit_test(handshake__nobody_expected),
		cmocka_unit_test(handshake__wrong_trust_domain),
		cmocka_unit_test(handshake__no_client_certificate),
		cmocka_unit_test(handshake__other_root),
		cmocka_unit_test(identity__refuses),
		cmocka_unit_test(identity__key_must_match),
		cmocka_unit_test(data__batch_in_pieces),
		cmocka_unit_test(revoked__table),
		cmocka_unit_test(revoked__server),
		cmocka_unit_test(lists__texts),
		cmocka_unit_test(data__close_and_damage),
		cmocka_unit_test(data__output_full),
		cmocka_unit_test(plaintext__refused),
	};
	struct CMUnitTest t[ARRAY_LEN(fixed) + 2 * ARRAY_LEN(bad)];
	char names[2 * ARRAY_LEN(bad)][64];
	size_t n = ARRAY_LEN(fixed);

	memcpy(t, fixed, sizeof(fixed));
	for (size_t i = 0; i < 2 * ARRAY_LEN(bad); i++) {
		bool server = i >= ARRAY_LEN(bad);
		const struct bad_leaf *b = &bad[i % ARRAY_LEN(bad)];

		if (server && b->o.eku != NULL)
			continue; /* good enough for a server */
		snprintf(names[i], sizeof(names[i]), "handshake__%s_%s",
			 server ? "server" : "client", b->name);
		t[n++] = (struct CMUnitTest){.name = names[i],
					     .test_func = server ? handshake__bad_server
								 : handshake__bad_leaf,
					     .initial_state = (void *)(uintptr_t)b};
	}
	return _cmocka_run_group_tests("tls", t, n, setup, teardown);
}
