/* SPDX-License-Identifier: Apache-2.0
 * test_cni_netconf.c: the network configuration: defaults, types, bad input, and which pods pass
 * through without a question (cni-spec 1.2, 1.5).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cni/netconf.h"
#include "cni/scope.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

#define C "\"cniVersion\":\"1.1.0\",\"name\":\"mesh\""

struct row {
	const char *name, *in;
	int code;
	const char *msg;
};

static const struct row bad[] = {
	{"empty", "", CNI_DECODE, "standard input is empty"},
	{"blank", "  \n ", CNI_DECODE, "network configuration: "},
	{"not_json", "hello", CNI_DECODE, "JSON"},
	{"cut", "{" C, CNI_DECODE, "JSON"},
	{"two_documents", "{" C "}{}", CNI_DECODE, "JSON"},
	{"duplicate_key", "{" C ",\"name\":\"b\"}", CNI_DECODE, "name appears twice"},
	{"duplicate_key_deep", "{" C ",\"prevResult\":{\"a\":{\"b\":1,\"b\":2}}}", CNI_DECODE,
	 "appears twice"},
	{"nul_in_text", "{" C ",\"type\":\"a\\u0000b\"}", CNI_DECODE, "u0000"},
	{"list", "[]", CNI_BAD_CONFIG, "expected map, got list"},
	{"text", "\"a\"", CNI_BAD_CONFIG, "expected map, got text"},
	{"version_absent", "{\"name\":\"a\"}", CNI_INCOMPATIBLE_VERSION, "\"0.1.0\""},
	{"version_old", "{\"cniVersion\":\"0.2.0\",\"name\":\"a\"}", CNI_INCOMPATIBLE_VERSION,
	 "\"0.2.0\""},
	{"version_new", "{\"cniVersion\":\"1.2.0\",\"name\":\"a\"}", CNI_INCOMPATIBLE_VERSION,
	 "\"1.2.0\""},
	{"version_blank", "{\"cniVersion\":\"1.0.0 \",\"name\":\"a\"}", CNI_INCOMPATIBLE_VERSION,
	 "\"1.0.0 \""},
	{"version_number", "{\"cniVersion\":1,\"name\":\"a\"}", CNI_BAD_CONFIG,
	 "cniVersion (line 1): expected text, got number"},
	{"name_absent", "{\"cniVersion\":\"1.0.0\"}", CNI_BAD_CONFIG, "name is missing"},
	{"name_empty", "{\"cniVersion\":\"1.0.0\",\"name\":\"\"}", CNI_BAD_CONFIG,
	 "name is missing"},
	{"name_slash", "{\"cniVersion\":\"1.0.0\",\"name\":\"a/b\"}", CNI_BAD_CONFIG,
	 "name \"a/b\""},
	{"name_number", "{\"cniVersion\":\"1.0.0\",\"name\":7}", CNI_BAD_CONFIG,
	 "name (line 1): expected text"},
	{"prev_list", "{" C ",\"prevResult\":[]}", CNI_BAD_CONFIG, "prevResult (line 1)"},
	{"run_dir_number", "{" C ",\"cni_agent_run_dir\":1}", CNI_BAD_CONFIG, "cni_agent_run_dir"},
	{"run_dir_empty", "{" C ",\"cni_agent_run_dir\":\"\"}", CNI_BAD_CONFIG,
	 "cni_agent_run_dir: \"\" is not an absolute path"},
	{"run_dir_relative", "{" C ",\"cni_agent_run_dir\":\"run\"}", CNI_BAD_CONFIG,
	 "cni_agent_run_dir: \"run\" is not an absolute path"},
	{"socket_relative", "{" C ",\"agent_socket\":\"x\"}", CNI_BAD_CONFIG,
	 "agent_socket: \"x\" is not an absolute path"},
	{"socket_type", "{" C ",\"agent_socket\":[\"x\"]}", CNI_BAD_CONFIG, "agent_socket"},
	{"timeout_text", "{" C ",\"timeout\":\"soon\"}", CNI_BAD_CONFIG, "timeout (line 1)"},
	{"timeout_zero", "{" C ",\"timeout\":0}", CNI_BAD_CONFIG, "timeout"},
	{"timeout_negative", "{" C ",\"timeout\":-1}", CNI_BAD_CONFIG, "timeout"},
	{"timeout_fraction", "{" C ",\"timeout\":1.5}", CNI_BAD_CONFIG, "timeout"},
	{"timeout_long", "{" C ",\"timeout\":\"121s\"}", CNI_BAD_CONFIG, "100ms to 120s"},
	{"timeout_short", "{" C ",\"timeout\":\"99ms\"}", CNI_BAD_CONFIG, "100ms to 120s"},
	{"timeout_huge", "{" C ",\"timeout\":\"99999999999999999999s\"}", CNI_BAD_CONFIG,
	 "timeout"},
	{"timeout_bool", "{" C ",\"timeout\":true}", CNI_BAD_CONFIG, "got true"},
	{"api_unknown", "{" C ",\"agent_api\":\"Istio\"}", CNI_BAD_CONFIG, "agent_api: expected"},
	{"api_type", "{" C ",\"agent_api\":1}", CNI_BAD_CONFIG, "agent_api"},
	{"log_level_type", "{" C ",\"plugin_log_level\":3}", CNI_BAD_CONFIG, "plugin_log_level"},
	{"ambient_enabled_text", "{" C ",\"ambient_enabled\":\"true\"}", CNI_BAD_CONFIG,
	 "ambient_enabled (line 1): expected true or false, got text"},
	{"nftables_type", "{" C ",\"native_nftables\":1}", CNI_BAD_CONFIG, "native_nftables"},
	{"retry_type", "{" C ",\"enable_ambient_detection_retry\":\"\"}", CNI_BAD_CONFIG,
	 "enable_ambient_detection_retry"},
	{"selectors_type", "{" C ",\"enablement_selectors\":{}}", CNI_BAD_CONFIG,
	 "enablement_selectors"},
	{"pod_namespace_type", "{" C ",\"pod_namespace\":{}}", CNI_BAD_CONFIG, "pod_namespace"},
	{"exclude_type", "{" C ",\"exclude_namespaces\":\"a\"}", CNI_BAD_CONFIG,
	 "exclude_namespaces (line 1): expected list, got text"},
	{"exclude_element", "{" C ",\n\"exclude_namespaces\":[\"a\",1]}", CNI_BAD_CONFIG,
	 "exclude_namespaces[1] (line 2): expected text"},
	{"attachments_type", "{" C ",\"cni.dev/valid-attachments\":{}}", CNI_BAD_CONFIG,
	 "valid-attachments"},
	{"attachments_element", "{" C ",\"cni.dev/valid-attachments\":[{\"containerID\":\"a\"}]}",
	 CNI_BAD_CONFIG, "field ifname is missing"},
	{"attachments_old_key", "{" C ",\"cni.dev/attachments\":[1]}", CNI_BAD_CONFIG,
	 "cni.dev/attachments[0]"},
};

static void netconf_parse__bad(void **state)
{
	const struct row *row = *state;
	struct arena *a = arena_new();
	struct cni_fail f = {0};
	struct netconf c;

	assert_int_equal(netconf_parse(str_of(row->in), a, &c, &f), -1);
	if (f.code != row->code || strstr(f.msg, row->msg) == NULL)
		fail_msg("got %d \"%s\", expected %d \"%s\"", f.code, f.msg, row->code, row->msg);
	(void)arena_free(a);
}

static void parse(const char *in, struct arena *a, struct netconf *c)
{
	struct cni_fail f = {0};

	if (netconf_parse(str_of(in), a, c, &f) != 0)
		fail_msg("%s: %s", in, f.msg);
}

static void netconf_parse__defaults(void **state)
{
	struct arena *a = arena_new();
	struct netconf c;

	(void)state;
	parse("{" C "}", a, &c);
	assert_int_equal(c.version, CNI_V_1_1_0);
	assert_int_equal(c.api, CNI_AGENT_AMBIENT);
	assert_string_equal(c.socket, "/var/run/istio-cni/pluginevent.sock");
	assert_int_equal(c.timeout_ms, 10000);
	assert_true(c.ambient_enabled);
	assert_false(c.debug);
	assert_null(c.prev_result);
	assert_null(c.valid_attachments);
	(void)arena_free(a);
}

static void netconf_parse__everything(void **state)
{
	struct arena *a = arena_new();
	struct netconf c;

	(void)state;
	parse("{\"cniVersion\":\"0.3.1\",\"name\":\"k8s.net-1\",\"type\":\"ambient-cni\","
	      "\"cni_agent_run_dir\":\"/run/x\",\"timeout\":\"1m30s\",\"agent_api\":\"istio\","
	      "\"plugin_log_level\":\"debug\",\"ambient_enabled\":false,\"ipam\":{},\"dns\":{},"
	      "\"enablement_selectors\":[{\"podSelector\":{}}],\"native_nftables\":true,"
	      "\"exclude_namespaces\":[\"kube-system\"],\"pod_namespace\":\"istio-system\","
	      "\"runtimeConfig\":{\"portMappings\":[]},\"prevResult\":{\"a\":1},\"extra\":[null]}",
	      a, &c);
	assert_int_equal(c.version, CNI_V_0_3_1);
	assert_int_equal(c.api, CNI_AGENT_ISTIO);
	assert_string_equal(c.socket, "/run/x/pluginevent.sock");
	assert_int_equal(c.timeout_ms, 90000);
	assert_true(c.debug);
	assert_false(c.ambient_enabled);
	assert_true(str_eqc(c.pod_namespace, "istio-system"));
	assert_true(netconf_excludes(&c, STR("kube-system")));
	assert_false(netconf_excludes(&c, STR("kube-syste")));
	assert_non_null(c.prev_result);
	(void)arena_free(a);
}

static void netconf_parse__null_is_absent(void **state)
{
	struct arena *a = arena_new();
	struct netconf c;

	(void)state;
	parse("{" C ",\"timeout\":null,\"prevResult\":null,\"agent_socket\":null,"
	      "\"exclude_namespaces\":null,\"cni.dev/valid-attachments\":null}",
	      a, &c);
	assert_int_equal(c.timeout_ms, 10000);
	assert_null(c.prev_result);
	assert_null(c.valid_attachments);
	(void)arena_free(a);
}

static void netconf_parse__timeouts(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} t[] = {{"5", 5000},	     {"120", 120000}, {"\"100ms\"", 100},
		 {"\"2m\"", 120000}, {"\"7\"", 7000}, {"\"1s500ms\"", 1500}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct arena *a = arena_new();
		_cleanup_free_ char *in = xasprintf("{" C ",\"timeout\":%s}", t[i].text);
		struct netconf c;

		parse(in, a, &c);
		assert_int_equal(c.timeout_ms, t[i].ms);
		(void)arena_free(a);
	}
}

/* The path is what a unix socket can have, and not one byte more. */
static void netconf_parse__socket_length(void **state)
{
	(void)state;
	for (int n = 106; n <= 109; n++) {
		struct arena *a = arena_new();
		_cleanup_free_ char *in = xasprintf("{" C ",\"agent_socket\":\"/%0*d\"}", n - 1, 0);
		struct cni_fail f = {0};
		struct netconf c;

		assert_int_equal(netconf_parse(str_of(in), a, &c, &f), n <= 107 ? 0 : -1);
		if (n > 107)
			assert_non_null(strstr(f.msg, "agent_socket: the socket's path is longer"));
		else
			assert_int_equal(strlen(c.socket), n);
		(void)arena_free(a);
	}
}

