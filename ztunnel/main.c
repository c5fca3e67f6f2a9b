/* SPDX-License-Identifier: Apache-2.0
 * main.c: starts ztunnel and puts its parts together; the control thread runs here.
 *
 * Order: configuration, isolation, surfaces bound, workers, then the mesh state, and only with a
 * state the agent's socket (ztunnel-spec 1.3): no pod is served before the mesh is known.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/log_sink.h"
#include "lib/base/mem.h"
#include "lib/event/log_pump.h"
#include "lib/event/loop.h"
#include "lib/event/signals.h"
#include "lib/os/trim.h"
#include "ztunnel/config.h"
#include "ztunnel/control/admin.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/certs.h"
#include "ztunnel/control/crl_file.h"
#include "ztunnel/control/dump.h"
#include "ztunnel/control/pods.h"
#include "ztunnel/control/manager.h"
#include "ztunnel/control/resolvers.h"
#include "ztunnel/control/state_file.h"
#include "ztunnel/control/xds.h"
#include "ztunnel/control/zds_client.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/isolate.h"
#include "ztunnel/mesh/assume.h"
#include "ztunnel/mesh/local_state.h"
#include "ztunnel/observe/access_log.h"

#if defined(AMBIENT_JEMALLOC)
/* style 4.6: freed memory goes back at once, few arenas; read by jemalloc before main() */
extern const char *malloc_conf;
const char *malloc_conf = "background_thread:true,dirty_decay_ms:100,muzzy_decay_ms:0,narenas:4";
#endif

struct ztunnel {
	struct config config;
	struct loop *loop;
	struct access_log *log;
	struct workers *workers;
	struct ca *ca;
	struct certs *certs;
	struct assume_node node;
	struct pods *pods;
	struct mesh *mesh;
	bool have_state, draining;
	struct state_file *state; /* or xds, or neither: LOCAL_XDS */
	struct xds *xds;
	struct crl_file *crl; /* NULL: no CRL_PATH */
	struct zds_client *zds;
	struct admin *admin;
	struct manager *manager;
	struct resolvers *resolvers; /* NULL: no DNS proxy */
	struct signals signals;
	struct timer trim, give_up;
	struct log_pump log_pump;
};

#define TRIM_EVERY_MS 30000

/* What was not used since the last time stays out; what is hot comes back in some 30 minor faults.
 */
static void on_trim(struct timer *t)
{
	struct ztunnel *z = container_of(t, struct ztunnel, trim);

	(void)trim_text();
	loop_timer_set(z->loop, t, TRIM_EVERY_MS, on_trim);
}

static void on_drained(void *ctx)
{
	struct ztunnel *z = ctx;

	log_info("ztunnel", "drained");
	loop_stop(z->loop);
}

static void on_give_up(struct timer *t)
{
	admin_give_up(container_of(t, struct ztunnel, give_up)->admin);
}

/* ztunnel-spec 14. The agent hears of it first: we serve no new pods, and its duplicates keep the
 * listeners for whoever comes next, or is there already. Then that one gets the surfaces; in a turn
 * of its own, for a request to end may come through one. */
static void drain(struct ztunnel *z, const char *why)
{
	if (z->draining)
		return;
	z->draining = true;
	log_info("ztunnel", "shutting down reason=%s limit=%llums", why,
		 (unsigned long long)z->config.drain_ms);
	if (z->zds != NULL)
		zds_client_drain(z->zds);
	manager_stopping(z->manager, z->config.drain_ms);
	if (z->config.handover)
		loop_timer_set(z->loop, &z->give_up, 0, on_give_up);
	workers_drain(z->workers, z->config.drain_ms, on_drained, z);
}

static void on_signal(struct signals *s, int signo)
{
	struct ztunnel *z = container_of(s, struct ztunnel, signals);

	if (signo == SIGINT && z->draining) {
		log_info("ztunnel", "second interrupt: leaving at once");
		_exit(0);
	}
	drain(z, signo == SIGTERM ? "SIGTERM" : "SIGINT");
}

static int watch_signals(struct ztunnel *z, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	return signals_watch(z->loop, &z->signals, &set, on_signal, err);
}

static void on_mesh(void *ctx, struct mesh *m)
{
	struct ztunnel *z = ctx;

	mesh_unref(z->mesh);
	z->mesh = mesh_ref(m);
	workers_publish(z->workers, m);
	pods_mesh(z->pods, m);
	z->have_state = true;
	if (z->zds == NULL && !z->draining)
		z->zds = zds_client_new(z->loop, z->config.zds_path, z->config.zds_version,
					config_dns_is_captured(&z->config), z->pods, z->workers,
					z->certs);
}

