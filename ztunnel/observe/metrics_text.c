/* SPDX-License-Identifier: Apache-2.0
 * metrics_text.c: the OpenMetrics text of everything (ztunnel-spec 13.1-13.3). Control thread.
 *
 * Equal label sets of different workers are added up first. While the text is written the gates of
 * all workers are held: no series can go away; workers never wait for a gate.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "lib/base/log_sink.h"
#include "lib/base/mem.h"
#include "ztunnel/observe/series.h"

struct sum { /* one label set over all workers */
	struct hnode h;
	const struct labels *labels;
	struct str head, tail; /* label text before and after response_flags, made once */
	uint64_t opened, recv, sent, closed[FLAG_N], failed[FLAG_N];
};

static const char *const flag_text[FLAG_N] = {
	[FLAG_NONE] = "-",
	[FLAG_DENY] = "DENY",
	[FLAG_CONNECT] = "CONNECT",
	[FLAG_TLS_FAILURE] = "TLS_FAILURE",
	[FLAG_H2_HANDSHAKE] = "H2_HANDSHAKE_FAILURE",
	[FLAG_NETWORK_POLICY] = "NETWORK_POLICY",
	[FLAG_IDENTITY] = "IDENTITY_ERROR",
	[FLAG_CERT_REVOKED] = "CERT_REVOKED",
};
static const char *const reporter_text[REPORTER_N] = {"source", "destination"};

static uint64_t get(atomic_uint_fast64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

static struct sum *sum_for(struct htab *t, const struct labels *l, struct arena *a)
{
	uint64_t hash = labels_hash(l);
	struct sum *s;

	for (struct hnode *n = htab_first(t, hash); n != NULL; n = htab_next(n)) {
		s = container_of(n, struct sum, h);
		if (labels_eq(s->labels, l))
			return s;
	}
	s = arena_alloc(a, sizeof(*s));
	s->labels = l;
	htab_insert(t, &s->h, hash);
	return s;
}

static void collect(struct metrics_worker *m, struct htab *t, struct arena *a)
{
	struct metric_series *s = atomic_load_explicit(&m->first, memory_order_acquire);

	for (; s != NULL; s = atomic_load_explicit(&s->next, memory_order_relaxed)) {
		struct sum *sum = sum_for(t, &s->labels, a);

		/* closed before opened: a connection that ends now must not be seen as closed and
		 * not yet opened (each counter is read by itself) */
		for (int f = 0; f < FLAG_N; f++) {
			sum->closed[f] += get(&s->closed[f]);
			sum->failed[f] += get(&s->failed[f]);
		}
		sum->opened += get(&s->opened);
		sum->recv += get(&s->recv);
		sum->sent += get(&s->sent);
	}
}

void metrics_put_label(struct strbuf *b, const char *name, struct str v)
{
	size_t done = 0;

	strbuf_puts(b, name);
	strbuf_puts(b, "=\"");
	if (v.n == 0)
		v = STR("unknown");
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] != '\\' && v.p[i] != '"' && v.p[i] != '\n')
			continue;
		strbuf_add(b, v.p + done, i - done);
		strbuf_puts(b, v.p[i] == '\n' ? "\\n" : v.p[i] == '"' ? "\\\"" : "\\\\");
		done = i + 1;
	}
	strbuf_add(b, v.p + done, v.n - done);
	strbuf_putc(b, '"');
}

static void put_side(struct strbuf *b, const char *side, const struct str v[SIDE_LABELS])
{
	static const struct {
		const char *name;
		enum side_label from;
	} t[] = {
		{"workload", SIDE_WORKLOAD},
		{"canonical_service", SIDE_CANONICAL},
		{"canonical_revision", SIDE_REVISION},
		{"workload_namespace", SIDE_NS},
		{"principal", SIDE_PRINCIPAL},
		{"app", SIDE_CANONICAL},
		{"version", SIDE_REVISION},
		{"cluster", SIDE_CLUSTER},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		char name[48];

		(void)snprintf(name, sizeof(name), ",%s_%s", side, t[i].name);
		metrics_put_label(b, name, v[t[i].from]);
	}
}

static struct str keep(struct arena *a, struct strbuf *b)
{
	struct str s = {arena_strndup(a, b->p, b->n), b->n};

	b->n = 0;
	return s;
}

