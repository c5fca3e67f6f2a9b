/* SPDX-License-Identifier: Apache-2.0
 * test_ctl_check.c: facts to rows of `ambientctl check`; NetworkPolicies; rules as text.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/check.h"
#include "ctl/check_policy.h"
#include "ctl/model.h"
#include "ctl/rules_print.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define NOW 1790000000 /* 2026-09-21T14:13:20Z */

static const struct ctl_row *row_of(const struct ctl_rows *rows, const char *what)
{
	for (size_t i = 0; i < rows->n; i++)
		if (strcmp(rows->row[i].what, what) == 0)
			return &rows->row[i];
	fail_msg("no row %s", what);
	return NULL;
}

static void expect(const struct ctl_rows *rows, const char *what, enum ctl_result result,
		   const char *part)
{
	const struct ctl_row *r = row_of(rows, what);

	if (r->result != result || strstr(r->observed, part) == NULL)
		fail_msg("%s: result %d, %s", what, r->result, r->observed);
	if ((result == CTL_FAILED || result == CTL_WARNING) && r->fix == NULL)
		fail_msg("%s has no fix", what);
}

#define LIST(p) "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[" p "]}"
#define T(t)	"{\"type\":\"" t "\"}"

static void ctl_check_cni__table(void **state)
{
	static const struct {
		struct {
			const char *name, *text;
		} files[3];
		const char *what;
		enum ctl_result result;
		const char *part;
	} rows[] = {
		{{{"10-x.conflist", LIST(T("bridge") "," T("ambient-cni"))}},
		 "CNI chain",
		 CTL_OK,
		 "/d/10-x.conflist: bridge, ambient-cni"},
		{{{"10-x.conflist", LIST(T("bridge"))}},
		 "CNI chain",
		 CTL_FAILED,
		 "is not in it (bridge)"},
		{{{"10-x.conflist", LIST(T("bridge") "," T("ambient-cni"))},
		  {"05-y.conflist", LIST(T("calico"))}},
		 "CNI chain",
		 CTL_FAILED,
		 "runtimes use /d/05-y.conflist"},
		{{{"10-x.conflist", LIST(T("ambient-cni") "," T("bridge"))}},
		 "CNI chain",
		 CTL_FAILED,
		 "comes first"},
		{{{"10-x.conflist", LIST(T("bridge") "," T("ambient-cni") "," T("portmap"))}},
		 "CNI chain",
		 CTL_WARNING,
		 "not the last"},
		{{{"10-x.conf", T("bridge")}}, "CNI chain", CTL_FAILED, "(bridge)"},
		{{{"05-broken.conflist", "{"},
		  {"10-x.conflist", LIST(T("bridge") "," T("ambient-cni"))}},
		 "CNI chain",
		 CTL_OK,
		 "10-x"},
		{{{"05-broken.conflist", "{"},
		  {"10-x.conflist", LIST(T("bridge") "," T("ambient-cni"))}},
		 "CNI file",
		 CTL_WARNING,
		 "/d/05-broken.conflist: JSON line 1"},
		{{{"05-empty.conflist", "{\"plugins\":[]}"}}, "CNI file", CTL_WARNING, "empty"},
		{{{"05-empty.conflist", "{\"plugins\":[]}"}}, "CNI chain", CTL_FAILED, "no usable"},
		{{{"10-x.conflist.bak", LIST(T("a"))}, {".11-x.conflist", LIST(T("a"))}},
		 "CNI chain",
		 CTL_FAILED,
		 "no usable"},
		{{{"10-x.conflist", LIST(T("bridge") "," T("istio-cni") "," T("ambient-cni"))}},
		 "other meshes",
		 CTL_FAILED,
		 "istio-cni of another mesh"},
		{{{"10-x.conflist", LIST(T("bridge") "," T("ambient-cni"))}},
		 "other meshes",
		 CTL_OK,
		 "no plugin"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ctl_rows out = {.a = arena_new()};
		struct ctl_cni_file files[3];
		size_t n = 0;

		for (; n < 3 && rows[i].files[n].name != NULL; n++)
			files[n] = (struct ctl_cni_file){rows[i].files[n].name,
							 str_of(rows[i].files[n].text)};
		ctl_check_cni(&out, "/d", files, n);
		expect(&out, rows[i].what, rows[i].result, rows[i].part);
		(void)arena_free(out.a);
	}
}

static void ctl_policy_read__table(void **state)
{
	static const struct {
		const char *spec;
		bool in, out;
	} rows[] = {
		{"{\"podSelector\":{}}", true, false},
		{"{\"ingress\":[{}]}", false, false},
		{"{\"ingress\":[{\"ports\":[]}]}", false, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":8080}]}]}", true, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":15008}]}]}", false, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":15008,\"protocol\":\"UDP\"}]}]}", true,
		 false},
		{"{\"ingress\":[{\"ports\":[{\"protocol\":\"TCP\"}]}]}", false, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":\"hbone\"}]}]}", true, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":15000,\"endPort\":15010}]}]}", false, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":15000,\"endPort\":15007}]}]}", true, false},
		{"{\"ingress\":[{\"ports\":[{\"port\":80}]},{\"ports\":[{\"port\":15008}]}]}",
		 false, false},
		{"{\"egress\":[{\"ports\":[{\"port\":53}]}]}", true, true},
		{"{\"policyTypes\":[\"Egress\"],\"egress\":[{\"ports\":[{\"port\":53}]}]}", false,
		 true},
		{"{\"policyTypes\":[\"Egress\"]}", false, true},
		{"{\"policyTypes\":[\"Ingress\"],\"egress\":[]}", true, false},
		{"{\"policyTypes\":[\"Ingress\",\"Egress\"],\"ingress\":[{}],\"egress\":[{}]}",
		 false, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_free_ char *text = xasprintf("{\"spec\":%s}", rows[i].spec);
		struct arena *a = arena_new();
		struct ctl_policy_verdict v = {0};
		const struct doc *d = NULL;
		struct err err = {0};

		assert_int_equal(json_parse(str_of(text), a, &d, &err), 0);
		assert_int_equal(ctl_policy_read(d, &v, &err), 0);
		if (v.blocks_in != rows[i].in || v.blocks_out != rows[i].out)
			fail_msg("%s: in %d, out %d", text, v.blocks_in, v.blocks_out);
		(void)arena_free(a);
	}
}

static void ctl_policy_read__malformed(void **state)
{
	static const char *const bad[] = {
		"[]",
		"{}",
		"{\"spec\":7}",
		"{\"spec\":{\"ingress\":{}}}",
		"{\"spec\":{\"ingress\":[7]}}",
		"{\"spec\":{\"ingress\":[{\"ports\":[{\"port\":0}]}]}}",
		"{\"spec\":{\"ingress\":[{\"ports\":[{\"port\":99999}]}]}}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct arena *a = arena_new();
		struct ctl_policy_verdict v;
		const struct doc *d = NULL;
		struct err err = {0};

		assert_int_equal(json_parse(str_of(bad[i]), a, &d, &err), 0);
		assert_int_equal(ctl_policy_read(d, &v, &err), -EINVAL);
		(void)arena_free(a);
	}
}

static void load(struct ctl_rows *rows, const char *agent, const char *dump, struct ctl_report *r)
{
	const struct doc *d = NULL;
	struct err err = {0};

	*r = (struct ctl_report){
		.now = NOW, .agent.error = "no socket", .ztunnel.error = "no socket"};
	if (agent != NULL) {
		assert_int_equal(json_parse(str_of(agent), rows->a, &d, &err), 0);
		assert_int_equal(ctl_agent_read(d, rows->a, &r->agent, &err), 0);
	}
	if (dump != NULL) {
		assert_int_equal(json_parse(str_of(dump), rows->a, &d, &err), 0);
		assert_int_equal(ctl_ztunnel_read(d, rows->a, &r->ztunnel, &err), 0);
	}
}

#define CERT(id, state, from, to, root)                                                            \
	"{\"identity\":\"" id "\",\"state\":\"" state "\",\"certChain\":[{\"serialNumber\":\"1\"," \
	"\"validFrom\":\"" from "\",\"expirationTime\":\"" to "\"}],\"rootCerts\":["               \
	"{\"serialNumber\":\"" root "\",\"expirationTime\":\"2036-01-01T00:00:00Z\"}]}"
#define GOOD                                                                                       \
	CERT("spiffe://td/ns/a/sa/b", "Available", "2026-09-21T00:00:00Z", "2026-09-22T14:00:00Z", \
	     "7")
#define DUMP(version, certs)                                                                       \
	"{\"version\":{\"version\":\"1.0\",\"openssl\":\"" version "\"},\"certificates\":[" certs  \
	"]}"
#define AGENT                                                                                      \
	"{\"version\":\"1.0\",\"ready\":true,\"ztunnels\":[{\"pid\":5,\"newest\":true}],\"pods\":" \
	"[]}"

static void ctl_check__programs_and_certificates(void **state)
{
	static const struct {
		const char *agent, *dump, *plugin;
		const char *what;
		enum ctl_result result;
		const char *part;
	} rows[] = {
		{AGENT, DUMP("3.5.1", GOOD), "1.0", "agent", CTL_OK, "1.0 is ready"},
		{NULL, NULL, NULL, "agent", CTL_FAILED, "no socket"},
		{"{\"version\":\"1\",\"ready\":false,\"reason\":\"why\"}", NULL, NULL, "agent",
		 CTL_FAILED, "why"},
		{NULL, NULL, NULL, "ztunnel", CTL_FAILED, "no socket"},
		{AGENT, NULL, "1.0", "agent to ztunnel", CTL_OK, "pid 5"},
		{"{\"version\":\"1\",\"ready\":true}", NULL, NULL, "agent to ztunnel", CTL_FAILED,
		 "no ztunnel"},
		{AGENT, DUMP("3.5.1", GOOD), "1.0", "versions", CTL_OK, "agent 1.0, ztunnel 1.0"},
		{"{\"version\":\"0.9\",\"ready\":true}", DUMP("3", GOOD), "1.0", "versions",
		 CTL_WARNING, "agent 0.9, ztunnel 1.0"},
		{AGENT, NULL, "1.0", "versions", CTL_NOT_CHECKED, "does not answer"},
		{AGENT, NULL, "1.1", "plugin version", CTL_WARNING, "plugin 1.1, agent 1.0"},
		{AGENT, NULL, "1.0", "plugin version", CTL_OK, "plugin 1.0"},
		{AGENT, NULL, NULL, "plugin version", CTL_NOT_CHECKED, "why not"},
		{AGENT, DUMP("3.0.17", GOOD), NULL, "OpenSSL", CTL_WARNING, "3.0.17"},
		{AGENT, DUMP("1.1.1w", GOOD), NULL, "OpenSSL", CTL_WARNING, "1.1.1w"},
		{AGENT, DUMP("3.1.0", GOOD), NULL, "OpenSSL", CTL_OK, "3.1.0"},
		{AGENT, DUMP("4.0.0", GOOD), NULL, "OpenSSL", CTL_OK, "4.0.0"},
		{AGENT, DUMP("", GOOD), NULL, "OpenSSL", CTL_NOT_CHECKED, "does not tell"},
		{AGENT, DUMP("3", GOOD), NULL, "certificates", CTL_OK, "1 valid"},
		{AGENT, NULL, NULL, "certificates", CTL_NOT_CHECKED, "does not answer"},
		{AGENT,
		 DUMP("3",
		      CERT("i", "Available", "2026-01-01T00:00:00Z", "2026-09-21T14:13:19Z", "7")),
		 NULL, "certificates", CTL_FAILED, "1 of 1"},
		{AGENT, DUMP("3", "{\"identity\":\"i\",\"state\":\"Unavailable: CA\"}"), NULL,
		 "certificates", CTL_FAILED, "i Unavailable: CA"},
		{AGENT, DUMP("3", GOOD), NULL, "roots", CTL_OK, "1 root, the same"},
		{AGENT, DUMP("3", ""), NULL, "roots", CTL_NOT_CHECKED, "no certificate yet"},
		{AGENT,
		 DUMP("3", GOOD "," CERT("i", "Available", "2026-01-01T00:00:00Z",
					 "2026-12-01T00:00:00Z", "8")),
		 NULL, "roots", CTL_WARNING, "1 identities have other roots"},
		{AGENT, DUMP("3", GOOD), NULL, "clock and certificates", CTL_OK, "no certificate"},
		{AGENT,
		 DUMP("3",
		      CERT("i", "Available", "2026-09-21T14:14:20Z", "2026-12-01T00:00:00Z", "8")),
		 NULL, "clock and certificates", CTL_FAILED, "60 s in the future"},
	};
	const struct ctl_clock clock = {.known = true, .synchronised = true};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ctl_rows out = {.a = arena_new()};
		struct ctl_report r;

		load(&out, rows[i].agent, rows[i].dump, &r);
		ctl_check_programs(&out, &r, rows[i].plugin, "why not");
		ctl_check_certs(&out, &r);
		ctl_check_openssl(&out, &r);
		ctl_check_clock(&out, &clock, &r);
		expect(&out, rows[i].what, rows[i].result, rows[i].part);
		(void)arena_free(out.a);
	}
}

static void ctl_check__node(void **state)
{
	static const struct {
		const char *probes;
		enum ctl_result result;
		const char *part;
	} probes[] = {
		{"{\"probes\":{\"enabled\":false,\"active\":false}}", CTL_WARNING,
		 "is told not to"},
		{"{\"probes\":{\"enabled\":true,\"active\":false}}", CTL_WARNING, "no kubelet"},
		{"{\"probes\":{\"enabled\":true,\"active\":true,\"rules\":\"present\"}}", CTL_OK,
		 "present"},
		{"{\"probes\":{\"enabled\":true,\"active\":true,\"rules\":\"different\","
		 "\"ruleDiff\":\"missing: x\\ny\"}}",
		 CTL_FAILED, "different: missing: x"},
		{"{}", CTL_NOT_CHECKED, "does not tell"},
		{"{\"probes\":7}", CTL_NOT_CHECKED, "does not tell"},
	};
	static const struct {
		struct ctl_clock c;
		enum ctl_result result;
	} clocks[] = {
		{{.known = false}, CTL_NOT_CHECKED},
		{{.known = true}, CTL_WARNING},
		{{.known = true, .synchronised = true, .max_error_us = 2000000}, CTL_WARNING},
		{{.known = true, .synchronised = true, .max_error_us = 1000}, CTL_OK},
	};
	static const struct {
		uint64_t open, limit;
		enum ctl_result result;
	} fds[] = {{10, 0, CTL_NOT_CHECKED}, {10, 1024, CTL_OK},      {682, 1024, CTL_OK},
		   {700, 1024, CTL_WARNING}, {950, 1024, CTL_FAILED}, {1024, 1024, CTL_FAILED}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		struct ctl_rows out = {.a = arena_new()};
		const struct doc *d = NULL;

		assert_int_equal(json_parse(str_of(probes[i].probes), out.a, &d, NULL), 0);
		ctl_check_probes(&out, d, NULL);
		expect(&out, "probe exemption", probes[i].result, probes[i].part);
		(void)arena_free(out.a);
	}
	for (size_t i = 0; i < ARRAY_LEN(clocks); i++) {
		struct ctl_rows out = {.a = arena_new()};
		const struct ctl_report r = {0};

		ctl_check_clock(&out, &clocks[i].c, &r);
		expect(&out, "clock", clocks[i].result, "");
		(void)arena_free(out.a);
	}
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		struct ctl_rows out = {.a = arena_new()};

		ctl_check_descriptors(&out, "fds", fds[i].open, fds[i].limit, "why");
		expect(&out, "fds", fds[i].result, "");
		(void)arena_free(out.a);
	}
}

