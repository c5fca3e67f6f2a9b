/* SPDX-License-Identifier: Apache-2.0
 * test_kube_state.c: lists and events of the Kubernetes API, and what is asked next after each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/kube/kube_json.h"
#include "lib/kube/kube_state.h"

/* --- lists --- */

static int note(void *ctx, struct str text, struct err *err)
{
	struct strbuf *b = ctx;

	(void)err;
	strbuf_str(b, text);
	strbuf_putc(b, '|');
	return 0;
}

struct list_row {
	const char *name, *text;
	const char *objects; /* NULL: refused */
	const char *rv, *next;
};

#define META "\"metadata\":{\"resourceVersion\":\"7\"}"
static const struct list_row list_rows[] = {
	{"empty items", "{\"kind\":\"PodList\"," META ",\"items\":[]}", "", "7", ""},
	{"no items", "{\"kind\":\"PodList\"," META "}", "", "7", ""},
	{"items are null", "{\"kind\":\"PodList\"," META ",\"items\":null}", "", "7", ""},
	{"items first", "{\"items\":[{\"a\":1},{\"b\":[{}]}],\"kind\":\"PodList\"," META "}\n",
	 "{\"a\":1}|{\"b\":[{}]}|", "7", ""},
	{"next page",
	 "{\"kind\":\"PodList\",\"metadata\":{\"continue\":\"abc\",\"resourceVersion\":\"7\"},"
	 "\"items\":[{}]}",
	 "{}|", "7", "abc"},
	{"braces and quotes in texts",
	 "{\"kind\":\"PodList\"," META ",\"items\":[{\"a\":\"}\\\"]{\\\\\"}]}",
	 "{\"a\":\"}\\\"]{\\\\\"}|", "7", ""},
	{"the word items elsewhere",
	 "{\"kind\":\"PodList\",\"x\":\"items\",\"y\":[1],\"z\":{\"items\":[{\"q\":1}]}," META "}",
	 "", "7", ""},
	{"blanks everywhere",
	 " {\t\"kind\" : \"PodList\" , " META " ,\r\n \"items\" : [ { } , { } ] } \n", "{ }|{ }|",
	 "7", ""},
	{"nothing", "", NULL, NULL, NULL},
	{"cut in the envelope", "{\"kind\":\"PodList\"", NULL, NULL, NULL},
	{"cut in the items", "{\"kind\":\"PodList\"," META ",\"items\":[{}", NULL, NULL, NULL},
	{"cut in an object", "{\"kind\":\"PodList\"," META ",\"items\":[{\"a\"", NULL, NULL, NULL},
	{"other kind", "{\"kind\":\"NodeList\"," META "}", NULL, NULL, NULL},
	{"no kind", "{" META "}", NULL, NULL, NULL},
	{"no version", "{\"kind\":\"PodList\",\"metadata\":{}}", NULL, NULL, NULL},
	{"no metadata", "{\"kind\":\"PodList\"}", NULL, NULL, NULL},
	{"version with a blank",
	 "{\"kind\":\"PodList\",\"metadata\":{\"resourceVersion\":\"7 8\"}}", NULL, NULL, NULL},
	{"version is a number", "{\"kind\":\"PodList\",\"metadata\":{\"resourceVersion\":7}}", NULL,
	 NULL, NULL},
	{"comma after the last object", "{\"kind\":\"PodList\"," META ",\"items\":[{},]}", NULL,
	 NULL, NULL},
	{"comma before the first object", "{\"kind\":\"PodList\"," META ",\"items\":[,{}]}", NULL,
	 NULL, NULL},
	{"two commas", "{\"kind\":\"PodList\"," META ",\"items\":[{},,{}]}", NULL, NULL, NULL},
	{"no comma", "{\"kind\":\"PodList\"," META ",\"items\":[{}{}]}", NULL, NULL, NULL},
	{"item is a number", "{\"kind\":\"PodList\"," META ",\"items\":[1]}", NULL, NULL, NULL},
	{"items twice", "{\"kind\":\"PodList\"," META ",\"items\":[],\"items\":[]}", NULL, NULL,
	 NULL},
	{"something after the end", "{\"kind\":\"PodList\"," META "}x", NULL, NULL, NULL},
	{"a list at the top", "[]", NULL, NULL, NULL},
	{"closed too often", "}", NULL, NULL, NULL},
};

