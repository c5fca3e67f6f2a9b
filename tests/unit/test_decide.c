/* SPDX-License-Identifier: Apache-2.0
 * test_decide.c: where outbound connections go (ztunnel-spec 4.3-4.8, 15.3).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/decide.h"

static const char outbound_yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [127.0.0.1], services: {}, node: "
	"n1}\n"
	"  - {uid: plain, name: plain, namespace: ns, workloadIps: [10.0.0.2], services: {}}\n"
	"  - {uid: hb, name: hb, namespace: ns, serviceAccount: s, protocol: HBONE,\n"
	"     workloadIps: [10.0.0.3, 'fd00::3'], services: {ns/svc.example: {80: 8080}}}\n"
	"  - {uid: wp, name: wp, namespace: ns, workloadIps: [10.0.0.4], services: {},\n"
	"     waypoint: {destination: /10.0.0.9}, protocol: HBONE}\n"
	"  - {uid: wp6, name: wp6, namespace: ns, workloadIps: ['ff06::c3'], services: {},\n"
	"     waypoint: {destination: ns/gw.example}, protocol: HBONE}\n"
	"  - {uid: gw, name: gw, namespace: ns, workloadIps: [10.0.0.9], protocol: HBONE,\n"
	"     services: {ns/gw.example: {15008: 15008}}}\n"
	"  - {uid: far, name: far, namespace: ns, network: remote, workloadIps: [10.9.0.1],\n"
	"     services: {ns/far.example: {80: 80}, ns/mixed.example: {80: 80}}, protocol: HBONE}\n"
	"  - {uid: near, name: near, namespace: ns, workloadIps: [10.0.0.7], protocol: HBONE,\n"
	"     services: {ns/mixed.example: {80: 80}}}\n"
	"  - {uid: name, name: name, namespace: ns, hostname: h.example, workloadIps: [],\n"
	"     services: {ns/byname.example: {80: 80}}}\n"
	"  - {uid: lost, name: lost, namespace: ns, workloadIps: [], services: "
	"{ns/nowhere.example: "
	"{80: 80}}}\n"
	"  - {uid: six, name: six, namespace: ns, workloadIps: ['fd00::6'], services: "
	"{ns/only4.example: {80: 80}}}\n"
	"  - {uid: both, name: both, namespace: ns, workloadIps: [10.1.0.6], services: {}}\n"
	"services:\n"
	"  - {name: svc, namespace: ns, hostname: svc.example, vips: [/10.1.0.1], ports: {80: "
	"80},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/extra']}\n"
	"  - {name: empty, namespace: ns, hostname: empty.example, vips: [/10.1.0.2], ports: {80: "
	"80}}\n"
	"  - {name: viawp, namespace: ns, hostname: viawp.example, vips: [/10.1.0.3], ports: {80: "
	"80},\n"
	"     waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}}\n"
	"  - {name: pass, namespace: ns, hostname: pass.example, vips: [/1.2.3.5], ports: {80: "
	"80},\n"
	"     loadBalancer: {mode: Passthrough}}\n"
	"  - {name: far, namespace: ns, hostname: far.example, vips: [/10.1.0.4], ports: {80: "
	"80}}\n"
	"  - {name: mixed, namespace: ns, hostname: mixed.example, vips: [/10.1.0.5], ports: {80: "
	"80}}\n"
	"  - {name: shadow, namespace: ns, hostname: shadow.example, vips: [/10.1.0.6], ports: "
	"{80: 80},\n"
	"     waypoint: {destination: /10.0.0.9}}\n"
	"  - {name: weighted, namespace: ns, hostname: weighted.example, vips: [/10.1.0.7], ports: "
	"{80: 80},\n"
	"     weightedWaypoints: [{destination: {destination: /10.0.0.9}, weight: 5}]}\n"
	"  - {name: v6only, namespace: ns, hostname: v6only.example, vips: [/10.1.0.8], ports: "
	"{80: 80},\n"
	"     ipFamilies: IPv6}\n"
	"  - {name: gw, namespace: ns, hostname: gw.example, vips: [], ports: {15008: 15008}}\n"
	"  - {name: byname, namespace: ns, hostname: byname.example, vips: [/10.1.0.9], ports: "
	"{80: 80}}\n"
	"  - {name: nowhere, namespace: ns, hostname: nowhere.example, vips: [/10.1.0.10], ports: "
	"{80: 80}}\n"
	"  - {name: only4, namespace: ns, hostname: only4.example, vips: [/10.1.0.11], ports: "
	"{80: 80},\n"
	"     ipFamilies: IPv4}\n";

static void outbound__table(void **state)
{
	static const struct {
		const char *title, *src, *to;
		enum route_kind kind;
		const char *dial, *authority, *error;
	} rows[] = {
		{"15.3 unknown", "src", "1.2.3.4:80", ROUTE_PASSTHROUGH, "1.2.3.4:80", NULL, NULL},
		{"4.3-9 workload NONE", "src", "10.0.0.2:80", ROUTE_PASSTHROUGH, "10.0.0.2:80",
		 NULL, NULL},
		{"4.3-9 workload HBONE", "src", "10.0.0.3:80", ROUTE_HBONE, "10.0.0.3:15008",
		 "10.0.0.3:80", NULL},
		{"15.3 dual stack keeps the family", "src", "[fd00::3]:80", ROUTE_HBONE,
		 "[fd00::3]:15008", "[fd00::3]:80", NULL},
		{"4.3 service to endpoint", "src", "10.1.0.1:80", ROUTE_HBONE, "10.0.0.3:15008",
		 "10.0.0.3:8080", NULL},
		{"4.4 port the service lacks", "src", "10.1.0.1:81", ROUTE_REFUSE, NULL, NULL,
		 "no healthy upstream: 10.1.0.1:81"},
		{"15.3 service without endpoints", "src", "10.1.0.2:80", ROUTE_REFUSE, NULL, NULL,
		 "no healthy upstream: 10.1.0.2:80"},
		{"4.3-5 service waypoint", "src", "10.1.0.3:80", ROUTE_HBONE, "10.0.0.9:15008",
		 "10.1.0.3:80", NULL},
		{"4.3-5 weighted waypoint", "src", "10.1.0.7:80", ROUTE_HBONE, "10.0.0.9:15008",
		 "10.1.0.7:80", NULL},
		{"17-7 a workload does not hide it", "src", "10.1.0.6:80", ROUTE_HBONE,
		 "10.0.0.9:15008", "10.1.0.6:80", NULL},
		{"4.3-8 workload waypoint", "src", "10.0.0.4:80", ROUTE_HBONE, "10.0.0.9:15008",
		 "10.0.0.4:80", NULL},
		{"4.5 waypoint by host", "src", "[ff06::c3]:80", ROUTE_HBONE, "10.0.0.9:15008",
		 "[ff06::c3]:80", NULL},
		{"4.3-8 the waypoint itself", "gw", "10.0.0.4:80", ROUTE_HBONE, "10.0.0.4:15008",
		 "10.0.0.4:80", NULL},
		{"4.3-8 the waypoint itself, by host", "gw", "[ff06::c3]:80", ROUTE_HBONE,
		 "[ff06::c3]:15008", "[ff06::c3]:80", NULL},
		{"4.3-6 mode PASSTHROUGH", "src", "1.2.3.5:80", ROUTE_PASSTHROUGH, "1.2.3.5:80",
		 NULL, NULL},
		{"4.4 remote without gateway is no candidate", "src", "10.1.0.4:80", ROUTE_HBONE,
		 NULL, NULL, NULL},
		{"4.6-3 no address and no hostname", "src", "10.1.0.10:80", ROUTE_REFUSE, NULL,
		 NULL, "no healthy upstream: 10.1.0.10:80"},
		{"4.6-3 no address that the service allows", "src", "10.1.0.11:80", ROUTE_REFUSE,
		 NULL, NULL, "no valid routing destination for workload: six"},
		{"one that can be reached, not one without a gateway", "src", "10.1.0.5:80",
		 ROUTE_HBONE, "10.0.0.7:15008", "10.0.0.7:80", NULL},
	};
	struct mesh *m = mesh_from(outbound_yaml);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);
		struct workload *src = mesh_workload_by_uid(m, str_of(rows[i].src));
		struct route r;
		char text[IP_PORT_TEXT_MAX];

		print_message("row: %s\n", rows[i].title);
		for (uint64_t random = 0; random < 4; random++) {
			decide_outbound(m, src, STR(""), &to, random, &r);
			if (rows[i].kind == ROUTE_HBONE && rows[i].dial == NULL) {
				/* the only endpoint is on another network: refused, not dialled */
				assert_int_equal(r.kind, ROUTE_REFUSE);
				assert_non_null(strstr(r.error, "no valid routing destination"));
				continue;
			}
			assert_int_equal(r.kind, rows[i].kind);
			if (rows[i].dial != NULL)
				assert_string_equal(ip_port_format(&r.dial, text), rows[i].dial);
			if (rows[i].authority != NULL)
				assert_string_equal(ip_port_format(&r.authority, text),
						    rows[i].authority);
			if (rows[i].error != NULL)
				assert_non_null(strstr(r.error, rows[i].error));
		}
	}
	mesh_unref(m);
}

