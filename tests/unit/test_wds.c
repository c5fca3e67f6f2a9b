/* SPDX-License-Identifier: Apache-2.0
 * test_wds.c: istiod's workloads, services and policies to the model: every field, every refusal.
 */
#include "tests/unit/zt_helper.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "proto/authorization.pb-c.h"
#include "proto/workload.pb-c.h"
#include "ztunnel/mesh/wds.h"

static ProtobufCBinaryData b(const char *s)
{
	return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}
#define RAW(s) ((ProtobufCBinaryData){sizeof(s) - 1, (uint8_t *)(uintptr_t)(s)})

static struct strbuf pack(const ProtobufCMessage *m)
{
	struct strbuf out = {0};
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = xmalloc(n + 1);

	assert_int_equal(protobuf_c_message_pack(m, p), n);
	strbuf_add(&out, p, n);
	free(p);
	return out;
}

static int take_workload(const char *name, Istio__Workload__Workload *w, struct wds_address *ret,
			 struct err *err)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	struct strbuf buf;
	int r;

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	a.workload = w;
	buf = pack(&a.base);
	r = wds_address(str_of(name), (struct str){buf.p, buf.n}, ret, err);
	strbuf_fini(&buf);
	return r;
}

static int take_service(const char *name, Istio__Workload__Service *s, struct wds_address *ret,
			struct err *err)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	struct strbuf buf;
	int r;

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	a.service = s;
	buf = pack(&a.base);
	r = wds_address(str_of(name), (struct str){buf.p, buf.n}, ret, err);
	strbuf_fini(&buf);
	return r;
}

#define EQ(s, text) assert_true(str_eqc((s), (text)))

