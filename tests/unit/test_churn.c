/* SPDX-License-Identifier: Apache-2.0
 * test_churn.c: when the other workers stand back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "lib/base/str.h"
#include "ztunnel/data/churn.h"

#define MS 1000000ull

static uint64_t now;

/* @n connections, @at_once at a time, each over after @lived_ms. */
static void come_and_go(struct churn *c, int n, int at_once, uint64_t lived_ms)
{
	for (int i = 0; i < n; i += at_once) {
		for (int k = 0; k < at_once; k++)
			churn_opened(c, now);
		now += lived_ms * MS;
		for (int k = 0; k < at_once; k++)
			churn_ended(c, lived_ms * MS);
	}
}

static int setup(void **state)
{
	(void)state;
	now = 1000 * MS;
	return 0;
}

static void connections__decide(void **state)
{
	static const struct {
		const char *what;
		int n, at_once;
		uint64_t lived_ms;
		bool back;
	} t[] = {
		{"nothing was", 0, 1, 0, false},
		{"a few short ones", 20, 1, 2, false},
		{"many short ones", 200, 1, 2, true},
		{"many, 16 at once", 200, 16, 2, true},
		{"many, 64 at once", 640, 64, 2, true},
		{"long ones, one after the other", 200, 1, 150, false},
		{"long ones, many at once", 640, 64, 150, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct churn c = {0};

		come_and_go(&c, t[i].n, t[i].at_once, t[i].lived_ms);
		if (churn_stand_back(&c, now) != t[i].back)
			fail_msg("%s", t[i].what);
	}
}

static void short_ones__then_ones_that_stay(void **state)
{
	struct churn c = {0};
	int n = 0;

	(void)state;
	come_and_go(&c, 1000, 16, 2);
	assert_true(churn_stand_back(&c, now));
	for (; churn_stand_back(&c, now); n++)
		churn_opened(&c, now);
	assert_in_range(n, 1, 100);
}

static void a_pause__starts_over(void **state)
{
	struct churn c = {0};

	(void)state;
	come_and_go(&c, 1000, 16, 2);
	now += 150 * MS;
	assert_true(churn_stand_back(&c, now));
	now += 100 * MS;
	assert_false(churn_stand_back(&c, now));
	churn_opened(&c, now); /* the first after it */
	assert_false(churn_stand_back(&c, now));
	come_and_go(&c, 200, 1, 2);
	assert_true(churn_stand_back(&c, now));
}

static void clocks__that_are_apart(void **state)
{
	struct churn c = {0};

	(void)state;
	come_and_go(&c, 200, 1, 2);
	assert_true(
		churn_stand_back(&c, now - 50 * MS)); /* the other worker's turn began earlier */
}

static void a_busy_home__needs_help(void **state)
{
	struct churn c = {0};

	(void)state;
	come_and_go(&c, 200, 1, 2);
	churn_busy(&c, 690);
	assert_true(churn_stand_back(&c, now));
	churn_busy(&c, 710);
	assert_false(churn_stand_back(&c, now));
}

static void a_crowd__for_a_good_while(void **state)
{
	struct churn c = {0};

	(void)state;
	come_and_go(&c, 200, 1, 2);
	churn_crowded(&c);
	assert_false(churn_stand_back(&c, now));
	come_and_go(&c, 800, 1, 2);
	assert_false(churn_stand_back(&c, now));
	come_and_go(&c, 2000, 1, 2);
	assert_true(churn_stand_back(&c, now));
}

static void busy__per_mille(void **state)
{
	struct busy b = {0};

	(void)state;
	assert_true(busy_due(&b, now));
	busy_look(&b, now, 500 * MS);
	assert_int_equal(b.permille, 0); /* nothing to compare with */
	assert_false(busy_due(&b, now + 20 * MS));
	assert_true(busy_due(&b, now + 40 * MS));
	busy_look(&b, now + 40 * MS, 530 * MS);
	assert_int_equal(b.permille, 750);
	busy_look(&b, now + 40 * MS, 530 * MS); /* no time has passed */
	assert_int_equal(b.permille, 750);
	busy_look(&b, now + 140 * MS, 530 * MS);
	assert_int_equal(b.permille, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(connections__decide, setup),
		cmocka_unit_test_setup(short_ones__then_ones_that_stay, setup),
		cmocka_unit_test_setup(a_pause__starts_over, setup),
		cmocka_unit_test_setup(clocks__that_are_apart, setup),
		cmocka_unit_test_setup(a_busy_home__needs_help, setup),
		cmocka_unit_test_setup(a_crowd__for_a_good_while, setup),
		cmocka_unit_test_setup(busy__per_mille, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
