/* SPDX-License-Identifier: Apache-2.0
 * test_certs.c: the development CA's files and certificates, and keeping certificates fresh with a
 * CA that fails on demand (ztunnel-spec 8.2, 8.4).
 */
#include "tests/unit/zt_helper.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/certs.h"
#include "ztunnel/observe/metrics.h"

void metric_add(enum metric_id id, int64_t delta)
{
	(void)id;
	(void)delta;
}

#define ID "spiffe://cluster.local/ns/default/sa/a"

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_certs.XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static char *in_dir(const char *name)
{
	return xasprintf("%s/%s", dir, name);
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"dev-root.pem", "dev-root.key", ".lock"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *p = in_dir(names[i]);

		unlink(p);
		free(p);
	}
	return rmdir(dir);
}

static struct tls_identity *got;
static char got_error[ERR_MSG_MAX];

static void on_issued(void *ctx, struct tls_identity *id, const char *error)
{
	(void)ctx;
	got = id;
	(void)snprintf(got_error, sizeof(got_error), "%s", error != NULL ? error : "");
}

static void ca_dev__root_is_made_once_and_shared(void **state)
{
	struct err e = {0};
	struct ca *one = ca_dev_new(NULL, dir, 3600, &e), *two;
	char *key = in_dir("dev-root.key"), *pem = in_dir("dev-root.pem"), *a, *b;
	struct stat st;
	size_t n;

	(void)state;
	assert_non_null(one);
	assert_int_equal(stat(key, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(file_read(pem, 65536, &a, &n, &e), 0);
	two = ca_dev_new(NULL, dir, 3600, &e);
	assert_non_null(two);
	assert_int_equal(file_read(pem, 65536, &b, &n, &e), 0);
	assert_string_equal(a, b);
	assert_non_null(strstr(ca_name(two), "development CA"));
	free(a);
	free(b);
	free(key);
	free(pem);
	(void)ca_free(one);
	(void)ca_free(two);
}

/* The directory may be a mounted Secret, where no lock can be made. */
static void ca_dev__root_that_is_there_is_only_read(void **state)
{
	struct err e = {0};
	char *lock = in_dir(".lock");

	(void)state;
	(void)ca_free(ca_dev_new(NULL, dir, 3600, &e));
	assert_int_equal(unlink(lock), 0);
	(void)ca_free(ca_dev_new(NULL, dir, 3600, &e));
	assert_int_equal(e.code, 0);
	assert_int_equal(access(lock, F_OK), -1);
	free(lock);
}

static void *make_ca(void *arg)
{
	(void)arg;
	return ca_dev_new(NULL, dir, 3600, NULL);
}

static void ca_dev__made_by_several_at_once(void **state)
{
	pthread_t t[4];
	struct tls_identity *id[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, make_ca, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		void *ca;

		pthread_join(t[i], &ca);
		assert_non_null(ca);
		ca_issue(ca, ID, on_issued, NULL);
		id[i] = got;
		assert_string_equal(tls_identity_roots_pem(id[i]), tls_identity_roots_pem(id[0]));
		(void)ca_free(ca);
	}
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		tls_identity_unref(id[i]);
}

static void ca_dev__refuses_a_readable_or_foreign_key(void **state)
{
	struct err e = {0};
	struct ca *ca = ca_dev_new(NULL, dir, 3600, &e);
	char *key = in_dir("dev-root.key"), *pem = in_dir("dev-root.pem");

	(void)state;
	(void)ca_free(ca);
	assert_int_equal(chmod(key, 0640), 0);
	assert_null(ca_dev_new(NULL, dir, 3600, &e));
	assert_non_null(strstr(e.msg, "mode 0600"));
	assert_int_equal(file_write_atomic(key, "nonsense", 8, 0600, &e), 0);
	assert_null(ca_dev_new(NULL, dir, 3600, &e));
	assert_non_null(strstr(e.msg, "not a PEM private key"));
	assert_int_equal(unlink(key), 0);
	assert_null(ca_dev_new(NULL, dir, 3600, &e));
	assert_non_null(strstr(e.msg, "dev-root.key"));
	free(key);
	free(pem);
}

static X509 *leaf_of(const struct tls_identity *id)
{
	BIO *b = BIO_new_mem_buf(tls_identity_chain_pem(id), -1);
	X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);

	BIO_free(b);
	assert_non_null(x);
	return x;
}

static void ca_dev__leaf(void **state)
{
	struct err e = {0};
	struct ca *ca = ca_dev_new(NULL, dir, 3600, &e);
	GENERAL_NAMES *names;
	int critical = 0, pos;
	char issuer[128];
	X509 *x;

	(void)state;
	ca_issue(ca, ID, on_issued, NULL);
	assert_non_null(got);
	assert_string_equal(tls_identity_spiffe(got), ID);
	assert_in_range(tls_identity_not_after(got) - time(NULL), 3590, 3600);
	x = leaf_of(got);
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(x)), 0);
	X509_NAME_oneline(X509_get_issuer_name(x), issuer, sizeof(issuer));
	assert_non_null(strstr(issuer, "DEVELOPMENT"));
	names = X509_get_ext_d2i(x, NID_subject_alt_name, &critical, NULL);
	assert_int_equal(critical, 1);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	GENERAL_NAMES_free(names);
	assert_int_equal(X509_get_extended_key_usage(x), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	pos = X509_get_ext_by_NID(x, NID_basic_constraints, -1);
	assert_true(pos >= 0 && X509_EXTENSION_get_critical(X509_get_ext(x, pos)));
	assert_int_equal(X509_check_ca(x), 0);
	X509_free(x);
	tls_identity_unref(got);
	(void)ca_free(ca);
}

