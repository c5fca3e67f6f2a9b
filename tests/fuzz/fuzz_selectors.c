/* SPDX-License-Identifier: Apache-2.0
 * fuzz_selectors.c: any text as AMBIENT_ENABLEMENT_SELECTOR.
 */
#include <stddef.h>
#include <stdint.h>

#include "node-agent/enrol/selectors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return selectors_fuzz(data, size);
}
