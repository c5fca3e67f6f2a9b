/* SPDX-License-Identifier: Apache-2.0
 * test_mesh.c: the snapshot's indices and their ranking (ztunnel-spec 3.9, 4.1, 4.2).
 */
#include "tests/unit/zt_helper.h"

#include <errno.h>

#define WL(uid, name, rest)                                                                        \
	"  - {uid: '" uid "', name: " name ", namespace: ns1, serviceAccount: sa1, " rest "}\n"

static void workload_by_ip__ranking(void **state)
{
	/* ztunnel-spec 4.1: pod and HBONE 3, pod 2, HBONE 1, neither 0; the last wins ties */
	static const struct {
		const char *name, *a, *b, *want;
	} rows[] = {
		{"pod beats hbone",
		 WL("k//Pod/ns1/a", "a", "workloadIps: [10.0.0.1], services: {}"),
		 WL("k/x/b", "b", "protocol: HBONE, workloadIps: [10.0.0.1], services: {}"), "a"},
		{"pod with hbone beats pod",
		 WL("k//Pod/ns1/a", "a", "protocol: HBONE, workloadIps: [10.0.0.1], services: {}"),
		 WL("k//Pod/ns1/b", "b", "workloadIps: [10.0.0.1], services: {}"), "a"},
		{"last wins ties", WL("k//Pod/ns1/a", "a", "workloadIps: [10.0.0.1], services: {}"),
		 WL("k//Pod/ns1/b", "b", "workloadIps: [10.0.0.1], services: {}"), "b"},
		{"hbone beats neither",
		 WL("a", "a", "protocol: HBONE, workloadIps: [10.0.0.1], services: {}"),
		 WL("b", "b", "workloadIps: [10.0.0.1], services: {}"), "a"},
		{"host network is not indexed",
		 WL("k//Pod/ns1/a", "a", "workloadIps: [10.0.0.1], services: {}"),
		 WL("k//Pod/ns1/b", "b",
		    "networkMode: HostNetwork, workloadIps: [10.0.0.1], services: {}"),
		 "a"},
	};
	struct ip_addr a = ip("10.0.0.1"), mapped = ip("::ffff:10.0.0.1");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char yaml[1024];
		struct mesh *m;
		struct workload *w;

		print_message("row: %s\n", rows[i].name);
		(void)snprintf(yaml, sizeof(yaml), "workloads:\n%s%s", rows[i].a, rows[i].b);
		m = mesh_from(yaml);
		w = mesh_workload_by_ip(m, STR(""), &a);
		assert_non_null(w);
		assert_true(str_eqc(w->name, rows[i].want));
		assert_ptr_equal(mesh_workload_by_ip(m, STR(""), &mapped), w);
		assert_null(mesh_workload_by_ip(m, STR("other"), &a));
		mesh_unref(m);
	}
}

static void local_workload__only_this_node(void **state)
{
	/* ztunnel-spec 3.9 */
	static const char yaml[] =
		"workloads:\n" WL("u1", "a", "node: n1, workloadIps: [10.0.0.1], services: {}")
			WL("u2", "b", "node: n2, workloadIps: [10.0.0.2], services: {}");
	struct mesh *m = mesh_from_node(yaml, "n1"), *all = mesh_from_node(yaml, "");

	(void)state;
	assert_non_null(mesh_local_workload(m, STR("a"), STR("ns1"), STR("sa1")));
	assert_null(mesh_local_workload(m, STR("b"), STR("ns1"), STR("sa1")));
	assert_null(mesh_local_workload(m, STR("a"), STR("ns2"), STR("sa1")));
	assert_null(mesh_local_workload(m, STR("a"), STR("ns1"), STR("sa2")));
	assert_non_null(mesh_local_workload(all, STR("b"), STR("ns1"), STR("sa1")));
	mesh_unref(m);
	mesh_unref(all);
}

