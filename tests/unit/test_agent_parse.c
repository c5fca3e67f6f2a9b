/* SPDX-License-Identifier: Apache-2.0
 * test_agent_parse.c: the agent's small readers: requests, journal, /proc, settings.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "node-agent/config.h"
#include "node-agent/enrol/attachment.h"
#include "node-agent/enrol/cgroup.h"
#include "node-agent/enrol/probes.h"
#include "node-agent/serve/cni_request.h"

#define UID "ee9a8e3f-0a1b-4c2d-9e8f-112233445566"

static const struct {
	const char *text;
	int want;
} cgroups[] = {
	/* cni-spec 3.10: one of each shape */
	{"0::/kubepods/burstable/pod" UID "/0123456789abcdef\n", 0},
	{"1:cpu:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-"
	 "podee9a8e3f_0a1b_4c2d_9e8f_112233445566.slice/docker-0123abcd.scope\n",
	 0},
	{"0::/kubepods.slice/kubepods-podee9a8e3f_0a1b_4c2d_9e8f_112233445566.slice/"
	 "cri-containerd-0123abcd.scope\n",
	 0},
	{"0::/system.slice/kubepods-podee9a8e3f_0a1b_4c2d_9e8f_112233445566.slice:cri-containerd:"
	 "0123abcd\n",
	 0},
	{"0::/kubepods.slice/kubepods-podee9a8e3f_0a1b_4c2d_9e8f_112233445566.slice/"
	 "crio-0123.scope/"
	 "container\n",
	 0},
	{"0::/docker/aaaa/kubepods/besteffort/pod" UID "/bbbb\n", 0},
	{"0::/../../pod" UID "/bbbb\n", 0},
	{"2:a,b:/kubepods/podee9a8e3f0a1b4c2d9e8f112233445566/bb\n1:c:/kubepods/pod" UID "/bb\n",
	 0},
	{"0::/\n1:x:/kubepods/pod" UID "/bbbb\n", 0},
	{"0::/user.slice/session-1.scope\n", -ENOENT},
	{"", -ENOENT},
	{"0::/kubepods/pod" UID "\n", -ENOENT}, /* no container below */
	{"0::/kubepods/pod" UID "/\n", -ENOENT},
	{"0::/kubepods/xpod" UID "/bb\n", -ENOENT},	 /* no punctuation before */
	{"0::/kubepods/podee9a8e3f-0a1b/bb\n", -ENOENT}, /* too short */
	{"no colons\n", -EINVAL},
	{"0::/a/pod" UID "/b\n1::/a/pod11111111-0a1b-4c2d-9e8f-112233445566/b\n", -EINVAL},
};

static void cgroup_pod_uid__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cgroups); i++) {
		char uid[CGROUP_UID_LEN + 1] = "";
		int r = cgroup_pod_uid(str_of(cgroups[i].text), uid);

		if (r != cgroups[i].want)
			fail_msg("row %zu: %d", i, r);
		if (r == 0)
			assert_string_equal(uid, UID);
	}
}

static void cgroup_start_time__after_the_last_parenthesis(void **state)
{
	uint64_t t = 0;

	(void)state;
	assert_int_equal(
		cgroup_start_time(STR("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 "
				      "4711 20\n"),
				  &t),
		0);
	assert_int_equal(t, 4711);
	assert_true(cgroup_start_time(STR("7 (a S 1 2"), &t) < 0);
	assert_true(cgroup_start_time(STR("7 (a)"), &t) < 0);
	assert_true(cgroup_start_time(STR(""), &t) < 0);
}

static void probes_is_kubelet__by_name_and_arguments(void **state)
{
	uint32_t uid = 9;

	(void)state;
	assert_true(probes_is_kubelet(STR("kubelet"), STR("/usr/bin/kubelet\0--config")));
	assert_true(probes_is_kubelet(STR("kubelite"), STR("/snap/KubeLet")));
	assert_true(probes_is_kubelet(STR("k3s"), STR("")));
	assert_false(probes_is_kubelet(STR("kubelet"), STR("/bin/sh")));
	assert_false(probes_is_kubelet(STR("k3s-server"), STR("kubelet")));
	assert_int_equal(probes_parse_uid(STR("Name:\tx\nUid:\t12\t0\t0\t0\nGid:\t1\n"), &uid), 0);
	assert_int_equal(uid, 12);
	assert_true(probes_parse_uid(STR("Name:\tx\n"), &uid) < 0);
	assert_true(probes_parse_uid(STR("Uid:\tx\n"), &uid) < 0);
}

