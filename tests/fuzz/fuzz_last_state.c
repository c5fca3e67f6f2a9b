/* SPDX-License-Identifier: Apache-2.0
 * fuzz_last_state.c: any text as the agent's last good picture, and as the document in it.
 */
#include <stddef.h>
#include <stdint.h>

#include "node-agent/source/last_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return last_state_fuzz(data, size);
}