static void ctl_check__network(void **state)
{
	struct ctl_rows out = {.a = arena_new()};

	(void)state;
	ctl_check_mtu(&out, "", 0, 1, 1500);
	assert_int_equal(out.row[0].result, CTL_NOT_CHECKED);
	ctl_check_mtu(&out, "eth0", 1500, 0, 0);
	assert_int_equal(out.row[1].result, CTL_OK);
	ctl_check_mtu(&out, "eth0", 1500, 3, 1500);
	assert_int_equal(out.row[2].result, CTL_OK);
	ctl_check_mtu(&out, "eth0", 1400, 3, 1500);
	assert_int_equal(out.row[3].result, CTL_WARNING);
	assert_string_equal(
		out.row[3].observed,
		"pods have 1500, eth0 has 1400: full packets are dropped or fragmented");
	ctl_check_rp_filter(&out, 0, 4, "");
	assert_int_equal(out.row[4].result, CTL_OK);
	ctl_check_rp_filter(&out, 1, 4, "eth0");
	assert_int_equal(out.row[5].result, CTL_WARNING);
	(void)arena_free(out.a);
}

static void ctl_plugin_version__table(void **state)
{
	static const struct {
		const char *file, *want;
	} rows[] = {
		{"\177ELF...ambient-cni 0.1.0\nusage", "0.1.0"},
		{"ambient-cni is a plugin\nambient-cni 1.2.3-rc1 x", "1.2.3-rc1"},
		{"ambient-cni ", NULL},
		{"", NULL},
		{"bridge 1.0", NULL},
	};
	struct arena *a = arena_new();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *v = ctl_plugin_version(str_of(rows[i].file), a);

		if (rows[i].want == NULL)
			assert_null(v);
		else
			assert_string_equal(v, rows[i].want);
	}
	(void)arena_free(a);
}

