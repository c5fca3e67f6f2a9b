/* SPDX-License-Identifier: Apache-2.0
 * test_kube_self.c: whether an agent that Istio's chart started is replaced or goes for good
 * (cni-spec 2.7).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/base/str.h"
#include "node-agent/source/kube_self.h"
#include "node-agent/source/placement.h"

static void kube_self_decide__table(void **state)
{
	static const struct {
		unsigned int status;
		const char *body;
		enum kube_self_verdict want;
	} rows[] = {
		{200, "{\"metadata\":{\"uid\":\"a\"}}", KUBE_SELF_STAYS},
		{200,
		 "{\"metadata\":{\"uid\":\"a\",\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"}}",
		 KUBE_SELF_LEAVES},
		{404, "{\"kind\":\"Status\"}", KUBE_SELF_LEAVES},
		{401, "", KUBE_SELF_LEAVES},
		{403, "", KUBE_SELF_LEAVES},
		/* not an answer to the question: ask again, and stay */
		{200, "", KUBE_SELF_UNKNOWN},
		{200, "{\"metadata\":{\"uid\":\"a\"}", KUBE_SELF_UNKNOWN},
		{200, "{\"metadata\":{}}", KUBE_SELF_UNKNOWN},
		{200, "{\"metadata\":7}", KUBE_SELF_UNKNOWN},
		{200, "[]", KUBE_SELF_UNKNOWN},
		{200, "<html>", KUBE_SELF_UNKNOWN},
		{0, "", KUBE_SELF_UNKNOWN},
		{301, "", KUBE_SELF_UNKNOWN},
		{429, "", KUBE_SELF_UNKNOWN},
		{500, "", KUBE_SELF_UNKNOWN},
		{503, "", KUBE_SELF_UNKNOWN},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *why = NULL;
		enum kube_self_verdict v =
			kube_self_decide(rows[i].status, str_of(rows[i].body), &why);

		if (v != rows[i].want || why == NULL || why[0] == '\0')
			fail_msg("%u %s: %d %s", rows[i].status, rows[i].body, (int)v, why);
	}
}

