/* SPDX-License-Identifier: Apache-2.0
 * test_certs_retry.c: certificates with a CA that fails, or answers too late (ztunnel-spec 8.4).
 * The CA is this file.
 */
#include "tests/unit/zt_helper.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/certs.h"

#define ID "spiffe://cluster.local/ns/default/sa/a"

struct tls_identity {
	int refs;
	time_t not_after;
};

static int alive;
static time_t lifetime = 3600;

static struct tls_identity *identity(void)
{
	struct tls_identity *id = xcalloc(1, sizeof(*id));

	id->refs = 1;
	id->not_after = time(NULL) + lifetime;
	alive++;
	return id;
}
void tls_identity_unref(struct tls_identity *id)
{
	if (--id->refs == 0) {
		alive--;
		free(id);
	}
}
time_t tls_identity_not_after(const struct tls_identity *id)
{
	return id->not_after;
}

static bool hold, fail;
static int asked;
static void (*held_done)(void *, struct tls_identity *, const char *);
static void *held_ctx;

void ca_issue(struct ca *ca, const char *spiffe,
	      void (*done)(void *, struct tls_identity *, const char *), void *ctx)
{
	(void)ca;
	(void)spiffe;
	asked++;
	if (hold) {
		held_done = done;
		held_ctx = ctx;
	} else if (fail) {
		done(ctx, NULL, "no");
	} else {
		done(ctx, identity(), NULL);
	}
}
const char *ca_name(const struct ca *ca)
{
	(void)ca;
	return "test CA";
}

static int calls;

static void on_cert(struct cert_sub *s, struct tls_identity *id)
{
	(void)s;
	assert_non_null(id);
	calls++;
}

static struct cert_info info;

static void on_info(void *ctx, const struct cert_info *i)
{
	(void)ctx;
	info = *i;
}

static void run_until_asked(struct loop *l, int n)
{
	uint64_t start = clock_mono_ms();

	while (asked < n && clock_mono_ms() - start < 10000)
		loop_step(l, 100);
	assert_int_equal(asked, n);
}

static void failure__unavailable_then_retried(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};

	(void)state;
	asked = calls = 0;
	fail = true;
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	certs_each(c, on_info, NULL);
	assert_int_equal(info.state, CERT_UNAVAILABLE);
	assert_string_equal(info.error, "no");
	assert_int_equal(calls, 0);
	fail = false;
	run_until_asked(l, 2);
	certs_each(c, on_info, NULL);
	assert_int_equal(info.state, CERT_AVAILABLE);
	assert_int_equal(calls, 1);
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	loop_free(l);
	assert_int_equal(alive, 0);
}

static void failure__keeps_a_valid_certificate(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};

	(void)state;
	asked = calls = 0;
	fail = false;
	lifetime = 3; /* asked again after about 1.5 s, while it is still valid */
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	fail = true;
	run_until_asked(l, 2);
	certs_each(c, on_info, NULL);
	assert_int_equal(info.state, CERT_AVAILABLE);
	assert_non_null(info.id);
	assert_string_equal(info.error, "no");
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	loop_free(l);
	assert_int_equal(alive, 0);
	fail = false;
	lifetime = 3600;
}

static void answer__after_forgetting_is_dropped(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};

	(void)state;
	asked = calls = 0;
	hold = true;
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	certs_each(c, on_info, NULL);
	assert_int_equal(info.state, CERT_INITIALIZING);
	certs_unsubscribe(c, &s);
	held_done(held_ctx, identity(), NULL);
	assert_int_equal(calls, 0);
	assert_int_equal(alive, 0);
	hold = false;
	(void)certs_free(c);
	loop_free(l);
}

static void answer__odd_dates_do_not_spin(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};
	uint64_t start = clock_mono_ms();

	(void)state;
	asked = calls = 0;
	lifetime = -100; /* expired on arrival (spec 17, item 35) */
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	run_until_asked(l, 3);
	assert_true(clock_mono_ms() - start >= 400);
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	loop_free(l);
	lifetime = 3600;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failure__unavailable_then_retried),
		cmocka_unit_test(failure__keeps_a_valid_certificate),
		cmocka_unit_test(answer__after_forgetting_is_dropped),
		cmocka_unit_test(answer__odd_dates_do_not_spin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
