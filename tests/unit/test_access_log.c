/* SPDX-License-Identifier: Apache-2.0
 * test_access_log.c: the ring, the line's text (ztunnel-spec 13.4), and the way from a worker to
 * standard error.
 */
#include "tests/unit/zt_helper.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/json.h"
#include "ztunnel/observe/access_log.h"
#include "ztunnel/observe/log_line.h"
#include "ztunnel/observe/ring.h"

static void ring__order_wrap_and_full(void **state)
{
	struct ring r;
	unsigned int in = 0, out = 0, refused = 0;
	size_t n;

	(void)state;
	ring_init(&r, 1024);
	/* sizes that do not divide the ring: every wrap position comes up */
	for (unsigned int step = 0; step < 5000; step++) {
		size_t want = 1 + step * 7 % 90;
		unsigned char *p = ring_reserve(&r, want);

		if (p != NULL) {
			memset(p, (int)(in & 0xff), want);
			in++;
			ring_commit(&r);
		} else {
			refused++;
		}
		if (step % 3 == 0 || p == NULL) {
			p = ring_peek(&r, &n);
			assert_non_null(p);
			for (size_t i = 0; i < n; i++)
				assert_int_equal(p[i], out & 0xff);
			out++;
			ring_release(&r);
		}
	}
	while (ring_peek(&r, &n) != NULL) {
		out++;
		ring_release(&r);
	}
	assert_int_equal(in, out);
	assert_true(refused != 0);
	assert_null(ring_reserve(&r, 4096));
	ring_fini(&r);
}

#define RECORDS 200000u
static struct ring shared;
static atomic_uint lost;

static void *producer(void *arg)
{
	(void)arg;
	for (unsigned int i = 0; i < RECORDS; i++) {
		size_t n = sizeof(i) + i % 40;
		unsigned int *p = ring_reserve(&shared, n);

		if (p == NULL) {
			atomic_fetch_add(&lost, 1);
			continue;
		}
		memset(p, 0x5a, n);
		memcpy(p, &i, sizeof(i));
		ring_commit(&shared);
	}
	return NULL;
}

static void ring__two_threads(void **state)
{
	unsigned int got = 0, last = 0, v;
	bool done = false;
	pthread_t t;
	size_t n;

	(void)state;
	ring_init(&shared, 4096);
	assert_int_equal(pthread_create(&t, NULL, producer, NULL), 0);
	while (!done || got + atomic_load(&lost) < RECORDS) {
		unsigned int *p = ring_peek(&shared, &n);

		if (p == NULL) {
			done = got + atomic_load(&lost) == RECORDS;
			continue;
		}
		memcpy(&v, p, sizeof(v));
		assert_int_equal(n, sizeof(v) + v % 40);
		assert_true(got == 0 || v > last);
		last = v;
		got++;
		ring_release(&shared);
	}
	pthread_join(t, NULL);
	assert_true(got > 0);
	ring_fini(&shared);
}

static const char yaml[] = "workloads:\n"
			   "  - {uid: c, name: client-1, namespace: default, serviceAccount: "
			   "client, workloadIps: [], services: {}}\n"
			   "  - {uid: s, name: server-1, namespace: default, serviceAccount: "
			   "server, workloadIps: [], services: {}}\n"
			   "services:\n"
			   "  - {name: svc, namespace: default, hostname: "
			   "server.default.svc.cluster.local, vips: [], ports: {80: 80}}\n";

static struct conn_info conn(struct mesh *m, enum conn_reporter r, enum conn_via via)
{
	struct conn_info c = {.reporter = r,
			      .via = via,
			      .src_addr = ip_port("10.0.0.1:51000"),
			      .dst_addr = ip_port("10.0.0.2:15008"),
			      .hbone_addr = ip_port("10.0.0.2:8080"),
			      .bytes_recv = 11,
			      .bytes_sent = 22};

	c.src = workload_ref(mesh_workload_by_uid(m, STR("c")));
	c.dst = workload_ref(mesh_workload_by_uid(m, STR("s")));
	return c;
}

