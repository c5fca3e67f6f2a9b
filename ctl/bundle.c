/* SPDX-License-Identifier: Apache-2.0
 * bundle.c: `ambientctl support-bundle`: what somebody needs who helps from afar, in one archive.
 *
 * Each thing is collected on its own; what cannot be had is noted in the manifest and the rest is
 * collected all the same. Everything passes ctl_redact(). Bounded: each file FILE_MAX_BYTES (the
 * rest is cut off and noted), all TOTAL_MAX_BYTES, pods PODS_MAX. The archive is made in memory and
 * written at once.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "ctl/ask.h"
#include "ctl/check.h"
#include "ctl/command.h"
#include "ctl/logs.h"
#include "ctl/model.h"
#include "ctl/print.h"
#include "ctl/redact.h"
#include "ctl/rules_print.h"
#include "ctl/tar.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"

#define FILE_MAX_BYTES	 (8u << 20)
#define TOTAL_MAX_BYTES	 (64u << 20)
#define PODS_MAX	 1000
#define CNI_FILES_MAX	 100
#define CGROUP_MAX_BYTES 65536
#define METRICS		 "127.0.0.1:15020"

struct bundle {
	struct strbuf tar, list; /* the archive; the manifest's entries */
	struct jsonw entries;
	char dir[64]; /* the folder in the archive */
	int64_t now;
	size_t n, failed;
};

/* One entry of the manifest. @source: where it came from, when the name does not say it; or NULL.
 */
static void note_from(struct bundle *b, const char *name, const char *source, size_t bytes,
		      size_t secrets, bool cut, const char *error)
{
	b->n++;
	b->failed += error != NULL;
	jsonw_obj(&b->entries, NULL);
	jsonw_cstr(&b->entries, "name", name);
	jsonw_bool(&b->entries, "ok", error == NULL);
	if (source != NULL)
		jsonw_cstr(&b->entries, "source", source);
	if (error != NULL)
		jsonw_cstr(&b->entries, "error", error);
	else
		jsonw_int(&b->entries, "bytes", (long long)bytes);
	if (secrets != 0)
		jsonw_int(&b->entries, "redacted", (long long)secrets);
	if (cut)
		jsonw_bool(&b->entries, "cut", true);
	jsonw_end_obj(&b->entries);
}

static void note(struct bundle *b, const char *name, size_t bytes, size_t secrets, bool cut,
		 const char *error)
{
	note_from(b, name, NULL, bytes, secrets, cut, error);
}

static void put_from(struct bundle *b, const char *name, const char *source, struct str text,
		     bool cut)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", b->dir, name);
	_cleanup_strbuf_ struct strbuf clean = {0};
	size_t secrets;

	if (b->tar.n + text.n > TOTAL_MAX_BYTES) {
		note_from(b, name, source, 0, 0, false, "the bundle is full");
		return;
	}
	/* secrets first, so that none is cut in half and then not known */
	secrets = ctl_redact(text, &clean);
	if (clean.n > FILE_MAX_BYTES)
		clean.n = FILE_MAX_BYTES;
	ctl_tar_file(&b->tar, path, (struct str){clean.p != NULL ? clean.p : "", clean.n}, b->now);
	note_from(b, name, source, clean.n, secrets, cut || text.n > FILE_MAX_BYTES, NULL);
}

static void put(struct bundle *b, const char *name, struct str text)
{
	put_from(b, name, NULL, text, false);
}

static void put_buf(struct bundle *b, const char *name, const struct strbuf *s)
{
	put(b, name, (struct str){s->p != NULL ? s->p : "", s->n});
}

static void put_file(struct bundle *b, const char *name, const char *path)
{
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	size_t n;

	if (file_read(path, 2 * FILE_MAX_BYTES, &text, &n, &err) < 0)
		note(b, name, 0, 0, false, err.msg);
	else
		put(b, name, (struct str){text, n});
}

static void put_answer(struct bundle *b, const char *name, const char *socket, const char *path)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	struct err err = {0};
	struct str body;

	if (ctl_ask_text(socket, path, &text, &body, &err) < 0)
		note(b, name, 0, 0, false, err.msg);
	else
		put(b, name, body);
}

