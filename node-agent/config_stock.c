/* SPDX-License-Identifier: Apache-2.0
 * config_stock.c: see config_stock.h.
 */
#include "node-agent/config_stock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "node-agent/config.h"
#include "node-agent/enrol/eligibility.h"

const char *const config_stock_how[STOCK_HOW_N] = {
	[STOCK_HONOURED] = "honoured",
	[STOCK_ACCEPTED] = "accepted",
	[STOCK_WARNED] = "accepted, with a warning",
	[STOCK_REFUSED] = "refused",
};

const struct stock_env config_stock_env[] = {
	{"AMBIENT_ENABLED", "false", STOCK_REFUSED, "this agent does nothing but ambient mode",
	 "ambient.enabled"},
	{"CHAINED_CNI_PLUGIN", "true", STOCK_HONOURED, "as --install-cni=chained", "chained"},
	{"CHAINED_CNI_PLUGIN", "false", STOCK_REFUSED,
	 "a configuration of its own beside the network's is not written; pods would start outside "
	 "of the mesh",
	 "chained"},
	{"ISTIO_OWNED_CNI_CONFIG", "true", STOCK_HONOURED, "as --install-cni=owned",
	 "istioOwnedCNIConfig"},
	{"AMBIENT_DISABLE_SAFE_UPGRADE", "true", STOCK_HONOURED,
	 "each stop takes the plugin off the node", NULL},
	{"AMBIENT_IPV6", "false", STOCK_WARNED,
	 "IPv6 is captured wherever a pod has it, or it would go around the mesh", "ambient.ipv6"},
	{"FORCE_IPTABLES_BINARY", NULL, STOCK_WARNED, "rules are made with nftables only", NULL},
	{"REPAIR_ENABLED", "true", STOCK_WARNED, "pods with sidecars are not repaired",
	 "repair.enabled"},
	{"CNI_CONF_GROUP_READ", "true", STOCK_WARNED, "new files have mode 0600", NULL},
	{"AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE", "false", STOCK_HONOURED,
	 "branch interfaces of AWS get no rules of their own", NULL},
	{"AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", NULL, STOCK_ACCEPTED,
	 "rules are always read back and put right", "ambient.reconcileIptablesOnStartup"},
	{"ENABLE_AMBIENT_DETECTION_RETRY", NULL, STOCK_ACCEPTED,
	 "what is not known is always an error that the runtime retries",
	 "ambient.enableAmbientDetectionRetry"},
	{"NATIVE_NFTABLES", NULL, STOCK_ACCEPTED, "rules are always made with nftables",
	 "global.nativeNftables"},
	{"AMBIENT_USE_SCOPED_XTABLES_LOCKING", NULL, STOCK_ACCEPTED, "there are no xtables", NULL},
	{"ALLOW_SWITCH_TO_HOST_NS", NULL, STOCK_ACCEPTED,
	 "the node's network namespace is found below --host-root",
	 "ambient.shareHostNetworkNamespace"},
	{"KUBECONFIG_MODE", NULL, STOCK_ACCEPTED, "the plugin has no kubeconfig", NULL},
	{"KUBE_CA_FILE", NULL, STOCK_ACCEPTED, "the plugin has no kubeconfig", NULL},
	{"SKIP_TLS_VERIFY", NULL, STOCK_ACCEPTED, "the plugin has no kubeconfig", NULL},
	{"CNI_NETWORK_CONFIG", NULL, STOCK_ACCEPTED, "not used by stock either", NULL},
	{"CNI_NETWORK_CONFIG_FILE", NULL, STOCK_ACCEPTED, "not used by stock either", NULL},
	{"LOG_LEVEL", NULL, STOCK_ACCEPTED, "not used by stock either; AMBIENT_LOG is ours", NULL},
	{"KUBERNETES_NODE_NAME", NULL, STOCK_ACCEPTED, "not used for ambient mode", NULL},
	{"POD_NAME", NULL, STOCK_ACCEPTED, "nothing depends on it", NULL},
	{"REVISION", NULL, STOCK_ACCEPTED, "nothing depends on it", NULL},
	{"CURRENT_AGENT_VERSION", NULL, STOCK_ACCEPTED, "nothing depends on it", "tag"},
};
const size_t config_stock_env_n = ARRAY_LEN(config_stock_env);

/* --- flags --- */

/* Those with a variable of the same name in capitals (cni-spec 3.1). What config.c has as a flag of
 * ours under the same name is not here. */