static void line__texts(void **state)
{
	struct mesh *m = mesh_from(yaml);
	struct conn_info out = conn(m, REPORTER_SOURCE, VIA_HBONE);
	struct conn_info in = conn(m, REPORTER_DESTINATION, VIA_HBONE);
	struct conn_info plain = {.reporter = REPORTER_SOURCE,
				  .src_addr = ip_port("[fd00::1]:1"),
				  .dst_addr = ip_port("1.2.3.4:80")};
	struct strbuf b = {0};

	(void)state;
	out.service = service_ref(
		mesh_service_by_host(m, STR("default"), STR("server.default.svc.cluster.local")));
	in.peer_identity = xstrdup("spiffe://cluster.local/ns/default/sa/client");
	log_line_complete(&b, false, &out, NULL, 3);
	/* the example of ztunnel-spec 13.4 */
	assert_string_equal(
		b.p,
		"connection complete\tsrc.addr=10.0.0.1:51000 src.workload=\"client-1\" "
		"src.namespace=\"default\" src.identity=\"spiffe://cluster.local/ns/default/sa/"
		"client\" src.cluster=\"Kubernetes\" dst.addr=10.0.0.2:15008 "
		"dst.hbone_addr=10.0.0.2:8080 dst.service=\"server.default.svc.cluster.local\" "
		"dst.workload=\"server-1\" dst.namespace=\"default\" dst.identity=\"spiffe://"
		"cluster.local/ns/default/sa/server\" dst.cluster=\"Kubernetes\" "
		"direction=\"outbound\" bytes_sent=11 bytes_recv=22 duration=\"3ms\"");
	b.n = 0;
	log_line_opened(&b, false, &in);
	assert_string_equal(
		b.p,
		"connection opened\tsrc.addr=10.0.0.1:51000 src.workload=\"client-1\" "
		"src.namespace=\"default\" src.identity=\"spiffe://cluster.local/ns/default/sa/"
		"client\" src.cluster=\"Kubernetes\" dst.addr=10.0.0.2:15008 "
		"dst.hbone_addr=10.0.0.2:8080 dst.workload=\"server-1\" dst.namespace=\"default\" "
		"dst.identity=\"spiffe://cluster.local/ns/default/sa/server\" "
		"dst.cluster=\"Kubernetes\" direction=\"inbound\"");
	b.n = 0;
	log_line_complete(&b, false, &in, "it \"broke\"\n", 0);
	assert_non_null(strstr(b.p, "direction=\"inbound\" bytes_sent=22 bytes_recv=11 "
				    "duration=\"0ms\" error=\"it \\\"broke\\\"\\u000a\""));
	b.n = 0;
	log_line_complete(&b, false, &plain, NULL, 15);
	assert_string_equal(b.p, "connection complete\tsrc.addr=[fd00::1]:1 dst.addr=1.2.3.4:80 "
				 "direction=\"outbound\" bytes_sent=0 bytes_recv=0 "
				 "duration=\"15ms\"");
	b.n = 0;
	log_line_early(&b, false, REPORTER_DESTINATION, &in.src_addr, &in.dst_addr, "why");
	assert_string_equal(b.p, "connection failed\tsrc.addr=10.0.0.1:51000 "
				 "dst.addr=10.0.0.2:15008 direction=\"inbound\" error=\"why\"");
	b.n = 0;
	in.orig_dst = ip_port("10.0.0.2:8080");
	log_line_policy(&b, false, "dry-run: deny policy match", STR("ns/na\"me"), &in, 0);
	assert_string_equal(b.p,
			    "dry-run: deny policy match\tpolicy=\"ns/na\\\"me\" "
			    "src.addr=10.0.0.1:51000 src.workload=\"client-1\" "
			    "src.namespace=\"default\" src.identity=\"spiffe://cluster.local/ns/"
			    "default/sa/client\" src.cluster=\"Kubernetes\" "
			    "dst.addr=10.0.0.2:8080 dst.workload=\"server-1\" "
			    "dst.namespace=\"default\" dst.identity=\"spiffe://cluster.local/ns/"
			    "default/sa/server\" dst.cluster=\"Kubernetes\"");
	b.n = 0;
	plain.orig_dst = ip_port("1.2.3.4:80");
	log_line_policy(&b, true, "no allow policies, allow", STR(""), &plain, 7);
	assert_string_equal(
		b.p, ",\"src.addr\":\"[fd00::1]:1\",\"dst.addr\":\"1.2.3.4:80\",\"suppressed\":7");
	strbuf_fini(&b);
	conn_info_fini(&out);
	conn_info_fini(&in);
	mesh_unref(m);
}

/* What is written to standard error while @fn runs. */
static char *captured(void (*fn)(void *), void *arg)
{
	static char buf[1u << 20];
	char path[] = "/tmp/test_access_log.XXXXXX";
	int fd = mkstemp(path), old = dup(STDERR_FILENO);
	ssize_t n;

	assert_true(fd >= 0 && old >= 0);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	fn(arg);
	assert_int_equal(dup2(old, STDERR_FILENO), STDERR_FILENO);
	close(old);
	n = pread(fd, buf, sizeof(buf) - 1, 0);
	assert_true(n >= 0);
	buf[n] = '\0';
	close(fd);
	unlink(path);
	return xstrdup(buf);
}

static void *worker(void *arg)
{
	struct access_log_worker *w = arg;
	struct mesh *m = mesh_from(yaml);
	struct conn_info c = conn(m, REPORTER_SOURCE, VIA_HBONE);

	access_log_adopt_thread(w);
	c.start_ns = 1000000;
	c.peer_identity = xstrdup("spiffe://cluster.local/ns/default/sa/server");
	access_log_opened(w, &c);
	access_log_complete(w, &c, FLAG_NONE, NULL, 8000000);
	access_log_complete(w, &c, FLAG_CONNECT, "broken", 8000000);
	access_log_early(w, REPORTER_SOURCE, &c.src_addr, &c.dst_addr, "early");
	access_log_policy(w, LOG_LV_DEBUG, "not at this level", STR("ns/x"), &c);
	access_log_policy(w, LOG_LV_INFO, "deny policy match", STR("ns/x"), &c);
	log_info("pods", "an ordinary line");
	conn_info_fini(&c);
	mesh_unref(m); /* the record keeps what it names */
	return NULL;
}

