/* SPDX-License-Identifier: Apache-2.0
 * config.c: see config.h.
 */
#include "node-agent/config.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "node-agent/config_stock.h"
#include "node-agent/enrol/eligibility.h"

const char config_usage[] =
	"Usage: ambient-agent [OPTIONS]\n"
	"The node agent of an ambient mesh: enrols pods and hands their sockets to ztunnel.\n"
	"\n"
	"  --source manifests|kubernetes\n"
	"                            where pods and namespaces come from [AMBIENT_SOURCE, "
	"default:\n"
	"                            kubernetes with --kubeconfig or in a pod, else manifests]\n"
	"  --manifests DIR           Kubernetes manifests to take pods and namespaces from\n"
	"                            [AMBIENT_MANIFESTS, default /etc/ambient/manifests]\n"
	"  --kubeconfig FILE         how to reach the Kubernetes API [KUBECONFIG, default: what a "
	"pod\n"
	"                            is given]\n"
	"  --cni-agent-run-dir DIR   event sockets and the journal\n"
	"                            [CNI_AGENT_RUN_DIR, default /var/run/istio-cni]\n"
	"  --ztunnel-uds-address P   socket that ztunnel connects to\n"
	"                            [ZTUNNEL_UDS_ADDRESS, default /var/run/ztunnel/ztunnel.sock]\n"
	"  --node-name NAME          take only this node's pods [NODE_NAME, default: every pod;\n"
	"                            required with --source kubernetes]\n"
	"  --exclude-namespaces L    comma list never enrolled [EXCLUDE_NAMESPACES, default\n"
	"                            kube-system]\n"
	"  --system-namespace NS     where pods labelled app=ztunnel are ztunnel itself\n"
	"                            [SYSTEM_NAMESPACE, default istio-system]\n"
	"  --enablement-selector Y   YAML list of {podSelector, namespaceSelector} pairs that put "
	"a\n"
	"                            pod into the mesh [AMBIENT_ENABLEMENT_SELECTOR, default: the\n"
	"                            label istio.io/dataplane-mode of pod and namespace]\n"
	"  --dns-capture BOOL        capture the pods' DNS [AMBIENT_DNS_CAPTURE, default false]\n"
	"  --host-probes auto|off    exempt the kubelet's probes [AMBIENT_HOST_PROBES, auto]\n"
	"  --host-probe-snat-ip IP   source that probes get [HOST_PROBE_SNAT_IP, 169.254.7.127]\n"
	"  --host-probe-snat-ipv6 IP [HOST_PROBE_SNAT_IPV6]\n"
	"  --ztunnel-grace DURATION  how long pods are taken after ztunnel went away, their\n"
	"                            connections waiting [AMBIENT_ZTUNNEL_GRACE, default 30s]\n"
	"  --release-limit DURATION  how long connections through the mesh may go on after their\n"
	"                            pod left it [AMBIENT_RELEASE_LIMIT, default 30s]\n"
	"  --state-dir DIR           where the last good picture of the Kubernetes API is kept, "
	"for a\n"
	"                            start while the API is away; '' keeps none\n"
	"                            [AMBIENT_STATE_DIR, default /var/lib/ambient-agent; in a pod\n"
	"                            state in --cni-agent-run-dir]\n"
	"  --health-port PORT        serves /healthz and /readyz on every address; 0: does not\n"
	"                            [AMBIENT_HEALTH_PORT, default 8000 in a pod, else 0]\n"
	"  --monitoring-port PORT    serves /metrics on every address; 0: does not\n"
	"                            [MONITORING_PORT, default 15014 in a pod, else 0]\n"
	"  --install-cni MODE        off, chained (the plugin's entry goes into the network's own\n"
	"                            file) or owned (into a file that comes before it)\n"
	"                            [AMBIENT_INSTALL_CNI, default off]\n"
	"  --cni-plugin FILE         the plugin to copy [AMBIENT_CNI_PLUGIN, default: none, it is\n"
	"                            where it belongs]\n"
	"  --cni-bin-dir DIR         [AMBIENT_CNI_BIN_DIR, default /opt/cni/bin]\n"
	"  --cni-conf-dir DIR        [MOUNTED_CNI_NET_DIR, default /etc/cni/net.d]\n"
	"  --cni-conf-name NAME      the network's own file [CNI_CONF_NAME, default: the first\n"
	"                            usable one]\n"
	"  --cni-owned-conf-name N   the file of owned [ISTIO_OWNED_CNI_CONFIG_FILENAME, default\n"
	"                            05-ambient.conflist, or 00- if another comes before it]\n"
	"  --replace-istio-cni       take the place of Istio's plugin [AMBIENT_REPLACE_ISTIO_CNI]\n"
	"  --host-root DIR           where the node's /proc and /var/run/netns are mounted, of a "
	"pod "
	"that\n"
	"                            does not share the node's namespaces [AMBIENT_HOST_ROOT, "
	"default:\n"
	"                            they are ours]\n"
	"  --pod-namespace NS        of the agent's own pod, which the plugin lets pass\n"
	"                            [POD_NAMESPACE, default: the agent is no pod]\n"
	"  --uninstall               take plugin and configuration off the node, and end\n"
	"  --release-pods            with --uninstall: take the rules out of the pods, too\n"
	"  --stay                    with --uninstall: when it is done, wait for SIGTERM instead "
	"of\n"
	"                            ending\n"
	"  --log FILTER              level or scope=level list [AMBIENT_LOG, default info]\n"
	"  --help, --version\n"
	"\n"
	"A flag wins over its environment variable. Started as install-cni it takes flags, "
	"variables "
	"and\n"
	"mounts of Istio's chart. See ambient-agent(8).\n";