static void kube_list__rows(void **state)
{
	const struct list_row *row = *state;

	for (size_t cut = 1; cut <= strlen(row->text) + 1; cut++) {
		_cleanup_strbuf_ struct strbuf got = {0};
		struct arena *a = arena_new();
		struct kube_list l = {0};
		struct str rv = {0}, next = {0}, in = str_of(row->text);
		struct err err = {0};
		int r = 0;

		for (size_t at = 0; r == 0 && at < in.n; at += cut)
			r = kube_list_feed(
				&l, (struct str){in.p + at, in.n - at < cut ? in.n - at : cut},
				note, &got, &err);
		if (r == 0)
			r = kube_list_end(&l, "PodList", a, &rv, &next, &err);
		assert_int_equal(r == 0, row->objects != NULL);
		assert_int_equal(r < 0, err.msg[0] != '\0');
		if (r == 0) {
			assert_string_equal(got.p != NULL ? got.p : "", row->objects);
			assert_true(str_eqc(rv, row->rv) && str_eqc(next, row->next));
		}
		kube_list_fini(&l);
		(void)arena_free(a);
	}
}

static void kube_list__bounded(void **state)
{
	_cleanup_free_ char *big = xmalloc(LIMIT_KUBE_OBJECT_BYTES + 100);
	_cleanup_strbuf_ struct strbuf got = {0};
	struct kube_list l = {0};
	struct err err = {0};

	(void)state;
	memset(big, ' ', LIMIT_KUBE_OBJECT_BYTES + 100);
	assert_int_equal(kube_list_feed(&l, STR("{\"items\":[{"), note, &got, &err), 0);
	assert_true(kube_list_feed(&l, (struct str){big, LIMIT_KUBE_OBJECT_BYTES}, note, &got,
				   &err) < 0);
	assert_non_null(strstr(err.msg, "4194304"));
	kube_list_fini(&l);
	assert_true(kube_list_feed(&l, (struct str){big, 70000}, note, &got, &err) < 0);
	kube_list_fini(&l);
}

/* --- events --- */

struct event_row {
	const char *name, *text;
	int type; /* -1: refused */
	const char *rv;
	unsigned int code;
};
static const struct event_row event_rows[] = {
	{"added", "{\"type\":\"ADDED\",\"object\":{" META "}}", KUBE_ADDED, "7", 500},
	{"modified", "{\"object\":{" META "},\"type\":\"MODIFIED\"}", KUBE_MODIFIED, "7", 500},
	{"deleted", "{\"type\":\"DELETED\",\"object\":{" META "}}", KUBE_DELETED, "7", 500},
	{"bookmark", "{\"type\":\"BOOKMARK\",\"object\":{" META "}}", KUBE_BOOKMARK, "7", 500},
	{"error 410", "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"m\"}}",
	 KUBE_ERROR, "", 410},
	{"error without a code", "{\"type\":\"ERROR\",\"object\":{}}", KUBE_ERROR, "", 500},
	{"error with an odd code", "{\"type\":\"ERROR\",\"object\":{\"code\":\"x\"}}", KUBE_ERROR,
	 "", 500},
	{"unknown type", "{\"type\":\"MOVED\",\"object\":{" META "}}", -1, NULL, 0},
	{"type is a number", "{\"type\":1,\"object\":{" META "}}", -1, NULL, 0},
	{"no type", "{\"object\":{" META "}}", -1, NULL, 0},
	{"no object", "{\"type\":\"ADDED\"}", -1, NULL, 0},
	{"object is text", "{\"type\":\"ADDED\",\"object\":\"x\"}", -1, NULL, 0},
	{"no version", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}", -1, NULL, 0},
	{"version empty",
	 "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"\"}}}", -1, NULL, 0},
	{"not json", "ADDED", -1, NULL, 0},
	{"two events", "{\"type\":\"ADDED\",\"object\":{" META "}}{}", -1, NULL, 0},
};

