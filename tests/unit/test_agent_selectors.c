/* SPDX-License-Identifier: Apache-2.0
 * test_agent_selectors.c: enablement selectors: what is read, what is refused, what matches. The
 * chart's default must decide as the built-in labels do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "node-agent/config.h"
#include "node-agent/enrol/eligibility.h"
#include "node-agent/enrol/selectors.h"
#include "node-agent/source/pods.h"

#define MODE "istio.io/dataplane-mode"

/* cni-spec 3.4: the default of the stock chart */
static const char chart[] = "- podSelector:\n"
			    "    matchLabels:\n"
			    "      " MODE ": ambient\n"
			    "- podSelector:\n"
			    "    matchExpressions:\n"
			    "    - {key: " MODE ", operator: NotIn, values: [none]}\n"
			    "  namespaceSelector:\n"
			    "    matchLabels: {" MODE ": ambient}\n";

struct row {
	const char *name, *yaml;
	const char *pod, *ns; /* "key=value" or "key=value,key=value" or NULL */
	size_t want;	      /* number of the pair */
};

#define EXPR(e) "- podSelector: {matchExpressions: [" e "]}\n"

static const struct row rows[] = {
	{"chart: nothing labelled", chart, NULL, NULL, 0},
	{"chart: pod ambient", chart, MODE "=ambient", NULL, 1},
	{"chart: namespace ambient", chart, NULL, MODE "=ambient", 2},
	{"chart: both", chart, MODE "=ambient", MODE "=ambient", 1},
	{"chart: pod none", chart, MODE "=none", MODE "=ambient", 0},
	{"chart: pod with another value", chart, MODE "=x", MODE "=ambient", 2},
	{"chart: namespace none, pod ambient", chart, MODE "=ambient", MODE "=none", 1},
	{"chart: namespace with another value", chart, NULL, MODE "=Ambient", 0},
	{"chart: pod none alone", chart, MODE "=none", NULL, 0},
	{"empty list matches nothing", "[]", MODE "=ambient", MODE "=ambient", 0},
	{"empty pair matches everything", "- {}", NULL, NULL, 1},
	{"empty selectors match everything", "- {podSelector: {}, namespaceSelector: {}}", NULL,
	 NULL, 1},
	{"null selectors match everything", "- {podSelector: null}", NULL, NULL, 1},
	{"namespace only", "- namespaceSelector: {matchLabels: {team: a}}", NULL, "team=a", 1},
	{"namespace only: not the pod's label", "- namespaceSelector: {matchLabels: {team: a}}",
	 "team=a", NULL, 0},
	{"all labels of a selector", "- podSelector: {matchLabels: {a: '1', b: '2'}}", "a=1,b=2",
	 NULL, 1},
	{"one label of two is not enough", "- podSelector: {matchLabels: {a: '1', b: '2'}}", "a=1",
	 NULL, 0},
	{"both selectors of a pair",
	 "- {podSelector: {matchLabels: {a: x}}, namespaceSelector: {matchLabels: {b: y}}}", "a=x",
	 "b=y", 1},
	{"one selector of a pair is not enough",
	 "- {podSelector: {matchLabels: {a: x}}, namespaceSelector: {matchLabels: {b: y}}}", "a=x",
	 NULL, 0},
	{"labels and expressions",
	 "- podSelector: {matchLabels: {a: x}, matchExpressions: [{key: b, operator: Exists}]}",
	 "a=x", NULL, 0},
	{"any pair", "- podSelector: {matchLabels: {a: x}}\n- podSelector: {matchLabels: {b: y}}\n",
	 "b=y", NULL, 2},
	{"In", EXPR("{key: a, operator: In, values: [x, y]}"), "a=y", NULL, 1},
	{"In: another value", EXPR("{key: a, operator: In, values: [x, y]}"), "a=z", NULL, 0},
	{"In: absent", EXPR("{key: a, operator: In, values: [x, y]}"), NULL, NULL, 0},
	{"In: empty value", EXPR("{key: a, operator: In, values: ['']}"), "a=", NULL, 1},
	{"NotIn: absent", EXPR("{key: a, operator: NotIn, values: [x]}"), NULL, NULL, 1},
	{"NotIn: that value", EXPR("{key: a, operator: NotIn, values: [x]}"), "a=x", NULL, 0},
	{"NotIn: another value", EXPR("{key: a, operator: NotIn, values: [x]}"), "a=y", NULL, 1},
	{"Exists", EXPR("{key: a, operator: Exists}"), "a=", NULL, 1},
	{"Exists: absent", EXPR("{key: a, operator: Exists}"), "b=", NULL, 0},
	{"DoesNotExist", EXPR("{key: a, operator: DoesNotExist}"), "b=", NULL, 1},
	{"DoesNotExist: there", EXPR("{key: a, operator: DoesNotExist, values: []}"), "a=x", NULL,
	 0},
	{"two expressions",
	 EXPR("{key: a, operator: Exists}, {key: a, operator: NotIn, values: [x]}"), "a=x", NULL,
	 0},
	{"prefixed key", EXPR("{key: example.com/a_b.c-d, operator: Exists}"),
	 "example.com/a_b.c-d=1", NULL, 1},
};

