/* SPDX-License-Identifier: Apache-2.0
 * test_pick.c: which endpoint of a service is taken (ztunnel-spec 4.4, 15.3).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/pick.h"

#define EP(name, where)                                                                            \
	"  - {uid: " name ", name: " name                                                          \
	", namespace: ns, workloadIps: [10.0.0.1], services: {ns/s.example: {80: 80}}, " where     \
	"}\n"

static void pick__locality_table(void **state)
{
	/* ztunnel-spec 4.4, 15.3 "Load balancing" */
	static const char prefs[] = "routingPreferences: [Network, Region, Zone]";
	static const struct {
		const char *title, *mode, *prefs, *endpoints, *want; /* allowed names */
	} rows[] = {
		{"strict without match", "Strict", prefs, EP("a", "locality: {region: other}"), ""},
		{"strict match", "Strict", prefs,
		 EP("a", "locality: {region: r, zone: z}") EP("b", "locality: {region: r}"), "a"},
		{"failover, no match: any", "Failover", "routingPreferences: [Region]",
		 EP("a", "locality: {region: x}") EP("b", "locality: {region: y}"), "ab"},
		{"failover exact", "Failover", prefs,
		 EP("a", "locality: {region: r, zone: z}")
			 EP("b", "locality: {region: r, zone: y}"),
		 "a"},
		{"failover region", "Failover", prefs,
		 EP("a", "locality: {region: r, zone: x}") EP("b", "locality: {region: r, zone: y}")
			 EP("c", "locality: {region: q}"),
		 "ab"},
		{"capacity 0 is never chosen", "Standard", "routingPreferences: []",
		 EP("a", "capacity: 0") EP("b", "capacity: 2"), "b"},
		{"all 0: none", "Standard", "routingPreferences: []", EP("a", "capacity: 0"), ""},
		{"standard: all", "Standard", "routingPreferences: []", EP("a", "") EP("b", ""),
		 "ab"},
		{"node", "Failover", "routingPreferences: [Node]",
		 EP("a", "node: n1") EP("b", "node: n2"), "a"},
		{"same network outranks everything", "Failover", prefs,
		 EP("a", "network: remote, locality: {region: r, zone: z}, networkGateway: "
			 "{destination: /10.2.2.2}") EP("b", "locality: {region: q}"),
		 "b"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port("10.1.0.1:80");
		char yaml[2048], seen[8] = "";
		struct mesh *m;
		struct workload *src;

		print_message("row: %s\n", rows[i].title);
		(void)snprintf(
			yaml, sizeof(yaml),
			"workloads:\n"
			"  - {uid: src, name: src, namespace: ns, workloadIps: [], services: "
			"{}, node: n1, locality: {region: r, zone: z}}\n%s"
			"services:\n"
			"  - {name: s, namespace: ns, hostname: s.example, vips: [/10.1.0.1], "
			"ports: {80: 80}, loadBalancer: {mode: %s, %s}}\n",
			rows[i].endpoints, rows[i].mode, rows[i].prefs);
		m = mesh_from(yaml);
		src = mesh_workload_by_uid(m, STR("src"));
		for (uint64_t random = 0; random < 12; random++) {
			struct route r;

			decide_outbound(m, src, STR(""), &to, random, &r);
			if (r.kind != ROUTE_REFUSE &&
			    memchr(seen, r.dst->name.p[0], sizeof(seen)) == NULL)
				seen[strlen(seen)] = r.dst->name.p[0];
		}
		assert_int_equal(strlen(seen), strlen(rows[i].want));
		for (const char *p = rows[i].want; *p != '\0'; p++)
			assert_non_null(strchr(seen, *p));
		mesh_unref(m);
	}
}