static const struct {
	const char *name;
	bool is_switch; /* alone it means true; its value comes after '=' only */
} env_flags[] = {
	{"chained-cni-plugin", true},
	{"cni-network-config", false},
	{"cni-network-config-file", false},
	{"istio-owned-cni-config", true},
	{"istio-owned-cni-config-filename", false},
	{"log-level", false},
	{"mounted-cni-net-dir", false},
	{"kubeconfig-mode", false},
	{"cni-conf-group-read", true},
	{"kube-ca-file", false},
	{"skip-tls-verify", true},
	{"ambient-enabled", true},
	{"enable-ambient-detection-retry", true},
	{"repair-enabled", true},
	{"repair-delete-pods", true},
	{"repair-label-pods", true},
	{"repair-broken-pod-label-key", false},
	{"repair-broken-pod-label-value", false},
	{"repair-node-name", false},
	{"repair-sidecar-annotation", false},
	{"repair-init-container-name", false},
	{"repair-init-container-termination-message", false},
	{"repair-init-container-exit-code", false},
	{"repair-label-selectors", false},
	{"repair-field-selectors", false},
};

/* Of its logging and its introspection: there is nothing like them here, and nothing depends on
 * them. */
static const char *const passed_over[] = {"log_target", "log_stacktrace_level", "log_caller",
					  "ctrlz_port", "ctrlz_address"};

bool config_stock_is_install_cni(int argc, char *const *argv)
{
	const char *name = argc > 0 ? argv[0] : "";
	const char *slash = strrchr(name, '/');

	return strcmp(slash != NULL ? slash + 1 : name, "install-cni") == 0;
}

static bool take_level(struct str s, const char **ret)
{
	static const struct {
		const char *stock, *ours;
	} levels[] = {{"none", "off"},	{"fatal", "error"}, {"error", "error"},
		      {"warn", "warn"}, {"info", "info"},   {"debug", "debug"}};

	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (str_eqc(s, levels[i].stock)) {
			*ret = levels[i].ours;
			return true;
		}
	return false;
}

int config_stock_log_filter(struct str levels, struct strbuf *out, bool *ret_plugin_debug)
{
	_cleanup_strbuf_ struct strbuf scopes = {0};
	const char *all = "info", *plugin = NULL;
	bool more = true;

	while (more) {
		struct str item, scope = STR("default");
		const char *level;

		more = str_cut(&levels, ',', &item);
		item = str_trim(more ? item : levels);
		if (item.n == 0)
			continue;
		if (!take_level(item, &level) &&
		    (!str_cut(&item, ':', &scope) || scope.n == 0 || !take_level(item, &level)))
			return -EINVAL;
		if (str_eqc(scope, "cni-plugin"))
			plugin = level;
		else if (str_eqc(scope, "default") || str_eqc(scope, "all") ||
			 str_eqc(scope, "cni-agent"))
			all = level;
		else
			strbuf_printf(&scopes, ",%.*s=%s", STR_FMT(scope), level);
	}
	strbuf_puts(out, all);
	strbuf_str(out, (struct str){scopes.p, scopes.n});
	*ret_plugin_debug = strcmp(plugin != NULL ? plugin : all, "debug") == 0;
	return 0;
}

static int set_levels(struct config *c, const char *value, struct err *err)
{
	_cleanup_strbuf_ struct strbuf filter = {0};

	if (config_stock_log_filter(str_of(value), &filter, &c->plugin_debug) < 0 ||
	    log_set_filter(filter.p) < 0)
		return err_set(err, EINVAL,
			       "--log_output_level %s: expected scope:level, with none, error, "
			       "warn, info or debug, separated by commas",
			       str_shown(str_of(value)));
	free(c->log_filter);
	c->log_filter = strbuf_take(&filter);
	return 0;
}

static int set_json(const char *value, struct err *err)
{
	bool yes = true;

	if (value != NULL && eligibility_parse_bool(str_of(value), &yes) < 0)
		return err_set(err, EINVAL, "--log_as_json=%s: expected true or false",
			       str_shown(str_of(value)));
	if (setenv("LOG_FORMAT", yes ? "json" : "plain", 1) < 0)
		return err_errno(err, errno, "--log_as_json");
	log_init();
	return 0;
}

