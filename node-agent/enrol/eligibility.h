/* SPDX-License-Identifier: Apache-2.0
 * eligibility.h: does this pod belong into the mesh, and with which rules? Pure.
 * Source: cni-spec 3.4 (who), 5.1 (annotations).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct config;
struct err;
struct nft_pod_opts;
struct pod;
struct pod_namespace;

/* UNKNOWN must never be treated as NO: the runtime is told to try again (fail closed). */
enum eligibility { ELIGIBLE_YES, ELIGIBLE_NO, ELIGIBLE_UNKNOWN };
#define ELIGIBILITY_REASON_MAX 256

/* @pod and @ns may be NULL: not known. @ret_reason (ELIGIBILITY_REASON_MAX) gets one sentence. */
enum eligibility eligibility_of(const struct pod *pod, const struct pod_namespace *ns,
				const struct config *cfg, char *ret_reason);

/* What the pod's annotations and the configuration say about its rules. An unreadable boolean is
 * ignored as stock does, and named in @ret_ignored ("" if none; ELIGIBILITY_REASON_MAX). A bad
 * interface list is an error: ignoring it would leave traffic uncaptured. */
int eligibility_rules(const struct pod *pod, const struct config *cfg, struct nft_pod_opts *ret,
		      char *ret_ignored, struct err *err) _must_check_;
/* Go's strconv.ParseBool, which stock uses for every switch: 0 or -EINVAL. */
int eligibility_parse_bool(struct str s, bool *ret) _must_check_;
