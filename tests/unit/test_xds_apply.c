/* SPDX-License-Identifier: Apache-2.0
 * test_xds_apply.c: a response of any size is applied, and its snapshot built, a few milliseconds
 * at a time; what is refused, and when a snapshot is handed out. The stream is this file.
 *
 * Times are CPU times of this thread: other load on the machine does not count.
 */
#include "tests/unit/zt_helper.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/wire/grpc_frame.h"
#include "ztunnel/control/xds_internal.h"
#include "ztunnel/observe/metrics.h"

void metric_add(enum metric_id id, int64_t delta)
{
	(void)id;
	(void)delta;
}

void metric_set(enum metric_id id, int64_t v)
{
	(void)id;
	(void)v;
}

static int restored;

/* nothing is asked for by name here: xds.demand is NULL */
void xds_demand_answered(struct xds *x, struct str name)
{
	(void)x;
	(void)name;
}

void xds_demand_send(struct xds *x)
{
	(void)x;
}

void xds_demand_tell(struct xds *x)
{
	(void)x;
}

void xds_restored(struct xds *x)
{
	(void)x;
	restored++;
}

static char said[512];
static int answers;

void xds_answer(struct xds *x, struct str error)
{
	(void)x;
	answers++;
	(void)snprintf(said, sizeof(said), "%.*s", STR_FMT(error));
}

static struct mesh *latest;
static int snapshots;

static void on_mesh(void *ctx, struct mesh *m)
{
	(void)ctx;
	mesh_unref(latest);
	latest = mesh_ref(m);
	snapshots++;
}

static struct xds *begin(void)
{
	struct xds *x = xcalloc(1, sizeof(*x));

	x->loop = loop_new();
	x->node_name = "n1";
	x->fn = on_mesh;
	xds_apply_init(x);
	answers = snapshots = 0;
	latest = NULL;
	return x;
}

static void end(struct xds *x)
{
	mesh_unref(latest);
	xds_apply_fini(x);
	loop_free(x->loop);
	free(x);
}

#define ADDRESS "type.googleapis.com/istio.workload.Address"
#define POLICY	"type.googleapis.com/istio.security.Authorization"

static void sub(struct strbuf *out, uint32_t number, struct strbuf *in)
{
	pb_add_bytes(out, number, (struct str){in->p, in->n});
	strbuf_fini(in);
}

static void add_resource(struct strbuf *out, const char *name, struct strbuf *value)
{
	struct strbuf any = {0}, res = {0};

	sub(&any, 2, value);
	pb_add_bytes(&res, 1, STR("0123456789abcdef"));
	sub(&res, 2, &any);
	pb_add_bytes(&res, 3, str_of(name));
	sub(out, 2, &res);
}

