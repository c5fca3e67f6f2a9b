/* SPDX-License-Identifier: Apache-2.0
 * test_install.c: which file is the primary and which one gets our entry (cni-spec 2.3, 2.4, 8.7;
 * known defects 26, 27, 48), and the directory on disk: replacing, locking, keeping the plugin up
 * to date. What happens when others interfere is in tests/system/test_install.py.
 */
#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "node-agent/config.h"
#include "node-agent/host/install.h"
#include "node-agent/host/plan.h"

/* getopt's argv is not const, and is not written to. */
static char *arg(const char *s)
{
	return (char *)(uintptr_t)s;
}

/* --- a directory of its own for every test --- */

static char *dir;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	(void)state;
	dir = xstrdup("/tmp/test-install-XXXXXX");
	return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(dir);
	return 0;
}

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static bool holds(const char *name, const char *text)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name), *is = NULL;

	return file_read(path, 1 << 20, &is, NULL, NULL) == 0 && strcmp(is, text) == 0;
}

static bool exists(const char *name)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

	return access(path, F_OK) == 0;
}

/* --- the plan --- */

#define LIST(plugins) "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[" plugins "]}"
#define A	      LIST("{\"type\":\"a\"}")
#define B	      LIST("{\"type\":\"b\"}")
#define SINGLE	      "{\"type\":\"a\",\"name\":\"s\",\"cniVersion\":\"0.4.0\"}"
#define OURS(how)     LIST("{\"type\":\"a\"},{\"type\":\"ambient-cni\",\"installed\":\"" how "\"}")
#define STOCK	      LIST("{\"type\":\"a\"},{\"type\":\"istio-cni\"}")

struct file {
	const char *name, *text;
};

struct plan_row {
	const char *name;
	struct file files[4];
	bool owned;
	const char *conf_name, *owned_name;
	bool replace;
	const char *primary, *target; /* NULL: -errno is @r */
	int r;
	const char *msg; /* part of the error or the warning; NULL: there is none */
	bool preempted, wrap;
};

