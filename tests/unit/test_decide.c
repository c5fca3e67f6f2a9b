/* SPDX-License-Identifier: Apache-2.0
 * test_decide.c: where connections go (ztunnel-spec 4.3-4.8, 15.3) and what a CONNECT may reach
 * (5.3-5.7, 1.9; security.md C1).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/pick.h"

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
	"{80: 80}}\n";

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
		{"service waypoint is never bypassed", "src", "10.1.0.3:80", ROUTE_REFUSE, NULL,
		 NULL, "unknown waypoint: /10.0.0.9"},
		{"weighted waypoint is never bypassed", "src", "10.1.0.7:80", ROUTE_REFUSE, NULL,
		 NULL, "unknown waypoint: /10.0.0.9"},
		{"17-7 a workload does not hide it", "src", "10.1.0.6:80", ROUTE_REFUSE, NULL, NULL,
		 "unknown waypoint: /10.0.0.9"},
		{"workload waypoint is never bypassed", "src", "10.0.0.4:80", ROUTE_REFUSE, NULL,
		 NULL, "unknown waypoint: /10.0.0.9"},
		{"waypoint by host is never bypassed", "src", "[ff06::c3]:80", ROUTE_REFUSE, NULL,
		 NULL, "unknown waypoint: ns/gw.example"},
		{"4.3-8 the waypoint itself", "gw", "10.0.0.4:80", ROUTE_HBONE, "10.0.0.4:15008",
		 "10.0.0.4:80", NULL},
		{"4.3-8 the waypoint itself, by host", "gw", "[ff06::c3]:80", ROUTE_HBONE,
		 "[ff06::c3]:15008", "[ff06::c3]:80", NULL},
		{"4.3-6 mode PASSTHROUGH", "src", "1.2.3.5:80", ROUTE_PASSTHROUGH, "1.2.3.5:80",
		 NULL, NULL},
		{"4.4 remote without gateway is no candidate", "src", "10.1.0.4:80", ROUTE_HBONE,
		 NULL, NULL, NULL},
		{"4.6 no address, hostname only", "src", "10.1.0.9:80", ROUTE_REFUSE, NULL, NULL,
		 "no valid routing destination for workload: name"},
		{"service in the client's own network first", "src", "10.1.0.5:80", ROUTE_HBONE,
		 "10.0.0.7:15008", "10.0.0.7:80", NULL},
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

static const char inbound_yaml[] =
	"workloads:\n"
	"  - {uid: me, name: me, namespace: ns, workloadIps: [10.0.0.2, 'fd00::2'],\n"
	"     services: {ns/svc.example: {80: 8080, 81: 0, 90: 9090, 99: 15006}, "
	"other/svc2.example: {80: 7070},\n"
	"                other/private.example: {80: 80}, ns/gone.example: {80: 80}}}\n"
	"  - {uid: tun, name: tun, namespace: ns, workloadIps: [10.0.0.3], services: {},\n"
	"     applicationTunnel: {protocol: NONE, port: 15088}}\n"
	"  - {uid: proxy, name: proxy, namespace: ns, workloadIps: [10.0.0.4], services: {},\n"
	"     applicationTunnel: {protocol: PROXY, port: 15088}}\n"
	"  - {uid: bad, name: bad, namespace: ns, workloadIps: [10.0.0.5], services: {},\n"
	"     applicationTunnel: {protocol: NONE, port: 15008}}\n"
	"services:\n"
	"  - {name: svc, namespace: ns, hostname: svc.example, vips: [/10.1.0.1], ports: {80: "
	"8081, 81: 0, 82: 8082}}\n"
	"  - {name: svc2, namespace: other, hostname: svc2.example, vips: [/10.1.0.2], ports: {80: "
	"1}}\n"
	"  - {name: private, namespace: other, hostname: private.example, vips: [], ports: {80: "
	"80}, visibility: Namespace}\n"
	"  - {name: foreign, namespace: ns, hostname: foreign.example, vips: [/10.1.0.3], ports: "
	"{80: 80}}\n";

static void inbound__authority_table(void **state)
{
	static const struct {
		const char *title, *local, *conn, *authority;
		unsigned int status; /* 0: accepted */
		const char *app, *error;
	} rows[] = {
		{"5.5 own address", "me", "10.0.0.2:15008", "10.0.0.2:8080", 0, "10.0.0.2:8080", 0},
		{"5.5 own v6 address", "me", "[fd00::2]:15008", "[fd00::2]:1", 0, "[fd00::2]:1", 0},
		{"5.5 mapped form of the own address", "me", "10.0.0.2:15008",
		 "[::ffff:10.0.0.2]:80", 0, "10.0.0.2:80", 0},
		{"5.5 hostname, endpoint port", "me", "10.0.0.2:15008", "svc.example:80", 0,
		 "10.0.0.2:8080", 0},
		{"5.5 hostname, service port", "me", "10.0.0.2:15008", "svc.example:82", 0,
		 "10.0.0.2:8082", 0},
		{"5.5 service of another namespace that it backs", "me", "10.0.0.2:15008",
		 "svc2.example:80", 0, "10.0.0.2:7070", 0},
		{"5.5 named port nobody maps", "me", "10.0.0.2:15008", "svc.example:81", 503, NULL,
		 "cannot resolve port"},
		{"5.5 port the service lacks", "me", "10.0.0.2:15008", "svc.example:83", 503, NULL,
		 "requested service svc.example:83 found, but cannot resolve port"},
		{"C1 service it does not back", "me", "10.0.0.2:15008", "foreign.example:80", 503,
		 NULL, "no service or workload for hostname: foreign.example"},
		{"C1 private to another namespace", "me", "10.0.0.2:15008", "private.example:80",
		 503, NULL, "no service or workload"},
		{"C1 service the mesh does not know", "me", "10.0.0.2:15008", "gone.example:80",
		 503, NULL, "no service or workload"},
		{"15.1 another pod", "me", "10.0.0.2:15008", "10.0.0.9:8080", 400, NULL,
		 "ip mismatch: 10.0.0.2 != 10.0.0.9"},
		{"5.4 its other address", "me", "10.0.0.2:15008", "[fd00::2]:80", 400, NULL,
		 "ip mismatch"},
		{"C1 VIP of its own service", "me", "10.0.0.2:15008", "10.1.0.1:80", 400, NULL,
		 "ip mismatch"},
		{"C1 loopback", "me", "10.0.0.2:15008", "127.0.0.1:80", 400, NULL, "ip mismatch"},
		{"C1 loopback, last of the net", "me", "10.0.0.2:15008", "127.255.255.254:80", 400,
		 NULL, "ip mismatch"},
		{"C1 v6 loopback", "me", "10.0.0.2:15008", "[::1]:80", 400, NULL, "ip mismatch"},
		{"C1 mapped loopback", "me", "10.0.0.2:15008", "[::ffff:127.0.0.1]:80", 400, NULL,
		 "ip mismatch"},
		{"C1 metadata service", "me", "10.0.0.2:15008", "169.254.169.254:80", 400, NULL,
		 "ip mismatch"},
		{"C1 v6 link-local", "me", "10.0.0.2:15008", "[fe80::1]:80", 400, NULL,
		 "ip mismatch"},
		{"C1 zone id", "me", "10.0.0.2:15008", "[fe80::1%eth0]:80", 400, NULL,
		 "no valid authority"},
		{"C1 zone id without brackets", "me", "10.0.0.2:15008", "fe80::1%eth0:80", 400,
		 NULL, "no valid authority"},
		{"C1 multicast", "me", "10.0.0.2:15008", "224.0.0.1:80", 400, NULL, "ip mismatch"},
		{"C1 v6 multicast", "me", "10.0.0.2:15008", "[ff02::1]:80", 400, NULL,
		 "ip mismatch"},
		{"C1 unspecified", "me", "10.0.0.2:15008", "0.0.0.0:80", 400, NULL, "ip mismatch"},
		{"C1 v6 unspecified", "me", "10.0.0.2:15008", "[::]:80", 400, NULL, "ip mismatch"},
		{"C1 octal", "me", "10.0.0.2:15008", "012.0.0.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 short form", "me", "10.0.0.2:15008", "10.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 one number", "me", "10.0.0.2:15008", "167772162:80", 400, NULL,
		 "no valid authority"},
		{"C1 hex", "me", "10.0.0.2:15008", "0x0a.0.0.0x2:80", 400, NULL,
		 "no valid authority"},
		{"C1 hex, one number", "me", "10.0.0.2:15008", "0x7f000001:80", 400, NULL,
		 "no valid authority"},
		{"C1 trailing dot of an address", "me", "10.0.0.2:15008", "10.0.0.2.:80", 400, NULL,
		 "no valid authority"},
		{"C1 trailing dot of a name", "me", "10.0.0.2:15008", "svc.example.:80", 400, NULL,
		 "no valid authority"},
		{"C1 userinfo", "me", "10.0.0.2:15008", "u@10.0.0.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 userinfo with password", "me", "10.0.0.2:15008", "u:p@10.0.0.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 port 0", "me", "10.0.0.2:15008", "10.0.0.2:0", 400, NULL, "port 0"},
		{"C1 port 0 of a name", "me", "10.0.0.2:15008", "svc.example:0", 400, NULL,
		 "no valid authority"},
		{"C1 port 65536", "me", "10.0.0.2:15008", "10.0.0.2:65536", 400, NULL,
		 "no valid authority"},
		{"C1 port wraps to 80", "me", "10.0.0.2:15008", "10.0.0.2:65616", 400, NULL,
		 "no valid authority"},
		{"C1 port with sign", "me", "10.0.0.2:15008", "10.0.0.2:+80", 400, NULL,
		 "no valid authority"},
		{"C1 port with zero", "me", "10.0.0.2:15008", "10.0.0.2:080", 400, NULL,
		 "no valid authority"},
		{"C1 no port", "me", "10.0.0.2:15008", "10.0.0.2", 400, NULL, "no valid authority"},
		{"C1 empty port", "me", "10.0.0.2:15008", "10.0.0.2:", 400, NULL,
		 "no valid authority"},
		{"C1 empty", "me", "10.0.0.2:15008", "", 400, NULL, "no valid authority"},
		{"C1 only a colon", "me", "10.0.0.2:15008", ":80", 400, NULL, "no valid authority"},
		{"C1 blank in front", "me", "10.0.0.2:15008", " 10.0.0.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 path", "me", "10.0.0.2:15008", "10.0.0.2:80/x", 400, NULL,
		 "no valid authority"},
		{"C1 scheme", "me", "10.0.0.2:15008", "http://10.0.0.2:80", 400, NULL,
		 "no valid authority"},
		{"C1 localhost by name", "me", "10.0.0.2:15008", "localhost:80", 503, NULL,
		 "no service or workload"},
		{"1.9 15008", "me", "10.0.0.2:15008", "10.0.0.2:15008", 503, NULL,
		 "attempted recursive call to ourselves"},
		{"1.9 15006", "me", "10.0.0.2:15008", "10.0.0.2:15006", 503, NULL,
		 "attempted recursive call to ourselves"},
		{"1.9 15001", "me", "10.0.0.2:15008", "10.0.0.2:15001", 503, NULL,
		 "attempted recursive call to ourselves"},
		{"1.9 a service port that maps to ours", "me", "10.0.0.2:15008", "svc.example:99",
		 503, NULL, "attempted recursive call to ourselves"},
		{"the connection came to loopback", "me", "127.0.0.1:15008", "127.0.0.1:80", 400,
		 NULL, "not a pod address"},
		{"5.5 tunnel replaces the port", "tun", "10.0.0.3:15008", "10.0.0.3:80", 0,
		 "10.0.0.3:15088", 0},
		{"5.4 tunnel takes any authority, to its own address", "tun", "10.0.0.3:15008",
		 "10.0.0.9:80", 0, "10.0.0.3:15088", 0},
		{"C1 but not loopback", "tun", "10.0.0.3:15008", "127.0.0.1:80", 400, NULL,
		 "ip mismatch"},
		{"tunnel to our own port", "bad", "10.0.0.5:15008", "10.0.0.5:80", 503, NULL,
		 "attempted recursive call"},
		{"PROXY tunnel is refused, never skipped", "proxy", "10.0.0.4:15008", "10.0.0.4:80",
		 503, NULL, "PROXY"},
	};
	struct mesh *m = mesh_from(inbound_yaml);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ip_port conn = ip_port(rows[i].conn);
		struct inbound_target t;
		char text[IP_PORT_TEXT_MAX];

		print_message("row: %s\n", rows[i].title);
		decide_inbound(m, mesh_workload_by_uid(m, str_of(rows[i].local)), STR(""),
			       str_of(rows[i].authority), &conn, STR(""), &t);
		assert_int_equal(t.status, rows[i].status);
		if (rows[i].app != NULL)
			assert_string_equal(ip_port_format(&t.app, text), rows[i].app);
		if (rows[i].error != NULL && strstr(t.error, rows[i].error) == NULL)
			fail_msg("error is: %s", t.error);
	}
	mesh_unref(m);
}