static void add_workload_of(struct strbuf *out, size_t i, const char *policy)
{
	struct strbuf w = {0}, a = {0};
	uint8_t ip[4] = {11, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
	char uid[80], sa[16];

	(void)snprintf(uid, sizeof(uid), "cluster//Pod/namespace/deployment-7c5ddbdf54-%zu", i);
	(void)snprintf(sa, sizeof(sa), "sa-%zu", i % 1000);
	pb_add_bytes(&w, 1, str_of(uid + 23));
	pb_add_bytes(&w, 2, STR("namespace"));
	pb_add_bytes(&w, 3, (struct str){(const char *)ip, 4});
	pb_add_varint(&w, 5, 1);
	pb_add_bytes(&w, 7, str_of(sa));
	pb_add_bytes(&w, 9, STR("node-1"));
	pb_add_bytes(&w, 10, STR("deployment"));
	pb_add_bytes(&w, 11, STR("latest"));
	pb_add_bytes(&w, 13, STR("deployment"));
	if (policy != NULL)
		pb_add_bytes(&w, 16, str_of(policy));
	pb_add_bytes(&w, 20, str_of(uid));
	sub(&a, 1, &w);
	add_resource(out, uid, &a);
}

static void add_workload(struct strbuf *out, size_t i)
{
	add_workload_of(out, i, NULL);
}

static struct str whole(struct strbuf *b, const char *type)
{
	pb_add_bytes(b, 4, str_of(type));
	pb_add_bytes(b, 5, STR("nonce"));
	return (struct str){b->p, b->n};
}

static double cpu_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* Steps until @want snapshots have come; the CPU time of the longest step. */
static double run(struct xds *x, int want_answers, int want_snapshots)
{
	uint64_t start = clock_mono_ms();
	double worst = 0;

	while (answers < want_answers || snapshots < want_snapshots) {
		double t = cpu_ms();

		loop_step(x->loop, 10);
		t = cpu_ms() - t;
		worst = t > worst ? t : worst;
		if (clock_mono_ms() - start > 60000)
			fail_msg("answers=%d snapshots=%d", answers, snapshots);
	}
	return worst;
}

static void nothing_comes(struct xds *x, int want)
{
	for (int i = 0; i < 30; i++)
		loop_step(x->loop, 5);
	assert_int_equal(snapshots, want);
}

static void take(struct xds *x, struct str m)
{
	struct err err = {0};

	if (xds_take(x, m, &err) != 0)
		fail_msg("%s", err.msg);
}

static void snapshot__when_both_types_are_complete(void **state)
{
	struct xds *x = begin();
	struct strbuf a = {0}, p = {0}, bad = {0}, junk = {0};

	(void)state;
	add_workload(&a, 1);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	nothing_comes(x, 0);
	strbuf_puts(&junk, "\x0a\xff");
	add_resource(&bad, "ns/bad", &junk);
	take(x, whole(&bad, POLICY));
	(void)run(x, 2, 0);
	assert_string_equal(said, "ns/bad: not an istio.security.Authorization");
	assert_non_null(x->type[STORE_POLICY].refused);
	nothing_comes(x, 0); /* a refused first response does not count */
	take(x, whole(&p, POLICY));
	(void)run(x, 3, 1);
	assert_string_equal(said, "");
	assert_null(x->type[STORE_POLICY].refused);
	assert_int_equal(mesh_count_workloads(latest), 1);
	nothing_comes(x, 1); /* one for both */
	strbuf_fini(&a);
	strbuf_fini(&p);
	strbuf_fini(&bad);
	end(x);
}

static void response__no_change_no_snapshot(void **state)
{
	struct xds *x = begin();
	struct strbuf a = {0}, p = {0}, gone = {0}, other = {0}, junk = {0}, evil = {0};

	(void)state;
	add_workload(&a, 1);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	take(x, whole(&p, POLICY));
	(void)run(x, 2, 1);
	take(x, (struct str){p.p, p.n});
	(void)run(x, 3, 1);
	strbuf_puts(&junk, "\xff");
	add_resource(&evil, "a\n\x1b[1mb", &junk);
	take(x, whole(&evil, ADDRESS));
	(void)run(x, 4, 1);
	assert_string_equal(said, "a\\x0a\\x1b[1mb: not an istio.workload.Address");
	pb_add_bytes(&gone, 6, STR("never there"));
	take(x, whole(&gone, ADDRESS));
	(void)run(x, 5, 1);
	add_workload(&other, 7);
	take(x, whole(&other, "type.googleapis.com/other"));
	(void)run(x, 6, 1);
	assert_string_equal(said, ""); /* as stock: acknowledged */
	nothing_comes(x, 1);
	assert_int_equal(mesh_count_workloads(latest), 1);
	assert_true(xds_take(x, STR("\xff"), NULL) < 0);
	strbuf_fini(&a);
	strbuf_fini(&p);
	strbuf_fini(&gone);
	strbuf_fini(&other);
	strbuf_fini(&evil);
	end(x);
}

/* istiod sends a workload before the policy that it names: both take effect together. */
static void snapshot__waits_for_named_policies(void **state)
{
	struct xds *x = begin();
	struct strbuf a = {0}, none = {0}, w = {0}, addr = {0}, named = {0}, p = {0}, pol = {0};
	uint64_t start;

	(void)state;
	add_workload(&a, 1);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	take(x, whole(&none, POLICY));
	(void)run(x, 2, 1);
	pb_add_bytes(&w, 2, STR("ns"));
	pb_add_bytes(&w, 16, STR("ns/p"));
	pb_add_bytes(&w, 20, STR("u"));
	sub(&addr, 1, &w);
	add_resource(&named, "u", &addr);
	take(x, whole(&named, ADDRESS));
	(void)run(x, 3, 1);
	nothing_comes(x, 1);
	pb_add_bytes(&pol, 1, STR("p"));
	pb_add_bytes(&pol, 2, STR("ns"));
	pb_add_varint(&pol, 3, 2);
	add_resource(&p, "ns/p", &pol);
	start = clock_mono_ms();
	take(x, whole(&p, POLICY));
	(void)run(x, 4, 2);
	assert_true(clock_mono_ms() - start < 500);
	assert_non_null(mesh_policy(latest, STR("ns/p")));
	assert_non_null(mesh_workload_by_uid(latest, STR("u")));
	/* one that never comes is waited for, but not for ever */
	assert_true(store_remove(x->store, STORE_POLICY, STR("ns/p")));
	start = clock_mono_ms();
	take(x, (struct str){named.p, named.n});
	(void)run(x, 5, 3);
	assert_in_range(clock_mono_ms() - start, 900, 5000);
	assert_null(mesh_policy(latest, STR("ns/p")));
	strbuf_fini(&a);
	strbuf_fini(&none);
	strbuf_fini(&named);
	strbuf_fini(&p);
	end(x);
}

/* A policy that cannot be read closes its namespace; a good version that is there stays. */
static void policy__refused_closes(void **state)
{
	struct xds *x = begin();
	struct strbuf a = {0}, none = {0}, p = {0}, bad = {0}, good = {0}, q = {0}, gone = {0};
	size_t n;

	(void)state;
	add_workload(&a, 1);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	take(x, whole(&none, POLICY));
	(void)run(x, 2, 1);
	pb_add_bytes(&p, 2, STR("ns"));
	pb_add_varint(&p, 3, POLICY_NAMESPACE);
	pb_add_varint(&p, 4, 9); /* an action that nobody knows */
	strbuf_add(&q, p.p, p.n);
	add_resource(&bad, "ns/p", &p);
	take(x, whole(&bad, POLICY));
	(void)run(x, 3, 2);
	assert_string_equal(said, "ns/p: action: unknown value 9");
	assert_int_equal(store_count_closed(x->store), 1);
	assert_true(mesh_policy(latest, STR("ns/p"))->closed);
	assert_int_equal(mesh_policies(latest, POLICY_NAMESPACE, STR("ns"), &n)[0]->action,
			 POLICY_DENY);
	/* now it can be read, and a later bad version does not take it away */
	pb_add_bytes(&p, 2, STR("ns"));
	pb_add_varint(&p, 3, POLICY_NAMESPACE);
	add_resource(&good, "ns/p", &p);
	take(x, whole(&good, POLICY));
	(void)run(x, 4, 3);
	assert_false(mesh_policy(latest, STR("ns/p"))->closed);
	take(x, (struct str){bad.p, bad.n});
	(void)run(x, 5, 3);
	assert_false(mesh_policy(latest, STR("ns/p"))->closed);
	pb_add_bytes(&gone, 6, STR("ns/p"));
	take(x, whole(&gone, POLICY));
	(void)run(x, 6, 4);
	assert_null(mesh_policy(latest, STR("ns/p")));
	strbuf_fini(&a);
	strbuf_fini(&none);
	strbuf_fini(&bad);
	strbuf_fini(&good);
	strbuf_fini(&q);
	strbuf_fini(&gone);
	end(x);
}

/* ---- the state outlives the process ---- */

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_xds_apply.XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int remove_dir(void **state)
{
	char path[96];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/ztunnel.mesh", dir);
	(void)unlink(path);
	return rmdir(dir);
}

static void on_due(void *ctx)
{
	xds_copy(ctx);
}

static struct xds *begin_kept(void)
{
	static const struct image_of of = {"c1", "istiod:15012"};
	const char *dirs[] = {"/proc/no", dir, NULL};
	struct xds *x = xcalloc(1, sizeof(*x));

	x->loop = loop_new();
	x->node_name = "n1";
	x->fn = on_mesh;
	x->keep = xds_keep_new(x->loop, dirs, &of, on_due, x);
	xds_apply_init(x);
	answers = snapshots = restored = 0;
	latest = NULL;
	xds_restore(x);
	return x;
}

static void end_kept(struct xds *x)
{
	struct store_copy *c = xds_copy_now(x);

	if (c != NULL)
		xds_keep_save_now(x->keep, c);
	x->keep = xds_keep_free(x->keep);
	end(x);
}

static void until(struct xds *x, bool (*fn)(struct xds *x), const char *what)
{
	for (uint64_t start = clock_mono_ms(); !fn(x); loop_step(x->loop, 10))
		if (clock_mono_ms() - start > 20000)
			fail_msg("gave up waiting for %s", what);
}

static bool file_is_there(struct xds *x)
{
	const char *error;

	return access(xds_keep_path(x->keep, &error), R_OK) == 0;
}

static bool has_snapshot(struct xds *x)
{
	(void)x;
	return snapshots > 0;
}

static bool has_restored(struct xds *x)
{
	(void)x;
	return restored > 0;
}

static void add_policy(struct strbuf *out, const char *name, int action)
{
	struct strbuf p = {0};

	pb_add_bytes(&p, 2, STR("ns"));
	pb_add_varint(&p, 3, POLICY_NAMESPACE);
	pb_add_varint(&p, 4, (uint64_t)action);
	add_resource(out, name, &p);
}

/* Leaves a file with three workloads and two policies, one of them unreadable. */
static void leave_a_state(void)
{
	struct xds *x = begin_kept();
	struct strbuf a = {0}, p = {0}, q = {0};

	assert_int_equal(restored, 1); /* there was none: connected at once */
	for (size_t i = 0; i < 3; i++)
		add_workload(&a, i);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	add_policy(&p, "ns/deny", POLICY_DENY);
	take(x, whole(&p, POLICY));
	(void)run(x, 2, 1);
	add_policy(&q, "ns/odd", 9);
	take(x, whole(&q, POLICY));
	(void)run(x, 3, 2);
	until(x, file_is_there, "the file");
	strbuf_fini(&a);
	strbuf_fini(&p);
	strbuf_fini(&q);
	end_kept(x);
}

static void count_versions(void *ctx, struct str name, struct str version)
{
	assert_int_equal(version.n, str_eqc(name, "ns/odd") ? 0 : 16);
	++*(size_t *)ctx;
}

static void kept__served_when_istiod_is_silent(void **state)
{
	struct xds *x;
	struct strbuf none = {0}, a = {0};
	size_t told = 0;
	uint64_t start;

	(void)state;
	leave_a_state();
	x = begin_kept();
	start = clock_mono_ms();
	until(x, has_restored, "the image");
	store_each(x->store, STORE_ADDRESS, count_versions, &told);
	store_each(x->store, STORE_POLICY, count_versions, &told);
	assert_int_equal(told, 5);	/* what istiod is told: what it does not know is gone */
	assert_int_equal(snapshots, 0); /* it has its time to answer */
	until(x, has_snapshot, "the snapshot");
	assert_in_range(clock_mono_ms() - start, 2500, 6000);
	assert_true(x->stale);
	assert_int_equal(mesh_count_workloads(latest), 3);
	assert_int_equal(mesh_policy(latest, STR("ns/deny"))->action, POLICY_DENY);
	assert_true(mesh_policy(latest, STR("ns/odd"))->closed);
	/* istiod is back: nothing has changed but one that is gone */
	pb_add_bytes(&a, 6, STR("cluster//Pod/namespace/deployment-7c5ddbdf54-1"));
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 2);
	assert_true(x->stale);
	take(x, whole(&none, POLICY));
	(void)run(x, 2, 3);
	assert_false(x->stale);
	assert_int_equal(mesh_count_workloads(latest), 2);
	strbuf_fini(&none);
	strbuf_fini(&a);
	end_kept(x);
}

