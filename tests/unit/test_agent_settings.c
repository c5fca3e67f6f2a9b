/* SPDX-License-Identifier: Apache-2.0
 * test_agent_settings.c: the agent's settings: every environment variable of Istio's install-cni
 * (cni-spec 3.1, 7.1) is honoured, accepted or refused on purpose.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "node-agent/config.h"
#include "node-agent/config_stock.h"
#include "node-agent/view.h"

/* Names that config.c reads itself. */
static const char *const ours[] = {
	"CNI_CONF_NAME",
	"ISTIO_OWNED_CNI_CONFIG_FILENAME",
	"ISTIO_OWNED_CNI_CONF_FILENAME",
	"MOUNTED_CNI_NET_DIR",
	"CNI_AGENT_RUN_DIR",
	"MONITORING_PORT",
	"ZTUNNEL_UDS_ADDRESS",
	"EXCLUDE_NAMESPACES",
	"POD_NAMESPACE",
	"AMBIENT_ENABLEMENT_SELECTOR",
	"AMBIENT_DNS_CAPTURE",
	"NODE_NAME",
	"SYSTEM_NAMESPACE",
	"HOST_PROBE_SNAT_IP",
	"HOST_PROBE_SNAT_IPV6",
};
/* cni-spec 3.1 and the ConfigMap of 7.1, in their order. */
static const char *const stock[] = {
	"CNI_CONF_NAME",
	"CHAINED_CNI_PLUGIN",
	"CNI_NETWORK_CONFIG",
	"CNI_NETWORK_CONFIG_FILE",
	"LOG_LEVEL",
	"ISTIO_OWNED_CNI_CONFIG",
	"ISTIO_OWNED_CNI_CONFIG_FILENAME",
	"ISTIO_OWNED_CNI_CONF_FILENAME",
	"MOUNTED_CNI_NET_DIR",
	"CNI_AGENT_RUN_DIR",
	"KUBECONFIG_MODE",
	"CNI_CONF_GROUP_READ",
	"KUBE_CA_FILE",
	"SKIP_TLS_VERIFY",
	"MONITORING_PORT",
	"ZTUNNEL_UDS_ADDRESS",
	"AMBIENT_ENABLED",
	"ENABLE_AMBIENT_DETECTION_RETRY",
	"REPAIR_ENABLED",
	"EXCLUDE_NAMESPACES",
	"POD_NAMESPACE",
	"AMBIENT_ENABLEMENT_SELECTOR",
	"AMBIENT_DNS_CAPTURE",
	"AMBIENT_IPV6",
	"AMBIENT_RECONCILE_POD_RULES_ON_STARTUP",
	"AMBIENT_DISABLE_SAFE_UPGRADE",
	"NATIVE_NFTABLES",
	"FORCE_IPTABLES_BINARY",
	"NODE_NAME",
	"SYSTEM_NAMESPACE",
	"POD_NAME",
	"REVISION",
	"KUBERNETES_NODE_NAME",
	"HOST_PROBE_SNAT_IP",
	"HOST_PROBE_SNAT_IPV6",
	"AMBIENT_USE_SCOPED_XTABLES_LOCKING",
	"AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE",
	"ALLOW_SWITCH_TO_HOST_NS",
	"CURRENT_AGENT_VERSION",
};

/* Reads the settings of an environment that has only @vars (name, value, ..., NULL), and the flags.
 */
static int read_env(const char *const *vars, char **argv, int argc, struct config *c,
		    struct err *err)
{
	char *none[] = {(char[]){"x"}, NULL};
	const char *form = getenv("CMOCKA_MESSAGE_OUTPUT"); /* cmocka reads it at each line */
	enum config_action action;

	assert_int_equal(clearenv(), 0);
	if (form != NULL)
		assert_int_equal(setenv("CMOCKA_MESSAGE_OUTPUT", form, 1), 0);
	for (size_t i = 0; vars != NULL && vars[i] != NULL; i += 2)
		assert_int_equal(setenv(vars[i], vars[i + 1], 1), 0);
	return config_read(c, argv != NULL ? argc : 1, argv != NULL ? argv : none, &action, err);
}

static bool is_ours(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		if (strcmp(ours[i], name) == 0)
			return true;
	return false;
}