static int to_env(const char *flag, const char *value, struct err *err)
{
	_cleanup_free_ char *name = xstrdup(flag);

	for (char *p = name; *p != '\0'; p++)
		*p = *p == '-' ? '_' : (char)(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
	return setenv(name, value, 1) < 0 ? err_errno(err, errno, "--%s", flag) : 0;
}

/* A flag as the Go program reads it: two dashes, its value after '=' or as the next word. */
struct flag {
	struct str name;
	const char *value; /* NULL: none yet */
	char *next;	   /* the word after it, or NULL */
	bool took_next;
};

static int need_value(struct flag *f, struct err *err)
{
	if (f->value == NULL) {
		f->value = f->next;
		f->took_next = true;
	}
	return f->value != NULL ? 0
				: err_set(err, EINVAL, "--%.*s needs a value", STR_FMT(f->name));
}

/* 1: not one of install-cni's own. */
static int take_flag(struct config *c, struct flag *f, struct err *err)
{
	if (str_eqc(f->name, "log_as_json"))
		return set_json(f->value, err);
	if (str_eqc(f->name, "log_output_level")) {
		int r = need_value(f, err);

		return r < 0 ? r : set_levels(c, f->value, err);
	}
	for (size_t i = 0; i < ARRAY_LEN(passed_over); i++)
		if (str_eqc(f->name, passed_over[i]))
			return need_value(f, err);
	for (size_t i = 0; i < ARRAY_LEN(env_flags); i++) {
		int r;

		if (!str_eqc(f->name, env_flags[i].name))
			continue;
		if (f->value == NULL && env_flags[i].is_switch)
			f->value = "true";
		r = need_value(f, err);
		return r < 0 ? r : to_env(env_flags[i].name, f->value, err);
	}
	return 1;
}

int config_stock_args(struct config *c, int *argc, char **argv, struct err *err)
{
	int kept = 1, i = 1;

	while (i < *argc) {
		struct flag f = {.next = i + 1 < *argc ? argv[i + 1] : NULL};
		const char *eq = strchr(argv[i], '=');
		int r = 1;

		if (strncmp(argv[i], "--", 2) == 0) {
			f.name = eq != NULL ? (struct str){argv[i] + 2, (size_t)(eq - argv[i]) - 2}
					    : str_of(argv[i] + 2);
			f.value = eq != NULL ? eq + 1 : NULL;
			r = take_flag(c, &f, err);
		}
		if (r < 0)
			return r;
		if (r == 1)
			argv[kept++] = argv[i];
		i += f.took_next ? 2 : 1;
	}
	argv[kept] = NULL;
	*argc = kept;
	return 0;
}

/* --- environment --- */

/* The row that the environment meets, or NULL. *ret_bad: the value is no boolean where one is
 * needed. */
static bool applies(const struct stock_env *row, const char *value, bool *ret_bad)
{
	bool yes = false;

	*ret_bad = false;
	if (row->when == NULL)
		return true;
	*ret_bad = eligibility_parse_bool(str_of(value), &yes) < 0;
	return !*ret_bad && yes == (strcmp(row->when, "true") == 0);
}

static void honour(struct config *c, const struct stock_env *row)
{
	if (strcmp(row->name, "AMBIENT_DISABLE_SAFE_UPGRADE") == 0)
		c->leave_always = true;
	if (strcmp(row->name, "AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE") == 0)
		c->branch_probes = false;
	if (c->install_asked)
		return; /* AMBIENT_INSTALL_CNI or the flag says more than these */
	if (strcmp(row->name, "ISTIO_OWNED_CNI_CONFIG") == 0)
		c->install_cni = INSTALL_OWNED; /* comes after the other in the table */
	else if (strcmp(row->name, "CHAINED_CNI_PLUGIN") == 0)
		c->install_cni = INSTALL_CHAINED;
}

/* Three texts: what an operator who wrote a values file looks for. */
#define IN_CHART(row)                                                                              \
	(row)->value != NULL ? " (value " : "", (row)->value != NULL ? (row)->value : "",          \
		(row)->value != NULL ? " of Istio's chart)" : ""

int config_stock_read(struct config *c, struct err *err)
{
	for (size_t i = 0; i < config_stock_env_n; i++) {
		const struct stock_env *row = &config_stock_env[i];
		const char *value = getenv(row->name);
		bool bad;

		if (value == NULL || value[0] == '\0')
			continue;
		if (!applies(row, value, &bad)) {
			if (bad)
				return err_set(err, EINVAL, "%s=%s: expected true or false",
					       row->name, str_shown(str_of(value)));
			continue;
		}
		if (row->how == STOCK_HONOURED)
			honour(c, row);
		else if (row->how == STOCK_WARNED)
			log_warn("config", "%s=%s%s%s%s: %s", row->name, str_shown(str_of(value)),
				 IN_CHART(row), row->why);
		else if (row->how == STOCK_REFUSED)
			return err_set(err, EINVAL, "%s=%s%s%s%s: %s", row->name,
				       str_shown(str_of(value)), IN_CHART(row), row->why);
	}
	return 0;
}