static void on_crl(void *ctx, struct tls_crl *crl)
{
	workers_crl(((struct ztunnel *)ctx)->workers, crl);
}

static struct mesh *ops_mesh(void *ctx)
{
	return ((struct ztunnel *)ctx)->mesh;
}

static const char *ops_state_error(void *ctx)
{
	const struct ztunnel *z = ctx;

	return z->xds != NULL	  ? xds_error(z->xds)
	       : z->state != NULL ? state_file_error(z->state)
				  : "";
}

/* What is missing before every pod is served. */
static void serving_pending(void *ctx, struct strbuf *out)
{
	const struct ztunnel *z = ctx;
	const char *why;

	if (!z->have_state)
		strbuf_puts(out, "state manager, proxy, workload proxy manager");
	else if (z->draining || z->zds == NULL)
		return; /* draining: the answer stays what it was (ztunnel-spec 14) */
	else if (!zds_client_ready(z->zds, &why))
		strbuf_printf(out, "workload proxy manager (%s)", why);
}

/* A state that nobody has confirmed is served, but it is not what a rollout may go on with. */
static void ops_pending(void *ctx, struct strbuf *out)
{
	const struct ztunnel *z = ctx;
	uint64_t age_s;

	serving_pending(ctx, out);
	if (z->xds != NULL && xds_is_stale(z->xds, &age_s) && !z->draining)
		strbuf_printf(out, "%sstate manager (serving the last good state, %llu s old)",
			      out->n != 0 ? ", " : "", (unsigned long long)age_s);
}

static void ops_kept(void *ctx, struct dump_in *in)
{
	const struct ztunnel *z = ctx;

	in->xds = z->xds != NULL;
	if (!in->xds)
		return;
	in->stale = xds_is_stale(z->xds, &in->stale_s);
	in->on_demand = xds_on_demand(z->xds, &in->asked);
	in->kept = xds_kept(z->xds, &in->keep_error);
}

static void on_ask(void *ctx, const char *key)
{
	struct ztunnel *z = ctx;

	if (z->xds != NULL)
		xds_ask(z->xds, str_of(key));
}

static void on_told(void *ctx, struct str key, bool answered)
{
	workers_told(((struct ztunnel *)ctx)->workers, key, answered);
}

static void ops_quit(void *ctx)
{
	drain(ctx, "quitquitquit");
}

static int open_inline_state(struct ztunnel *z, struct err *err)
{
	struct mesh *m =
		local_state_parse(str_of(z->config.state_inline), str_of(z->config.node), 1, err);

	if (m == NULL)
		return err_wrap(err, "LOCAL_XDS");
	on_mesh(z, m);
	mesh_unref(m);
	return 0;
}

static struct xds *open_xds(struct ztunnel *z)
{
	const struct config *c = &z->config;
	const char *dirs[ARRAY_LEN(c->state_dirs) + 1] = {0};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(c->state_dirs); i++)
		if (c->state_dirs[i][0] != '\0')
			dirs[n++] = c->state_dirs[i];
	return xds_new(z->loop, &c->istiod, c->node, dirs, on_mesh, z);
}

static int start(struct ztunnel *z, struct err *err)
{
	struct config *c = &z->config;
	struct admin_ops ops = {c,	     NULL,     NULL,	 ops_mesh, ops_state_error,
				ops_pending, ops_quit, ops_kept, z};

	z->ca = c->istiod.ca.host != NULL ? ca_istio_new(z->loop, &c->istiod.ca, c->secret_ttl_s)
					  : ca_dev_new(z->loop, c->ca_dir, c->secret_ttl_s, err);
	if (z->ca == NULL)
		return -EIO;
	z->certs = certs_new(z->loop, z->ca);
	z->mesh = mesh_empty();
	z->log = access_log_new(z->loop, c->workers.nworkers);
	z->workers = workers_start(&c->workers, z->loop, z->log, z->mesh, err);
	if (z->workers == NULL)
		return -EIO;
	if (c->crl_path[0] != '\0') /* before there are pods */
		z->crl = crl_file_new(z->loop, c->crl_path, on_crl, z);
	z->node = (struct assume_node){c->node, c->workers.network,
				       c->workers.trust_domain_given ? c->workers.trust_domain
								     : NULL};
	z->pods = pods_new(z->workers, z->certs, &c->listeners, &z->node, &c->workers.dns);
	if (c->workers.dns.enabled)
		z->resolvers = resolvers_new(z->loop, z->workers, c->resolv_conf);
	ops.workers = z->workers;
	ops.certs = z->certs;
	z->admin = admin_new(z->loop, &ops, err);
	if (z->admin == NULL)
		return -EIO;
	z->manager = manager_new(z->loop, z->workers, serving_pending, z);
	if (ca_is_dev(z->ca))
		log_warn("ca", "using the %s: NOT for production", ca_name(z->ca));
	else
		log_info("ca", "certificates come from the %s", ca_name(z->ca));
	if (c->state_inline != NULL)
		return open_inline_state(z, err);
	if (c->istiod.xds.host != NULL) {
		z->xds = open_xds(z);
		xds_on_told(z->xds, on_told, z);
		workers_on_ask(z->workers, on_ask, z);
		return 0;
	}
	z->state = state_file_new(z->loop, c->state_path, str_of(c->node), on_mesh, z);
	return 0;
}