static void outbound__identities(void **state)
{
	/* ztunnel-spec 4.8 */
	struct mesh *m = mesh_from(outbound_yaml);
	struct workload *src = mesh_workload_by_uid(m, STR("src"));
	struct ip_port direct = ip_port("10.0.0.3:80"), vip = ip_port("10.1.0.1:80");
	struct route r;

	(void)state;
	decide_outbound(m, src, STR(""), &direct, 0, &r);
	assert_int_equal(r.nidentities, 1);
	assert_string_equal(r.identities[0], "spiffe://cluster.local/ns/ns/sa/s");
	decide_outbound(m, src, STR(""), &vip, 0, &r);
	assert_int_equal(r.nidentities, 2);
	assert_string_equal(r.identities[0], "spiffe://cluster.local/ns/ns/sa/s");
	assert_string_equal(r.identities[1], "spiffe://cluster.local/ns/ns/sa/extra");
	assert_true(str_eqc(r.service->name, "svc"));
	mesh_unref(m);
}

static const char waypoint_yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [10.0.0.1], services: {}}\n"
	"  - {uid: w1, name: w1, namespace: ns, serviceAccount: wp, workloadIps: [10.0.0.11, "
	"'fd00::11'],\n"
	"     protocol: HBONE, services: {ns/w1.example: {15009: 15008}}}\n"
	"  - {uid: w2, name: w2, namespace: ns, serviceAccount: wp2, workloadIps: [10.0.0.12],\n"
	"     protocol: HBONE, services: {ns/w2.example: {}}, applicationTunnel: {protocol: PROXY, "
	"port: 15088}}\n"
	"  - {uid: far, name: far, namespace: ns, network: remote, workloadIps: [10.0.0.13],\n"
	"     protocol: HBONE, services: {ns/far.example: {15008: 15008}}}\n"
	"  - {uid: w3, name: w3, namespace: ns, workloadIps: [10.0.0.15], protocol: HBONE,\n"
	"     services: {ns/w3.example: {15008: 15021}}, applicationTunnel: {protocol: PROXY}}\n"
	"  - {uid: wl, name: wl, namespace: ns, hostname: wl.example, workloadIps: [10.0.0.14],\n"
	"     protocol: HBONE, services: {}}\n"
	"services:\n"
	"  - {name: w1, namespace: ns, hostname: w1.example, vips: [/10.2.0.1], ports: {15009: "
	"15009},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/extra']}\n"
	"  - {name: w2, namespace: ns, hostname: w2.example, vips: [/10.2.0.2], ports: {80: 80}}\n"
	"  - {name: w3, namespace: ns, hostname: w3.example, vips: [], ports: {80: 80}}\n"
	"  - {name: none, namespace: ns, hostname: none.example, vips: [/10.2.0.3], ports: {15008: "
	"15008}}\n"
	"  - {name: far, namespace: ns, hostname: far.example, vips: [remote/10.2.0.4], ports: "
	"{15008: 15008}}\n"
	"  - {name: open, namespace: ns, hostname: open.example, vips: [/10.2.0.5], ports: {15008: "
	"15008},\n"
	"     loadBalancer: {mode: Passthrough}}\n";

