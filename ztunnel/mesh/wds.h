/* SPDX-License-Identifier: Apache-2.0
 * wds.h: what istiod sends, turned into the mesh's model: workloads and services (type Address),
 * and policies (type Authorization). Pure.
 *
 * One resource is taken whole or refused whole, with the field in the error: text with NUL or that
 * is no UTF-8, an unknown value of an enumeration, an address of another length, a port out of
 * range. Stock drops some of these silently, which can widen a policy. Unknown fields are ignored.
 * Source: istiod-ambient-spec 1.3, 2; ztunnel-spec 9.7, 9.8, 10.3.
 */
#pragma once
#include "lib/base/str.h"
#include "ztunnel/mesh/model.h"

struct err;

/* Exactly one is set. */
struct wds_address {
	struct workload *workload;
	struct service *service;
};
/* @name: the resource's name, which must be the workload's uid or the service's namespace/hostname.
 * The object in *ret is the caller's reference. 0 or -EINVAL. */
int wds_address(struct str name, struct str value, struct wds_address *ret, struct err *err)
	_must_check_;
/* @name becomes the policy's key: workloads refer to it. NULL with @err. */
struct policy *wds_policy(struct str name, struct str value, struct err *err) _must_check_;
/* What stands in force for a policy that wds_policy() refuses and of which no good version is
 * known, so that what it was meant to close is not open: an ALLOW allows nothing, a DENY or an
 * unknown action denies all; in its namespace or, when its scope cannot be known, everywhere. NULL:
 * nothing need be in force (a dry run; one that workloads name, which is missing and so denies). */
struct policy *wds_policy_closed(struct str name, struct str value) _must_check_;
