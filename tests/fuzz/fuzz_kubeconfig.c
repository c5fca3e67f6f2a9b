/* SPDX-License-Identifier: Apache-2.0
 * fuzz_kubeconfig.c: any text as a kubeconfig.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/kube/kubeconfig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return kubeconfig_fuzz(data, size);
}
