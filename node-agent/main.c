/* SPDX-License-Identifier: Apache-2.0
 * main.c: ambient-agent: starts the rooms, gives them their sockets, runs one loop.
 *
 * Order: settings -> privileges dropped -> sockets (given by the service manager or made) -> pods
 * read -> what the last life left -> system call filter -> READY -> loop. Stopping is not
 * uninstalling: pods stay enrolled, their sockets stay in the service manager's store. Only as
 * install-cni, Istio's chart having no other way to say so, an agent whose DaemonSet is gone takes
 * the plugin along (source/kube_self.h).
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/log_sink.h"
#include "lib/base/mem.h"
#include "lib/event/log_pump.h"
#include "lib/event/loop.h"
#include "lib/event/signals.h"
#include "lib/os/fd.h"
#include "lib/os/notify.h"
#include "lib/os/sock.h"
#include "lib/os/trim.h"
#include "node-agent/config.h"
#include "node-agent/enrol/custody.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/enrol/vault.h"
#include "node-agent/host/install.h"
#include "node-agent/host/uninstall.h"
#include "node-agent/isolate.h"
#include "node-agent/serve/events.h"
#include "node-agent/serve/health.h"
#include "node-agent/serve/status.h"
#include "node-agent/serve/zds.h"
#include "node-agent/source/kube.h"
#include "node-agent/source/kube_clear.h"
#include "node-agent/source/manifests.h"
#include "node-agent/source/pods.h"
#include "node-agent/source/source.h"
#include "node-agent/view.h"

#define SYNC_POLL_MS  250
#define STATUS_MS     2000
#define FDS_WANTED    65536
#define CLEAR_MS      10000
#define EXIT_BAD_ARGS 2

struct agent {
	struct config cfg;
	struct loop *loop;
	struct pods *pods;
	struct manifests *manifests; /* or */
	struct kube *kube;
	struct source src;
	struct enrol *enrol;
	struct zds_server *zds;
	struct events *events;
	struct install *install;
	struct health *health;
	int event_fd, log_fd, zds_fd; /* listening, until a server takes them */
	struct signals signals;
	struct timer sync, status, watchdog;
	struct trim_pace trim;
	uint64_t watchdog_ms;
	bool lost;	       /* the node's directories are not seen any more */
	bool stopping, leaves; /* leaves: the plugin goes with us */
	struct log_pump log_pump;
	char status_text[160];
};

static void on_pod_changed(void *ctx, const char *ns, const char *name)
{
	struct agent *a = ctx;

	if (a->enrol != NULL)
		enrol_pod_changed(a->enrol, ns, name);
}

static bool source_synced(const void *impl)
{
	return manifests_synced(impl);
}

static const char *source_error(const void *impl)
{
	return manifests_error(impl);
}

static enum kube_mesh pod_mesh(void *ctx, const struct pod *p)
{
	struct agent *a = ctx;

	switch (enrol_pod_mesh(a->enrol, p)) {
	case ENROL_MESH_IN:
		return KUBE_MESH_IN;
	case ENROL_MESH_OUT:
		return KUBE_MESH_OUT;
	case ENROL_MESH_UNSURE:
		break;
	}
	return KUBE_MESH_UNSURE;
}

static void on_mesh_changed(void *ctx, const char *ns, const char *name)
{
	struct agent *a = ctx;

	kube_pod_mesh_changed(a->kube, ns, name);
}

static int open_manifests(struct agent *a, struct err *err)
{
	a->manifests =
		manifests_new(a->loop, a->cfg.manifests_dir, &a->cfg.selectors.keys, a->pods, err);
	if (a->manifests == NULL)
		return -1;
	a->src = (struct source){.kind = "manifests",
				 .where = a->cfg.manifests_dir,
				 .impl = a->manifests,
				 .synced = source_synced,
				 .error = source_error};
	return 0;
}

static struct kube_config kube_settings(const struct config *c)
{
	return (struct kube_config){.kubeconfig = c->kubeconfig,
				    .host = c->api_host,
				    .port = c->api_port,
				    .node = c->node_name,
				    .keep = &c->selectors.keys,
				    .state_dir = c->state_dir};
}