/* istiod answers in time: its state is the first that is served. */
static void kept__not_served_when_istiod_answers(void **state)
{
	struct xds *x;
	struct strbuf none = {0}, a = {0};

	(void)state;
	leave_a_state();
	x = begin_kept();
	until(x, has_restored, "the image");
	pb_add_bytes(&a, 6, STR("cluster//Pod/namespace/deployment-7c5ddbdf54-1"));
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	take(x, whole(&none, POLICY));
	(void)run(x, 2, 1);
	assert_false(x->stale);
	assert_int_equal(mesh_count_workloads(latest), 2);
	nothing_comes(x, 1);
	strbuf_fini(&none);
	strbuf_fini(&a);
	end_kept(x);
}

static bool is_written(struct xds *x)
{
	return !xds_keep_is_due(x->keep);
}

/* The process ends while an older, larger state is being written. */
static void kept__the_last_one_counts(void **state)
{
	struct xds *x;
	struct strbuf a = {0}, p = {0};
	struct store *newer = store_new(STR("n1"), true);
	struct policy *deny = policy_new();
	struct store_copy *c;

	(void)state;
	x = begin_kept();
	for (size_t i = 0; i < 10000; i++)
		add_workload(&a, i);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	take(x, whole(&p, POLICY));
	(void)run(x, 2, 1);
	until(x, is_written, "the copy"); /* of a thread now */
	deny->key = model_text(deny->arena, STR("ns/deny"));
	deny->ns = STR("");
	store_policy(newer, deny, STR("0123456789abcdef"), STR(""));
	c = store_copy_new(newer);
	(void)store_copy_step(c, SIZE_MAX);
	xds_keep_save_now(x->keep, c);
	end_kept(x);
	(void)store_free(newer);
	x = begin_kept();
	until(x, has_restored, "the image");
	assert_int_equal(store_count(x->store, STORE_ADDRESS), 0);
	assert_true(store_has(x->store, STORE_POLICY, STR("ns/deny")));
	strbuf_fini(&a);
	strbuf_fini(&p);
	end_kept(x);
}