static void kube_event_parse__rows(void **state)
{
	const struct event_row *row = *state;
	struct arena *a = arena_new();
	struct kube_event ev;
	struct err err = {0};
	int r = kube_event_parse(str_of(row->text), a, &ev, &err);

	assert_int_equal(r == 0, row->type >= 0);
	if (r == 0) {
		assert_int_equal((int)ev.type, row->type);
		assert_true(str_eqc(ev.rv, row->rv));
		assert_int_equal(ev.code, row->code);
	}
	(void)arena_free(a);
}

static void kube_lines__cut_anywhere(void **state)
{
	static const char text[] = "one\r\n\n  \ntwo\nthree";

	(void)state;
	for (size_t cut = 1; cut < sizeof(text); cut++) {
		_cleanup_strbuf_ struct strbuf got = {0};
		struct kube_lines l = {0};

		for (size_t at = 0; at < sizeof(text) - 1; at += cut) {
			size_t left = sizeof(text) - 1 - at;

			assert_int_equal(
				kube_lines_feed(&l,
						(struct str){text + at, left < cut ? left : cut},
						note, &got, NULL),
				0);
		}
		/* a carriage return is JSON's white space, not ours */
		assert_string_equal(got.p, "one\r|two|");
		assert_int_equal(l.line.n, 5);
		kube_lines_fini(&l);
	}
}

/* --- what comes next --- */

static void expect_path(const struct kube_state *s, const char *node, const char *want)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	kube_state_path(s, "/p", "/api/v1/pods", node, NULL, 0, &b);
	assert_string_equal(b.p, want);
}

static void kube_state__pages_then_watch(void **state)
{
	struct kube_state s = {0};

	(void)state;
	expect_path(&s, "n/1", "/p/api/v1/pods?fieldSelector=spec.nodeName%3Dn%2F1&limit=500");
	assert_false(kube_state_page(&s, STR("10"), STR("a+b=")));
	assert_false(s.synced);
	expect_path(&s, NULL, "/p/api/v1/pods?limit=500&continue=a%2Bb%3D");
	assert_true(kube_state_page(&s, STR("11"), STR("")));
	assert_true(s.synced);
	expect_path(&s, NULL,
		    "/p/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=290&"
		    "resourceVersion=11");
	kube_state_event(&s, STR("12"));
	assert_int_equal(kube_state_watch_ended(&s, 10, 1, 0), 0);
	assert_int_equal(kube_state_watch_ended(&s, KUBE_SHORT_WATCH_MS, 0, 0), 0);
	assert_int_equal(kube_state_watch_ended(&s, 10, 0, 0), KUBE_BACKOFF_MS);
	expect_path(&s, NULL,
		    "/p/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=290&"
		    "resourceVersion=12");
	kube_state_fini(&s);
}

static void kube_state_path__labels(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct kube_state s = {0};

	(void)state;
	kube_state_path(&s, "", "/x", "n", "a/b!=c", 0, &b);
	assert_string_equal(b.p, "/x?fieldSelector=spec.nodeName%3Dn&"
				 "labelSelector=a%2Fb%21%3Dc&limit=500");
}