static void outbound__waypoint_table(void **state)
{
	/* ztunnel-spec 4.3 steps 5 and 8, 4.5: the service 10.1.0.1 with one waypoint or another */
#define TO(ref)		 "waypoint: {destination: " ref "}"
#define VIA(ref, weight) "{destination: {destination: " ref "}, weight: " weight "}"
	static const struct {
		const char *title, *service, *to, *dial, *error;
	} rows[] = {
		{"by address of a service, mapped port",
		 "waypoint: {destination: /10.2.0.1, hboneMtlsPort: 15009}", "10.1.0.1:80",
		 "10.0.0.11:15008", NULL},
		{"by name, mapped port",
		 "waypoint: {destination: ns/w1.example, hboneMtlsPort: 15009}", "10.1.0.1:80",
		 "10.0.0.11:15008", NULL},
		{"by name: family of the connection",
		 "waypoint: {destination: ns/w1.example, hboneMtlsPort: 15009}", "[fd00::1]:80",
		 "[fd00::11]:15008", NULL},
		{"by address: family of the reference",
		 "waypoint: {destination: /10.2.0.1, hboneMtlsPort: 15009}", "[fd00::1]:80",
		 "10.0.0.11:15008", NULL},
		{"by address of a workload, port unchanged",
		 "waypoint: {destination: /10.0.0.11, hboneMtlsPort: 15010}", "10.1.0.1:80",
		 "10.0.0.11:15010", NULL},
		{"port that the service lacks", TO("ns/w1.example"), "10.1.0.1:80", NULL,
		 "unknown waypoint: ns/w1.example"},
		{"port that the service lacks, application tunnel", TO("ns/w2.example"),
		 "10.1.0.1:80", "10.0.0.12:15008", NULL},
		{"port that the service lacks, application tunnel and a mapping",
		 TO("ns/w3.example"), "10.1.0.1:80", "10.0.0.15:15021", NULL},
		{"nobody behind it", TO("ns/none.example"), "10.1.0.1:80", NULL,
		 "unknown waypoint: ns/none.example"},
		{"unknown address", TO("/10.2.9.9"), "10.1.0.1:80", NULL,
		 "unknown waypoint: /10.2.9.9"},
		{"unknown name", TO("ns/gone.example"), "10.1.0.1:80", NULL,
		 "unknown waypoint: ns/gone.example"},
		{"other network by address", TO("other/10.2.0.1"), "10.1.0.1:80", NULL,
		 "unknown waypoint: other/10.2.0.1"},
		{"waypoint on another network, without a gateway", TO("ns/far.example"),
		 "10.1.0.1:80", NULL, "no valid routing destination for workload: far"},
		{"by the hostname of a workload", TO("ns/wl.example"), "10.1.0.1:80",
		 "10.0.0.14:15008", NULL},
		{"a waypoint that is no address of ours", TO("ns/open.example"), "10.1.0.1:80",
		 NULL, "unknown waypoint: ns/open.example"},
		{"mode PASSTHROUGH does not go around it",
		 TO("/10.0.0.11") ", loadBalancer: {mode: Passthrough}", "10.1.0.1:80",
		 "10.0.0.11:15008", NULL},
		{"weight 0 is never drawn",
		 "weightedWaypoints: [" VIA("/10.2.9.9", "0") ", " VIA("/10.0.0.11", "3") "]",
		 "10.1.0.1:80", "10.0.0.11:15008", NULL},
		{"all weights 0: the plain one",
		 "weightedWaypoints: [" VIA("/10.2.9.9", "0") "], " TO("/10.0.0.11"), "10.1.0.1:80",
		 "10.0.0.11:15008", NULL},
		{"weights before the plain one",
		 "weightedWaypoints: [" VIA("/10.0.0.11", "1") "], " TO("/10.2.9.9"), "10.1.0.1:80",
		 "10.0.0.11:15008", NULL},
	};
	char yaml[4096], text[IP_PORT_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);
		struct mesh *m;

		print_message("row: %s\n", rows[i].title);
		(void)snprintf(
			yaml, sizeof(yaml),
			"%s  - {name: s, namespace: ns, hostname: s.example, vips: [/10.1.0.1, "
			"/fd00::1], ports: {80: 80}, %s}\n",
			waypoint_yaml, rows[i].service);
		m = mesh_from(yaml);
		for (uint64_t random = 0; random < 8; random++) {
			struct route r;

			decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to,
					random, &r);
			if (rows[i].dial == NULL) {
				assert_int_equal(r.kind, ROUTE_REFUSE);
				if (strstr(r.error, rows[i].error) == NULL)
					fail_msg("error is: %s", r.error);
				continue;
			}
			assert_int_equal(r.kind, ROUTE_HBONE);
			assert_string_equal(ip_port_format(&r.dial, text), rows[i].dial);
			assert_true(r.via_waypoint);
			assert_true(ip_port_eq(&r.authority, &to));
			assert_true(str_eqc(r.service->name, "s"));
		}
		mesh_unref(m);
	}
}