static void workload__every_field(void **state)
{
	Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
	Istio__Workload__GatewayAddress way = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT,
					net = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
	Istio__Workload__NamespacedHostname host = ISTIO__WORKLOAD__NAMESPACED_HOSTNAME__INIT;
	Istio__Workload__NetworkAddress addr = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT;
	Istio__Workload__ServiceEntry e1 = ISTIO__WORKLOAD__SERVICE_ENTRY__INIT, e2 = e1, e3 = e1,
				      *entries[] = {&e1, &e2, &e3};
	Istio__Workload__Port p1 = ISTIO__WORKLOAD__PORT__INIT, *ports[] = {&p1};
	Istio__Workload__PortList list = ISTIO__WORKLOAD__PORT_LIST__INIT, none = list;
	Istio__Workload__ApplicationTunnel tun = ISTIO__WORKLOAD__APPLICATION_TUNNEL__INIT;
	Istio__Workload__Locality loc = ISTIO__WORKLOAD__LOCALITY__INIT;
	Istio__Workload__UInt32Value cap = ISTIO__WORKLOAD__UINT32_VALUE__INIT;
	ProtobufCBinaryData ips[] = {RAW("\12\0\0\1"), RAW("\376\200\0\0\0\0\0\0\0\0\0\0\0\0\0\1")};
	ProtobufCBinaryData pols[] = {b("ns/one"), b("root/two")};
	struct wds_address a;
	struct workload *m;
	struct err err = {0};
	char text[IP_TEXT_MAX];

	(void)state;
	w.uid = b("c//Pod/ns/name");
	w.name = b("name");
	w.namespace_ = b("ns");
	w.service_account = b("sa");
	w.trust_domain = b("td");
	w.network = b("net");
	w.node = b("node");
	w.cluster_id = b("cl");
	w.workload_name = b("wl");
	w.canonical_name = b("cn");
	w.canonical_revision = b("cr");
	w.hostname = b("h.example");
	w.addresses = ips;
	w.n_addresses = 2;
	w.tunnel_protocol = 1;
	w.workload_type = 3;
	w.status = 1;
	w.network_mode = 1;
	w.native_tunnel = 1;
	w.authorization_policies = pols;
	w.n_authorization_policies = 2;
	cap.value = 7;
	w.capacity = &cap;
	tun.protocol = 1;
	tun.port = 99;
	w.application_tunnel = &tun;
	loc.region = b("r");
	loc.zone = b("z");
	loc.subzone = b("s");
	w.locality = &loc;
	host.namespace_ = b("wns");
	host.hostname = b("way.example");
	way.destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
	way.hostname = &host;
	w.waypoint = &way;
	addr.network = b("n2");
	addr.address = RAW("\12\1\2\3");
	net.destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
	net.address = &addr;
	net.hbone_mtls_port = 15009;
	w.network_gateway = &net;
	p1.service_port = 80;
	p1.target_port = 8080;
	list.ports = ports;
	list.n_ports = 1;
	e1.key = b("ns/a.example");
	e1.value = &none;
	e2.key = b("ns/b.example");
	e3.key = b("ns/a.example"); /* twice: the last one counts */
	e3.value = &list;
	w.services = entries;
	w.n_services = 3;
	if (take_workload("c//Pod/ns/name", &w, &a, &err) != 0)
		fail_msg("%s", err.msg);
	assert_null(a.service);
	m = a.workload;
	EQ(m->uid, "c//Pod/ns/name");
	EQ(m->name, "name");
	EQ(m->ns, "ns");
	EQ(m->sa, "sa");
	EQ(m->trust_domain, "td");
	EQ(m->network, "net");
	EQ(m->node, "node");
	EQ(m->cluster, "cl");
	EQ(m->workload_name, "wl");
	EQ(m->canonical_name, "cn");
	EQ(m->canonical_revision, "cr");
	EQ(m->hostname, "h.example");
	EQ(m->region, "r");
	EQ(m->zone, "z");
	EQ(m->subzone, "s");
	assert_int_equal(m->nips, 2);
	assert_string_equal(ip_format(&m->ips[0], text), "10.0.0.1");
	assert_string_equal(ip_format(&m->ips[1], text), "fe80::1");
	assert_int_equal(m->protocol, WL_HBONE);
	assert_int_equal(m->type, WL_TYPE_JOB);
	assert_true(m->unhealthy && m->host_network && m->native_tunnel);
	assert_int_equal(m->capacity, 7);
	assert_true(m->app_tunnel.set && m->app_tunnel.proxy);
	assert_int_equal(m->app_tunnel.port, 99);
	assert_int_equal(m->npolicies, 2);
	EQ(m->policies[0], "ns/one");
	EQ(m->policies[1], "root/two");
	assert_true(m->waypoint->set && m->waypoint->by_host);
	EQ(m->waypoint->ns, "wns");
	EQ(m->waypoint->hostname, "way.example");
	assert_int_equal(m->waypoint->hbone_port, 15008);
	assert_true(m->network_gateway->set && !m->network_gateway->by_host);
	EQ(m->network_gateway->addr.network, "n2");
	assert_string_equal(ip_format(&m->network_gateway->addr.ip, text), "10.1.2.3");
	assert_int_equal(m->network_gateway->hbone_port, 15009);
	assert_int_equal(m->nservices, 2);
	EQ(m->services[0].name, "ns/a.example");
	assert_int_equal(m->services[0].nports, 1);
	assert_int_equal(m->services[0].ports[0].service_port, 80);
	assert_int_equal(m->services[0].ports[0].target_port, 8080);
	EQ(m->services[1].name, "ns/b.example");
	assert_int_equal(m->services[1].nports, 0);
	assert_string_equal(m->identity, "spiffe://td/ns/ns/sa/sa");
	workload_unref(m);
}

static void workload__defaults(void **state)
{
	Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
	struct wds_address a;

	(void)state;
	w.uid = b("u");
	w.namespace_ = b("ns");
	assert_int_equal(take_workload("u", &w, &a, NULL), 0);
	assert_string_equal(a.workload->identity, "spiffe://cluster.local/ns/ns/sa/default");
	EQ(a.workload->cluster, "Kubernetes");
	assert_int_equal(a.workload->capacity, 1);
	assert_int_equal(a.workload->protocol, WL_TCP);
	assert_false(a.workload->unhealthy || a.workload->waypoint->set ||
		     a.workload->app_tunnel.set);
	workload_unref(a.workload);
}

static Istio__Workload__GatewayAddress bad_gateway = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
static Istio__Workload__ApplicationTunnel bad_tunnel = ISTIO__WORKLOAD__APPLICATION_TUNNEL__INIT;
static Istio__Workload__ServiceEntry bad_entry = ISTIO__WORKLOAD__SERVICE_ENTRY__INIT,
				     *bad_entries[] = {&bad_entry};