static void put_rules(struct bundle *b, const char *socket, const struct ctl_report *r)
{
	for (size_t i = 0; i < r->agent.npods && i < PODS_MAX; i++) {
		const struct ctl_pod *p = &r->agent.pods[i];
		_cleanup_strbuf_ struct strbuf name = {0}, path = {0};
		_cleanup_free_ char *key = xstrndup(p->container.p, p->container.n);

		strbuf_printf(&name, "rules/%03zu_", i);
		ctl_tar_name(&name, p->ns, 16);
		strbuf_putc(&name, '_');
		ctl_tar_name(&name, p->name, 16);
		strbuf_puts(&name, ".json");
		ctl_rules_path(key, &path);
		put_answer(b, name.p, socket, path.p);
	}
	if (r->agent.npods > PODS_MAX)
		note(b, "rules", 0, 0, false, "there are more pods than fit");
}

static void put_cni(struct bundle *b, const char *dir)
{
	DIR *d = opendir(dir);
	size_t n = 0;

	if (d == NULL) {
		note(b, "cni", 0, 0, false, strerror(errno));
		return;
	}
	for (const struct dirent *e; n < CNI_FILES_MAX && (e = readdir(d)) != NULL;) {
		_cleanup_free_ char *path = xasprintf("%s/%s", dir, e->d_name);
		_cleanup_strbuf_ struct strbuf name = {0};
		struct stat st;

		/* kubeconfigs of other plugins lie beside and below; they are all secret */
		if (e->d_name[0] == '.' || stat(path, &st) < 0 || !S_ISREG(st.st_mode) ||
		    strstr(e->d_name, "kubeconfig") != NULL)
			continue;
		strbuf_printf(&name, "cni/%02zu_", n++);
		ctl_tar_name(&name, str_of(e->d_name), 32);
		put_file(b, name.p, path);
	}
	(void)closedir(d);
}

static void put_kernel(struct bundle *b)
{
	static const struct {
		const char *name, *path;
	} files[] = {
		{"kernel/version", "/proc/version"},
		{"kernel/os-release", "/etc/os-release"},
		{"kernel/modules", "/proc/modules"},
		{"kernel/meminfo", "/proc/meminfo"},
		{"kernel/loadavg", "/proc/loadavg"},
		{"kernel/route", "/proc/net/route"},
		{"kernel/dev", "/proc/net/dev"},
		{"kernel/sockstat", "/proc/net/sockstat"},
		{"kernel/ip_forward", "/proc/sys/net/ipv4/ip_forward"},
		{"kernel/rp_filter", "/proc/sys/net/ipv4/conf/all/rp_filter"},
		{"kernel/disable_ipv6", "/proc/sys/net/ipv6/conf/all/disable_ipv6"},
		{"kernel/somaxconn", "/proc/sys/net/core/somaxconn"},
		{"kernel/file-max", "/proc/sys/fs/file-max"},
	};

	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		put_file(b, files[i].name, files[i].path);
}

static void put_process(struct bundle *b, const char *who, uint32_t pid)
{
	static const char *const what[] = {"status", "limits"};

	for (size_t i = 0; pid != 0 && i < ARRAY_LEN(what); i++) {
		_cleanup_free_ char *name = xasprintf("%s/process-%s", who, what[i]);
		_cleanup_free_ char *path = xasprintf("/proc/%u/%s", pid, what[i]);

		put_file(b, name, path);
	}
}

static void on_log(void *ctx, const char *name, const char *source, struct str text, bool cut)
{
	put_from(ctx, name, source, text, cut);
}

static void on_no_log(void *ctx, const char *name, const char *source, const char *why)
{
	note_from(ctx, name, source, 0, 0, false, why);
}

static void add_cgroup(struct strbuf *to, uint32_t pid)
{
	_cleanup_free_ char *path = xasprintf("/proc/%u/cgroup", pid), *text = NULL;
	size_t n;

	if (pid != 0 && file_read(path, CGROUP_MAX_BYTES, &text, &n, NULL) == 0)
		strbuf_add(to, text, n);
}

