/* SPDX-License-Identifier: Apache-2.0
 * install.c: see install.h.
 *
 * Theory of operation. As with the manifests, an event only says "look again": after a short pause
 * everything is looked at and what is not as it should be is done, in this order:
 *
 *	lock the directory -> the program -> what the configuration should be -> write it ->
 *	remove what it takes the place of
 *
 * A step that fails ends the look (but a program that is there is good enough); the next one is due
 *in LOOK_AGAIN_MS, or when something changes. Our own writes cause one more look, which finds
 *nothing to do. Attempts to write are paced, so that neither another program that rewrites the file
 *nor a full disk makes us spin.
 */
#include "node-agent/host/install.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "node-agent/config.h"
#include "node-agent/host/plan.h"
#include "node-agent/view.h"

#define SETTLE_MS     30
#define LOOK_AGAIN_MS 5000
#define NO_DIR_MS     1000 /* the same while there is no directory to watch */
#define PROGRAM_MAX   (64u << 20)
#define TOKEN_FILE    "istio-cni-kubeconfig"
#define EVENTS                                                                                     \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF |   \
	 IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR)

enum state {
	STATE_WAITING,
	STATE_INSTALLED,
	STATE_REPAIRING,
	STATE_PREEMPTED,
	STATE_FAILED,
	STATE_N
};

static const char *const state_name[STATE_N] = {
	[STATE_WAITING] = "waiting",	 [STATE_INSTALLED] = "installed",
	[STATE_REPAIRING] = "repairing", [STATE_PREEMPTED] = "preempted",
	[STATE_FAILED] = "failed",
};

struct install {
	struct loop *loop;
	const struct config *cfg;
	int run_lock, conf_lock; /* -1: not held */
	int ifd, conf_wd, bin_wd;
	struct watch watch;
	struct timer settle, look_again;
	struct install_pace program_pace, conf_pace;
	struct stat program_seen, source_seen; /* compared and found the same */
	char *written;			       /* name of our own file, once we wrote it */
	unsigned long writes;
	struct install_counts counts;

	struct strbuf selectors; /* as JSON, for stock's program */
	bool seen, lost; /* the directories were there; they are under a mount of nothing now */

	enum state state;
	char *file, *primary; /* names, NULL while not known */
	struct err reason;
};

uint64_t install_pace_wait(const struct install_pace *p, uint64_t now_ms)
{
	uint64_t next = p->tried_ms + INSTALL_PACE_MS;

	return p->tried_ms == 0 || now_ms >= next ? 0 : next - now_ms;
}

bool install_pace_done(struct install_pace *p, uint64_t now_ms)
{
	bool calm = p->done_ms == 0 || now_ms - p->done_ms > INSTALL_CALM_MS;

	p->done_ms = now_ms;
	p->fights = calm ? 0 : p->fights + 1;
	return p->fights != 0 && p->fights % INSTALL_FIGHT_AT == 0;
}

const char *install_program(const struct config *cfg)
{
	return cfg->as_install_cni ? CNICONF_STOCK : CNICONF_PLUGIN;
}

void install_drop_token(const struct config *cfg)
{
	struct err err = {0};

	if (cfg->as_install_cni && confdir_remove(cfg->run_dir, TOKEN_FILE, &err) < 0)
		log_warn("install", "the token for Istio's plugin stays on the node: %s", err.msg);
}

/* --- state --- */

static void set_name(char **at, const char *name)
{
	free(*at);
	*at = name != NULL ? xstrdup(name) : NULL;
}

static void set_state(struct install *in, enum state s, const struct err *why)
{
	bool news = s != in->state || strcmp(why->msg, in->reason.msg) != 0;

	if (s == STATE_INSTALLED && s != in->state) {
		in->counts.done++;
		install_drop_token(in->cfg); /* whoever needed it is not called any more */
	}

	in->state = s;
	in->reason = *why;
	if (!news)
		return;
	if (s == STATE_INSTALLED && why->msg[0] == '\0')
		log_info("install", "installed file=%s/%s primary=%s", in->cfg->cni_conf_dir,
			 in->file, in->primary);
	else if (s == STATE_WAITING || s == STATE_REPAIRING)
		log_info("install", "%s: %s", in->cfg->cni_conf_dir, why->msg);
	else
		log_warn("install", "%s: %s", in->cfg->cni_conf_dir, why->msg);
}

/* --- steps: each returns 0, or -errno with the reason; -EAGAIN: paced, -ENOENT: waiting --- */

static void look(struct install *in);

static void on_look_again(struct timer *t)
{
	look(container_of(t, struct install, look_again));
}

