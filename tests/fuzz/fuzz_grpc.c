/* SPDX-License-Identifier: Apache-2.0
 * fuzz_grpc.c: any bytes as a gRPC stream, cut where the first byte says. Property: the same
 * messages come out however it is cut, within the limit, and each is walked as protobuf without
 * leaving its bounds.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/wire/grpc_frame.h"

#define MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t walk(struct str m)
{
	struct pb_field f;
	const char *end = m.p + m.n;
	uint64_t sum = 0;

	while (pb_next(&m, &f) == 1) {
		bug_on(f.number == 0 || m.p + m.n != end);
		sum = hash_mix(sum, hash_mix(f.number, f.value));
		sum = hash_mix(sum, hash_bytes(f.bytes.p, f.bytes.n));
	}
	return sum;
}

static uint64_t read_all(struct str in, size_t step, int *ret)
{
	struct grpc_reader r = {.max = MAX};
	struct err err = {0};
	uint64_t sum = 0;
	char text[64];

	*ret = 0;
	while (in.n != 0 && *ret >= 0) {
		struct str piece = {in.p, in.n < step ? in.n : step}, m;

		in.p += piece.n;
		in.n -= piece.n;
		while ((*ret = grpc_reader_take(&r, &piece, &m, &err)) == 1) {
			bug_on(m.n > MAX);
			sum = hash_mix(sum, walk(m));
			(void)grpc_message_decode(m, text, sizeof(text));
			bug_on(!str_is_utf8(str_of(text)));
		}
		bug_on(r.cap > 2 * MAX && r.cap > 4096);
	}
	grpc_reader_fini(&r);
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	int a, b;

	if (size < 2)
		return 0;
	in.p++;
	in.n--;
	bug_on(read_all(in, 1 + data[0] % 7u, &a) != read_all(in, in.n, &b));
	bug_on((a < 0) != (b < 0));
	return 0;
}
