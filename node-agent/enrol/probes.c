/* SPDX-License-Identifier: Apache-2.0
 * probes.c: see probes.h.
 */
#include "node-agent/enrol/probes.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/enrol/netns_check.h"
#include "node-agent/view.h"

#define SEARCH_MS     30000 /* is it still that user? */
#define FIRST_MS      2000  /* the kubelet starts after us */
#define PROC_FILE_MAX 65536

struct probes {
	struct loop *loop;
	int netns_fd; /* the node's */
	struct nft_pod_opts opts;
	bool enabled, active, warned, replace, cleaned;
	uint32_t uid;
	void (*found)(void *ctx);
	void *ctx;
	struct timer search;
	bool branches; /* addresses may be on branch interfaces of AWS */
	struct list on_branch;
};

/* An address that has policy rules on the node. Found again after a restart, as every pod is. */
struct on_branch {
	struct list node;
	struct ip_addr ip;
	struct nft_branch b;
};

static bool contains_kubelet(struct str cmdline)
{
	for (size_t i = 0; i + 7 <= cmdline.n; i++)
		if (strncasecmp(cmdline.p + i, "kubelet", 7) == 0)
			return true;
	return false;
}

bool probes_is_kubelet(struct str comm, struct str cmdline)
{
	if (str_eqc(comm, "k3s"))
		return true;
	return (str_eqc(comm, "kubelet") || str_eqc(comm, "kubelite")) && contains_kubelet(cmdline);
}

int probes_parse_uid(struct str status, uint32_t *ret)
{
	struct str line;

	while (str_cut(&status, '\n', &line)) {
		size_t n = 0;

		if (!str_has_prefix(line, STR("Uid:")))
			continue;
		line.p += 4;
		line.n -= 4;
		line = str_trim(line);
		while (n < line.n && line.p[n] >= '0' && line.p[n] <= '9')
			n++;
		line.n = n;
		return parse_u32(line, 0, UINT32_MAX, ret);
	}
	return -EINVAL;
}

static bool read_proc(const char *pid, const char *what, char **ret, struct str *ret_text)
{
	_cleanup_free_ char *path = xasprintf("%s/proc/%s/%s", view_root(), pid, what);
	size_t n;

	if (file_read(path, PROC_FILE_MAX, ret, &n, NULL) < 0)
		return false;
	*ret_text = (struct str){*ret, n};
	return true;
}

static bool ns_of(const char *pid, const char *kind, struct netns_id *ret)
{
	_cleanup_free_ char *path = xasprintf("%s/proc/%s/ns/%s", view_root(), pid, kind);
	struct stat st;

	if (stat(path, &st) < 0)
		return false;
	*ret = (struct netns_id){.dev = st.st_dev, .ino = st.st_ino};
	return true;
}

/* Names are free: whatever runs in a pod could call itself kubelet, and give its user the way
 * around the mesh that the probes have. */
static bool on_the_node(const char *pid)
{
	/* in a pod ours is another than the node's, which is that of its first process */
	const char *node = view_root()[0] != '\0' ? "1" : "self";
	struct netns_id net, theirs, ours;

	return ns_of(pid, "net", &net) && netns_check_is_host(net) && ns_of(pid, "pid", &theirs) &&
	       ns_of(node, "pid", &ours) && netns_id_eq(theirs, ours);
}

static bool find_in(const char *pid, uint32_t *ret_uid)
{
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;
	struct str comm, cmdline, status;

	if (!read_proc(pid, "comm", &a, &comm))
		return false;
	if (comm.n != 0 && comm.p[comm.n - 1] == '\n')
		comm.n--;
	/* most processes are told by their name alone */
	if (!str_eqc(comm, "kubelet") && !str_eqc(comm, "kubelite") && !str_eqc(comm, "k3s"))
		return false;
	return on_the_node(pid) && read_proc(pid, "cmdline", &b, &cmdline) &&
	       probes_is_kubelet(comm, cmdline) && read_proc(pid, "status", &c, &status) &&
	       probes_parse_uid(status, ret_uid) == 0;
}