static int open_kubernetes(struct agent *a, struct err *err)
{
	struct kube_config cfg = kube_settings(&a->cfg);

	a->kube = kube_new(a->loop, &cfg, a->pods, err);
	if (a->kube == NULL)
		return -1;
	a->src = (struct source){.kind = "kubernetes",
				 .where = kube_where(a->kube),
				 .impl = a->kube,
				 .synced = kube_synced,
				 .error = kube_error,
				 .stale = kube_stale,
				 .former = kube_former,
				 .print = kube_print};
	return 0;
}

static int open_source(struct agent *a, struct err *err)
{
	return a->cfg.source == CONFIG_SOURCE_KUBERNETES ? open_kubernetes(a, err)
							 : open_manifests(a, err);
}

/* Puts what the service manager passed to us where it belongs; the rest is closed. */
static void take_given_fds(struct agent *a)
{
	struct notify_given g;
	struct str name;
	int fd;

	if (notify_given(&g) < 0) {
		log_warn("main", "LISTEN_FDS and LISTEN_FDNAMES do not fit together: ignored");
		g = (struct notify_given){0};
	}
	while (notify_given_next(&g, &fd, &name)) {
		if (str_eqc(name, "pluginevent") && a->event_fd < 0)
			a->event_fd = fd;
		else if (str_eqc(name, "log") && a->log_fd < 0)
			a->log_fd = fd;
		else if (str_eqc(name, "zds") && a->zds_fd < 0)
			a->zds_fd = fd;
		else if (!custody_stored_take(name, fd) && !vault_stored_take(name, fd))
			(void)xclose(fd);
	}
	/* anything above is a leak of whoever started us */
	(void)close_range((unsigned int)(NOTIFY_GIVEN_FIRST + g.n), ~0u, 0);
}

static void tell_manager(const char *state)
{
	int r = notify_send(state);

	if (r < 0)
		log_limited(LOG_LV_WARN, "main", "the service manager does not hear us: error %d",
			    -r);
}

static int listen_unless_given(int *fd, const char *path, int type, struct err *err)
{
	if (*fd >= 0)
		return fd_set_nonblock(*fd);
	*fd = unix_listen(path, type, 0600, err);
	return *fd < 0 ? *fd : 0;
}

static int open_sockets(struct agent *a, struct err *err)
{
	_cleanup_free_ char *event = xasprintf("%s/pluginevent.sock", a->cfg.run_dir);
	_cleanup_free_ char *log = xasprintf("%s/log.sock", a->cfg.run_dir);
	_cleanup_free_ char *zds_dir = xstrdup(a->cfg.ztunnel_sock);
	char *slash = strrchr(zds_dir, '/');
	int r;

	*slash = '\0'; /* the path is absolute */
	if ((r = dir_make(a->cfg.run_dir, 0755, err)) < 0 ||
	    (zds_dir[0] != '\0' && (r = dir_make(zds_dir, 0755, err)) < 0) ||
	    (r = listen_unless_given(&a->event_fd, event, SOCK_STREAM, err)) < 0 ||
	    (r = listen_unless_given(&a->log_fd, log, SOCK_STREAM, err)) < 0)
		return r;
	return listen_unless_given(&a->zds_fd, a->cfg.ztunnel_sock, SOCK_SEQPACKET, err);
}

static void on_self(void *ctx, bool leaves, const char *why)
{
	struct agent *a = ctx;

	a->leaves = leaves;
	log_info("main", "stopping: %s; the plugin %s", why,
		 leaves ? "is taken off the node" : "stays, and waits for the next agent");
	loop_stop(a->loop);
}

/* A second signal does not wait for an answer. */
static void begin_stop(struct agent *a)
{
	bool first = !a->stopping;

	a->stopping = true;
	if (a->cfg.leave_always) {
		on_self(a, true, "AMBIENT_DISABLE_SAFE_UPGRADE is set");
		return;
	}
	if (a->cfg.as_install_cni && a->kube != NULL && first) {
		kube_ask_self(a->kube, a->cfg.pod_namespace, on_self, a);
		return;
	}
	log_info("main", "stopping; enrolled pods stay enrolled");
	loop_stop(a->loop);
}

