/* SPDX-License-Identifier: Apache-2.0
 * export_yaml.h: what was read of Kubernetes, to ztunnel's local state file. Pure.
 *
 * The format is stock ztunnel's (ztunnel-spec 9.9) and ours (docs/ztunnel-config.md); the meaning
 * is what istiod would tell a ztunnel (istiod-ambient-spec 4, 5, 7). The same objects give the same
 * bytes: everything is sorted.
 *
 * Differences from istiod, on purpose: UDP and SCTP ports are left out (ztunnel carries TCP);
 * a converted PeerAuthentication inherits from the mesh through a namespace that is UNSET.
 */
#pragma once
#include <stddef.h>
#include "ctl/export_store.h"
#include "lib/base/str.h"

struct ex_config {
	const char *cluster;	  /* "Kubernetes" */
	const char *trust_domain; /* "cluster.local" */
	const char *domain;	  /* of services, "cluster.local" */
	const char *root_ns;	  /* where mesh-wide policies live, "istio-system" */
};

struct ex_counts {
	size_t workloads, hbone, services, policies;
};
/* Appends the file to @out. */
void ex_yaml(const struct ex_store *s, const struct ex_config *c, struct strbuf *out,
	     struct ex_counts *ret);

/* @s as one scalar that every YAML reader takes as this text. */
void ex_yaml_text(struct strbuf *out, const char *s);