static void kube_state_missing__never_there(void **state)
{
	struct kube_state s = {0};
	uint64_t ms;

	(void)state;
	assert_int_equal(kube_state_missing(&s, true, 5, 0, &ms), KUBE_MISSING_OTHER);
	assert_true(s.older);
	assert_false(s.synced);
	assert_int_equal(kube_state_missing(&s, true, 5, 0, &ms), KUBE_MISSING_SURE);
	assert_true(s.synced);
	assert_int_equal(ms, KUBE_ABSENT_MS);
	/* the next look asks for both again */
	assert_int_equal(kube_state_missing(&s, true, 5, 0, &ms), KUBE_MISSING_OTHER);
	assert_false(s.older);
	assert_int_equal(kube_state_missing(&s, true, 5, KUBE_ABSENT_MS, &ms), KUBE_MISSING_SURE);
	assert_in_range(ms, KUBE_ABSENT_MS / 2, KUBE_ABSENT_MS);
	/* without an older version there is one question only */
	assert_int_equal(kube_state_missing(&s, false, 5, 0, &ms), KUBE_MISSING_SURE);
}

static void kube_state_missing__was_there(void **state)
{
	struct kube_state s = {0};
	uint64_t ms;

	(void)state;
	kube_state_found(&s);
	(void)kube_state_page(&s, STR("7"), STR(""));
	assert_int_equal(kube_state_missing(&s, true, 1000, 0, &ms), KUBE_MISSING_UNSURE);
	assert_int_equal(s.phase, KUBE_WATCH);
	assert_int_equal(kube_state_missing(&s, true, 999 + KUBE_ABSENT_SURE_MS, 0, &ms),
			 KUBE_MISSING_UNSURE);
	/* an answer in between: the time counts anew */
	kube_state_found(&s);
	assert_int_equal(kube_state_missing(&s, true, 1000 + KUBE_ABSENT_SURE_MS, 0, &ms),
			 KUBE_MISSING_UNSURE);
	assert_int_equal(kube_state_missing(&s, true, 1000 + 2 * KUBE_ABSENT_SURE_MS, 0, &ms),
			 KUBE_MISSING_SURE);
	assert_int_equal(s.phase, KUBE_LIST);
	assert_false(s.present);
}

struct fail_row {
	const char *name;
	enum kube_phase phase;
	bool paging;
	enum kube_failure f;
	uint32_t status;
	uint64_t retry_after_ms;
	unsigned int failures_before;
	enum kube_phase then;
	bool paging_then;
	uint64_t pause_ms; /* with random 0 */
};
static const struct fail_row fail_rows[] = {
	{"list: lost", KUBE_LIST, true, KUBE_LOST, 0, 0, 0, KUBE_LIST, true, 200},
	{"list: 410 starts over", KUBE_LIST, true, KUBE_STATUS, 410, 0, 0, KUBE_LIST, false, 200},
	{"list: garbage starts over", KUBE_LIST, true, KUBE_GARBAGE, 200, 0, 0, KUBE_LIST, false,
	 200},
	{"list: 500 keeps the page", KUBE_LIST, true, KUBE_STATUS, 500, 0, 1, KUBE_LIST, true, 400},
	{"watch: lost resumes", KUBE_WATCH, false, KUBE_LOST, 0, 0, 0, KUBE_WATCH, false, 200},
	{"watch: lost for an hour resumes", KUBE_WATCH, false, KUBE_LOST, 0, 0, 200, KUBE_WATCH,
	 false, KUBE_BACKOFF_MAX_MS},
	{"watch: 410 lists", KUBE_WATCH, false, KUBE_STATUS, 410, 0, 0, KUBE_LIST, false, 200},
	{"watch: garbage lists", KUBE_WATCH, false, KUBE_GARBAGE, 200, 0, 0, KUBE_LIST, false, 200},
	{"watch: 429 waits as told", KUBE_WATCH, false, KUBE_STATUS, 429, 5000, 0, KUBE_WATCH,
	 false, 5000},
	{"watch: 429 without a time", KUBE_WATCH, false, KUBE_STATUS, 429, 0, 2, KUBE_WATCH, false,
	 800},
	{"retry-after is bounded", KUBE_WATCH, false, KUBE_STATUS, 429, 86400000, 0, KUBE_WATCH,
	 false, KUBE_RETRY_AFTER_MAX_MS},
	{"retry-after does not shorten", KUBE_WATCH, false, KUBE_STATUS, 429, 1000, 6, KUBE_WATCH,
	 false, 12800},
	{"watch: refused for the fifth time lists", KUBE_WATCH, false, KUBE_STATUS, 500, 0, 4,
	 KUBE_LIST, false, 3200},
	{"watch: unauthorized is no reason to list", KUBE_WATCH, false, KUBE_STATUS, 401, 0, 9,
	 KUBE_WATCH, false, KUBE_BACKOFF_MAX_MS},
	{"watch: busy is no reason to list", KUBE_WATCH, false, KUBE_STATUS, 429, 0, 9, KUBE_WATCH,
	 false, KUBE_BACKOFF_MAX_MS},
};

