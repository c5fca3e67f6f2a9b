/* SPDX-License-Identifier: Apache-2.0
 * test_ctl_bundle.c: what leaves the node in a support bundle: redaction; names in archives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/log_pick.h"
#include "ctl/redact.h"
#include "ctl/tar.h"
#include "lib/base/mem.h"

/* Written in pieces, so that no scanner takes this file for a leak. */
#define KEY(kind, lf)                                                                              \
	"-----BEGIN " kind "PRIVATE"                                                               \
	" KEY-----" lf "MIIEabc+/=" lf "-----END " kind "PRIVATE"                                  \
	" KEY-----"
#define JWT                                                                                        \
	"ey"                                                                                       \
	"JhbGciOiJub25lIn0.ey"                                                                     \
	"JzdWIiOiJ4In0.c2ln"
#define R "[redacted]"

static void ctl_redact__table(void **state)
{
	static const struct {
		const char *in, *want;
	} rows[] = {
		{"", ""},
		{"nothing to see: 1, two\n", "nothing to see: 1, two\n"},
		{"a\n" KEY("", "\n") "\nb", "a\n" R "\nb"},
		{"a\n" KEY("EC ", "\r\n") "\nb", "a\n" R "\nb"},
		{"{\"pem\":\"" KEY("RSA ", "\\n") "\\n\"}", "{\"pem\":\"" R "\\n\"}"},
		{"x\\n" KEY("", "\\n") "y", "x\\n" R "y"},
		{"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
		 "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"},
		{"-----BEGIN PRIVATE"
		 " KEY-----\nMII and no end",
		 R},
		{"key: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t\nnext", "key: " R "\nnext"},
		{"jwt " JWT " end", "jwt " R " end"},
		{"x=" JWT ",", "x=" R ","},
		{"eyJ is no token", "eyJ is no token"},
		{"Authorization: Bearer abcdefghij\n", "Authorization: " R "\n"},
		{"curl -H 'X: bearer abcdefghij'", "curl -H 'X: bearer " R "'"},
		{"{\"token\":\"s3cret\",\"a\":1}", "{\"token\":\"" R "\",\"a\":1}"},
		{"{\"bearer_Token\" : \"s\\\"3\"}", "{\"bearer_Token\" : \"" R "\"}"},
		{"{\"password\":12345}", "{\"password\":" R "}"},
		{"{\"clientSecret\": {\"name\": \"x\"}}", "{\"clientSecret\": {\"name\": \"x\"}}"},
		{"{\"caCredentialFile\":\"/x\"}", "{\"caCredentialFile\":\"/x\"}"},
		{"{\"tokenPath\":\"/var/run/t\"}", "{\"tokenPath\":\"/var/run/t\"}"},
		{"client-key-data: QUJD\nb: 1\n", "client-key-data: " R "\nb: 1\n"},
		{"etcd_password=hunter2 next line\nx", "etcd_password=" R "\nx"},
		{"{\"json\":\"{\\\"token\\\":\\\"s3\\\"}\"}",
		 "{\"json\":\"{\\\"token\\\":\\\"" R "\\\"}\"}"},
		{"\"automountServiceAccountToken\": true",
		 "\"automountServiceAccountToken\": true"},
		{"{\"tokens\":[\"a]1\", \"b2\"],\"x\":[1]}", "{\"tokens\":[" R "],\"x\":[1]}"},
		{"{\"imagePullSecrets\":[{\"name\":\"x\"}]}",
		 "{\"imagePullSecrets\":[{\"name\":\"x\"}]}"},
		{"token: |-\n  s3cret\n  more\nnext: 1\n", "token: |-\n" R "next: 1\n"},
		{"  password: >\n    one\n\n    two\n  next: 1\n",
		 "  password: >\n" R "  next: 1\n"},
		{"password=|abc\nx", "password=" R "\nx"},
		{"\"etcd\":\"https://me:hunter2@h:1/p\"", "\"etcd\":\"https://" R "@h:1/p\""},
		{"https://h:1/p@q me@h ://a:b c@d", "https://h:1/p@q me@h ://a:b c@d"},
		/* without quotes: to the end of the line, whatever is in it */
		{"password=ab,cd}ef]gh ij\nnext", "password=" R "\nnext"},
		{"password: a, b # c\r\nnext: 1", "password: " R "\r\nnext: 1"},
		{"PASSWORD=a\"b'c\\d\nx", "PASSWORD=" R "\nx"},
		{"x-api-key: k]1}\n", "x-api-key: " R "\n"},
		{"info\tstart token=a,b mode=\"x\"\n", "info\tstart token=" R "\n"},
		{"{token: a, b: 1}\nc", "{token: " R "\nc"},
		{"Password:ab} User:c\nd", "Password:" R "\nd"},
		{"\"token\": a,b}c\nnext", "\"token\": " R "\nnext"},
		/* inside of a text: to its end, or to the line's that is escaped in it */
		{"{\"c\":\"password=a,b}c]\",\"d\":1}", "{\"c\":\"password=" R "\",\"d\":1}"},
		{"{\"c\":\"token=a,b\\nx=1\",\"d\":1}", "{\"c\":\"token=" R "\\nx=1\",\"d\":1}"},
		{"{\"c\":\"a\\ntoken=b\\tc\",\"d\":1}", "{\"c\":\"a\\ntoken=" R "\",\"d\":1}"},
		{"\"a\\\"b\" secret=c,\"d\"\ne", "\"a\\\"b\" secret=" R "\ne"},
		{"{\"c\":\"x\\n" JWT "\"}", "{\"c\":\"x\\n" R "\"}"},
		/* numbers and words of JSON end where they end */
		{"{\"token\":12345,\"a\":1}", "{\"token\":" R ",\"a\":1}"},
		{"{\"token\": 1.5e+3 , \"a\":1}", "{\"token\": " R " , \"a\":1}"},
		{"{\"token\":12345}\n{\"a\":1}", "{\"token\":" R "}\n{\"a\":1}"},
		{"{\"token\":12345\n}", "{\"token\":" R "\n}"},
		{"{\"j\":\"{\\\"token\\\":12,\\\"a\\\":1}\"}",
		 "{\"j\":\"{\\\"token\\\":" R ",\\\"a\\\":1}\"}"},
		{"{\"token\":12,34\nb", "{\"token\":" R "\nb"},
		{"{\"token\":true,\"a\":1}", "{\"token\":true,\"a\":1}"},
		{"{token: false, a: 1}", "{token: false, a: 1}"},
		{"token: null\na", "token: null\na"},
		{"token: truely\na", "token: " R "\na"},
		{"token", "token"},
		{"token:", "token:"},
		{"token: \"", "token: \""},
		{"kind: AuthorizationPolicy\nx", "kind: AuthorizationPolicy\nx"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		size_t n = ctl_redact(str_of(rows[i].in), &out);
		const char *got = out.p != NULL ? out.p : "";

		if (strcmp(got, rows[i].want) != 0)
			fail_msg("%s: wanted %s, got %s", rows[i].in, rows[i].want, got);
		assert_int_equal(n, strstr(rows[i].want, R) != NULL);
	}
}

/* Every prefix of text with secrets, for the bounds of memory. */
static void ctl_redact__cut_anywhere(void **state)
{
	static const char text[] = "token: \"a\\\"b\" " KEY(
		"EC ", "\\n") " Bearer abcdefgh " JWT
			      " \\\"secret\\\":\\\"x\\\" password=[ passwd:\\";

	(void)state;
	for (size_t n = 0; n < sizeof(text); n++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		char *copy = xstrndup(text, n); /* exactly as long as it says, for the sanitizer */

		(void)ctl_redact((struct str){copy, n}, &out);
		free(copy);
	}
}

static void ctl_log_pod_is_ours__table(void **state)
{
	static const struct {
		const char *folder, *cgroup;
		bool want;
	} rows[] = {
		{"istio-system_istio-cni-node-x2b4q_0f1e", "", true},
		{"mesh_ztunnel-abcde_0f1e", "", true},
		{"shop_web-1_0f1e", "", false},
		{"shop_my-ztunnel-1_0f1e", "", false},
		{"ztunnel-abcde", "", false},
		{"_ztunnel-abcde_0f1e", "", false},
		{"a_mine_0f1e2d3c-1111-4222-8333-444455556666",
		 "0::/kubepods/burstable/pod0f1e2d3c-1111-4222-8333-444455556666/abc\n", true},
		{"a_mine_0f1e2d3c-1111-4222-8333-444455556666",
		 "0::/kubepods.slice/kubepods-pod0f1e2d3c_1111_4222_8333_444455556666.slice/"
		 "x.scope\n",
		 true},
		{"a_static_00112233445566778899aabbccddeeff",
		 "0::/kubepods/pod00112233445566778899aabbccddeeff/abc\n", true},
		{"a_other_0f1e2d3c-1111-4222-8333-444455556667",
		 "0::/kubepods/burstable/pod0f1e2d3c-1111-4222-8333-444455556666/abc\n", false},
		{"a_short_0", "0::/", false},
		{"a_b_", "0::/", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (ctl_log_pod_is_ours(str_of(rows[i].folder), str_of(rows[i].cgroup)) !=
		    rows[i].want)
			fail_msg("row %zu: %s", i, rows[i].folder);
	assert_true(str_eqc(ctl_log_pod_name(STR("a_b-c_d")), "b-c"));
	assert_true(str_eqc(ctl_log_pod_name(STR("plain")), "plain"));
}

static void ctl_log_unit__table(void **state)
{
	static const struct {
		const char *cgroup, *want;
	} rows[] = {
		{"", ""},
		{"0::/system.slice/ambient-agent.service\n", "ambient-agent.service"},
		{"0::/system.slice/system-ztunnel.slice/ztunnel@2.service", "ztunnel@2.service"},
		{"4:memory:/system.slice/a.service\n1:name=systemd:/b.service/c\n", "b.service"},
		{"0::/user.slice/user@0.service/app.slice/x.service/y", "x.service"},
		{"0::/kubepods/pod1/abc\n", ""},
		{"0::/.service", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct str got = ctl_log_unit(str_of(rows[i].cgroup));

		if (!str_eqc(got, rows[i].want))
			fail_msg("%s: %.*s", rows[i].cgroup, STR_FMT(got));
	}
}

static void ctl_log_tail__table(void **state)
{
	static const struct {
		const char *in;
		size_t max;
		const char *want;
	} rows[] = {
		{"one\ntwo\n", 100, "one\ntwo\n"},
		{"one\ntwo\n", 8, "one\ntwo\n"},
		{"one\ntwo\n", 7, "two\n"},
		{"one\ntwo\n", 4, ""},
		{"one\ntwo", 2, "wo"}, /* one line that is too long */
		/* half of a key, and a whole one */
		{"x\nMIIE\nMIIF\n-----END PRIVATE"
		 " KEY-----\nafter\n",
		 43, "\nafter\n"},
		{"xxxxxxxx\na\n" KEY("EC ", "\n") "\nb\n", 76, "a\n" KEY("EC ", "\n") "\nb\n"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct str got = ctl_log_tail(str_of(rows[i].in), rows[i].max);

		if (!str_eqc(got, rows[i].want))
			fail_msg("row %zu: %.*s", i, STR_FMT(got));
	}
}

static void ctl_tar__header(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};

	(void)state;
	ctl_tar_file(&out, "d/a", STR("hello"), 1);
	ctl_tar_end(&out);
	assert_int_equal(out.n, 512 + 512 + 1024);
	assert_string_equal(out.p, "d/a");
	assert_string_equal(out.p + 100, "0000600");
	assert_string_equal(out.p + 124, "00000000005");
	assert_string_equal(out.p + 136, "00000000001");
	assert_string_equal(out.p + 257, "ustar");
	assert_memory_equal(out.p + 512, "hello\0", 6);
}

static void ctl_tar_name__table(void **state)
{
	static const struct {
		const char *in, *want;
	} rows[] = {{"a-b_c.D9", "a-b_c.D9"}, {"../x", "_._x"},	  {"a/b", "a_b"},
		    {".hidden", "_hidden"},   {"\xc3\xa4", "__"}, {"123456789", "12345678"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};

		ctl_tar_name(&out, str_of(rows[i].in), 8);
		assert_string_equal(out.p, rows[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ctl_redact__table),
		cmocka_unit_test(ctl_redact__cut_anywhere),
		cmocka_unit_test(ctl_log_pod_is_ours__table),
		cmocka_unit_test(ctl_log_unit__table),
		cmocka_unit_test(ctl_log_tail__table),
		cmocka_unit_test(ctl_tar__header),
		cmocka_unit_test(ctl_tar_name__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