const char *const config_install_name[INSTALL_MODE_N] = {
	[INSTALL_OFF] = "off",
	[INSTALL_CHAINED] = "chained",
	[INSTALL_OWNED] = "owned",
};

/* One setting: how it is named and what takes its text. */
struct setting {
	const char *flag, *env;
	int (*set)(struct config *c, char **at, const char *value, struct err *err);
	size_t offset; /* of a char * for set_path, set_text and the like */
};

static int set_text(struct config *c, char **at, const char *value, struct err *err)
{
	(void)c;
	(void)err;
	free(*at);
	*at = xstrdup(value);
	return 0;
}

static int set_path(struct config *c, char **at, const char *value, struct err *err)
{
	if (value[0] != '/')
		return err_set(err, EINVAL, "expected an absolute path");
	return set_text(c, at, value, err);
}

/* "" or an absolute path; slashes at its end go. */
static int set_host_root(struct config *c, char **at, const char *value, struct err *err)
{
	int r = value[0] == '\0' ? set_text(c, at, value, err) : set_path(c, at, value, err);

	for (size_t n = r == 0 ? strlen(*at) : 0; n != 0 && (*at)[n - 1] == '/'; n--)
		(*at)[n - 1] = '\0';
	return r;
}

static int set_manifests(struct config *c, char **at, const char *value, struct err *err)
{
	int r = set_path(c, at, value, err);

	c->manifests_asked = r == 0;
	return r;
}

/* Looked at by choose_source() only: whatever a shell has in it must not hinder other sources. */
static int set_kubeconfig(struct config *c, char **at, const char *value, struct err *err)
{
	return set_text(c, at, value, err);
}

static int set_source(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (strcmp(value, "manifests") == 0)
		c->source = CONFIG_SOURCE_MANIFESTS;
	else if (strcmp(value, "kubernetes") == 0)
		c->source = CONFIG_SOURCE_KUBERNETES;
	else
		return err_set(err, EINVAL, "expected manifests or kubernetes");
	return 0;
}

static int set_excluded(struct config *c, char **at, const char *value, struct err *err)
{
	struct str rest, item;
	bool more = true;

	(void)at;
	free(c->excluded_text);
	c->excluded_text = xstrdup(value);
	c->nexcluded = 0;
	rest = str_of(c->excluded_text);
	while (more) {
		more = str_cut(&rest, ',', &item);
		item = str_trim(more ? item : rest);
		if (item.n == 0)
			continue;
		if (c->nexcluded == CONFIG_EXCLUDED_MAX)
			return err_set(err, EINVAL, "more than %d namespaces", CONFIG_EXCLUDED_MAX);
		c->excluded[c->nexcluded++] = item;
	}
	return 0;
}

static int set_selectors(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	selectors_fini(&c->selectors);
	c->has_selectors = true;
	return selectors_parse(str_of(value), &c->selectors, err);
}

