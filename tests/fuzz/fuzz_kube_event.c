/* SPDX-License-Identifier: Apache-2.0
 * fuzz_kube_event.c: any bytes as a list and as a watch of the Kubernetes API, whole and in pieces.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/kube/kube_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return kube_event_fuzz(data, size);
}
