/* SPDX-License-Identifier: Apache-2.0
 * config.c: see config.h. What stock knows and this version does not is accepted while it asks for
 * nothing, warned about otherwise, and refused where ignoring it would weaken the mesh.
 */
#include "ztunnel/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/format/json.h"
#include "lib/wire/zds.h"

#define CPUS_MAX 1024

struct reader {
	const char *(*env)(const char *name);
	struct err *err;
	bool failed;
};

static void bad(struct reader *r, const char *name, const char *value, const char *reason)
{
	if (r->failed)
		return; /* the first one is reported */
	r->failed = true;
	(void)err_set(r->err, EINVAL, "invalid env var %s=%s (%s)", name, str_shown(str_of(value)),
		      reason);
}

static char *get_text(struct reader *r, const char *name, const char *def)
{
	const char *v = r->env(name);

	return xstrdup(v != NULL ? v : def);
}

static bool get_bool(struct reader *r, const char *name, bool def)
{
	const char *v = r->env(name);

	if (v == NULL)
		return def;
	if (strcmp(v, "true") == 0)
		return true;
	if (strcmp(v, "false") != 0)
		bad(r, name, v, "expected true or false");
	return false;
}

static uint64_t get_number(struct reader *r, const char *name, uint64_t def, uint64_t min,
			   uint64_t max)
{
	const char *v = r->env(name);
	uint64_t n = def;
	char why[64];

	if (v != NULL && parse_u64(str_of(v), min, max, &n) != 0) {
		(void)snprintf(why, sizeof(why), "expected a number from %llu to %llu",
			       (unsigned long long)min, (unsigned long long)max);
		bad(r, name, v, why);
	}
	return n;
}

static uint64_t get_duration_ms(struct reader *r, const char *name, uint64_t def_ms,
				uint64_t min_ms)
{
	const char *v = r->env(name);
	uint64_t ms = def_ms;

	if (v != NULL && parse_duration_ms(str_of(v), &ms) != 0)
		bad(r, name, v, "expected a duration such as 10s, 5m or 24h");
	else if (ms < min_ms || ms > 10ull * 365 * 86400 * 1000)
		bad(r, name, v != NULL ? v : "", "out of range");
	return ms;
}

/* A Kubernetes CPU quantity, rounded up: "2", "1.5", "500m". 0: not set. */
static unsigned int get_quantity(struct reader *r, const char *name)
{
	const char *v = r->env(name);
	struct str s = str_of(v), whole, frac;
	uint32_t n = 0;

	if (v == NULL)
		return 0;
	if (s.n > 1 && s.p[s.n - 1] == 'm' &&
	    parse_u32((struct str){s.p, s.n - 1}, 1, CPUS_MAX * 1000, &n) == 0)
		return (n + 999) / 1000;
	frac = s;
	if (str_cut(&frac, '.', &whole)) {
		bool rest = false;

		for (size_t i = 0; i < frac.n; i++) {
			if (frac.p[i] < '0' || frac.p[i] > '9')
				frac.n = 0;
			else
				rest = rest || frac.p[i] != '0';
		}
		if (frac.n != 0 && parse_u32(whole, 0, CPUS_MAX, &n) == 0 && n + rest != 0)
			return n + rest;
	} else if (parse_u32(s, 1, CPUS_MAX, &n) == 0) {
		return n;
	}
	bad(r, name, v, "expected a CPU quantity such as 2, 1.5 or 500m");
	return 0;
}

static unsigned int percent_of(struct reader *r, const char *name, const char *v, struct str num,
			       unsigned int cpus)
{
	uint32_t p = 0;

	if (parse_u32(num, 1, 100, &p) != 0)
		bad(r, name, v, "expected a number, 0, or a percentage from 1% to 100%");
	return (cpus * p + 99) / 100;
}

/* ztunnel-spec 2.4. */
static unsigned int worker_count(struct reader *r, long ncpus)
{
	static const char name[] = "ZTUNNEL_WORKER_THREADS";
	const char *v = r->env(name);
	unsigned int limit = get_quantity(r, "ZTUNNEL_RESOURCE_CPU_LIMIT");
	unsigned int request = get_quantity(r, "ZTUNNEL_RESOURCE_CPU_REQUEST");
	unsigned int own = (unsigned int)get_number(r, "ZTUNNEL_CPU_LIMIT", 0, 1, CPUS_MAX);
	unsigned int cpus = limit != 0 ? limit : own != 0 ? own : (unsigned int)ncpus, n = 0;
	struct str s = str_of(v);

	if (v != NULL && s.n > 1 && s.p[s.n - 1] == '%') {
		n = percent_of(r, name, v, (struct str){s.p, s.n - 1}, cpus);
	} else if (v != NULL) {
		n = (unsigned int)get_number(r, name, 0, 0, CPUS_MAX);
		n = n == 0 ? cpus : n;
	} else if (limit != 0) {
		n = limit > request ? limit : request;
	} else {
		n = (cpus + 3) / 4;
		n = n > request ? n : request;
		n = n > 2 ? n : 2;
	}
	return n > 0 ? n : 1;
}

