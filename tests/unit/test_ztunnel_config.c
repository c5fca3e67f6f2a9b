/* SPDX-License-Identifier: Apache-2.0
 * test_ztunnel_config.c: environment variables (ztunnel-spec 2).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/config.h"

#define VARS_MAX 4
static struct {
	const char *name, *value;
} vars[VARS_MAX];
static char warned[512];

static const char *env(const char *name)
{
	for (size_t i = 0; i < VARS_MAX; i++)
		if (vars[i].name != NULL && strcmp(vars[i].name, name) == 0)
			return vars[i].value;
	return strcmp(name, "LOCAL_XDS_PATH") == 0 ? "/state.yaml" : NULL;
}

static void warn(const char *text)
{
	(void)snprintf(warned, sizeof(warned), "%s", text);
}

static void set(const char *n1, const char *v1, const char *n2, const char *v2)
{
	memset(vars, 0, sizeof(vars));
	vars[0].name = n1;
	vars[0].value = v1;
	vars[1].name = n2;
	vars[1].value = v2;
	warned[0] = '\0';
}

static void defaults(void **state)
{
	struct config c;
	struct err e = {0};

	(void)state;
	set(NULL, NULL, NULL, NULL);
	assert_int_equal(config_load(&c, env, NULL, 2, warn, &e), 0);
	assert_int_equal(c.workers.mark, 1337);
	assert_int_equal(c.workers.pool_max_streams, 100);
	assert_int_equal(c.workers.pool_idle_ms, 300000);
	assert_int_equal(c.workers.h2_stream_window, 4194304);
	assert_int_equal(c.workers.h2_connection_window, 16777216);
	assert_int_equal(c.workers.h2_frame_size, 1048576);
	assert_int_equal(c.workers.keepalive_time_s, 180);
	assert_int_equal(c.workers.keepalive_retries, 9);
	assert_int_equal(c.workers.orig_src, -1);
	assert_int_equal(c.secret_ttl_s, 86400);
	assert_int_equal(c.drain_ms, 5000);
	assert_int_equal(c.zds_version, 3);
	assert_true(c.listeners.reuse_port);
	assert_string_equal(c.zds_path, "/var/run/ztunnel/ztunnel.sock");
	assert_string_equal(warned, "");
	config_free(&c);
}

static void workers__table(void **state)
{
	/* ztunnel-spec 2.4; 8 CPUs; 0: refused */
	static const struct {
		const char *n1, *v1, *n2, *v2;
		unsigned int want;
	} rows[] = {
		{NULL, NULL, NULL, NULL, 2},
		{"ZTUNNEL_WORKER_THREADS", "5", NULL, NULL, 5},
		{"ZTUNNEL_WORKER_THREADS", "0", NULL, NULL, 8},
		{"ZTUNNEL_WORKER_THREADS", "50%", NULL, NULL, 4},
		{"ZTUNNEL_WORKER_THREADS", "1%", NULL, NULL, 1},
		{"ZTUNNEL_WORKER_THREADS", "13%", NULL, NULL, 2},
		{"ZTUNNEL_WORKER_THREADS", "100%", NULL, NULL, 8},
		{"ZTUNNEL_WORKER_THREADS", "0%", NULL, NULL, 0},
		{"ZTUNNEL_WORKER_THREADS", "101%", NULL, NULL, 0},
		{"ZTUNNEL_WORKER_THREADS", "-1", NULL, NULL, 0},
		{"ZTUNNEL_WORKER_THREADS", "", NULL, NULL, 0},
		{"ZTUNNEL_WORKER_THREADS", "%", NULL, NULL, 0},
		{"ZTUNNEL_WORKER_THREADS", "50%", "ZTUNNEL_CPU_LIMIT", "4", 2},
		{"ZTUNNEL_CPU_LIMIT", "20", NULL, NULL, 5},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "500m", NULL, NULL, 1},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1.5", NULL, NULL, 2},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1.0", NULL, NULL, 1},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "2500m", NULL, NULL, 3},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "0", NULL, NULL, 0},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "0m", NULL, NULL, 0},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "two", NULL, NULL, 0},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1.x", NULL, NULL, 0},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "2", "ZTUNNEL_RESOURCE_CPU_REQUEST", "3", 3},
		{"ZTUNNEL_RESOURCE_CPU_REQUEST", "4", NULL, NULL, 4},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		struct config c;

		set(rows[i].n1, rows[i].v1, rows[i].n2, rows[i].v2);
		if (rows[i].want == 0) {
			assert_int_not_equal(config_load(&c, env, NULL, 8, warn, &e), 0);
			assert_non_null(strstr(e.msg, rows[i].n1));
			continue;
		}
		assert_int_equal(config_load(&c, env, NULL, 8, warn, &e), 0);
		assert_int_equal(c.workers.nworkers, rows[i].want);
		config_free(&c);
	}
}

