/* SPDX-License-Identifier: Apache-2.0
 * export_state.c: `ambientctl export-state`: ztunnel's local state file from the Kubernetes API,
 * once or kept current.
 *
 * Theory of operation. The watches fill a store; what changes there starts a short timer, so that a
 * burst is one write. When it fires, the whole file is made anew from the store and compared with
 * what was written last; equal is the usual case (a pod's status has much that the mesh does not
 * care for). Nothing is written before every kind of object has been read once: half a picture
 * could lack the policies. When the API is away, the file stays as it is.
 *
 *	change -> QUIET_MS without another one, at most BURST_MS -> compose -> differs? -> replace
 *
 * Composing costs time in a large cluster, so it rests for REST times what it took.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/export_feed.h"
#include "ctl/export_yaml.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/event/signals.h"
#include "lib/kube/kube_conn.h"
#include "lib/kube/kubeconfig.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/trim.h"
#include "lib/wire/spiffe.h"

#define QUIET_MS   50
#define BURST_MS   500
#define REST	   4
#define AGAIN_MS   5000	 /* after a file that could not be written */
#define LOOK_MS	   10000 /* for a file that somebody else changed */
#define TIMEOUT_MS 30000 /* once */

struct export
{
	struct loop *loop;
	struct kubeconfig kube;
	struct kube_conn *conn;
	struct ex_store store;
	struct ex_feeds feeds;
	struct ex_config cfg;
	const char *file; /* NULL: standard output */
	bool watch;
	bool was_up;
	struct timer write, look, timeout;
	uint64_t dirty_ms; /* since when; 0: not */
	uint64_t rest_until_ms;
	uint64_t digest; /* of what is in the file; 0: not known */
	struct stat as_written;
	struct signals signals;
	struct err down; /* code 0: connected */
	int status;
};

static void end(struct export *x, int status)
{
	x->status = status;
	loop_stop(x->loop);
}

/* --- the file --- */

static uint64_t digest_of(struct str s)
{
	uint64_t d = hash_mix(hash_str(s), s.n);

	return d != 0 ? d : 1;
}

/* What an earlier run left need not be replaced by the same. */
static void know_the_file(struct export *x)
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	if (file_read(x->file, LIMIT_STATE_FILE_BYTES, &text, &n, NULL) == 0 &&
	    stat(x->file, &x->as_written) == 0)
		x->digest = digest_of((struct str){text, n});
}

static void on_write(struct timer *t);

static bool replace(struct export *x, const struct strbuf *out)
{
	uint64_t digest = digest_of((struct str){out->p, out->n});
	struct err err = {0};

	if (digest == x->digest)
		return true;
	if (out->n > LIMIT_STATE_FILE_BYTES) {
		log_error("export",
			  "%zu bytes are more than ztunnel reads (%u); nothing is written", out->n,
			  LIMIT_STATE_FILE_BYTES);
		if (!x->watch)
			end(x, CTL_EXIT_WRONG);
		return false;
	}
	if (file_write_durable(x->file, out->p, out->n, 0644, &err) < 0) {
		log_error("export", "%s", err.msg);
		if (!x->watch) {
			end(x, CTL_EXIT_WRONG);
			return false;
		}
		x->digest = 0; /* the directory may not be synced */
		loop_timer_set(x->loop, &x->write, AGAIN_MS, on_write);
		return false;
	}
	x->digest = digest;
	if (stat(x->file, &x->as_written) < 0)
		x->as_written = (struct stat){0};
	return true;
}

static void compose(struct export *x)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	uint64_t began = clock_mono_ms(), took, before = x->digest;
	struct ex_counts n;

	ex_yaml(&x->store, &x->cfg, &out, &n);
	took = clock_mono_ms() - began;
	x->dirty_ms = 0;
	x->rest_until_ms = loop_now_ms(x->loop) + REST * took;
	if (x->file == NULL) {
		end(x, ctl_emit(&out) ? CTL_EXIT_OK : CTL_EXIT_WRONG);
		return;
	}
	if (!replace(x, &out))
		return;
	if (x->digest != before)
		log_info("export",
			 "written file=%s workloads=%zu hbone=%zu services=%zu policies=%zu "
			 "bytes=%zu composed_ms=%llu",
			 x->file, n.workloads, n.hbone, n.services, n.policies, out.n,
			 (unsigned long long)took);
	if (!x->watch)
		end(x, CTL_EXIT_OK);
	else if (before == 0)
		(void)trim_text();
}

static void on_write(struct timer *t)
{
	compose(container_of(t, struct export, write));
}

