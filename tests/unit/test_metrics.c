/* SPDX-License-Identifier: Apache-2.0
 * test_metrics.c: label sets, sums over workers, expiry, overflow, and scraping while a worker
 * works (ztunnel-spec 13.1-13.3).
 */
#include "tests/unit/zt_helper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "lib/base/mem.h"
#include "ztunnel/observe/metrics.h"

static const char yaml[] =
	"workloads:\n"
	"  - {uid: c, name: client-1, namespace: ns1, serviceAccount: c, workloadIps: [10.0.0.1],\n"
	"     workloadName: client, canonicalName: can-c, canonicalRevision: v1, services: {},\n"
	"     locality: {region: r1, zone: z1}}\n"
	"  - {uid: s, name: server-1, namespace: ns2, serviceAccount: s, workloadIps: [10.0.0.2],\n"
	"     workloadName: 'quo\"te', services: {}}\n"
	"services:\n"
	"  - {name: svc, namespace: ns2, hostname: svc.example, vips: [], ports: {80: 80}}\n";

static struct conn_info conn(struct mesh *m, enum conn_reporter r, enum conn_via via)
{
	struct conn_info c = {.reporter = r, .via = via, .start_ns = 1};

	c.src = workload_ref(mesh_workload_by_uid(m, STR("c")));
	c.dst = workload_ref(mesh_workload_by_uid(m, STR("s")));
	return c;
}

static char *scrape(struct metrics_worker **w, size_t n)
{
	struct strbuf out = {0};

	metrics_write(w, n, &out);
	return strbuf_take(&out);
}

static void expect(char *text, const char *line)
{
	if (strstr(text, line) == NULL)
		fail_msg("no line\n%s\nin\n%s", line, text);
	free(text);
}

#define SRC_LABELS                                                                                 \
	"source_workload=\"client\",source_canonical_service=\"can-c\","                           \
	"source_canonical_revision=\"v1\",source_workload_namespace=\"ns1\","
#define SRC_LABELS2 "source_app=\"can-c\",source_version=\"v1\",source_cluster=\"Kubernetes\","
#define DST_LABELS                                                                                 \
	"destination_workload=\"quo\\\"te\",destination_canonical_service=\"unknown\","            \
	"destination_canonical_revision=\"unknown\",destination_workload_namespace=\"ns2\","       \
	"destination_principal=\"spiffe://cluster.local/ns/ns2/sa/s\","                            \
	"destination_app=\"unknown\",destination_version=\"unknown\","                             \
	"destination_cluster=\"Kubernetes\",request_protocol=\"tcp\","
#define PLACES                                                                                     \
	"source_region=\"r1\",source_zone=\"z1\",destination_region=\"unknown\","                  \
	"destination_zone=\"unknown\"} "

static void labels__order_and_values(void **state)
{
	struct mesh *m = mesh_from(yaml);
	struct metrics_worker *w[1] = {metrics_worker_new()};
	struct conn_info c = conn(m, REPORTER_SOURCE, VIA_HBONE);

	(void)state;
	c.service = service_ref(mesh_service_by_host(m, STR("ns2"), STR("svc.example")));
	metrics_open(w[0], &c);
	metrics_bytes(&c, 11, 22);
	expect(scrape(w, 1),
	       "istio_tcp_received_bytes_total{reporter=\"source\"," SRC_LABELS
	       "source_principal=\"spiffe://cluster.local/ns/ns1/sa/c\"," SRC_LABELS2
	       "destination_service=\"svc.example\",destination_service_namespace=\"ns2\","
	       "destination_service_name=\"svc\"," DST_LABELS
	       "response_flags=\"-\",connection_security_policy=\"mutual_tls\"," PLACES "11\n");
	metrics_close(w[0], &c, FLAG_CONNECT);
	expect(scrape(w, 1), "response_flags=\"CONNECT\",connection_security_policy=\"mutual_"
			     "tls\"," PLACES "1\n");
	conn_info_fini(&c);
	(void)metrics_worker_free(w[0]);
	mesh_unref(m);
}

static void labels__principal_only_when_proven(void **state)
{
	/* ztunnel-spec 13.3: plain TCP proves nothing about the source; inbound it is the peer's */
	struct mesh *m = mesh_from(yaml);
	struct metrics_worker *w[1] = {metrics_worker_new()};
	struct conn_info plain = conn(m, REPORTER_SOURCE, VIA_TCP);
	struct conn_info in = conn(m, REPORTER_DESTINATION, VIA_HBONE);

	(void)state;
	in.peer_identity = xstrdup("spiffe://cluster.local/ns/x/sa/peer");
	metrics_open(w[0], &plain);
	metrics_open(w[0], &in);
	expect(scrape(w, 1), "reporter=\"source\"," SRC_LABELS "source_principal=\"unknown\"");
	expect(scrape(w, 1), "reporter=\"destination\"," SRC_LABELS
			     "source_principal=\"spiffe://cluster.local/ns/x/sa/peer\"");
	metrics_close(w[0], &plain, FLAG_NONE);
	metrics_close(w[0], &in, FLAG_NONE);
	conn_info_fini(&plain);
	conn_info_fini(&in);
	(void)metrics_worker_free(w[0]);
	mesh_unref(m);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0, len = strlen(what);
	const char *p = text, *end = text + strlen(text);

	while ((p = memmem(p, (size_t)(end - p), what, len)) != NULL) {
		n++;
		p += len;
	}
	return n;
}

