/* SPDX-License-Identifier: Apache-2.0
 * config.c: see config.h. What stock knows and this version does not is accepted while it asks for
 * nothing, warned about otherwise, and refused where ignoring it would weaken the mesh.
 */
#include "ztunnel/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/format/ip.h"
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
	w->trust_domain_given = r->env("TRUST_DOMAIN") != NULL;
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
	w->policy_info = get_bool(r, "AUTHZ_POLICY_INFO_LOGGING", false);
	w->app_on_loopback = get_bool(r, "LOCALHOST_APP_TUNNEL", true);
	w->baggage = get_bool(r, "ENABLE_RESPONSE_BAGGAGE", true);
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

static void read_istiod(struct reader *r, struct config *c, const char *const *all)
{
	if (r->failed)
		return;
	if (config_istiod_load(&c->istiod, r->env, all, c->cluster, r->err) != 0)
		r->failed = true;
	else if (c->istiod.xds.host == NULL &&
		 (c->state_path == NULL || c->state_path[0] == '\0') &&
		 (c->state_inline == NULL || c->state_inline[0] == '\0'))
		bad(r, "XDS_ADDRESS", "",
		    "the mesh state must come from somewhere: an istiod here, or a file "
		    "(LOCAL_XDS_PATH)");
	/* a state from a file is there as a whole */
	c->istiod.on_demand = get_bool(r, "XDS_ON_DEMAND", false) && c->istiod.xds.host != NULL;
	c->workers.on_demand = c->istiod.on_demand;
}

/* A chart may mount nothing but the directory of the agent's socket. */
static void read_state_dirs(struct reader *r, struct config *c)
{
	const char *given = r->env("AMBIENT_STATE_DIR"), *slash;

	c->state_dirs[0] = xstrdup(given != NULL ? given : "/var/lib/ambient");
	if (given != NULL && *given != '\0' && *given != '/')
		bad(r, "AMBIENT_STATE_DIR", given, "expected an absolute path");
	slash = strrchr(c->zds_path, '/');
	c->state_dirs[1] = given == NULL && slash != NULL && slash != c->zds_path
				   ? xstrndup(c->zds_path, (size_t)(slash - c->zds_path))
				   : xstrdup("");
}

static void read_surfaces(struct reader *r, struct config *c)
{
	c->zds_path = get_text(r, "INPOD_UDS", "/var/run/ztunnel/ztunnel.sock");
	c->zds_version =
		(uint32_t)get_number(r, "INPOD_ZDS_VERSION", ZDS_V3_KEYS, ZDS_V1, ZDS_V3_KEYS);
	c->admin_port = (uint16_t)get_number(r, "AMBIENT_ADMIN_PORT", 15000, 1, UINT16_MAX);
	c->stats_port = (uint16_t)get_number(r, "AMBIENT_STATS_PORT", 15020, 1, UINT16_MAX);
	c->ready_port = (uint16_t)get_number(r, "AMBIENT_READINESS_PORT", 15021, 1, UINT16_MAX);
	c->admin_socket = get_text(r, "AMBIENT_ADMIN_SOCKET", "/var/run/ztunnel/admin.sock");
	c->handover = get_bool(r, "AMBIENT_HANDOVER", false);
	c->crl_path = get_text(r, "CRL_PATH", "");
	c->log_filter = get_text(r, "RUST_LOG", "info");
	c->drain_ms = drain_limit(r);
	read_state_dirs(r, c);
}

/* "localhost:PORT" or "IP:PORT" (ztunnel-spec 2.2). */
static void read_dns_addr(struct reader *r, struct mesh_dns_addr *a)
{
	const char *name = "ISTIO_META_DNS_PROXY_ADDR", *v = r->env(name);
	struct str s, port;
	struct ip_port ip;

	*a = (struct mesh_dns_addr){.port = MESH_PORT_DNS};
	if (v == NULL)
		v = r->env(name = "DNS_PROXY_ADDR");
	if (v == NULL)
		return;
	s = str_of(v);
	if (str_has_prefix(s, STR("localhost:"))) {
		port = (struct str){s.p + 10, s.n - 10};
		if (parse_u16(port, 1, UINT16_MAX, &a->port) == 0)
			return;
	} else if (ip_port_parse(s, &ip) == 0 && ip.port != 0) {
		a->family = ip.ip.len == 4 ? AF_INET : AF_INET6;
		memcpy(a->ip, ip.ip.b, sizeof(a->ip));
		a->port = ip.port;
		return;
	}
	bad(r, name, v, "expected localhost:PORT or IP:PORT");
}

static bool is_true(const char *v)
{
	return strcasecmp(v, "true") == 0;
}

/* Part of every name that is looked up: what cannot be in one is a mistake. */
static char *get_domain(struct reader *r, const char *name, const char *def)
{
	char *v = get_text(r, name, def);

	if (strlen(v) > 200)
		bad(r, name, v, "expected a domain of at most 200 characters");
	for (char *c = v; *c != '\0'; c++) {
		if (*c >= 'A' && *c <= 'Z')
			*c = (char)(*c + 32);
		else if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-' ||
			   *c == '_' || (*c == '.' && c != v && c[1] != '\0' && c[1] != '.')))
			bad(r, name, v, "expected a domain without a dot at its ends");
	}
	return v;
}