static void schedule(struct export *x)
{
	uint64_t now = loop_now_ms(x->loop), at;

	if (!ex_feeds_synced(&x->feeds))
		return;
	if (x->dirty_ms == 0)
		x->dirty_ms = now;
	at = now + QUIET_MS;
	if (at > x->dirty_ms + BURST_MS)
		at = x->dirty_ms + BURST_MS;
	if (at < x->rest_until_ms)
		at = x->rest_until_ms;
	loop_timer_set(x->loop, &x->write, at > now ? at - now : 0, on_write);
}

/* Somebody removed the file or wrote into it: it is made again. */
static void on_look(struct timer *t)
{
	struct export *x = container_of(t, struct export, look);
	struct stat now;

	loop_timer_set(x->loop, t, LOOK_MS, on_look);
	if (x->digest == 0 || (stat(x->file, &now) == 0 && file_unchanged(&now, &x->as_written)))
		return;
	log_warn("export", "%s was changed by somebody else; it is written anew", x->file);
	x->digest = 0;
	schedule(x);
}

/* --- the API --- */

static void give_up(struct export *x, const char *why)
{
	log_error("export", "%s", why);
	end(x, CTL_EXIT_NO_ANSWER);
}

static void on_changed(void *ctx)
{
	struct export *x = ctx;
	struct err err = {0};

	if (!x->watch && ex_feeds_refused(&x->feeds, &err))
		give_up(x, err.msg);
	else
		schedule(x);
}

static void on_up(void *ctx)
{
	struct export *x = ctx;

	if (x->down.code != 0)
		log_info("export", "connected again server=%s", kube_conn_where(x->conn));
	x->down = (struct err){0};
	x->was_up = true;
	ex_feeds_go(&x->feeds);
}

static void on_down(void *ctx, const struct err *why)
{
	struct export *x = ctx;

	if (!x->watch && !x->was_up) {
		(void)err_set(&x->down, EIO, "no connection to the Kubernetes API: %.400s",
			      why->msg);
		give_up(x, x->down.msg);
		return;
	}
	if (strcmp(x->down.msg, why->msg) != 0)
		log_warn("export", "no connection to the Kubernetes API: %s%s", why->msg,
			 x->watch ? "; the file stays as it is" : "");
	x->down = *why;
}

static const struct kube_conn_ops conn_ops = {.up = on_up, .down = on_down};

static void on_timeout(struct timer *t)
{
	struct export *x = container_of(t, struct export, timeout);
	const char *why = x->down.code != 0 ? x->down.msg : ex_feeds_error(&x->feeds);
	struct err err = {0};

	(void)err_set(&err, ETIMEDOUT, "not everything could be read within %d s%s%.400s",
		      TIMEOUT_MS / 1000, why[0] != '\0' ? ": " : "", why);
	give_up(x, err.msg);
}

/* The file that is named, or what a pod is given, or the usual file of a person. */
static int find_api(struct export *x, const char *flag, struct err *err)
{
	const char *file = flag != NULL ? flag : getenv("KUBECONFIG");
	const char *host = getenv("KUBERNETES_SERVICE_HOST"), *home = getenv("HOME");
	_cleanup_free_ char *usual = NULL;

	if (file != NULL && file[0] != '\0')
		return kube_conn_config(file, &x->kube, err);
	if (host != NULL)
		return kubeconfig_in_cluster(host, getenv("KUBERNETES_SERVICE_PORT"),
					     KUBE_ACCOUNT_DIR, &x->kube, err);
	if (home == NULL)
		return err_set(err, EINVAL,
			       "no Kubernetes API: give --kubeconfig FILE, or set KUBECONFIG");
	usual = xasprintf("%s/.kube/config", home);
	return kube_conn_config(usual, &x->kube, err);
}

/* --- the command --- */

static void on_signal(struct signals *s, int signo)
{
	struct export *x = container_of(s, struct export, signals);

	(void)signo;
	end(x, x->watch ? CTL_EXIT_OK : CTL_EXIT_NO_ANSWER);
}

static int watch_signals(struct export *x, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	return signals_watch(x->loop, &x->signals, &set, on_signal, err);
}

static const char *or_else(const char *value, const char *absent)
{
	return value != NULL && value[0] != '\0' ? value : absent;
}