static void drain__table(void **state)
{
	static const struct {
		const char *n1, *v1;
		uint64_t want_ms;
	} rows[] = {
		{"TERMINATION_GRACE_PERIOD_SECONDS", "30", 25000},
		{"TERMINATION_GRACE_PERIOD_SECONDS", "11", 6000},
		{"TERMINATION_GRACE_PERIOD_SECONDS", "10", 9000},
		{"TERMINATION_GRACE_PERIOD_SECONDS", "1", 1000},
		{"TERMINATION_GRACE_PERIOD_SECONDS", "0", 1000}, /* spec 17, item 61 */
		{"CONNECTION_TERMINATION_DEADLINE", "1m30s", 90000},
		{"CONNECTION_TERMINATION_DEADLINE", "500ms", 500},
		{"CONNECTION_TERMINATION_DEADLINE", "7", 7000},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config c;

		set(rows[i].n1, rows[i].v1, NULL, NULL);
		assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
		assert_int_equal(c.drain_ms, rows[i].want_ms);
		config_free(&c);
	}
}

static void dns__table(void **state)
{
	/* ztunnel-spec 2.2; @captured: where an agent's rules lead to */
	static const struct {
		const char *n1, *v1, *n2, *v2;
		bool enabled, captured;
		uint16_t port;
		const char *domain;
	} rows[] = {
		{NULL, NULL, NULL, NULL, true, true, 15053, "cluster.local"},
		{"ISTIO_META_DNS_CAPTURE", "TRUE", NULL, NULL, true, true, 15053, "cluster.local"},
		{"ISTIO_META_DNS_CAPTURE", "false", NULL, NULL, false, false, 15053,
		 "cluster.local"},
		{"ISTIO_META_DNS_CAPTURE", "1", NULL, NULL, false, false, 15053, "cluster.local"},
		{"ISTIO_META_DNS_CAPTURE", "", NULL, NULL, false, false, 15053, "cluster.local"},
		{"DNS_CAPTURE", "false", NULL, NULL, false, false, 15053, "cluster.local"},
		{"ISTIO_META_DNS_CAPTURE", "true", "DNS_CAPTURE", "false", true, true, 15053,
		 "cluster.local"},
		{"ISTIO_META_DNS_PROXY_ADDR", "localhost:15053", NULL, NULL, true, true, 15053,
		 "cluster.local"},
		{"ISTIO_META_DNS_PROXY_ADDR", "localhost:53", NULL, NULL, true, false, 53,
		 "cluster.local"},
		{"DNS_PROXY_ADDR", "127.0.0.9:15053", NULL, NULL, true, false, 15053,
		 "cluster.local"},
		{"DNS_PROXY_ADDR", "[::1]:15053", "CLUSTER_DOMAIN", "Example.COM", true, false,
		 15053, "example.com"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config c;

		set(rows[i].n1, rows[i].v1, rows[i].n2, rows[i].v2);
		assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
		assert_int_equal(c.workers.dns.enabled, rows[i].enabled);
		assert_int_equal(config_dns_is_captured(&c), rows[i].captured);
		assert_int_equal(c.workers.dns.addr.port, rows[i].port);
		assert_string_equal(c.workers.dns.cluster_domain, rows[i].domain);
		assert_string_equal(c.resolv_conf, "/etc/resolv.conf");
		assert_true(c.workers.dns.ipv6);
		assert_string_equal(warned, "");
		config_free(&c);
	}
}

static void refusals__table(void **state)
{
	static const struct {
		const char *name, *value, *want;
	} rows[] = {
		{"ENABLE_ORIG_SRC", "1",
		 "invalid env var ENABLE_ORIG_SRC=1 (expected true or false)"},
		{"INPOD_PORT_REUSE", "", "invalid env var INPOD_PORT_REUSE= ("},
		{"PACKET_MARK", "0x539", "invalid env var PACKET_MARK=0x539 ("},
		{"SECRET_TTL", "soon", "invalid env var SECRET_TTL=soon ("},
		{"SECRET_TTL", "0", "invalid env var SECRET_TTL=0 (out of range)"},
		{"HTTP2_FRAME_SIZE", "1", "invalid env var HTTP2_FRAME_SIZE=1 ("},
		{"POOL_MAX_STREAMS_PER_CONNECTION", "65536", "from 1 to 65535"},
		{"XDS_ADDRESS", "istiod:15012", "LOCAL_XDS_PATH"},
		{"CA_ADDRESS", "http://istiod:15012", "only https:// is spoken"},
		{"CA_ADDRESS", "istiod:0", "0 is not a port"},
		{"CA_ADDRESS", "istiod:15012:1", "is not a port"},
		{"CA_ADDRESS", "[::1", "expected https://host:port"},
		{"CA_ADDRESS", "https://", "expected https://host:port"},
		{"CA_ADDRESS", "a b", "is not a host"},
		{"PROXY_MODE", "dedicated", "only the shared mode"},
		{"COMPLIANCE_POLICY", "pqc", "compliance"},
		{"TLS12_ENABLED", "true", "TLS 1.3"},
		{"LOCAL_XDS", "{}", "only one of them"},
		{"LOCAL_XDS_PATH", "", "must come from somewhere"},
		{"XDS_ON_DEMAND", "1", "invalid env var XDS_ON_DEMAND=1 (expected true or false)"},
		{"AMBIENT_ADMIN_PORT", "0", "from 1 to 65535"},
		{"ISTIO_META_DNS_PROXY_ADDR", "localhost", "expected localhost:PORT or IP:PORT"},
		{"ISTIO_META_DNS_PROXY_ADDR", "localhost:0", "expected localhost:PORT"},
		{"AMBIENT_DNS_CACHE_BYTES", "16777217",
		 "invalid env var AMBIENT_DNS_CACHE_BYTES=16777217"},
		{"AMBIENT_DNS_CACHE_BYTES", "-1", "invalid env var AMBIENT_DNS_CACHE_BYTES=-1"},
		{"DNS_PROXY_ADDR", "example.com:53", "invalid env var DNS_PROXY_ADDR=example.com"},
		{"CLUSTER_DOMAIN", "", "must not be empty"},
		{"CLUSTER_DOMAIN", "cluster.local.", "expected a domain"},
		{"CLUSTER_DOMAIN", "a b", "expected a domain"},
		{"IPV6_ENABLED", "1", "expected true or false"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		struct config c;

		set(rows[i].name, rows[i].value, NULL, NULL);
		assert_int_not_equal(config_load(&c, env, NULL, 2, warn, &e), 0);
		if (strstr(e.msg, rows[i].want) == NULL)
			fail_msg("%s", e.msg);
	}
}

/* Names are asked for on demand of an istiod only, and not beside the DNS proxy. */
static void on_demand__table(void **state)
{
	static const struct {
		const char *xds, *path, *dns;
		bool accepted, on_demand;
	} rows[] = {
		{NULL, "/state.yaml", NULL, true, false},
		{"https://istiod:15012", "", "false", true, true},
		{"https://istiod:15012", "", NULL, false, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = {0};
		struct config c;

		set("XDS_ON_DEMAND", "true", "LOCAL_XDS_PATH", rows[i].path);
		vars[2].name = "XDS_ADDRESS";
		vars[2].value = rows[i].xds;
		vars[3].name = "ISTIO_META_DNS_CAPTURE";
		vars[3].value = rows[i].dns;
		if (!rows[i].accepted) {
			assert_int_not_equal(config_load(&c, env, NULL, 2, warn, &e), 0);
			assert_non_null(strstr(e.msg, "set ISTIO_META_DNS_CAPTURE=false"));
			continue;
		}
		if (config_load(&c, env, NULL, 2, warn, &e) != 0)
			fail_msg("%s", e.msg);
		assert_int_equal(c.workers.on_demand, rows[i].on_demand);
		assert_int_equal(c.istiod.on_demand, rows[i].on_demand);
		config_free(&c);
	}
}

static void harmless__values(void **state)
{
	static const struct {
		const char *name, *value, *warning;
	} rows[] = {
		{"XDS_ADDRESS", "", ""},
		{"CA_ADDRESS", "", ""},
		{"CRL_PATH", "", ""},
		{"PROXY_MODE", "shared", ""},
		{"ISTIO_META_DNS_CAPTURE", "false", ""},
		{"ISTIO_META_DNS_CAPTURE", "true", ""},
		{"PREFERED_SERVICE_NAMESPACE", "shop", ""},
		{"IPV6_ENABLED", "false", ""},
		{"UNSTABLE_ENABLE_SOCKS5", "true", "UNSTABLE_ENABLE_SOCKS5=true has no effect"},
		{"PROXY_CONFIG", "x: y", "PROXY_CONFIG="},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config c;

		set(rows[i].name, rows[i].value, NULL, NULL);
		assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
		if (rows[i].warning[0] == '\0')
			assert_string_equal(warned, "");
		else
			assert_non_null(strstr(warned, rows[i].warning));
		config_free(&c);
	}
}

static void values__are_taken(void **state)
{
	struct config c;

	(void)state;
	set("ENABLE_ORIG_SRC", "false", "KEEPALIVE_ENABLED", "false");
	assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
	assert_int_equal(c.workers.orig_src, 0);
	assert_int_equal(c.listeners.transparent, 0);
	assert_int_equal(c.workers.keepalive_time_s, 0);
	config_free(&c);
	set("LOCALHOST_APP_TUNNEL", "false", "ENABLE_RESPONSE_BAGGAGE", "false");
	assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
	assert_false(c.workers.app_on_loopback);
	assert_false(c.workers.baggage);
	config_free(&c);
	set("ISTIO_META_CLUSTER_ID", "c1", "CLUSTER_ID", "c2");
	assert_int_equal(config_load(&c, env, NULL, 2, warn, NULL), 0);
	assert_string_equal(c.cluster, "c1");
	assert_true(c.workers.app_on_loopback);
	assert_true(c.workers.baggage);
	config_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),	    cmocka_unit_test(workers__table),
		cmocka_unit_test(drain__table),	    cmocka_unit_test(dns__table),
		cmocka_unit_test(refusals__table),  cmocka_unit_test(on_demand__table),
		cmocka_unit_test(harmless__values), cmocka_unit_test(values__are_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
