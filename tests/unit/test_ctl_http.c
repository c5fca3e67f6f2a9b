/* SPDX-License-Identifier: Apache-2.0
 * test_ctl_http.c: ambientctl's reading of HTTP answers, and its deadline on a silent socket.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "ctl/http.h"
#include "lib/base/err.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"

static void ctl_answer_parse__table(void **state)
{
	static const struct {
		const char *in;
		unsigned int status; /* 0: refused, and then @out is part of the sentence */
		const char *out;
	} rows[] = {
		{"HTTP/1.1 200 OK\r\n\r\n{}", 200, "{}"},
		{"HTTP/1.0 500 \r\n\r\n", 500, ""},
		{"HTTP/1.1 404\r\n\r\n", 404, ""},
		{"HTTP/1.1 200 OK\nServer: x\n\nbody", 200, "body"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, "ab"},
		{"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nabc", 200, "ab"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""},
		{"", 0, "no HTTP head"},
		{"\r\n\r\n", 0, "not an HTTP answer"},
		{"hello\n", 0, "not an HTTP answer: hello"},
		{"HTTP/2 200\r\n\r\n", 0, "not an HTTP answer"},
		{"HTTP/1.1 2000 OK\r\n\r\n", 0, "not an HTTP status"},
		{"HTTP/1.1 OK\r\n\r\n", 0, "not an HTTP status"},
		{"HTTP/1.1 200 OK", 0, "no HTTP head"},
		{"HTTP/1.1 200 OK\r\nA: b\r\n", 0, "does not end"},
		{"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", 0, "not an HTTP header: nonsense"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", 0, "ends after 2 of 9 bytes"},
		{"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab", 0, "not a content length"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, "chunked"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ctl_answer a = {0};
		struct err e = {0};
		int r = ctl_answer_parse(str_of(rows[i].in), &a, &e);

		assert_int_equal(a.status, rows[i].status);
		if (rows[i].status == 0) {
			assert_int_equal(r, -EINVAL);
			assert_non_null(strstr(e.msg, rows[i].out));
		} else {
			assert_int_equal(r, 0);
			assert_true(str_eqc(a.body, rows[i].out));
		}
	}
}

static void ctl_get__silent_peer_times_out(void **state)
{
	char dir[] = "/tmp/test_ctl.XXXXXX", path[64];
	_cleanup_strbuf_ struct strbuf text = {0};
	struct ctl_answer a;
	struct err e = {0};
	uint64_t start = clock_mono_ms();
	int s;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(ctl_get(path, "/", start + 100, &text, &a, &e), -ENOENT);
	s = unix_listen(path, SOCK_STREAM, 0600, NULL);
	assert_true(s >= 0);
	assert_int_equal(ctl_get(path, "/", start + 100, &text, &a, &e), -ETIMEDOUT);
	assert_true(clock_mono_ms() - start >= 100);
	(void)xclose(s);
	assert_int_equal(ctl_get(path, "/", clock_mono_ms() + 100, &text, &a, &e), -ECONNREFUSED);
	(void)unlink(path);
	(void)rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ctl_answer_parse__table),
		cmocka_unit_test(ctl_get__silent_peer_times_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
