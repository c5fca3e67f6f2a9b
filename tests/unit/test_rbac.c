/* SPDX-License-Identifier: Apache-2.0
 * test_rbac.c: the truth table of ztunnel-spec 10.
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/rbac.h"

enum who {
	PLAIN,
	TLS,
	OTHER
}; /* no identity; td/ns1/sa1; other trust domain, namespace, account */

static struct rbac_conn conn(enum who who)
{
	struct rbac_conn c = {.src = ip("10.0.0.1"), .dst = ip_port("10.0.0.2:8080")};

	c.has_identity = who != PLAIN;
	if (who == TLS)
		c.identity = (struct spiffe_id){STR("cluster.local"), STR("ns1"), STR("sa1")};
	if (who == OTHER)
		c.identity = (struct spiffe_id){STR("other.local"), STR("ns2"), STR("sa2")};
	return c;
}

/* The workload dst and what follows its fields. */
static struct mesh *one_workload(const char *policies)
{
	char yaml[4096];

	(void)snprintf(
		yaml, sizeof(yaml),
		"workloads:\n  - {uid: dst, name: dst, namespace: ns1, workloadIps: [10.0.0.2], "
		"services: {}%s\n",
		policies);
	return mesh_from(yaml);
}

static enum rbac_verdict eval_conn(const char *policies, const struct rbac_conn *c, char *reason,
				   size_t cap)
{
	struct mesh *m = one_workload(policies);
	struct rbac_result r = rbac_evaluate(m, mesh_workload_by_uid(m, STR("dst")), c);

	(void)rbac_reason(&r, reason, cap);
	mesh_unref(m);
	return r.verdict;
}

static enum rbac_verdict eval(const char *policies, enum who who, char *reason, size_t cap)
{
	struct rbac_conn c = conn(who);

	return eval_conn(policies, &c, reason, cap);
}