static void ca_dev__refuses_what_is_no_identity(void **state)
{
	static const char *const rows[] = {"",
					   "a",
					   "spiffe://",
					   "spiffe://a/ns/b",
					   "spiffe://a/ns/b/sa/c,DNS:x.example",
					   "spiffe://a/ns//sa/c"};
	struct err e = {0};
	struct ca *ca = ca_dev_new(NULL, dir, 3600, &e);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ca_issue(ca, rows[i], on_issued, NULL);
		if (got != NULL) { /* a comma is allowed in a name: then it is part of it */
			assert_string_equal(tls_identity_spiffe(got), rows[i]);
			tls_identity_unref(got);
		} else {
			assert_int_not_equal(got_error[0], '\0');
		}
	}
	(void)ca_free(ca);
}

struct user {
	struct cert_sub sub;
	int calls;
	struct tls_identity *last;
};

static void on_cert(struct cert_sub *s, struct tls_identity *id)
{
	struct user *u = container_of(s, struct user, sub);

	u->calls++;
	u->last = id;
}

static enum cert_state seen_state;
static size_t seen;

static void on_info(void *ctx, const struct cert_info *i)
{
	(void)ctx;
	seen++;
	seen_state = i->state;
}

static void certs__shared_and_forgotten(void **state)
{
	struct loop *l = loop_new();
	struct ca *ca = ca_dev_new(l, dir, 3600, NULL);
	struct certs *c = certs_new(l, ca);
	struct user a = {0}, b = {0};

	(void)state;
	certs_subscribe(c, &a.sub, ID, on_cert);
	certs_subscribe(c, &b.sub, ID, on_cert);
	loop_step(l, 0);
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_ptr_equal(a.last, b.last); /* one certificate for both */
	seen = 0;
	certs_each(c, on_info, NULL);
	assert_int_equal(seen, 1);
	assert_int_equal(seen_state, CERT_AVAILABLE);
	certs_unsubscribe(c, &a.sub);
	certs_unsubscribe(c, &a.sub); /* twice is fine */
	seen = 0;
	certs_each(c, on_info, NULL);
	assert_int_equal(seen, 1);
	certs_unsubscribe(c, &b.sub);
	seen = 0;
	certs_each(c, on_info, NULL);
	assert_int_equal(seen, 0);
	(void)certs_free(c);
	(void)ca_free(ca);
	loop_free(l);
}

static void certs__renewed_at_half_life(void **state)
{
	struct loop *l = loop_new();
	struct ca *ca = ca_dev_new(l, dir, 2, NULL);
	struct certs *c = certs_new(l, ca);
	struct user a = {0};
	uint64_t start = clock_mono_ms();

	(void)state;
	certs_subscribe(c, &a.sub, ID, on_cert);
	while (a.calls < 2 && clock_mono_ms() - start < 10000)
		loop_step(l, 100);
	assert_int_equal(a.calls, 2);
	assert_true(clock_mono_ms() - start >= 200);
	certs_unsubscribe(c, &a.sub);
	(void)certs_free(c);
	(void)ca_free(ca);
	loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ca_dev__root_that_is_there_is_only_read, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(ca_dev__root_is_made_once_and_shared, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(ca_dev__made_by_several_at_once, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(ca_dev__refuses_a_readable_or_foreign_key, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(ca_dev__leaf, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(ca_dev__refuses_what_is_no_identity, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(certs__shared_and_forgotten, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(certs__renewed_at_half_life, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