static void ctl_rules_path__escapes(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};

	(void)state;
	ctl_rules_path("a/b c%&\xc3\xa4~", &out);
	assert_string_equal(out.p, "/v1/rules?pod=a%2Fb%20c%25%26%C3%A4~");
}

static void ctl_rules_print__lines(void **state)
{
	static const char doc[] =
		"{\"pods\":[{\"namespace\":\"n\",\"name\":\"p\",\"uid\":\"u\",\"containerID\":"
		"\"c\","
		"\"netns\":\"/x\",\"wanted\":true,\"rules\":\"different\",\"lines\":["
		"{\"state\":\"present\",\"text\":\"t ch rule 1: tcp accept\"},"
		"{\"state\":\"missing\",\"text\":\"t ch rule 2: \\u001b[31m\"},"
		"{\"state\":\"missing\",\"text\":\"ip rule (IPv4): x\"}],\"connections\":3,"
		"\"sockets\":[{\"port\":15001,\"name\":\"outbound\",\"listening\":true,\"waiting\":"
		"1,"
		"\"backlog\":9},{\"port\":15006,\"name\":\"in\",\"listening\":false,\"error\":"
		"\"e\"}]}]}";
	static const char want[] = "n/p\n"
				   "  uid             u\n"
				   "  container       c\n"
				   "  namespace file  /x\n"
				   "  t ch\n"
				   "    present     1: tcp accept\n"
				   "    missing     2: \\x1b[31m\n"
				   "  tables, routes\n"
				   "    missing     ip rule (IPv4): x\n"
				   "  sockets, held by the agent\n"
				   "    15001  outbound, listening, 1 of 9 waiting\n"
				   "    15006  in, NOT listening: e\n"
				   "  connections that the mesh carries: 3\n"
				   "  2 lines are not as wanted: something else changed the rules; "
				   "restart ambient-agent to put them back\n";
	_cleanup_strbuf_ struct strbuf out = {0};
	struct arena *a = arena_new();
	const struct doc *d = NULL;
	bool wrong = false;

	(void)state;
	assert_int_equal(json_parse(str_of(doc), a, &d, NULL), 0);
	assert_int_equal(ctl_rules_print(d, false, &out, &wrong, NULL), 0);
	assert_string_equal(out.p, want);
	assert_true(wrong);
	assert_int_equal(json_parse(STR("{\"pods\":[{\"lines\":[{\"state\":1}]}]}"), a, &d, NULL),
			 0);
	assert_int_equal(ctl_rules_print(d, false, &out, &wrong, NULL), -EINVAL);
	(void)arena_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ctl_check_cni__table),
		cmocka_unit_test(ctl_policy_read__table),
		cmocka_unit_test(ctl_policy_read__malformed),
		cmocka_unit_test(ctl_check__programs_and_certificates),
		cmocka_unit_test(ctl_check__node),
		cmocka_unit_test(ctl_check__network),
		cmocka_unit_test(ctl_plugin_version__table),
		cmocka_unit_test(ctl_rules_path__escapes),
		cmocka_unit_test(ctl_rules_print__lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
