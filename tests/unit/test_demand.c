/* SPDX-License-Identifier: Apache-2.0
 * test_demand.c: on-demand questions: one per key, sent once per stream, told once, bounded, given
 * up (ztunnel-spec 9.6).
 */
#include "tests/unit/zt_helper.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/limits.h"
#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/demand.h"
#include "ztunnel/mesh/gateway.h"

static void note(void *ctx, struct str key)
{
	strbuf_printf(ctx, "%.*s ", STR_FMT(key));
}

static void assert_noted(struct strbuf *b, const char *expected)
{
	assert_string_equal(b->n != 0 ? b->p : "", expected);
	strbuf_fini(b);
}

static void question__is_sent_once_and_told_once(void **state)
{
	struct demand *d = demand_new();
	struct strbuf b = {0};

	(void)state;
	assert_int_equal(demand_ask(d, STR("/1.2.3.4"), 10), DEMAND_WAIT);
	assert_int_equal(demand_ask(d, STR("/1.2.3.4"), 11), DEMAND_WAIT);
	assert_int_equal(demand_ask(d, STR("ns/h"), 12), DEMAND_WAIT);
	assert_false(demand_answer(d, STR("/1.2.3.4"))); /* nobody was asked */
	assert_true(demand_has_unsent(d));
	demand_unsent(d, note, &b);
	assert_noted(&b, "/1.2.3.4 ns/h ");
	assert_false(demand_has_unsent(d));
	assert_false(demand_answer(d, STR("/1.2.3.5")));
	assert_true(demand_answer(d, STR("/1.2.3.4")));
	assert_false(demand_answer(d, STR("/1.2.3.4")));
	assert_int_equal(demand_ask(d, STR("/1.2.3.4"), 20), DEMAND_WAIT); /* not told yet */
	demand_tell(d, 20, note, &b);
	assert_noted(&b, "/1.2.3.4 ");
	demand_tell(d, 20, note, &b);
	assert_noted(&b, "");
	assert_int_equal(demand_count(d), 1);
	(void)demand_free(d);
}

static void answer__is_remembered_for_a_second(void **state)
{
	struct demand *d = demand_new();
	struct strbuf b = {0};

	(void)state;
	assert_int_equal(demand_ask(d, STR("k"), 0), DEMAND_WAIT);
	demand_unsent(d, note, &b);
	assert_true(demand_answer(d, STR("k")));
	demand_tell(d, 100, note, &b);
	assert_noted(&b, "k k ");
	assert_int_equal(demand_ask(d, STR("k"), 100 + DEMAND_FRESH_MS - 1), DEMAND_KNOWN);
	assert_int_equal(demand_ask(d, STR("k"), 100 + DEMAND_FRESH_MS), DEMAND_WAIT);
	assert_true(demand_has_unsent(d));
	(void)demand_free(d);
}

static void stream__that_is_lost_has_its_questions_sent_again(void **state)
{
	struct demand *d = demand_new();
	struct strbuf b = {0};

	(void)state;
	assert_int_equal(demand_ask(d, STR("a"), 0), DEMAND_WAIT);
	assert_int_equal(demand_ask(d, STR("b"), 1), DEMAND_WAIT);
	demand_unsent(d, note, &b);
	assert_int_equal(demand_ask(d, STR("c"), 2), DEMAND_WAIT);
	demand_lost(d);
	demand_unsent(d, note, &b);
	assert_noted(&b, "a b a b c ");
	assert_true(demand_answer(d, STR("b")));
	demand_lost(d); /* what was answered stays so */
	demand_unsent(d, note, &b);
	assert_noted(&b, "a c ");
	(void)demand_free(d);
}

static void question__without_an_answer_is_given_up(void **state)
{
	struct demand *d = demand_new();
	struct strbuf b = {0};

	(void)state;
	assert_int_equal(demand_ask(d, STR("sent"), 0), DEMAND_WAIT);
	demand_unsent(d, note, &b);
	strbuf_fini(&b);
	assert_int_equal(demand_ask(d, STR("unsent"), 100), DEMAND_WAIT);
	assert_true(demand_expire(d, LIMIT_WORKLOAD_WAIT_MS - 1, note, &b));
	assert_noted(&b, "");
	assert_true(demand_expire(d, LIMIT_WORKLOAD_WAIT_MS, note, &b));
	assert_noted(&b, "sent ");
	assert_false(demand_expire(d, LIMIT_WORKLOAD_WAIT_MS + 100, note, &b));
	assert_noted(&b, "unsent ");
	assert_false(demand_answer(d, STR("sent"))); /* too late */
	(void)demand_free(d);
}