static void on_signal(struct signals *s, int signo)
{
	if (signo == SIGTERM || signo == SIGINT)
		begin_stop(container_of(s, struct agent, signals));
}

static int watch_signals(struct agent *a, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return signals_watch(a->loop, &a->signals, &set, on_signal, err);
}

/* Memory goes back when nothing happens: what start-up or many pods needed is not needed again. */
static void give_back(struct agent *a)
{
	if (!trim_due(&a->trim, loop_events(a->loop), loop_now_ms(a->loop)))
		return;
	(void)malloc_trim(0);
	(void)trim_text();
}

static void on_status(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, status);
	char reason[ERR_MSG_MAX], text[sizeof(a->status_text)];
	size_t enrolled, all = enrol_count(a->enrol, &enrolled);

	loop_timer_set(a->loop, t, STATUS_MS, on_status);
	give_back(a);
	if (install_lost(a->install) && !a->lost) {
		log_error("main", "ending, to be started with the directories that are there then");
		a->lost = true;
		loop_stop(a->loop);
	}
	(void)snprintf(text, sizeof(text), "STATUS=%zu of %zu pods in the mesh%s%.80s", enrolled,
		       all, status_ready(events_from(a->events), reason) ? "" : "; ", reason);
	if (strcmp(text, a->status_text) == 0)
		return;
	memcpy(a->status_text, text, sizeof(text));
	tell_manager(text);
}

static void on_watchdog(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, watchdog);

	tell_manager("WATCHDOG=1");
	loop_timer_set(a->loop, t, a->watchdog_ms, on_watchdog);
}

static void on_sync(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, sync);

	if (a->src.synced(a->src.impl))
		enrol_start(a->enrol);
	else
		loop_timer_set(a->loop, t, SYNC_POLL_MS, on_sync);
}

/* Four descriptors a pod: the usual soft limit of 1024 ends at 250 pods. */
static void raise_fd_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || rl.rlim_cur >= FDS_WANTED)
		return;
	rl.rlim_cur = rl.rlim_max < FDS_WANTED ? rl.rlim_max : FDS_WANTED;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		log_warn("main", "cannot raise the limit of open files: error %d", errno);
}

static int start(struct agent *a, struct err *err)
{
	raise_fd_limit();

	if (isolate_privileges(a->cfg.host_root[0] != '\0', err) < 0 || open_sockets(a, err) < 0)
		return -1;
	a->loop = loop_new();
	log_pump_start(&a->log_pump, a->loop);
	if (watch_signals(a, err) < 0)
		return -1;
	a->pods = pods_new(on_pod_changed, a);
	if (open_source(a, err) < 0)
		return -1;
	a->enrol = enrol_new(a->loop, &a->cfg, a->pods, &a->src, err);
	if (a->enrol == NULL)
		return -1;
	if (a->kube != NULL) {
		kube_write_back(a->kube, pod_mesh, a);
		enrol_set_observer(a->enrol, on_mesh_changed, a);
	}
	a->zds = zds_server_new(a->loop, take_fd(a->zds_fd), &enrol_zds_ops, a->enrol);
	enrol_set_zds(a->enrol, a->zds);
	a->events = events_new(a->loop, take_fd(a->event_fd), take_fd(a->log_fd), &a->cfg, a->enrol,
			       a->pods, &a->src, err);
	if (a->events == NULL)
		return -1;
	a->install = install_new(a->loop, &a->cfg, err); /* runtimes may call from here on */
	if (a->install == NULL || isolate_syscalls(err) < 0)
		return -1;
	events_set_install(a->events, a->install);
	a->health = health_new(a->loop, events_from(a->events), a->events, err);
	if (a->health == NULL)
		return -1;
	on_sync(&a->sync);
	on_status(&a->status);
	a->watchdog_ms = notify_watchdog_ms() / 2;
	if (a->watchdog_ms != 0)
		on_watchdog(&a->watchdog);
	return 0;
}