/* An absolute path, or nothing. */
static int set_state_dir(struct config *c, char **at, const char *value, struct err *err)
{
	c->state_dir_asked = true;
	return value[0] == '\0' ? set_text(c, at, value, err) : set_path(c, at, value, err);
}

static int parse_port(const char *value, uint16_t *ret, struct err *err)
{
	if (parse_u16(str_of(value), 0, UINT16_MAX, ret) < 0)
		return err_set(err, EINVAL, "expected a port, 0 to 65535");
	return 0;
}

static int set_health_port(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	c->health_port_asked = true;
	return parse_port(value, &c->health_port, err);
}

/* Stock takes every number up to 0 for "none" (cni-spec 3.1). */
static int set_monitoring_port(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	c->monitoring_port_asked = true;
	return parse_port(strcmp(value, "-1") == 0 ? "0" : value, &c->monitoring_port, err);
}

static int set_dns(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (eligibility_parse_bool(str_of(value), &c->dns_capture) < 0)
		return err_set(err, EINVAL, "expected true or false");
	return 0;
}

static int set_probes(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (strcmp(value, "auto") != 0 && strcmp(value, "off") != 0)
		return err_set(err, EINVAL, "expected auto or off");
	c->host_probes = strcmp(value, "auto") == 0;
	return 0;
}

static int set_probe_ip(struct config *c, char **at, const char *value, struct err *err)
{
	struct ip_addr ip;

	(void)at;
	if (ip_parse(str_of(value), &ip) < 0 || ip.len != 4)
		return err_set(err, EINVAL, "expected an IPv4 address");
	c->probe_v4 = ip;
	return 0;
}

static int set_probe_ip6(struct config *c, char **at, const char *value, struct err *err)
{
	struct ip_addr ip;

	(void)at;
	if (ip_parse(str_of(value), &ip) < 0 || ip.len != 16)
		return err_set(err, EINVAL, "expected an IPv6 address");
	c->probe_v6 = ip;
	return 0;
}

static int set_release_limit(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (parse_duration_ms(str_of(value), &c->release_limit_ms) < 0 ||
	    c->release_limit_ms > 3600000)
		return err_set(err, EINVAL, "expected a duration of at most 1h, as in 30s");
	return 0;
}

static int set_grace(struct config *c, char **at, const char *value, struct err *err)
{
	uint64_t ms;

	(void)at;
	if (parse_duration_ms(str_of(value), &ms) < 0 || ms > 3600000)
		return err_set(err, EINVAL, "expected a duration of at most 1h, as in 30s");
	c->ztunnel_grace_ms = ms;
	return 0;
}

static int set_install(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	for (enum install_mode m = 0; m < INSTALL_MODE_N; m++)
		if (strcmp(value, config_install_name[m]) == 0) {
			c->install_asked = true;
			c->install_cni = m;
			return 0;
		}
	return err_set(err, EINVAL, "expected off, chained or owned");
}

/* A name in --cni-conf-dir that runtimes read. */
static int set_conf_name(struct config *c, char **at, const char *value, struct err *err)
{
	struct str s = str_of(value);

	if (strchr(value, '/') != NULL ||
	    !(str_has_suffix(s, STR(".conf")) || str_has_suffix(s, STR(".conflist"))))
		return err_set(err, EINVAL, "expected a file name that ends in .conf or .conflist");
	return set_text(c, at, value, err);
}

static int set_owned_name(struct config *c, char **at, const char *value, struct err *err)
{
	if (strchr(value, '/') != NULL || !str_has_suffix(str_of(value), STR(".conflist")))
		return err_set(err, EINVAL, "expected a file name that ends in .conflist");
	return set_text(c, at, value, err);
}

static int set_replace(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (eligibility_parse_bool(str_of(value), &c->replace_istio_cni) < 0)
		return err_set(err, EINVAL, "expected true or false");
	return 0;
}

static int set_release(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (eligibility_parse_bool(str_of(value), &c->release_pods) < 0)
		return err_set(err, EINVAL, "expected true or false");
	return 0;
}

static int set_stay(struct config *c, char **at, const char *value, struct err *err)
{
	(void)at;
	if (eligibility_parse_bool(str_of(value), &c->stay) < 0)
		return err_set(err, EINVAL, "expected true or false");
	return 0;
}