static void outbound__waypoint_identities_and_weights(void **state)
{
	struct ip_port to = ip_port("10.1.0.1:80");
	char yaml[4096];
	int first = 0;
	struct route r;
	struct mesh *m;

	(void)state;
	(void)snprintf(
		yaml, sizeof(yaml),
		"%s  - {name: s, namespace: ns, hostname: s.example, vips: [/10.1.0.1], ports: "
		"{80: 80},\n"
		"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/not-the-waypoint'],\n"
		"     weightedWaypoints: [{destination: {destination: ns/w1.example, "
		"hboneMtlsPort: 15009}, weight: "
		"90},\n"
		"                         " VIA("ns/w2.example", "10") "]}\n",
		waypoint_yaml);
	m = mesh_from(yaml);
	for (uint64_t random = 0; random < 1000; random++) {
		decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, random, &r);
		assert_int_equal(r.kind, ROUTE_HBONE);
		first += r.dst->uid.p[1] == '1';
		assert_int_equal(r.nidentities, r.dst->uid.p[1] == '1' ? 2 : 1);
		assert_string_equal(r.identities[0], r.dst->identity);
		if (r.nidentities == 2)
			assert_string_equal(r.identities[1],
					    "spiffe://cluster.local/ns/ns/sa/extra");
	}
	assert_int_equal(first, 900);
	mesh_unref(m);
}

static const char service_yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [10.0.0.1], services: {}, node: "
	"n1,\n"
	"     protocol: HBONE, waypoint: {destination: /10.0.0.9}}\n"
	"  - {uid: gw, name: gw, namespace: ns, workloadIps: [10.0.0.9], protocol: HBONE, "
	"services: "
	"{}}\n"
	"  - {uid: plain, name: plain, namespace: ns, workloadIps: [10.0.0.2], services: {}}\n"
	"  - {uid: same, name: same, namespace: ns, workloadIps: [10.0.0.3], services: {}, node: "
	"n1,\n"
	"     protocol: HBONE}\n"
	"  - {uid: both, name: both, namespace: ns, workloadIps: [10.0.0.4, 'fd00::4'],\n"
	"     services: {ns/v4.example: {80: 80}, ns/v6.example: {80: 80}, ns/dual.example: {80: "
	"80}, ns/auto.example: {80: 80}}}\n"
	"  - {uid: named, name: named, namespace: ns, workloadIps: [10.0.0.5], services: "
	"{ns/named.example: {80: 1234}}}\n"
	"  - {uid: other, name: other, namespace: ns, workloadIps: [10.0.0.6], services: "
	"{ns/named.example: {81: 1}}}\n"
	"  - {uid: host1, name: host1, namespace: ns, workloadIps: [10.9.0.1], networkMode: "
	"HostNetwork,\n"
	"     services: {ns/host.example: {80: 8080}}}\n"
	"  - {uid: host2, name: host2, namespace: ns, workloadIps: [10.9.0.1], networkMode: "
	"HostNetwork,\n"
	"     services: {}}\n"
	"  - {uid: range, name: range, namespace: ns, workloadIps: [10.0.0.7], services: "
	"{ns/range.example: {80: 80}}}\n"
	"  - {uid: headless, name: headless, namespace: ns, workloadIps: [10.0.0.8],\n"
	"     services: {ns/headless.example: {80: 8080}}}\n"
	"  - {uid: notready, name: notready, namespace: ns, workloadIps: [10.0.0.10], status: "
	"Unhealthy,\n"
	"     services: {ns/early.example: {80: 80}, ns/late.example: {80: 80}}}\n"
	"services:\n"
	"  - {name: v4, namespace: ns, hostname: v4.example, vips: [/10.1.0.1, /fd01::1], ports: "
	"{80: 80}, ipFamilies: IPv4}\n"
	"  - {name: v6, namespace: ns, hostname: v6.example, vips: [/10.1.0.2, /fd01::2], ports: "
	"{80: 80}, ipFamilies: IPv6}\n"
	"  - {name: dual, namespace: ns, hostname: dual.example, vips: [/10.1.0.3, /fd01::3], "
	"ports: "
	"{80: 80}, ipFamilies: Dual}\n"
	"  - {name: auto, namespace: ns, hostname: auto.example, vips: [/10.1.0.4, /fd01::4], "
	"ports: "
	"{80: 80}}\n"
	"  - {name: named, namespace: ns, hostname: named.example, vips: [/10.1.0.5], ports: {80: "
	"0}}\n"
	"  - {name: host, namespace: ns, hostname: host.example, vips: [/10.1.0.6], ports: {80: "
	"80}}\n"
	"  - {name: range, namespace: ns, hostname: range.example, vips: [], cidrVips: "
	"[/10.2.0.0/16], ports: {80: 80}}\n"
	"  - {name: open, namespace: ns, hostname: open.example, vips: [], cidrVips: "
	"[/10.3.0.0/16], ports: {80: 80}, loadBalancer: {mode: Passthrough}}\n"
	"  - {name: headless, namespace: ns, hostname: headless.example, vips: [], ports: {80: "
	"8080}, waypoint: {destination: /10.0.0.9}}\n"
	"  - {name: early, namespace: ns, hostname: early.example, vips: [/10.1.0.7], ports: {80: "
	"80}, loadBalancer: {healthPolicy: AllowAll}}\n"
	"  - {name: late, namespace: ns, hostname: late.example, vips: [/10.1.0.8], ports: {80: "
	"80}}\n";

