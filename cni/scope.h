/* SPDX-License-Identifier: Apache-2.0
 * scope.h: the pods that are none of this plugin's business, told without asking the agent. Pure.
 *
 * This is not eligibility: labels are the agent's to read. Only what the operator wrote into the
 * network configuration, and what is no Kubernetes pod at all, is decided here (cni-spec 1.5,
 * steps 3 and 6).
 */
#pragma once
#include "cni/env.h"
#include "cni/netconf.h"

/* Why the pod passes through untouched, as one phrase; NULL when the agent has to be asked. */
const char *scope_pass_through(const struct netconf *conf, const struct cni_env *env);