static void stop(struct agent *a)
{
	(void)health_free(a->health);
	(void)events_free(a->events);
	(void)install_free(a->install);
	(void)zds_server_free(a->zds);
	(void)enrol_free(a->enrol);
	(void)manifests_free(a->manifests);
	(void)kube_free(a->kube);
	(void)pods_free(a->pods);
	custody_stored_release();
	vault_stored_release();
	if (a->loop != NULL) {
		signals_unwatch(a->loop, &a->signals);
		log_pump_stop(&a->log_pump);
		(void)loop_free(a->loop);
	}
	(void)xclose(a->event_fd);
	(void)xclose(a->log_fd);
	(void)xclose(a->zds_fd);
}

static void look_nowhere(void *ctx, const char *ns, const char *name)
{
	(void)ctx;
	(void)ns;
	(void)name;
}

/* Takes us off the node, and off what the API says about pods that were released. */
static int take_off(const struct config *cfg)
{
	struct pods *released = pods_new(look_nowhere, NULL);
	struct kube_config api = kube_settings(cfg);
	struct err err = {0};
	int r = uninstall_run(cfg, released, &err);

	if (r < 0)
		log_error("uninstall", "%s", err.msg);
	err = (struct err){0};
	if (cfg->source == CONFIG_SOURCE_KUBERNETES && pods_count(released) != 0 &&
	    kube_clear(&api, released, CLEAR_MS, &err) < 0)
		log_error("uninstall", "%s", err.msg);
	(void)pods_free(released);
	return r < 0 || err.code != 0;
}

/* Rules of the node serve the pods that are in the mesh; the last one gone, nobody needs them. */
static int leave(struct agent *a, bool any_enrolled)
{
	a->cfg.release_pods = !any_enrolled;
	return take_off(&a->cfg);
}

/* A DaemonSet starts a program that ended again; one that stays counts as done. */
static void wait_for_end(void)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	log_info("uninstall", "done; waiting for SIGTERM");
	(void)sigwait(&set, &sig);
}

static int uninstall(const struct config *cfg)
{
	struct err err = {0};
	int rc;

	if (isolate_privileges(cfg->host_root[0] != '\0', &err) < 0) {
		log_error("uninstall", "%s", err.msg);
		return 1;
	}
	rc = take_off(cfg);
	if (rc == 0 && cfg->stay)
		wait_for_end();
	return rc;
}

int main(int argc, char **argv)
{
	struct agent a = {.event_fd = -1, .log_fd = -1, .zds_fd = -1};
	enum config_action action = CONFIG_RUN;
	struct err err = {0};
	size_t enrolled = 0;
	int rc;

	log_init();
	if (config_read(&a.cfg, argc, argv, &action, &err) < 0) {
		fprintf(stderr, "ambient-agent: %s\n", err.msg);
		config_fini(&a.cfg);
		return EXIT_BAD_ARGS;
	}
	view_set(a.cfg.host_root);
	if (action != CONFIG_RUN) {
		rc = action == CONFIG_UNINSTALL ? uninstall(&a.cfg) : 0;
		if (action == CONFIG_HELP)
			fputs(config_usage, stdout);
		else if (action == CONFIG_VERSION)
			puts("ambient-agent " VERSION);
		config_fini(&a.cfg);
		return rc;
	}
	take_given_fds(&a);
	log_sink_open();
	if (start(&a, &err) < 0) {
		log_error("main", "cannot start: %s", err.msg);
		stop(&a);
		config_fini(&a.cfg);
		log_sink_close();
		return 1;
	}
	log_info("main", "ambient-agent " VERSION " serves events=%s/pluginevent.sock zds=%s %s=%s",
		 a.cfg.run_dir, a.cfg.ztunnel_sock, a.src.kind, a.src.where);
	tell_manager("READY=1");
	loop_run(a.loop);
	tell_manager("STOPPING=1");
	(void)enrol_count(a.enrol, &enrolled);
	stop(&a);
	rc = a.leaves ? leave(&a, enrolled != 0) : a.lost;
	config_fini(&a.cfg);
	log_sink_close();
	return rc;
}
