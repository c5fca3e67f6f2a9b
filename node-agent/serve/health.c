/* SPDX-License-Identifier: Apache-2.0
 * health.c: see health.h.
 *
 * Readiness is stock's: pods are known and the plugin is in place. It does not wait for a ztunnel:
 * charts are installed one after the other, the agent's first. STATUS of the plugin does wait.
 */
#include "node-agent/serve/health.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/os/sock.h"
#include "lib/wire/http1.h"
#include "node-agent/config.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/host/install.h"
#include "node-agent/serve/events.h"
#include "node-agent/serve/status.h"
#include "node-agent/source/pods.h"

#define BACKLOG	     16
#define TEXT	     "text/plain; charset=utf-8"
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct health {
	const struct status_from *from;
	const struct events *events;
	struct http1_server *health, *metrics;
};

static bool is_get(struct http1_req *req)
{
	if (strcmp(http1_method(req), "GET") == 0 || strcmp(http1_method(req), "HEAD") == 0)
		return true;
	http1_reply(req, 405, TEXT, STR("method not allowed\n"));
	return false;
}

static void on_health(void *ctx, struct http1_req *req)
{
	const char *path = http1_path(req);
	_cleanup_strbuf_ struct strbuf out = {0};
	char reason[ERR_MSG_MAX];
	struct health *h = ctx;

	if (!is_get(req))
		return;
	if (strcmp(path, "/healthz") == 0) {
		http1_reply(req, 200, TEXT, STR("alive\n"));
	} else if (strcmp(path, "/readyz") != 0) {
		http1_reply(req, 404, TEXT, STR("no such path\n"));
	} else if (status_installed(h->from, reason)) {
		http1_reply(req, 200, TEXT, STR("ready\n"));
	} else {
		strbuf_printf(&out, "not ready: %s\n", reason);
		http1_reply(req, 503, TEXT, (struct str){out.p, out.n});
	}
}

static void head(struct strbuf *out, const char *name, const char *type, const char *help)
{
	strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_events(const struct health *h, struct strbuf *out)
{
	const struct pods_changes *c = pods_changes(h->from->pods);
	const char *name = "nodeagent_reconcile_events_total";

	head(out, name, "counter", "Changes of pods that were looked at.");
	strbuf_printf(out, "%s{type=\"add\"} %llu\n", name, (unsigned long long)c->added);
	strbuf_printf(out, "%s{type=\"update\"} %llu\n", name, (unsigned long long)c->updated);
	strbuf_printf(out, "%s{type=\"delete\"} %llu\n", name, (unsigned long long)c->deleted);
}

static void print_answers(const struct health *h, struct strbuf *out)
{
	const char *name = "istio_cni_plugin_requests_total";
	const struct events_count *c;
	size_t n = events_counts(h->events, &c);

	head(out, name, "counter",
	     "Requests of the plugin, by the status they were answered with.");
	for (size_t i = 0; i < n && c[i].http != 0; i++)
		strbuf_printf(out, "%s{response_code=\"%u\"} %llu\n", name, c[i].http,
			      (unsigned long long)c[i].n);
}

static void print_install(const struct health *h, struct strbuf *out)
{
	struct install_counts c = {0};

	if (h->from->install != NULL)
		c = install_counts(h->from->install);
	head(out, "istio_cni_installs_total", "counter", "Attempts to put the plugin in place.");
	strbuf_printf(out, "istio_cni_installs_total{result=\"SUCCESS\"} %lu\n", c.done);
	strbuf_printf(out, "istio_cni_installs_total{result=\"COPY_BINARIES_FAILURE\"} %lu\n",
		      c.no_program);
	strbuf_printf(out, "istio_cni_installs_total{result=\"CREATE_CNI_CONFIG_FAILURE\"} %lu\n",
		      c.no_conf);
	head(out, "istio_cni_install_ready", "gauge", "1 while the plugin is in place.");
	strbuf_printf(out, "istio_cni_install_ready %d\n",
		      h->from->install != NULL && install_ready(h->from->install, NULL));
}

static void print_pods(const struct health *h, struct strbuf *out)
{
	head(out, "ambient_agent_pods", "gauge", "Sandboxes that the agent knows, by state.");
	for (unsigned int s = 0; s < ENROL_SHOWN_N; s++)
		strbuf_printf(out, "ambient_agent_pods{state=\"%s\"} %zu\n", enrol_shown_name[s],
			      enrol_count_shown(h->from->enrol, s));
}

static void on_metrics(void *ctx, struct http1_req *req)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct health *h = ctx;

	if (!is_get(req))
		return;
	if (strcmp(http1_path(req), "/metrics") != 0) {
		http1_reply(req, 404, TEXT, STR("no such path\n"));
		return;
	}
	head(&out, "ztunnel_connected", "gauge", "How many ztunnels are connected.");
	strbuf_printf(&out, "ztunnel_connected %zu\n", enrol_ztunnels(h->from->enrol));
	print_events(h, &out);
	print_answers(h, &out);
	print_install(h, &out);
	print_pods(h, &out);
	http1_reply(req, 200, METRICS_TYPE, (struct str){out.p, out.n});
}

/* 0 with *ret NULL when @port is 0. */
static int serve(struct loop *l, uint16_t port, http1_handler fn, struct health *h,
		 struct http1_server **ret, struct err *err)
{
	int fd;

	if (port == 0)
		return 0;
	fd = tcp_listen(netns_has_ipv6() ? AF_INET6 : AF_INET, true, port, BACKLOG, err);
	if (fd < 0)
		return fd;
	*ret = http1_server_new(l, fd, -1, fn, h, err);
	return *ret != NULL ? 0 : -1;
}

struct health *health_new(struct loop *l, const struct status_from *from,
			  const struct events *events, struct err *err)
{
	struct health *h = xcalloc(1, sizeof(*h));

	h->from = from;
	h->events = events;
	if (serve(l, from->cfg->health_port, on_health, h, &h->health, err) < 0 ||
	    serve(l, from->cfg->monitoring_port, on_metrics, h, &h->metrics, err) < 0)
		return health_free(h);
	return h;
}

struct health *health_free(struct health *h)
{
	if (h == NULL)
		return NULL;
	h->health = http1_server_free(h->health);
	h->metrics = http1_server_free(h->metrics);
	free(h);
	return NULL;
}
