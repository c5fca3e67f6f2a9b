/* SPDX-License-Identifier: Apache-2.0
 * test_ca_csr.c: the certificate request, and which answers of a CA are taken (ztunnel-spec 8.2).
 */
#include "tests/unit/zt_helper.h"

#include "lib/base/err.h"
#include "lib/wire/tls.h"
#include "tests/unit/tls_helper.h"
#include "ztunnel/control/ca_csr.h"

#define ID "spiffe://cluster.local/ns/default/sa/a"

static X509_REQ *read_csr(const char *pem)
{
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509_REQ *r = PEM_read_bio_X509_REQ(b, NULL, NULL, NULL);

	BIO_free(b);
	assert_non_null(r);
	return r;
}

static void request__is_what_the_ca_wants(void **state)
{
	struct ca_csr c, d;
	X509_REQ *r;
	STACK_OF(X509_EXTENSION) * ext;
	X509_EXTENSION *e;
	GENERAL_NAMES *names;
	const GENERAL_NAME *n;

	(void)state;
	assert_int_equal(ca_csr_new(&c, ID, NULL), 0);
	assert_int_equal(ca_csr_new(&d, ID, NULL), 0);
	assert_string_not_equal(c.key_pem, d.key_pem);
	assert_non_null(strstr(c.key_pem, "-----BEGIN PRIVATE KEY-----"));
	r = read_csr(c.csr_pem);
	assert_int_equal(X509_REQ_verify(r, X509_REQ_get0_pubkey(r)), 1);
	assert_int_equal(X509_REQ_get_signature_nid(r), NID_ecdsa_with_SHA256);
	assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(r)), 0);
	assert_int_equal(EVP_PKEY_get_bits(X509_REQ_get0_pubkey(r)), 256);
	ext = X509_REQ_get_extensions(r);
	assert_int_equal(sk_X509_EXTENSION_num(ext), 1);
	e = sk_X509_EXTENSION_value(ext, 0);
	assert_int_equal(OBJ_obj2nid(X509_EXTENSION_get_object(e)), NID_subject_alt_name);
	assert_int_equal(X509_EXTENSION_get_critical(e), 1);
	names = X509V3_EXT_d2i(e);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	n = sk_GENERAL_NAME_value(names, 0);
	assert_int_equal(n->type, GEN_URI);
	assert_int_equal(ASN1_STRING_length(n->d.uniformResourceIdentifier), strlen(ID));
	assert_memory_equal(ASN1_STRING_get0_data(n->d.uniformResourceIdentifier), ID, strlen(ID));
	GENERAL_NAMES_free(names);
	sk_X509_EXTENSION_pop_free(ext, X509_EXTENSION_free);
	X509_REQ_free(r);
	ca_csr_fini(&c);
	ca_csr_fini(&d);
}

enum answer {
	GOOD,
	NOTHING,
	NO_ROOT,
	OTHER_KEY,
	OTHER_ROOT,
	GARBAGE,
	EMPTY_TEXT,
	TOO_LONG,
	KEY_FOR_LEAF,
	ANSWER_N
};

static void answer__table(void **state)
{
	static const struct {
		const char *name;
		enum answer kind;
		const char *uri, *eku, *want; /* @want: of the error; NULL: it is taken */
		long from_s, to_s;
	} rows[] = {
		{"good", GOOD, ID, NULL, NULL, -60, 600},
		{"no certificate", NOTHING, ID, NULL, "holds no certificate", -60, 600},
		{"no root", NO_ROOT, ID, NULL, "no root certificate present", -60, 600},
		{"another identity", GOOD, ID "b", NULL, "is for " ID "b, asked was " ID, -60, 600},
		{"no identity", GOOD, "spiffe://x", NULL, "is not spiffe://", -60, 600},
		{"another key", OTHER_KEY, ID, NULL, "certificate and key", -60, 600},
		{"another root", OTHER_ROOT, ID, NULL, "certificate: ", -60, 600},
		{"expired", GOOD, ID, NULL, "certificate has expired", -600, -60},
		{"not yet", GOOD, ID, NULL, "not yet valid", 300, 600},
		{"client only", GOOD, ID, "clientAuth", "certificate: ", -60, 600},
		{"server only", GOOD, ID, "serverAuth", "certificate: ", -60, 600},
		{"garbage", GARBAGE, ID, NULL, "certificate chain", -60, 600},
		{"empty text", EMPTY_TEXT, ID, NULL, "certificate chain", -60, 600},
		{"a chain without end", TOO_LONG, ID, NULL, "chain of 9 certificates", -60, 600},
		{"a request for a certificate", KEY_FOR_LEAF, ID, NULL, "certificate chain", -60,
		 600},
	};
	struct test_ca ca = test_ca_new(), other = test_ca_new();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct leaf_opts o = {.uri = {str_of(rows[i].uri)},
				      .eku = rows[i].eku,
				      .from_s = rows[i].from_s,
				      .to_s = rows[i].to_s};
		enum answer k = rows[i].kind;
		EVP_PKEY *key2 = EVP_EC_gen("P-256");
		struct tls_identity *id;
		struct str chain[10];
		struct err err = {0};
		struct ca_csr c;
		X509_REQ *r;
		size_t n = 2;
		char *pem;
		X509 *leaf;

		assert_int_equal(ca_csr_new(&c, ID, NULL), 0);
		r = read_csr(c.csr_pem);
		leaf = leaf_new(&ca, &o, k == OTHER_KEY ? key2 : X509_REQ_get0_pubkey(r));
		pem = pem_of(leaf, NULL);
		chain[0] = str_of(pem);
		chain[1] = str_of(k == OTHER_ROOT ? other.pem : ca.pem);
		if (k == NOTHING || k == NO_ROOT)
			n = k == NOTHING ? 0 : 1;
		if (k == GARBAGE)
			chain[0] = STR(
				"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
		if (k == EMPTY_TEXT)
			chain[0] = STR("");
		if (k == KEY_FOR_LEAF)
			chain[0] = str_of(c.csr_pem);
		if (k == TOO_LONG)
			for (n = 1; n < 10; n++)
				chain[n] = str_of(ca.pem);
		id = ca_csr_accept(&c, ID, chain, n, &err);
		if (rows[i].want == NULL && id == NULL)
			fail_msg("%s: %s", rows[i].name, err.msg);
		if (rows[i].want != NULL && (id != NULL || strstr(err.msg, rows[i].want) == NULL))
			fail_msg("%s: %s", rows[i].name, err.msg);
		if (id != NULL) {
			assert_string_equal(tls_identity_spiffe(id), ID);
			assert_string_equal(tls_identity_roots_pem(id), ca.pem);
			tls_identity_unref(id);
		}
		free(pem);
		X509_free(leaf);
		X509_REQ_free(r);
		EVP_PKEY_free(key2);
		ca_csr_fini(&c);
	}
	test_ca_free(&ca);
	test_ca_free(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request__is_what_the_ca_wants),
		cmocka_unit_test(answer__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