static Istio__Workload__Port bad_port = ISTIO__WORKLOAD__PORT__INIT, *bad_ports[] = {&bad_port};
static Istio__Workload__PortList bad_list = ISTIO__WORKLOAD__PORT_LIST__INIT;
static ProtobufCBinaryData bad_ip, bad_policy;

typedef Istio__Workload__Workload W;

static void w_uid(W *w)
{
	w->uid = b("other");
}
static void w_nouid(W *w)
{
	w->uid = b("");
}
static void w_nul(W *w)
{
	w->namespace_ = RAW("a\0b");
}
static void w_utf8(W *w)
{
	w->service_account = b("\xff");
}
static void w_slash(W *w)
{
	w->namespace_ = b("a/b");
}
static void w_nons(W *w)
{
	w->namespace_ = b("");
}
static void w_legacy(W *w)
{
	w->tunnel_protocol = 2;
}
static void w_protocol(W *w)
{
	w->tunnel_protocol = 3;
}
static void w_negative(W *w)
{
	w->tunnel_protocol = -1;
}
static void w_type(W *w)
{
	w->workload_type = 4;
}
static void w_status(W *w)
{
	w->status = 2;
}
static void w_mode(W *w)
{
	w->network_mode = 2;
}
static void w_ip(W *w)
{
	bad_ip = RAW("\1\2\3");
	w->addresses = &bad_ip;
	w->n_addresses = 1;
}
static void w_noip(W *w)
{
	bad_ip = b("");
	w->addresses = &bad_ip;
	w->n_addresses = 1;
}
static void w_policy(W *w)
{
	bad_policy = RAW("a\0");
	w->authorization_policies = &bad_policy;
	w->n_authorization_policies = 1;
}
static void w_gateway(W *w)
{
	bad_gateway.hbone_mtls_port = 1;
	w->waypoint = &bad_gateway;
}
static void w_gateport(W *w)
{
	bad_gateway.hbone_mtls_port = 65536;
	w->network_gateway = &bad_gateway;
}
static void w_tunnel(W *w)
{
	bad_tunnel.protocol = 2;
	w->application_tunnel = &bad_tunnel;
}
static void w_tunport(W *w)
{
	bad_tunnel.protocol = 0;
	bad_tunnel.port = 65536;
	w->application_tunnel = &bad_tunnel;
}
static void w_service(W *w)
{
	bad_entry.key = b("no-slash");
	w->services = bad_entries;
	w->n_services = 1;
}
static void w_nohost(W *w)
{
	bad_entry.key = b("ns/");
	w->services = bad_entries;
	w->n_services = 1;
}
static void w_port(W *w)
{
	bad_entry.key = b("ns/h");
	bad_port.service_port = 0;
	bad_list.ports = bad_ports;
	bad_list.n_ports = 1;
	bad_entry.value = &bad_list;
	w->services = bad_entries;
	w->n_services = 1;
}
static void w_bigport(W *w)
{
	w_port(w);
	bad_port.service_port = 65536;
}
static void w_target(W *w)
{
	w_port(w);
	bad_port.service_port = 80;
	bad_port.target_port = 65536;
}