static const struct plan_row plans[] = {
	{"no file", .r = -ENOENT, .msg = "waiting for the configuration"},
	{"no file, owned", .owned = true, .r = -ENOENT, .msg = "waiting for the configuration"},
	{"unknown ending",
	 {{"10-a.yaml", A}, {"10-b.conf.bak", SINGLE}},
	 .r = -ENOENT,
	 .msg = "waiting"},
	{"empty file", {{"10-a.conflist", ""}}, .r = -ENOENT, .msg = "waiting"},
	{"sorted",
	 {{"99-z.conflist", A}, {"10-a.conflist", A}},
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"byte order, not numbers",
	 {{"9-a.conflist", A}, {"10-a.conflist", A}},
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"first usable: not JSON",
	 {{"00-a.conf", "hello"}, {"10-b.conflist", B}},
	 .primary = "10-b.conflist",
	 .target = "10-b.conflist",
	 .msg = "00-a.conf sorts before"},
	{"first usable: no name",
	 {{"00-a.conflist", "{\"plugins\":[{\"type\":\"a\"}]}"}, {"10-b.conflist", B}},
	 .primary = "10-b.conflist",
	 .target = "10-b.conflist",
	 .msg = "is skipped"},
	{"first usable: no plugins",
	 {{"00-a.conflist", LIST("")}, {"10-b.conflist", B}},
	 .primary = "10-b.conflist",
	 .target = "10-b.conflist",
	 .msg = "is skipped"},
	{"what is skipped comes later",
	 {{"10-b.conflist", B}, {"20-a.conflist", ""}},
	 .primary = "10-b.conflist",
	 .target = "10-b.conflist"},
	{"a single one is wrapped",
	 {{"10-a.conf", SINGLE}, {"20-b.conflist", B}},
	 .primary = "10-a.conf",
	 .target = "10-a.conflist",
	 .wrap = true},
	{"and again, when its owner wrote it once more",
	 {{"10-a.conf", SINGLE}, {"10-a.conflist", OURS("wrapped")}},
	 .primary = "10-a.conf",
	 .target = "10-a.conflist",
	 .wrap = true},
	{"not over somebody's list",
	 {{"10-a.conf", SINGLE}, {"10-a.conflist", A}},
	 .r = -EEXIST,
	 .msg = "10-a.conflist is there and not ours"},
	{"nor over our chained one",
	 {{"10-a.conf", SINGLE}, {"10-a.conflist", OURS("chained")}},
	 .r = -EEXIST,
	 .msg = "10-a.conflist is there and not ours"},
	{"a single one is copied",
	 {{"10-a.conf", SINGLE}},
	 .owned = true,
	 .primary = "10-a.conf",
	 .target = "05-ambient.conflist"},
	{"owned",
	 {{"10-a.conflist", A}},
	 .owned = true,
	 .primary = "10-a.conflist",
	 .target = "05-ambient.conflist"},
	{"owned, already there",
	 {{"05-ambient.conflist", OURS("owned")}, {"10-a.conflist", A}, {"20-b.conflist", B}},
	 .owned = true,
	 .primary = "10-a.conflist",
	 .target = "05-ambient.conflist"},
	{"owned, and the primary went",
	 {{"05-ambient.conflist", OURS("owned")}},
	 .owned = true,
	 .r = -ENOENT,
	 .msg = "waiting"},
	{"owned, and something sorts before",
	 {{"00-multus.conf", SINGLE}, {"10-a.conflist", A}},
	 .owned = true,
	 .primary = "00-multus.conf",
	 .target = "00-ambient.conflist"},
	{"owned, and something sorts before that",
	 {{"00-a.conflist", A}},
	 .owned = true,
	 .primary = "00-a.conflist",
	 .target = "00-ambient.conflist",
	 .preempted = true,
	 .msg = "00-a.conflist sorts before 00-ambient.conflist and is used"},
	{"owned, and the name is somebody's",
	 {{"05-ambient.conflist", B}, {"10-a.conflist", A}},
	 .owned = true,
	 .primary = "05-ambient.conflist",
	 .target = "00-ambient.conflist"},
	{"owned under another name",
	 {{"10-a.conflist", A}},
	 .owned = true,
	 .owned_name = "07-x.conflist",
	 .primary = "10-a.conflist",
	 .target = "07-x.conflist"},
	{"which was chosen badly",
	 {{"10-a.conflist", A}},
	 .owned = true,
	 .owned_name = "17-x.conflist",
	 .primary = "10-a.conflist",
	 .target = "17-x.conflist",
	 .preempted = true,
	 .msg = "10-a.conflist sorts before"},
	{"or very badly",
	 {{"10-a.conflist", A}, {"20-b.conflist", B}},
	 .owned = true,
	 .owned_name = "10-a.conflist",
	 .r = -EEXIST,
	 .msg = "--cni-owned-conf-name"},
	{"an own file that cannot be read is replaced",
	 {{"05-ambient.conflist", "{"}, {"10-a.conflist", A}},
	 .owned = true,
	 .primary = "10-a.conflist",
	 .target = "05-ambient.conflist"},
	{"the other mode's file is no primary",
	 {{"05-ambient.conflist", OURS("owned")}, {"10-a.conflist", A}},
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"named",
	 {{"10-a.conflist", A}, {"20-b.conflist", B}},
	 .conf_name = "20-b.conflist",
	 .primary = "20-b.conflist",
	 .target = "20-b.conflist",
	 .preempted = true,
	 .msg = "10-a.conflist sorts before 20-b.conflist"},
	{"named and first",
	 {{"10-a.conflist", A}, {"20-b.conflist", B}},
	 .conf_name = "10-a.conflist",
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"named, with the other ending",
	 {{"10-a.conflist", OURS("wrapped")}},
	 .conf_name = "10-a.conf",
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"named, with the other ending still",
	 {{"10-a.conf", SINGLE}},
	 .conf_name = "10-a.conflist",
	 .primary = "10-a.conf",
	 .target = "10-a.conflist",
	 .wrap = true},
	{"named and not there",
	 {{"10-a.conflist", A}},
	 .conf_name = "20-b.conflist",
	 .r = -ENOENT,
	 .msg = "waiting for 20-b.conflist"},
	{"named and wrong",
	 {{"10-a.conflist", A}, {"20-b.conflist", LIST("")}},
	 .conf_name = "20-b.conflist",
	 .r = -EINVAL,
	 .msg = "20-b.conflist: plugins"},
	{"named, copied",
	 {{"10-a.conflist", A}, {"20-b.conflist", B}},
	 .owned = true,
	 .conf_name = "20-b.conflist",
	 .primary = "20-b.conflist",
	 .target = "05-ambient.conflist"},
	{"a .json that a runtime may take",
	 {{"09-x.json", SINGLE}, {"10-a.conflist", A}},
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist",
	 .preempted = true,
	 .msg = "Give it the ending .conf"},
	{"a .json later",
	 {{"10-a.conflist", A}, {"11-x.json", SINGLE}},
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"a .json alone", {{"09-x.json", SINGLE}}, .r = -ENOENT, .msg = "waiting"},
	{"stock is there",
	 {{"10-a.conflist", STOCK}},
	 .r = -EEXIST,
	 .msg = "10-a.conflist: the plugin istio-cni"},
	{"stock is there, owned",
	 {{"02-istio-cni.conflist", STOCK}, {"10-a.conflist", A}},
	 .owned = true,
	 .r = -EEXIST,
	 .msg = "02-istio-cni.conflist: the plugin istio-cni"},
	{"stock goes",
	 {{"10-a.conflist", STOCK}},
	 .replace = true,
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"stock's copy is not taken for the network's",
	 {{"02-istio-cni.conflist", STOCK}, {"10-a.conflist", A}},
	 .owned = true,
	 .replace = true,
	 .primary = "10-a.conflist",
	 .target = "05-ambient.conflist"},
	{"stock's copy becomes ours",
	 {{"02-istio-cni.conflist", STOCK}, {"10-a.conflist", A}},
	 .owned = true,
	 .replace = true,
	 .owned_name = "02-istio-cni.conflist",
	 .primary = "10-a.conflist",
	 .target = "02-istio-cni.conflist"},
	{"stock's copy goes when the network's file is changed in place",
	 {{"02-istio-cni.conflist", STOCK}, {"10-a.conflist", A}},
	 .replace = true,
	 .primary = "10-a.conflist",
	 .target = "10-a.conflist"},
	{"stock alone is no network",
	 {{"10-i.conf", "{\"type\":\"istio-cni\"}"}},
	 .r = -ENOENT,
	 .msg = "waiting"},
	{"we alone are none",
	 {{"10-i.conf", "{\"type\":\"ambient-cni\"}"}},
	 .r = -ENOENT,
	 .msg = "waiting"},
};