static bool find_kubelet(uint32_t *ret_uid)
{
	_cleanup_free_ char *proc = view_path("/proc");
	DIR *d = opendir(proc);
	bool found = false;

	if (d == NULL)
		return false;
	for (struct dirent *e; !found && (e = readdir(d)) != NULL;)
		found = e->d_name[0] >= '1' && e->d_name[0] <= '9' && find_in(e->d_name, ret_uid);
	(void)closedir(d);
	return found;
}

static void on_search(struct timer *t);

/* What Istio's agent has left in its iptables mode would let more than the kubelet by, to
 * addresses that other pods may have by now (cni-spec 6.3). */
static void clean(struct probes *p)
{
	struct err err = {0};
	size_t found = 0;

	if (p->cleaned || !p->replace)
		return;
	if (nft_foreign_remove(p->netns_fd, true, &found, &err) < 0) {
		log_warn("probes", "rules of Istio's agent stay on the node: %s", err.msg);
		return;
	}
	p->cleaned = true;
	if (found != 0)
		log_info("probes", "iptables rules of Istio's agent removed from the node");
}

/* Also notices a kubelet that came back under another user (stock looks once: cni-spec 10.20). */
static void search(struct probes *p)
{
	struct err err = {0};
	uint32_t uid = 0;
	bool was = p->active;

	loop_timer_set(p->loop, &p->search, p->active ? SEARCH_MS : FIRST_MS, on_search);
	if (!find_kubelet(&uid)) {
		if (!p->warned && !p->active)
			log_warn("probes", "no kubelet is running: health probes are not exempted "
					   "from the mesh until one is found");
		p->warned = true;
		return;
	}
	if (p->active && uid == p->uid) {
		clean(p);
		return;
	}
	if (nft_host_apply(p->netns_fd, uid, &p->opts, &err) < 0) {
		log_warn("probes", "rules for the kubelet's probes: %s; trying again", err.msg);
		return;
	}
	log_info("probes", "kubelet's probes are exempted uid=%u", uid);
	p->uid = uid;
	p->active = true;
	clean(p);
	if (!was)
		p->found(p->ctx);
}

static void on_search(struct timer *t)
{
	search(container_of(t, struct probes, search));
}

struct probes *probes_new(struct loop *l, const struct config *cfg, void (*found)(void *),
			  void *ctx, struct err *err)
{
	struct probes *p = xcalloc(1, sizeof(*p));

	p->loop = l;
	p->opts.probe_v4 = cfg->probe_v4;
	p->opts.probe_v6 = cfg->probe_v6;
	p->enabled = cfg->host_probes;
	p->replace = cfg->replace_istio_cni;
	p->found = found;
	p->ctx = ctx;
	p->netns_fd = view_netns(err);
	list_init(&p->on_branch);
	if (p->netns_fd < 0)
		return probes_free(p);
	p->branches = p->enabled && cfg->branch_probes && nft_branch_needed(p->netns_fd);
	if (p->enabled)
		loop_timer_set(l, &p->search, 0, on_search);
	return p;
}

static void forget_branch(struct on_branch *o)
{
	list_remove(&o->node);
	free(o);
}

static struct on_branch *find_branch(struct probes *p, const struct ip_addr *ip)
{
	list_for_each (n, &p->on_branch) {
		struct on_branch *o = container_of(n, struct on_branch, node);

		if (ip_eq(&o->ip, ip))
			return o;
	}
	return NULL;
}

/* What an agent before this one put in is not in our list before the kubelet is found: it is looked
 * for, and what is not there is no error. */
static void clear_branch(struct probes *p, const struct ip_addr *ip)
{
	struct on_branch *o = find_branch(p, ip);
	struct nft_branch b = {0};
	struct err err = {0};
	int r = 0;

	if (o != NULL) {
		b = o->b;
		forget_branch(o);
	} else if (p->branches) {
		r = nft_branch_find(p->netns_fd, ip, &b, &err);
	}
	if (r == 0 && b.table != 0)
		r = nft_branch_del(p->netns_fd, ip, &b, &err);
	if (r < 0)
		log_warn("probes", "%s", err.msg);
}