static void scanner__fills_nothing(void **state)
{
	struct demand *d = demand_new();
	struct strbuf b = {0};
	char key[32];

	(void)state;
	for (int i = 0; i < LIMIT_DEMAND_WAITING + 10; i++) {
		(void)snprintf(key, sizeof(key), "/k%d", i);
		assert_int_equal(demand_ask(d, str_of(key), 0),
				 i < LIMIT_DEMAND_WAITING ? DEMAND_WAIT : DEMAND_FULL);
	}
	assert_int_equal(demand_ask(d, STR("/k7"), 0), DEMAND_WAIT); /* one of them */
	demand_unsent(d, note, &b);
	for (int i = 0; i < LIMIT_DEMAND_WAITING; i++) {
		(void)snprintf(key, sizeof(key), "/k%d", i);
		assert_true(demand_answer(d, str_of(key)));
	}
	demand_tell(d, 0, note, &b);
	assert_int_equal(demand_count(d), 0);
	strbuf_fini(&b);
	assert_int_equal(demand_ask(d, STR("/more"), 1), DEMAND_WAIT);
	demand_unsent(d, note, &b);
	assert_true(demand_answer(d, STR("/more")));
	demand_tell(d, 1, note, &b); /* what was answered first is forgotten for it */
	strbuf_fini(&b);
	assert_int_equal(demand_ask(d, STR("/k0"), 1), DEMAND_WAIT);
	assert_int_equal(demand_ask(d, STR("/k1"), 1), DEMAND_KNOWN);
	(void)demand_free(d);
}

static const char yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [10.0.0.1], services: {}, node: "
	"n1}\n"
	"  - {uid: w, name: w, namespace: ns, workloadIps: [10.0.0.2], services: {}}\n"
	"  - {uid: wp, name: wp, namespace: ns, workloadIps: [10.0.0.4], services: {},\n"
	"     waypoint: {destination: /10.0.0.9}, protocol: HBONE}\n"
	"services:\n"
	"  - {name: empty, namespace: ns, hostname: empty.example, vips: [/10.1.0.2], ports: {80: "
	"80}}\n"
	"  - {name: via, namespace: ns, hostname: via.example, vips: [/10.1.0.3], ports: {80: "
	"80},\n"
	"     waypoint: {destination: ns/gw.example}}\n"
	"  - {name: canary, namespace: ns, hostname: canary.example, vips: [/10.1.0.4], ports: "
	"{80: "
	"80},\n"
	"     weightedWaypoints: [{destination: {destination: /10.0.0.4}, weight: 1},\n"
	"       {destination: {destination: ns/new.example}, weight: 1}]}\n";

/* What a decision lacks, as the key that istiod is asked with. */
static void outbound__names_what_it_lacks(void **state)
{
	static const struct {
		const char *to;
		enum missing missing;
		const char *key;
	} rows[] = {
		{"1.2.3.4:80", MISSING_ADDRESS, "/1.2.3.4"},
		{"[fd00:0:0::1]:80", MISSING_ADDRESS, "/fd00::1"},
		{"10.0.0.2:80", MISSING_NOTHING, NULL},
		{"10.0.0.4:80", MISSING_GATEWAY, "/10.0.0.9"},
		{"10.1.0.2:80", MISSING_ENDPOINTS, "ns/empty.example"},
		{"10.1.0.3:80", MISSING_GATEWAY, "ns/gw.example"},
	};
	struct mesh *m = mesh_from_node(yaml, "n1");
	char key[DEMAND_KEY_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);
		struct route r;

		decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, 0, &r);
		assert_int_equal(r.missing, rows[i].missing);
		if (rows[i].key != NULL)
			assert_string_equal(gateway_text(&r.missing_ref, key, sizeof(key)),
					    rows[i].key);
	}
	mesh_unref(m);
}

/* What could make an address acceptable that is not the pod's own (ztunnel-spec 5.4). */
static void inbound__names_what_it_lacks(void **state)
{
	static const struct {
		const char *authority;
		unsigned int status;
		enum missing missing;
		const char *key;
	} rows[] = {
		{"10.0.0.2:80", 0, MISSING_NOTHING, NULL},
		{"10.7.7.7:80", 400, MISSING_ADDRESS, "/10.7.7.7"},
		{"10.1.0.3:80", 400, MISSING_GATEWAY, "ns/gw.example"},
		{"10.1.0.2:80", 400, MISSING_NOTHING, NULL},
		{"10.1.0.4:80", 400, MISSING_GATEWAY, "ns/new.example"}, /* wp is held */
		{"127.0.0.1:80", 400, MISSING_NOTHING, NULL},
	};
	char key[DEMAND_KEY_MAX];
	struct mesh *m = mesh_from_node(yaml, "n1");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port at = ip_port("10.0.0.2:15008");
		struct inbound_target t;

		decide_inbound(m, mesh_workload_by_uid(m, STR("w")), STR(""),
			       str_of(rows[i].authority), &at, STR(""), &t);
		assert_int_equal(t.status, rows[i].status);
		assert_int_equal(t.missing, rows[i].missing);
		if (rows[i].key != NULL)
			assert_string_equal(gateway_text(&t.missing_ref, key, sizeof(key)),
					    rows[i].key);
	}
	mesh_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(question__is_sent_once_and_told_once),
		cmocka_unit_test(answer__is_remembered_for_a_second),
		cmocka_unit_test(stream__that_is_lost_has_its_questions_sent_again),
		cmocka_unit_test(question__without_an_answer_is_given_up),
		cmocka_unit_test(scanner__fills_nothing),
		cmocka_unit_test(outbound__names_what_it_lacks),
		cmocka_unit_test(inbound__names_what_it_lacks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
