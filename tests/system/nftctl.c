/* SPDX-License-Identifier: Apache-2.0
 * nftctl.c: drives nft/ from the command line for tests and measurements. Not installed.
 *
 *   nftctl [options] <verb> <netns path> [arguments]
 *   verbs: apply release remove check present flows foreign-remove[-sets] | host-apply UID,
 * host-remove, probe-add IP UID, probe-del IP UID, probe-prune UID,.. (those to keep) | print |
 * parallel DIR N | bench DIR N
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "nft/flows.h"
#include "nft/nft.h"

static struct nft_pod_opts opts;
static bool print_v4_only;

static int fail(const struct err *e)
{
	fprintf(stderr, "nftctl: %s (%s)\n", e->msg, strerrorname_np(e->code));
	return 1;
}

static int check(int ns, struct err *e)
{
	static const char *const name[NFT_STATE_N] = {"absent", "present", "different"};
	_cleanup_strbuf_ struct strbuf diff = {0};
	enum nft_state s;
	int r = nft_pod_check(ns, &opts, &s, &diff, e);

	if (r == 0)
		printf("%s\n%s", name[s], diff.n != 0 ? diff.p : "");
	return r;
}

static bool keep_listed(void *ctx, const struct ip_addr *ip, struct str uid)
{
	struct str list = str_of(ctx), head;

	(void)ip;
	while (str_cut(&list, ',', &head))
		if (str_eq(head, uid))
			return true;
	return str_eq(list, uid);
}

static int need_args(int have, int want)
{
	if (have >= want)
		return 0;
	fprintf(stderr, "nftctl: too few arguments\n");
	exit(2);
}

static int probe(int ns, bool add, int argc, char **argv, struct err *e)
{
	struct ip_addr ip;
	bool removed = false;
	int r;

	(void)need_args(argc, 2);
	if (ip_parse(str_of(argv[0]), &ip) < 0)
		return err_set(e, EINVAL, "not an address: %s", argv[0]);
	if (add)
		return nft_host_probe_add(ns, &ip, str_of(argv[1]), e);
	r = nft_host_probe_del(ns, &ip, str_of(argv[1]), &removed, e);
	if (r == 0)
		printf("%s\n", removed ? "removed" : "kept");
	return r;
}

static int run(const char *verb, int ns, int argc, char **argv, struct err *e)
{
	bool b = false;
	uint32_t uid = 0;
	int r;

	if (strcmp(verb, "apply") == 0)
		return nft_pod_apply(ns, &opts, e);
	if (strcmp(verb, "remove") == 0)
		return nft_pod_remove(ns, e);
	if (strcmp(verb, "flows") == 0) {
		size_t n = 0;

		r = nft_flows_count(ns, &n, e);
		if (r == 0)
			printf("%zu\n", n);
		return r;
	}
	if (strcmp(verb, "release") == 0)
		return nft_pod_release(ns, e);
	if (strcmp(verb, "check") == 0)
		return check(ns, e);
	if (strcmp(verb, "foreign-remove") == 0 || strcmp(verb, "foreign-remove-sets") == 0) {
		size_t found = 0;

		r = nft_foreign_remove(ns, strcmp(verb, "foreign-remove-sets") == 0, &found, e);
		if (r == 0)
			printf("%zu\n", found);
		return r;
	}
	if (strcmp(verb, "present") == 0) {
		r = nft_pod_present(ns, &b, e);
		if (r == 0)
			printf("%s\n", b ? "yes" : "no");
		return r;
	}
	if (strcmp(verb, "host-apply") == 0) {
		(void)need_args(argc, 1);
		if (parse_u32(str_of(argv[0]), 0, UINT32_MAX, &uid) < 0)
			return err_set(e, EINVAL, "not a uid: %s", argv[0]);
		return nft_host_apply(ns, uid, &opts, e);
	}
	if (strcmp(verb, "host-remove") == 0)
		return nft_host_remove(ns, e);
	if (strcmp(verb, "probe-add") == 0 || strcmp(verb, "probe-del") == 0)
		return probe(ns, verb[6] == 'a', argc, argv, e);
	if (strcmp(verb, "probe-prune") == 0) {
		(void)need_args(argc, 1);
		return nft_host_probe_prune(ns, keep_listed, argv[0], e);
	}
	return err_set(e, EINVAL, "unknown verb %s", verb);
}

/* Many namespaces: <dir>/0, <dir>/1, ... */

struct job {
	pthread_t thread;
	int ns;
	int r;
	struct err e;
};

static int open_nth(const char *dir, unsigned int i, struct err *e)
{
	_cleanup_free_ char *path = xasprintf("%s%u", dir, i);

	return netns_open(path, e);
}

