/* SPDX-License-Identifier: Apache-2.0
 * check.c: `ambientctl check`: gathers facts and prints the rows; see check.h.
 */
#include "ctl/check.h"

#include <dirent.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timex.h>
#include <unistd.h>

#include "ctl/ask.h"
#include "ctl/command.h"
#include "ctl/model.h"
#include "ctl/table.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"

#define PLUGIN	       "/opt/cni/bin/ambient-cni"
#define FILES_MAX      256
#define CONF_MAX_BYTES (1u << 20)
#define FILE_MAX_BYTES (64u << 20)
#define PROC_MAX_BYTES (1u << 20)

/* A number in a small file; false when there is none. */
static bool read_number(const char *path, uint32_t *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	return file_read(path, 64, &text, &n, NULL) == 0 &&
	       parse_u32(str_trim((struct str){text, strcspn(text, "\n")}), 0, UINT32_MAX, ret) ==
		       0;
}

static void gather_cni(struct ctl_rows *rows, const char *dir)
{
	struct ctl_cni_file files[FILES_MAX];
	DIR *d = opendir(dir);
	size_t n = 0;

	if (d == NULL) {
		ctl_row_add(rows, "CNI chain", CTL_NOT_CHECKED,
			    "name the directory with --cni-conf-dir", "%s: %s", dir,
			    strerror(errno));
		return;
	}
	for (const struct dirent *e; n < FILES_MAX && (e = readdir(d)) != NULL;) {
		_cleanup_free_ char *path = xasprintf("%s/%s", dir, e->d_name), *text = NULL;
		size_t len;

		if (e->d_name[0] == '.' || file_read(path, CONF_MAX_BYTES, &text, &len, NULL) < 0)
			continue;
		files[n].name = arena_strndup(rows->a, e->d_name, strlen(e->d_name));
		files[n++].text = (struct str){arena_strndup(rows->a, text, len), len};
	}
	(void)closedir(d);
	ctl_check_cni(rows, dir, files, n);
}

static const char *plugin_version(const char *path, struct arena *a, const char **ret_why)
{
	_cleanup_free_ char *bytes = NULL;
	struct err err = {0};
	const char *v;
	size_t n;

	if (file_read(path, FILE_MAX_BYTES, &bytes, &n, &err) < 0) {
		*ret_why = arena_strndup(a, err.msg, strlen(err.msg));
		return NULL;
	}
	v = ctl_plugin_version((struct str){bytes, n}, a);
	*ret_why = "its file names no version";
	return v;
}

static void gather_rp_filter(struct ctl_rows *rows)
{
	const char *dir = "/proc/sys/net/ipv4/conf";
	char example[64] = "";
	uint32_t all = 0, v;
	size_t n = 0, strict = 0;
	DIR *d = opendir(dir);

	if (d == NULL || !read_number("/proc/sys/net/ipv4/conf/all/rp_filter", &all)) {
		ctl_row_add(rows, "rp_filter", CTL_NOT_CHECKED, NULL, "%s cannot be read", dir);
		if (d != NULL)
			(void)closedir(d);
		return;
	}
	for (const struct dirent *e; (e = readdir(d)) != NULL;) {
		_cleanup_free_ char *path = xasprintf("%s/%s/rp_filter", dir, e->d_name);

		if (e->d_name[0] == '.' || strcmp(e->d_name, "all") == 0 ||
		    strcmp(e->d_name, "default") == 0 || strcmp(e->d_name, "lo") == 0 ||
		    !read_number(path, &v))
			continue;
		n++;
		if ((v > all ? v : all) != 1)
			continue;
		if (strict++ == 0)
			(void)snprintf(example, sizeof(example), "%.60s", e->d_name);
	}
	(void)closedir(d);
	ctl_check_rp_filter(rows, strict, n, example);
}

/* The kernel's name of the driver: pods' interfaces are one end of a veth pair. */
static bool is_veth(int fd, const char *name)
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq r = {.ifr_data = (char *)&info};

	(void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	return ioctl(fd, SIOCETHTOOL, &r) == 0 && strcmp(info.driver, "veth") == 0;
}

/* The interface of the IPv4 default route: the first with destination 0. */
static void find_uplink(char ret[IF_NAMESIZE])
{
	_cleanup_free_ char *text = NULL;
	struct str rest, line, name, to;
	size_t n;

	ret[0] = '\0';
	if (file_read("/proc/net/route", PROC_MAX_BYTES, &text, &n, NULL) < 0)
		return;
	rest = (struct str){text, n};
	while (ret[0] == '\0' && str_cut(&rest, '\n', &line))
		if (str_cut(&line, '\t', &name) && str_cut(&line, '\t', &to) &&
		    str_eqc(to, "00000000") && name.n < IF_NAMESIZE)
			(void)snprintf(ret, IF_NAMESIZE, "%.*s", STR_FMT(name));
}