static void inbound__embedded_nul(void **state)
{
	struct mesh *m = mesh_from(inbound_yaml);
	struct ip_port conn = ip_port("10.0.0.2:15008");
	struct inbound_target t;

	(void)state;
	decide_inbound(m, mesh_workload_by_uid(m, STR("me")), STR(""), STR("svc.example\0x:80"),
		       &conn, STR(""), &t);
	assert_int_equal(t.status, 400);
	decide_inbound(m, mesh_workload_by_uid(m, STR("me")), STR(""), STR("10.0.0.2:80\0"), &conn,
		       STR(""), &t);
	assert_int_equal(t.status, 400);
	mesh_unref(m);
}

static void inbound__service_label(void **state)
{
	/* ztunnel-spec 5.7 */
	static const struct {
		const char *authority, *forwarded, *want;
	} rows[] = {
		{"10.0.0.2:8080", "", "svc"},
		{"10.0.0.2:8081", "", "svc"},
		{"10.0.0.2:7070", "", "svc2"},
		{"10.0.0.2:8080", "svc2.example", "svc2"},
		{"10.0.0.2:8080", "foreign.example", "svc"},
		{"10.0.0.2:1234", "", NULL},
		{"svc2.example:80", "svc.example", "svc2"},
	};
	struct mesh *m = mesh_from(inbound_yaml);
	struct ip_port conn = ip_port("10.0.0.2:15008");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct inbound_target t;

		decide_inbound(m, mesh_workload_by_uid(m, STR("me")), STR(""),
			       str_of(rows[i].authority), &conn, str_of(rows[i].forwarded), &t);
		assert_int_equal(t.status, 0);
		if (rows[i].want == NULL)
			assert_null(t.service);
		else
			assert_true(t.service != NULL && str_eqc(t.service->name, rows[i].want));
	}
	mesh_unref(m);
}