static void outbound__service_table(void **state)
{
	static const struct {
		const char *title, *to;
		enum route_kind kind;
		const char *dial, *error;
	} rows[] = {
		{"15.3 the source's own waypoint is ignored", "10.0.0.2:80", ROUTE_PASSTHROUGH,
		 "10.0.0.2:80", NULL},
		{"4.3 a destination on the same node is tunnelled", "10.0.0.3:80", ROUTE_HBONE,
		 "10.0.0.3:15008", NULL},
		{"4.3 the source itself is reached through its waypoint", "10.0.0.1:80",
		 ROUTE_HBONE, "10.0.0.9:15008", NULL},
		{"15.3 ip_families v4-only, v4 client", "10.1.0.1:80", ROUTE_PASSTHROUGH,
		 "10.0.0.4:80", NULL},
		{"15.3 ip_families v4-only, v6 client", "[fd01::1]:80", ROUTE_PASSTHROUGH,
		 "10.0.0.4:80", NULL},
		{"15.3 ip_families v6-only, v4 client", "10.1.0.2:80", ROUTE_PASSTHROUGH,
		 "[fd00::4]:80", NULL},
		{"15.3 ip_families dual, v4 client", "10.1.0.3:80", ROUTE_PASSTHROUGH,
		 "10.0.0.4:80", NULL},
		{"15.3 ip_families dual, v6 client", "[fd01::3]:80", ROUTE_PASSTHROUGH,
		 "[fd00::4]:80", NULL},
		{"4.6 ip_families automatic, v6 client", "[fd01::4]:80", ROUTE_PASSTHROUGH,
		 "[fd00::4]:80", NULL},
		{"15.3 named port: only who maps it", "10.1.0.5:80", ROUTE_PASSTHROUGH,
		 "10.0.0.5:1234", NULL},
		{"15.3 host network, by the service", "10.1.0.6:80", ROUTE_PASSTHROUGH,
		 "10.9.0.1:8080", NULL},
		{"15.3 host network, by the node's address", "10.9.0.1:80", ROUTE_PASSTHROUGH,
		 "10.9.0.1:80", NULL},
		{"4.2 a range of addresses", "10.2.3.4:80", ROUTE_PASSTHROUGH, "10.0.0.7:80", NULL},
		{"4.2 a range, a port that it lacks", "10.2.3.4:81", ROUTE_REFUSE, NULL,
		 "no healthy upstream: 10.2.3.4:81"},
		{"4.2 a range, mode PASSTHROUGH", "10.3.3.4:443", ROUTE_PASSTHROUGH, "10.3.3.4:443",
		 NULL},
		{"headless: the pod's own address, without the service's waypoint", "10.0.0.8:8080",
		 ROUTE_PASSTHROUGH, "10.0.0.8:8080", NULL},
		{"5.3 publishNotReadyAddresses", "10.1.0.7:80", ROUTE_PASSTHROUGH, "10.0.0.10:80",
		 NULL},
		{"4.1 not ready", "10.1.0.8:80", ROUTE_REFUSE, NULL,
		 "no healthy upstream: 10.1.0.8:80"},
	};
	struct mesh *m = mesh_from(service_yaml);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);

		print_message("row: %s\n", rows[i].title);
		for (uint64_t random = 0; random < 8; random++) {
			char text[IP_PORT_TEXT_MAX];
			struct route r;

			decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to,
					random, &r);
			assert_int_equal(r.kind, rows[i].kind);
			if (rows[i].dial != NULL)
				assert_string_equal(ip_port_format(&r.dial, text), rows[i].dial);
			if (rows[i].error != NULL)
				assert_non_null(strstr(r.error, rows[i].error));
			if (strcmp(rows[i].to, "10.9.0.1:80") == 0)
				assert_null(r.dst);
		}
	}
	mesh_unref(m);
}