static void check_plan(const struct plan_row *row, const struct plan *p, int r,
		       const struct err *err)
{
	const char *said = r < 0 ? err->msg : p->warning;

	if (r != row->r || (row->msg == NULL ? said[0] != '\0' : strstr(said, row->msg) == NULL))
		fail_msg("%s: %d \"%s\"", row->name, r, said);
	if (row->target == NULL)
		return;
	if (strcmp(p->primary->name, row->primary) != 0 || strcmp(p->target, row->target) != 0 ||
	    p->preempted != row->preempted || p->wrap != row->wrap || !p->write)
		fail_msg("%s: primary %s target %s preempted %d wrap %d write %d", row->name,
			 p->primary->name, p->target, p->preempted, p->wrap, p->write);
}

static void plan_make__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(plans); i++) {
		const struct plan_row *row = &plans[i];
		struct plan_opts o = {.owned = row->owned,
				      .conf_name = row->conf_name != NULL ? row->conf_name : "",
				      .owned_name = row->owned_name != NULL ? row->owned_name : "",
				      .replace_stock = row->replace,
				      .entry = {.run_dir = STR("/run/a")}};
		struct err err = {0};
		struct confdir d;
		struct plan p;
		int r;

		for (size_t k = 0; k < 4 && row->files[k].name != NULL; k++)
			put(row->files[k].name, row->files[k].text);
		assert_int_equal(confdir_read(dir, &d, &err), 0);
		r = plan_make(&d, &o, &p, &err);
		check_plan(row, &p, r, &err);
		plan_fini(&p);
		for (size_t k = 0; k < d.n; k++)
			assert_int_equal(confdir_remove(dir, d.files[k].name, NULL), 0);
		confdir_fini(&d);
	}
}