/* The five families share the labels' text. */
static void make_text(struct sum *s, struct arena *a)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const struct labels *l = s->labels;

	metrics_put_label(&b, "reporter", str_of(reporter_text[l->reporter]));
	put_side(&b, "source", l->src);
	metrics_put_label(&b, ",destination_service", l->svc[SVC_HOST]);
	metrics_put_label(&b, ",destination_service_namespace", l->svc[SVC_NS]);
	metrics_put_label(&b, ",destination_service_name", l->svc[SVC_NAME]);
	put_side(&b, "destination", l->dst);
	metrics_put_label(&b, ",request_protocol", STR("tcp"));
	s->head = keep(a, &b);
	metrics_put_label(&b, ",connection_security_policy",
			  l->via == VIA_HBONE ? STR("mutual_tls") : STR("unknown"));
	if (l->any_workload) {
		metrics_put_label(&b, ",source_region", l->src[SIDE_REGION]);
		metrics_put_label(&b, ",source_zone", l->src[SIDE_ZONE]);
		metrics_put_label(&b, ",destination_region", l->dst[SIDE_REGION]);
		metrics_put_label(&b, ",destination_zone", l->dst[SIDE_ZONE]);
	}
	s->tail = keep(a, &b);
}

static void put_sample(struct strbuf *b, const char *name, const struct sum *s, enum conn_flag flag,
		       uint64_t v)
{
	strbuf_puts(b, "istio_tcp_");
	strbuf_puts(b, name);
	strbuf_puts(b, "_total{");
	strbuf_str(b, s->head);
	metrics_put_label(b, ",response_flags", str_of(flag_text[flag]));
	strbuf_str(b, s->tail);
	strbuf_printf(b, "} %llu\n", (unsigned long long)v);
}

enum traffic { T_OPENED, T_CLOSED, T_RECV, T_SENT, T_FAILED, T_N };
static const struct {
	const char *name, *help;
} traffic[T_N] = {
	[T_OPENED] = {"connections_opened", "TCP connections opened"},
	[T_CLOSED] = {"connections_closed", "TCP connections closed"},
	[T_RECV] = {"received_bytes", "Bytes received from the client side during a connection"},
	[T_SENT] = {"sent_bytes", "Bytes sent to the client side during a connection"},
	[T_FAILED] = {"connections_failed", "TCP connections that ended with an error (unstable)"},
};

static void put_traffic(struct strbuf *b, const struct sum *s, enum traffic t)
{
	const char *name = traffic[t].name;
	const uint64_t *per_flag = t == T_CLOSED ? s->closed : s->failed;

	if (t == T_OPENED || t == T_RECV || t == T_SENT) {
		put_sample(b, name, s, FLAG_NONE,
			   t == T_OPENED ? s->opened
			   : t == T_RECV ? s->recv
					 : s->sent);
		return;
	}
	for (int f = 0; f < FLAG_N; f++)
		if (per_flag[f] != 0)
			put_sample(b, name, s, (enum conn_flag)f, per_flag[f]);
}

static void put_head(struct strbuf *b, const char *name, const char *type, const char *help)
{
	strbuf_printf(b, "# HELP %s %s.\n# TYPE %s %s\n", name, help, name, type);
}

/* A family without samples is left out. */
static void put_traffic_family(struct strbuf *b, struct htab *sums, enum traffic t)
{
	_cleanup_strbuf_ struct strbuf samples = {0};
	char name[64];

	htab_for_each (n, sums)
		put_traffic(&samples, container_of(n, struct sum, h), t);
	if (samples.n == 0)
		return;
	(void)snprintf(name, sizeof(name), "istio_tcp_%s", traffic[t].name);
	put_head(b, name, "counter", traffic[t].help);
	strbuf_add(b, samples.p, samples.n);
}

static void put_sockets(struct strbuf *b, struct metrics_worker *const *workers, size_t n)
{
	put_head(b, "istio_tcp_sockets_open", "gauge",
		 "Accepted TCP sockets that are open (unstable)");
	for (int r = 0; r < REPORTER_N; r++) {
		long long v = 0;

		for (size_t i = 0; i < n; i++)
			v += atomic_load_explicit(&workers[i]->sockets[r], memory_order_relaxed);
		strbuf_printf(b, "istio_tcp_sockets_open{reporter=\"%s\"} %lld\n", reporter_text[r],
			      v);
	}
}