static int set_branch(struct probes *p, const struct ip_addr *ip, struct err *err)
{
	struct on_branch *o = find_branch(p, ip);
	struct nft_branch b;
	int r = p->branches ? nft_branch_add(p->netns_fd, ip, &b, err) : 0;

	if (r < 0 || !p->branches)
		return r;
	if (o != NULL && (b.table != o->b.table || b.priority != o->b.priority ||
			  strcmp(b.iif, o->b.iif) != 0)) {
		struct nft_branch former = o->b;

		forget_branch(o); /* the address is another pod's now */
		o = NULL;
		if (nft_branch_del(p->netns_fd, ip, &former, err) < 0)
			log_warn("probes", "%s", err->msg);
		r = nft_branch_add(p->netns_fd, ip, &b, err);
		if (r < 0)
			return r;
	}
	if (o != NULL || b.table == 0)
		return 0;
	o = xcalloc(1, sizeof(*o));
	o->ip = *ip;
	o->b = b;
	list_append(&p->on_branch, &o->node);
	log_info("probes",
		 "address on a branch interface: rules of the node added interface=%s table=%u",
		 b.iif, b.table);
	return 0;
}

struct probes *probes_free(struct probes *p)
{
	if (p == NULL)
		return NULL;
	loop_timer_cancel(&p->search);
	list_for_each_safe (n, &p->on_branch)
		forget_branch(container_of(n, struct on_branch, node));
	(void)xclose(p->netns_fd);
	free(p);
	return NULL;
}

bool probes_active(const struct probes *p)
{
	return p->active;
}

int probes_set(struct probes *p, const struct ip_addr *ips, size_t n, const char *uid,
	       struct err *err)
{
	for (size_t i = 0; p->active && i < n; i++) {
		int r = nft_host_probe_add(p->netns_fd, &ips[i], str_of(uid), err);

		if (r == 0)
			r = set_branch(p, &ips[i], err);
		if (r < 0)
			return err_wrap(err, "exempt the pod from probe capture on the host");
	}
	return 0;
}

void probes_clear(struct probes *p, const struct ip_addr *ips, size_t n, const char *uid)
{
	for (size_t i = 0; i < n; i++) {
		struct err err = {0};
		bool removed;

		clear_branch(p, &ips[i]);
		if (p->active &&
		    nft_host_probe_del(p->netns_fd, &ips[i], str_of(uid), &removed, &err) < 0)
			log_warn("probes", "probe exemption of uid=%s stays: %s", uid, err.msg);
	}
}

void probes_prune(struct probes *p, bool (*keep)(void *, const struct ip_addr *, struct str),
		  void *ctx)
{
	struct err err = {0};

	if (p->active && nft_host_probe_prune(p->netns_fd, keep, ctx, &err) < 0)
		log_warn("probes", "stale probe exemptions stay: %s", err.msg);
}

void probes_print(const struct probes *p, struct jsonw *w)
{
	static const char *const names[NFT_STATE_N] = {
		[NFT_ABSENT] = "absent", [NFT_PRESENT] = "present", [NFT_DIFFERENT] = "different"};
	_cleanup_strbuf_ struct strbuf diff = {0};
	enum nft_state st = NFT_ABSENT;
	struct err err = {0};

	jsonw_obj(w, "probes");
	jsonw_bool(w, "enabled", p->enabled);
	jsonw_bool(w, "active", p->active);
	if (p->active) {
		int r = nft_host_check(p->netns_fd, p->uid, &p->opts, &st, &diff, &err);

		jsonw_int(w, "kubeletUID", p->uid);
		jsonw_cstr(w, "rules", r < 0 ? "unknown" : names[st]);
		jsonw_str(w, "ruleDiff",
			  r < 0 ? str_of(err.msg)
				: (struct str){diff.p != NULL ? diff.p : "", diff.n});
	}
	jsonw_end_obj(w);
}