static const char network_yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [127.0.0.1], services: {}}\n"
	"  - {uid: far, name: far, namespace: ns, network: remote, workloadIps: [],\n"
	"     protocol: HBONE, services: {ns/example.com: {80: 80}, ns/mixed.com: {80: 80}, "
	"ns/nosan.com: {80: 80}, 'ns/*.wild.com': {80: 80}}, FAR}\n"
	"  - {uid: wpfar, name: wpfar, namespace: ns, network: remote, workloadIps: [],\n"
	"     protocol: HBONE, services: {ns/wp.com: {15008: 15008}}, FAR}\n"
	"  - {uid: near, name: near, namespace: ns, workloadIps: [127.0.0.2], protocol: HBONE,\n"
	"     services: {ns/mixed.com: {80: 8080}}, NEAR}\n"
	"  - {uid: gwip, name: gwip, namespace: istio, serviceAccount: gw, network: remote,\n"
	"     workloadIps: [10.22.1.1], services: {}}\n"
	"  - {uid: gwpod, name: gwpod, namespace: istio, serviceAccount: gw, workloadIps: "
	"[127.0.0.5],\n"
	"     services: {istio/gw.com: {15009: 15008}}}\n"
	"  - {uid: gwname, name: gwname, namespace: istio, serviceAccount: gw, network: remote,\n"
	"     hostname: lb.com, workloadIps: [], services: {}}\n"
	"services:\n"
	"  - {name: example, namespace: ns, hostname: example.com, vips: [/10.1.0.1], ports: {80: "
	"80},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/far', "
	"'spiffe://cluster.local/ns/ns/sa/far2'], SERVICE}\n"
	"  - {name: mixed, namespace: ns, hostname: mixed.com, vips: [/10.1.0.2], ports: {80: "
	"80},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/far'],\n"
	"     loadBalancer: {mode: Failover, routingPreferences: [Network]}}\n"
	"  - {name: nosan, namespace: ns, hostname: nosan.com, vips: [/10.1.0.3], ports: {80: "
	"80}}\n"
	"  - {name: wp, namespace: ns, hostname: wp.com, vips: [/10.1.0.4], ports: {15008: "
	"15008},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/waypoint']}\n"
	"  - {name: wild, namespace: ns, hostname: '*.wild.com', vips: [/10.1.0.5], ports: {80: "
	"80},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/far']}\n"
	"  - {name: gw, namespace: istio, hostname: gw.com, vips: [/10.1.0.9], ports: {15009: "
	"15009},\n"
	"     subjectAltNames: ['spiffe://cluster.local/ns/istio/sa/gw-san']}\n";

/* Puts @far, @near, @service in the places of their names; each may be empty. */
static void network_text(char *out, size_t cap, const char *far, const char *near,
			 const char *service)
{
	const struct {
		const char *mark, *text;
	} t[] = {{", FAR", far}, {", NEAR", near}, {", SERVICE", service}};
	size_t n = 0;

	for (const char *p = network_yaml; *p != '\0';) {
		const char *text = NULL;
		size_t skip = 1;

		for (size_t i = 0; i < ARRAY_LEN(t) && text == NULL; i++)
			if (strncmp(p, t[i].mark, strlen(t[i].mark)) == 0) {
				text = t[i].text;
				skip = strlen(t[i].mark);
			}
		if (text == NULL)
			n += (size_t)snprintf(out + n, cap - n, "%c", *p);
		else if (*text != '\0')
			n += (size_t)snprintf(out + n, cap - n, ", %s", text);
		assert_true(n < cap);
		p += skip;
	}
}

#define GW_IP	"networkGateway: {destination: remote/10.22.1.1, hboneMtlsPort: 15009}"
#define GW_NAME "networkGateway: {destination: istio/gw.com, hboneMtlsPort: 15009}"
#define GW_LB	"networkGateway: {destination: istio/lb.com, hboneMtlsPort: 15009}"