static const struct {
	const char *name, *type, *help;
} plain_text[M_PLAIN_N] = {
	[M_ZDS_ACTIVE] = {"workload_manager_active_proxy_count", "gauge",
			  "Pods that are served (unstable)"},
	[M_ZDS_PENDING] = {"workload_manager_pending_proxy_count", "gauge",
			   "Pods that could not be started yet (unstable)"},
	[M_ZDS_STARTED] = {"workload_manager_proxies_started", "counter",
			   "Pods started (unstable)"},
	[M_ZDS_STOPPED] = {"workload_manager_proxies_stopped", "counter",
			   "Pods stopped (unstable)"},
	[M_ACCESS_LOG_DROPPED] = {"ambient_access_log_dropped", "counter",
				  "Log records dropped because a queue was full (unstable)"},
	[M_LOG_LINES_DROPPED] = {"ambient_log_lines_dropped", "counter",
				 "Log lines that standard error did not take (unstable)"},
	[M_H2_ENHANCE_YOUR_CALM] = {"ambient_h2_enhance_your_calm", "counter",
				    "HTTP/2 connections closed for abuse (unstable)"},
	[M_TLS_HANDSHAKE_FAILURES] = {"ambient_tls_handshake_failures", "counter",
				      "TLS handshakes that failed (unstable)"},
	[M_ACCEPT_ERRORS] = {"ambient_accept_errors", "counter",
			     "Failed accepts of connections (unstable)"},
	[M_STATE_RELOADS] = {"ambient_state_reloads", "counter",
			     "Times a new mesh state was taken over (unstable)"},
	[M_STATE_RELOAD_ERRORS] = {"ambient_state_reload_errors", "counter",
				   "Times a local state file was refused (unstable)"},
	[M_XDS_CONNECTED] = {"ambient_xds_connected", "gauge",
			     "1 while there is a stream from istiod (unstable)"},
	[M_XDS_REFUSED] = {"ambient_xds_refused", "counter",
			   "Resources and responses of istiod that were refused (unstable)"},
	[M_XDS_ON_DEMAND_ASKED] = {"ambient_xds_on_demand_asked", "counter",
				   "Names that istiod was asked for (unstable)"},
	[M_XDS_ON_DEMAND_UNANSWERED] =
		{"ambient_xds_on_demand_unanswered", "counter",
		 "Names that istiod did not answer in time, or that were too many (unstable)"},
	[M_ON_DEMAND_DNS] = {"istio_on_demand_dns", "counter",
			     "Connections to workloads that have a hostname only (unstable)"},
	[M_DNS_CACHE_HITS] = {"ambient_dns_cache_hits", "counter",
			      "DNS queries answered with what a resolver said before (unstable)"},
	[M_DNS_CACHE_MISSES] = {"ambient_dns_cache_misses", "counter",
				"DNS queries that the cache could not answer (unstable)"},
	[M_DNS_CACHE_JOINED] = {"ambient_dns_cache_joined", "counter",
				"Of these, those that waited for the answer to an equal one "
				"(unstable)"},
	[M_DNS_CACHE_EVICTIONS] = {"ambient_dns_cache_evictions", "counter",
				   "DNS answers forgotten for want of room (unstable)"},
	[M_DNS_CACHE_ENTRIES] = {"ambient_dns_cache_entries", "gauge",
				 "DNS answers that are kept (unstable)"},
	[M_DNS_CACHE_BYTES] = {"ambient_dns_cache_bytes", "gauge",
			       "Memory of the DNS answers that are kept (unstable)"},
	[M_CA_FAILURES] = {"ambient_ca_failures", "counter",
			   "Requests for a certificate that the CA did not grant (unstable)"},
	[M_CRL_ERRORS] = {"ambient_crl_errors", "counter",
			  "Times a file of revocation lists was refused (unstable)"},
	[M_STATE_STALE_SECONDS] =
		{"ambient_state_stale_seconds", "gauge",
		 "Age of the last good mesh state while it stands in for istiod's; 0: "
		 "current (unstable)"},
	[M_STATE_KEEP_ERRORS] =
		{"ambient_state_keep_errors", "counter",
		 "Times that the mesh state could not be kept on the node, or what was "
		 "kept could not be used (unstable)"},
};