/* A policy that a workload did not name before is in force for it: that must not wait as long as
 * other changes of so much do (5 s). */
static void kept__what_a_workload_names_soon(void **state)
{
	struct xds *x = begin_kept();
	struct strbuf a = {0}, p = {0}, b = {0};
	uint64_t start;

	(void)state;
	for (size_t i = 0; i < 20000; i++)
		add_workload(&a, i);
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	add_policy(&p, "ns/deny", POLICY_DENY);
	take(x, whole(&p, POLICY));
	(void)run(x, 2, 1);
	until(x, file_is_there, "the file");
	for (int i = 0; i < 10; i++) /* its writer has said so */
		loop_step(x->loop, 10);
	assert_true(is_written(x));
	add_workload_of(&b, 7, "ns/deny");
	take(x, whole(&b, ADDRESS));
	(void)run(x, 3, 2);
	assert_false(is_written(x));
	start = clock_mono_ms();
	until(x, is_written, "the copy");
	assert_true(clock_mono_ms() - start < 3000);
	strbuf_fini(&a);
	strbuf_fini(&p);
	strbuf_fini(&b);
	end_kept(x);
}

/* Damage, and what others could have written: told, not used, replaced by the next good state. */
static void kept__foreign_or_damaged(void **state)
{
	char path[96];
	const char *error;
	struct xds *x;

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/ztunnel.mesh", dir);
	for (int i = 0; i < 4; i++) {
		leave_a_state();
		if (i == 0)
			assert_int_equal(truncate(path, 100), 0);
		else if (i == 1)
			assert_int_equal(chmod(path, 0644), 0);
		else if (i == 2)
			assert_int_equal(chmod(dir, 0777), 0);
		else
			assert_true(unlink(path) == 0 && symlink("/etc/passwd", path) == 0);
		x = begin_kept();
		assert_int_equal(restored, 1);
		(void)xds_keep_path(x->keep, &error);
		assert_non_null(strstr(error, i == 0   ? "damaged"
					      : i == 3 ? "Too many levels"
						       : "not ours alone"));
		nothing_comes(x, 0);
		end_kept(x);
		assert_int_equal(chmod(dir, 0700), 0);
		(void)unlink(path);
	}
}