static void gather_mtu(struct ctl_rows *rows)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint32_t uplink_mtu = 0, most = 0, v;
	char uplink[IF_NAMESIZE];
	struct if_nameindex *all;
	size_t pods = 0;

	find_uplink(uplink);
	all = fd >= 0 ? if_nameindex() : NULL;
	for (const struct if_nameindex *i = all; i != NULL && i->if_index != 0; i++) {
		_cleanup_free_ char *path = xasprintf("/sys/class/net/%s/mtu", i->if_name);

		if (!read_number(path, &v))
			continue;
		if (strcmp(i->if_name, uplink) == 0) {
			uplink_mtu = v;
		} else if (is_veth(fd, i->if_name)) {
			pods++;
			most = v > most ? v : most;
		}
	}
	if (all != NULL)
		if_freenameindex(all);
	ctl_check_mtu(rows, uplink, uplink_mtu, pods, most);
}

static uint64_t count_entries(const char *path)
{
	DIR *d = opendir(path);
	uint64_t n = 0;

	if (d == NULL)
		return 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

/* "Max open files            1024                 4096                 files" */
static uint64_t limit_of(uint32_t pid)
{
	_cleanup_free_ char *path = xasprintf("/proc/%u/limits", pid), *text = NULL;
	const char head[] = "Max open files";
	struct str s, soft;
	uint64_t v = 0;
	const char *at;
	size_t n;

	if (file_read(path, 65536, &text, &n, NULL) < 0 || (at = strstr(text, head)) == NULL)
		return 0;
	s = str_trim(str_of(at + sizeof(head) - 1));
	return str_cut(&s, ' ', &soft) && parse_u64(soft, 1, UINT64_MAX, &v) == 0 ? v : 0;
}

static void gather_descriptors(struct ctl_rows *rows, const struct ctl_report *r,
			       const struct doc *node)
{
	const struct doc *d = doc_get(node, "descriptors");
	uint32_t open = 0, limit = 0, pid = 0;

	if (d == NULL || doc_opt_u32(d, "open", 0, UINT32_MAX, &open, NULL) < 0 ||
	    doc_opt_u32(d, "limit", 0, UINT32_MAX, &limit, NULL) < 0)
		limit = 0;
	ctl_check_descriptors(rows, "descriptors of the agent", open, limit,
			      "the agent does not tell");
	for (size_t i = 0; i < r->agent.nlinks; i++)
		if (r->agent.links[i].newest)
			pid = r->agent.links[i].pid;
	if (pid == 0) {
		ctl_check_descriptors(rows, "descriptors of ztunnel", 0, 0,
				      "no ztunnel is connected to the agent");
	} else {
		_cleanup_free_ char *path = xasprintf("/proc/%u/fd", pid);

		ctl_check_descriptors(rows, "descriptors of ztunnel", count_entries(path),
				      limit_of(pid),
				      "its process is not visible here (another PID namespace)");
	}
}

static void gather_clock(struct ctl_rows *rows, const struct ctl_report *r)
{
	struct timex t = {0};
	int state = adjtimex(&t);
	const struct ctl_clock c = {
		.known = state >= 0,
		.synchronised = state != TIME_ERROR && (t.status & STA_UNSYNC) == 0,
		.max_error_us = (uint64_t)t.maxerror,
	};

	ctl_check_clock(rows, &c, r);
}

void ctl_check_gather(const struct ctl_check_where *w, const struct ctl_report *r,
		      struct ctl_rows *rows)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_free_ char *told = NULL;
	const struct doc *node = NULL;
	const char *why = NULL, *version;
	struct err err = {0};

	if (r->agent.install_plugin.n != 0)
		told = xstrndup(r->agent.install_plugin.p, r->agent.install_plugin.n);
	version = plugin_version(w->plugin != NULL ? w->plugin
				 : told != NULL	   ? told
						   : PLUGIN,
				 rows->a, &why);
	ctl_check_programs(rows, r, version, why);
	gather_cni(rows, w->cni_dir != NULL ? w->cni_dir : CTL_CNI_DIR);
	ctl_check_kernel(rows);
	if (ctl_ask_json(w->agent_socket, "/v1/node", rows->a, &text, &node, &err) < 0)
		node = NULL;
	ctl_check_probes(rows, node, err.code != 0 ? err.msg : NULL);
	gather_rp_filter(rows);
	gather_mtu(rows);
	gather_descriptors(rows, r, node);
	gather_clock(rows, r);
	ctl_check_certs(rows, r);
	ctl_check_openssl(rows, r);
	ctl_check_policies(rows, w->kubeconfig, r);
}

