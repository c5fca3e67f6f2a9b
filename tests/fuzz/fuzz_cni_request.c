/* SPDX-License-Identifier: Apache-2.0
 * fuzz_cni_request.c: any body as an event of our plugin and of the stock one.
 */
#include "node-agent/serve/cni_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return cni_request_fuzz(data, size);
}