static bool same_directory(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static int step_lock(struct install *in, struct err *err)
{
	const char *dir = in->cfg->cni_conf_dir;
	int fd;

	if (in->conf_lock >= 0 && same_directory(in->conf_lock, dir))
		return 0;
	in->conf_lock = xclose(in->conf_lock); /* the directory was replaced by another */
	fd = confdir_lock(dir, err);
	if (fd < 0)
		return fd;
	in->conf_lock = fd;
	return 0;
}

/* Replaces a file of ours, unless that was tried a moment ago. */
static int put_back(struct install *in, struct install_pace *p, const char *dir, const char *name,
		    struct str text, mode_t mode, struct err *err)
{
	uint64_t now = loop_now_ms(in->loop), wait = install_pace_wait(p, now);
	int r;

	if (wait != 0) {
		if (wait < LOOK_AGAIN_MS)
			loop_timer_set(in->loop, &in->look_again, wait, on_look_again);
		return err_set(err, EAGAIN,
			       "%s/%s is not as it should be and will be put back in %u ms%s%s",
			       dir, name, (unsigned int)wait, p->failed.code != 0 ? ": " : "",
			       p->failed.code != 0 ? p->failed.msg : "");
	}
	p->tried_ms = now;
	p->failed = (struct err){0};
	r = confdir_replace(dir, name, text.p, text.n, mode, &p->failed);
	if (r < 0) {
		*err = p->failed;
		return r;
	}
	if (install_pace_done(p, now))
		log_warn(
			"install",
			"another program keeps changing %s/%s: it was put back %u times in a row. "
			"Tell that program to leave it alone (Cilium: cni.exclusive=false), or use "
			"--install-cni=owned",
			dir, name, p->fights);
	return 0;
}

/* The plugin was put there by somebody else, a package for example. */
static int check_program(const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_set(err, EINVAL,
			       "%s: error %d; say with --cni-plugin where to copy it from", path,
			       errno);
	if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0)
		return err_set(err, EINVAL, "%s is not a program", path);
	return 0;
}

static bool is_program(const char *path, const struct stat *st, struct str want)
{
	_cleanup_free_ char *have = NULL;
	size_t n;

	return (st->st_mode & 07777) == 0755 &&
	       file_read(path, PROGRAM_MAX, &have, &n, NULL) == 0 &&
	       str_eq((struct str){have, n}, want);
}

/* @source, @there: taken before anything is read, so that what comes in between is seen later. */
static int copy_program(struct install *in, const char *path, const struct stat *source,
			const struct stat *there, struct err *err)
{
	const struct config *cfg = in->cfg;
	_cleanup_free_ char *text = NULL;
	struct str want;
	int r = file_read(cfg->cni_plugin, PROGRAM_MAX, &text, &want.n, err);

	if (r < 0)
		return err_set(err, EINVAL, "--cni-plugin: %.400s", err->msg);
	want.p = text;
	if (is_program(path, there, want)) {
		in->source_seen = *source;
		in->program_seen = *there;
		return 0;
	}
	r = put_back(in, &in->program_pace, cfg->cni_bin_dir, install_program(cfg), want, 0755,
		     err);
	if (r == -ENOENT) /* the directory; for our caller that would be: wait */
		return err_set(err, EINVAL, "--cni-bin-dir: %.400s", err->msg);
	if (r < 0)
		return r;
	log_info("install", "program copied file=%s from=%s", path, cfg->cni_plugin);
	return 0;
}

static int step_program(struct install *in, struct err *err)
{
	const struct config *cfg = in->cfg;
	_cleanup_free_ char *path = xasprintf("%s/%s", cfg->cni_bin_dir, install_program(cfg));
	struct stat source = {0}, there = {0};

	if (cfg->cni_plugin[0] == '\0')
		return check_program(path, err);
	if (stat(cfg->cni_plugin, &source) == 0 && stat(path, &there) == 0) {
		if (source.st_dev == there.st_dev && source.st_ino == there.st_ino)
			return check_program(path, err);
		if (file_unchanged(&source, &in->source_seen) &&
		    file_unchanged(&there, &in->program_seen))
			return 0;
	}
	return copy_program(in, path, &source, &there, err);
}

static int write_conf(struct install *in, const struct plan *p, struct err *err)
{
	const char *dir = in->cfg->cni_conf_dir;
	int r = put_back(in, &in->conf_pace, dir, p->target, (struct str){p->text.p, p->text.n},
			 p->mode, err);

	if (r < 0)
		return r;
	in->writes++;
	if (in->cfg->install_cni == INSTALL_OWNED)
		set_name(&in->written, p->target);
	log_info("install", "configuration written file=%s/%s primary=%s", dir, p->target,
		 p->primary->name);
	return 0;
}