#if defined(SANITIZED)
#define MANY 10000
#else
#define MANY 100000
#endif

static void put_version(void *ctx, struct str name, struct str version)
{
	xds_put_version(ctx, name, version);
}

static void push__large_in_slices(void **state)
{
	struct xds *x = begin();
	struct strbuf a = {0}, p = {0}, one = {0};
	double apply, build, change, tell;
	size_t before, objects;

	(void)state;
	for (size_t i = 0; i < MANY; i++)
		add_workload(&a, i);
	(void)whole(&a, ADDRESS);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	take(x, (struct str){a.p, a.n});
	apply = run(x, 1, 0);
	objects = mallinfo2().uordblks + mallinfo2().hblkhd - before;
	take(x, whole(&p, POLICY));
	build = run(x, 2, 1);
	assert_int_equal(mesh_count_workloads(latest), MANY);
	printf("# %d workloads: %zu bytes of message each, %zu bytes each in the store and its "
	       "snapshot\n",
	       MANY, a.n / MANY, objects / MANY);
	tell = cpu_ms(); /* what a reconnect says */
	store_each(x->store, STORE_ADDRESS, put_version, &one);
	tell = cpu_ms() - tell;
	strbuf_fini(&one);
	add_workload(&one, MANY + 1);
	take(x, whole(&one, ADDRESS));
	change = run(x, 3, 2);
	assert_int_equal(mesh_count_workloads(latest), MANY + 1);
	for (uint64_t end = clock_mono_ms() + 10000; x->nold != 0 && clock_mono_ms() < end;) {
		double t = cpu_ms();

		loop_step(x->loop, 50);
		t = cpu_ms() - t;
		change = t > change ? t : change;
	}
	assert_int_equal(x->nold, 0); /* the replaced one is freed here */
	printf("# longest step, CPU: apply %.1f ms, build %.1f ms, change and free %.1f ms, "
	       "names and versions %.1f ms\n",
	       apply, build, change, tell);
#if !defined(SANITIZED)
	assert_true(apply < 50 && build < 50 && change < 10 && tell < 50);
#endif
	strbuf_fini(&a);
	strbuf_fini(&p);
	strbuf_fini(&one);
	end(x);
}