#define DS(spec) "{\"spec\":{\"template\":{\"spec\":" spec "}}}"
#define TERMS(ts)                                                                                  \
	DS("{\"affinity\":{\"nodeAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":"  \
	   "{\"nodeSelectorTerms\":[" ts "]}}}}")
#define NEED(k, op, v)                                                                             \
	"{\"matchExpressions\":[{\"key\":\"" k "\",\"operator\":\"" op "\",\"values\":[" v "]}]}"
#define NODE                                                                                       \
	"{\"metadata\":{\"name\":\"n1\",\"labels\":{\"kubernetes.io/"                              \
	"os\":\"linux\",\"pool\":\"a\","                                                           \
	"\"size\":\"8\"}}}"

static void placement_of__table(void **state)
{
	static const struct {
		const char *workload, *node;
		enum placement want;
	} rows[] = {
		{DS("{}"), NODE, PLACEMENT_YES},
		{DS("{\"affinity\":{}}"), NODE, PLACEMENT_YES},
		{DS("{\"affinity\":null}"), NODE, PLACEMENT_YES},
		{DS("{\"nodeSelector\":{\"kubernetes.io/os\":\"linux\"}}"), NODE, PLACEMENT_YES},
		{DS("{\"nodeSelector\":{\"kubernetes.io/os\":\"linux\",\"pool\":\"b\"}}"), NODE,
		 PLACEMENT_NO},
		{DS("{\"nodeSelector\":{\"other\":\"\"}}"), NODE, PLACEMENT_NO},
		{TERMS(NEED("pool", "In", "\"b\",\"a\"")), NODE, PLACEMENT_YES},
		{TERMS(NEED("pool", "In", "\"b\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("gone", "In", "\"b\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("pool", "NotIn", "\"b\"")), NODE, PLACEMENT_YES},
		{TERMS(NEED("pool", "NotIn", "\"a\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("gone", "NotIn", "\"a\"")), NODE, PLACEMENT_YES},
		{TERMS(NEED("pool", "Exists", "")), NODE, PLACEMENT_YES},
		{TERMS(NEED("gone", "Exists", "")), NODE, PLACEMENT_NO},
		{TERMS(NEED("gone", "DoesNotExist", "")), NODE, PLACEMENT_YES},
		{TERMS(NEED("pool", "DoesNotExist", "")), NODE, PLACEMENT_NO},
		{TERMS(NEED("size", "Gt", "\"7\"")), NODE, PLACEMENT_YES},
		{TERMS(NEED("size", "Gt", "\"8\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("size", "Lt", "\"9\"")), NODE, PLACEMENT_YES},
		{TERMS(NEED("pool", "Lt", "\"9\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("gone", "Gt", "\"0\"")), NODE, PLACEMENT_NO},
		{TERMS(NEED("size", "Gt", "\"1\",\"2\"")), NODE, PLACEMENT_UNKNOWN},
		{TERMS(NEED("pool", "Like", "\"a\"")), NODE, PLACEMENT_UNKNOWN},
		/* terms are alternatives; an empty one matches nothing; what is known decides */
		{TERMS(NEED("pool", "In", "\"b\"") "," NEED("pool", "In", "\"a\"")), NODE,
		 PLACEMENT_YES},
		{TERMS("{}"), NODE, PLACEMENT_NO},
		{TERMS(""), NODE, PLACEMENT_NO},
		{TERMS(NEED("pool", "Like", "") "," NEED("pool", "In", "\"a\"")), NODE,
		 PLACEMENT_YES},
		{TERMS(NEED("pool", "Like", "") "," NEED("pool", "In", "\"b\"")), NODE,
		 PLACEMENT_UNKNOWN},
		/* requirements of a term are all needed */
		{TERMS("{\"matchExpressions\":[{\"key\":\"pool\",\"operator\":\"Exists\"},"
		       "{\"key\":\"gone\",\"operator\":\"Exists\"}]}"),
		 NODE, PLACEMENT_NO},
		{TERMS("{\"matchExpressions\":[{\"key\":\"pool\",\"operator\":\"Like\"},"
		       "{\"key\":\"gone\",\"operator\":\"Exists\"}]}"),
		 NODE, PLACEMENT_NO},
		{TERMS("{\"matchFields\":[{\"key\":\"metadata.name\",\"operator\":\"In\","
		       "\"values\":["
		       "\"n1\"]}]}"),
		 NODE, PLACEMENT_YES},
		{TERMS("{\"matchFields\":[{\"key\":\"metadata.name\",\"operator\":\"In\","
		       "\"values\":["
		       "\"n2\"]}]}"),
		 NODE, PLACEMENT_NO},
		{TERMS("{\"matchFields\":[{\"key\":\"spec.x\",\"operator\":\"In\",\"values\":[]}]"
		       "}"),
		 NODE, PLACEMENT_UNKNOWN},
		/* a node without labels, and what is no answer */
		{TERMS(NEED("pool", "In", "\"a\"")), "{\"metadata\":{\"name\":\"n1\"}}",
		 PLACEMENT_NO},
		{DS("{}"), "{\"kind\":\"Status\"}", PLACEMENT_UNKNOWN},
		{DS("{}"), "", PLACEMENT_UNKNOWN},
		{"{}", NODE, PLACEMENT_UNKNOWN},
		{"[]", NODE, PLACEMENT_UNKNOWN},
		{TERMS("7"), NODE, PLACEMENT_UNKNOWN},
		{TERMS("{\"matchExpressions\":[7]}"), NODE, PLACEMENT_UNKNOWN},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		enum placement p = placement_of(str_of(rows[i].workload), str_of(rows[i].node));

		if (p != rows[i].want)
			fail_msg("%s: %d", rows[i].workload, (int)p);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(kube_self_decide__table),
		cmocka_unit_test(placement_of__table),
	};

	return cmocka_run_group_tests_name("kube_self", tests, NULL, NULL);
}
