/* SPDX-License-Identifier: Apache-2.0
 * test_cni_result.c: prevResult comes out as it went in, in the version that was asked for
 * (cni-spec 1.4; CNI specification, "Result types" of 0.4.0 and 1.0.0).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cni/result.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

static const struct doc *json(const char *in, struct arena *a)
{
	const struct doc *d = NULL;
	struct err err = {0};

	if (json_parse(str_of(in), a, &d, &err) != 0)
		fail_msg("%s", err.msg);
	return d;
}

struct row {
	const char *name;
	enum cni_version version;
	const char *in, *out; /* in NULL: no prevResult; out NULL: refused */
	const char *msg;
};

static const struct row rows[] = {
	{"none__1_1_0", CNI_V_1_1_0, NULL, "{\"cniVersion\":\"1.1.0\",\"dns\":{}}\n", NULL},
	{"none__0_3_0", CNI_V_0_3_0, NULL, "{\"cniVersion\":\"0.3.0\",\"dns\":{}}\n", NULL},
	{"same__bytes_kept", CNI_V_1_0_0,
	 "{ \"ips\" : [ ], \"x\":1.50e2, \"cniVersion\":\"1.0.0\", \"\\u0041\":\"\\u00e9\"}",
	 "{ \"ips\" : [ ], \"x\":1.50e2, \"cniVersion\":\"1.0.0\", \"\\u0041\":\"\\u00e9\"}\n",
	 NULL},
	{"same__ip_version_kept", CNI_V_1_0_0,
	 "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}",
	 "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}\n",
	 NULL},
	{"absent__added", CNI_V_0_4_0,
	 "{\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}",
	 "{\"cniVersion\":\"0.4.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}\n",
	 NULL},
	{"absent__empty_object", CNI_V_1_1_0, "{}", "{\"cniVersion\":\"1.1.0\"}\n", NULL},
	{"null_version__replaced", CNI_V_1_1_0, "{\"cniVersion\":null,\"a\":{}}",
	 "{\"cniVersion\":\"1.1.0\",\"a\":{}}\n", NULL},
	{"convert__0_3_1_to_0_4_0", CNI_V_0_4_0,
	 "{\"cniVersion\":\"0.3.1\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}",
	 "{\"cniVersion\":\"0.4.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}]}\n",
	 NULL},
	{"convert__1_0_0_to_1_1_0", CNI_V_1_1_0,
	 "{\"cniVersion\":\"1.0.0\",\"ips\":[],\"y\":[1, 2]}",
	 "{\"cniVersion\":\"1.1.0\",\"ips\":[],\"y\":[1, 2]}\n", NULL},
	{"convert__up_drops_ip_version", CNI_V_1_0_0,
	 "{\"cniVersion\":\"0.4.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\","
	 "\"interface\":0,\"my\":{\"k\":1}}],\"routes\":[{\"dst\":\"0.0.0.0/0\"}],\"z\":true}",
	 "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.0.0.2/24\",\"interface\":0,"
	 "\"my\":{\"k\":1}}],\"routes\":[{\"dst\":\"0.0.0.0/0\"}],\"z\":true}\n",
	 NULL},
	{"convert__down_adds_ip_version", CNI_V_0_3_0,
	 "{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.0.0.2/24\"},"
	 "{\"address\":\"fd00::2/64\",\"gateway\":\"fd00::1\"}],\"dns\":{\"domain\":\"a\"}}",
	 "{\"cniVersion\":\"0.3.0\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"},"
	 "{\"version\":\"6\",\"address\":\"fd00::2/64\",\"gateway\":\"fd00::1\"}],"
	 "\"dns\":{\"domain\":\"a\"}}\n",
	 NULL},
	{"convert__key_with_escapes", CNI_V_1_1_0, "{\"cniVersion\":\"1.0.0\",\"a\\\"b\\n\":[]}",
	 "{\"cniVersion\":\"1.1.0\",\"a\\\"b\\n\":[]}\n", NULL},
	{"refuse__0_2_0", CNI_V_1_0_0, "{\"cniVersion\":\"0.2.0\",\"ip4\":{}}", NULL,
	 "prevResult.cniVersion: \"0.2.0\" cannot be converted"},
	{"refuse__version_type", CNI_V_1_0_0, "{\"cniVersion\":1}", NULL, "cniVersion (line 1)"},
	{"refuse__ips_type", CNI_V_1_0_0, "{\"ips\":{}}", NULL, "ips (line 1): expected list"},
	{"refuse__interfaces_type", CNI_V_1_0_0, "{\"interfaces\":1}", NULL, "interfaces (line 1)"},
	{"refuse__ip_element", CNI_V_1_0_0, "{\"ips\":[7]}", NULL, "ips[0] (line 1): expected map"},
	{"refuse__no_address", CNI_V_1_0_0, "{\"ips\":[{}]}", NULL, "field address is missing"},
	{"refuse__address_without_prefix", CNI_V_1_0_0, "{\"ips\":[{\"address\":\"10.0.0.2\"}]}",
	 NULL, "ips[0].address (line 1): expected an address with prefix length"},
	{"refuse__address_garbage", CNI_V_1_0_0, "{\"ips\":[{\"address\":\"10.0.0.256/24\"}]}",
	 NULL, "got \"10.0.0.256/24\""},
	{"refuse__prefix_33", CNI_V_1_0_0, "{\"ips\":[{\"address\":\"10.0.0.2/33\"}]}", NULL,
	 "ips[0].address"},
	{"refuse__address_with_zone", CNI_V_1_0_0, "{\"ips\":[{\"address\":\"fe80::1%eth0/64\"}]}",
	 NULL, "ips[0].address"},
	{"refuse__gateway", CNI_V_1_0_0,
	 "{\"ips\":[{\"address\":\"10.0.0.2/24\",\"gateway\":\"x\"}]}", NULL, "ips[0].gateway"},
	{"refuse__interface_negative", CNI_V_1_0_0,
	 "{\"ips\":[{\"address\":\"10.0.0.2/24\",\"interface\":-1}]}", NULL, "ips[0].interface"},
	{"refuse__interface_text", CNI_V_1_0_0,
	 "{\"ips\":[{\"address\":\"10.0.0.2/24\",\"interface\":\"0\"}]}", NULL, "ips[0].interface"},
};

