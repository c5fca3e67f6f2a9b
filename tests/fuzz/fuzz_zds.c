/* SPDX-License-Identifier: Apache-2.0
 * fuzz_zds.c: any bytes as each of the three ZDS messages. Property: decode, encode, decode gives
 * the same message, within the size of a packet.
 */
#include <errno.h>
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/wire/zds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int (*decoder)(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const decoder decoders[] = {zds_decode_hello, zds_decode_request,
					   zds_decode_response};

	for (size_t i = 0; i < ARRAY_LEN(decoders); i++) {
		uint8_t buf[LIMIT_ZDS_PACKET_BYTES];
		struct zds_msg once, twice;
		struct err err = {0};
		int n;

		if (decoders[i](data, size, &once, &err) < 0) {
			bug_on(err.code != EINVAL || err.msg[0] == '\0');
			continue;
		}
		n = zds_encode(&once, buf, &err);
		bug_on(n <= 0 || n > LIMIT_ZDS_PACKET_BYTES);
		bug_on(decoders[i](buf, (size_t)n, &twice, &err) != 0);
		bug_on(memcmp(&once, &twice, sizeof(once)) != 0);
	}
	return 0;
}
