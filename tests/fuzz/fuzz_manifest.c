/* SPDX-License-Identifier: Apache-2.0
 * fuzz_manifest.c: any text as a file of Kubernetes manifests.
 */
#include <stddef.h>
#include <stdint.h>

#include "node-agent/source/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return manifest_fuzz(data, size);
}
