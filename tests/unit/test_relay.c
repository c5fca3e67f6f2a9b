/* SPDX-License-Identifier: Apache-2.0
 * test_relay.c: bytes between two sockets, driven by hand: copy, splice, back-pressure, ends; and
 * the memory behind it (queue.c). More of TCP's resets: tests/system/test_tunnel.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

static struct worker w;
static struct pod pod;
static struct conn *c;
static int app, up; /* the far ends */
static unsigned int ended, half_closed;
static enum conn_end how;

void metrics_bytes(struct conn_info *i, uint64_t recv, uint64_t sent)
{
	(void)i;
	(void)recv;
	(void)sent;
}

void conn_end(struct conn *conn, enum conn_end end, enum conn_flag flag, const char *error)
{
	(void)flag;
	(void)error;
	if (conn->state == CS_DEAD)
		return;
	conn->state = CS_DEAD;
	relay_stop(conn);
	leg_close(&w, &conn->app);
	leg_close(&w, &conn->r.up);
	ended++;
	how = end;
}

void conn_half_closed(struct conn *conn)
{
	(void)conn;
	half_closed++;
}

static void make_pair(int *far, struct leg *near)
{
	int fds[2], small = 65536;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	for (int i = 0; i < 2; i++)
		(void)setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	*far = fds[0];
	leg_init(near);
	near->w.fd = fds[1];
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	ended = half_closed = 0;
	w.loop = loop_new();
	w.rx = xmalloc(RX_BYTES);
	list_init(&w.pipes);
	pod.w = &w;
	c = xcalloc(1, sizeof(*c));
	c->magic = CONN_MAGIC;
	c->pod = &pod;
	make_pair(&app, &c->app);
	make_pair(&up, &c->r.up);
	relay_start(c);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	conn_end(c, END_CLOSE, FLAG_NONE, NULL);
	assert_int_equal(atomic_load(&w.st.buffers), 0);
	pipes_free(&w);
	assert_int_equal(w.npipes, 0);
	loop_free(w.loop);
	free(w.rx);
	free(c);
	(void)xclose(app);
	(void)xclose(up);
	return 0;
}

static void turns(int n)
{
	for (int i = 0; i < n; i++)
		loop_step(w.loop, 0);
}

static size_t take(int fd, void *buf, size_t cap)
{
	ssize_t n = read(fd, buf, cap);

	if (n < 0)
		assert_int_equal(errno, EAGAIN);
	return n < 0 ? 0 : (size_t)n;
}