static int set_log(struct config *c, char **at, const char *value, struct err *err)
{
	if (log_set_filter(value) < 0)
		return err_set(err, EINVAL,
			       "expected off, error, warn, info, debug or trace, or scope=level");
	return set_text(c, at, value, err);
}

static const struct setting settings[] = {
	{"source", "AMBIENT_SOURCE", set_source, 0},
	{"manifests", "AMBIENT_MANIFESTS", set_manifests, offsetof(struct config, manifests_dir)},
	{"kubeconfig", "KUBECONFIG", set_kubeconfig, offsetof(struct config, kubeconfig)},
	{"cni-agent-run-dir", "CNI_AGENT_RUN_DIR", set_path, offsetof(struct config, run_dir)},
	{"ztunnel-uds-address", "ZTUNNEL_UDS_ADDRESS", set_path,
	 offsetof(struct config, ztunnel_sock)},
	{"node-name", "NODE_NAME", set_text, offsetof(struct config, node_name)},
	{"exclude-namespaces", "EXCLUDE_NAMESPACES", set_excluded, 0},
	{"system-namespace", "SYSTEM_NAMESPACE", set_text,
	 offsetof(struct config, system_namespace)},
	{"enablement-selector", "AMBIENT_ENABLEMENT_SELECTOR", set_selectors, 0},
	{"state-dir", "AMBIENT_STATE_DIR", set_state_dir, offsetof(struct config, state_dir)},
	{"health-port", "AMBIENT_HEALTH_PORT", set_health_port, 0},
	{"monitoring-port", "MONITORING_PORT", set_monitoring_port, 0},
	{"dns-capture", "AMBIENT_DNS_CAPTURE", set_dns, 0},
	{"host-probes", "AMBIENT_HOST_PROBES", set_probes, 0},
	{"host-probe-snat-ip", "HOST_PROBE_SNAT_IP", set_probe_ip, 0},
	{"host-probe-snat-ipv6", "HOST_PROBE_SNAT_IPV6", set_probe_ip6, 0},
	{"ztunnel-grace", "AMBIENT_ZTUNNEL_GRACE", set_grace, 0},
	{"release-limit", "AMBIENT_RELEASE_LIMIT", set_release_limit, 0},
	{"install-cni", "AMBIENT_INSTALL_CNI", set_install, 0},
	{"cni-plugin", "AMBIENT_CNI_PLUGIN", set_path, offsetof(struct config, cni_plugin)},
	{"cni-bin-dir", "AMBIENT_CNI_BIN_DIR", set_path, offsetof(struct config, cni_bin_dir)},
	{"cni-conf-dir", "MOUNTED_CNI_NET_DIR", set_path, offsetof(struct config, cni_conf_dir)},
	{"cni-conf-name", "CNI_CONF_NAME", set_conf_name, offsetof(struct config, cni_conf_name)},
	{"cni-owned-conf-name", "ISTIO_OWNED_CNI_CONFIG_FILENAME", set_owned_name,
	 offsetof(struct config, cni_owned_conf_name)},
	{"replace-istio-cni", "AMBIENT_REPLACE_ISTIO_CNI", set_replace, 0},
	{"host-root", "AMBIENT_HOST_ROOT", set_host_root, offsetof(struct config, host_root)},
	{"pod-namespace", "POD_NAMESPACE", set_text, offsetof(struct config, pod_namespace)},
	{"release-pods", NULL, set_release, 0},
	{"stay", NULL, set_stay, 0},
	{"log", "AMBIENT_LOG", set_log, offsetof(struct config, log_filter)},
};

static bool is_switch(const struct setting *s)
{
	/* the flag alone means true */
	return s->set == set_replace || s->set == set_release || s->set == set_stay;
}

static const char *env_of(const struct setting *s)
{
	const char *v = s->env != NULL ? getenv(s->env) : NULL;

	/* Istio's program reads the one name, its chart writes the other */
	if ((v == NULL || v[0] == '\0') && s->set == set_owned_name)
		v = getenv("ISTIO_OWNED_CNI_CONF_FILENAME");
	return v != NULL && v[0] != '\0' ? v : NULL;
}