static void pick__rank_table(void **state)
{
	/* ztunnel-spec 4.4: the caller is in network "", region r, zone z, subzone s, node n1,
	 * cluster k1. Two endpoints; FAILOVER; which one is always chosen (a, b), or both (ab)? */
#define FAR "network: remote, networkGateway: {destination: /10.2.2.2}, "
	static const struct {
		const char *prefs, *a, *b, *want;
	} rows[] = {
		{"Region", "locality: {region: r}", "locality: {region: q}", "a"},
		{"Zone", "locality: {zone: q}", "locality: {zone: z}", "b"},
		{"Subzone", "locality: {subzone: s}", "locality: {subzone: q}", "a"},
		{"Node", "node: n2", "node: n1", "b"},
		{"Cluster", "clusterId: k1", "clusterId: k2", "a"},
		{"Network", "node: x", FAR "node: x", "a"},
		/* the walk stops at the first mismatch */
		{"Region, Zone", "locality: {region: q, zone: z}", "locality: {region: r, zone: q}",
		 "b"},
		{"Region, Zone", "locality: {region: q, zone: z}", "locality: {region: p, zone: q}",
		 "ab"},
		/* NETWORK first: a mismatch does not stop it */
		{"Network, Region, Zone", FAR "locality: {region: r, zone: z}",
		 FAR "locality: {region: r, zone: q}", "a"},
		{"Network, Region, Zone", FAR "locality: {region: q, zone: z}",
		 FAR "locality: {region: r, zone: q}", "b"},
		/* NETWORK first: a match outranks everything else, and locality still orders */
		{"Network, Region, Zone", FAR "locality: {region: r, zone: z}",
		 "locality: {region: q}", "b"},
		{"Network, Region, Zone", "locality: {region: r}", "locality: {region: q}", "a"},
		/* NETWORK later: an ordinary preference */
		{"Region, Network", "locality: {region: q}", FAR "locality: {region: r}", "b"},
		{"Region, Network", FAR "locality: {region: r}", "locality: {region: r}", "b"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		bool a = false, b = false;
		char yaml[2048];
		struct mesh *m;

		print_message("row: %s: %s | %s\n", rows[i].prefs, rows[i].a, rows[i].b);
		(void)snprintf(
			yaml, sizeof(yaml),
			"workloads:\n"
			"  - {uid: src, name: src, namespace: ns, workloadIps: [], services: {}, "
			"node: n1, clusterId: k1, locality: {region: r, zone: z, subzone: s}}\n"
			"  - {uid: a, name: a, namespace: ns, workloadIps: [10.0.0.1], services: "
			"{ns/s.example: {80: 80}}, %s}\n"
			"  - {uid: b, name: b, namespace: ns, workloadIps: [10.0.0.2], services: "
			"{ns/s.example: {80: 80}}, %s}\n"
			"services:\n"
			"  - {name: s, namespace: ns, hostname: s.example, vips: [], ports: {80: "
			"80}, loadBalancer: {mode: Failover, routingPreferences: [%s]}}\n",
			rows[i].a, rows[i].b, rows[i].prefs);
		m = mesh_from(yaml);
		for (uint64_t random = 0; random < 6; random++) {
			struct picked p;

			if (!pick_endpoint(m, mesh_service_by_host(m, STR("ns"), STR("s.example")),
					   mesh_workload_by_uid(m, STR("src")), 80, PICK_STANDARD,
					   random, &p))
				continue;
			a = a || p.wl->uid.p[0] == 'a';
			b = b || p.wl->uid.p[0] == 'b';
		}
		assert_int_equal(a, strchr(rows[i].want, 'a') != NULL);
		assert_int_equal(b, strchr(rows[i].want, 'b') != NULL);
		mesh_unref(m);
	}
}

static void pick__tunnel_needs_both(void **state)
{
	/* an application tunnel without a port maps nothing (ztunnel-spec 4.4) */
	struct mesh *m = mesh_from("workloads:\n  - {uid: a, name: a, namespace: ns, workloadIps: "
				   "[10.0.0.1], services: "
				   "{ns/s.example: {}}, applicationTunnel: {protocol: NONE}}\n"
				   "services:\n  - {name: s, namespace: ns, hostname: s.example, "
				   "vips: [], ports: {80: 0}}\n");
	struct picked p;

	(void)state;
	assert_false(pick_endpoint(m, mesh_service_by_host(m, STR("ns"), STR("s.example")),
				   mesh_workload_by_uid(m, STR("a")), 80, PICK_STANDARD, 0, &p));
	mesh_unref(m);
}

static void pick__weights(void **state)
{
	struct mesh *m = mesh_from("workloads:\n" EP("a", "capacity: 3") EP(
		"b", "capacity: 1") "services:\n  - {name: s, namespace: ns, hostname: s.example, "
				    "vips: [/10.1.0.1], ports: {80: 80}}\n");
	struct ip_port to = ip_port("10.1.0.1:80");
	int a = 0;

	(void)state;
	for (uint64_t random = 0; random < 400; random++) {
		struct route r;

		decide_outbound(m, mesh_workload_by_uid(m, STR("a")), STR(""), &to, random, &r);
		a += r.dst->name.p[0] == 'a';
	}
	assert_int_equal(a, 300);
	mesh_unref(m);
}

static void pick__ports(void **state)
{
	/* ztunnel-spec 4.4: endpoint 9090 > service 8080 > application tunnel 80 */
	static const struct {
		const char *endpoint, *service, *want;
	} rows[] = {
		{"services: {ns/s.example: {80: 9090}}", "80: 8080", "10.0.0.1:9090"},
		{"services: {ns/s.example: {}}", "80: 8080", "10.0.0.1:8080"},
		{"services: {ns/s.example: {}}, applicationTunnel: {protocol: NONE, port: 1}",
		 "80: 0", "10.0.0.1:80"},
		{"services: {ns/s.example: {}}", "80: 0", NULL},
		{"services: {ns/s.example: {80: 1234}}", "80: 0", "10.0.0.1:1234"},
	};
	struct ip_port to = ip_port("10.1.0.1:80");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char yaml[1024], text[IP_PORT_TEXT_MAX];
		struct route r;
		struct mesh *m;

		(void)snprintf(yaml, sizeof(yaml),
			       "workloads:\n  - {uid: a, name: a, namespace: ns, workloadIps: "
			       "[10.0.0.1], %s}\nservices:\n  - {name: s, namespace: ns, hostname: "
			       "s.example, vips: [/10.1.0.1], ports: {%s}}\n",
			       rows[i].endpoint, rows[i].service);
		m = mesh_from(yaml);
		decide_outbound(m, mesh_workload_by_uid(m, STR("a")), STR(""), &to, 0, &r);
		if (rows[i].want == NULL)
			assert_int_equal(r.kind, ROUTE_REFUSE);
		else
			assert_string_equal(ip_port_format(&r.dial, text), rows[i].want);
		mesh_unref(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pick__locality_table),
		cmocka_unit_test(pick__rank_table),
		cmocka_unit_test(pick__tunnel_needs_both),
		cmocka_unit_test(pick__weights),
		cmocka_unit_test(pick__ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