static void outbound__network_table(void **state)
{
	/* ztunnel-spec 4.3 steps 5 and 7, 4.5, 4.7, 15.3 */
	static const struct {
		const char *title, *far, *near, *service, *to;
		enum route_kind kind;
		const char *dial, *lookup, *gateway, *error;
	} rows[] = {
		{"15.3 without a gateway", "", "", "", "10.1.0.1:80", ROUTE_REFUSE, NULL, NULL,
		 NULL, "no healthy upstream: 10.1.0.1:80"},
		{"15.3 gateway by address", GW_IP, "", "", "10.1.0.1:80", ROUTE_DOUBLE_HBONE,
		 "10.22.1.1:15009", NULL, "gwip", NULL},
		{"15.3 gateway by hostname, mapped port", GW_NAME, "", "", "10.1.0.1:80",
		 ROUTE_DOUBLE_HBONE, "127.0.0.5:15008", NULL, "gwpod", NULL},
		{"15.3 waypoint on the other network", GW_IP, "",
		 "waypoint: {destination: ns/wp.com}", "10.1.0.1:80", ROUTE_DOUBLE_HBONE,
		 "10.22.1.1:15009", NULL, "gwip", NULL},
		{"15.3 FAILOVER [NETWORK], local one healthy", GW_IP, "", "", "10.1.0.2:80",
		 ROUTE_HBONE, "127.0.0.2:15008", NULL, NULL, NULL},
		{"15.3 FAILOVER [NETWORK], local one unhealthy", GW_IP, "status: Unhealthy", "",
		 "10.1.0.2:80", ROUTE_DOUBLE_HBONE, "10.22.1.1:15009", NULL, "gwip", NULL},
		{"4.5 gateway that is only a name", GW_LB, "", "", "10.1.0.1:80",
		 ROUTE_DOUBLE_HBONE, NULL, "lb.com", "gwname", NULL},
		{"4.5 gateway that nobody knows, by address",
		 "networkGateway: {destination: remote/10.22.9.9}", "", "", "10.1.0.1:80",
		 ROUTE_REFUSE, NULL, NULL, NULL, "unknown network gateway: remote/10.22.9.9"},
		{"4.5 gateway on a network of its own address",
		 "networkGateway: {destination: /10.22.1.1}", "", "", "10.1.0.1:80", ROUTE_REFUSE,
		 NULL, NULL, NULL, "unknown network gateway: /10.22.1.1"},
		{"4.5 gateway that nobody knows, by name",
		 "networkGateway: {destination: istio/none.com}", "", "", "10.1.0.1:80",
		 ROUTE_REFUSE, NULL, NULL, NULL, "unknown network gateway: istio/none.com"},
		{"4.5 port that the gateway's service lacks",
		 "networkGateway: {destination: istio/gw.com, hboneMtlsPort: 15010}", "", "",
		 "10.1.0.1:80", ROUTE_REFUSE, NULL, NULL, NULL,
		 "unknown network gateway: istio/gw.com"},
		{"4.7 nobody may answer", GW_IP, "", "", "10.1.0.3:80", ROUTE_REFUSE, NULL, NULL,
		 NULL, "no service says who may answer"},
		{"4.7 a name that is no authority", GW_IP, "", "", "10.1.0.5:80", ROUTE_REFUSE,
		 NULL, NULL, NULL, "service name *.wild.com"},
	};
	char yaml[8192], text[IP_PORT_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);
		struct mesh *m;

		print_message("row: %s\n", rows[i].title);
		network_text(yaml, sizeof(yaml), rows[i].far, rows[i].near, rows[i].service);
		m = mesh_from(yaml);
		for (uint64_t random = 0; random < 8; random++) {
			struct route r;

			decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to,
					random, &r);
			if (r.kind != rows[i].kind)
				fail_msg("kind %d: %s", r.kind, r.error);
			if (rows[i].error != NULL && strstr(r.error, rows[i].error) == NULL)
				fail_msg("error is: %s", r.error);
			if (rows[i].dial != NULL)
				assert_string_equal(ip_port_format(&r.dial, text), rows[i].dial);
			if (rows[i].lookup != NULL) {
				assert_true(str_eqc(r.lookup, rows[i].lookup));
				assert_int_equal(r.dial.ip.len, 0);
				assert_int_equal(r.dial.port, 15009);
			}
			if (r.kind != ROUTE_DOUBLE_HBONE)
				continue;
			assert_true(str_eqc(r.dst->uid, rows[i].gateway));
			assert_int_equal(r.authority.ip.len, 0); /* it is the service's name */
			assert_int_equal(r.authority.port, 80);
			assert_true(str_eqc(r.service->hostname,
					    rows[i].near[0] != '\0' ? "mixed.com" : "example.com"));
		}
		mesh_unref(m);
	}
}

static void outbound__network_identities(void **state)
{
	/* ztunnel-spec 4.7: outside the gateway's, inside those of the service that gave us the
	 * workload: its own, or its waypoint's */
	struct ip_port to = ip_port("10.1.0.1:80");
	char yaml[8192];
	struct route r;
	struct mesh *m;

	(void)state;
	network_text(yaml, sizeof(yaml), GW_NAME, "", "");
	m = mesh_from(yaml);
	decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, 0, &r);
	assert_int_equal(r.kind, ROUTE_DOUBLE_HBONE);
	assert_int_equal(r.nidentities, 2);
	assert_string_equal(r.identities[0], "spiffe://cluster.local/ns/istio/sa/gw");
	assert_string_equal(r.identities[1], "spiffe://cluster.local/ns/istio/sa/gw-san");
	assert_int_equal(r.inner->nsans, 2);
	assert_true(str_eqc(r.inner->subject_alt_names[0], "spiffe://cluster.local/ns/ns/sa/far"));
	mesh_unref(m);
	network_text(yaml, sizeof(yaml), GW_IP, "", "waypoint: {destination: ns/wp.com}");
	m = mesh_from(yaml);
	decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, 0, &r);
	assert_int_equal(r.nidentities, 1);
	assert_true(str_eqc(r.inner->hostname, "wp.com"));
	assert_true(str_eqc(r.service->hostname, "example.com"));
	mesh_unref(m);
}

static const char name_yaml[] =
	"workloads:\n"
	"  - {uid: src, name: src, namespace: ns, workloadIps: [127.0.0.1], services: {}}\n"
	"  - {uid: plain, name: plain, namespace: ns, hostname: h.example, workloadIps: [],\n"
	"     services: {ns/plain.example: {80: 8080}}}\n"
	"  - {uid: hb, name: hb, namespace: ns, hostname: h.example, workloadIps: [],\n"
	"     protocol: HBONE, services: {ns/hb.example: {80: 8080}}}\n"
	"  - {uid: six, name: six, namespace: ns, hostname: h.example, workloadIps: ['fd00::6'],\n"
	"     services: {ns/four.example: {80: 8080}}}\n"
	"services:\n"
	"  - {name: plain, namespace: ns, hostname: plain.example, vips: [/10.1.0.1], ports: {80: "
	"80}}\n"
	"  - {name: hb, namespace: ns, hostname: hb.example, vips: [/10.1.0.2], ports: {80: 80}}\n"
	"  - {name: four, namespace: ns, hostname: four.example, vips: [/10.1.0.3], ports: {80: "
	"80},\n"
	"     ipFamilies: IPv4}\n"
	"  - {name: viawp, namespace: ns, hostname: viawp.example, vips: [/10.1.0.4], ports: {80: "
	"80},\n"
	"     waypoint: {destination: ns/h.example}}\n";