static void match__every_attribute(void **state)
{
	/* ztunnel-spec 10.3: one ALLOW policy with this match; does it let the connection in? */
	static const struct {
		const char *match;
		bool plain, tls, other;
	} rows[] = {
		{"{}", false, false, false}, /* completely empty: never */
		{"{namespaces: [!Exact ns1]}", false, true, false},
		{"{namespaces: [!Exact ns1, !Exact ns2]}", false, true, true},
		{"{namespaces: [!Prefix ns]}", false, true, true},
		{"{namespaces: [!Suffix '1']}", false, true, false},
		{"{namespaces: [!Presence []]}", false, true, true},
		{"{notNamespaces: [!Exact ns1]}", true, false, true},
		{"{notNamespaces: [!Presence []]}", true, false, false},
		{"{principals: [!Exact cluster.local/ns/ns1/sa/sa1]}", false, true, false},
		{"{principals: [!Exact cluster.local/ns/ns1/sa/sa]}", false, false, false},
		{"{principals: [!Exact CLUSTER.local/ns/ns1/sa/sa1]}", false, false, false},
		{"{principals: [!Prefix cluster.local/]}", false, true, false},
		{"{principals: [!Suffix /sa/sa2]}", false, false, true},
		{"{principals: [!Presence []]}", false, true, true},
		{"{notPrincipals: [!Exact cluster.local/ns/ns1/sa/sa1]}", true, false, true},
		{"{notPrincipals: [!Presence []]}", true, false, false},
		{"{serviceAccounts: [{namespace: ns1, serviceAccount: sa1}]}", false, true, false},
		{"{serviceAccounts: [{namespace: ns2, serviceAccount: sa1}]}", false, false, false},
		{"{notServiceAccounts: [{namespace: ns1, serviceAccount: sa1}]}", true, false,
		 true},
		{"{sourceIps: [10.0.0.1]}", true, true, true},
		{"{sourceIps: [10.0.0.0/8]}", true, true, true},
		{"{sourceIps: ['::ffff:10.0.0.1']}", true, true, true},
		{"{sourceIps: [10.0.0.2]}", false, false, false},
		{"{sourceIps: ['::/0']}", false, false, false},
		{"{notSourceIps: [10.0.0.0/30]}", false, false, false},
		{"{notSourceIps: [10.0.0.2]}", true, true, true},
		{"{destinationIps: [10.0.0.2]}", true, true, true},
		{"{destinationIps: [10.0.0.1]}", false, false, false},
		{"{notDestinationIps: [10.0.0.2]}", false, false, false},
		{"{destinationPorts: [80, 8080]}", true, true, true},
		{"{destinationPorts: [80]}", false, false, false},
		{"{notDestinationPorts: [8080]}", false, false, false},
		{"{notDestinationPorts: [80]}", true, true, true},
		/* one of each not_ list is enough to lose */
		{"{notNamespaces: [!Exact ns3, !Exact ns1]}", true, false, true},
		{"{notNamespaces: [!Prefix ns]}", true, false, false},
		{"{notNamespaces: [!Suffix '2']}", true, true, false},
		{"{namespaces: [!Exact NS1]}", false, false, false},
		{"{principals: [!Exact other.local/ns/ns2/sa/sa2, !Suffix /sa/sa1]}", false, true,
		 true},
		{"{notPrincipals: [!Prefix other.local/]}", true, true, false},
		{"{notPrincipals: [!Suffix /sa1]}", true, false, true},
		{"{principals: [!Presence []], notPrincipals: [!Prefix cluster.local/]}", false,
		 false, true},
		/* a trust domain is part of a principal, not of a service account */
		{"{serviceAccounts: [{namespace: ns2, serviceAccount: sa2}]}", false, false, true},
		{"{serviceAccounts: [{namespace: ns1, serviceAccount: sa2}, {namespace: ns2, "
		 "serviceAccount: sa2}]}",
		 false, false, true},
		{"{notServiceAccounts: [{namespace: ns2, serviceAccount: sa2}]}", true, true,
		 false},
		/* groups are AND */
		{"{namespaces: [!Exact ns1], destinationPorts: [8080]}", false, true, false},
		{"{namespaces: [!Exact ns1], destinationPorts: [80]}", false, false, false},
		{"{namespaces: [!Prefix ns], notNamespaces: [!Exact ns2]}", false, true, false},
		/* empty lists are as if absent */
		{"{namespaces: [], destinationPorts: [8080]}", true, true, true},
		{"{namespaces: []}", false, false, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char yaml[512], reason[256];
		bool want[] = {rows[i].plain, rows[i].tls, rows[i].other};

		print_message("row: %s\n", rows[i].match);
		(void)snprintf(
			yaml, sizeof(yaml),
			"}\npolicies:\n  - {name: p, namespace: ns1, scope: Namespace, action: "
			"Allow, rules: [[[%s]]]}",
			rows[i].match);
		for (int w = PLAIN; w <= OTHER; w++)
			assert_int_equal(eval(yaml, (enum who)w, reason, sizeof(reason)),
					 want[w] ? RBAC_ALLOW : RBAC_DENY_NO_ALLOW);
	}
}

static void match__addresses(void **state)
{
	/* ztunnel-spec 10.3: addresses of both families; an IPv4 address in IPv6 clothes is IPv4 */
	static const struct {
		const char *match, *src, *dst;
		bool want;
	} rows[] = {
		{"{sourceIps: [10.1.2.0/24]}", "10.1.2.255", NULL, true},
		{"{sourceIps: [10.1.2.0/24]}", "10.1.3.0", NULL, false},
		{"{sourceIps: [10.1.2.77/24]}", "10.1.2.1", NULL,
		 true}, /* host bits are no matter */
		{"{sourceIps: [10.1.2.3/32]}", "10.1.2.3", NULL, true},
		{"{sourceIps: [10.1.2.3/31]}", "10.1.2.2", NULL, true},
		{"{sourceIps: [0.0.0.0/0]}", "10.1.2.3", NULL, true},
		{"{sourceIps: [0.0.0.0/0]}", "fd00::1", NULL, false},
		{"{sourceIps: ['::/0']}", "fd00::1", NULL, true},
		{"{sourceIps: ['::/0']}", "10.1.2.3", NULL, false},
		{"{sourceIps: ['fd00::/64']}", "fd00::ffff", NULL, true},
		{"{sourceIps: ['fd00::/64']}", "fd00:0:0:1::1", NULL, false},
		{"{sourceIps: ['fd00::1']}", "fd00::1", NULL, true},
		{"{sourceIps: ['fd00::/127']}", "fd00::2", NULL, false},
		{"{sourceIps: ['::ffff:10.1.2.0/120']}", "10.1.2.9", NULL, true},
		{"{sourceIps: ['::ffff:10.1.2.0/120']}", "10.1.3.9", NULL, false},
		{"{sourceIps: [10.1.2.0/24]}", "::ffff:10.1.2.9", NULL, true},
		{"{notSourceIps: [10.1.2.0/24]}", "::ffff:10.1.2.9", NULL, false},
		{"{notSourceIps: ['::/0']}", "10.1.2.3", NULL, true},
		{"{sourceIps: [10.0.0.0/8], notSourceIps: [10.1.0.0/16]}", "10.2.0.1", NULL, true},
		{"{sourceIps: [10.0.0.0/8], notSourceIps: [10.1.0.0/16]}", "10.1.0.1", NULL, false},
		{"{destinationIps: ['fd00::/16']}", NULL, "[fd00::2]:8080", true},
		{"{destinationIps: [10.0.0.0/24]}", NULL, "[::ffff:10.0.0.2]:8080", true},
		{"{notDestinationIps: ['fd00::2']}", NULL, "[fd00::2]:8080", false},
		{"{destinationPorts: [65535]}", NULL, "10.0.0.2:65535", true},
		{"{destinationPorts: [1]}", NULL, "10.0.0.2:1", true},
		{"{destinationPorts: [808]}", NULL, "10.0.0.2:8080", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rbac_conn c = conn(TLS);
		char yaml[512], reason[256];

		if (rows[i].src != NULL)
			c.src = ip(rows[i].src);
		if (rows[i].dst != NULL)
			c.dst = ip_port(rows[i].dst);
		print_message("row: %s\n", rows[i].match);
		(void)snprintf(
			yaml, sizeof(yaml),
			"}\npolicies:\n  - {name: p, namespace: ns1, scope: Namespace, action: "
			"Allow, rules: [[[%s]]]}",
			rows[i].match);
		assert_int_equal(eval_conn(yaml, &c, reason, sizeof(reason)),
				 rows[i].want ? RBAC_ALLOW : RBAC_DENY_NO_ALLOW);
	}
}

#define POLICY(name, rest) "  - {name: " name ", namespace: ns1, " rest "}\n"
#define YES		   "rules: [[[{destinationPorts: [8080]}]]]"
#define NO		   "rules: [[[{destinationPorts: [1]}]]]"

static void decision__table(void **state)
{
	static const struct {
		const char *title, *policies;
		enum rbac_verdict want;
		const char *reason;
	} rows[] = {
		{"no policy", "}", RBAC_ALLOW, NULL},
		{"10.2-2 deny matches",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, " YES),
		 RBAC_DENY_EXPLICIT,
		 "connection closed due to policy rejection: explicitly denied by: ns1/d"},
		{"10.2-4 deny does not match",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, " NO), RBAC_ALLOW,
		 NULL},
		{"10.2-5 allow matches",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " YES), RBAC_ALLOW,
		 NULL},
		{"10.2-6 allow does not match",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " NO),
		 RBAC_DENY_NO_ALLOW,
		 "connection closed due to policy rejection: allow policies exist, but none "
		 "allowed"},
		{"deny before allow",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " YES)
			 POLICY("d", "scope: Namespace, action: Deny, " YES),
		 RBAC_DENY_EXPLICIT, NULL},
		{"one of two allows",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " NO)
			 POLICY("b", "scope: Namespace, action: Allow, " YES),
		 RBAC_ALLOW, NULL},
		{"dry-run deny changes nothing",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, dryRun: true, " YES),
		 RBAC_ALLOW, NULL},
		{"dry-run allow without match changes nothing",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, dryRun: true, " NO),
		 RBAC_ALLOW, NULL},
		{"dry-run allow does not satisfy an enforced one",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " NO)
			 POLICY("b", "scope: Namespace, action: Allow, dryRun: true, " YES),
		 RBAC_DENY_NO_ALLOW, NULL},
		{"10.1 global applies everywhere",
		 "}\npolicies:\n  - {name: g, namespace: root, scope: Global, action: Deny, " YES
		 "}\n",
		 RBAC_DENY_EXPLICIT, NULL},
		{"10.1 namespace of somebody else",
		 "}\npolicies:\n  - {name: o, namespace: ns2, scope: Namespace, action: Deny, " YES
		 "}\n",
		 RBAC_ALLOW, NULL},
		{"10.1 by name",
		 ", authorizationPolicies: [ns2/w]}\npolicies:\n  - {name: w, namespace: "
		 "ns2, scope: WorkloadSelector, action: Deny, " YES "}\n",
		 RBAC_DENY_EXPLICIT, NULL},
		{"10.1 selector policies apply by name only",
		 "}\npolicies:\n" POLICY("w", "scope: WorkloadSelector, action: Deny, " YES),
		 RBAC_ALLOW, NULL},
		{"invariant 1: referenced and unknown denies",
		 ", authorizationPolicies: [ns1/later]}", RBAC_DENY_MISSING,
		 "policy ns1/later is not known yet"},
		{"unknown denies although another allows",
		 ", authorizationPolicies: [ns1/later]}\npolicies:\n" POLICY(
			 "a", "scope: Namespace, action: Allow, " YES),
		 RBAC_DENY_MISSING, NULL},
		{"an explicit deny is named first",
		 ", authorizationPolicies: [ns1/later]}\npolicies:\n" POLICY(
			 "d", "scope: Namespace, action: Deny, " YES),
		 RBAC_DENY_EXPLICIT, NULL},
		/* what istiod makes of PeerAuthentication STRICT (istiod-ambient-spec 5) */
		{"strict mutual TLS lets TLS in",
		 ", authorizationPolicies: "
		 "[ns1/istio_converted_static_strict]}\npolicies:\n" POLICY(
			 "istio_converted_static_strict",
			 "scope: WorkloadSelector, action: Deny, rules: "
			 "[[[{notPrincipals: [!Presence []]}]]]"),
		 RBAC_ALLOW, NULL},
		/* ztunnel-spec 10.3: what empty means at each level */
		{"allow without rules never matches",
		 "}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, rules: []"),
		 RBAC_DENY_NO_ALLOW, NULL},
		{"deny without rules never matches",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, rules: []"),
		 RBAC_ALLOW, NULL},
		{"a rule without clauses matches",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, rules: [[]]"),
		 RBAC_DENY_EXPLICIT, NULL},
		{"a clause without matches matches",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, rules: [[[]]]"),
		 RBAC_DENY_EXPLICIT, NULL},
		{"an empty match never matches",
		 "}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, rules: [[[{}]]]"),
		 RBAC_ALLOW, NULL},
		{"clauses are AND",
		 "}\npolicies:\n" POLICY(
			 "d", "scope: Namespace, action: Deny, rules: "
			      "[[[{destinationPorts: [8080]}], [{destinationPorts: [1]}]]]"),
		 RBAC_ALLOW, NULL},
		{"matches are OR",
		 "}\npolicies:\n" POLICY(
			 "d", "scope: Namespace, action: Deny, rules: "
			      "[[[{destinationPorts: [1]}, {destinationPorts: [8080]}]]]"),
		 RBAC_DENY_EXPLICIT, NULL},
		{"rules are OR",
		 "}\npolicies:\n" POLICY(
			 "d", "scope: Namespace, action: Deny, rules: "
			      "[[[{destinationPorts: [1]}]], [[{destinationPorts: [8080]}]]]"),
		 RBAC_DENY_EXPLICIT, NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char reason[256];

		print_message("row: %s\n", rows[i].title);
		assert_int_equal(eval(rows[i].policies, TLS, reason, sizeof(reason)), rows[i].want);
		if (rows[i].reason != NULL && strstr(reason, rows[i].reason) == NULL)
			fail_msg("reason is: %s", reason);
	}
}

static void collect(void *ctx, const char *message, struct str policy)
{
	strbuf_printf(ctx, "%s%s", ((struct strbuf *)ctx)->n != 0 ? "; " : "", message);
	if (policy.n != 0)
		strbuf_printf(ctx, " %.*s", STR_FMT(policy));
}

static void explain__table(void **state)
{
	/* ztunnel-spec 10.2, 10.4: what is said about each decision, in this order */
	static const struct {
		const char *policies, *want;
	} rows[] = {
		{"}", "no allow policies, allow"},
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, " YES),
		 "deny policy match ns1/d"},
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, " NO),
		 "no allow policies, allow"},
		{"}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " YES),
		 "allow policy match ns1/a"},
		{"}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, " NO),
		 "no allow policies matched"},
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, dryRun: true, " YES),
		 "dry-run: deny policy match ns1/d; no allow policies, allow"},
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, dryRun: true, " NO),
		 "no allow policies, allow"},
		{"}\npolicies:\n" POLICY("a",
					 "scope: Namespace, action: Allow, dryRun: true, " YES),
		 "dry-run: allow policy match ns1/a; no allow policies, allow"},
		{"}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, dryRun: true, " NO),
		 "dry-run: no allow policies match; no allow policies, allow"},
		/* an enforced ALLOW decides already */
		{"}\npolicies:\n" POLICY("a", "scope: Namespace, action: Allow, dryRun: true, " NO)
			 POLICY("b", "scope: Namespace, action: Allow, " NO),
		 "no allow policies matched"},
		{"}\npolicies:\n" POLICY("b", "scope: Namespace, action: Allow, " YES)
			 POLICY("a", "scope: Namespace, action: Allow, dryRun: true, " YES),
		 "dry-run: allow policy match ns1/a; allow policy match ns1/b"},
		/* a deny ends it, but not for dry-run denies */
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, " YES)
			 POLICY("e", "scope: Namespace, action: Deny, dryRun: true, " YES)
				 POLICY("a", "scope: Namespace, action: Allow, dryRun: true, " YES),
		 "dry-run: deny policy match ns1/e; deny policy match ns1/d"},
		/* each dry-run policy that matches */
		{"}\npolicies:\n" POLICY("d", "scope: Namespace, action: Deny, dryRun: true, " YES)
			 POLICY("e", "scope: Global, action: Deny, dryRun: true, " YES),
		 "dry-run: deny policy match ns1/e; dry-run: deny policy match ns1/d; no allow "
		 "policies, allow"},
		/* ours: a named policy that is missing denies */
		{", authorizationPolicies: [ns1/later]}",
		 "policy is not known yet, deny ns1/later"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf said = {0};
		struct rbac_conn c = conn(TLS);
		struct rbac_result r;
		struct mesh *m = one_workload(rows[i].policies);
		const struct workload *dst = mesh_workload_by_uid(m, STR("dst"));

		print_message("row: %s\n", rows[i].policies);
		r = rbac_evaluate(m, dst, &c);
		rbac_explain(m, dst, &c, &r, collect, &said);
		assert_string_equal(said.p, rows[i].want);
		mesh_unref(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(match__every_attribute),
		cmocka_unit_test(match__addresses),
		cmocka_unit_test(decision__table),
		cmocka_unit_test(explain__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