/* A file of ours whose content another program replaced is put back, not taken for the primary. */
static void plan_make__own_file_with_foreign_content(void **state)
{
	struct plan_opts o = {
		.owned = true, .conf_name = "", .owned_name = "", .written = "05-ambient.conflist"};
	struct confdir d;
	struct plan p;

	(void)state;
	put("05-ambient.conflist", B);
	put("10-a.conflist", A);
	assert_int_equal(confdir_read(dir, &d, NULL), 0);
	assert_int_equal(plan_make(&d, &o, &p, NULL), 0);
	assert_string_equal(p.primary->name, "10-a.conflist");
	assert_string_equal(p.target, "05-ambient.conflist");
	assert_true(p.write);
	plan_fini(&p);
	confdir_fini(&d);
}

/* --- the directory --- */

static void confdir_read__skips_what_is_no_file(void **state)
{
	_cleanup_free_ char *sub = xasprintf("%s/00-dir.conf", dir);
	_cleanup_free_ char *fifo = xasprintf("%s/01-fifo.conf", dir);
	_cleanup_free_ char *dangling = xasprintf("%s/02-link.conf", dir);
	_cleanup_free_ char *link = xasprintf("%s/03-link.conf", dir);
	struct err err = {0};
	struct confdir d;

	(void)state;
	assert_int_equal(mkdir(sub, 0755), 0);
	assert_int_equal(mkfifo(fifo, 0644), 0);
	assert_int_equal(symlink("nowhere", dangling), 0);
	assert_int_equal(symlink("10-a.conf", link), 0);
	put("10-a.conf", SINGLE);
	assert_int_equal(confdir_read(dir, &d, &err), 0);
	assert_int_equal(d.n, 2);
	assert_string_equal(d.files[0].name, "03-link.conf");
	assert_non_null(confdir_find(&d, "10-a.conf"));
	assert_null(confdir_find(&d, "00-dir.conf"));
	confdir_fini(&d);
	assert_int_equal(confdir_read("/nonexistent", &d, &err), -ENOENT);
}

static void confdir_read__too_many_files(void **state)
{
	struct err err = {0};
	struct confdir d;
	char name[32];

	(void)state;
	for (int i = 0; i <= CONFDIR_FILES_MAX; i++) {
		(void)snprintf(name, sizeof(name), "%03d.conf", i);
		put(name, "");
	}
	assert_int_equal(confdir_read(dir, &d, &err), -E2BIG);
}

static void confdir_replace__mode_link_and_leftovers(void **state)
{
	_cleanup_free_ char *real = xasprintf("%s/real", dir);
	_cleanup_free_ char *link = xasprintf("%s/10-a.conflist", dir);
	_cleanup_free_ char *file = xasprintf("%s/real/a", dir);
	struct stat st;

	(void)state;
	assert_int_equal(mkdir(real, 0755), 0);
	put("real/a", "old");
	assert_int_equal(symlink("real/a", link), 0);
	put("real/.a.ambient-new", "killed while writing");
	assert_int_equal(confdir_replace(dir, "10-a.conflist", "new", 3, 0640, NULL), 0);
	assert_true(holds("real/a", "new"));
	assert_false(exists("real/.a.ambient-new"));
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	put(".b.ambient-new", "");
	put("b.ambient-new", "");
	confdir_clean(dir);
	assert_false(exists(".b.ambient-new"));
	assert_true(exists("b.ambient-new"));
	assert_int_equal(confdir_remove(dir, "none", NULL), 0);
}

static void confdir_replace__error_leaves_the_old_file(void **state)
{
	_cleanup_free_ char *sub = xasprintf("%s/x", dir);
	struct err err = {0};

	(void)state;
	put("a", "old");
	assert_int_equal(mkdir(sub, 0755), 0);
	assert_true(confdir_replace(dir, "x", "new", 3, 0644, &err) < 0); /* over a directory */
	assert_false(exists(".x.ambient-new"));
	assert_true(confdir_replace("/nonexistent", "a", "new", 3, 0644, &err) < 0);
	assert_non_null(strstr(err.msg, "/nonexistent/a"));
	assert_true(holds("a", "old"));
}