static void read_dns(struct reader *r, struct config *c)
{
	const char *capture = r->env("ISTIO_META_DNS_CAPTURE");
	struct dns_config *d = &c->workers.dns;

	if (capture == NULL)
		capture = r->env("DNS_CAPTURE");
	d->enabled = capture == NULL || is_true(capture);
	d->ipv6 = get_bool(r, "IPV6_ENABLED", true);
	d->mark = c->workers.mark;
	d->cluster_domain = get_domain(r, "CLUSTER_DOMAIN", "cluster.local");
	d->prefered_ns = get_text(r, "PREFERED_SERVICE_NAMESPACE", "");
	c->resolv_conf = get_text(r, "AMBIENT_DNS_RESOLV_CONF", "/etc/resolv.conf");
	d->cache_bytes =
		get_number(r, "AMBIENT_DNS_CACHE_BYTES", 1 << 20, 0, LIMIT_DNS_CACHE_BYTES);
	read_dns_addr(r, &d->addr);
	if (d->enabled && c->istiod.on_demand) /* as stock: names cannot be asked for */
		bad(r, "XDS_ON_DEMAND", "true",
		    "the DNS proxy needs the whole state: set ISTIO_META_DNS_CAPTURE=false");
	if (d->cluster_domain[0] == '\0')
		bad(r, "CLUSTER_DOMAIN", "", "must not be empty");
}

bool config_dns_is_captured(const struct config *c)
{
	const struct dns_config *d = &c->workers.dns;

	return d->enabled && d->addr.family == 0 && d->addr.port == MESH_PORT_DNS;
}

/* Refused: ignoring it would leave the operator with another trust than asked for. */
static void refuse_foreign(struct reader *r)
{
	static const struct {
		const char *name, *harmless, *why;
	} t[] = {
		{"PROXY_MODE", "shared", "only the shared mode exists"},
		{"ENABLE_PROXY", "true", "this program is the proxy"},
		{"COMPLIANCE_POLICY", "", "no compliance policy is supported"},
		{"TLS12_ENABLED", "false", "only TLS 1.3 is spoken"},
		{"FAKE_CA", "false",
		 "there is no fake CA; an empty CA_ADDRESS is the development CA"},
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
		{"UNSTABLE_ENABLE_SOCKS5", "false"},
		{"USER_TIMEOUT_ENABLED", "false"},
		{"PROXY_CONFIG", NULL},
		{"PROXY_WORKLOAD_INFO", NULL},
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

int config_load(struct config *c, const char *(*env)(const char *name), const char *const *all,
		long ncpus, void (*warn)(const char *text), struct err *err)
{
	struct reader r = {.env = env, .err = err};

	*c = (struct config){0};
	refuse_foreign(&r);
	read_sources(&r, c);
	read_istiod(&r, c, all);
	read_workers(&r, &c->workers, ncpus);
	read_surfaces(&r, c);
	read_dns(&r, c);
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
	free(c->workers.dns.cluster_domain);
	free(c->workers.dns.prefered_ns);
	free(c->resolv_conf);
	free(c->state_path);
	free(c->state_inline);
	for (size_t i = 0; i < ARRAY_LEN(c->state_dirs); i++)
		free(c->state_dirs[i]);
	free(c->node);
	free(c->cluster);
	free(c->zds_path);
	free(c->ca_dir);
	free(c->admin_socket);
	free(c->crl_path);
	free(c->log_filter);
	config_istiod_free(&c->istiod);
	*c = (struct config){0};
}

static void write_address(struct jsonw *w, const char *key, const struct istiod_config *s)
{
	_cleanup_free_ char *url = NULL;

	if (s->host != NULL)
		url = xasprintf(strchr(s->host, ':') != NULL ? "https://[%s]:%u" : "https://%s:%u",
				s->host, s->port);
	jsonw_cstr(w, key, url);
}

static void write_dns(const struct config *c, struct jsonw *w)
{
	const struct dns_config *d = &c->workers.dns;
	struct ip_port at = {.ip.len = d->addr.family == AF_INET ? 4 : 16, .port = d->addr.port};
	_cleanup_free_ char *local = xasprintf("localhost:%u", d->addr.port);
	char text[IP_PORT_TEXT_MAX];

	memcpy(at.ip.b, d->addr.ip, sizeof(at.ip.b));
	jsonw_cstr(w, "dnsProxyAddr", d->addr.family == 0 ? local : ip_port_format(&at, text));
	jsonw_cstr(w, "clusterDomain", d->cluster_domain);
	jsonw_cstr(w, "preferedServiceNamespace", d->prefered_ns);
	jsonw_cstr(w, "dnsResolvConf", c->resolv_conf);
	jsonw_int(w, "dnsCacheBytes", (long long)d->cache_bytes);
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
	write_address(w, "xdsAddress", &c->istiod.xds);
	jsonw_bool(w, "xdsOnDemand", c->workers.on_demand);
	write_address(w, "caAddress", &c->istiod.ca);
	jsonw_cstr(w, "crlPath", c->crl_path[0] != '\0' ? c->crl_path : NULL);
	jsonw_cstr(w, "inpodUds", c->zds_path);
	jsonw_int(w, "inpodZdsVersion", c->zds_version);
	jsonw_cstr(w, "devCaDir", c->istiod.ca.host == NULL ? c->ca_dir : NULL);
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
	jsonw_bool(w, "handover", c->handover);
	jsonw_bool(w, "dnsProxy", k->dns.enabled);
	if (k->dns.enabled)
		write_dns(c, w);
	jsonw_int(w, "adminPort", c->admin_port);
	jsonw_int(w, "statsPort", c->stats_port);
	jsonw_int(w, "readinessPort", c->ready_port);
}
