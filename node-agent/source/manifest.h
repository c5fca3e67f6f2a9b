/* SPDX-License-Identifier: Apache-2.0
 * manifest.h: one file of Kubernetes manifests to pods and namespaces. Pure.
 *
 * Several YAML documents or JSON; kinds Pod, Namespace and List (also PodList, NamespaceList) of
 * v1. Other kinds are skipped: such a directory may hold a whole application. What is read is
 * checked for its type and the error names file position and field; fields that are not read are
 * Kubernetes' business.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct doc;
struct err;
struct label_keys;
struct pod;
struct pod_namespace;

struct manifest {
	struct pod **pods;
	size_t npods;
	struct pod_namespace **namespaces;
	size_t nnamespaces;
};

/* Reads @text. @keep: whose labels are kept besides istio.io/dataplane-mode and app; NULL: none.
 * On success *ret owns the objects until they are taken (set to NULL) or
 * manifest_fini(). -EINVAL with line and field. */
int manifest_parse(struct str text, const struct label_keys *keep, struct manifest *ret,
		   struct err *err) _must_check_;
void manifest_fini(struct manifest *m);
/* One object of kind Pod or Namespace, wherever it comes from. *ret is the caller's. -EINVAL with
 * the field. */
int manifest_read_pod(const struct doc *root, const struct label_keys *keep, struct pod **ret,
		      struct err *err) _must_check_;
int manifest_read_namespace(const struct doc *root, const struct label_keys *keep,
			    struct pod_namespace **ret, struct err *err) _must_check_;
int manifest_fuzz(const uint8_t *p, size_t n);
