/* SPDX-License-Identifier: Apache-2.0
 * uninstall.c: see uninstall.h.
 */
#include "node-agent/host/uninstall.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/enrol/attachment.h"
#include "node-agent/enrol/journal.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/host/confdir.h"
#include "node-agent/host/install.h"
#include "node-agent/source/pods.h"
#include "node-agent/view.h"

/* --- configuration and program --- */

/* The single configuration that was wrapped. If its file is there again, that one is newer. */
static int unwrap(const char *dir, const struct confdir *d, const struct confdir_file *f,
		  struct str text, struct err *err)
{
	_cleanup_free_ char *single = cniconf_single_name(f->name);
	int r = 0;

	if (confdir_find(d, single) == NULL)
		r = confdir_replace(dir, single, text.p, text.n, f->mode, err);
	return r < 0 ? r : confdir_remove(dir, f->name, err);
}

static int leave_file(const char *dir, const struct confdir *d, const struct confdir_file *f,
		      struct err *err)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	int r = 0;

	switch (cniconf_remove(&f->c, &text)) {
	case CNICONF_REST_SAME:
		return 0;
	case CNICONF_REST_NOTHING:
		r = confdir_remove(dir, f->name, err);
		break;
	case CNICONF_REST_LIST:
		r = confdir_replace(dir, f->name, text.p, text.n, f->mode, err);
		break;
	case CNICONF_REST_SINGLE:
		r = unwrap(dir, d, f, (struct str){text.p, text.n}, err);
		break;
	}
	if (r == 0)
		log_info("uninstall", "the plugin is no longer called from %s/%s", dir, f->name);
	return r;
}

static int leave_directory(const char *dir, struct err *err)
{
	struct confdir d;
	int r = confdir_read(dir, &d, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < d.n; i++) {
		const struct confdir_file *f = &d.files[i];

		if (f->err.code == 0)
			r = leave_file(dir, &d, f, err);
		else
			log_warn("uninstall", "left alone: %s/%s: %s", dir, f->name, f->err.msg);
	}
	confdir_fini(&d);
	confdir_clean(dir);
	return r;
}

static int remove_configuration(const struct config *cfg, struct err *err)
{
	_cleanup_close_ int lock = confdir_lock(cfg->cni_conf_dir, err);

	if (lock == -EBUSY)
		return err_wrap(err, "stop the agent first");
	if (lock == -ENOENT)
		return 0;
	return lock < 0 ? lock : leave_directory(cfg->cni_conf_dir, err);
}

/* --- pods --- */

struct release {
	const char *journal;
	struct pods *pods; /* that were in the mesh */
	size_t failed;
};

/* The path that the runtime gave may be gone while processes still live in the namespace. */
static int find_by_id(struct netns_id want)
{
	_cleanup_free_ char *proc = view_path("/proc");
	DIR *d = opendir(proc);
	int fd = -1;

	if (d == NULL)
		return -1;
	for (struct dirent *e; fd < 0 && (e = readdir(d)) != NULL;) {
		_cleanup_free_ char *path = NULL, *seen = NULL;
		struct netns_id id;
		struct stat st;

		if (e->d_name[0] < '1' || e->d_name[0] > '9')
			continue;
		path = xasprintf("/proc/%s/ns/net", e->d_name);
		seen = view_path(path);
		if (stat(seen, &st) < 0 || st.st_ino != want.ino || st.st_dev != want.dev)
			continue;
		fd = netns_check_open(path, &id, NULL);
		if (fd >= 0 && !netns_id_eq(id, want)) /* the process ended in between */
			fd = xclose(fd);
	}
	(void)closedir(d);
	return fd;
}

/* As the API may still describe it. */
static void note_released(struct release *rel, const struct attachment *at)
{
	struct pod *p = xcalloc(1, sizeof(*p));

	p->ns = xstrdup(at->ns);
	p->name = xstrdup(at->name);
	p->uid = xstrdup(at->uid);
	p->redirection = xstrdup("enabled");
	pods_put(rel->pods, p, rel, 1);
}

/* Policy rules of the node, where the pod's addresses need some. */
static void leave_branches(const struct attachment *at)
{
	_cleanup_close_ int fd = view_netns(NULL);
	struct nft_branch b;
	struct err err = {0};

	for (size_t i = 0; fd >= 0 && nft_branch_needed(fd) && i < at->nips; i++)
		if (nft_branch_find(fd, &at->ips[i], &b, &err) < 0 ||
		    (b.table != 0 && nft_branch_del(fd, &at->ips[i], &b, &err) < 0))
			log_warn("uninstall", "%s", err.msg);
}

static void release_one(void *ctx, const struct attachment *at)
{
	struct release *rel = ctx;
	struct err err = {0};
	bool was_in = false;
	struct netns_id id;
	_cleanup_close_ int fd = netns_check_open(at->netns_path, &id, NULL);

	if (fd >= 0 && !netns_id_eq(id, at->id))
		fd = xclose(fd); /* another sandbox has that name now */
	if (fd < 0)
		fd = find_by_id(at->id);
	if (fd >= 0 && (nft_pod_present(fd, &was_in, &err) < 0 || nft_pod_remove(fd, &err) < 0)) {
		log_error("uninstall", "rules stay in pod=%s/%s uid=%s: %s", at->ns, at->name,
			  at->uid, err.msg);
		rel->failed++;
		return;
	}
	log_info("uninstall", "%s pod=%s/%s uid=%s",
		 fd < 0	  ? "gone already"
		 : was_in ? "released"
			  : "was not in the mesh",
		 at->ns, at->name, at->uid);
	if (was_in)
		note_released(rel, at);
	leave_branches(at);
	journal_remove(rel->journal, at->container_id);
}

static int remove_host_rules(struct err *err)
{
	_cleanup_close_ int fd = view_netns(err);

	return fd < 0 ? fd : nft_host_remove(fd, err);
}

static int release_pods(const struct config *cfg, struct pods *released, struct err *err)
{
	_cleanup_free_ char *journal = xasprintf("%s/attachments", cfg->run_dir);
	struct release rel = {.journal = journal, .pods = released};
	int r = netns_check_init(err);

	if (r < 0)
		return r;
	r = journal_load(journal, release_one, &rel, err);
	if (r == -ENOENT) /* no agent has ever run */
		r = 0;
	if (r == 0 && rel.failed != 0)
		return err_set(err, EIO, "%zu pods could not be released", rel.failed);
	/* only now: pods in the mesh need them for the kubelet's probes */
	return r < 0 ? r : remove_host_rules(err);
}

int uninstall_run(const struct config *cfg, struct pods *released, struct err *err)
{
	_cleanup_close_ int lock = confdir_lock(cfg->run_dir, NULL);
	int r;

	if (lock == -EBUSY && cfg->release_pods)
		return err_set(err, EBUSY,
			       "an agent is running with %s and would take the pods back: stop it "
			       "first",
			       cfg->run_dir);
	r = remove_configuration(cfg, err);
	if (r < 0)
		return r;
	confdir_clean(cfg->cni_bin_dir);
	r = confdir_remove(cfg->cni_bin_dir, install_program(cfg), err);
	install_drop_token(cfg);
	if (r == 0 && cfg->release_pods)
		r = release_pods(cfg, released, err);
	return r;
}
