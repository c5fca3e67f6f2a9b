/* SPDX-License-Identifier: Apache-2.0
 * netconf.h: the network configuration that a runtime writes to standard input. Pure.
 *
 * Unknown keys are ignored, because runtimes and operators put their own in (capabilities,
 * runtimeConfig, keys of other plugins); the keys of ours and of the stock plugin are checked for
 * their type. Source: CNI specification 1.1, cni-spec 1.2.
 */
#pragma once
#include <stdint.h>
#include "cni/fail.h"
#include "cni/version.h"
#include "lib/format/doc.h"

#define NETCONF_RUN_DIR	       "/var/run/istio-cni"
#define NETCONF_SOCKET_NAME    "pluginevent.sock"
#define NETCONF_TIMEOUT_MS     10000
#define NETCONF_TIMEOUT_MIN_MS 100
#define NETCONF_TIMEOUT_MAX_MS 120000 /* kubelet gives up on a sandbox after two minutes */
#define NETCONF_SOCKET_MAX     107    /* bytes of a unix socket's path, unix(7) */

enum cni_agent_api {
	CNI_AGENT_AMBIENT, /* ours: docs/agent-api.md */
	CNI_AGENT_ISTIO,   /* the stock agent: cni-spec 1.7 */
	CNI_AGENT_N
};

struct netconf {
	enum cni_version version; /* CNI_V_NONE while parsing has not come so far */
	enum cni_agent_api api;
	char socket[NETCONF_SOCKET_MAX + 1];
	uint64_t timeout_ms;
	bool ambient_enabled;	   /* stock key; true when absent */
	bool debug;		   /* plugin_log_level is "debug" */
	bool agent_in_pod_network; /* the agent's pod gets its network from this very chain */
	struct str pod_namespace;
	const struct doc *exclude_namespaces; /* list of texts, or NULL */
	const struct doc *prev_result;	      /* a map, or NULL */
	/* GC: list of {containerID, ifname}, checked; NULL when the runtime gave none */
	const struct doc *valid_attachments;
};

/* Parses @in into @ret, whose slices point into @in and @a. 0, or -1 with the field named in @f;
 * ret->version is set as soon as it is known, so that the error can carry it. */
int netconf_parse(struct str in, struct arena *a, struct netconf *ret, struct cni_fail *f)
	_must_check_;
bool netconf_excludes(const struct netconf *c, struct str ns);
