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
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/notify.h"
#include "lib/os/sealed.h"
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

static void file_unchanged__whatever_changes(void **state)
{
	char dir[] = "/tmp/test_os.XXXXXX", path[64];
	struct stat before, now;
	struct err err = {0};

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/f", dir);
	assert_int_equal(file_write_atomic(path, "one", 3, 0640, &err), 0);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(stat(path, &now), 0);
	assert_true(file_unchanged(&before, &now));
	(void)usleep(20000); /* the kernel's time stamps are that coarse */
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(stat(path, &now), 0);
	assert_false(file_unchanged(&before, &now));
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(file_write_atomic(path, "two", 3, 0600, &err), 0);
	assert_int_equal(stat(path, &now), 0);
	assert_false(file_unchanged(&before, &now));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void file_remove_halves__only_of_that_file(void **state)
{
	static const char *const names[] = {"f", "f.tmp.abc", "f.tmp.", "g.tmp.abc", "f.tmpabc"};
	static const bool stays[] = {true, false, false, true, true};
	char dir[] = "/tmp/test_os.XXXXXX", path[64];
	struct err err = {0};

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		assert_int_equal(file_write_atomic(path, "x", 1, 0600, &err), 0);
	}
	(void)snprintf(path, sizeof(path), "%s/f", dir);
	file_remove_halves(path);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		assert_int_equal(unlink(path), stays[i] ? 0 : -1);
	}
	assert_int_equal(rmdir(dir), 0);
	file_remove_halves("/nowhere/f");
}