static void forwarded__table(void **state)
{
	static const struct {
		const char *in, *want_for, *want_host;
	} rows[] = {
		{"for=\"127.0.0.1:80\"", "127.0.0.1:80", ""},
		{"for=\"[::1]:80\";host=example.com", "[::1]:80", "example.com"},
		{"for=\"1.2.3.4:1\" ; host=\"a.b\"", "1.2.3.4:1", "a.b"},
		{"host=x", NULL, "x"},
		{"", NULL, ""},
		{"for=\"nonsense\";host=", NULL, ""},
		{"for=\"1.2.3.4\"", NULL, ""},
		{"host=a;host=b", NULL, "a"},
		{"host=\xc3\xa4", NULL, ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[IP_PORT_TEXT_MAX];
		struct ip_port f;
		struct str h;

		decide_parse_forwarded(str_of(rows[i].in), &f, &h);
		if (rows[i].want_for == NULL)
			assert_int_equal(f.ip.len, 0);
		else
			assert_string_equal(ip_port_format(&f, text), rows[i].want_for);
		assert_true(str_eqc(h, rows[i].want_host));
	}
}

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

			/* what it falls back to among reachable ones is the last row's matter */
			if (!pick_endpoint(m, mesh_service_by_host(m, STR("ns"), STR("s.example")),
					   mesh_workload_by_uid(m, STR("src")), 80, random, &p))
				continue;
			a = a || p.wl->uid.p[0] == 'a';
			b = b || p.wl->uid.p[0] == 'b';
		}
		if (strcmp(rows[i].prefs, "Region, Network") == 0 &&
		    strstr(rows[i].b, "remote") != NULL)
			assert_true(a &&
				    !b); /* b would win, but needs a gateway: the reachable one */
		else {
			assert_int_equal(a, strchr(rows[i].want, 'a') != NULL);
			assert_int_equal(b, strchr(rows[i].want, 'b') != NULL);
		}
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
				   mesh_workload_by_uid(m, STR("a")), 80, 0, &p));
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
		cmocka_unit_test(outbound__table),	 cmocka_unit_test(outbound__identities),
		cmocka_unit_test(outbound__loops),	 cmocka_unit_test(inbound__authority_table),
		cmocka_unit_test(inbound__embedded_nul), cmocka_unit_test(inbound__service_label),
		cmocka_unit_test(forwarded__table),	 cmocka_unit_test(pick__locality_table),
		cmocka_unit_test(pick__rank_table),	 cmocka_unit_test(pick__tunnel_needs_both),
		cmocka_unit_test(pick__weights),	 cmocka_unit_test(pick__ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