/* ztunnel-spec 2.2; 0 seconds of grace is not an underflow here (spec 17, item 61). */
static uint64_t drain_limit(struct reader *r)
{
	uint64_t grace = get_number(r, "TERMINATION_GRACE_PERIOD_SECONDS", 0, 0, 86400), s = 5;

	if (r->env("TERMINATION_GRACE_PERIOD_SECONDS") != NULL) {
		s = grace > 10 ? grace - 5 : grace > 1 ? grace - 1 : 1;
	}
	return get_duration_ms(r, "CONNECTION_TERMINATION_DEADLINE", s * 1000, 0);
}

static int tri_state(struct reader *r, const char *name)
{
	return r->env(name) == NULL ? -1 : get_bool(r, name, false) ? 1 : 0;
}

static void read_workers(struct reader *r, struct worker_config *w, long ncpus)
{
	bool keepalive = get_bool(r, "KEEPALIVE_ENABLED", true);

	w->nworkers = worker_count(r, ncpus);
	w->network = get_text(r, "NETWORK", "");
	w->trust_domain = get_text(r, "TRUST_DOMAIN", "cluster.local");
	w->mark = (uint32_t)get_number(r, "PACKET_MARK", MESH_MARK, 1, UINT32_MAX);
	w->orig_src = tri_state(r, "ENABLE_ORIG_SRC");
	w->pool_max_streams =
		(unsigned int)get_number(r, "POOL_MAX_STREAMS_PER_CONNECTION", 100, 1, UINT16_MAX);
	w->pool_idle_ms = get_duration_ms(r, "POOL_UNUSED_RELEASE_TIMEOUT", 300000, 1);
	w->h2_stream_window =
		(uint32_t)get_number(r, "HTTP2_STREAM_WINDOW_SIZE", 4u << 20, 65535, INT32_MAX);
	w->h2_connection_window = (uint32_t)get_number(r, "HTTP2_CONNECTION_WINDOW_SIZE", 16u << 20,
						       65535, INT32_MAX);
	w->h2_frame_size =
		(uint32_t)get_number(r, "HTTP2_FRAME_SIZE", 1u << 20, 16384, (1u << 24) - 1);
	w->keepalive_time_s = get_duration_ms(r, "KEEPALIVE_TIME", 180000, 1000) / 1000;
	w->keepalive_interval_s = get_duration_ms(r, "KEEPALIVE_INTERVAL", 180000, 1000) / 1000;
	w->keepalive_retries = get_number(r, "KEEPALIVE_RETRIES", 9, 1, 127);
	if (!keepalive)
		w->keepalive_time_s = w->keepalive_interval_s = w->keepalive_retries = 0;
}

static void read_sources(struct reader *r, struct config *c)
{
	const char *path = r->env("LOCAL_XDS_PATH"), *text = r->env("LOCAL_XDS");

	if (path != NULL && text != NULL)
		bad(r, "LOCAL_XDS", "...", "LOCAL_XDS_PATH is set too; only one of them may be");
	else if ((path == NULL || *path == '\0') && (text == NULL || *text == '\0'))
		bad(r, "LOCAL_XDS_PATH", "",
		    "this version takes the mesh state from a local file only: set it to a path");
	c->state_path = path != NULL ? xstrdup(path) : NULL;
	c->state_inline = text != NULL ? xstrdup(text) : NULL;
	c->node = get_text(r, "NODE_NAME", "");
	c->cluster = get_text(r, "ISTIO_META_CLUSTER_ID", "");
	if (c->cluster[0] == '\0') {
		free(c->cluster);
		c->cluster = get_text(r, "CLUSTER_ID", "Kubernetes");
	}
	c->ca_dir = get_text(r, "AMBIENT_DEV_CA_DIR", "/var/lib/ambient/dev-ca");
	c->secret_ttl_s = get_duration_ms(r, "SECRET_TTL", 86400000, 1000) / 1000;
}

static void read_surfaces(struct reader *r, struct config *c)
{
	c->zds_path = get_text(r, "INPOD_UDS", "/var/run/ztunnel/ztunnel.sock");
	c->zds_version = (uint32_t)get_number(r, "INPOD_ZDS_VERSION", ZDS_V2_CUSTODY, ZDS_V1,
					      ZDS_V2_CUSTODY);
	c->admin_port = (uint16_t)get_number(r, "AMBIENT_ADMIN_PORT", 15000, 1, UINT16_MAX);
	c->stats_port = (uint16_t)get_number(r, "AMBIENT_STATS_PORT", 15020, 1, UINT16_MAX);
	c->ready_port = (uint16_t)get_number(r, "AMBIENT_READINESS_PORT", 15021, 1, UINT16_MAX);
	c->admin_socket = get_text(r, "AMBIENT_ADMIN_SOCKET", "/var/run/ztunnel/admin.sock");
	c->log_filter = get_text(r, "RUST_LOG", "info");
	c->drain_ms = drain_limit(r);
}

