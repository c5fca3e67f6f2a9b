/* SPDX-License-Identifier: Apache-2.0
 * scope.c: see scope.h. Pure.
 */
#include "cni/scope.h"

/* Pods of the stock agent's DaemonSet are called this. */
#define AGENT_POD_PREFIX "istio-cni-node-"

const char *scope_pass_through(const struct netconf *conf, const struct cni_env *env)
{
	/* First, so that an agent that runs as a pod can always be replaced. */
	if (conf->pod_namespace.n != 0 && str_eq(env->pod_namespace, conf->pod_namespace) &&
	    str_has_prefix(env->pod_name, STR(AGENT_POD_PREFIX)))
		return "it is the node agent's own pod";
	if (env->pod_name.n == 0 || env->pod_namespace.n == 0)
		return "it is not a Kubernetes pod";
	if (netconf_excludes(conf, env->pod_namespace))
		return "its namespace is in exclude_namespaces";
	if (!conf->ambient_enabled)
		return "ambient_enabled is false";
	return NULL;
}