static int apply(struct config *c, const struct setting *s, const char *value, bool flag,
		 struct err *err)
{
	int r = s->set(c, (char **)(void *)((char *)c + s->offset), value, err);

	if (r < 0)
		return flag ? err_wrap(err, "--%s %s", s->flag, str_shown(str_of(value)))
			    : err_wrap(err, "%s=%s", s->env, str_shown(str_of(value)));
	return 0;
}

/* A kubeconfig in the environment may be an administrator's shell: it does not choose the source.
 */
static int choose_source(struct config *c, struct err *err)
{
	bool kubernetes = c->kubeconfig_flag || (c->api_host != NULL && !c->manifests_asked);

	if (c->source == CONFIG_SOURCE_AUTO)
		c->source = kubernetes ? CONFIG_SOURCE_KUBERNETES : CONFIG_SOURCE_MANIFESTS;
	if (c->source == CONFIG_SOURCE_MANIFESTS)
		return 0;
	if (c->node_name[0] == '\0')
		return err_set(err, EINVAL,
			       "source kubernetes: --node-name (NODE_NAME) is required, the name "
			       "of this node in the cluster");
	if (c->kubeconfig != NULL &&
	    (c->kubeconfig[0] != '/' || strchr(c->kubeconfig, ':') != NULL))
		return err_set(err, EINVAL,
			       "--kubeconfig (KUBECONFIG) %s: expected the absolute path of one "
			       "file",
			       str_shown(str_of(c->kubeconfig)));
	if (c->kubeconfig == NULL && c->api_host == NULL)
		return err_set(err, EINVAL,
			       "source kubernetes: neither --kubeconfig (KUBECONFIG) nor "
			       "KUBERNETES_SERVICE_HOST says where the API is");
	return 0;
}

static void read_service_env(struct config *c)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST");
	const char *port = getenv("KUBERNETES_SERVICE_PORT");

	if (host == NULL || host[0] == '\0')
		return;
	c->api_host = xstrdup(host);
	c->api_port = xstrdup(port != NULL && port[0] != '\0' ? port : "443");
}

/* A probe and a scrape need ports in a pod; on a node nobody asked for an open one. Of a pod's
 * directories the run directory is the node's: it outlives the pod. */
static void choose_for_a_pod(struct config *c)
{
	if (c->api_host == NULL)
		return;
	if (!c->health_port_asked)
		c->health_port = 8000;
	if (!c->monitoring_port_asked)
		c->monitoring_port = 15014;
	if (!c->state_dir_asked) {
		free(c->state_dir);
		c->state_dir = xasprintf("%s/state", c->run_dir);
	}
}

static void set_defaults(struct config *c)
{
	*c = (struct config){.host_probes = true,
			     .branch_probes = true,
			     .ztunnel_grace_ms = 30000,
			     .release_limit_ms = 30000};
	c->state_dir = xstrdup("/var/lib/ambient-agent");
	c->run_dir = xstrdup("/var/run/istio-cni");
	c->ztunnel_sock = xstrdup("/var/run/ztunnel/ztunnel.sock");
	c->manifests_dir = xstrdup("/etc/ambient/manifests");
	c->node_name = xstrdup("");
	c->system_namespace = xstrdup("istio-system");
	c->log_filter = xstrdup("info");
	c->cni_conf_dir = xstrdup("/etc/cni/net.d");
	c->cni_bin_dir = xstrdup("/opt/cni/bin");
	c->cni_conf_name = xstrdup("");
	c->cni_owned_conf_name = xstrdup("");
	c->cni_plugin = xstrdup("");
	c->pod_namespace = xstrdup("");
	c->host_root = xstrdup("");
	(void)set_excluded(c, NULL, "kube-system", NULL); /* cannot fail */
}

/* What Istio's chart mounts and expects (cni-spec 3.1, 7.1). Its namespaces to leave out are always
 * in the ConfigMap; without any, none is. */
