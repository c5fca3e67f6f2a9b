/* SPDX-License-Identifier: Apache-2.0
 * test_log_sink.c: log lines when nobody reads standard error: nothing waits, what is lost is
 * counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/log_sink.h"
#include "lib/base/str.h"
#include "lib/event/log_pump.h"

enum how { PIPE, SOCKET, NOT_OURS };
struct lane {
	int reader, saved;
	struct strbuf got;
	unsigned int sent;
	uint64_t dropped_before;
};

/* Standard error becomes something that the test reads, or does not. */
static void lane_open(struct lane *l, enum how how)
{
	int fds[2];

	*l = (struct lane){.saved = dup(STDERR_FILENO), .dropped_before = log_sink_dropped()};
	if (how == SOCKET)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	else
		assert_int_equal(pipe(fds), 0);
	l->reader = fds[0];
	assert_int_equal(fcntl(l->reader, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
	close(fds[1]);
	if (how == NOT_OURS)
		assert_int_equal(seteuid(65534), 0); /* then the pipe cannot be opened anew */
	log_sink_open();
	if (how == NOT_OURS)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(log_sink_fd() == STDERR_FILENO, how != PIPE);
}

static void lane_close(struct lane *l)
{
	log_sink_close();
	assert_int_equal(dup2(l->saved, STDERR_FILENO), STDERR_FILENO);
	close(l->saved);
	close(l->reader);
	strbuf_fini(&l->got);
}

static void put(struct lane *l, unsigned int lines)
{
	char text[128];

	while (lines-- != 0) {
		int n = snprintf(text, sizeof(text), "line %u %.*s\n", l->sent, (int)(l->sent % 61),
				 "012345678901234567890123456789012345678901234567890123456789");

		log_sink_put(text, (size_t)n);
		l->sent++;
	}
}

static void read_all(struct lane *l)
{
	char buf[65536];
	ssize_t n;

	while ((n = read(l->reader, buf, sizeof(buf))) > 0)
		strbuf_add(&l->got, buf, (size_t)n);
}

/* Every line is whole and in order; what is missing is what the notes say. Returns the lines. */
static unsigned int check_lines(struct lane *l, uint64_t *ret_noted)
{
	unsigned int next = 0, lines = 0, number;
	char *rest = NULL;

	*ret_noted = 0;
	strbuf_putc(&l->got, '\0');
	for (char *s = strtok_r(l->got.p, "\n", &rest); s != NULL;
	     s = strtok_r(NULL, "\n", &rest)) {
		const char *note = strstr(s, "lines dropped=");
		unsigned long long lost = note != NULL ? strtoull(note + 14, NULL, 10) : 0;

		*ret_noted += lost;
		next += (unsigned int)lost;
		if (note != NULL)
			continue;
		assert_int_equal(sscanf(s, "line %u ", &number), 1);
		assert_int_equal(number, next);
		assert_int_equal(strlen(s), (size_t)snprintf(NULL, 0, "line %u ", number) +
						    (number % 61 < 60 ? number % 61 : 60));
		next++;
		lines++;
	}
	assert_int_equal(next, l->sent);
	return lines;
}

static void full(enum how how)
{
	struct lane l;
	uint64_t noted, dropped;

	lane_open(&l, how);
	put(&l, 20000); /* pipe and buffer take about 6,000; alarm() ends a test that waits */
	dropped = log_sink_dropped() - l.dropped_before;
	assert_true(dropped > 5000 && dropped < 19000);
	read_all(&l);
	put(&l, 10); /* there is room again in the pipe: the next line goes on */
	for (bool empty = false; !empty;) {
		empty = log_sink_flush();
		read_all(&l);
	}
	put(&l, 5);
	read_all(&l);
	dropped = log_sink_dropped() - l.dropped_before;
	assert_int_equal(check_lines(&l, &noted) + dropped, l.sent);
	assert_int_equal(noted, dropped);
	lane_close(&l);
}

static void put__never_waits_for_a_pipe(void **state)
{
	(void)state;
	full(PIPE);
}

static void put__never_waits_for_a_socket(void **state)
{
	(void)state;
	full(SOCKET);
}

static void put__never_waits_for_a_pipe_of_somebody_else(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	full(NOT_OURS);
}

static void put__leaves_the_flags_alone(void **state)
{
	struct lane l;

	(void)state;
	lane_open(&l, PIPE);
	put(&l, 20000);
	assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
	lane_close(&l);
}

static void put__keeps_errno_when_the_reader_is_gone(void **state)
{
	struct lane l;

	(void)state;
	lane_open(&l, SOCKET);
	close(l.reader);
	l.reader = dup(l.saved);
	errno = ENOENT;
	put(&l, 3);
	assert_int_equal(errno, ENOENT);
	assert_true(log_sink_flush());
	lane_close(&l);
}

static void pump__goes_on_when_there_is_room(void **state)
{
	struct loop *loop = loop_new();
	struct log_pump pump;
	struct lane l;
	uint64_t noted;

	(void)state;
	lane_open(&l, PIPE);
	log_pump_start(&pump, loop);
	put(&l, 4000);
	for (int i = 0; i < 1000 && l.got.n < 200000; i++) {
		loop_step(loop, 0);
		read_all(&l);
	}
	for (int i = 0; i < 10; i++) {
		loop_step(loop, 0);
		read_all(&l);
	}
	assert_int_equal(check_lines(&l, &noted), 4000);
	assert_int_equal(noted, 0);
	assert_false(pump.w.added);
	log_pump_stop(&pump);
	loop_free(loop);
	lane_close(&l);
}

static void filter__stays_small(void **state)
{
	char text[2048];

	(void)state;
	assert_int_equal(log_set_filter("warn,access=off,access=info,info,zds=debug"), 0);
	assert_string_equal(log_filter(), "info,access=info,zds=debug");
	for (int i = 0; i < 1000; i++) { /* as POST /logging does it */
		(void)snprintf(text, sizeof(text), "%s,%s", log_filter(),
			       i % 2 == 0 ? "debug,zds=off" : "info,zds=debug");
		assert_int_equal(log_set_filter(text), 0);
	}
	assert_string_equal(log_filter(), "info,access=info,zds=debug");
	assert_int_equal(log_set_filter(log_filter()), 0);
	assert_true(log_enabled(LOG_LV_DEBUG, "zds") && !log_enabled(LOG_LV_DEBUG, "access"));
	assert_int_equal(log_set_filter("a=info,b=info,c=info,d=info,e=info,f=info,g=info,h=info,"
					"i=info,j=info,k=info,l=info,m=info,n=info,o=info,p=info,"
					"q=info"),
			 -EINVAL);
	assert_string_equal(log_filter(), "info,access=info,zds=debug");
	assert_int_equal(log_set_filter("info"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put__never_waits_for_a_pipe),
		cmocka_unit_test(put__never_waits_for_a_socket),
		cmocka_unit_test(put__never_waits_for_a_pipe_of_somebody_else),
		cmocka_unit_test(put__leaves_the_flags_alone),
		cmocka_unit_test(put__keeps_errno_when_the_reader_is_gone),
		cmocka_unit_test(pump__goes_on_when_there_is_room),
		cmocka_unit_test(filter__stays_small),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