static void confdir_lock__one_at_a_time(void **state)
{
	_cleanup_free_ char *other = xasprintf("%s/../%s", dir, strrchr(dir, '/') + 1);
	struct err err = {0};
	int fd = confdir_lock(dir, &err);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(confdir_lock(other, &err), -EBUSY); /* another path, the same place */
	assert_non_null(strstr(err.msg, "another ambient-agent"));
	(void)xclose(fd);
	fd = confdir_lock(dir, &err);
	assert_true(fd >= 0);
	(void)xclose(fd);
	assert_int_equal(confdir_lock("/nonexistent", &err), -ENOENT);
}

/* --- pace --- */

static void install_pace__slows_and_warns(void **state)
{
	struct install_pace p = {0};
	uint64_t now = 1000;

	(void)state;
	assert_int_equal(install_pace_wait(&p, now), 0);
	p.tried_ms = now;
	assert_false(install_pace_done(&p, now));
	assert_int_equal(install_pace_wait(&p, now + 1), INSTALL_PACE_MS - 1);
	assert_int_equal(install_pace_wait(&p, now + INSTALL_PACE_MS), 0);
	for (int i = 1; i <= 2 * INSTALL_FIGHT_AT; i++) {
		now += INSTALL_PACE_MS;
		assert_int_equal(install_pace_done(&p, now), i % INSTALL_FIGHT_AT == 0);
	}
	now += INSTALL_CALM_MS + 1;
	assert_false(install_pace_done(&p, now));
	assert_int_equal(p.fights, 0);
	/* a write that fails again and again is slow, but no fight */
	p.tried_ms = now;
	assert_true(install_pace_wait(&p, now) > 0);
	assert_int_equal(p.fights, 0);
}

/* --- the installer --- */

struct world {
	struct loop *loop;
	struct config cfg;
	char *conf, *bin, *run, *plugin;
};

static void world_init(struct world *w, const char *mode)
{
	enum config_action action;
	struct err err = {0};
	char *argv[] = {arg("x"), arg("--install-cni"), arg(mode), NULL};

	w->loop = loop_new();
	w->conf = xasprintf("%s/net.d", dir);
	w->bin = xasprintf("%s/bin", dir);
	w->run = xasprintf("%s/run", dir);
	w->plugin = xasprintf("%s/plugin", dir);
	assert_int_equal(mkdir(w->conf, 0755), 0);
	assert_int_equal(mkdir(w->bin, 0755), 0);
	assert_int_equal(mkdir(w->run, 0755), 0);
	put("plugin", "program 1");
	assert_int_equal(setenv("MOUNTED_CNI_NET_DIR", w->conf, 1), 0);
	assert_int_equal(setenv("AMBIENT_CNI_BIN_DIR", w->bin, 1), 0);
	assert_int_equal(setenv("AMBIENT_CNI_PLUGIN", w->plugin, 1), 0);
	assert_int_equal(setenv("CNI_AGENT_RUN_DIR", w->run, 1), 0);
	assert_int_equal(setenv("AMBIENT_LOG", "off", 1), 0);
	assert_int_equal(config_read(&w->cfg, 3, argv, &action, &err), 0);
}

static void world_fini(struct world *w)
{
	config_fini(&w->cfg);
	(void)loop_free(w->loop);
	free(w->conf);
	free(w->bin);
	free(w->run);
	free(w->plugin);
	(void)unsetenv("MOUNTED_CNI_NET_DIR");
	(void)unsetenv("AMBIENT_CNI_BIN_DIR");
	(void)unsetenv("AMBIENT_CNI_PLUGIN");
	(void)unsetenv("CNI_AGENT_RUN_DIR");
	(void)unsetenv("AMBIENT_LOG");
}

