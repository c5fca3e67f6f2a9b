/* SPDX-License-Identifier: Apache-2.0
 * config_istiod.h: the environment variables about the control plane: where xDS and the CA are, how
 * they are trusted, and what ztunnel says about itself. Source: ztunnel-spec 2.2, 9.2.
 */
#pragma once
#include "lib/base/attr.h"
#include "ztunnel/control/istiod.h"

struct err;

struct xds_meta {
	char *key, *value;
	bool json; /* value is JSON text; else it is the text itself */
};
struct config_istiod {
	struct istiod_config xds, ca; /* .host NULL: none */
	/* The xDS node (ztunnel-spec 9.2). */
	char *instance_ip, *pod_name, *pod_namespace;
	struct xds_meta *meta; /* ISTIO_META_*, ISTIO_METAJSON_* without the prefix */
	size_t nmeta;
	bool on_demand; /* XDS_ON_DEMAND: Address by name, not all of it */
};

/* @env: reads a variable. @all: "NAME=value" of all of them, NULL at the end; NULL: none. 0, or
 * -EINVAL with "invalid env var NAME=VALUE (reason)"; nothing needs to be freed then. */
int config_istiod_load(struct config_istiod *c, const char *(*env)(const char *name),
		       const char *const *all, const char *cluster, struct err *err) _must_check_;
void config_istiod_free(struct config_istiod *c);
