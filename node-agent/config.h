/* SPDX-License-Identifier: Apache-2.0
 * config.h: the agent's settings: defaults, then environment, then flags (cni-spec 3.1).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/format/ip.h"
#include "node-agent/enrol/selectors.h"

struct err;

#define CONFIG_EXCLUDED_MAX 64

enum install_mode {
	INSTALL_OFF,
	INSTALL_CHAINED, /* our entry in the primary's file */
	INSTALL_OWNED,	 /* a file of our own that comes first */
	INSTALL_MODE_N
};
extern const char *const config_install_name[INSTALL_MODE_N];

enum config_source { CONFIG_SOURCE_AUTO, CONFIG_SOURCE_MANIFESTS, CONFIG_SOURCE_KUBERNETES };

struct config {
	char *run_dir;	     /* CNI_AGENT_RUN_DIR */
	char *ztunnel_sock;  /* ZTUNNEL_UDS_ADDRESS */
	char *manifests_dir; /* AMBIENT_MANIFESTS */
	char *node_name;     /* NODE_NAME; "" takes every pod */
	char *system_namespace;
	char *excluded_text; /* owns what @excluded points into */
	struct str excluded[CONFIG_EXCLUDED_MAX];
	size_t nexcluded;
	bool has_selectors; /* AMBIENT_ENABLEMENT_SELECTOR was given */
	struct selectors selectors;
	bool dns_capture;   /* AMBIENT_DNS_CAPTURE */
	bool host_probes;   /* --host-probes=auto|off */
	bool branch_probes; /* AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE */
	struct ip_addr probe_v4, probe_v6;
	uint64_t ztunnel_grace_ms;
	uint64_t release_limit_ms; /* AMBIENT_RELEASE_LIMIT */
	uint16_t health_port;	   /* AMBIENT_HEALTH_PORT; 0: none */
	uint16_t monitoring_port;  /* MONITORING_PORT; 0: none */
	char *state_dir;	   /* AMBIENT_STATE_DIR; "": nothing is kept there */
	char *log_filter;
	enum config_source source; /* never AUTO after config_read() */
	char *kubeconfig;	   /* NULL: in-cluster */
	char *api_host, *api_port; /* KUBERNETES_SERVICE_HOST, _PORT; NULL when not in a cluster */
	bool manifests_asked, kubeconfig_flag, install_asked;
	bool health_port_asked, monitoring_port_asked, state_dir_asked;

	/* putting the plugin on the node (host/install.h) */
	enum install_mode install_cni; /* AMBIENT_INSTALL_CNI */
	char *cni_conf_dir;	       /* MOUNTED_CNI_NET_DIR */
	char *cni_bin_dir;	       /* AMBIENT_CNI_BIN_DIR */
	char *cni_conf_name;	       /* CNI_CONF_NAME; "": the first usable one */
	char *cni_owned_conf_name;     /* ISTIO_OWNED_CNI_CONFIG_FILENAME; "": chosen by us */
	char *cni_plugin;	       /* AMBIENT_CNI_PLUGIN; "": it is there already */
	char *pod_namespace;	       /* POD_NAMESPACE: of the agent's own pod; "": it is no pod */
	bool replace_istio_cni;
	bool release_pods; /* with CONFIG_UNINSTALL */
	bool stay;	   /* with CONFIG_UNINSTALL: --stay */

	/* started as install-cni, the program of Istio's chart (config_stock.h) */
	bool as_install_cni;
	bool plugin_debug; /* the plugin tells what it does */
	bool leave_always; /* AMBIENT_DISABLE_SAFE_UPGRADE: each stop takes the plugin off */
	char *host_root;   /* AMBIENT_HOST_ROOT: where the node's files are (view.h) */
};

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_UNINSTALL };

/* Reads the environment and the command line. 0 or -EINVAL naming the setting, its value and what
 * is expected. The caller frees with config_fini(), also after an error. */
int config_read(struct config *c, int argc, char **argv, enum config_action *ret_action,
		struct err *err) _must_check_;
void config_fini(struct config *c);
extern const char config_usage[];