static void *apply_check_remove(void *arg)
{
	struct job *j = arg;
	enum nft_state s;

	for (int round = 0; round < 4 && j->r == 0; round++) {
		j->r = nft_pod_apply(j->ns, &opts, &j->e);
		if (j->r == 0)
			j->r = nft_pod_check(j->ns, &opts, &s, NULL, &j->e);
		if (j->r == 0 && s != NFT_PRESENT)
			j->r = err_set(&j->e, EIO, "state %d after apply", (int)s);
		if (j->r == 0 && round % 2 == 0)
			j->r = nft_pod_remove(j->ns, &j->e);
	}
	return NULL;
}

static int parallel(const char *dir, unsigned int n)
{
	_cleanup_free_ struct job *jobs = xcalloc(n, sizeof(*jobs));
	int bad = 0;

	for (unsigned int i = 0; i < n; i++) {
		jobs[i].ns = open_nth(dir, i, &jobs[i].e);
		if (jobs[i].ns < 0)
			return fail(&jobs[i].e);
	}
	for (unsigned int i = 0; i < n; i++)
		if (pthread_create(&jobs[i].thread, NULL, apply_check_remove, &jobs[i]) != 0)
			abort();
	for (unsigned int i = 0; i < n; i++) {
		(void)pthread_join(jobs[i].thread, NULL);
		if (jobs[i].r < 0)
			bad |= fail(&jobs[i].e);
		(void)xclose(jobs[i].ns);
	}
	if (bad == 0)
		printf("%u namespaces\n", n);
	return bad;
}

static double now_us(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Elapsed, and the processor time of the same calls: the one to compare on a busy machine. */
static void figures(const char *what, double *us, double *cpu, unsigned int n)
{
	qsort(us, n, sizeof(*us), by_value);
	qsort(cpu, n, sizeof(*cpu), by_value);
	printf("%-12s n=%u  median %.0f us  p99 %.0f us  max %.0f us; processor: median %.0f us  "
	       "p99 %.0f us\n",
	       what, n, us[n / 2], us[(n * 99) / 100], us[n - 1], cpu[n / 2], cpu[(n * 99) / 100]);
}

static int bench_one(int kind, int ns, struct err *e)
{
	enum nft_state s;

	switch (kind) {
	case 0:
	case 1:
		return nft_pod_apply(ns, &opts, e);
	case 2:
		return nft_pod_check(ns, &opts, &s, NULL, e);
	default:
		return nft_pod_remove(ns, e);
	}
}

static int bench(const char *dir, unsigned int n)
{
	static const char *const name[] = {"apply", "apply again", "check", "remove"};
	_cleanup_free_ double *us = xcalloc(n, sizeof(*us));
	_cleanup_free_ double *cpu = xcalloc(n, sizeof(*cpu));
	_cleanup_free_ int *ns = xcalloc(n, sizeof(*ns));
	struct err e = {0};

	for (unsigned int i = 0; i < n; i++)
		if ((ns[i] = open_nth(dir, i, &e)) < 0)
			return fail(&e);
	for (int kind = 0; kind < 4; kind++) {
		for (unsigned int i = 0; i < n; i++) {
			double t = now_us(CLOCK_MONOTONIC);
			double c = now_us(CLOCK_THREAD_CPUTIME_ID);

			if (bench_one(kind, ns[i], &e) < 0)
				return fail(&e);
			us[i] = now_us(CLOCK_MONOTONIC) - t;
			cpu[i] = now_us(CLOCK_THREAD_CPUTIME_ID) - c;
		}
		figures(name[kind], us, cpu, n);
	}
	for (unsigned int i = 0; i < n; i++)
		(void)xclose(ns[i]);
	return 0;
}

static int options(int argc, char **argv)
{
	struct err e = {0};
	int c;

	while ((c = getopt(argc, argv, "+di4n:")) != -1)
		switch (c) {
		case 'd':
			opts.dns_capture = true;
			break;
		case 'i':
			opts.ingress_mode = true;
			break;
		case '4':
			print_v4_only = true;
			break;
		case 'n':
			if (nft_parse_ifaces(str_of(optarg), &opts, &e) < 0)
				return fail(&e);
			break;
		default:
			return 2;
		}
	return 0;
}

int main(int argc, char **argv)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_close_ int ns = -1;
	struct err e = {0};
	uint32_t n = 0;
	const char *verb;
	int r = options(argc, argv);

	if (r != 0)
		return r;
	(void)need_args(argc - optind, 1);
	verb = argv[optind++];
	if (strcmp(verb, "print") == 0) {
		nft_pod_print(&opts, !print_v4_only, &text);
		return fputs(text.p, stdout) < 0;
	}
	(void)need_args(argc - optind, 1);
	if (strcmp(verb, "parallel") == 0 || strcmp(verb, "bench") == 0) {
		(void)need_args(argc - optind, 2);
		if (parse_u32(str_of(argv[optind + 1]), 1, 10000, &n) < 0)
			return 2;
		return verb[0] == 'p' ? parallel(argv[optind], n) : bench(argv[optind], n);
	}
	ns = netns_open(argv[optind], &e);
	if (ns < 0 || run(verb, ns, argc - optind - 1, argv + optind + 1, &e) < 0)
		return fail(&e);
	return 0;
}