/* Refused: ignoring it would leave the operator with another trust than asked for. */
static void refuse_foreign(struct reader *r)
{
	static const struct {
		const char *name, *harmless, *why;
	} t[] = {
		{"XDS_ADDRESS", "",
		 "this version takes the mesh state from LOCAL_XDS_PATH and knows no control "
		 "plane; "
		 "unset it"},
		{"CA_ADDRESS", "",
		 "this version knows the development CA only (AMBIENT_DEV_CA_DIR); unset it"},
		{"PROXY_MODE", "shared", "only the shared mode exists"},
		{"ENABLE_PROXY", "true", "this program is the proxy"},
		{"CRL_PATH", "", "revocation lists are not supported"},
		{"COMPLIANCE_POLICY", "", "no compliance policy is supported"},
		{"TLS12_ENABLED", "false", "only TLS 1.3 is spoken"},
		{"FAKE_CA", "false", "there is no fake CA; the development CA is always used"},
		{"XDS_ON_DEMAND", "false", "there is no control plane to ask"},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		const char *v = r->env(t[i].name);

		if (v != NULL && *v != '\0' && strcmp(v, t[i].harmless) != 0)
			bad(r, t[i].name, v, t[i].why);
	}
}

static void warn_unknown(struct reader *r, void (*warn)(const char *))
{
	static const struct {
		const char *name, *harmless;
	} t[] = {
		{"ISTIO_META_DNS_CAPTURE", "false"},
		{"ISTIO_META_DNS_PROXY_ADDR", NULL},
		{"UNSTABLE_ENABLE_SOCKS5", "false"},
		{"USER_TIMEOUT_ENABLED", "false"},
		{"LOCALHOST_APP_TUNNEL", "true"},
		{"AUTHZ_POLICY_INFO_LOGGING", "false"},
		{"PROXY_CONFIG", NULL},
		{"PREFERED_SERVICE_NAMESPACE", NULL},
		{"IPV6_ENABLED", "true"},
		{"PROXY_WORKLOAD_INFO", NULL},
		{"ENABLE_RESPONSE_BAGGAGE", "true"},
	};
	char text[192];

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		const char *v = r->env(t[i].name);

		if (v == NULL || *v == '\0' ||
		    (t[i].harmless != NULL && strcmp(v, t[i].harmless) == 0))
			continue;
		(void)snprintf(text, sizeof(text), "%s=%s has no effect in this version", t[i].name,
			       str_shown(str_of(v)));
		warn(text);
	}
}

int config_load(struct config *c, const char *(*env)(const char *name), long ncpus,
		void (*warn)(const char *text), struct err *err)
{
	struct reader r = {.env = env, .err = err};

	*c = (struct config){0};
	refuse_foreign(&r);
	read_sources(&r, c);
	read_workers(&r, &c->workers, ncpus);
	read_surfaces(&r, c);
	c->listeners = (struct listener_opts){.mark = c->workers.mark,
					      .reuse_port = get_bool(&r, "INPOD_PORT_REUSE", true),
					      .transparent = c->workers.orig_src};
	if (r.failed) {
		config_free(c);
		return -EINVAL;
	}
	warn_unknown(&r, warn);
	return 0;
}

void config_free(struct config *c)
{
	free(c->workers.network);
	free(c->workers.trust_domain);
	free(c->state_path);
	free(c->state_inline);
	free(c->node);
	free(c->cluster);
	free(c->zds_path);
	free(c->ca_dir);
	free(c->admin_socket);
	free(c->log_filter);
	*c = (struct config){0};
}

void config_write(const struct config *c, struct jsonw *w)
{
	const struct worker_config *k = &c->workers;

	jsonw_cstr(w, "network", k->network);
	jsonw_cstr(w, "localNode", c->node);
	jsonw_cstr(w, "proxyMode", "Shared");
	jsonw_cstr(w, "clusterId", c->cluster);
	jsonw_cstr(w, "trustDomain", k->trust_domain);
	jsonw_cstr(w, "localXdsPath", c->state_path);
	jsonw_cstr(w, "inpodUds", c->zds_path);
	jsonw_int(w, "inpodZdsVersion", c->zds_version);
	jsonw_cstr(w, "devCaDir", c->ca_dir);
	jsonw_int(w, "secretTtlSeconds", (long long)c->secret_ttl_s);
	jsonw_int(w, "numWorkerThreads", k->nworkers);
	jsonw_int(w, "packetMark", k->mark);
	if (k->orig_src >= 0)
		jsonw_bool(w, "requireOriginalSource", k->orig_src != 0);
	jsonw_int(w, "poolMaxStreamsPerConnection", k->pool_max_streams);
	jsonw_int(w, "poolUnusedReleaseTimeoutMs", (long long)k->pool_idle_ms);
	jsonw_int(w, "windowSize", k->h2_stream_window);
	jsonw_int(w, "connectionWindowSize", k->h2_connection_window);
	jsonw_int(w, "frameSize", k->h2_frame_size);
	jsonw_int(w, "selfTerminationDeadlineMs", (long long)c->drain_ms);
	jsonw_int(w, "adminPort", c->admin_port);
	jsonw_int(w, "statsPort", c->stats_port);
	jsonw_int(w, "readinessPort", c->ready_port);
}
