/* SPDX-License-Identifier: Apache-2.0
 * test_vault.c: which credentials the agent keeps, and whose it gives back.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/sealed.h"
#include "lib/wire/credential.h"
#include "node-agent/enrol/vault.h"

/* A descriptor with a credential of cluster.local/ns/shop/sa/@sa. */
static int credential(const char *sa, int64_t valid_s, const char *key)
{
	char id[128];
	struct strbuf b = {0};
	struct err err = {0};
	struct credential c = {.not_after = clock_wall_us() / 1000000 + valid_s,
			       .key = str_of(key),
			       .chain = STR("chain"),
			       .roots = STR("roots")};
	int fd;

	(void)snprintf(id, sizeof(id), "spiffe://cluster.local/ns/shop/sa/%s", sa);
	c.spiffe = str_of(id);
	credential_put(&b, &c);
	fd = sealed_new("test", b.p, b.n, &err);
	strbuf_fini(&b);
	assert_true(fd >= 0);
	return fd;
}

static int put(struct vault *v, const char *sa, int64_t valid_s, const char *key)
{
	int fd = credential(sa, valid_s, key), r;
	struct err err = {0};

	r = vault_put(v, fd, &err);
	(void)xclose(fd);
	return r;
}

static void assert_key(struct vault *v, const char *sa, const char *key)
{
	int fd = vault_get(v, "shop", sa);
	struct credential c;
	struct err err = {0};
	const void *map;
	bool locked;
	size_t n;

	assert_true(fd >= 0);
	assert_int_equal(sealed_check(fd, LIMIT_CREDENTIAL_BYTES, &n, &err), 0);
	map = sealed_map(fd, n, &locked, &err);
	assert_non_null(map);
	assert_int_equal(credential_parse((struct str){map, n}, &c, &err), 0);
	assert_true(str_eqc(c.key, key));
	sealed_unmap(map, n);
}

static void vault__the_newest_counts_and_expired_ones_do_not(void **state)
{
	struct loop *l = loop_new();
	struct vault *v = vault_new(l);

	(void)state;
	assert_int_equal(put(v, "cart", 100, "one"), 0);
	assert_int_equal(put(v, "cart", 100, "two"), 0);
	assert_int_equal(vault_count(v), 1);
	assert_key(v, "cart", "two");
	assert_int_equal(vault_get(v, "shop", "other"), -1);
	assert_int_equal(put(v, "old", 0, "x"), -EINVAL);
	assert_int_equal(vault_count(v), 1);
	vault_free(v);
	loop_free(l);
}

static void vault__a_full_one_takes_renewals_only(void **state)
{
	struct loop *l;
	struct vault *v;
	struct rlimit files = {0};
	char sa[16];

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	if (files.rlim_max < LIMIT_CREDENTIALS + 64)
		skip(); /* one descriptor each */
	files.rlim_cur = files.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	l = loop_new();
	v = vault_new(l);
	for (unsigned int i = 0; i < LIMIT_CREDENTIALS; i++) {
		(void)snprintf(sa, sizeof(sa), "sa-%u", i);
		assert_int_equal(put(v, sa, 100, "one"), 0);
	}
	assert_int_equal(put(v, "more", 100, "x"), -ENOSPC);
	assert_int_equal(put(v, "sa-7", 100, "two"), 0);
	assert_key(v, "sa-7", "two");
	assert_int_equal(vault_count(v), LIMIT_CREDENTIALS);
	vault_free(v);
	loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vault__the_newest_counts_and_expired_ones_do_not),
		cmocka_unit_test(vault__a_full_one_takes_renewals_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
