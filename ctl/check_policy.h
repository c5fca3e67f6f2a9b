/* SPDX-License-Identifier: Apache-2.0
 * check_policy.h: does a NetworkPolicy let the mesh's port through? Pure.
 *
 * Whoever writes a policy names the application's ports; on the wire all traffic of the mesh goes
 * to port 15008. Source: the NetworkPolicy API, networking.k8s.io/v1.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/attr.h"

struct doc;
struct err;

struct ctl_policy_verdict {
	bool blocks_in, blocks_out; /* nothing in it opens TCP 15008, unless another policy does */
};
/* @policy: one object. -EINVAL names the field that is not as the API has it. */
int ctl_policy_read(const struct doc *policy, struct ctl_policy_verdict *ret, struct err *err)
	_must_check_;
