/* SPDX-License-Identifier: Apache-2.0
 * test_certs_retry.c: certificates with a CA that fails, or answers too late (ztunnel-spec 8.4).
 * The CA is this file.
 */
#include "tests/unit/zt_helper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/certs.h"

#define ID "spiffe://cluster.local/ns/default/sa/a"

struct tls_identity {
	int refs;
	time_t not_before, not_after;
	const char *roots;
};

static int alive;
static time_t lifetime = 3600;
static const char *roots = "old";

static struct tls_identity *identity(void)
{
	struct tls_identity *id = xcalloc(1, sizeof(*id));

	id->refs = 1;
	id->not_before = time(NULL);
	id->not_after = time(NULL) + lifetime;
	id->roots = roots;
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
struct tls_identity *tls_identity_ref(struct tls_identity *id)
{
	id->refs++;
	return id;
}
const char *tls_identity_spiffe(const struct tls_identity *id)
{
	(void)id;
	return ID;
}
time_t tls_identity_not_after(const struct tls_identity *id)
{
	return id->not_after;
}

time_t tls_identity_not_before(const struct tls_identity *id)
{
	return id->not_before;
}
const char *tls_identity_roots_pem(const struct tls_identity *id)
{
	return id->roots;
}

static bool hold, fail;
static int asked;
#define HELD_MAX 32
static struct {
	void (*done)(void *, struct tls_identity *, const char *);
	void *ctx;
	char spiffe[64];
} held[HELD_MAX];
static size_t nheld;
static void (*held_done)(void *, struct tls_identity *, const char *);
static void *held_ctx;

void ca_issue(struct ca *ca, const char *spiffe,
	      void (*done)(void *, struct tls_identity *, const char *), void *ctx)
{
	(void)ca;
	asked++;
	if (hold) {
		held_done = done;
		held_ctx = ctx;
		assert_true(nheld < HELD_MAX);
		held[nheld].done = done;
		held[nheld].ctx = ctx;
		(void)snprintf(held[nheld++].spiffe, sizeof(held[0].spiffe), "%s", spiffe);
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

static int calls, taken_back;

static void on_cert(struct cert_sub *s, struct tls_identity *id)
{
	(void)s;
	if (id != NULL)
		calls++;
	else
		taken_back++;
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
	asked = calls = taken_back = 0;
	lifetime = -100; /* expired on arrival (spec 17, item 35) */
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	run_until_asked(l, 3);
	assert_true(clock_mono_ms() - start >= 400);
	assert_int_equal(taken_back, 2); /* what has expired is not used */
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	loop_free(l);
	lifetime = 3600;
}

static void id_text(char buf[64], size_t i)
{
	(void)snprintf(buf, 64, "spiffe://cluster.local/ns/n/sa/%zu", i);
}

static void requests__are_bounded_and_in_order(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s[20] = {0};
	char want[64];

	(void)state;
	asked = calls = 0;
	nheld = 0;
	hold = true;
	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		id_text(want, i);
		certs_subscribe(c, &s[i], want, on_cert);
	}
	for (int i = 0; i < 5; i++)
		loop_step(l, 0);
	assert_int_equal(asked, 8);
	certs_unsubscribe(c, &s[10]); /* one that waits, one that is under way */
	certs_unsubscribe(c, &s[0]);
	for (size_t i = 0; i < nheld; i++) {
		id_text(want, i < 10 ? i : i + 1);
		assert_string_equal(held[i].spiffe, want);
		held[i].done(held[i].ctx, i % 2 == 0 ? identity() : NULL, "no");
		loop_step(l, 0);
		assert_true(asked - (int)(i + 1) <= 8);
	}
	assert_int_equal(asked, 19);
	assert_int_equal(calls, 9);
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		certs_unsubscribe(c, &s[i]);
	(void)certs_free(c);
	loop_free(l);
	assert_int_equal(alive, 0);
	hold = false;
}

static void requests__go_by_who_needs_them(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub old = {0}, s[10] = {0};
	char want[64];
	uint64_t start;

	(void)state;
	asked = calls = 0;
	nheld = 0;
	hold = false;
	lifetime = 3; /* its renewal is due after some 1.5 s */
	certs_subscribe(c, &old, ID, on_cert);
	loop_step(l, 0);
	assert_int_equal(calls, 1);
	hold = true;
	for (size_t i = 0; i < 8; i++) {
		id_text(want, i);
		certs_subscribe(c, &s[i], want, on_cert);
	}
	for (start = clock_mono_ms(); clock_mono_ms() - start < 1900;)
		loop_step(l, 20);
	assert_int_equal(asked, 9); /* the renewal waits */
	id_text(want, 8);
	certs_subscribe(c, &s[8], want, on_cert);
	loop_step(l, 0);
	id_text(want, 9);
	certs_subscribe(c, &s[9], want, on_cert);
	loop_step(l, 0);
	certs_waited(&s[9]); /* a connection waits for the last one */
	certs_waited(&s[9]);
	held[0].done(held[0].ctx, NULL, "no");
	loop_step(l, 0);
	assert_string_equal(held[8].spiffe, want);
	id_text(want, 8);
	held[1].done(held[1].ctx, NULL, "no");
	loop_step(l, 0);
	assert_string_equal(held[9].spiffe, want);
	held[2].done(held[2].ctx, NULL, "no");
	loop_step(l, 0);
	assert_string_equal(held[10].spiffe, ID);
	for (size_t i = 3; i < nheld; i++)
		held[i].done(held[i].ctx, NULL, "no");
	certs_unsubscribe(c, &old);
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		certs_unsubscribe(c, &s[i]);
	(void)certs_free(c);
	loop_free(l);
	lifetime = 3600;
	hold = false;
}

/* An answer may come after everything is gone. */
static void answer__after_the_end(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};

	(void)state;
	nheld = 0;
	hold = true;
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	held[0].done(held[0].ctx, identity(), NULL);
	assert_int_equal(alive, 0);
	loop_free(l);
	hold = false;
}

/* New roots with one certificate: the other is renewed too, once. */
static void roots__others_follow(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub a = {0}, b = {0};

	(void)state;
	asked = calls = 0;
	nheld = 0;
	hold = fail = false;
	roots = "old";
	certs_subscribe(c, &a, ID, on_cert);
	loop_step(l, 0);
	roots = "new";
	certs_subscribe(c, &b, ID "2", on_cert);
	loop_step(l, 0);
	assert_int_equal(asked, 2);
	for (uint64_t start = clock_mono_ms(); asked < 3 && clock_mono_ms() - start < 40000;)
		loop_step(l, 200);
	assert_int_equal(asked, 3);
	assert_int_equal(calls, 3);
	for (int i = 0; i < 20; i++)
		loop_step(l, 10);
	assert_int_equal(asked, 3);
	certs_unsubscribe(c, &a);
	certs_unsubscribe(c, &b);
	(void)certs_free(c);
	loop_free(l);
	roots = "old";
	assert_int_equal(alive, 0);
}

/* A CA that fails at once, for everybody: nothing recurses, and the loop keeps turning. */
static void failure__of_ten_thousand_at_once(void **state)
{
	enum { MANY = 10000 };
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub *s = xcalloc(MANY, sizeof(*s));
	char want[64];
	int turns = 0, before;

	(void)state;
	asked = calls = 0;
	hold = false;
	fail = true;
	assert_int_equal(log_set_filter("off"), 0);
	for (size_t i = 0; i < MANY; i++) {
		id_text(want, i);
		certs_subscribe(c, &s[i], want, on_cert);
	}
	while (asked < MANY) {
		before = asked;
		loop_step(l, 0);
		turns++;
		assert_in_range(asked - before, 1, 64);
	}
	assert_true(turns >= MANY / 64);
	for (size_t i = 0; i < MANY; i++)
		certs_unsubscribe(c, &s[i]);
	assert_int_equal(log_set_filter("info"), 0);
	free(s);
	(void)certs_free(c);
	loop_free(l);
	fail = false;
}

/* The present certificate is used to its end, and not longer, whatever the back-off is. */
static void failure__expired_is_taken_back(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s = {0};
	uint64_t start = clock_mono_ms();

	(void)state;
	asked = calls = taken_back = 0;
	lifetime = 3;
	certs_subscribe(c, &s, ID, on_cert);
	loop_step(l, 0);
	fail = true;
	while (taken_back == 0 && clock_mono_ms() - start < 10000)
		loop_step(l, 100);
	assert_int_equal(taken_back, 1);
	assert_in_range(clock_mono_ms() - start, 1900, 4500);
	certs_each(c, on_info, NULL);
	assert_int_equal(info.state, CERT_UNAVAILABLE);
	assert_null(info.id);
	assert_string_equal(info.error, "no");
	certs_unsubscribe(c, &s);
	(void)certs_free(c);
	loop_free(l);
	assert_int_equal(alive, 0);
	fail = false;
	lifetime = 3600;
}

/* One answer shows that the CA is back: nobody sits out a long back-off. */
static void failure__over_for_all(void **state)
{
	struct loop *l = loop_new();
	struct certs *c = certs_new(l, NULL);
	struct cert_sub s[4] = {0}, one = {0};
	char want[64];
	uint64_t start = clock_mono_ms();

	(void)state;
	asked = calls = 0;
	fail = true;
	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		id_text(want, i);
		certs_subscribe(c, &s[i], want, on_cert);
	}
	while (asked < 12 && clock_mono_ms() - start < 20000)
		loop_step(l, 50); /* now all wait for some 4 s */
	fail = false;
	certs_subscribe(c, &one, ID, on_cert);
	for (start = clock_mono_ms(); calls < 5 && clock_mono_ms() - start < 10000;)
		loop_step(l, 20);
	assert_int_equal(calls, 5);
	assert_true(clock_mono_ms() - start < 2000);
	certs_unsubscribe(c, &one);
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		certs_unsubscribe(c, &s[i]);
	(void)certs_free(c);
	loop_free(l);
	assert_int_equal(alive, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failure__unavailable_then_retried),
		cmocka_unit_test(failure__keeps_a_valid_certificate),
		cmocka_unit_test(answer__after_forgetting_is_dropped),
		cmocka_unit_test(answer__odd_dates_do_not_spin),
		cmocka_unit_test(requests__are_bounded_and_in_order),
		cmocka_unit_test(requests__go_by_who_needs_them),
		cmocka_unit_test(answer__after_the_end),
		cmocka_unit_test(roots__others_follow),
		cmocka_unit_test(failure__of_ten_thousand_at_once),
		cmocka_unit_test(failure__expired_is_taken_back),
		cmocka_unit_test(failure__over_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
