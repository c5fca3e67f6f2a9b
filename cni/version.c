/* SPDX-License-Identifier: Apache-2.0
 * version.c: see version.h. Pure.
 */
#include "cni/version.h"

#include <assert.h>

const char *const cni_version_name[] = {
	[CNI_V_NONE] = "",	 [CNI_V_0_3_0] = "0.3.0", [CNI_V_0_3_1] = "0.3.1",
	[CNI_V_0_4_0] = "0.4.0", [CNI_V_1_0_0] = "1.0.0", [CNI_V_1_1_0] = "1.1.0",
};
static_assert(ARRAY_LEN(cni_version_name) == CNI_V_N, "one name per version");

enum cni_version cni_version_parse(struct str s)
{
	for (enum cni_version v = CNI_V_NONE + 1; v < CNI_V_N; v++)
		if (str_eqc(s, cni_version_name[v]))
			return v;
	return CNI_V_NONE;
}

const char *cni_version_list(void)
{
	return "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
}