static bool state_is(const struct install *in, const char *state)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_free_ char *want = xasprintf("\"state\":\"%s\"", state);
	struct jsonw w;

	jsonw_init(&w, &text, false);
	jsonw_obj(&w, NULL);
	install_print(in, &w);
	jsonw_end_obj(&w);
	return strstr(text.p, want) != NULL;
}

static void wait_for(struct world *w, const struct install *in, const char *state)
{
	for (int i = 0; i < 200 && !state_is(in, state); i++)
		loop_step(w->loop, 50);
	assert_true(state_is(in, state));
}

static void install_new__waits_installs_and_is_alone(void **state)
{
	struct world w = {0};
	struct err err = {0};
	struct install *in, *second;

	(void)state;
	world_init(&w, "chained");
	in = install_new(w.loop, &w.cfg, &err);
	assert_non_null(in);
	assert_true(state_is(in, "waiting"));
	assert_true(holds("bin/ambient-cni", "program 1")); /* before anything names it */
	put("net.d/10-a.conf", SINGLE);
	wait_for(&w, in, "installed");
	assert_false(exists("net.d/10-a.conf"));
	assert_true(exists("net.d/10-a.conflist"));
	second = install_new(w.loop, &w.cfg, &err);
	assert_null(second);
	assert_non_null(strstr(err.msg, "in use by another ambient-agent"));
	(void)install_free(in);
	assert_true(exists("net.d/10-a.conflist")); /* stopping is not uninstalling */
	world_fini(&w);
}

/* Another run directory, the same configuration: the lock of the directory itself decides. */
static void install_new__second_with_another_run_directory(void **state)
{
	struct world w = {0};
	struct config other;
	struct err err = {0};
	struct install *in;
	char run[64];

	(void)state;
	world_init(&w, "owned");
	in = install_new(w.loop, &w.cfg, &err);
	assert_non_null(in);
	other = w.cfg;
	(void)snprintf(run, sizeof(run), "%s", dir);
	other.run_dir = run;
	assert_null(install_new(w.loop, &other, &err));
	assert_non_null(strstr(err.msg, "net.d is in use"));
	(void)install_free(in);
	world_fini(&w);
}

static void install_new__program_follows_its_source(void **state)
{
	struct world w = {0};
	struct install *in;
	struct stat st;
	char path[128];

	(void)state;
	world_init(&w, "owned");
	put("net.d/10-a.conflist", A);
	put("bin/.ambient-cni.ambient-new", "killed while copying");
	put("bin/ambient-cni", "somebody's");
	in = install_new(w.loop, &w.cfg, NULL);
	assert_non_null(in);
	assert_true(state_is(in, "installed"));
	assert_true(holds("bin/ambient-cni", "program 1"));
	assert_false(exists("bin/.ambient-cni.ambient-new"));
	(void)snprintf(path, sizeof(path), "%s/ambient-cni", w.bin);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	(void)install_free(in);
	put("plugin", "program 2"); /* an upgrade while we were away */
	in = install_new(w.loop, &w.cfg, NULL);
	assert_non_null(in);
	assert_true(holds("bin/ambient-cni", "program 2"));
	(void)install_free(in);
	world_fini(&w);
}

static void install_new__no_program_no_configuration(void **state)
{
	struct world w = {0};
	struct install *in;

	(void)state;
	world_init(&w, "chained");
	put("net.d/10-a.conflist", A);
	assert_int_equal(unlink(w.plugin), 0);
	in = install_new(w.loop, &w.cfg, NULL);
	assert_non_null(in);
	assert_true(state_is(in, "failed"));
	assert_true(holds("net.d/10-a.conflist", A)); /* pods start as before */
	(void)install_free(in);
	world_fini(&w);
}

static void install_new__other_mode_cleans_up(void **state)
{
	struct world w = {0};
	struct install *in;

	(void)state;
	world_init(&w, "owned");
	put("net.d/10-a.conflist", A);
	in = install_new(w.loop, &w.cfg, NULL);
	assert_true(exists("net.d/05-ambient.conflist"));
	assert_true(holds("net.d/10-a.conflist", A));
	(void)install_free(in);
	w.cfg.install_cni = INSTALL_CHAINED;
	in = install_new(w.loop, &w.cfg, NULL);
	assert_false(exists("net.d/05-ambient.conflist"));
	assert_false(holds("net.d/10-a.conflist", A));
	(void)install_free(in);
	world_fini(&w);
}