/* The same with the file: reading, copying for it, and what it costs. */
static void kept__large_in_slices(void **state)
{
	struct xds *x = begin_kept();
	struct strbuf a = {0}, p = {0};
	double save = 0, restore, t;
	uint64_t start;
	size_t before;

	(void)state;
	for (size_t i = 0; i < MANY; i++)
		add_workload(&a, i);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	take(x, whole(&a, ADDRESS));
	(void)run(x, 1, 0);
	printf("# %d workloads: %zu bytes each in the store, with their bytes\n", MANY,
	       (mallinfo2().uordblks + mallinfo2().hblkhd - before) / MANY);
	take(x, whole(&p, POLICY));
	(void)run(x, 2, 1);
	for (start = clock_mono_ms(); !file_is_there(x) && clock_mono_ms() - start < 20000;) {
		t = cpu_ms();
		loop_step(x->loop, 10);
		t = cpu_ms() - t;
		save = t > save ? t : save;
	}
	assert_true(file_is_there(x));
	end_kept(x);
	t = cpu_ms();
	x = begin_kept();
	restore = cpu_ms() - t; /* the read and the checksum, before the loop turns */
	printf("# start: %.1f ms\n", restore);
	restore = run(x, 0, 1);
	assert_int_equal(mesh_count_workloads(latest), MANY);
	printf("# longest step, CPU: save %.1f ms, restore and build %.1f ms\n", save, restore);
#if !defined(SANITIZED)
	assert_true(save < 50 && restore < 50);
#endif
	strbuf_fini(&a);
	strbuf_fini(&p);
	end_kept(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot__when_both_types_are_complete),
		cmocka_unit_test(response__no_change_no_snapshot),
		cmocka_unit_test(snapshot__waits_for_named_policies),
		cmocka_unit_test(push__large_in_slices),
		cmocka_unit_test(policy__refused_closes),
		cmocka_unit_test_setup_teardown(kept__served_when_istiod_is_silent, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(kept__not_served_when_istiod_answers, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(kept__the_last_one_counts, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(kept__what_a_workload_names_soon, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(kept__foreign_or_damaged, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(kept__large_in_slices, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