static void workload__refusals(void **state)
{
	static const struct {
		void (*spoil)(W *w);
		const char *want;
	} rows[] = {
		{w_uid, "named differently than its uid other"},
		{w_nouid, "named differently than its uid"},
		{w_nul, "namespace: a\\x00b is no text"},
		{w_utf8, "service_account: "},
		{w_slash, "do not form an identity"},
		{w_nons, "do not form an identity"},
		{w_legacy, "LEGACY_ISTIO_MTLS"},
		{w_protocol, "tunnel_protocol: unknown value 3"},
		{w_negative, "tunnel_protocol: unknown value -1"},
		{w_type, "workload_type: unknown value 4"},
		{w_status, "status: unknown value 2"},
		{w_mode, "network_mode: unknown value 2"},
		{w_ip, "addresses: an address of 3 bytes"},
		{w_noip, "addresses: an address of 0 bytes"},
		{w_policy, "authorization_policies: "},
		{w_gateway, "waypoint: neither an address nor a host name"},
		{w_gateport, "network_gateway: port 65536"},
		{w_tunnel, "application_tunnel.protocol: unknown value 2"},
		{w_tunport, "application_tunnel.port: 65536"},
		{w_service, "services: no-slash is not namespace/hostname"},
		{w_nohost, "services: ns/ is not namespace/hostname"},
		{w_port, "services: service port 0"},
		{w_bigport, "services: service port 65536"},
		{w_target, "target port 65536"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
		struct wds_address a;
		struct err err = {0};

		w.uid = b("u");
		w.namespace_ = b("ns");
		rows[i].spoil(&w);
		assert_int_not_equal(take_workload("u", &w, &a, &err), 0);
		assert_null(a.workload);
		if (strstr(err.msg, rows[i].want) == NULL)
			fail_msg("row %zu: %s", i, err.msg);
	}
}

static void service__every_field(void **state)
{
	Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;
	Istio__Workload__NetworkAddress v1 = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT, v2 = v1,
					v3 = v1, *vips[] = {&v1, &v2, &v3};
	Istio__Workload__Port p = ISTIO__WORKLOAD__PORT__INIT, *ports[] = {&p};
	Istio__Workload__LoadBalancing lb = ISTIO__WORKLOAD__LOAD_BALANCING__INIT;
	Istio__Workload__GatewayAddress way = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
	int32_t prefs[] = {1, 2, 3, 4, 5, 6};
	ProtobufCBinaryData sans[] = {b("spiffe://td/ns/n/sa/s"), b("dns.example")};
	struct wds_address a;
	struct err err = {0};

	(void)state;
	s.name = b("h");
	s.namespace_ = b("ns");
	s.hostname = b("h.example");
	v1.network = b("net");
	v1.address = RAW("\12\0\0\1");
	v2.address = RAW("\12\0\0\0");
	v2.prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
	v2.length = 8;
	v3.address = RAW("\12\0\0\2");
	v3.prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
	v3.length = 32;
	s.addresses = vips;
	s.n_addresses = 3;
	p.service_port = 80;
	s.ports = ports;
	s.n_ports = 1;
	s.subject_alt_names = sans;
	s.n_subject_alt_names = 2;
	lb.mode = 2;
	lb.health_policy = 1;
	lb.routing_preference = prefs;
	lb.n_routing_preference = 6;
	s.load_balancing = &lb;
	s.ip_families = 3;
	s.canonical = 1;
	s.visibility = 1;
	v1.prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX__NOT_SET;
	way.destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
	way.address = &v1;
	s.waypoint = &way;
	if (take_service("ns/h.example", &s, &a, &err) != 0)
		fail_msg("%s", err.msg);
	assert_null(a.workload);
	EQ(a.service->name, "h");
	EQ(a.service->ns, "ns");
	EQ(a.service->hostname, "h.example");
	assert_int_equal(a.service->nvips, 2);
	EQ(a.service->vips[0].network, "net");
	assert_int_equal(a.service->vips[1].ip.b[3], 2);
	assert_int_equal(a.service->ncidr_vips, 1);
	assert_int_equal(a.service->cidr_vips[0].cidr.prefix, 8);
	assert_int_equal(a.service->nports, 1);
	assert_int_equal(a.service->ports[0].target_port, 0);
	assert_int_equal(a.service->nsans, 1);
	EQ(a.service->subject_alt_names[0], "spiffe://td/ns/n/sa/s");
	assert_int_equal(a.service->lb_mode, LB_FAILOVER);
	assert_true(a.service->allow_unhealthy && a.service->canonical && a.service->private_to_ns);
	assert_int_equal(a.service->nlb_pref, 6);
	for (int i = 0; i < 6; i++)
		assert_int_equal(a.service->lb_pref[i], i);
	assert_int_equal(a.service->ip_families, 10);
	assert_true(a.service->waypoint.set);
	service_unref(a.service);
	s.visibility = 7; /* unknown is public */
	assert_int_equal(take_service("ns/h.example", &s, &a, &err), 0);
	assert_false(a.service->private_to_ns);
	service_unref(a.service);
}

static void service__refusals(void **state)
{
	static const struct {
		const char *name, *hostname, *want;
		int32_t mode, health, pref, families;
		uint32_t length;
		bool weighted;
	} rows[] = {
		{.name = "ns/x",
		 .hostname = "h",
		 .want = "named differently than its service ns/h"},
		{.name = "h", .hostname = "h", .want = "named differently"},
		{.name = "ns/", .hostname = "", .want = "named differently"},
		{.mode = 4, .want = "load_balancing.mode: unknown value 4"},
		{.health = 2, .want = "load_balancing.health_policy: unknown value 2"},
		{.pref = 7, .want = "routing_preference: unknown value 7"},
		{.pref = -1, .want = "routing_preference: unknown value -1"},
		{.families = 4, .want = "ip_families: unknown value 4"},
		{.length = 33, .want = "addresses: a prefix of 33 bits"},
		{.weighted = true, .want = "weighted_waypoints: one without a destination"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;
		Istio__Workload__NetworkAddress v = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT,
						*vips[] = {&v};
		Istio__Workload__LoadBalancing lb = ISTIO__WORKLOAD__LOAD_BALANCING__INIT;
		Istio__Workload__WeightedWaypoint ww = ISTIO__WORKLOAD__WEIGHTED_WAYPOINT__INIT,
						  *wws[] = {&ww};
		int32_t pref = rows[i].pref;
		struct wds_address a;
		struct err err = {0};

		s.namespace_ = b("ns");
		s.hostname = b(rows[i].hostname != NULL ? rows[i].hostname : "h");
		lb.mode = rows[i].mode;
		lb.health_policy = rows[i].health;
		lb.routing_preference = &pref;
		lb.n_routing_preference = pref != 0;
		s.load_balancing = &lb;
		s.ip_families = rows[i].families;
		v.address = RAW("\12\0\0\1");
		v.prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
		v.length = rows[i].length;
		s.addresses = vips;
		s.n_addresses = rows[i].length != 0;
		s.weighted_waypoints = wws;
		s.n_weighted_waypoints = rows[i].weighted;
		assert_int_not_equal(
			take_service(rows[i].name != NULL ? rows[i].name : "ns/h", &s, &a, &err),
			0);
		assert_null(a.service);
		if (strstr(err.msg, rows[i].want) == NULL)
			fail_msg("row %zu: %s", i, err.msg);
	}
}

static void address__is_neither(void **state)
{
	struct wds_address a;
	struct err err = {0};

	(void)state;
	assert_int_not_equal(wds_address(STR("x"), STR(""), &a, &err), 0);
	assert_string_equal(err.msg, "neither a workload nor a service");
	assert_int_not_equal(wds_address(STR("x"), STR("\377"), &a, &err), 0);
	assert_string_equal(err.msg, "not an istio.workload.Address");
	assert_null(wds_policy(STR("x"), STR("\377"), &err));
	assert_string_equal(err.msg, "not an istio.security.Authorization");
}

/* ---- policies ---- */

typedef Istio__Security__Match M;

static struct policy *take_policy(M *m, int32_t scope, int32_t action, struct err *err)
{
	Istio__Security__Authorization a = ISTIO__SECURITY__AUTHORIZATION__INIT;
	Istio__Security__Group g = ISTIO__SECURITY__GROUP__INIT, *gs[] = {&g};
	Istio__Security__Rules r = ISTIO__SECURITY__RULES__INIT, *rs[] = {&r};
	struct strbuf buf;
	struct policy *p;

	a.name = b("p");
	a.namespace_ = b("ns");
	a.scope = scope;
	a.action = action;
	a.dry_run = 1;
	a.groups = gs;
	a.n_groups = 1;
	g.rules = rs;
	g.n_rules = 1;
	r.matches = &m;
	r.n_matches = 1;
	buf = pack(&a.base);
	p = wds_policy(STR("ns/p"), (struct str){buf.p, buf.n}, err);
	strbuf_fini(&buf);
	return p;
}

static void policy__every_field(void **state)
{
	Istio__Security__StringMatch exact = ISTIO__SECURITY__STRING_MATCH__INIT, prefix = exact,
				     suffix = exact, present = exact,
				     *all[] = {&exact, &prefix, &suffix, &present};
	Istio__Security__Empty nothing = ISTIO__SECURITY__EMPTY__INIT;
	Istio__Security__Address v4 = ISTIO__SECURITY__ADDRESS__INIT, v6 = v4, mapped = v4,
				 *ips[] = {&v4, &v6, &mapped};
	Istio__Security__ServiceAccountMatch sa = ISTIO__SECURITY__SERVICE_ACCOUNT_MATCH__INIT,
					     *sas[] = {&sa};
	uint32_t ports[] = {80, 65535};
	M m = ISTIO__SECURITY__MATCH__INIT;
	struct policy_match *got;
	struct policy *p;
	struct err err = {0};

	(void)state;
	exact.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
	exact.exact = b("e");
	prefix.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX;
	prefix.prefix = b("p");
	suffix.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX;
	suffix.suffix = b("s");
	present.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
	present.presence = &nothing;
	v4.address = RAW("\12\0\0\0");
	v4.length = 8;
	v6.address = RAW("\376\200\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
	v6.length = 10;
	mapped.address = RAW("\0\0\0\0\0\0\0\0\0\0\377\377\12\1\0\0");
	mapped.length = 112;
	sa.namespace_ = b("n");
	sa.service_account = b("a");
	/* each list one longer than the one before, so that none is taken for another */
	m.namespaces = all, m.n_namespaces = 1;
	m.not_namespaces = all, m.n_not_namespaces = 2;
	m.principals = all, m.n_principals = 3;
	m.not_principals = all, m.n_not_principals = 4;
	m.source_ips = ips, m.n_source_ips = 1;
	m.not_source_ips = ips, m.n_not_source_ips = 2;
	m.destination_ips = ips, m.n_destination_ips = 3;
	m.destination_ports = ports, m.n_destination_ports = 1;
	m.not_destination_ports = ports, m.n_not_destination_ports = 2;
	m.not_service_accounts = sas, m.n_not_service_accounts = 1;
	p = take_policy(&m, 2, 1, &err);
	if (p == NULL)
		fail_msg("%s", err.msg);
	EQ(p->name, "p");
	EQ(p->ns, "ns");
	EQ(p->key, "ns/p");
	assert_int_equal(p->scope, POLICY_WORKLOAD);
	assert_int_equal(p->action, POLICY_DENY);
	assert_true(p->dry_run);
	assert_int_equal(p->nrules, 1);
	assert_int_equal(p->rules[0].n, 1);
	assert_int_equal(p->rules[0].v[0].n, 1);
	got = &p->rules[0].v[0].v[0];
	assert_int_equal(got->namespaces.n, 1);
	assert_int_equal(got->not_namespaces.n, 2);
	assert_int_equal(got->principals.n, 3);
	assert_int_equal(got->not_principals.n, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(got->not_principals.v[i].kind, (enum match_kind)i);
	EQ(got->not_principals.v[0].text, "e");
	EQ(got->not_principals.v[1].text, "p");
	EQ(got->not_principals.v[2].text, "s");
	assert_int_equal(got->source_ips.n, 1);
	assert_int_equal(got->not_source_ips.n, 2);
	assert_int_equal(got->destination_ips.n, 3);
	assert_int_equal(got->not_destination_ips.n, 0);
	assert_int_equal(got->destination_ips.v[0].prefix, 8);
	assert_int_equal(got->destination_ips.v[1].prefix, 10);
	assert_int_equal(got->destination_ips.v[2].prefix, 16);
	assert_int_equal(got->destination_ips.v[2].ip.len, 4);
	assert_int_equal(got->destination_ports.n, 1);
	assert_int_equal(got->not_destination_ports.n, 2);
	assert_int_equal(got->not_destination_ports.v[1], 65535);
	assert_int_equal(got->service_accounts.n, 0);
	assert_int_equal(got->not_service_accounts.n, 1);
	EQ(got->not_service_accounts.v[0].ns, "n");
	EQ(got->not_service_accounts.v[0].sa, "a");
	policy_unref(p);
}

static void policy__refusals(void **state)
{
	static Istio__Security__StringMatch kindless = ISTIO__SECURITY__STRING_MATCH__INIT,
					    *kindlesses[] = {&kindless};
	static const struct {
		int32_t scope, action;
		const char *ip, *want;
		size_t nip;
		uint32_t length, port;
		bool kindless;
	} rows[] = {
		{.scope = 3, .want = "scope: unknown value 3"},
		{.scope = -1, .want = "scope: unknown value -1"},
		{.action = 2, .want = "action: unknown value 2"},
		{.kindless = true, .want = "principals: a match of no known kind"},
		{.ip = "\1\2\3", .nip = 3, .want = "not_source_ips: an address of 3 bytes"},
		{.ip = "\1\2\3\4",
		 .nip = 4,
		 .length = 33,
		 .want = "not_source_ips: a prefix of 33"},
		{.port = 65536, .want = "destination_ports: port 65536"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		M m = ISTIO__SECURITY__MATCH__INIT;
		Istio__Security__Address a = ISTIO__SECURITY__ADDRESS__INIT, *as[] = {&a};
		uint32_t port = rows[i].port;
		struct err err = {0};

		m.principals = kindlesses;
		m.n_principals = rows[i].kindless;
		a.address = (ProtobufCBinaryData){rows[i].nip, (uint8_t *)(uintptr_t)rows[i].ip};
		a.length = rows[i].length;
		m.not_source_ips = as;
		m.n_not_source_ips = rows[i].nip != 0;
		m.destination_ports = &port;
		m.n_destination_ports = port != 0;
		assert_null(take_policy(&m, rows[i].scope, rows[i].action, &err));
		if (strstr(err.msg, rows[i].want) == NULL)
			fail_msg("row %zu: %s", i, err.msg);
	}
}

/* What stands in force for a policy that is refused: as strict as it can have been meant. */
static void policy__closed(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		int scope, action; /* scope -1: nothing */
		const char *ns;
	} rows[] = {
#define P(s) s, sizeof(s) - 1
		{P("\xff"), POLICY_GLOBAL, POLICY_DENY,
		 ""}, /* no protobuf: it may be of any scope */
		{P(""), POLICY_GLOBAL, POLICY_ALLOW, ""},
		{P("\x12\1n\x18\1\x20\1"), POLICY_NAMESPACE, POLICY_DENY, "n"},
		{P("\x12\1n\x18\1\x20\0"), POLICY_NAMESPACE, POLICY_ALLOW, "n"},
		{P("\x12\1n\x18\1\x20\5"), POLICY_NAMESPACE, POLICY_DENY, "n"}, /* what action? */
		{P("\x12\1n\x18\7\x20\1"), POLICY_GLOBAL, POLICY_DENY, ""},	/* what scope? */
		{P("\x18\1\x20\1"), POLICY_GLOBAL, POLICY_DENY, ""}, /* which namespace? */
		{P("\x12\2n\0\x18\1\x20\1"), POLICY_GLOBAL, POLICY_DENY, ""},
		{P("\x12\1n\x18\0\x20\1"), POLICY_GLOBAL, POLICY_DENY, ""},
		{P("\x12\1n\x18\2\x20\1"), -1, 0, ""}, /* named by workloads: missing denies */
		{P("\x12\1n\x18\1\x20\1\x30\1"), -1, 0, ""}, /* a dry run */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct policy *p =
			wds_policy_closed(STR("ns/p"), (struct str){rows[i].bytes, rows[i].n});

		if (rows[i].scope < 0) {
			assert_null(p);
			continue;
		}
		assert_non_null(p);
		assert_true(p->closed && !p->dry_run && str_eqc(p->key, "ns/p"));
		assert_int_equal(p->scope, rows[i].scope);
		assert_int_equal(p->action, rows[i].action);
		assert_true(str_eqc(p->ns, rows[i].ns));
		assert_int_equal(p->nrules, rows[i].action == POLICY_DENY ? 1 : 0);
		policy_unref(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workload__every_field), cmocka_unit_test(workload__defaults),
		cmocka_unit_test(workload__refusals),	 cmocka_unit_test(service__every_field),
		cmocka_unit_test(service__refusals),	 cmocka_unit_test(address__is_neither),
		cmocka_unit_test(policy__every_field),	 cmocka_unit_test(policy__refusals),
		cmocka_unit_test(policy__closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