static void config_stock__every_name_has_a_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(stock); i++) {
		bool found = is_ours(stock[i]);

		for (size_t k = 0; k < config_stock_env_n; k++)
			found = found || strcmp(config_stock_env[k].name, stock[i]) == 0;
		if (!found)
			fail_msg("%s is neither honoured, accepted nor refused", stock[i]);
	}
}

/* Each row, with the value that meets it: refused rows name the variable, all others start. */
static void config_stock__rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < config_stock_env_n; i++) {
		const struct stock_env *row = &config_stock_env[i];
		const char *vars[] = {row->name, row->when != NULL ? row->when : "x", NULL};
		struct err err = {0};
		struct config c;
		int r = read_env(vars, NULL, 0, &c, &err);

		assert_true(row->why[0] != '\0' && row->how < STOCK_HOW_N);
		if ((r < 0) != (row->how == STOCK_REFUSED))
			fail_msg("%s=%s: %d %s", row->name, vars[1], r, err.msg);
		if (r < 0)
			assert_non_null(strstr(err.msg, row->name));
		config_fini(&c);
		/* a switch that is no boolean is an error that names it */
		vars[1] = "perhaps";
		err = (struct err){0};
		r = read_env(vars, NULL, 0, &c, &err);
		assert_int_equal(r < 0, row->when != NULL);
		if (r < 0)
			assert_non_null(strstr(err.msg, row->name));
		config_fini(&c);
	}
}

static enum install_mode mode_of(const char *chained, const char *owned, const char *install)
{
	const char *vars[] = {"CHAINED_CNI_PLUGIN",
			      chained,
			      "ISTIO_OWNED_CNI_CONFIG",
			      owned,
			      "AMBIENT_INSTALL_CNI",
			      install,
			      NULL};
	enum install_mode m;
	struct err err = {0};
	struct config c;

	if (read_env(vars, NULL, 0, &c, &err) < 0)
		fail_msg("%s", err.msg);
	m = c.install_cni;
	config_fini(&c);
	return m;
}

static void config_stock__how_the_plugin_is_installed(void **state)
{
	(void)state;
	assert_int_equal(mode_of("", "", ""), INSTALL_OFF);
	assert_int_equal(mode_of("true", "false", ""), INSTALL_CHAINED);
	assert_int_equal(mode_of("true", "true", ""), INSTALL_OWNED);
	assert_int_equal(mode_of("", "1", ""), INSTALL_OWNED);
	assert_int_equal(mode_of("true", "true", "off"), INSTALL_OFF);
	assert_int_equal(mode_of("true", "true", "chained"), INSTALL_CHAINED);
}

/* --- as install-cni --- */