static void put_plain(struct strbuf *b)
{
	metric_set(M_LOG_LINES_DROPPED, (int64_t)log_sink_dropped());
	for (int i = 0; i < M_PLAIN_N; i++) {
		bool counter = strcmp(plain_text[i].type, "counter") == 0;

		put_head(b, plain_text[i].name, plain_text[i].type, plain_text[i].help);
		strbuf_printf(b, "%s%s %lld\n", plain_text[i].name, counter ? "_total" : "",
			      (long long)metric_get((enum metric_id)i));
	}
}

/* ztunnel-spec 13.2: names and labels are stock's. */
static void put_labelled(struct strbuf *b)
{
	static const struct {
		enum metric_id id;
		const char *family, *label, *value, *help;
	} t[] = {
		{M_XDS_END_CONNECTION, "istio_xds_connection_terminations", "reason",
		 "ConnectionError", "Streams from istiod that ended (unstable)"},
		{M_XDS_END_ERROR, "istio_xds_connection_terminations", "reason", "Error", NULL},
		{M_XDS_END_RECONNECT, "istio_xds_connection_terminations", "reason", "Reconnect",
		 NULL},
		{M_XDS_END_COMPLETE, "istio_xds_connection_terminations", "reason", "Complete",
		 NULL},
		{M_XDS_MESSAGES_ADDRESS, "istio_xds_message", "url",
		 "type.googleapis.com/istio.workload.Address",
		 "Responses received from istiod (unstable)"},
		{M_XDS_MESSAGES_POLICY, "istio_xds_message", "url",
		 "type.googleapis.com/istio.security.Authorization", NULL},
		{M_XDS_BYTES_ADDRESS, "istio_xds_message_bytes", "url",
		 "type.googleapis.com/istio.workload.Address",
		 "Bytes of resources received from istiod (unstable)"},
		{M_XDS_BYTES_POLICY, "istio_xds_message_bytes", "url",
		 "type.googleapis.com/istio.security.Authorization", NULL},
		{M_CRL_REJECTIONS_SOURCE, "istio_crl_policy_rejections", "reporter", "source",
		 "Connections refused or cut for a revoked certificate (unstable)"},
		{M_CRL_REJECTIONS_DESTINATION, "istio_crl_policy_rejections", "reporter",
		 "destination", NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		if (t[i].help != NULL)
			put_head(b, t[i].family, "counter", t[i].help);
		strbuf_printf(b, "%s_total{%s=\"%s\"} %lld\n", t[i].family, t[i].label, t[i].value,
			      (long long)metric_get(t[i].id));
	}
}

static void put_process(struct strbuf *b)
{
	struct rlimit rl;
	DIR *d = opendir("/proc/self/fd");
	long n = -3; /* ".", ".." and the directory itself */

	if (d != NULL) {
		while (readdir(d) != NULL)
			n++;
		closedir(d);
		put_head(b, "process_open_fds", "gauge", "Open file descriptors");
		strbuf_printf(b, "process_open_fds %ld\n", n);
	}
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		put_head(b, "process_max_fds", "gauge", "Limit of open file descriptors");
		strbuf_printf(b, "process_max_fds %llu\n", (unsigned long long)rl.rlim_cur);
	}
	put_head(b, "istio_build", "gauge", "Component build information");
	strbuf_puts(b, "istio_build{component=\"ztunnel\",tag=\"" VERSION "\"} 1\n");
}

void metrics_write(struct metrics_worker *const *workers, size_t n, struct strbuf *out)
{
	struct arena *a = arena_new();
	struct htab sums;

	htab_init(&sums);
	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&workers[i]->gate);
		collect(workers[i], &sums, a);
	}
	htab_for_each (s, &sums)
		make_text(container_of(s, struct sum, h), a);
	for (int t = 0; t < T_N; t++)
		put_traffic_family(out, &sums, (enum traffic)t);
	for (size_t i = 0; i < n; i++)
		pthread_mutex_unlock(&workers[i]->gate);
	put_sockets(out, workers, n);
	dns_metrics_write(workers, n, out);
	put_plain(out);
	put_labelled(out);
	put_process(out);
	strbuf_puts(out, "# EOF\n");
	htab_fini(&sums);
	(void)arena_free(a);
}
