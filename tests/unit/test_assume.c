/* SPDX-License-Identifier: Apache-2.0
 * test_assume.c: what a pod is taken for before the mesh state holds it (ztunnel-spec 3.9).
 */
#include "tests/unit/zt_helper.h"

#include "ztunnel/mesh/assume.h"
#include "ztunnel/mesh/decide.h"

#define OTHERS                                                                                     \
	"workloads:\n"                                                                             \
	"- {name: far, namespace: x, workloadIps: [10.0.1.1], protocol: HBONE, node: n2, "         \
	"trustDomain: far.example, services: {}}\n"                                                \
	"- {name: near, namespace: x, workloadIps: [10.0.0.1], protocol: HBONE, node: n1, "        \
	"trustDomain: near.example, clusterId: c1, network: net1, locality: {region: r, zone: "    \
	"z}, "                                                                                     \
	"services: {}}\n"

static struct workload *take(const char *yaml, const char *node, const char *trust_domain,
			     const char *ns, const char *sa)
{
	struct mesh *m = mesh_from_node(yaml, node);
	struct assume_node n = {node, "mine", trust_domain};
	struct workload *w = assume_workload(m, &n, STR("p"), str_of(ns), str_of(sa));

	mesh_unref(m);
	return w;
}

static void assume__identity(void **state)
{
	static const struct {
		const char *yaml, *node, *trust_domain, *ns, *sa, *want;
	} rows[] = {
		{OTHERS, "n1", NULL, "shop", "cart", "spiffe://near.example/ns/shop/sa/cart"},
		{OTHERS, "n1", "td", "shop", "cart", "spiffe://td/ns/shop/sa/cart"},
		{OTHERS, "n1", NULL, "shop", "", "spiffe://near.example/ns/shop/sa/default"},
		{"{}", "n1", "td", "shop", "cart", "spiffe://td/ns/shop/sa/cart"},
		{"{}", "n1", NULL, "shop", "cart", NULL},   /* nobody to learn from */
		{OTHERS, "n3", NULL, "shop", "cart", NULL}, /* only of other nodes */
		{OTHERS, "", NULL, "shop", "cart", NULL},   /* which node is ours? */
		{OTHERS, "n1", NULL, "", "cart", NULL},
		{OTHERS, "n1", NULL, "sh/op", "cart", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct workload *w = take(rows[i].yaml, rows[i].node, rows[i].trust_domain,
					  rows[i].ns, rows[i].sa);

		if (rows[i].want == NULL)
			assert_null(w);
		else
			assert_string_equal(w->identity, rows[i].want);
		workload_unref(w);
	}
}

static void assume__what_a_node_has_in_common(void **state)
{
	struct workload *w = take(OTHERS, "n1", NULL, "shop", "cart");

	(void)state;
	assert_true(str_eqc(w->network, "net1"));
	assert_true(str_eqc(w->cluster, "c1"));
	assert_true(str_eqc(w->region, "r"));
	assert_true(str_eqc(w->zone, "z"));
	assert_true(str_eqc(w->node, "n1"));
	assert_int_equal(w->nips, 0);
	assert_int_equal(w->npolicies, 0);
	workload_unref(w);
	w = take("{}", "n1", "td", "shop", "cart");
	assert_true(str_eqc(w->network, "mine"));
	workload_unref(w);
}

/* It goes the way that the real one would go. */
static void assume__as_a_source(void **state)
{
	struct mesh *m = mesh_from_node(OTHERS, "n1");
	struct assume_node n = {"n1", "net1", NULL};
	struct workload *w = assume_workload(m, &n, STR("p"), STR("shop"), STR("cart"));
	struct ip_port to = ip_port("10.0.0.1:80");
	struct route r;

	(void)state;
	decide_outbound(m, w, STR("net1"), &to, 1, &r);
	assert_int_equal(r.kind, ROUTE_HBONE);
	assert_string_equal(r.identities[0], "spiffe://near.example/ns/x/sa/default");
	workload_unref(w);
	mesh_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(assume__identity),
		cmocka_unit_test(assume__what_a_node_has_in_common),
		cmocka_unit_test(assume__as_a_source),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