static void copy__both_ways(void **state)
{
	char buf[100];

	(void)state;
	assert_int_equal(write(app, "hello", 5), 5);
	assert_int_equal(write(up, "world!", 6), 6);
	turns(2);
	assert_int_equal(take(up, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(take(app, buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "world!", 6);
	assert_int_equal(c->info.bytes_recv, 5);
	assert_int_equal(c->info.bytes_sent, 6);
	assert_int_equal(w.npipes, 0); /* small messages take no pipe */
}

static void ignore(struct watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
}

/* A server that speaks first, and whose bytes came in the same event as the end of connect():
 * epoll does not tell a second time, and the client waits in silence. */
static void start__bytes_came_with_the_connection(void **state)
{
	char buf[100];

	(void)state;
	relay_stop(c);
	leg_close(&w, &c->app);
	leg_close(&w, &c->r.up);
	(void)xclose(app);
	(void)xclose(up);
	make_pair(&app, &c->app);
	make_pair(&up, &c->r.up);
	assert_int_equal(write(up, "220 hello", 9), 9);
	assert_int_equal(loop_watch(w.loop, &c->r.up.w, c->r.up.w.fd,
				    EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, ignore),
			 0);
	turns(1); /* dial.c takes the event */
	relay_start(c);
	turns(2);
	assert_int_equal(take(app, buf, sizeof(buf)), 9);
	assert_memory_equal(buf, "220 hello", 9);
}

/* 8 MiB with odd reads: content, and that nothing is kept when it is over. */
static void bulk__every_byte(void **state)
{
	static uint8_t in[200000], out[200000];
	size_t sent = 0, got = 0, total = 8 << 20, pipes = 0;

	(void)state;
	while (got < total) {
		size_t n;
		ssize_t r;

		for (size_t i = 0; i < sizeof(in); i++)
			in[i] = (uint8_t)((sent + i) * 2654435761u >> 13);
		n = total - sent < sizeof(in) ? total - sent : sizeof(in);
		r = n != 0 ? write(app, in, n) : 0;
		sent += r > 0 ? (size_t)r : 0;
		turns(1);
		pipes = w.npipes > pipes ? w.npipes : pipes;
		n = take(up, out, 70001);
		for (size_t i = 0; i < n; i++)
			if (out[i] != (uint8_t)((got + i) * 2654435761u >> 13))
				fail_msg("byte %zu differs", got + i);
		got += n;
	}
	turns(3);
	assert_int_equal(c->info.bytes_recv, total);
	assert_int_equal(atomic_load(&w.st.buffers), 0); /* an idle connection owns nothing */
	assert_null(c->r.fwd.pipe);
	assert_null(c->r.fwd.pend);
	assert_true(pipes <= 1);
}

static void splice__after_two_full_reads(void **state)
{
	static uint8_t block[COPY_BYTES];

	(void)state;
	c->r.fwd.full_reads = 2; /* as after two full reads: unix sockets deliver less at once */
	assert_true(write(app, block, sizeof(block)) > 0);
	turns(1);
	assert_int_equal(w.npipes, 1);
	turns(3);
	assert_null(c->r.fwd.pipe);	    /* given back with the source empty ... */
	assert_int_equal(w.nidle_pipes, 1); /* ... and kept for the next */
	assert_int_equal(c->r.fwd.full_reads, 0);
}

static void pressure__reader_stops_writer(void **state)
{
	static uint8_t block[65536];
	size_t sent = 0;

	(void)state;
	for (int idle = 0; idle < 5;) {
		ssize_t r = write(app, block, sizeof(block));

		sent += r > 0 ? (size_t)r : 0;
		idle = r > 0 ? 0 : idle + 1;
		turns(1);
		assert_true(sent < 8 << 20);
	}
	assert_true(c->r.up.wr_block);
	assert_true(atomic_load(&w.st.buffers) <= PIPE_BYTES + COPY_BYTES);
	turns(10);
	assert_int_equal(ended, 0);
	for (size_t got = 0; got < sent;) { /* and goes on */
		got += take(up, block, sizeof(block));
		turns(1);
	}
}

static void end__half_close_each_way(void **state)
{
	char buf[100];

	(void)state;
	assert_int_equal(write(app, "q", 1), 1);
	assert_int_equal(shutdown(app, SHUT_WR), 0);
	turns(3);
	assert_int_equal(take(up, buf, sizeof(buf)), 1);
	assert_int_equal(read(up, buf, sizeof(buf)), 0);
	assert_true(half_closed > 0);
	assert_int_equal(ended, 0);
	assert_int_equal(write(up, "answer", 6), 6);
	turns(2);
	assert_int_equal(take(app, buf, sizeof(buf)), 6);
	assert_int_equal(shutdown(up, SHUT_WR), 0);
	turns(3);
	assert_int_equal(read(app, buf, sizeof(buf)), 0);
	assert_int_equal(ended, 1);
	assert_int_equal(how, END_CLOSE);
}

/* EOF comes after what is pending, never before. */
static void end__eof_waits_for_pending(void **state)
{
	static uint8_t block[65536];
	size_t sent = 0, got = 0;
	ssize_t r;

	(void)state;
	for (int idle = 0; idle < 5; turns(1)) {
		r = write(app, block, sizeof(block));
		sent += r > 0 ? (size_t)r : 0;
		idle = r > 0 ? 0 : idle + 1;
	}
	assert_int_equal(shutdown(app, SHUT_WR), 0);
	turns(3);
	assert_false(c->r.fwd.fin_sent);
	for (;;) {
		r = read(up, block, sizeof(block));
		if (r == 0)
			break;
		got += r > 0 ? (size_t)r : 0;
		turns(1);
	}
	assert_int_equal(got, sent);
}

static void end__writer_gone_while_stalled(void **state)
{
	static uint8_t block[65536];

	(void)state;
	for (int i = 0; i < 100; i++) {
		(void)!write(app, block, sizeof(block));
		turns(1);
	}
	assert_true(c->r.up.wr_block);
	(void)xclose(take_fd(up)); /* the reader dies: EPIPE on the next write */
	turns(3);
	assert_int_equal(ended, 1);
	assert_int_equal(how, END_RESET);
}

/* The same with TCP, which knows urgent data and resets. */
static void make_tcp_pair(int *far, struct leg *near)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*far = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(l, (struct sockaddr *)&a, n), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(connect(*far, (struct sockaddr *)&a, n), 0);
	leg_init(near);
	near->w.fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(near->w.fd >= 0);
	assert_int_equal(fcntl(*far, F_SETFL, O_NONBLOCK), 0);
	(void)xclose(l);
}

static void over_tcp(void)
{
	relay_stop(c);
	leg_close(&w, &c->app);
	leg_close(&w, &c->r.up);
	(void)xclose(app);
	(void)xclose(up);
	make_tcp_pair(&app, &c->app);
	make_tcp_pair(&up, &c->r.up);
	relay_start(c);
	turns(2);
}

/* The write finds the error first, and then the kernel says "end" to the read. */
static void end__reset_met_while_writing(void **state)
{
	static uint8_t block[65536];
	size_t total = 0;

	(void)state;
	over_tcp();
	for (int idle = 0; idle < 50; turns(1)) {
		ssize_t r = write(app, block, sizeof(block));

		total += r > 0 ? (size_t)r : 0;
		idle = r > 0 ? 0 : idle + 1;
		assert_true(total < 64 << 20);
	}
	assert_true(c->r.up.wr_block);
	sock_ends_in_reset(up, true);
	up = xclose(up);
	turns(3);
	assert_int_equal(ended, 1);
	assert_int_equal(how, END_RESET);
	assert_false(c->r.back.eof);
	assert_false(c->r.back.fin_sent);
}

/* recv() stops in front of urgent data: the rest has had its event already. The urgent byte itself
 * is not part of the stream. */
static void copy__behind_urgent_data(void **state)
{
	char buf[100];

	(void)state;
	over_tcp();
	assert_int_equal(send(app, "ab", 2, 0), 2);
	assert_int_equal(send(app, "!", 1, MSG_OOB), 1);
	assert_int_equal(send(app, "cd", 2, 0), 2);
	turns(3);
	assert_int_equal(take(up, buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "abcd", 4);
	assert_false(c->app.rd_ready);
}

/* splice() does not get past it, and with a FIN behind it says "end". */
static void splice__behind_urgent_data(void **state)
{
	char buf[100];

	(void)state;
	over_tcp();
	c->r.fwd.full_reads = 2;
	assert_int_equal(send(app, "ab", 2, 0), 2);
	assert_int_equal(send(app, "!", 1, MSG_OOB), 1);
	assert_int_equal(send(app, "cd", 2, 0), 2);
	assert_int_equal(shutdown(app, SHUT_WR), 0);
	turns(3);
	assert_int_equal(w.npipes, 1);
	for (size_t n = 0; n < 4;) {
		size_t k = take(up, buf + n, sizeof(buf) - n);

		assert_true(k > 0);
		n += k;
	}
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(read(up, buf, sizeof(buf)), 0);
}

static void queue__order_and_account(void **state)
{
	struct queue q = {0};
	uint8_t buf[50000];
	size_t bytes = 0;

	(void)state;
	for (int i = 0; i < 5000; i++) { /* single bytes must not cost a chunk each */
		uint8_t b = (uint8_t)i;

		assert_int_equal(queue_add(&w, &q, &b, 1), 0);
	}
	assert_true(w.undelivered <= 16 << 10);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(queue_add(&w, &q, buf, sizeof(buf)), 0);
	assert_int_equal(q.bytes, 55000);
	assert_int_equal(atomic_load(&w.st.undelivered), w.undelivered);
	while (q.bytes > 50000) {
		assert_int_equal(q.head->data[q.head->off], (uint8_t)bytes);
		queue_drop(&w, &q, 1);
		bytes++;
	}
	queue_drop(&w, &q, 20000);
	assert_int_equal(q.bytes, 30000);
	queue_clear(&w, &q);
	assert_int_equal(w.undelivered, 0);
	assert_null(q.head);
	assert_null(q.tail);
}

static void pipes__bounded(void **state)
{
	struct pipe_pair *p[PIPES_MAX + 1];
	size_t n = 0;

	(void)state;
	while (n <= PIPES_MAX && (p[n] = pipe_get(&w)) != NULL)
		n++;
	assert_true(n <= PIPES_MAX);
	for (size_t i = 0; i < n; i++)
		pipe_put(&w, p[i]);
	assert_int_equal(w.npipes, n < PIPES_KEPT ? n : PIPES_KEPT);
	/* one with bytes in it must not be handed to another connection */
	p[0] = pipe_get(&w);
	p[0]->bytes = 1;
	pipe_put(&w, p[0]);
	assert_int_equal(w.npipes, PIPES_KEPT - 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	static const struct CMUnitTest t[] = {
		CASE(copy__both_ways),
		CASE(start__bytes_came_with_the_connection),
		CASE(bulk__every_byte),
		CASE(splice__after_two_full_reads),
		CASE(pressure__reader_stops_writer),
		CASE(end__half_close_each_way),
		CASE(end__eof_waits_for_pending),
		CASE(end__writer_gone_while_stalled),
		CASE(end__reset_met_while_writing),
		CASE(copy__behind_urgent_data),
		CASE(splice__behind_urgent_data),
		CASE(queue__order_and_account),
		CASE(pipes__bounded),
	};

	return cmocka_run_group_tests_name("relay", t, NULL, NULL);
}