static void kube_state_failed__rows(void **state)
{
	const struct fail_row *row = *state;
	struct kube_state s = {.phase = row->phase, .failures = row->failures_before};

	if (row->paging)
		s.next = xstrdup("t");
	assert_int_equal(kube_state_failed(&s, row->f, row->status, row->retry_after_ms, 0),
			 row->pause_ms);
	assert_int_equal(s.phase, row->then);
	assert_int_equal(s.next != NULL, row->paging_then);
	kube_state_fini(&s);
}

static void kube_state_lived__starts_anew(void **state)
{
	struct kube_state s = {.phase = KUBE_WATCH, .failures = 9};

	(void)state;
	kube_state_lived(&s, KUBE_SHORT_WATCH_MS - 1);
	assert_int_equal(s.failures, 9);
	kube_state_lived(&s, KUBE_SHORT_WATCH_MS);
	assert_int_equal(kube_state_failed(&s, KUBE_LOST, 0, 0, 0), KUBE_BACKOFF_MS);
}

static void kube_state_failed__jitter_stays_in_the_upper_half(void **state)
{
	(void)state;
	for (uint64_t random = 0; random < 1000; random++) {
		struct kube_state s = {.failures = 3};
		uint64_t ms = kube_state_failed(&s, KUBE_LOST, 0, 0, random);

		assert_true(ms >= 800 && ms <= 1600);
	}
}

#define N (ARRAY_LEN(list_rows) + ARRAY_LEN(event_rows) + ARRAY_LEN(fail_rows))
int main(void)
{
	static const struct CMUnitTest more[] = {
		cmocka_unit_test(kube_list__bounded),
		cmocka_unit_test(kube_lines__cut_anywhere),
		cmocka_unit_test(kube_state__pages_then_watch),
		cmocka_unit_test(kube_state_path__labels),
		cmocka_unit_test(kube_state_missing__never_there),
		cmocka_unit_test(kube_state_missing__was_there),
		cmocka_unit_test(kube_state_lived__starts_anew),
		cmocka_unit_test(kube_state_failed__jitter_stays_in_the_upper_half),
	};
	struct CMUnitTest tests[N + ARRAY_LEN(more)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(list_rows); i++)
		tests[n++] = (struct CMUnitTest){list_rows[i].name, kube_list__rows, NULL, NULL,
						 (void *)(uintptr_t)&list_rows[i]};
	for (size_t i = 0; i < ARRAY_LEN(event_rows); i++)
		tests[n++] = (struct CMUnitTest){event_rows[i].name, kube_event_parse__rows, NULL,
						 NULL, (void *)(uintptr_t)&event_rows[i]};
	for (size_t i = 0; i < ARRAY_LEN(fail_rows); i++)
		tests[n++] = (struct CMUnitTest){fail_rows[i].name, kube_state_failed__rows, NULL,
						 NULL, (void *)(uintptr_t)&fail_rows[i]};
	memcpy(tests + n, more, sizeof(more));
	return cmocka_run_group_tests_name("kube_state", tests, NULL, NULL);
}
