/* SPDX-License-Identifier: Apache-2.0
 * test_baggage.c: how a workload describes itself, and what is made of what a peer says
 * (ztunnel-spec 4.12, 5.7).
 */
#include "tests/unit/zt_helper.h"

#include <string.h>

#include "ztunnel/mesh/baggage.h"

static void format__table(void **state)
{
	/* ztunnel-spec 4.12: order of keys, empty ones left out, types in the key */
	static const struct {
		const char *workload, *want;
	} rows[] = {
		{"workloadName: w, workloadType: deployment, canonicalName: c, canonicalRevision: "
		 "v1, clusterId: k, locality: {region: r, zone: z}",
		 "k8s.cluster.name=k,k8s.namespace.name=ns,k8s.deployment.name=w,service.name=c,"
		 "service.version=v1,cloud.region=r,cloud.availability_zone=z"},
		{"workloadName: w, workloadType: cronjob",
		 "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.cronjob.name=w"},
		{"workloadName: w, workloadType: pod",
		 "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.pod.name=w"},
		{"workloadName: w, workloadType: job",
		 "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.job.name=w"},
		{"canonicalName: c",
		 "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,service.name=c"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		char yaml[1024];
		struct mesh *m;

		(void)snprintf(yaml, sizeof(yaml),
			       "workloads:\n  - {uid: a, name: a, namespace: ns, workloadIps: [], "
			       "services: {}, %s}\n",
			       rows[i].workload);
		m = mesh_from(yaml);
		baggage_format(mesh_workload_by_uid(m, STR("a")), &out);
		assert_string_equal(out.p, rows[i].want);
		mesh_unref(m);
	}
}

static void parse__table(void **state)
{
	static const struct {
		const char *in, *ns, *workload, *canonical;
		enum wl_type type;
	} rows[] = {
		{"k8s.namespace.name=n,k8s.deployment.name=w,service.name=c", "n", "w", "c",
		 WL_TYPE_DEPLOYMENT},
		{"service.name=c,k8s.job.name=w", "", "w", "c", WL_TYPE_JOB},
		{"k8s.cronjob.name=w", "", "w", "", WL_TYPE_CRONJOB},
		{"k8s.pod.name=w", "", "w", "", WL_TYPE_POD},
		{"", "", "", "", WL_TYPE_DEPLOYMENT},
		{",,,=,=x,k", "", "", "", WL_TYPE_DEPLOYMENT},
		{"k8s.namespace.name=", "", "", "", WL_TYPE_DEPLOYMENT}, /* empty: absent */
		{"k8s.namespace.name=a,k8s.namespace.name=", "a", "", "", WL_TYPE_DEPLOYMENT},
		{"k8s.namespace.name=a=b", "a=b", "", "", WL_TYPE_DEPLOYMENT}, /* first '=' */
		{" k8s.namespace.name=a", "", "", "", WL_TYPE_DEPLOYMENT}, /* nothing is trimmed */
		{"k8s.namespace.name=%41", "%41", "", "", WL_TYPE_DEPLOYMENT}, /* nor decoded */
		{"k8s.replicaset.name=w", "", "", "", WL_TYPE_DEPLOYMENT},
		{"k8s..name=w,k8s.name=w", "", "", "", WL_TYPE_DEPLOYMENT},
		{"k8s.namespace.name=\xff\xfe", "", "", "", WL_TYPE_DEPLOYMENT}, /* no text */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct baggage b = {0};

		baggage_parse(str_of(rows[i].in), &b);
		if (!str_eqc(b.ns, rows[i].ns) || !str_eqc(b.workload_name, rows[i].workload) ||
		    !str_eqc(b.canonical_name, rows[i].canonical) || b.type != rows[i].type)
			fail_msg("%s", rows[i].in);
	}
}

static void parse__several_lines_and_long_values(void **state)
{
	char line[512] = "service.name=";
	struct baggage b = {0};

	(void)state;
	baggage_parse(STR("k8s.namespace.name=n,cloud.region=r"), &b);
	baggage_parse(STR("service.name=c,cloud.region=s"), &b);
	assert_true(str_eqc(b.ns, "n"));
	assert_true(str_eqc(b.canonical_name, "c"));
	assert_true(str_eqc(b.region, "s"));
	memset(line + strlen(line), 'x', 254); /* longer than any name */
	baggage_parse(str_of(line), &b);
	assert_true(str_eqc(b.canonical_name, "c"));
}

static void workload__is_what_was_said(void **state)
{
	struct baggage b = {0};
	struct workload *w;

	(void)state;
	baggage_parse(STR("k8s.cluster.name=k,k8s.namespace.name=n,k8s.job.name=w,service.name=c,"
			  "service.version=v,cloud.region=r,cloud.availability_zone=z"),
		      &b);
	w = baggage_workload(&b, STR("shown"), "spiffe://td/ns/n/sa/s");
	assert_true(str_eqc(w->name, "shown"));
	assert_true(str_eqc(w->cluster, "k"));
	assert_true(str_eqc(w->ns, "n"));
	assert_true(str_eqc(w->workload_name, "w"));
	assert_true(str_eqc(w->canonical_name, "c"));
	assert_true(str_eqc(w->canonical_revision, "v"));
	assert_true(str_eqc(w->region, "r"));
	assert_true(str_eqc(w->zone, "z"));
	assert_int_equal(w->type, WL_TYPE_JOB);
	assert_string_equal(w->identity, "spiffe://td/ns/n/sa/s");
	workload_unref(w);
	w = baggage_workload(&(struct baggage){0}, STR(""), NULL);
	assert_string_equal(w->identity, "");
	workload_unref(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(format__table),
		cmocka_unit_test(parse__table),
		cmocka_unit_test(parse__several_lines_and_long_values),
		cmocka_unit_test(workload__is_what_was_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
