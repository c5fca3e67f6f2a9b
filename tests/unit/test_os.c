/* SPDX-License-Identifier: Apache-2.0
 * test_os.c: files, descriptors over sockets, and text that is not in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/trim.h"

static const char constant[] = "read-only data survives";
static int initialised = 42;

static void trim__changes_nothing_a_program_can_see(void **state)
{
	static int written;
	char *heap = xstrdup("heap"), text[64];

	(void)state;
	written = 7;
	assert_true(trim_text() > 0);
	(void)snprintf(text, sizeof(text), "%s %d %d %s", constant, initialised, written, heap);
	assert_string_equal(text, "read-only data survives 42 7 heap");
	assert_string_equal(strerror(ENOENT), "No such file or directory");
	free(heap);
}

static void fd_recv__too_many_descriptors_are_closed(void **state)
{
	struct err err = {0};
	int s[2], fds[3], got[2] = {-1, -1};
	char buf[8];
	size_t n = 9;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	for (int i = 0; i < 3; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fd_send(s[0], "x", 1, fds, 3), 0);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), got, 2, &n, &err), -EMSGSIZE);
	assert_int_equal(n, 9); /* untouched on failure */
	assert_int_equal(got[0], -1);
	/* the next free number shows that nothing stayed open */
	assert_int_equal(fcntl(s[0], F_DUPFD, fds[2] + 1), fds[2] + 1);
	assert_int_equal(close(fds[2] + 1), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(close(fds[i]), 0);
	assert_int_equal(close(s[0]), 0);
	assert_int_equal(close(s[1]), 0);
}

static void fd_recv__long_packet_is_an_error(void **state)
{
	struct err err = {0};
	int s[2];
	char buf[4];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(fd_send(s[0], "12345", 5, NULL, 0), 0);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, 0, NULL, &err), -EMSGSIZE);
	assert_int_equal(fd_send(s[0], "1234", 4, NULL, 0), 0);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, 0, NULL, &err), 4);
	assert_int_equal(close(s[0]), 0);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, 0, NULL, &err), 0);
	assert_int_equal(close(s[1]), 0);
}

static void file__write_read_and_limit(void **state)
{
	char dir[] = "/tmp/test_os.XXXXXX", path[64];
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	struct stat st;
	size_t n;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/f", dir);
	assert_int_equal(file_write_atomic(path, "hello", 5, 0640, &err), 0);
	assert_int_equal(file_read(path, 5, &text, &n, &err), 0);
	assert_int_equal(n, 5);
	assert_string_equal(text, "hello");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	free(take_ptr(text));
	assert_int_equal(file_read(path, 4, &text, &n, &err), -EFBIG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(file_read(path, 4, &text, &n, &err), -ENOENT);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trim__changes_nothing_a_program_can_see),
		cmocka_unit_test(fd_recv__too_many_descriptors_are_closed),
		cmocka_unit_test(fd_recv__long_packet_is_an_error),
		cmocka_unit_test(file__write_read_and_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