static void put_logs(struct bundle *b, const struct ctl_report *r, uint32_t agent,
		     const char *pod_logs)
{
	const struct ctl_logs_sink to = {.log = on_log, .missing = on_no_log, .ctx = b};
	_cleanup_strbuf_ struct strbuf cgroups = {0};

	add_cgroup(&cgroups, agent);
	for (size_t i = 0; i < r->agent.nlinks; i++)
		add_cgroup(&cgroups, r->agent.links[i].pid);
	ctl_logs_collect((struct str){cgroups.p != NULL ? cgroups.p : "", cgroups.n}, pod_logs,
			 &to);
}

static void put_views(struct bundle *b, const struct ctl_check_where *w, const struct ctl_report *r)
{
	_cleanup_strbuf_ struct strbuf status = {0}, pods = {0}, json = {0}, check = {0};
	struct ctl_rows rows = {.a = arena_new()};

	ctl_print_status(r, false, &status);
	ctl_print_pods(r, NULL, false, &pods, &pods);
	ctl_json_status(r, &json);
	ctl_check_gather(w, r, &rows);
	ctl_check_print(&rows, false, &check);
	put_buf(b, "status.txt", &status);
	put_buf(b, "status.json", &json);
	put_buf(b, "pods.txt", &pods);
	put_buf(b, "check.txt", &check);
	(void)arena_free(rows.a);
}

static void collect(struct bundle *b, const struct ctl_call *c, const struct ctl_report *r)
{
	const char *metrics = ctl_call_value(c, "metrics");
	const char *pod_logs = ctl_call_value(c, "pod-logs-dir");
	const struct ctl_check_where w = {
		.agent_socket = c->common.agent_socket,
		.cni_dir = ctl_call_value(c, "cni-conf-dir"),
		.kubeconfig = ctl_call_value(c, "kubeconfig"),
	};
	uint32_t pid = 0;

	put_views(b, &w, r);
	put_answer(b, "agent/status.json", c->common.agent_socket, "/v1/status");
	put_answer(b, "agent/node.json", c->common.agent_socket, "/v1/node");
	put_answer(b, "ztunnel/config_dump.json", c->common.ztunnel_socket, "/config_dump");
	put_answer(b, "ztunnel/ready.txt", c->common.ztunnel_socket, "/healthz/ready");
	put_answer(b, "ztunnel/workers.json", c->common.ztunnel_socket, "/debug/workers");
	put_answer(b, "ztunnel/metrics.txt", metrics != NULL ? metrics : METRICS, "/metrics");
	if (doc_opt_u32(r->agent.doc, "pid", 1, UINT32_MAX, &pid, NULL) == 0)
		put_process(b, "agent", pid);
	if (r->agent.nlinks != 0)
		put_process(b, "ztunnel", r->agent.links[0].pid);
	put_cni(b, w.cni_dir != NULL ? w.cni_dir : CTL_CNI_DIR);
	put_kernel(b);
	put_rules(b, c->common.agent_socket, r);
	put_logs(b, r, pid, pod_logs != NULL ? pod_logs : CTL_POD_LOGS);
}

/* Last in the archive: it names everything else. */
static void put_manifest(struct bundle *b, const struct ctl_report *r)
{
	_cleanup_free_ char *path = xasprintf("%s/manifest.json", b->dir);
	_cleanup_strbuf_ struct strbuf out = {0};
	struct jsonw w;

	jsonw_end_list(&b->entries);
	jsonw_init(&w, &out, true);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "ambientctl", VERSION);
	jsonw_str(&w, "agent", r->agent.version);
	jsonw_str(&w, "ztunnel", r->ztunnel.version);
	jsonw_str(&w, "node", r->agent.node);
	jsonw_int(&w, "time", b->now);
	jsonw_int(&w, "problems", (long long)r->nproblems);
	jsonw_raw(&w, "files", (struct str){b->list.p, b->list.n});
	jsonw_end_obj(&w);
	strbuf_putc(&out, '\n');
	ctl_tar_file(&b->tar, path, (struct str){out.p, out.n}, b->now);
	ctl_tar_end(&b->tar);
}