static int read_names(struct export *x, const struct ctl_call *c, struct err *err)
{
	_cleanup_strbuf_ struct strbuf uri = {0};
	struct spiffe_id id, back;

	x->cfg = (struct ex_config){
		.cluster = or_else(ctl_call_value(c, "cluster-id"), "Kubernetes"),
		.trust_domain = or_else(ctl_call_value(c, "trust-domain"), "cluster.local"),
		.domain = or_else(ctl_call_value(c, "cluster-domain"), "cluster.local"),
		.root_ns = or_else(ctl_call_value(c, "root-namespace"), "istio-system"),
	};
	id = (struct spiffe_id){str_of(x->cfg.trust_domain), STR("n"), STR("s")};
	spiffe_format(&id, &uri);
	if (spiffe_parse((struct str){uri.p, uri.n}, &back) != 0 || !spiffe_eq(&id, &back))
		return err_set(err, EINVAL, "--trust-domain %s: no trust domain",
			       str_shown(str_of(x->cfg.trust_domain)));
	return 0;
}

static int usage_error(const char *text)
{
	fprintf(stderr, "ambientctl: export-state: %s\ntry: ambientctl export-state --help\n",
		text);
	return CTL_EXIT_USAGE;
}

static void run_loop(struct export *x)
{
	x->conn = kube_conn_new(x->loop, &x->kube, "ambientctl/" VERSION, &conn_ops, x);
	ex_feeds_init(&x->feeds, x->loop, x->conn, &x->store, on_changed, x);
	if (x->file != NULL)
		know_the_file(x);
	if (x->watch) {
		log_info("export", "following server=%s file=%s", kube_conn_where(x->conn),
			 x->file);
		loop_timer_set(x->loop, &x->look, LOOK_MS, on_look);
	} else {
		loop_timer_set(x->loop, &x->timeout, TIMEOUT_MS, on_timeout);
	}
	loop_run(x->loop);
	loop_timer_cancel(&x->write);
	loop_timer_cancel(&x->look);
	loop_timer_cancel(&x->timeout);
	ex_feeds_fini(&x->feeds);
	x->conn = kube_conn_free(x->conn);
}

static int run_export(const struct ctl_call *c)
{
	struct export x = {.status = CTL_EXIT_NO_ANSWER};
	struct err err = {0};

	x.file = ctl_call_value(c, "file");
	x.watch = ctl_call_value(c, "watch") != NULL;
	if (c->common.json)
		return usage_error("the state file is YAML; there is no --output json");
	if (x.file != NULL && x.file[0] == '\0')
		return usage_error("--file: expected a path");
	if (x.watch && x.file == NULL)
		return usage_error("--watch needs --file FILE");
	if (read_names(&x, c, &err) < 0)
		return usage_error(err.msg);
	log_init();
	if (!x.watch && log_set_filter("warn") < 0)
		return CTL_EXIT_USAGE; /* it is a constant */
	x.loop = loop_new();
	if (watch_signals(&x, &err) < 0 ||
	    find_api(&x, ctl_call_value(c, "kubeconfig"), &err) < 0) {
		log_error("export", "%s", err.msg);
	} else {
		if (x.kube.insecure)
			log_warn("export", "insecure-skip-tls-verify: whoever answers is believed");
		run_loop(&x);
	}
	signals_unwatch(x.loop, &x.signals);
	ex_store_fini(&x.store);
	kubeconfig_fini(&x.kube);
	x.loop = loop_free(x.loop);
	return x.status;
}

static const struct ctl_option options[] = {
	{'f', "file", "FILE", "write this file, by replacing it; else standard output"},
	{'w', "watch", NULL, "keep the file current until told to stop (SIGTERM, SIGINT)"},
	{0, "kubeconfig", "FILE",
	 "where the API is; else $KUBECONFIG, a pod's own account, ~/.kube/config"},
	{0, "cluster-id", "NAME", "Kubernetes"},
	{0, "trust-domain", "NAME", "cluster.local"},
	{0, "cluster-domain", "NAME", "of services: cluster.local"},
	{0, "root-namespace", "NAME", "of mesh-wide policies: istio-system"},
};
const struct ctl_command ctl_export_state_command = {
	.name = "export-state",
	.summary = "ztunnel's local state file from the Kubernetes API, once or kept current",
	.details = "Reads pods, services, endpoint slices, namespaces and nodes, and where the "
		   "cluster has\n"
		   "them AuthorizationPolicy and PeerAuthentication. With this file "
		   "(LOCAL_XDS_PATH) a\n"
		   "ztunnel has mTLS and L4 policy without a control plane.\n"
		   "Exit status: 0 written, or told to stop; 1 the file could not be written; 2 "
		   "wrong\n"
		   "usage; 3 the API could not be read. With --watch only a wrong configuration "
		   "ends it.\n",
	.options = options,
	.noptions = ARRAY_LEN(options),
	.run = run_export,
};