#define SVC(name, ns, rest)                                                                        \
	"  - {name: " name ", namespace: " ns ", hostname: " name                                  \
	".example, ports: {80: 8080}, " rest "}\n"

static void service_by_vip__ranking(void **state)
{
	/* ztunnel-spec 4.2 */
	static const struct {
		const char *title, *services, *ip, *client_ns, *want;
	} rows[] = {
		{"first", SVC("a", "x", "vips: [/10.1.0.1]") SVC("b", "y", "vips: [/10.1.0.1]"),
		 "10.1.0.1", "z", "a"},
		{"client's namespace",
		 SVC("a", "x", "vips: [/10.1.0.1]") SVC("b", "y", "vips: [/10.1.0.1]"), "10.1.0.1",
		 "y", "b"},
		{"canonical beats first",
		 SVC("a", "x", "vips: [/10.1.0.1]")
			 SVC("b", "y", "canonical: true, vips: [/10.1.0.1]"),
		 "10.1.0.1", "z", "b"},
		{"the last canonical wins",
		 SVC("a", "x", "canonical: true, vips: [/10.1.0.1]")
			 SVC("b", "y", "canonical: true, vips: [/10.1.0.1]"),
		 "10.1.0.1", "z", "b"},
		{"namespace beats canonical",
		 SVC("a", "x", "vips: [/10.1.0.1]")
			 SVC("b", "y", "canonical: true, vips: [/10.1.0.1]"),
		 "10.1.0.1", "x", "a"},
		{"later of the same namespace replaces",
		 SVC("a", "x", "vips: [/10.1.0.1]") SVC("b", "x", "vips: [/10.1.0.1]"), "10.1.0.1",
		 "z", "b"},
		{"private of another namespace is invisible",
		 SVC("a", "x", "visibility: Namespace, vips: [/10.1.0.1]"), "10.1.0.1", "z", NULL},
		{"private of the own one is visible",
		 SVC("a", "x", "visibility: Namespace, vips: [/10.1.0.1]"), "10.1.0.1", "x", "a"},
		{"private falls through to a CIDR",
		 SVC("a", "x", "visibility: Namespace, vips: [/10.1.0.1]")
			 SVC("b", "y", "vips: [], cidrVips: [/10.1.0.0/16]"),
		 "10.1.0.1", "z", "b"},
		{"exact beats CIDR",
		 SVC("a", "x", "vips: [], cidrVips: [/10.1.0.1/32]")
			 SVC("b", "y", "vips: [/10.1.0.1]"),
		 "10.1.0.1", "x", "b"},
		{"longest prefix",
		 SVC("a", "x", "vips: [], cidrVips: [/10.0.0.0/8]")
			 SVC("b", "y", "vips: [], cidrVips: [/10.1.0.0/16]"),
		 "10.1.0.1", "z", "b"},
		{"namespace beats prefix length",
		 SVC("a", "x", "vips: [], cidrVips: [/10.0.0.0/8]")
			 SVC("b", "y", "vips: [], cidrVips: [/10.1.0.0/16]"),
		 "10.1.0.1", "x", "a"},
		{"canonical breaks a tie of prefixes",
		 SVC("a", "x", "vips: [], cidrVips: [/10.0.0.0/8]")
			 SVC("b", "y", "canonical: true, vips: [], cidrVips: [/10.0.0.0/8]"),
		 "10.1.0.1", "z", "b"},
		{"ties keep the earlier",
		 SVC("a", "x", "vips: [], cidrVips: [/10.0.0.0/8]")
			 SVC("b", "y", "vips: [], cidrVips: [/10.0.0.0/8]"),
		 "10.1.0.1", "z", "a"},
		{"other family", SVC("a", "x", "vips: [], cidrVips: ['/fd00::/8']"), "10.1.0.1",
		 "x", NULL},
		{"v6 prefix", SVC("a", "x", "vips: [], cidrVips: ['/fd00::/8']"), "fd00::1", "z",
		 "a"},
		{"other network", SVC("a", "x", "vips: [remote/10.1.0.1]"), "10.1.0.1", "x", NULL},
		{"CIDR of another network",
		 SVC("a", "x", "vips: [], cidrVips: [remote/10.0.0.0/8]"), "10.1.0.1", "x", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_addr a = ip(rows[i].ip);
		struct service *s;
		char yaml[2048];
		struct mesh *m;

		print_message("row: %s\n", rows[i].title);
		(void)snprintf(yaml, sizeof(yaml), "services:\n%s", rows[i].services);
		m = mesh_from(yaml);
		s = mesh_service_by_vip(m, STR(""), &a, str_of(rows[i].client_ns));
		if (rows[i].want == NULL)
			assert_null(s);
		else
			assert_true(s != NULL && str_eqc(s->name, rows[i].want));
		mesh_unref(m);
	}
}

static void endpoints__health_and_membership(void **state)
{
	static const char yaml[] = "services:\n" SVC("a", "x", "vips: [/10.1.0.1]")
		SVC("b", "x",
		    "vips: [/10.1.0.2], loadBalancer: {healthPolicy: "
		    "AllowAll}") "workloads"
				 ":\n" WL("u1", "p1",
					  "workloadIps: [10.0.0.1], services: "
					  "{x/a.example: {80: 80}}")
					 WL("u2", "p2",
					    "status: Unhealthy, workloadIps: "
					    "[10.0.0.2], services: "
					    "{x/a.example: {80: 80}, "
					    "x/b.example: {80: 9090}, "
					    "x/unknown.example: {}}");
	struct mesh *m = mesh_from(yaml);
	struct service *a = mesh_service_by_host(m, STR("x"), STR("a.example"));
	struct service *b = mesh_service_by_host(m, STR("x"), STR("b.example"));
	const struct endpoint *e;
	size_t n;

	(void)state;
	e = mesh_endpoints(m, a, &n);
	assert_int_equal(n, 1);
	assert_true(str_eqc(e[0].wl->uid, "u1"));
	e = mesh_endpoints(m, b, &n);
	assert_int_equal(n, 1);
	assert_int_equal(e[0].ports[0].target_port, 9090);
	assert_null(mesh_service_by_host(m, STR("y"), STR("a.example")));
	mesh_unref(m);
}

static void builder__duplicates_are_errors(void **state)
{
	static const struct {
		const char *yaml, *want;
	} rows[] = {
		{"workloads:\n" WL("u", "a", "workloadIps: [], services: {}")
			 WL("u", "b", "workloadIps: [], services: {}"),
		 "uid u is used twice"},
		{"services:\n" SVC("a", "x", "vips: []") SVC("a", "x", "vips: []"), "there twice"},
		{"policies:\n"
		 "  - {name: p, namespace: n, scope: Global, action: Deny, rules: []}\n"
		 "  - {name: p, namespace: n, scope: Namespace, action: Deny, rules: []}\n",
		 "n/p is there twice"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};

		assert_null(local_state_parse(str_of(rows[i].yaml), STR(""), 1, &e));
		assert_non_null(strstr(e.msg, rows[i].want));
	}
}

static void policies__by_name_and_scope(void **state)
{
	/* ztunnel-spec 10.1 */
	struct mesh *m = mesh_from(
		"policies:\n"
		"  - {name: g, namespace: root, scope: Global, action: Deny, rules: []}\n"
		"  - {name: n1, namespace: a, scope: Namespace, action: Deny, rules: []}\n"
		"  - {name: n2, namespace: a, scope: Namespace, action: Allow, rules: []}\n"
		"  - {name: n3, namespace: b, scope: Namespace, action: Allow, rules: []}\n"
		"  - {name: w, namespace: a, scope: WorkloadSelector, action: Allow, rules: []}\n");
	struct policy *const *v;
	size_t n;

	(void)state;
	v = mesh_policies(m, POLICY_GLOBAL, STR(""), &n);
	assert_true(n == 1 && str_eqc(v[0]->key, "root/g"));
	v = mesh_policies(m, POLICY_NAMESPACE, STR("a"), &n);
	assert_true(n == 2 && str_eqc(v[0]->name, "n1") && str_eqc(v[1]->name, "n2"));
	(void)mesh_policies(m, POLICY_NAMESPACE, STR("root"), &n);
	assert_int_equal(n, 0);
	(void)mesh_policies(m, POLICY_WORKLOAD, STR("a"), &n);
	assert_int_equal(n, 0);
	assert_non_null(mesh_policy(m, STR("a/w")));
	assert_null(mesh_policy(m, STR("b/w")));
	mesh_unref(m);
}

static void by_name__services_and_workloads(void **state)
{
	/* ztunnel-spec 4.2 "by hostname", 4.5: the client's namespace > canonical > first */
	struct mesh *m = mesh_from(
		"workloads:\n"
		"  - {uid: u1, name: u1, namespace: a, hostname: h, workloadIps: [], services: "
		"{}}\n"
		"  - {uid: u2, name: u2, namespace: a, hostname: h, workloadIps: [], services: "
		"{}}\n"
		"  - {uid: u3, name: u3, namespace: b, hostname: h, workloadIps: [], services: "
		"{}}\n"
		"services:\n"
		"  - {name: s1, namespace: a, hostname: s, vips: [], ports: {}}\n"
		"  - {name: s2, namespace: b, hostname: s, vips: [], ports: {}, canonical: true}\n"
		"  - {name: s3, namespace: c, hostname: s, vips: [], ports: {}, visibility: "
		"Namespace}\n"
		"  - {name: t1, namespace: c, hostname: t, vips: [], ports: {}, visibility: "
		"Namespace}\n");

	(void)state;
	assert_true(str_eqc(mesh_service_by_name(m, STR("s"), STR("a"))->name, "s1"));
	assert_true(str_eqc(mesh_service_by_name(m, STR("s"), STR("c"))->name, "s3"));
	assert_true(str_eqc(mesh_service_by_name(m, STR("s"), STR("z"))->name, "s2"));
	assert_null(mesh_service_by_name(m, STR("t"), STR("a")));
	assert_non_null(mesh_service_by_name(m, STR("t"), (struct str){NULL, 0}));
	assert_null(mesh_service_by_name(m, STR("x"), STR("a")));
	assert_true(str_eqc(mesh_workload_by_host(m, STR("a"), STR("h"))->uid, "u1"));
	assert_true(str_eqc(mesh_workload_by_host(m, STR("b"), STR("h"))->uid, "u3"));
	assert_null(mesh_workload_by_host(m, STR("c"), STR("h")));
	assert_null(mesh_workload_by_host(m, STR("a"), STR("")));
	mesh_unref(m);
}

static void snapshot__objects_outlive_it_with_a_reference(void **state)
{
	struct mesh *m = mesh_from("workloads:\n" WL("u", "a", "workloadIps: [], services: {}"));
	struct workload *w = workload_ref(mesh_workload_by_uid(m, STR("u")));
	struct mesh *again = mesh_ref(m);

	(void)state;
	mesh_unref(m);
	assert_non_null(mesh_workload_by_uid(again, STR("u")));
	mesh_unref(again);
	assert_string_equal(w->identity, "spiffe://cluster.local/ns/ns1/sa/sa1");
	workload_unref(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workload_by_ip__ranking),
		cmocka_unit_test(local_workload__only_this_node),
		cmocka_unit_test(service_by_vip__ranking),
		cmocka_unit_test(endpoints__health_and_membership),
		cmocka_unit_test(builder__duplicates_are_errors),
		cmocka_unit_test(policies__by_name_and_scope),
		cmocka_unit_test(by_name__services_and_workloads),
		cmocka_unit_test(snapshot__objects_outlive_it_with_a_reference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