/* What @p takes the place of goes after @p is there: some file with us in it is always first. */
static int remove_replaced(struct install *in, const struct confdir *d, const struct plan *p,
			   struct err *err)
{
	const char *dir = in->cfg->cni_conf_dir;
	int r = p->wrap ? confdir_remove(dir, p->primary->name, err) : 0;

	for (size_t i = 0; r == 0 && i < d->n; i++)
		if (plan_is_stale(p, &d->files[i]))
			r = confdir_remove(dir, d->files[i].name, err);
	return r;
}

static int step_conf(struct install *in, bool *ret_preempted, struct err *err)
{
	const struct config *cfg = in->cfg;
	struct plan_opts o = {
		.owned = cfg->install_cni == INSTALL_OWNED,
		.conf_name = cfg->cni_conf_name,
		.owned_name = cfg->cni_owned_conf_name,
		.written = in->written,
		.replace_stock = cfg->replace_istio_cni,
		.entry = {.run_dir = str_of(cfg->run_dir),
			  .pod_namespace = str_of(cfg->pod_namespace),
			  .excluded = cfg->excluded,
			  .nexcluded = cfg->nexcluded,
			  .as_stock = cfg->as_install_cni,
			  .selectors = {in->selectors.p, in->selectors.n},
			  .debug = cfg->plugin_debug,
			  .in_pod_network = !view_shares_network()},
	};
	struct confdir d;
	struct plan p;
	int r = confdir_read(cfg->cni_conf_dir, &d, err);

	if (r < 0)
		return r;
	r = plan_make(&d, &o, &p, err);
	if (p.target != NULL)
		set_name(&in->file, p.target);
	if (p.primary != NULL)
		set_name(&in->primary, p.primary->name);
	if (r == 0 && p.write)
		r = write_conf(in, &p, err);
	if (r == 0)
		r = remove_replaced(in, &d, &p, err);
	if (r == 0 && p.warning[0] != '\0')
		(void)err_set(err, EEXIST, "%s", p.warning);
	*ret_preempted = r == 0 && p.preempted;
	plan_fini(&p);
	confdir_fini(&d);
	return r;
}

/* --- looking --- */

static void on_settled(struct timer *t)
{
	look(container_of(t, struct install, settle));
}

static void on_inotify(struct watch *w, uint32_t events)
{
	struct install *in = container_of(w, struct install, watch);
	char buf[4096];

	(void)events;
	for (int i = 0; i < 16; i++)
		if (read(w->fd, buf, sizeof(buf)) <= 0)
			break;
	if (!timer_armed(&in->settle))
		loop_timer_set(in->loop, &in->settle, SETTLE_MS, on_settled);
}

/* Adding a watch again changes nothing, unless the path leads to another directory now. */
static void watch_directory(struct install *in, int *wd, const char *dir)
{
	int now = inotify_add_watch(in->ifd, dir, EVENTS);

	if (*wd >= 0 && now != *wd)
		(void)inotify_rm_watch(in->ifd, *wd); /* fails if the directory is gone */
	*wd = now;
}

/* A program that cannot be renewed still serves, and the configuration must not wait for that. */
static int step_all(struct install *in, bool *ret_preempted, struct err *err)
{
	_cleanup_free_ char *path =
		xasprintf("%s/%s", in->cfg->cni_bin_dir, install_program(in->cfg));
	struct err program_err = {0};
	int program, r;

	r = step_lock(in, err);
	if (r < 0)
		return r;
	program = step_program(in, &program_err);
	if (program == 0 || check_program(path, NULL) == 0)
		r = step_conf(in, ret_preempted, err);
	if (program < 0 && program != -EAGAIN)
		in->counts.no_program++;
	if (r < 0 && r != -EAGAIN && r != -ENOENT)
		in->counts.no_conf++;
	if (r == 0 && program < 0) {
		*err = program_err;
		r = program;
	}
	return r;
}

/* Only what was there before: a start that finds it so would end in a start again. */
static int look_for_loss(struct install *in, struct err *err)
{
	const char *const dirs[] = {in->cfg->cni_conf_dir, in->cfg->cni_bin_dir};

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		if (!confdir_is_lost(dirs[i]))
			continue;
		in->lost = in->seen;
		return err_set(err, ESTALE,
			       "%s was removed under the mount through which it is seen here",
			       dirs[i]);
	}
	return 0;
}