static void name_it(struct bundle *b, const struct ctl_report *r)
{
	_cleanup_strbuf_ struct strbuf node = {0};
	struct utsname u = {0};
	struct tm t;
	time_t at = (time_t)r->now;
	char when[20];

	(void)uname(&u);
	ctl_tar_name(&node, r->agent.node.n != 0 ? r->agent.node : str_of(u.nodename), 20);
	(void)gmtime_r(&at, &t);
	(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &t);
	(void)snprintf(b->dir, sizeof(b->dir), "ambient-%.20s-%s", node.p != NULL ? node.p : "node",
		       when);
}

/* 0 or the exit status. */
static int deliver(struct bundle *b, const struct ctl_call *c)
{
	const char *to = ctl_call_value(c, "output");
	_cleanup_free_ char *own = xasprintf("%s.tar", b->dir);
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err err = {0};
	struct jsonw w;

	if (to != NULL && strcmp(to, "-") == 0) {
		if (isatty(STDOUT_FILENO) == 1) {
			fputs("ambientctl: an archive does not belong on a terminal\n", stderr);
			return CTL_EXIT_USAGE;
		}
		return ctl_emit(&b->tar) ? CTL_EXIT_OK : CTL_EXIT_WRONG;
	}
	to = to != NULL ? to : own;
	if (file_write_atomic(to, b->tar.p, b->tar.n, 0600, &err) < 0) {
		fprintf(stderr, "ambientctl: %s\n", err.msg);
		return CTL_EXIT_WRONG;
	}
	if (c->common.json) {
		jsonw_init(&w, &out, true);
		jsonw_obj(&w, NULL);
		jsonw_cstr(&w, "file", to);
		jsonw_int(&w, "bytes", (long long)b->tar.n);
		jsonw_int(&w, "collected", (long long)(b->n - b->failed));
		jsonw_int(&w, "missing", (long long)b->failed);
		jsonw_end_obj(&w);
		strbuf_putc(&out, '\n');
	} else {
		strbuf_printf(&out,
			      "%s: %zu bytes, %zu files, %zu could not be collected (manifest.json "
			      "says why)\nSecrets that were recognised are taken out; look into it "
			      "before you pass it on.\n",
			      to, b->tar.n, b->n - b->failed, b->failed);
	}
	return ctl_emit(&out) ? CTL_EXIT_OK : CTL_EXIT_WRONG;
}

static int run_bundle(const struct ctl_call *c)
{
	_cleanup_(ctl_texts_fini) struct ctl_texts t = {0};
	struct arena *a = arena_new();
	struct ctl_report r;
	struct bundle b = {0};
	int status;

	ctl_ask_report(&c->common, a, &t, &r);
	b.now = r.now;
	name_it(&b, &r);
	jsonw_init(&b.entries, &b.list, true);
	jsonw_list(&b.entries, NULL);
	collect(&b, c, &r);
	put_manifest(&b, &r);
	status = deliver(&b, c);
	strbuf_fini(&b.tar);
	strbuf_fini(&b.list);
	(void)arena_free(a);
	return status;
}

static const struct ctl_option options[] = {
	{'o', "output", "FILE", "the archive (ambient-NODE-TIME.tar); - is standard output"},
	{0, "cni-conf-dir", "DIR", "CNI configurations (" CTL_CNI_DIR ")"},
	{0, "metrics", "ADDRESS", "of ztunnel (" METRICS ")"},
	{0, "kubeconfig", "FILE", "read NetworkPolicies with this"},
	{0, "pod-logs-dir", "DIR", "where the kubelet keeps logs (" CTL_POD_LOGS ")"},
};
const struct ctl_command ctl_support_bundle_command = {
	.name = "support-bundle",
	.summary = "everything about the mesh on this node in one archive, without secrets",
	.details =
		"State, rules of each pod, configuration, metrics, recent logs, CNI files,\n"
		"facts of the kernel. What cannot be collected is noted in manifest.json inside.\n",
	.options = options,
	.noptions = ARRAY_LEN(options),
	.run = run_bundle,
};