static void attachment__journal_round_trip(void **state)
{
	struct attachment a = {.container_id = "abc.1",
			       .ifname = "eth0",
			       .netns_path = xstrdup("/var/run/netns/x \"y\""),
			       .id = {.dev = 4, .ino = 4026532000},
			       .name = xstrdup("p"),
			       .ns = xstrdup("d"),
			       .service_account = xstrdup("sa"),
			       .uid = UID,
			       .nips = 2,
			       .quarantined = true},
			  b = {0};
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err err = {0};

	(void)state;
	assert_int_equal(ip_parse(STR("10.0.0.1"), &a.ips[0]), 0);
	assert_int_equal(ip_parse(STR("fd00::1"), &a.ips[1]), 0);
	attachment_print(&a, &out);
	if (attachment_parse((struct str){out.p, out.n}, &b, &err) != 0)
		fail_msg("%s", err.msg);
	assert_string_equal(a.container_id, b.container_id);
	assert_string_equal(a.netns_path, b.netns_path);
	assert_string_equal(b.service_account, "sa");
	assert_string_equal(b.uid, UID);
	assert_true(netns_id_eq(a.id, b.id));
	assert_int_equal(b.nips, 2);
	assert_true(b.quarantined);
	assert_true(ip_eq(&a.ips[1], &b.ips[1]));
	attachment_fini(&b);
	/* cut anywhere it is an error, never half an entry */
	for (size_t n = 0; n + 2 < out.n; n++)
		assert_true(attachment_parse((struct str){out.p, n}, &b, &err) < 0);
	attachment_fini(&a);
}

