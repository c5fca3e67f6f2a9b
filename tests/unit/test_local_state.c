/* SPDX-License-Identifier: Apache-2.0
 * test_local_state.c: the local YAML state (ztunnel-spec 9.9): what is taken, and what is refused
 * with field and line. Nothing is dropped silently (spec 17, item 10).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

static const char full_yaml[] =
	"workloads:\n"
	"  - uid: cluster1//Pod/default/local\n"
	"    name: local\n"
	"    namespace: default\n"
	"    serviceAccount: sa\n"
	"    trustDomain: td.example\n"
	"    network: n1\n"
	"    workloadIps: [127.0.0.1, '::1']\n"
	"    protocol: HBONE\n"
	"    networkMode: Standard\n"
	"    node: local\n"
	"    waypoint: {destination: n1/10.0.0.9, hboneMtlsPort: 15009}\n"
	"    networkGateway: {destination: istio-system/gw.example, hboneMtlsPort: 15008}\n"
	"    workloadName: dep\n"
	"    workloadType: job\n"
	"    canonicalName: can\n"
	"    canonicalRevision: v1\n"
	"    hostname: h.example\n"
	"    nativeTunnel: true\n"
	"    applicationTunnel: {protocol: PROXY, port: 15088}\n"
	"    authorizationPolicies: [default/p]\n"
	"    status: Unhealthy\n"
	"    clusterId: c1\n"
	"    locality: {region: r, zone: z, subzone: s}\n"
	"    capacity: 7\n"
	"    services:\n"
	"      default/svc.example:\n"
	"        80: 8080\n"
	"policies:\n"
	"  - name: p\n"
	"    namespace: default\n"
	"    scope: WorkloadSelector\n"
	"    action: Deny\n"
	"    dryRun: true\n"
	"    rules:\n"
	"      - - - principals: [!Exact td.example/ns/default/sa/x, !Presence []]\n"
	"            notSourceIps: [10.0.0.0/8, 'fd00::/8']\n"
	"            destinationPorts: [80]\n"
	"services:\n"
	"  - name: svc\n"
	"    namespace: default\n"
	"    hostname: svc.example\n"
	"    vips: [/10.0.0.1, n1/10.0.0.2]\n"
	"    cidrVips: [n1/10.2.0.0/16, {network: n1, cidr: 10.3.0.0/16}]\n"
	"    ports: {80: 8080, 443: 0}\n"
	"    subjectAltNames: ['spiffe://td.example/ns/a/sa/b']\n"
	"    loadBalancer: {routingPreferences: [Network, Zone], mode: Failover, healthPolicy: "
	"AllowAll}\n"
	"    ipFamilies: Dual\n"
	"    canonical: true\n"
	"    visibility: Namespace\n";

static void accepts__every_field(void **state)
{
	struct mesh *m = mesh_from(full_yaml);
	struct workload *w = mesh_workload_by_uid(m, STR("cluster1//Pod/default/local"));
	struct service *s = mesh_service_by_host(m, STR("default"), STR("svc.example"));
	struct policy *p = mesh_policy(m, STR("default/p"));

	(void)state;
	assert_string_equal(w->identity, "spiffe://td.example/ns/default/sa/sa");
	assert_int_equal(w->nips, 2);
	assert_int_equal(w->protocol, WL_HBONE);
	assert_true(w->waypoint->set && !w->waypoint->by_host);
	assert_int_equal(w->waypoint->hbone_port, 15009);
	assert_true(w->network_gateway->by_host);
	assert_int_equal(w->type, WL_TYPE_JOB);
	assert_true(w->app_tunnel.proxy && w->app_tunnel.port == 15088);
	assert_true(w->unhealthy && w->native_tunnel && w->capacity == 7);
	assert_true(str_eqc(w->subzone, "s"));
	assert_true(str_eqc(w->services[0].name, "default/svc.example"));
	assert_int_equal(s->nvips, 2);
	assert_int_equal(s->ncidr_vips, 2);
	assert_int_equal(s->nports, 2);
	assert_int_equal(s->lb_mode, LB_FAILOVER);
	assert_int_equal(s->lb_pref[1], LB_ZONE);
	assert_true(s->allow_unhealthy && s->canonical && s->private_to_ns);
	assert_int_equal(s->ip_families, 10);
	assert_true(p->dry_run && p->action == POLICY_DENY && p->scope == POLICY_WORKLOAD);
	assert_int_equal(p->rules[0].v[0].v[0].principals.n, 2);
	assert_int_equal(p->rules[0].v[0].v[0].not_source_ips.v[1].prefix, 8);
	mesh_unref(m);
}

static void defaults__as_from_the_control_plane(void **state)
{
	struct mesh *m = mesh_from(
		"workloads:\n  - {name: a, namespace: ns, workloadIps: [1.2.3.4], services: {}}\n"
		"  - {namespace: ns, workloadIps: [1.2.3.5], services: {}}\n");
	struct workload *w = mesh_workload_by_uid(m, STR("Kubernetes//Pod/ns/a"));

	(void)state;
	assert_non_null(w);
	assert_string_equal(w->identity, "spiffe://cluster.local/ns/ns/sa/default");
	assert_int_equal(w->capacity, 1);
	assert_true(str_eqc(w->cluster, "Kubernetes"));
	assert_non_null(mesh_workload_by_uid(m, STR("Kubernetes//Address/ns/1.2.3.5")));
	mesh_unref(m);
}

#define W(rest)                                                                                    \
	"workloads:\n  - namespace: ns\n    services: {}\n    workloadIps: []\n    uid: u\n" rest
#define S(rest) "services:\n  - name: s\n    namespace: ns\n    hostname: s.example\n" rest
#define P(rules)                                                                                   \
	"policies:\n  - name: p\n    namespace: ns\n    scope: Namespace\n    action: Deny\n"      \
	"    rules:\n      - - - " rules "\n"

static void refuses__with_field_and_line(void **state)
{
	static const struct {
		const char *title, *yaml, *want[3];
	} rows[] = {
		{"empty file", "", {"empty"}},
		{"only a comment", "# nothing\n", {"empty"}},
		{"top is a list", "[]\n", {"map"}},
		{"unknown top key", "workload: []\n", {"workload"}},
		{"unknown workload field", W("    nope: 1\n"), {"nope", "line 6"}},
		{"unknown service field",
		 S("    vips: []\n    ports: {}\n    nope: 1\n"),
		 {"nope"}},
		{"unknown policy field",
		 "policies:\n  - {name: p, namespace: n, scope: Global, action: Deny, rules: [], "
		 "x: "
		 "1}\n",
		 {"x"}},
		{"unknown match key", P("destinationPort: [80]"), {"destinationPort"}},
		{"no namespace",
		 "workloads:\n  - {uid: u, workloadIps: [], services: {}}\n",
		 {"namespace"}},
		{"no workloadIps",
		 "workloads:\n  - {uid: u, namespace: n, services: {}}\n",
		 {"workloadIps", "missing"}},
		{"no services",
		 "workloads:\n  - {uid: u, namespace: n, workloadIps: []}\n",
		 {"services", "missing"}},
		{"nothing to name it",
		 "workloads:\n  - {namespace: n, workloadIps: [], services: {}}\n",
		 {"uid"}},
		{"address",
		 "workloads:\n  - {uid: u, namespace: n, services: {}, workloadIps: "
		 "[10.0.0.1.2]}\n",
		 {"workloads[0].workloadIps[0]", "line 2", "10.0.0.1.2"}},
		{"octal address",
		 "workloads:\n  - {uid: u, namespace: n, services: {}, "
		 "workloadIps: [010.0.0.1]}\n",
		 {"workloadIps[0]"}},
		{"protocol", W("    protocol: hbone\n"), {"protocol", "TCP, HBONE", "hbone"}},
		{"network mode", W("    networkMode: Host\n"), {"networkMode"}},
		{"workload type", W("    workloadType: Pod2\n"), {"workloadType"}},
		{"status", W("    status: Dead\n"), {"status"}},
		{"capacity", W("    capacity: -1\n"), {"capacity"}},
		{"capacity too large", W("    capacity: 4294967296\n"), {"capacity"}},
		{"capacity as text", W("    capacity: 'x'\n"), {"capacity"}},
		{"flag", W("    nativeTunnel: maybe\n"), {"nativeTunnel"}},
		{"slash in the service account", W("    serviceAccount: a/b\n"), {"identity"}},
		{"blank in the trust domain", W("    trustDomain: 'a b'\n"), {"identity"}},
		{"waypoint without destination",
		 W("    waypoint: {hboneMtlsPort: 1}\n"),
		 {"destination"}},
		{"waypoint without slash",
		 W("    waypoint: {destination: 10.0.0.1}\n"),
		 {"waypoint.destination"}},
		{"waypoint to a bad address",
		 W("    waypoint: {destination: /10.0.0.1.1}\n"),
		 {"waypoint.destination"}},
		{"waypoint port",
		 W("    waypoint: {destination: /10.0.0.1, hboneMtlsPort: 65536}\n"),
		 {"hboneMtlsPort"}},
		{"tunnel protocol", W("    applicationTunnel: {protocol: NOPE}\n"), {"protocol"}},
		{"policy name without namespace",
		 W("    authorizationPolicies: [p]\n"),
		 {"authorizationPolicies[0]"}},
		{"membership key",
		 "workloads:\n  - {uid: u, namespace: n, workloadIps: [], services: {host: {}}}\n",
		 {"namespace/hostname"}},
		{"membership port",
		 "workloads:\n  - {uid: u, namespace: n, workloadIps: [], services: {n/h: {0: "
		 "1}}}\n",
		 {"service port"}},
		{"membership target",
		 "workloads:\n  - {uid: u, namespace: n, workloadIps: [], services: {n/h: {1: "
		 "65536}}}\n",
		 {"target port"}},
		{"service without vips", S("    ports: {}\n"), {"vips"}},
		{"service without ports", S("    vips: []\n"), {"ports"}},
		{"vip without network", S("    vips: [10.0.0.1]\n    ports: {}\n"), {"vips[0]"}},
		{"vip that is no address", S("    vips: [/x]\n    ports: {}\n"), {"vips[0]"}},
		{"cidr",
		 S("    vips: []\n    ports: {}\n    cidrVips: [/10.0.0.0/33]\n"),
		 {"cidrVips[0]"}},
		{"cidr without length",
		 S("    vips: []\n    ports: {}\n    cidrVips: [/10.0.0.0]\n"),
		 {"cidrVips[0]"}},
		{"subject name",
		 S("    vips: []\n    ports: {}\n    subjectAltNames: ['spiffe://a/b']\n"),
		 {"subjectAltNames[0]"}},
		{"mode",
		 S("    vips: []\n    ports: {}\n    loadBalancer: {mode: Any}\n"),
		 {"mode"}},
		{"scope",
		 S("    vips: []\n    ports: {}\n    loadBalancer: {routingPreferences: [X]}\n"),
		 {"routingPreferences[0]"}},
		{"families",
		 S("    vips: []\n    ports: {}\n    ipFamilies: IPv5\n"),
		 {"ipFamilies"}},
		{"endpoints",
		 S("    vips: []\n    ports: {}\n    endpoints: {a: {}}\n"),
		 {"endpoints"}},
		{"policy scope",
		 "policies:\n  - {name: p, namespace: n, scope: X, action: Deny, rules: "
		 "[]}\n",
		 {"scope"}},
		{"policy without action",
		 "policies:\n  - {name: p, namespace: n, scope: Global, rules: []}\n",
		 {"action"}},
		{"policy without rules",
		 "policies:\n  - {name: p, namespace: n, scope: Global, action: Allow}\n",
		 {"rules"}},
		{"rules of the wrong depth",
		 "policies:\n  - {name: p, namespace: n, scope: Global, action: Allow, rules: "
		 "[{destinationPorts: [1]}]}\n",
		 {"rules[0]"}},
		{"untagged text match", P("namespaces: [ns1]"), {"namespaces[0]", "!Exact"}},
		{"map form of a text match", P("namespaces: [{Exact: x}]"), {"namespaces[0]"}},
		{"unknown tag", P("namespaces: [!Regex x]"), {"namespaces[0]"}},
		{"presence with a value", P("namespaces: [!Presence x]"), {"Presence"}},
		{"empty exact", P("namespaces: [!Exact '']"), {"namespaces[0]"}},
		{"principal with scheme",
		 P("principals: [!Exact 'spiffe://a/ns/b/sa/c']"),
		 {"principals[0]", "spiffe://"}},
		{"bad CIDR", P("sourceIps: [10.0.0.0/33]"), {"sourceIps[0]", "line 7"}},
		{"bad address", P("notSourceIps: [10.0.0]"), {"notSourceIps[0]"}},
		{"bad port", P("destinationPorts: [65616]"), {"destinationPorts"}},
		{"port 0", P("destinationPorts: [0]"), {"destinationPorts"}},
		{"port as text", P("notDestinationPorts: ['80']"), {"notDestinationPorts"}},
		{"service account", P("serviceAccounts: [{namespace: a}]"), {"serviceAccount"}},
		{"service account as text", P("serviceAccounts: [a/b]"), {"serviceAccounts[0]"}},
		{"anchors", "workloads: &a []\nservices: *a\n", {"line"}},
		{"not YAML", "workloads: [\n", {"line"}},
		{"tabs", "workloads:\n\t- x\n", {"line"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		struct mesh *m = local_state_parse(str_of(rows[i].yaml), STR(""), 1, &e);

		print_message("row: %s: %s\n", rows[i].title, e.msg);
		assert_null(m);
		for (int k = 0; k < 3 && rows[i].want[k] != NULL; k++)
			if (strstr(e.msg, rows[i].want[k]) == NULL)
				fail_msg("%s is not in: %s", rows[i].want[k], e.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts__every_field),
		cmocka_unit_test(defaults__as_from_the_control_plane),
		cmocka_unit_test(refuses__with_field_and_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
