/* SPDX-License-Identifier: Apache-2.0
 * version.h: the CNI protocol versions that this plugin speaks. Pure.
 */
#pragma once
#include "lib/base/str.h"

enum cni_version {
	CNI_V_NONE, /* not one of ours */
	CNI_V_0_3_0,
	CNI_V_0_3_1,
	CNI_V_0_4_0,
	CNI_V_1_0_0,
	CNI_V_1_1_0,
	CNI_V_N,
};
#define CNI_V_NEWEST CNI_V_1_1_0

extern const char *const cni_version_name[CNI_V_N];

enum cni_version cni_version_parse(struct str s); /* exact match */
/* "0.3.0, 0.3.1, ..." for messages. */
const char *cni_version_list(void);