static void attachment_check_id__is_a_file_name(void **state)
{
	static const char *const bad[] = {"",	".",  "..",  "../x", "a/b",
					  "-a", ".a", "a b", "a\n",  "\xc3\xa4"};
	char longest[ATTACHMENT_ID_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_true(attachment_check_id(str_of(bad[i]), NULL) < 0);
	assert_int_equal(attachment_check_id(STR("aB0_.-"), NULL), 0);
	memset(longest, 'a', sizeof(longest));
	assert_int_equal(attachment_check_id((struct str){longest, ATTACHMENT_ID_MAX - 1}, NULL),
			 0);
	assert_true(attachment_check_id((struct str){longest, ATTACHMENT_ID_MAX}, NULL) < 0);
}

static void cni_request__add(void **state)
{
	static const char body[] =
		"{\"command\":\"ADD\",\"containerID\":\"c1\",\"netns\":\"/n\",\"ifname\":\"eth0\","
		"\"podName\":\"p\",\"podNamespace\":\"d\",\"podUID\":\"" UID
		"\",\"ips\":[\"10.0.0.2/24\",\"fd00::2/64\"],\"deadlineMs\":700,\"later\":{}}";
	struct cni_request q = {0};
	struct err err = {0};
	unsigned int code;

	(void)state;
	if (cni_request_parse(str_of(body), &q, &code, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(q.command, CNI_ADD);
	assert_int_equal(q.deadline_ms, 700);
	assert_int_equal(q.at.nips, 2);
	assert_string_equal(q.at.uid, UID);
	assert_string_equal(q.at.netns_path, "/n");
	cni_request_fini(&q);
}

static void cni_request__verbs(void **state)
{
	struct cni_request q = {0};
	unsigned int code;

	(void)state;
	/* DEL needs a container only; the runtime may not know more */
	assert_int_equal(cni_request_parse(STR("{\"command\":\"DEL\",\"containerID\":\"c\"}"), &q,
					   &code, NULL),
			 0);
	assert_string_equal(q.at.name, "");
	cni_request_fini(&q);
	assert_int_equal(
		cni_request_parse(STR("{\"command\":\"GC\",\"validAttachments\":[{\"containerID\":"
				      "\"c\",\"ifname\":\"e\"},{\"containerID\":\"d\"}]}"),
				  &q, &code, NULL),
		0);
	assert_int_equal(q.nvalid, 2);
	assert_string_equal(q.valid[1].container_id, "d");
	cni_request_fini(&q);
	/* without the list nothing may be collected */
	assert_true(cni_request_parse(STR("{\"command\":\"GC\"}"), &q, &code, NULL) < 0);
	assert_int_equal(cni_request_parse(STR("{\"command\":\"STATUS\"}"), &q, &code, NULL), 0);
	cni_request_fini(&q);
	assert_true(cni_request_parse(STR("{\"command\":\"add\"}"), &q, &code, NULL) < 0);
	assert_int_equal(code, CNI_BAD_CONFIG);
	assert_true(cni_request_parse(STR("{\"command\":\"ADD\"}"), &q, &code, NULL) < 0);
	assert_int_equal(code, CNI_BAD_ENVIRONMENT);
}

static void cni_request__stock(void **state)
{
	/* the example of cni-spec 1.7 */
	static const char body[] =
		"{\"Netns\":\"/var/run/netns/"
		"cni-1\",\"PodName\":\"a\",\"PodNamespace\":\"b\",\"IPs\":"
		"[{\"Interface\":2,\"Address\":{\"IP\":\"10.1.2.3\",\"Mask\":\"////AA==\"},"
		"\"Gateway\":\"10.1.2.1\"}]}";
	struct cni_request q = {0}, again = {0};
	struct err err = {0};

	(void)state;
	if (cni_request_parse_stock(str_of(body), &q, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(q.at.nips, 1);
	assert_string_equal(q.at.ns, "b");
	assert_int_equal(attachment_check_id(str_of(q.at.container_id), NULL), 0);
	assert_int_equal(cni_request_parse_stock(
				 STR("{\"Netns\":\"/"
				     "n\",\"PodName\":\"a\",\"PodNamespace\":\"b\",\"IPs\":null}"),
				 &again, NULL),
			 0);
	assert_string_equal(q.at.container_id, again.at.container_id);
	cni_request_fini(&q);
	cni_request_fini(&again);
	assert_true(
		cni_request_parse_stock(STR("{\"Netns\":\"/n\",\"PodName\":\"a\","
					    "\"PodNamespace\":\"b\",\"IPs\":[{\"Address\":{\"IP\":"
					    "\"1.2.3\"}}]}"),
					&q, &err) < 0);
	assert_non_null(strstr(err.msg, "1.2.3"));
	assert_true(cni_request_parse_stock(STR("{\"Netns\":\"/n\",\"PodName\":\"a\","
						"\"PodNamespace\":\"b\",\"IPs\":[{}]}"),
					    &q, &err) < 0);
}

static void config__environment_then_flags(void **state)
{
	char *argv[] = {(char[]){"x"}, (char[]){"--exclude-namespaces= a,,b "}, NULL};
	enum config_action action = CONFIG_HELP;
	struct config c;
	struct err err = {0};

	(void)state;
	assert_int_equal(setenv("EXCLUDE_NAMESPACES", "z", 1), 0);
	assert_int_equal(setenv("CNI_AGENT_RUN_DIR", "/run/x", 1), 0);
	assert_int_equal(setenv("AMBIENT_DNS_CAPTURE", "T", 1), 0);
	if (config_read(&c, 2, argv, &action, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(action, CONFIG_RUN);
	assert_string_equal(c.run_dir, "/run/x");
	assert_true(c.dns_capture && c.host_probes);
	assert_int_equal(c.nexcluded, 2);
	assert_true(str_eqc(c.excluded[0], "a") && str_eqc(c.excluded[1], "b"));
	config_fini(&c);
	assert_int_equal(setenv("HOST_PROBE_SNAT_IP", "::1", 1), 0);
	assert_true(config_read(&c, 1, argv, &action, &err) < 0);
	assert_non_null(strstr(err.msg, "HOST_PROBE_SNAT_IP"));
	config_fini(&c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(cgroup_pod_uid__table),
		cmocka_unit_test(cgroup_start_time__after_the_last_parenthesis),
		cmocka_unit_test(probes_is_kubelet__by_name_and_arguments),
		cmocka_unit_test(attachment__journal_round_trip),
		cmocka_unit_test(attachment_check_id__is_a_file_name),
		cmocka_unit_test(cni_request__add),
		cmocka_unit_test(cni_request__verbs),
		cmocka_unit_test(cni_request__stock),
		cmocka_unit_test(config__environment_then_flags),
	};

	return cmocka_run_group_tests_name("agent_parse", tests, NULL, NULL);
}