static void write__adds_up_workers(void **state)
{
	struct mesh *m = mesh_from(yaml);
	struct metrics_worker *w[2] = {metrics_worker_new(), metrics_worker_new()};
	struct conn_info c[3];
	char *text;

	(void)state;
	for (int i = 0; i < 3; i++) {
		c[i] = conn(m, REPORTER_SOURCE, VIA_TCP);
		metrics_open(w[i % 2], &c[i]);
		metrics_bytes(&c[i], 5, 0);
	}
	metrics_sockets_open(w[0], REPORTER_DESTINATION, 3);
	metrics_sockets_open(w[1], REPORTER_DESTINATION, -1);
	text = scrape(w, 2);
	assert_int_equal(count(text, "istio_tcp_connections_opened_total{"), 1);
	assert_non_null(strstr(text, PLACES "3\n"));
	assert_non_null(strstr(text, PLACES "15\n"));
	assert_non_null(strstr(text, "istio_tcp_sockets_open{reporter=\"destination\"} 2\n"));
	/* families without samples are left out, the end is marked */
	assert_null(strstr(text, "connections_failed"));
	assert_string_equal(text + strlen(text) - 6, "# EOF\n");
	free(text);
	for (int i = 0; i < 3; i++) {
		metrics_close(w[i % 2], &c[i], FLAG_NONE);
		conn_info_fini(&c[i]);
	}
	for (int i = 0; i < 2; i++)
		(void)metrics_worker_free(w[i]);
	mesh_unref(m);
}

/* A workload whose name is a number: each is a label set of its own. */
static struct workload *numbered(unsigned int i)
{
	struct workload *w = workload_new();
	char name[16];

	(void)snprintf(name, sizeof(name), "w%u", i);
	w->workload_name = model_text(w->arena, str_of(name));
	w->ns = STR("ns");
	assert_int_equal(workload_complete(w, NULL), 0);
	return w;
}

static void series__expire(void **state)
{
	struct metrics_worker *w[1] = {metrics_worker_new()};
	struct conn_info old = {.start_ns = 1, .dst = numbered(1)};
	struct conn_info held = {.start_ns = 1, .dst = numbered(2)};
	struct conn_info later = {.dst = numbered(3)};
	char *text;

	(void)state;
	metrics_open(w[0], &old);
	metrics_open(w[0], &held);
	metrics_close(w[0], &old, FLAG_NONE);
	later.start_ns = METRICS_EXPIRY_MS * 1000000ull + 2;
	metrics_open(w[0], &later);
	text = scrape(w, 1);
	assert_null(strstr(text, "destination_workload=\"w1\""));
	assert_non_null(strstr(text, "destination_workload=\"w2\"")); /* still open */
	assert_non_null(strstr(text, "destination_workload=\"w3\""));
	free(text);
	metrics_close(w[0], &held, FLAG_NONE);
	metrics_close(w[0], &later, FLAG_NONE);
	conn_info_fini(&old);
	conn_info_fini(&held);
	conn_info_fini(&later);
	(void)metrics_worker_free(w[0]);
}

/* A connection that waited for its workload is opened with the time it came. */
static void series__parked_one_expires_nobody(void **state)
{
	struct metrics_worker *w[1] = {metrics_worker_new()};
	struct conn_info first = {.start_ns = METRICS_EXPIRY_MS * 1000000ull, .dst = numbered(1)};
	struct conn_info parked = {.start_ns = first.start_ns - 1, .dst = numbered(2)};
	char *text;

	(void)state;
	metrics_open(w[0], &first);
	metrics_close(w[0], &first, FLAG_NONE);
	metrics_open(w[0], &parked);
	text = scrape(w, 1);
	assert_non_null(strstr(text, "destination_workload=\"w1\""));
	free(text);
	metrics_close(w[0], &parked, FLAG_NONE);
	conn_info_fini(&first);
	conn_info_fini(&parked);
	(void)metrics_worker_free(w[0]);
}

#define LIMIT 100

static void series__overflow(void **state)
{
	struct metrics_worker *w[1] = {metrics_worker_new()};
	char *text;

	(void)state;
	metrics_worker_limit(w[0], LIMIT);
	for (unsigned int i = 0; i < LIMIT + 5; i++) {
		struct conn_info c = {.start_ns = 1, .dst = numbered(i)};

		metrics_open(w[0], &c);
		metrics_close(w[0], &c, FLAG_NONE);
		conn_info_fini(&c);
	}
	text = scrape(w, 1);
	assert_int_equal(count(text, "istio_tcp_connections_opened_total{"), LIMIT + 1);
	assert_int_equal(count(text, "destination_workload=\"overflow\""), 4); /* 4 families */
	assert_non_null(strstr(text, "destination_zone=\"overflow\"} 5\n"));
	free(text);
	(void)metrics_worker_free(w[0]);
}

static struct metrics_worker *shared;
static atomic_bool stop;

static void *scraper(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop))
		free(scrape(&shared, 1));
	return NULL;
}

static void write__while_the_worker_works(void **state)
{
	pthread_t t;
	uint64_t now = 1;

	(void)state;
	shared = metrics_worker_new();
	assert_int_equal(pthread_create(&t, NULL, scraper, NULL), 0);
	for (unsigned int i = 0; i < 500; i++) {
		struct conn_info c = {.start_ns = now, .dst = numbered(i)};

		now += METRICS_EXPIRY_MS * 1000000ull / 100;
		metrics_open(shared, &c);
		metrics_bytes(&c, 1, 2);
		metrics_close(shared, &c, FLAG_CONNECT);
		conn_info_fini(&c);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	shared = metrics_worker_free(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(labels__order_and_values),
		cmocka_unit_test(labels__principal_only_when_proven),
		cmocka_unit_test(write__adds_up_workers),
		cmocka_unit_test(series__expire),
		cmocka_unit_test(series__parked_one_expires_nobody),
		cmocka_unit_test(series__overflow),
		cmocka_unit_test(write__while_the_worker_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