static void netconf_parse__bombs(void **state)
{
	struct arena *a = arena_new();
	_cleanup_strbuf_ struct strbuf deep = {0}, big = {0};
	struct cni_fail f = {0};
	struct netconf c;

	(void)state;
	strbuf_puts(&deep, "{" C ",\"x\":");
	for (int i = 0; i < 100000; i++)
		strbuf_putc(&deep, '[');
	assert_int_equal(netconf_parse((struct str){deep.p, deep.n}, a, &c, &f), -1);
	assert_int_equal(f.code, CNI_DECODE);
	assert_non_null(strstr(f.msg, "nested too deeply"));
	while (big.n <= LIMIT_NETCONF_BYTES)
		strbuf_puts(&big, "                                ");
	assert_int_equal(netconf_parse((struct str){big.p, big.n}, a, &c, &f), -1);
	assert_int_equal(f.code, CNI_BAD_CONFIG);
	assert_non_null(strstr(f.msg, "larger than 1048576 bytes"));
	(void)arena_free(a);
}

/* The error object of a request whose version is known carries that version. */
static void netconf_parse__version_survives_a_later_error(void **state)
{
	struct arena *a = arena_new();
	struct cni_fail f = {0};
	struct netconf c;

	(void)state;
	assert_int_equal(netconf_parse(STR("{\"cniVersion\":\"0.4.0\",\"name\":\"/\"}"), a, &c, &f),
			 -1);
	assert_int_equal(c.version, CNI_V_0_4_0);
	(void)arena_free(a);
}

