/* SPDX-License-Identifier: Apache-2.0
 * export_read.h: one object of the Kubernetes API, as JSON, to what is kept of it. Pure.
 *
 * Sources: istiod-ambient-spec 4 (workloads), 5 (services); Kubernetes API v1, discovery.k8s.io/v1.
 */
#pragma once
#include "ctl/export_store.h"
#include "lib/base/attr.h"

struct doc;
struct err;

/* 0, with *ret NULL when there is such an object but the mesh has no use for it (a pod that is
 * finished or has no address, an ExternalName service); or -EINVAL naming the field. The caller
 * owns *ret. */
int ex_read(enum ex_kind kind, const struct doc *d, struct ex_texts *t, struct ex_object **ret,
	    struct err *err) _must_check_;
