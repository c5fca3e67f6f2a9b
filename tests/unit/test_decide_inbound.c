/* SPDX-License-Identifier: Apache-2.0
 * test_decide_inbound.c: what a CONNECT may reach, and for whom (ztunnel-spec 5.3-5.7, 1.9;
 * security.md C1).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/decide.h"

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
	"  - {uid: way, name: way, namespace: ns, workloadIps: [10.0.0.20], services: "
	"{ns/way.example: {15008: 15008}}}\n"
	"  - {uid: canary, name: canary, namespace: ns, workloadIps: [10.0.0.21], services: {}}\n"
	"  - {uid: behind, name: behind, namespace: ns, workloadIps: [10.0.0.22], services: {},\n"
	"     waypoint: {destination: ns/way.example}}\n"
	"services:\n"
	"  - {name: way, namespace: ns, hostname: way.example, vips: [/10.1.0.20], ports: {15008: "
	"15008}}\n"
	"  - {name: novip, namespace: ns, hostname: novip.example, vips: [], ports: {80: 80}}\n"
	"  - {name: viaway, namespace: ns, hostname: viaway.example, vips: [/10.1.0.21], ports: "
	"{80: 8079},\n"
	"     waypoint: {destination: /10.1.0.20}, weightedWaypoints: [{destination: {destination: "
	"/10.0.0.21}, "
	"weight: 1}]}\n"
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
		{"5.4 waypoint of the service that is asked for", "way", "10.0.0.20:15008",
		 "10.1.0.21:80", 0, "10.0.0.20:80", 0},
		{"17-8 its canary", "canary", "10.0.0.21:15008", "10.1.0.21:80", 0, "10.0.0.21:80",
		 0},
		{"5.4 waypoint of the workload that is asked for", "way", "10.0.0.20:15008",
		 "10.0.0.22:80", 0, "10.0.0.20:80", 0},
		{"5.4 not its waypoint", "canary", "10.0.0.21:15008", "10.0.0.22:80", 400, NULL,
		 "ip mismatch"},
		{"5.4 no waypoint there", "way", "10.0.0.20:15008", "10.1.0.1:80", 400, NULL,
		 "ip mismatch"},
		{"tunnel to our own port", "bad", "10.0.0.5:15008", "10.0.0.5:80", 503, NULL,
		 "attempted recursive call"},
		{"5.6 PROXY tunnel", "proxy", "10.0.0.4:15008", "10.0.0.9:80", 0, "10.0.0.4:15088",
		 0},
		{"5.6 PROXY tunnel, a service by name", "proxy", "10.0.0.4:15008",
		 "foreign.example:80", 0, "10.0.0.4:15088", 0},
		{"5.6 PROXY tunnel, a service without an address", "proxy", "10.0.0.4:15008",
		 "novip.example:80", 503, NULL,
		 "requested service novip.example found, but has no IP addresses"},
		{"5.6 PROXY tunnel, a service that the mesh does not know", "proxy",
		 "10.0.0.4:15008", "gone.example:80", 503, NULL, "no service or workload"},
		{"5.6 PROXY tunnel, private to another namespace", "proxy", "10.0.0.4:15008",
		 "private.example:80", 503, NULL, "no service or workload"},
		{"5.4 waypoint, its service by name", "way", "10.0.0.20:15008", "viaway.example:80",
		 0, "10.0.0.20:8079", 0},
		{"5.4 canary, its service by name", "canary", "10.0.0.21:15008",
		 "viaway.example:80", 0, "10.0.0.21:8079", 0},
		{"C1 waypoint, not its service", "way", "10.0.0.20:15008", "svc.example:80", 503,
		 NULL, "no service or workload"},
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

static void inbound__tunnel_target(void **state)
{
	/* ztunnel-spec 5.6: what the PROXY header says was asked for */
	static const struct {
		const char *network, *authority, *want;
	} rows[] = {
		{"", "10.0.0.9:80", "10.0.0.9:80"},	  {"", "[fd00::9]:80", "[fd00::9]:80"},
		{"", "s.example:80", "10.1.0.2:80"},	  /* own network, then IPv4 */
		{"six", "s.example:80", "[fd00::1]:80"},  /* own network */
		{"other", "s.example:80", "10.1.0.1:80"}, /* no address there: IPv4 */
	};
	struct mesh *m = mesh_from(
		"workloads:\n"
		"  - {uid: p, name: p, namespace: ns, workloadIps: [10.0.0.4], services: {},\n"
		"     applicationTunnel: {protocol: PROXY, port: 15088}}\n"
		"services:\n"
		"  - {name: s, namespace: ns, hostname: s.example, ports: {80: 8080},\n"
		"     vips: [six/fd00::1, far/10.1.0.1, /fd00::2, /10.1.0.2]}\n");
	struct ip_port conn = ip_port("10.0.0.4:15008");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct inbound_target t;
		char text[IP_PORT_TEXT_MAX];

		decide_inbound(m, mesh_workload_by_uid(m, STR("p")), str_of(rows[i].network),
			       str_of(rows[i].authority), &conn, STR(""), &t);
		assert_int_equal(t.status, 0);
		assert_true(t.proxy);
		assert_string_equal(ip_port_format(&t.tunnel, text), rows[i].want);
		assert_string_equal(ip_port_format(&t.app, text), "10.0.0.4:15088");
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
	/* plaintext (ztunnel-spec 6): nobody forwards a name */
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct workload *me = mesh_workload_by_uid(m, STR("me"));
		struct service *s;

		if (rows[i].forwarded[0] != '\0')
			continue;
		s = decide_service_label(m, me, STR(""), ip_port(rows[i].authority).port);
		assert_true(rows[i].want == NULL ? s == NULL
						 : s != NULL && str_eqc(s->name, rows[i].want));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inbound__authority_table),
		cmocka_unit_test(inbound__tunnel_target),
		cmocka_unit_test(inbound__embedded_nul),
		cmocka_unit_test(inbound__service_label),
		cmocka_unit_test(forwarded__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