static void netconf_parse__attachments(void **state)
{
	struct arena *a = arena_new();
	struct netconf c;

	(void)state;
	parse("{" C ",\"cni.dev/attachments\":[{\"containerID\":\"old\",\"ifname\":\"e\"}],"
	      "\"cni.dev/valid-attachments\":[]}",
	      a, &c);
	assert_non_null(c.valid_attachments);
	assert_int_equal(c.valid_attachments->count, 0);
	parse("{" C ",\"cni.dev/attachments\":[{\"containerID\":\"c\",\"ifname\":\"e\"}]}", a, &c);
	assert_int_equal(c.valid_attachments->count, 1);
	(void)arena_free(a);
}

static void scope__table(void **state)
{
	static const struct {
		const char *conf, *ns, *name, *want; /* want NULL: ask the agent */
	} t[] = {
		{"", "shop", "web-1", NULL},
		{"", "", "", "not a Kubernetes pod"},
		{"", "shop", "", "not a Kubernetes pod"},
		{"", "", "web-1", "not a Kubernetes pod"},
		{",\"exclude_namespaces\":[\"a\",\"shop\"]", "shop", "web-1", "exclude_namespaces"},
		{",\"exclude_namespaces\":[\"a\",\"sho\"]", "shop", "web-1", NULL},
		{",\"exclude_namespaces\":[]", "shop", "web-1", NULL},
		{",\"ambient_enabled\":false", "shop", "web-1", "ambient_enabled"},
		{",\"pod_namespace\":\"istio-system\"", "istio-system", "istio-cni-node-x",
		 "own pod"},
		{",\"pod_namespace\":\"istio-system\"", "shop", "istio-cni-node-x", NULL},
		{",\"pod_namespace\":\"istio-system\"", "istio-system", "istio-cni-nod", NULL},
		{",\"pod_namespace\":\"istio-system\"", "istio-system", "x-istio-cni-node-x", NULL},
		{"", "istio-system", "istio-cni-node-x", NULL}, /* no pod_namespace, no bypass */
		{",\"pod_namespace\":\"\"", "", "istio-cni-node-x", "not a Kubernetes pod"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct arena *a = arena_new();
		_cleanup_free_ char *in = xasprintf("{" C "%s}", t[i].conf);
		struct cni_env e = {.pod_name = str_of(t[i].name),
				    .pod_namespace = str_of(t[i].ns)};
		const char *got;
		struct netconf c;

		parse(in, a, &c);
		got = scope_pass_through(&c, &e);
		if ((got == NULL) != (t[i].want == NULL) ||
		    (got != NULL && strstr(got, t[i].want) == NULL))
			fail_msg("row %zu: got %s", i, got != NULL ? got : "NULL");
		(void)arena_free(a);
	}
}

#define PLAIN 9
int main(void)
{
	struct CMUnitTest tests[PLAIN + ARRAY_LEN(bad)] = {
		cmocka_unit_test(netconf_parse__defaults),
		cmocka_unit_test(netconf_parse__everything),
		cmocka_unit_test(netconf_parse__null_is_absent),
		cmocka_unit_test(netconf_parse__timeouts),
		cmocka_unit_test(netconf_parse__socket_length),
		cmocka_unit_test(netconf_parse__bombs),
		cmocka_unit_test(netconf_parse__version_survives_a_later_error),
		cmocka_unit_test(netconf_parse__attachments),
		cmocka_unit_test(scope__table),
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		tests[PLAIN + i] = (struct CMUnitTest){.name = bad[i].name,
						       .test_func = netconf_parse__bad,
						       .initial_state = (void *)(uintptr_t)&bad[i]};
	return cmocka_run_group_tests_name("cni_netconf", tests, NULL, NULL);
}