static void set_defaults_of_install_cni(struct config *c)
{
	static const struct {
		size_t offset;
		const char *value;
	} is[] = {
		{offsetof(struct config, host_root), "/host"},
		{offsetof(struct config, cni_conf_dir), "/host/etc/cni/net.d"},
		{offsetof(struct config, cni_bin_dir), "/host/opt/cni/bin"},
		{offsetof(struct config, cni_plugin), "/opt/cni/bin/ambient-cni"},
		{offsetof(struct config, cni_owned_conf_name), "02-istio-cni.conflist"},
	};

	for (size_t i = 0; i < ARRAY_LEN(is); i++) {
		char **at = (char **)(void *)((char *)c + is[i].offset);

		free(*at);
		*at = xstrdup(is[i].value);
	}
	c->as_install_cni = true;
	c->replace_istio_cni = true;
	c->install_cni = INSTALL_CHAINED;
	c->health_port = 8000;
	c->monitoring_port = 15014;
	(void)set_excluded(c, NULL, "", NULL); /* cannot fail */
}

static int read_flags(struct config *c, int argc, char **argv, enum config_action *action,
		      struct err *err)
{
	struct option opts[ARRAY_LEN(settings) + 4] = {0};
	int at;

	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		opts[i] = (struct option){settings[i].flag,
					  is_switch(&settings[i]) ? optional_argument
								  : required_argument,
					  NULL, (int)i + 256};
	opts[ARRAY_LEN(settings)] = (struct option){"help", no_argument, NULL, 'h'};
	opts[ARRAY_LEN(settings) + 1] = (struct option){"version", no_argument, NULL, 'V'};
	opts[ARRAY_LEN(settings) + 2] = (struct option){"uninstall", no_argument, NULL, 'U'};
	opterr = 0;
	optind = 0;
	while ((at = getopt_long(argc, argv, ":hV", opts, NULL)) != -1) {
		const char *word = argv[optind - 1];
		int r;

		if (at == 'h' || at == 'V') {
			*action = at == 'h' ? CONFIG_HELP : CONFIG_VERSION;
			return 0;
		}
		if (at == 'U') {
			*action = CONFIG_UNINSTALL;
			continue;
		}
		if (at == ':')
			return err_set(err, EINVAL, "%s needs a value (see --help)", word);
		if (at == '?')
			return err_set(err, EINVAL, "unknown option %s (see --help)",
				       str_shown(str_of(word)));
		r = apply(c, &settings[at - 256], optarg != NULL ? optarg : "true", true, err);
		if (r < 0)
			return r;
		c->kubeconfig_flag |= settings[at - 256].set == set_kubeconfig;
	}
	if (c->release_pods && *action != CONFIG_UNINSTALL)
		return err_set(err, EINVAL, "--release-pods is a part of --uninstall");
	if (c->stay && *action != CONFIG_UNINSTALL)
		return err_set(err, EINVAL, "--stay is a part of --uninstall");
	if (optind < argc)
		return err_set(err, EINVAL, "unexpected argument %s (see --help)",
			       str_shown(str_of(argv[optind])));
	return 0;
}

int config_read(struct config *c, int argc, char **argv, enum config_action *ret_action,
		struct err *err)
{
	enum config_action action = CONFIG_RUN;
	int r;

	set_defaults(c);
	if (config_stock_is_install_cni(argc, argv)) {
		set_defaults_of_install_cni(c);
		r = config_stock_args(c, &argc, argv, err);
		if (r < 0)
			return r;
	}
	read_service_env(c);
	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		const char *v = env_of(&settings[i]);

		if (v == NULL)
			continue;
		r = apply(c, &settings[i], v, false, err);
		if (r < 0)
			return r;
	}
	r = read_flags(c, argc, argv, &action, err);
	if (r == 0 && action == CONFIG_RUN)
		r = config_stock_read(c, err);
	if (r == 0 && action == CONFIG_RUN)
		r = choose_source(c, err);
	if (r < 0)
		return r;
	choose_for_a_pod(c);
	*ret_action = action;
	return 0;
}

void config_fini(struct config *c)
{
	selectors_fini(&c->selectors);
	free(c->state_dir);
	free(c->run_dir);
	free(c->ztunnel_sock);
	free(c->manifests_dir);
	free(c->node_name);
	free(c->system_namespace);
	free(c->excluded_text);
	free(c->log_filter);
	free(c->cni_conf_dir);
	free(c->cni_bin_dir);
	free(c->cni_conf_name);
	free(c->cni_owned_conf_name);
	free(c->cni_plugin);
	free(c->pod_namespace);
	free(c->host_root);
	free(c->kubeconfig);
	free(c->api_host);
	free(c->api_port);
	*c = (struct config){0};
}