static void result__row(void **state)
{
	const struct row *row = *state;
	_cleanup_strbuf_ struct strbuf out = {0};
	struct arena *a = arena_new();
	struct cni_fail f = {0};
	struct result res;
	const struct doc *prev = row->in != NULL ? json(row->in, a) : NULL;
	int r = result_parse(prev, row->version, &res, &f);

	if (row->out == NULL) {
		assert_int_equal(r, -1);
		if (strstr(f.msg, row->msg) == NULL)
			fail_msg("got \"%s\", expected \"%s\"", f.msg, row->msg);
	} else {
		if (r != 0)
			fail_msg("%s", f.msg);
		result_write(&res, row->version, &out);
		assert_string_equal(out.p, row->out);
	}
	(void)arena_free(a);
}

static void result_parse__addresses(void **state)
{
	struct arena *a = arena_new();
	struct cni_fail f = {0};
	char text[IP_TEXT_MAX];
	struct result r;

	(void)state;
	assert_int_equal(
		result_parse(json("{\"ips\":[{\"address\":\"10.1.2.3/24\",\"interface\":2,"
				  "\"gateway\":\"10.1.2.1\"},{\"address\":\"fd00::2/64\"}]}",
				  a),
			     CNI_V_1_0_0, &r, &f),
		0);
	assert_int_equal(r.nips, 2);
	assert_string_equal(ip_format(&r.ips[0].addr.ip, text), "10.1.2.3");
	assert_int_equal(r.ips[0].addr.prefix, 24);
	assert_true(r.ips[0].has_interface);
	assert_int_equal(r.ips[0].interface, 2);
	assert_string_equal(ip_format(&r.ips[0].gateway, text), "10.1.2.1");
	assert_false(r.ips[1].has_interface);
	assert_int_equal(r.ips[1].gateway.len, 0);
	(void)arena_free(a);
}

static void result_parse__bounded_addresses(void **state)
{
	(void)state;
	for (size_t n = RESULT_IPS_MAX; n <= RESULT_IPS_MAX + 1; n++) {
		_cleanup_strbuf_ struct strbuf in = {0};
		struct arena *a = arena_new();
		struct cni_fail f = {0};
		struct result r;

		strbuf_puts(&in, "{\"ips\":[");
		for (size_t i = 0; i < n; i++)
			strbuf_printf(&in, "%s{\"address\":\"10.0.0.%zu/8\"}", i ? "," : "", i);
		strbuf_puts(&in, "]}");
		assert_int_equal(result_parse(json(in.p, a), CNI_V_1_0_0, &r, &f),
				 n <= RESULT_IPS_MAX ? 0 : -1);
		if (n > RESULT_IPS_MAX)
			assert_non_null(strstr(f.msg, "more than 64 addresses"));
		(void)arena_free(a);
	}
}

int main(void)
{
	struct CMUnitTest tests[2 + ARRAY_LEN(rows)] = {
		cmocka_unit_test(result_parse__addresses),
		cmocka_unit_test(result_parse__bounded_addresses),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[2 + i] = (struct CMUnitTest){.name = rows[i].name,
						   .test_func = result__row,
						   .initial_state = (void *)(uintptr_t)&rows[i]};
	return cmocka_run_group_tests_name("cni_result", tests, NULL, NULL);
}