static void look(struct install *in)
{
	bool preempted = false;
	struct err err = {0};
	int r;

	loop_timer_cancel(&in->settle);
	watch_directory(in, &in->conf_wd, in->cfg->cni_conf_dir);
	watch_directory(in, &in->bin_wd, in->cfg->cni_bin_dir);
	loop_timer_set(in->loop, &in->look_again,
		       in->conf_wd < 0 || in->bin_wd < 0 ? NO_DIR_MS : LOOK_AGAIN_MS,
		       on_look_again);
	r = look_for_loss(in, &err);
	if (r == 0)
		r = step_all(in, &preempted, &err);
	in->seen |= r == 0;
	if (r == 0)
		set_state(in, preempted ? STATE_PREEMPTED : STATE_INSTALLED, &err);
	else if (r == -ENOENT)
		set_state(in, STATE_WAITING, &err);
	else if (r == -EAGAIN)
		set_state(in, STATE_REPAIRING, &err);
	else
		set_state(in, STATE_FAILED, &err);
}

static void print_selectors(struct install *in)
{
	struct selectors def = {0};

	if (in->cfg->has_selectors) {
		selectors_print(&in->cfg->selectors, &in->selectors);
		return;
	}
	bug_on(selectors_parse(STR(SELECTORS_DEFAULT), &def, NULL) < 0);
	selectors_print(&def, &in->selectors);
	selectors_fini(&def);
}

static int start(struct install *in, struct err *err)
{
	int r = step_lock(in, err);

	if (r < 0 && r != -ENOENT)
		return r;
	in->ifd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (in->ifd < 0)
		return err_errno(err, errno, "inotify");
	r = loop_watch(in->loop, &in->watch, in->ifd, EPOLLIN, on_inotify);
	if (r < 0)
		return err_errno(err, -r, "watch inotify");
	confdir_clean(in->cfg->cni_conf_dir);
	confdir_clean(in->cfg->cni_bin_dir);
	look(in);
	return 0;
}

struct install *install_new(struct loop *l, const struct config *cfg, struct err *err)
{
	struct install *in = xcalloc(1, sizeof(*in));

	in->loop = l;
	in->cfg = cfg;
	in->ifd = in->conf_wd = in->bin_wd = in->conf_lock = -1;
	in->state = STATE_N;
	in->run_lock = confdir_lock(cfg->run_dir, cfg->install_cni != INSTALL_OFF ? err : NULL);
	if (cfg->install_cni == INSTALL_OFF)
		return in;
	print_selectors(in);
	if (in->run_lock < 0 || start(in, err) < 0)
		return install_free(in);
	return in;
}

struct install *install_free(struct install *in)
{
	if (in == NULL)
		return NULL;
	loop_timer_cancel(&in->settle);
	loop_timer_cancel(&in->look_again);
	loop_unwatch(in->loop, &in->watch);
	(void)xclose(in->ifd);
	(void)xclose(in->conf_lock);
	(void)xclose(in->run_lock);
	free(in->written);
	strbuf_fini(&in->selectors);
	free(in->file);
	free(in->primary);
	free(in);
	return NULL;
}

bool install_ready(const struct install *in, char *ret_reason)
{
	if (in->cfg->install_cni == INSTALL_OFF || in->state == STATE_INSTALLED)
		return true;
	if (ret_reason != NULL)
		(void)snprintf(ret_reason, ERR_MSG_MAX, "the plugin is not in place (%s): %.400s",
			       state_name[in->state], in->reason.msg);
	return false;
}

bool install_lost(const struct install *in)
{
	return in->lost;
}

struct install_counts install_counts(const struct install *in)
{
	return in->counts;
}

static void print_path(struct jsonw *w, const char *key, const char *dir, const char *name)
{
	_cleanup_free_ char *path = name != NULL ? xasprintf("%s/%s", dir, name) : NULL;

	jsonw_cstr(w, key, path);
}

void install_print(const struct install *in, struct jsonw *w)
{
	const struct config *cfg = in->cfg;

	jsonw_obj(w, "install");
	jsonw_cstr(w, "mode", config_install_name[cfg->install_cni]);
	if (cfg->install_cni != INSTALL_OFF) {
		jsonw_cstr(w, "state", state_name[in->state]);
		print_path(w, "file", cfg->cni_conf_dir, in->file);
		print_path(w, "primary", cfg->cni_conf_dir, in->primary);
		print_path(w, "plugin", cfg->cni_bin_dir, install_program(cfg));
		jsonw_int(w, "writes", (long long)in->writes);
		jsonw_cstr(w, "reason", in->reason.msg);
	}
	jsonw_end_obj(w);
}