struct bad {
	const char *name, *yaml, *word[2];
};
static const struct bad bad[] = {
	{"not a list", "podSelector: {}", {"list"}},
	{"empty text", "", {"list"}},
	{"not YAML", "- {", {"line"}},
	{"pair is text", "- x", {"map"}},
	{"misspelt selector", "- podselector: {}", {"podselector", "podSelector"}},
	{"misspelt matchLabels", "- podSelector: {matchLabel: {a: b}}", {"matchLabel"}},
	{"selector is a list", "- podSelector: []", {"podSelector"}},
	{"labels are a list", "- podSelector: {matchLabels: []}", {"matchLabels"}},
	{"value is a number", "- podSelector: {matchLabels: {a: 1}}", {"quotes", "matchLabels.a"}},
	{"value is a bool", "- podSelector: {matchLabels: {a: true}}", {"quotes"}},
	{"bad value", "- podSelector: {matchLabels: {a: 'b c'}}", {"b c"}},
	{"bad key", "- podSelector: {matchLabels: {'a b': c}}", {"a b"}},
	{"key with two slashes", "- podSelector: {matchLabels: {a/b/c: d}}", {"a/b/c"}},
	{"empty key", EXPR("{key: '', operator: Exists}"), {"key"}},
	{"no key", EXPR("{operator: Exists}"), {"key"}},
	{"no operator", EXPR("{key: a}"), {"operator"}},
	{"unknown operator", EXPR("{key: a, operator: Equals, values: [b]}"), {"Equals", "NotIn"}},
	{"In without values", EXPR("{key: a, operator: In}"), {"In", "values"}},
	{"NotIn with no values", EXPR("{key: a, operator: NotIn, values: []}"), {"NotIn"}},
	{"Exists with values", EXPR("{key: a, operator: Exists, values: [b]}"), {"no values"}},
	{"unknown key", EXPR("{key: a, operator: Exists, value: b}"), {"value"}},
	{"expression is text", EXPR("a"), {"map"}},
};

/* "a=x,b=y" */
static void labels_of(const char *text, struct labels *ret)
{
	char buf[256], *save = NULL;

	*ret = (struct labels){0};
	if (text == NULL)
		return;
	(void)snprintf(buf, sizeof(buf), "%s", text);
	for (char *w = strtok_r(buf, ",", &save); w != NULL; w = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(w, '=');

		*eq = '\0';
		labels_add(ret, w, eq + 1);
	}
}

static void selectors_match__row(void **state)
{
	const struct row *r = *state;
	struct selectors s;
	struct labels pod, ns;
	struct err err = {0};

	labels_of(r->pod, &pod);
	labels_of(r->ns, &ns);
	if (selectors_parse(str_of(r->yaml), &s, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(selectors_match(&s, &pod, &ns), r->want);
	selectors_fini(&s);
	labels_fini(&pod);
	labels_fini(&ns);
}

static void selectors_parse__bad(void **state)
{
	const struct bad *b = *state;
	struct selectors s;
	struct err err = {0};

	assert_true(selectors_parse(str_of(b->yaml), &s, &err) < 0);
	for (size_t i = 0; i < ARRAY_LEN(b->word) && b->word[i] != NULL; i++)
		if (strstr(err.msg, b->word[i]) == NULL)
			fail_msg("no \"%s\" in: %s", b->word[i], err.msg);
}

/* The chart always sets its default: it must decide as we do without. */
static void eligibility_of__chart_default_is_the_built_in(void **state)
{
	static const char *const modes[] = {NULL, "ambient", "none", "x", ""};
	struct config with = {.has_selectors = true}, without = {0};
	struct err err = {0};

	(void)state;
	with.node_name = without.node_name = (char[]){""};
	with.system_namespace = without.system_namespace = (char[]){"istio-system"};
	assert_int_equal(selectors_parse(str_of(chart), &with.selectors, &err), 0);
	assert_int_equal(with.selectors.keys.n, 1);
	for (size_t i = 0; i < ARRAY_LEN(modes) * ARRAY_LEN(modes); i++) {
		const char *pm = modes[i % ARRAY_LEN(modes)], *nm = modes[i / ARRAY_LEN(modes)];
		struct pod p = {
			.name = (char[]){"p"}, .ns = (char[]){"n"}, .mode = (char *)(uintptr_t)pm};
		struct pod_namespace n = {.name = p.ns, .mode = (char *)(uintptr_t)nm};
		char r1[ELIGIBILITY_REASON_MAX], r2[ELIGIBILITY_REASON_MAX];

		if (pm != NULL)
			labels_add(&p.labels, MODE, pm);
		if (nm != NULL)
			labels_add(&n.labels, MODE, nm);
		assert_int_equal(eligibility_of(&p, &n, &with, r1),
				 eligibility_of(&p, &n, &without, r2));
		/* what is not known is unknown with selectors, too */
		assert_int_equal(eligibility_of(&p, NULL, &with, r1), ELIGIBLE_UNKNOWN);
		labels_fini(&p.labels);
		labels_fini(&n.labels);
	}
	selectors_fini(&with.selectors);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + ARRAY_LEN(bad) + 1];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = (struct CMUnitTest){rows[i].name, selectors_match__row, NULL, NULL,
						 (void *)(uintptr_t)&rows[i]};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		tests[n++] = (struct CMUnitTest){bad[i].name, selectors_parse__bad, NULL, NULL,
						 (void *)(uintptr_t)&bad[i]};
	tests[n++] =
		(struct CMUnitTest)cmocka_unit_test(eligibility_of__chart_default_is_the_built_in);
	return cmocka_run_group_tests_name("agent_selectors", tests, NULL, NULL);
}