static void install_cni__is_the_name_of_the_program(void **state)
{
	static const struct {
		const char *name;
		bool is;
	} rows[] = {
		{"install-cni", true},
		{"/usr/bin/install-cni", true},
		{"./install-cni", true},
		{"ambient-agent", false},
		{"/install-cni/agent", false},
		{"install-cni2", false},
		{"/usr/bin/my-install-cni", false},
		{"", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char *argv[] = {xstrdup(rows[i].name), NULL};

		if (config_stock_is_install_cni(1, argv) != rows[i].is)
			fail_msg("%s", rows[i].name);
		free(argv[0]);
	}
	assert_false(config_stock_is_install_cni(0, NULL));
}

/* The ConfigMap and the environment of Istio's chart with profile ambient, as rendered. */
#define CHART                                                                                      \
	"CURRENT_AGENT_VERSION", "1.31", "AMBIENT_ENABLED", "true", "AMBIENT_ENABLEMENT_SELECTOR", \
		"- podSelector:\n    matchLabels:\n      istio.io/dataplane-mode: ambient\n",      \
		"AMBIENT_DNS_CAPTURE", "true", "AMBIENT_IPV6", "true",                             \
		"AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "true",                                  \
		"ENABLE_AMBIENT_DETECTION_RETRY", "false", "ISTIO_OWNED_CNI_CONFIG", "false",      \
		"CHAINED_CNI_PLUGIN", "true", "EXCLUDE_NAMESPACES", "kube-system,x",               \
		"REPAIR_ENABLED", "true", "REPAIR_LABEL_PODS", "false", "NATIVE_NFTABLES",         \
		"false", "REPAIR_NODE_NAME", "n", "REPAIR_RUN_AS_DAEMON", "true",                  \
		"ALLOW_SWITCH_TO_HOST_NS", "true", "NODE_NAME", "n", "GOMEMLIMIT", "1",            \
		"POD_NAME", "istio-cni-node-x", "POD_NAMESPACE", "mesh",                           \
		"KUBERNETES_SERVICE_HOST", "10.0.0.1"

static void install_cni__in_istios_chart(void **state)
{
	const char *vars[] = {CHART, NULL};
	char *argv[] = {(char[]){"install-cni"}, (char[]){"--log_output_level=info"},
			(char[]){"--log_as_json"}, NULL};
	struct err err = {0};
	struct config c;

	(void)state;
	if (read_env(vars, argv, 3, &c, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(c.as_install_cni && c.replace_istio_cni && !c.leave_always);
	assert_int_equal(c.install_cni, INSTALL_CHAINED);
	assert_string_equal(c.host_root, "/host");
	assert_string_equal(c.cni_conf_dir, "/host/etc/cni/net.d");
	assert_string_equal(c.cni_bin_dir, "/host/opt/cni/bin");
	assert_string_equal(c.cni_plugin, "/opt/cni/bin/ambient-cni");
	assert_string_equal(c.cni_owned_conf_name, "02-istio-cni.conflist");
	assert_string_equal(c.run_dir, "/var/run/istio-cni");
	assert_string_equal(c.state_dir, "/var/run/istio-cni/state");
	assert_string_equal(c.node_name, "n");
	assert_string_equal(c.pod_namespace, "mesh");
	assert_string_equal(c.log_filter, "info");
	assert_true(c.dns_capture && c.has_selectors && c.nexcluded == 2);
	assert_true(c.health_port == 8000 && c.monitoring_port == 15014);
	assert_int_equal(c.source, CONFIG_SOURCE_KUBERNETES);
	assert_string_equal(getenv("LOG_FORMAT"), "json");
	config_fini(&c);
	/* what the chart refuses to be without is refused by the name of its value */
	static const struct {
		const char *name, *value, *in_chart;
	} refused[] = {
		{"AMBIENT_ENABLED", "false", "ambient.enabled"},
		{"CHAINED_CNI_PLUGIN", "false", "chained"},
	};
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		const char *with[] = {CHART, refused[i].name, refused[i].value, NULL};

		argv[1] = NULL;
		assert_true(read_env(with, argv, 1, &c, &err) < 0);
		assert_non_null(strstr(err.msg, refused[i].name));
		assert_non_null(strstr(err.msg, refused[i].in_chart));
		config_fini(&c);
	}
}

static void install_cni__namespaces_to_leave_out_may_be_none(void **state)
{
	const char *vars[] = {"EXCLUDE_NAMESPACES", "", NULL};
	char *argv[] = {(char[]){"install-cni"}, NULL};
	struct err err = {0};
	struct config c;

	(void)state;
	assert_int_equal(read_env(vars, argv, 1, &c, &err), 0);
	assert_int_equal(c.nexcluded, 0);
	config_fini(&c);
}

static void install_cni__flags(void **state)
{
	char *argv[] = {(char[]){"/usr/bin/install-cni"},
			(char[]){"--chained-cni-plugin"},
			(char[]){"--istio-owned-cni-config=true"},
			(char[]){"--istio-owned-cni-config-filename"},
			(char[]){"07-x.conflist"},
			(char[]){"--mounted-cni-net-dir=/d"},
			(char[]){"--log_target"},
			(char[]){"stdout"},
			(char[]){"--ctrlz_port=1"},
			(char[]){"--cni-agent-run-dir=/r"},
			(char[]){"--log_output_level"},
			(char[]){"default:warn,cni-plugin:debug"},
			(char[]){"--log_as_json=false"},
			NULL};
	static const struct {
		const char *args[2];
		const char *msg;
	} bad[] = {
		{{"--log_output_level=loud"}, "log_output_level"},
		{{"--log_output_level"}, "log_output_level needs a value"},
		{{"--log_as_json=maybe"}, "log_as_json"},
		{{"--ambient-enabled=false"}, "AMBIENT_ENABLED"},
		{{"--kube-ca-file"}, "kube-ca-file needs a value"},
		{{"--no-such-flag"}, "--no-such-flag"},
		{{"word"}, "word"},
	};
	const char *vars[] = {"MOUNTED_CNI_NET_DIR", "/other", NULL};
	struct err err = {0};
	struct config c;

	(void)state;
	if (read_env(vars, argv, (int)ARRAY_LEN(argv) - 1, &c, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(c.install_cni, INSTALL_OWNED);
	assert_string_equal(c.cni_owned_conf_name, "07-x.conflist");
	assert_string_equal(c.cni_conf_dir, "/d"); /* the flag wins */
	assert_string_equal(c.run_dir, "/r");
	assert_string_equal(c.log_filter, "warn");
	assert_true(c.plugin_debug);
	assert_string_equal(getenv("LOG_FORMAT"), "plain");
	config_fini(&c);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		_cleanup_free_ char *word = xstrdup(bad[i].args[0]);
		char *words[] = {(char[]){"install-cni"}, word, NULL};

		err = (struct err){0};
		if (read_env(NULL, words, 2, &c, &err) >= 0 || strstr(err.msg, bad[i].msg) == NULL)
			fail_msg("%s: %s", bad[i].args[0], err.msg);
		config_fini(&c);
	}
	/* under its own name the agent knows none of them */
	char *ours_argv[] = {(char[]){"ambient-agent"}, (char[]){"--log_as_json"}, NULL};

	assert_true(read_env(NULL, ours_argv, 2, &c, &err) < 0);
	config_fini(&c);
}

static void config_stock_log_filter__table(void **state)
{
	static const struct {
		const char *in, *want; /* NULL: refused */
		bool debug;
	} rows[] = {
		{"info", "info", false},
		{"debug", "debug", true},
		{"", "info", false},
		{"none", "off", false},
		{"fatal", "error", false},
		{"default:info,cni-plugin:debug", "info", true},
		{"cni-plugin:info,all:debug", "debug", false},
		{" default:warn , kube:debug", "warn,kube=debug", false},
		{"cni-agent:error,x:none", "error,x=off", false},
		{"loud", NULL, false},
		{"default:loud", NULL, false},
		{":info", NULL, false},
		{"default:", NULL, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		bool debug = false;
		int r = config_stock_log_filter(str_of(rows[i].in), &out, &debug);

		if (rows[i].want == NULL
			    ? r == 0
			    : r != 0 || strcmp(out.p, rows[i].want) != 0 || debug != rows[i].debug)
			fail_msg("\"%s\": %d %s %d", rows[i].in, r, out.p != NULL ? out.p : "",
				 debug);
	}
}

static void config__host_root(void **state)
{
	static const struct {
		const char *in, *want;
	} rows[] = {{"/host", "/host"}, {"/host/", "/host"}, {"/", ""}, {"//", ""}, {"host", NULL}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *vars[] = {"AMBIENT_HOST_ROOT", rows[i].in, NULL};
		struct err err = {0};
		struct config c;
		int r = read_env(vars, NULL, 0, &c, &err);

		if (rows[i].want == NULL)
			assert_true(r < 0 && strstr(err.msg, "AMBIENT_HOST_ROOT") != NULL);
		else
			assert_string_equal(c.host_root, rows[i].want);
		config_fini(&c);
	}
}

static void view_path__table(void **state)
{
	static const struct {
		const char *root, *in, *want;
	} rows[] = {
		{"", "/var/run/netns/a", "/var/run/netns/a"},
		{"", "/run/netns/a", "/run/netns/a"},
		{"/host", "/var/run/netns/a", "/host/var/run/netns/a"},
		{"/host", "/run/netns/a", "/host/var/run/netns/a"},
		{"/host", "/proc/7/ns/net", "/host/proc/7/ns/net"},
		{"/host", "/proc", "/host/proc"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_free_ char *got = NULL;

		view_set(rows[i].root);
		got = view_path(rows[i].in);
		assert_string_equal(got, rows[i].want);
	}
	view_set("");
}

static void config__excluded_namespaces(void **state)
{
	static const struct {
		const char *text;
		size_t n;
		const char *first;
	} rows[] = {
		{"a", 1, "a"},	   {"a,b", 2, "a"},	   {" a , b ", 2, "a"}, {"a,", 1, "a"},
		{",a", 1, "a"},	   {"a,,b", 2, "a"},	   {" ", 0, NULL},	{",", 0, NULL},
		{" , ,", 0, NULL}, {"", 1, "kube-system"}, {"\ta\t,b", 2, "a"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *vars[] = {"EXCLUDE_NAMESPACES", rows[i].text, NULL};
		struct err err = {0};
		struct config c;

		assert_int_equal(read_env(vars, NULL, 0, &c, &err), 0);
		assert_int_equal(c.nexcluded, rows[i].n);
		if (rows[i].n != 0)
			assert_true(str_eqc(c.excluded[0], rows[i].first));
		config_fini(&c);
	}
}

static void config__selectors(void **state)
{
	const char *vars[] = {"AMBIENT_ENABLEMENT_SELECTOR",
			      "- podSelector: {matchLabels: {a: b}}\n", NULL};
	char *argv[] = {(char[]){"x"}, (char[]){"--enablement-selector=- namespaceSelector: {}\n"},
			NULL};
	struct err err = {0};
	struct config c;

	(void)state;
	assert_int_equal(read_env(NULL, NULL, 0, &c, &err), 0);
	assert_false(c.has_selectors);
	config_fini(&c);
	assert_int_equal(read_env(vars, NULL, 0, &c, &err), 0);
	assert_true(c.has_selectors && c.selectors.n == 1 && c.selectors.keys.n == 1);
	config_fini(&c);
	assert_int_equal(read_env(vars, argv, 2, &c, &err), 0); /* the flag wins */
	assert_true(c.has_selectors && c.selectors.n == 1 && c.selectors.keys.n == 0);
	config_fini(&c);
	vars[1] = "- podSelector: {matchLabel: {a: b}}\n";
	assert_true(read_env(vars, NULL, 0, &c, &err) < 0);
	assert_non_null(strstr(err.msg, "AMBIENT_ENABLEMENT_SELECTOR"));
	assert_non_null(strstr(err.msg, "matchLabel"));
	config_fini(&c);
}

static void config__defaults_in_a_pod(void **state)
{
	const char *pod[] = {"KUBERNETES_SERVICE_HOST", "10.0.0.1", "NODE_NAME", "n", NULL};
	const char *set[] = {"MONITORING_PORT", "-1", "AMBIENT_HEALTH_PORT", "81", NULL};
	const char *bad[] = {"MONITORING_PORT", "65536", NULL};
	struct err err = {0};
	struct config c;

	(void)state;
	assert_int_equal(read_env(NULL, NULL, 0, &c, &err), 0);
	assert_true(c.health_port == 0 && c.monitoring_port == 0);
	assert_string_equal(c.state_dir, "/var/lib/ambient-agent");
	config_fini(&c);
	assert_int_equal(read_env(pod, NULL, 0, &c, &err), 0);
	assert_true(c.health_port == 8000 && c.monitoring_port == 15014);
	assert_string_equal(c.state_dir, "/var/run/istio-cni/state");
	config_fini(&c);
	assert_int_equal(read_env(set, NULL, 0, &c, &err), 0);
	assert_true(c.health_port == 81 && c.monitoring_port == 0);
	config_fini(&c);
	assert_true(read_env(bad, NULL, 0, &c, &err) < 0);
	assert_non_null(strstr(err.msg, "MONITORING_PORT"));
	config_fini(&c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_stock__every_name_has_a_place),
		cmocka_unit_test(config_stock__rows),
		cmocka_unit_test(config_stock__how_the_plugin_is_installed),
		cmocka_unit_test(install_cni__is_the_name_of_the_program),
		cmocka_unit_test(install_cni__in_istios_chart),
		cmocka_unit_test(install_cni__namespaces_to_leave_out_may_be_none),
		cmocka_unit_test(install_cni__flags),
		cmocka_unit_test(config_stock_log_filter__table),
		cmocka_unit_test(config__host_root),
		cmocka_unit_test(view_path__table),
		cmocka_unit_test(config__excluded_namespaces),
		cmocka_unit_test(config__selectors),
		cmocka_unit_test(config__defaults_in_a_pod),
	};

	return cmocka_run_group_tests_name("agent_settings", tests, NULL, NULL);
}