static void run_one(void *arg)
{
	struct loop *l = loop_new();
	struct access_log *log = access_log_new(l, 1);
	pthread_t t;

	(void)arg;
	assert_int_equal(pthread_create(&t, NULL, worker, access_log_worker(log, 0)), 0);
	pthread_join(t, NULL);
	loop_step(l, 1000);
	(void)access_log_free(log);
	loop_free(l);
}

static void way__text(void **state)
{
	char *text = captured(run_one, NULL);

	(void)state;
	assert_non_null(strstr(text, "Z\tinfo\taccess\tconnection complete\tsrc.addr="));
	assert_non_null(strstr(text, "duration=\"7ms\"\n"));
	assert_non_null(strstr(text, "Z\terror\taccess\tconnection complete\t"));
	assert_non_null(strstr(text, "error=\"broken\"\n"));
	assert_non_null(strstr(text, "Z\twarn\taccess\tconnection failed\t"));
	assert_non_null(strstr(text, "\tpods\tan ordinary line\n"));
	assert_non_null(
		strstr(text, "Z\tinfo\tstate\tdeny policy match\tpolicy=\"ns/x\" src.addr="));
	assert_null(strstr(text, "not at this level"));
	assert_null(strstr(text, "connection opened"));
	free(text);

	assert_int_equal(log_set_filter("info,access=debug"), 0);
	text = captured(run_one, NULL);
	assert_non_null(strstr(text, "Z\tdebug\taccess\tconnection opened\tsrc.addr="));
	free(text);
	assert_int_equal(log_set_filter("info"), 0);
}

static void way__json(void **state)
{
	struct arena *a = arena_new();
	struct str rest, line;
	int n = 0;
	char *text;

	(void)state;
	assert_int_equal(setenv("LOG_FORMAT", "json", 1), 0);
	log_init();
	assert_int_equal(log_set_filter("info,access=debug"), 0);
	text = captured(run_one, NULL);
	rest = str_of(text);
	while (str_cut(&rest, '\n', &line)) {
		const struct doc *d;
		struct err e = {0};

		if (json_parse(line, a, &d, &e) != 0)
			fail_msg("%s: %.*s", e.msg, STR_FMT(line));
		assert_true(doc_get(d, "level") != NULL && doc_get(d, "time") != NULL);
		if (n == 0) {
			assert_true(str_eqc(doc_get(d, "message")->text, "connection opened"));
			assert_true(str_eqc(doc_get(d, "level")->text, "debug"));
			assert_null(doc_get(d, "duration"));
		}
		if (n == 1) {
			assert_true(str_eqc(doc_get(d, "message")->text, "connection complete"));
			assert_true(str_eqc(doc_get(d, "src.addr")->text, "10.0.0.1:51000"));
			assert_int_equal(doc_get(d, "bytes_sent")->kind, DOC_NUMBER);
			assert_true(str_eqc(doc_get(d, "scope")->text, "access"));
		}
		n++;
	}
	assert_int_equal(n, 6);
	free(text);
	(void)arena_free(a);
	unsetenv("LOG_FORMAT");
	log_init();
}

static void fill(void *arg)
{
	struct loop *l = loop_new();
	struct access_log *log = access_log_new(l, 1);
	struct access_log_worker *w = access_log_worker(log, 0);
	struct ip_port a = ip_port("10.0.0.1:1");

	(void)arg;
	for (int i = 0; i < 5000; i++)
		access_log_early(w, REPORTER_SOURCE, &a, &a, "x");
	(void)access_log_free(log); /* drains; its message is still in the mailbox */
	loop_free(l);
}

static void way__full_ring_drops_and_never_waits(void **state)
{
	char *text = captured(fill, NULL);
	size_t lines = 0;

	(void)state;
	for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	assert_true(lines > 100 && lines < 5000);
	free(text);
}

static void decide_often(void *arg)
{
	struct loop *l = loop_new();
	struct access_log *log = access_log_new(l, 1);
	struct access_log_worker *w = access_log_worker(log, 0);
	struct conn_info c = {.src_addr = ip_port("10.0.0.1:1")};

	(void)arg;
	for (int i = 0; i < LIMIT_POLICY_LINES + 5; i++) {
		access_log_policy(w, LOG_LV_INFO, "deny policy match", STR("n/p"), &c);
		if (i % 100 == 0)
			loop_step(l, 20); /* the ring must not be what limits */
	}
	(void)access_log_free(log);
	loop_free(l);
}

static void way__policy_lines_are_limited(void **state)
{
	char *text = captured(decide_often, NULL);
	size_t lines = 0;

	(void)state;
	for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	assert_int_equal(lines, LIMIT_POLICY_LINES);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring__order_wrap_and_full),
		cmocka_unit_test(ring__two_threads),
		cmocka_unit_test(line__texts),
		cmocka_unit_test(way__text),
		cmocka_unit_test(way__json),
		cmocka_unit_test(way__full_ring_drops_and_never_waits),
		cmocka_unit_test(way__policy_lines_are_limited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