static void stop(struct ztunnel *z)
{
	loop_timer_cancel(&z->give_up);
	z->manager = manager_free(z->manager);
	z->zds = zds_client_free(z->zds);
	z->state = state_file_free(z->state);
	z->xds = xds_free(z->xds);
	z->crl = crl_file_free(z->crl);
	z->admin = admin_free(z->admin);
	z->resolvers = resolvers_free(z->resolvers);
	z->pods = pods_free(z->pods);
	z->workers = workers_free(z->workers);
	z->log = access_log_free(z->log);
	z->certs = certs_free(z->certs);
	z->ca = ca_free(z->ca);
	mesh_unref(z->mesh);
	signals_unwatch(z->loop, &z->signals);
	log_pump_stop(&z->log_pump);
	z->loop = loop_free(z->loop);
	config_free(&z->config);
}

static void warn_config(const char *text)
{
	log_warn("config", "%s", text);
}

static const char *env_of(const char *name)
{
	return getenv(name);
}

static int prepare(struct ztunnel *z, struct err *err)
{
	int r = config_load(&z->config, env_of, (const char *const *)environ,
			    sysconf(_SC_NPROCESSORS_ONLN), warn_config, err);

	if (r != 0)
		return r;
	if (log_set_filter(z->config.log_filter) != 0)
		return err_set(err, EINVAL,
			       "invalid env var RUST_LOG=%s (expected a level, or scope=level, "
			       "comma-separated; levels: off error warn info debug trace)",
			       str_shown(str_of(z->config.log_filter)));
	isolate_raise_nofile();
	r = isolate_process(err);
	if (r != 0)
		return r;
	r = isolate_self_test(err);
	return r != 0 ? r : watch_signals(z, err);
}

static int run_proxy(void)
{
	struct ztunnel z = {0};
	struct err err = {0};
	int r;

	log_init();
	log_sink_open();
	z.loop = loop_new();
	log_pump_start(&z.log_pump, z.loop);
	r = prepare(&z, &err);
	if (r == 0) {
		log_info("ztunnel", "starting version=%s workers=%u node=%s zds=%s", VERSION,
			 z.config.workers.nworkers, z.config.node, z.config.zds_path);
		r = start(&z, &err);
	}
	if (r == 0) {
		loop_timer_set(z.loop, &z.trim, TRIM_EVERY_MS, on_trim);
		loop_run(z.loop);
		loop_timer_cancel(&z.trim);
	} else {
		log_error("ztunnel", "cannot start: %s", err.msg);
	}
	stop(&z);
	log_sink_close();
	return r == 0 ? 0 : 1;
}

static void usage(FILE *to)
{
	(void)fputs("usage: ztunnel [proxy]   run the proxy (the default)\n"
		    "       ztunnel version   print the version (also --version)\n"
		    "       ztunnel help      print this (also --help)\n"
		    "Configuration comes from environment variables: see ztunnel(8).\n",
		    to);
}

static void print_version(void)
{
	const char *istio = getenv("ISTIO_META_ISTIO_VERSION");

	(void)printf(
		"version.BuildInfo{Version:\"%s\", GitRevision:\"\", RustVersion:\"none (C)\", "
		"BuildProfile:\"%s\", BuildStatus:\"\", IstioVersion:\"%s\", "
		"CryptoProvider:\"tls-openssl\"}\n",
		VERSION,
#if defined(SANITIZED)
		"sanitized",
#else
		"release",
#endif
		istio != NULL ? istio : "unknown");
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "proxy";

	if (strcmp(verb, "proxy") == 0)
		return run_proxy();
	if (strcmp(verb, "version") == 0 || strcmp(verb, "--version") == 0) {
		print_version();
		return 0;
	}
	if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
		usage(stdout);
		return 0;
	}
	(void)fprintf(stderr, "ztunnel: unknown command %s\n", str_shown(str_of(verb)));
	usage(stderr);
	return 1;
}
