/* SPDX-License-Identifier: Apache-2.0
 * main.c: ambient-agent: starts the rooms, gives them their sockets, runs one loop.
 *
 * Order: settings -> privileges dropped -> sockets (given by the service manager or made) -> pods
 * read -> what the last life left -> system call filter -> READY -> loop. Stopping is not
 * uninstalling: pods stay enrolled, their sockets stay in the service manager's store.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"
#include "lib/os/trim.h"
#include "node-agent/config.h"
#include "node-agent/enrol/custody.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/host/install.h"
#include "node-agent/host/uninstall.h"
#include "node-agent/isolate.h"
#include "node-agent/serve/events.h"
#include "node-agent/serve/zds.h"
#include "node-agent/source/kube.h"
#include "node-agent/source/manifests.h"
#include "node-agent/source/pods.h"
#include "node-agent/source/source.h"

#define SYNC_POLL_MS  250
#define TRIM_EVERY_MS 30000
#define STATUS_MS     2000
#define FDS_WANTED    65536
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
	int event_fd, log_fd, zds_fd; /* listening, until a server takes them */
	struct watch signals;
	struct timer sync, status, watchdog, trim;
	uint64_t watchdog_ms;
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
	a->manifests = manifests_new(a->loop, a->cfg.manifests_dir, a->pods, err);
	if (a->manifests == NULL)
		return -1;
	a->src = (struct source){.kind = "manifests",
				 .where = a->cfg.manifests_dir,
				 .impl = a->manifests,
				 .synced = source_synced,
				 .error = source_error};
	return 0;
}

static int open_kubernetes(struct agent *a, struct err *err)
{
	struct kube_config cfg = {.kubeconfig = a->cfg.kubeconfig,
				  .host = a->cfg.api_host,
				  .port = a->cfg.api_port,
				  .node = a->cfg.node_name};

	a->kube = kube_new(a->loop, &cfg, a->pods, err);
	if (a->kube == NULL)
		return -1;
	a->src = (struct source){.kind = "kubernetes",
				 .where = kube_where(a->kube),
				 .impl = a->kube,
				 .synced = kube_synced,
				 .error = kube_error,
				 .stale = kube_stale};
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
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);

	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		const char *name = names[i];

		if (strcmp(name, "pluginevent") == 0 && a->event_fd < 0)
			a->event_fd = fd;
		else if (strcmp(name, "log") == 0 && a->log_fd < 0)
			a->log_fd = fd;
		else if (strcmp(name, "zds") == 0 && a->zds_fd < 0)
			a->zds_fd = fd;
		else if (!custody_stored_take(name, fd))
			(void)xclose(fd);
		free(names[i]);
	}
	free(names);
	/* anything above is a leak of whoever started us */
	(void)close_range((unsigned int)(SD_LISTEN_FDS_START + (n > 0 ? n : 0)), ~0u, 0);
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

static void on_signal(struct watch *w, uint32_t events)
{
	struct agent *a = container_of(w, struct agent, signals);
	struct signalfd_siginfo si;

	(void)events;
	while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
			log_info("main", "stopping; enrolled pods stay enrolled");
			loop_stop(a->loop);
		}
}

static int watch_signals(struct agent *a, struct err *err)
{
	sigset_t set;
	int fd, r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPIPE);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_errno(err, errno, "block signals");
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_errno(err, errno, "signalfd");
	r = loop_watch(a->loop, &a->signals, fd, EPOLLIN, on_signal);
	if (r < 0) {
		(void)xclose(fd);
		return err_errno(err, -r, "watch signals");
	}
	return 0;
}

static void on_status(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, status);
	char reason[ERR_MSG_MAX], text[sizeof(a->status_text)];
	size_t enrolled, all = enrol_count(a->enrol, &enrolled);

	loop_timer_set(a->loop, t, STATUS_MS, on_status);
	(void)snprintf(text, sizeof(text), "STATUS=%zu of %zu pods in the mesh%s%.80s", enrolled,
		       all, enrol_ready(a->enrol, reason) ? "" : "; ", reason);
	if (strcmp(text, a->status_text) == 0)
		return;
	memcpy(a->status_text, text, sizeof(text));
	(void)sd_notify(0, text);
}

static void on_watchdog(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, watchdog);

	(void)sd_notify(0, "WATCHDOG=1");
	loop_timer_set(a->loop, t, a->watchdog_ms, on_watchdog);
}

static void on_trim(struct timer *t)
{
	struct agent *a = container_of(t, struct agent, trim);

	/* what was not used since the last time stays out; what is hot comes back in a few faults
	 */
	(void)trim_text();
	loop_timer_set(a->loop, t, TRIM_EVERY_MS, on_trim);
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
	uint64_t usec = 0;

	raise_fd_limit();

	if (isolate_privileges(err) < 0 || open_sockets(a, err) < 0)
		return -1;
	a->loop = loop_new();
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
	on_sync(&a->sync);
	on_status(&a->status);
	if (sd_watchdog_enabled(0, &usec) > 0) {
		a->watchdog_ms = usec / 2000;
		on_watchdog(&a->watchdog);
	}
	return 0;
}

static void stop(struct agent *a)
{
	(void)events_free(a->events);
	(void)install_free(a->install);
	(void)zds_server_free(a->zds);
	(void)enrol_free(a->enrol);
	(void)manifests_free(a->manifests);
	(void)kube_free(a->kube);
	(void)pods_free(a->pods);
	custody_stored_release();
	if (a->loop != NULL) {
		int fd = a->signals.added ? a->signals.fd : -1;

		loop_unwatch(a->loop, &a->signals);
		(void)xclose(fd);
		(void)loop_free(a->loop);
	}
	(void)xclose(a->event_fd);
	(void)xclose(a->log_fd);
	(void)xclose(a->zds_fd);
	config_fini(&a->cfg);
}

static int uninstall(const struct config *cfg)
{
	struct err err = {0};

	if (isolate_privileges(&err) < 0 || uninstall_run(cfg, &err) < 0) {
		log_error("uninstall", "%s", err.msg);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct agent a = {.event_fd = -1, .log_fd = -1, .zds_fd = -1};
	enum config_action action = CONFIG_RUN;
	struct err err = {0};

	log_init();
	if (config_read(&a.cfg, argc, argv, &action, &err) < 0) {
		fprintf(stderr, "ambient-agent: %s\n", err.msg);
		config_fini(&a.cfg);
		return EXIT_BAD_ARGS;
	}
	if (action != CONFIG_RUN) {
		int rc = action == CONFIG_UNINSTALL ? uninstall(&a.cfg) : 0;

		if (action == CONFIG_HELP)
			fputs(config_usage, stdout);
		else if (action == CONFIG_VERSION)
			puts("ambient-agent " VERSION);
		config_fini(&a.cfg);
		return rc;
	}
	take_given_fds(&a);
	if (start(&a, &err) < 0) {
		log_error("main", "cannot start: %s", err.msg);
		stop(&a);
		return 1;
	}
	log_info("main", "ambient-agent " VERSION " serves events=%s/pluginevent.sock zds=%s %s=%s",
		 a.cfg.run_dir, a.cfg.ztunnel_sock, a.src.kind, a.src.where);
	(void)sd_notify(0, "READY=1");
	loop_timer_set(a.loop, &a.trim, TRIM_EVERY_MS, on_trim);
	loop_run(a.loop);
	loop_timer_cancel(&a.trim);
	(void)sd_notify(0, "STOPPING=1");
	stop(&a);
	return 0;
}