static void notify_watchdog_parse__table(void **state)
{
	static const struct {
		const char *usec, *pid;
		uint64_t want;
	} rows[] = {
		{NULL, NULL, 0},      {"30000000", NULL, 30000}, {"30000000", "7", 30000},
		{"30000000", "8", 0}, {"30000000", "7x", 0},	 {"", NULL, 0},
		{"0", NULL, 0},	      {"-1", NULL, 0},		 {"1s", NULL, 0},
		{"500", NULL, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (notify_watchdog_parse(rows[i].usec, rows[i].pid, 7) != rows[i].want)
			fail_msg("row %zu", i);
}

static void notify_given_parse__table(void **state)
{
	static const struct {
		const char *pid, *fds, *names;
		int r;
		size_t n;
		const char *want; /* names with their numbers */
	} rows[] = {
		{NULL, NULL, NULL, 0, 0, ""},
		{"7", NULL, "a", 0, 0, ""},
		{"7", "2", "a:b", 0, 2, "3=a 4=b "},
		{"7", "3", "a::b", 0, 3, "3=a 4= 5=b "},
		{"7", "2", NULL, 0, 2, "3= 4= "},
		{"7", "1", "", 0, 1, "3= "},
		{"8", "2", "a:b", 0, 0, ""}, /* another process */
		{"7", "0", "", 0, 0, ""},
		{"7", "2", "a", -EINVAL, 0, ""},
		{"7", "1", "a:b", -EINVAL, 0, ""},
		{"7", "-1", "a", -EINVAL, 0, ""},
		{"7", "65537", NULL, -EINVAL, 0, ""},
		{"x", "1", "a", -EINVAL, 0, ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		_cleanup_strbuf_ struct strbuf got = {0};
		struct notify_given g;
		struct str name;
		int fd;

		strbuf_printf(&got, "%s", "");
		if (notify_given_parse(rows[i].pid, rows[i].fds, rows[i].names, 7, &g) !=
			    rows[i].r ||
		    g.n != rows[i].n)
			fail_msg("row %zu: %zu descriptors", i, g.n);
		while (notify_given_next(&g, &fd, &name))
			strbuf_printf(&got, "%d=%.*s ", fd, STR_FMT(name));
		if (strcmp(got.p, rows[i].want) != 0)
			fail_msg("row %zu: %s", i, got.p);
	}
}

static void trim_due__once_after_each_burst(void **state)
{
	static const struct {
		uint64_t ms, events;
		bool want;
	} rows[] = {
		{1000, 5, false},   /* the first look knows no pause */
		{3000, 50, false},  /* busy */
		{5000, 50, true},   /* quiet since the last look */
		{7000, 50, false},  /* nothing was used since */
		{9000, 51, false},  /* a ping */
		{11000, 51, true},  /* and quiet again */
		{13000, 52, false}, /* events at every look from here on */
		{25000, 53, false}, {39000, 54, false}, {41000, 55, true},
		{43000, 56, false}, {71000, 57, true},
	};
	struct trim_pace p = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (trim_due(&p, rows[i].events, rows[i].ms) != rows[i].want)
			fail_msg("row %zu", i);
}

static int listen_for_notes(const char *name, bool abstract)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	size_t n = strlen(name);

	assert_true(s >= 0);
	memcpy(a.sun_path, name, n);
	if (abstract)
		a.sun_path[0] = '\0';
	assert_int_equal(bind(s, (struct sockaddr *)&a,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + !abstract)),
			 0);
	return s;
}

static void notify_send_fds__brings_them(void **state)
{
	char dir[] = "/tmp/test_os.XXXXXX", path[64], got[32];
	int s, fds[3] = {-1, -1, -1}, in;
	struct err err = {0};
	size_t n = 0;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/notify", dir);
	s = listen_for_notes(path, false);
	in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(notify_send_fds("FDSTORE=1", &in, 1), 0); /* no manager */
	assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
	assert_int_equal(notify_send_fds("FDSTORE=1", &in, 1), 1);
	assert_int_equal(fd_recv(s, got, sizeof(got), fds, 3, &n, &err), 9);
	assert_int_equal(n, 1);
	assert_int_equal(close(fds[0]), 0);
	assert_int_equal(notify_send_fds("FDSTOREREMOVE=1", NULL, 0), 1);
	assert_int_equal(fd_recv(s, got, sizeof(got), fds, 3, &n, &err), 15);
	assert_int_equal(n, 0);
	assert_int_equal(close(in), 0);
	assert_int_equal(close(s), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
}

static void notify_send__reaches_both_kinds_of_address(void **state)
{
	char dir[] = "/tmp/test_os.XXXXXX", path[64], abstract[64], got[64];

	(void)state;
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
	assert_false(notify_enabled());
	assert_int_equal(notify_send("READY=1"), 0);
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/notify", dir);
	(void)snprintf(abstract, sizeof(abstract), "@%s/notify", dir);
	for (int i = 0; i < 2; i++) {
		const char *name = i == 0 ? path : abstract;
		int s = listen_for_notes(name, i == 1);

		assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
		assert_int_equal(notify_send("READY=1\nSTATUS=x"), 1);
		assert_int_equal(recv(s, got, sizeof(got), 0), 16);
		assert_memory_equal(got, "READY=1\nSTATUS=x", 16);
		assert_int_equal(close(s), 0);
		assert_true(notify_send("READY=1") < 0); /* nobody there: said, and no signal */
	}
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(setenv("NOTIFY_SOCKET", "relative", 1), 0);
	assert_int_equal(notify_send("READY=1"), 0);
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
}

static void sealed__nobody_changes_it(void **state)
{
	struct err err = {0};
	int fd = sealed_new("x", "secret", 6, &err), other;
	bool locked;
	const void *p;
	size_t n;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(fd, "x", 1), -1);
	assert_int_equal(ftruncate(fd, 3), -1);
	assert_int_equal(ftruncate(fd, 30), -1);
	assert_int_equal(sealed_check(fd, 6, &n, &err), 0);
	assert_int_equal(n, 6);
	assert_true(sealed_check(fd, 5, &n, &err) < 0);
	p = sealed_map(fd, 6, &locked, &err);
	assert_memory_equal(p, "secret", 6);
	sealed_unmap(p, 6);
	sealed_unmap(NULL, 0);
	close(fd);
	other = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_true(sealed_check(other, 100, &n, &err) < 0);
	assert_string_equal(err.msg, "the descriptor is no sealed memory");
	close(other);
	assert_true(sealed_check(-1, 100, &n, &err) < 0);
	fd = sealed_new("x", "", 0, &err);
	assert_true(sealed_check(fd, 100, &n, &err) < 0); /* nothing in it */
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trim__changes_nothing_a_program_can_see),
		cmocka_unit_test(fd_recv__too_many_descriptors_are_closed),
		cmocka_unit_test(fd_recv__long_packet_is_an_error),
		cmocka_unit_test(file__write_read_and_limit),
		cmocka_unit_test(file_unchanged__whatever_changes),
		cmocka_unit_test(file_remove_halves__only_of_that_file),
		cmocka_unit_test(trim_due__once_after_each_burst),
		cmocka_unit_test(notify_watchdog_parse__table),
		cmocka_unit_test(notify_given_parse__table),
		cmocka_unit_test(notify_send_fds__brings_them),
		cmocka_unit_test(sealed__nobody_changes_it),
		cmocka_unit_test(notify_send__reaches_both_kinds_of_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