static const char *const result_name[CTL_RESULT_N] = {"ok", "warning", "failed", "not checked"};

void ctl_check_print(const struct ctl_rows *rows, bool colour, struct strbuf *out)
{
	static const enum ctl_colour colours[CTL_RESULT_N] = {CTL_GREEN, CTL_YELLOW, CTL_RED,
							      CTL_PLAIN};
	size_t count[CTL_RESULT_N] = {0}, width = 0;

	for (size_t i = 0; i < rows->n; i++)
		width = strlen(rows->row[i].what) > width ? strlen(rows->row[i].what) : width;
	for (size_t i = 0; i < rows->n; i++) {
		const struct ctl_row *r = &rows->row[i];

		count[r->result]++;
		ctl_put(out, str_of(result_name[r->result]), 0, colours[r->result], colour);
		strbuf_printf(out, "%*s%-*s  ", (int)(13 - strlen(result_name[r->result])), "",
			      (int)width, r->what);
		ctl_put(out, str_of(r->observed), 0, CTL_PLAIN, colour);
		strbuf_putc(out, '\n');
		if (r->fix == NULL)
			continue;
		strbuf_printf(out, "%*s-> ", (int)width + 15, "");
		ctl_put(out, str_of(r->fix), 0, CTL_PLAIN, colour);
		strbuf_putc(out, '\n');
	}
	strbuf_printf(out, "\n%zu ok, %zu warnings, %zu failed, %zu not checked\n", count[CTL_OK],
		      count[CTL_WARNING], count[CTL_FAILED], count[CTL_NOT_CHECKED]);
}

static void print_json(const struct ctl_rows *rows, bool failed, struct strbuf *out)
{
	static const char *const name[CTL_RESULT_N] = {"ok", "warning", "failed", "not-checked"};
	struct jsonw w;

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	jsonw_bool(&w, "ok", !failed);
	jsonw_list(&w, "checks");
	for (size_t i = 0; i < rows->n; i++) {
		jsonw_obj(&w, NULL);
		jsonw_cstr(&w, "what", rows->row[i].what);
		jsonw_cstr(&w, "result", name[rows->row[i].result]);
		jsonw_cstr(&w, "observed", rows->row[i].observed);
		jsonw_cstr(&w, "fix", rows->row[i].fix);
		jsonw_end_obj(&w);
	}
	jsonw_end_list(&w);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}

static int run_check(const struct ctl_call *c)
{
	_cleanup_(ctl_texts_fini) struct ctl_texts t = {0};
	_cleanup_strbuf_ struct strbuf out = {0};
	struct ctl_rows rows = {.a = arena_new()};
	const struct ctl_check_where w = {
		.agent_socket = c->common.agent_socket,
		.cni_dir = ctl_call_value(c, "cni-conf-dir"),
		.plugin = ctl_call_value(c, "plugin"),
		.kubeconfig = ctl_call_value(c, "kubeconfig"),
	};
	struct ctl_report r;
	bool failed = false;

	ctl_ask_report(&c->common, rows.a, &t, &r);
	ctl_check_gather(&w, &r, &rows);
	for (size_t i = 0; i < rows.n; i++)
		failed |= rows.row[i].result == CTL_FAILED;
	if (c->common.json)
		print_json(&rows, failed, &out);
	else
		ctl_check_print(&rows, c->common.colour, &out);
	(void)arena_free(rows.a);
	return ctl_emit(&out) && !failed ? CTL_EXIT_OK : CTL_EXIT_WRONG;
}

static const struct ctl_option options[] = {
	{0, "cni-conf-dir", "DIR", "CNI configurations (" CTL_CNI_DIR ")"},
	{0, "plugin", "FILE", "the plugin's file (as the agent says, or " PLUGIN ")"},
	{0, "kubeconfig", "FILE", "read NetworkPolicies with this"},
};
const struct ctl_command ctl_check_command = {
	.name = "check",
	.summary = "is this node fit for the mesh: kernel, CNI, clock, certificates, ...",
	.details =
		"Each line is ok, warning, failed or not checked, with what was seen and, after\n"
		"the arrow, what to do. Status 0: nothing failed.\n",
	.options = options,
	.noptions = ARRAY_LEN(options),
	.run = run_check,
};