static void install_new__off_touches_nothing(void **state)
{
	struct world w = {0};
	struct install *in;

	(void)state;
	world_init(&w, "off");
	put("net.d/10-a.conf", SINGLE);
	in = install_new(w.loop, &w.cfg, NULL);
	assert_non_null(in);
	loop_step(w.loop, 50);
	assert_true(holds("net.d/10-a.conf", SINGLE));
	assert_false(exists("bin/ambient-cni"));
	(void)install_free(in);
	world_fini(&w);
}

/* --- settings --- */

static void config_read__install(void **state)
{
	static const struct {
		const char *args[4];
		const char *msg; /* NULL: good */
	} rows[] = {
		{{"--install-cni", "chained"}, NULL},
		{{"--install-cni=owned", "--replace-istio-cni"}, NULL},
		{{"--install-cni", "yes"}, "--install-cni yes: expected off, chained or owned"},
		{{"--cni-conf-name", "10-a.conf"}, NULL},
		{{"--cni-conf-name", "10-a.json"}, "ends in .conf or .conflist"},
		{{"--cni-conf-name", "a/10-a.conf"}, "ends in .conf or .conflist"},
		{{"--cni-owned-conf-name", "10-a.conf"}, "ends in .conflist"},
		{{"--cni-conf-dir", "net.d"}, "expected an absolute path"},
		{{"--replace-istio-cni=maybe"}, "expected true or false"},
		{{"--uninstall", "--release-pods"}, NULL},
		{{"--release-pods"}, "--release-pods is a part of --uninstall"},
		{{"--uninstall", "--stay"}, NULL},
		{{"--stay"}, "--stay is a part of --uninstall"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char *argv[6] = {arg("x")};
		enum config_action action;
		struct err err = {0};
		struct config c;
		int argc = 1, r;

		while (argc < 5 && rows[i].args[argc - 1] != NULL) {
			argv[argc] = arg(rows[i].args[argc - 1]);
			argc++;
		}
		r = config_read(&c, argc, argv, &action, &err);
		if (rows[i].msg == NULL ? r != 0 : strstr(err.msg, rows[i].msg) == NULL)
			fail_msg("row %zu: %d %s", i, r, err.msg);
		config_fini(&c);
	}
}

/* Istio's program reads one name, its chart writes another (known defect 26). */
static void config_read__both_names_of_the_owned_file(void **state)
{
	static const char *const names[] = {"ISTIO_OWNED_CNI_CONFIG_FILENAME",
					    "ISTIO_OWNED_CNI_CONF_FILENAME"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *argv[] = {arg("x"), NULL};
		enum config_action action;
		struct config c;

		assert_int_equal(setenv(names[i], "03-x.conflist", 1), 0);
		assert_int_equal(config_read(&c, 1, argv, &action, NULL), 0);
		assert_string_equal(c.cni_owned_conf_name, "03-x.conflist");
		assert_int_equal(c.install_cni, INSTALL_OFF);
		config_fini(&c);
		assert_int_equal(unsetenv(names[i]), 0);
	}
}

#define with_dir(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_dir(plan_make__table),
		with_dir(plan_make__own_file_with_foreign_content),
		with_dir(confdir_read__skips_what_is_no_file),
		with_dir(confdir_read__too_many_files),
		with_dir(confdir_replace__mode_link_and_leftovers),
		with_dir(confdir_replace__error_leaves_the_old_file),
		with_dir(confdir_lock__one_at_a_time),
		cmocka_unit_test(install_pace__slows_and_warns),
		with_dir(install_new__waits_installs_and_is_alone),
		with_dir(install_new__second_with_another_run_directory),
		with_dir(install_new__program_follows_its_source),
		with_dir(install_new__no_program_no_configuration),
		with_dir(install_new__other_mode_cleans_up),
		with_dir(install_new__off_touches_nothing),
		cmocka_unit_test(config_read__install),
		cmocka_unit_test(config_read__both_names_of_the_owned_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
