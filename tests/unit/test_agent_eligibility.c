/* SPDX-License-Identifier: Apache-2.0
 * test_agent_eligibility.c: the table of cni-spec 3.4, and annotations to rules (5.1).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/enrol/eligibility.h"
#include "node-agent/source/pods.h"

struct row {
	const char *name; /* cni-spec section first */
	const char *ns_mode, *pod_mode;
	bool host_network, sidecar, terminal, no_ns, no_pod;
	const char *ns, *app, *node;
	enum eligibility want;
	const char *reason; /* part of the sentence */
};

static const struct row rows[] = {
	{"3.4 namespace ambient, pod unlabelled", .ns_mode = "ambient", .want = ELIGIBLE_YES,
	 .reason = "namespace default"},
	{"3.4 namespace unlabelled, pod ambient", .pod_mode = "ambient", .want = ELIGIBLE_YES,
	 .reason = "the pod is labelled"},
	{"3.4 namespace ambient, pod none", .ns_mode = "ambient", .pod_mode = "none",
	 .want = ELIGIBLE_NO, .reason = "none"},
	{"3.4 namespace ambient, pod with another value", .ns_mode = "ambient", .pod_mode = "x",
	 .want = ELIGIBLE_YES},
	{"3.4 namespace none, pod ambient", .ns_mode = "none", .pod_mode = "ambient",
	 .want = ELIGIBLE_YES},
	{"3.4 nothing labelled", .want = ELIGIBLE_NO, .reason = "neither"},
	{"3.4 namespace with another value", .ns_mode = "Ambient", .want = ELIGIBLE_NO},
	{"3.4 sidecar", .ns_mode = "ambient", .sidecar = true, .want = ELIGIBLE_NO,
	 .reason = "sidecar"},
	{"3.4 sidecar, pod ambient", .pod_mode = "ambient", .sidecar = true, .want = ELIGIBLE_NO},
	{"3.4 host network", .ns_mode = "ambient", .pod_mode = "ambient", .host_network = true,
	 .want = ELIGIBLE_NO, .reason = "host"},
	{"3.4 excluded namespace", .ns_mode = "ambient", .pod_mode = "ambient", .ns = "kube-system",
	 .want = ELIGIBLE_NO, .reason = "excluded"},
	{"3.4 finished", .ns_mode = "ambient", .terminal = true, .want = ELIGIBLE_NO,
	 .reason = "finished"},
	{"3.4 ztunnel itself", .ns_mode = "ambient", .ns = "istio-system", .app = "ztunnel",
	 .want = ELIGIBLE_NO, .reason = "ztunnel"},
	{"3.4 a pod called ztunnel elsewhere", .ns_mode = "ambient", .app = "ztunnel",
	 .want = ELIGIBLE_YES},
	{"1.9 pod unknown", .ns_mode = "ambient", .no_pod = true, .want = ELIGIBLE_UNKNOWN},
	{"3.6 namespace unknown", .no_ns = true, .want = ELIGIBLE_UNKNOWN,
	 .reason = "namespace default is not known"},
	{"3.6 namespace unknown, pod ambient", .pod_mode = "ambient", .no_ns = true,
	 .want = ELIGIBLE_UNKNOWN},
	{"3.6 namespace unknown, decided anyway", .no_ns = true, .host_network = true,
	 .want = ELIGIBLE_NO},
	{"3.2 placed on another node", .ns_mode = "ambient", .node = "n2", .want = ELIGIBLE_UNKNOWN,
	 .reason = "n2"},
	{"3.2 placed here", .ns_mode = "ambient", .node = "n1", .want = ELIGIBLE_YES},
};

static char *text(const char *s)
{
	return (char *)(uintptr_t)s;
}

static struct config settings(void)
{
	struct config c = {.node_name = text("n1"), .system_namespace = text("istio-system")};

	c.excluded[c.nexcluded++] = STR("kube-public");
	c.excluded[c.nexcluded++] = STR("kube-system");
	return c;
}

static void eligibility_of__row(void **state)
{
	const struct row *r = *state;
	struct config cfg = settings();
	char reason[ELIGIBILITY_REASON_MAX] = "";
	struct pod p = {.name = text("p"),
			.ns = text(r->ns != NULL ? r->ns : "default"),
			.mode = text(r->pod_mode),
			.app = text(r->app),
			.node_name = text(r->node),
			.host_network = r->host_network,
			.sidecar = r->sidecar,
			.terminal = r->terminal};
	struct pod_namespace ns = {.name = p.ns, .mode = text(r->ns_mode)};

	assert_int_equal(eligibility_of(r->no_pod ? NULL : &p, r->no_ns ? NULL : &ns, &cfg, reason),
			 r->want);
	assert_true(reason[0] != '\0');
	if (r->reason != NULL)
		assert_non_null(strstr(reason, r->reason));
}

static void eligibility_rules__annotations(void **state)
{
	struct config cfg = settings();
	struct pod p = {.name = text("p"), .ns = text("default")};
	char ignored[ELIGIBILITY_REASON_MAX];
	struct nft_pod_opts o;
	struct err err = {0};

	(void)state;
	assert_int_equal(eligibility_rules(&p, &cfg, &o, ignored, &err), 0);
	assert_false(o.dns_capture || o.ingress_mode);
	cfg.dns_capture = true;
	p.bypass_inbound = text("T");
	assert_int_equal(eligibility_rules(&p, &cfg, &o, ignored, &err), 0);
	assert_true(o.dns_capture && o.ingress_mode);
	assert_string_equal(ignored, "");
	p.dns_capture = text("0"); /* overrides both ways */
	p.bypass_inbound = text("yes");
	assert_int_equal(eligibility_rules(&p, &cfg, &o, ignored, &err), 0);
	assert_false(o.dns_capture || o.ingress_mode);
	assert_non_null(strstr(ignored, "bypass-inbound-capture"));
	p.reroute_ifaces = text(" kubevirt0, ,tap1");
	assert_int_equal(eligibility_rules(&p, &cfg, &o, ignored, &err), 0);
	assert_int_equal(o.nifaces, 2);
	assert_string_equal(o.ifaces[1], "tap1");
	/* stock pastes this into the rules (cni-spec 10.21) */
	p.reroute_ifaces = text("eth0\" drop; #");
	assert_true(eligibility_rules(&p, &cfg, &o, ignored, &err) < 0);
	assert_non_null(strstr(err.msg, "reroute-virtual-interfaces"));
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 1];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[i] = (struct CMUnitTest){rows[i].name, eligibility_of__row, NULL, NULL,
					       (void *)(uintptr_t)&rows[i]};
	tests[ARRAY_LEN(rows)] =
		(struct CMUnitTest)cmocka_unit_test(eligibility_rules__annotations);
	return cmocka_run_group_tests_name("agent_eligibility", tests, NULL, NULL);
}