static void outbound__lookup_table(void **state)
{
	/* ztunnel-spec 4.6 step 4: the name is looked up, and then the route is complete */
	static const struct {
		const char *title, *to, *answer[3];
		enum route_kind kind;
		const char *dial, *authority;
	} rows[] = {
		{"plain", "10.1.0.1:80", {"192.0.2.1"}, ROUTE_PASSTHROUGH, "192.0.2.1:8080", NULL},
		{"family of the connection first",
		 "10.1.0.1:80",
		 {"2001:db8::1", "192.0.2.1"},
		 ROUTE_PASSTHROUGH,
		 "192.0.2.1:8080",
		 NULL},
		{"the other one if it must be",
		 "10.1.0.1:80",
		 {"2001:db8::1"},
		 ROUTE_PASSTHROUGH,
		 "[2001:db8::1]:8080",
		 NULL},
		{"HBONE",
		 "10.1.0.2:80",
		 {"192.0.2.1"},
		 ROUTE_HBONE,
		 "192.0.2.1:15008",
		 "192.0.2.1:8080"},
		{"an address that the service does not allow",
		 "10.1.0.3:80",
		 {"192.0.2.1"},
		 ROUTE_PASSTHROUGH,
		 "192.0.2.1:8080",
		 NULL},
		{"waypoint",
		 "10.1.0.4:80",
		 {"192.0.2.1"},
		 ROUTE_HBONE,
		 "192.0.2.1:15008",
		 "10.1.0.4:80"},
	};
	struct mesh *m = mesh_from(name_yaml);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);
		struct ip_addr v[3];
		size_t n = 0;

		print_message("row: %s\n", rows[i].title);
		while (n < 3 && rows[i].answer[n] != NULL) {
			v[n] = ip(rows[i].answer[n]);
			n++;
		}
		for (uint64_t random = 0; random < 5; random++) {
			char text[IP_PORT_TEXT_MAX];
			struct route r;

			decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to,
					random, &r);
			assert_true(str_eqc(r.lookup, "h.example"));
			assert_int_equal(r.dial.ip.len, 0);
			decide_resolved(&r, v, n, &to.ip, random);
			assert_int_equal(r.lookup.n, 0);
			assert_int_equal(r.kind, rows[i].kind);
			assert_string_equal(ip_port_format(&r.dial, text), rows[i].dial);
			if (rows[i].authority != NULL)
				assert_string_equal(ip_port_format(&r.authority, text),
						    rows[i].authority);
		}
	}
	mesh_unref(m);
}

static void outbound__lookup_takes_each_and_no_loop(void **state)
{
	struct mesh *m = mesh_from(name_yaml);
	const struct ip_addr v[] = {ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.2")};
	const struct ip_addr own = ip("127.0.0.1");
	struct ip_port to = ip_port("10.1.0.1:80");
	int first = 0;
	struct route r;

	(void)state;
	for (uint64_t random = 0; random < 100; random++) {
		decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, 0, &r);
		decide_resolved(&r, v, ARRAY_LEN(v), &to.ip, random);
		first += ip_eq(&r.dial.ip, &v[0]);
		assert_int_equal(r.dial.ip.len, 4);
	}
	assert_int_equal(first, 50);
	decide_outbound(m, mesh_workload_by_uid(m, STR("src")), STR(""), &to, 0, &r);
	r.dial.port = 15001; /* as a target port may be */
	decide_resolved(&r, &own, 1, &to.ip, 0);
	assert_int_equal(r.kind, ROUTE_REFUSE);
	assert_non_null(strstr(r.error, "recursive"));
	mesh_unref(m);
}

static void outbound__loops(void **state)
{
	/* ztunnel-spec 1.9 */
	static const struct {
		const char *to;
		bool loops;
	} rows[] = {
		{"127.0.0.1:15001", true}, {"127.0.0.1:15006", true}, {"127.0.0.1:15008", true},
		{"[::1]:15008", true},	   {"127.0.0.2:15001", true}, {"127.0.0.1:15000", false},
		{"127.0.0.1:80", false},   {"10.0.0.1:15008", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port to = ip_port(rows[i].to);

		assert_int_equal(decide_outbound_loops(&to), rows[i].loops);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outbound__table),
		cmocka_unit_test(outbound__identities),
		cmocka_unit_test(outbound__waypoint_table),
		cmocka_unit_test(outbound__waypoint_identities_and_weights),
		cmocka_unit_test(outbound__service_table),
		cmocka_unit_test(outbound__network_table),
		cmocka_unit_test(outbound__network_identities),
		cmocka_unit_test(outbound__lookup_table),
		cmocka_unit_test(outbound__lookup_takes_each_and_no_loop),
		cmocka_unit_test(outbound__loops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
