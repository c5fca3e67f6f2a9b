/* SPDX-License-Identifier: Apache-2.0
 * test_kubeconfig.c: kubeconfig files, what a pod is given, and base64.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/base64.h"
#include "lib/kube/kubeconfig.h"

#define HEAD	   "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
#define CLUSTER(x) "clusters: [{name: k, cluster: {" x "}}]\n"
#define USER(x)	   "users: [{name: u, user: {" x "}}]\n"
#define HOST	   "server: 'https://h'"

struct bad {
	const char *name, *text, *word[3];
};

static const struct bad bad[] = {
	{"empty file", "", {"expected map"}},
	{"no context", "clusters: []\n", {"current-context"}},
	{"unknown context", "current-context: x\ncontexts: []\n", {"contexts", "x"}},
	{"contexts is a map", "current-context: x\ncontexts: {}\n", {"contexts", "line 2"}},
	{"context without cluster",
	 "current-context: c\ncontexts: [{name: c, context: {user: u}}]\n",
	 {"cluster"}},
	{"unknown cluster", HEAD USER("token: t"), {"clusters", "k"}},
	{"unknown user", HEAD CLUSTER(HOST), {"users", "u"}},
	{"cluster entry without cluster",
	 HEAD "clusters: [{name: k}]\n" USER("token: t"),
	 {"cluster"}},
	{"no server", HEAD CLUSTER("x: y") USER("token: t"), {"server"}},
	{"plain http",
	 HEAD CLUSTER("server: 'http://h'") USER("token: t"),
	 {"server", "plain HTTP"}},
	{"no scheme", HEAD CLUSTER("server: h:6443") USER("token: t"), {"server", "https://"}},
	{"no host", HEAD CLUSTER("server: 'https://'") USER("token: t"), {"server"}},
	{"bad port", HEAD CLUSTER("server: 'https://h:99999'") USER("token: t"), {"server"}},
	{"port with a sign", HEAD CLUSTER("server: 'https://h:+1'") USER("token: t"), {"server"}},
	{"v6 without end", HEAD CLUSTER("server: 'https://[::1'") USER("token: t"), {"server"}},
	{"user in the URL", HEAD CLUSTER("server: 'https://u@h'") USER("token: t"), {"server"}},
	{"query in the URL", HEAD CLUSTER("server: 'https://h/p?q'") USER("token: t"), {"server"}},
	{"authority is not base64",
	 HEAD CLUSTER(HOST ", certificate-authority-data: '*'") USER("token: t"),
	 {"certificate-authority-data", "line 3", "base64"}},
	{"authority and insecure",
	 HEAD CLUSTER(HOST ", certificate-authority: a, insecure-skip-tls-verify: true")
		 USER("token: t"),
	 {"insecure-skip-tls-verify"}},
	{"insecure is text",
	 HEAD CLUSTER(HOST ", insecure-skip-tls-verify: 'true'") USER("token: t"),
	 {"insecure-skip-tls-verify"}},
	{"proxy", HEAD CLUSTER(HOST ", proxy-url: 'http://p'") USER("token: t"), {"proxy-url"}},
	{"bad server name",
	 HEAD CLUSTER(HOST ", tls-server-name: 'a/b'") USER("token: t"),
	 {"tls-server-name"}},
	{"exec",
	 HEAD CLUSTER(HOST) USER("exec: {command: aws}"),
	 {"users[0].user.exec", "line 4", "never starts a program"}},
	{"auth provider",
	 HEAD CLUSTER(HOST) USER("auth-provider: {name: gcp}"),
	 {"auth-provider", "never starts a program"}},
	{"password", HEAD CLUSTER(HOST) USER("username: a, password: b"), {"username"}},
	{"impersonation", HEAD CLUSTER(HOST) USER("token: t, as: root"), {"as", "somebody else"}},
	{"nothing to show", HEAD CLUSTER(HOST) USER("x: y"), {"token"}},
	{"certificate without key",
	 HEAD CLUSTER(HOST) USER("client-certificate: c"),
	 {"client-key"}},
	{"key without certificate",
	 HEAD CLUSTER(HOST) USER("client-key: c"),
	 {"client-certificate"}},
	{"token with a line break", HEAD CLUSTER(HOST) USER("token: \"a\\r\\nx: y\""), {"token"}},
};

static void kubeconfig_parse__bad(void **state)
{
	const struct bad *b = *state;
	struct kubeconfig k = {0};
	struct err err = {0};

	assert_true(kubeconfig_parse(str_of(b->text), NULL, "/d", &k, &err) < 0);
	for (size_t i = 0; i < ARRAY_LEN(b->word) && b->word[i] != NULL; i++)
		if (strstr(err.msg, b->word[i]) == NULL)
			fail_msg("\"%s\" does not name %s", err.msg, b->word[i]);
	assert_null(k.host);
}

struct url {
	const char *text, *host;
	unsigned int port;
	const char *prefix;
};
static const struct url urls[] = {
	{"https://h", "h", 443, ""},
	{"https://h/", "h", 443, ""},
	{"https://h:6443", "h", 6443, ""},
	{"https://10.0.0.1:6443/", "10.0.0.1", 6443, ""},
	{"https://[fd00::1]:6443", "fd00::1", 6443, ""},
	{"https://[fd00::1]", "fd00::1", 443, ""},
	{"https://r.example.com/k8s/clusters/c-1/", "r.example.com", 443, "/k8s/clusters/c-1"},
};

static void parse_good(const char *text, const char *context, struct kubeconfig *k)
{
	struct err err = {0};

	if (kubeconfig_parse(str_of(text), context, "/etc/k", k, &err) != 0)
		fail_msg("%s", err.msg);
}

static void kubeconfig_parse__urls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		_cleanup_free_ char *text = xasprintf(
			HEAD "clusters: [{name: k, cluster: {server: '%s'}}]\n" USER("token: t"),
			urls[i].text);
		struct kubeconfig k;

		parse_good(text, NULL, &k);
		assert_string_equal(k.host, urls[i].host);
		assert_int_equal(k.port, urls[i].port);
		assert_string_equal(k.prefix, urls[i].prefix);
		kubeconfig_fini(&k);
	}
}

static void kubeconfig_parse__files_and_data(void **state)
{
	struct kubeconfig k;

	(void)state;
	parse_good(HEAD CLUSTER(HOST ", certificate-authority: ca.crt")
			   USER("client-certificate: /abs/c, client-key: k, tokenFile: t"),
		   NULL, &k);
	assert_string_equal(k.ca_file, "/etc/k/ca.crt");
	assert_string_equal(k.cert_file, "/abs/c");
	assert_string_equal(k.key_file, "/etc/k/k");
	assert_string_equal(k.token_file, "/etc/k/t");
	assert_null(k.token);
	kubeconfig_fini(&k);
	/* inline data wins over files, a token file over a token */
	parse_good(HEAD CLUSTER(HOST ", certificate-authority: x, certificate-authority-data: Y2E=")
			   USER("client-certificate: x, client-certificate-data: Y2VydA==, "
				"client-key-data: a2V5, token: t, tokenFile: f"),
		   NULL, &k);
	assert_null(k.ca_file);
	assert_string_equal(k.ca_pem, "ca");
	assert_string_equal(k.cert_pem, "cert");
	assert_null(k.cert_file);
	assert_string_equal(k.key_pem, "key");
	assert_string_equal(k.token_file, "/etc/k/f");
	assert_null(k.token);
	kubeconfig_fini(&k);
	/* what is empty is absent; another user's exec is none of our business */
	parse_good(HEAD CLUSTER(HOST ", proxy-url: '', insecure-skip-tls-verify: true, "
				     "tls-server-name: n") "users: [{name: v, user: {exec: {}}}, "
							   "{name: u, user: {token: t}}]\n",
		   "c", &k);
	assert_true(k.insecure);
	assert_string_equal(k.server_name, "n");
	assert_string_equal(k.token, "t");
	kubeconfig_fini(&k);
	kubeconfig_fini(&k);
}

static void kubeconfig_in_cluster__given(void **state)
{
	struct kubeconfig k = {0};
	struct err err = {0};

	(void)state;
	assert_int_equal(kubeconfig_in_cluster("fd00::1", "443", "/s", &k, &err), 0);
	assert_string_equal(k.host, "fd00::1");
	assert_string_equal(k.ca_file, "/s/ca.crt");
	assert_string_equal(k.token_file, "/s/token");
	kubeconfig_fini(&k);
	assert_true(kubeconfig_in_cluster("a b", "443", "/s", &k, &err) < 0);
	assert_non_null(strstr(err.msg, "KUBERNETES_SERVICE_HOST"));
	assert_true(kubeconfig_in_cluster("a", "tcp://x", "/s", &k, &err) < 0);
	assert_non_null(strstr(err.msg, "KUBERNETES_SERVICE_PORT"));
}

static void base64_decode__rfc4648(void **state)
{
	static const struct {
		const char *in, *out;
	} rows[] = {{"", ""},	     {"Zg==", "f"},	   {"Zm8=", "fo"},
		    {"Zm9v", "foo"}, {"Zm9vYg==", "foob"}, {"Zm9v\nYmE=\n", "fooba"},
		    {"Z", NULL},     {"Zg", NULL},	   {"Zg=", NULL},
		    {"Zg===", NULL}, {"Zh==", NULL},	   {"Zg==Zg==", NULL},
		    {"Z===", NULL},  {"Zm9*", NULL},	   {"Zm-_", NULL},
		    {"====", NULL},  {"Zm9=", NULL}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char out[32];
		size_t n = 99;
		int r = base64_decode(str_of(rows[i].in), out, &n);

		assert_int_equal(r == 0, rows[i].out != NULL);
		if (r == 0) {
			assert_int_equal(n, strlen(rows[i].out));
			assert_memory_equal(out, rows[i].out, n);
		}
	}
}

int main(void)
{
	static const struct CMUnitTest more[] = {
		cmocka_unit_test(kubeconfig_parse__urls),
		cmocka_unit_test(kubeconfig_parse__files_and_data),
		cmocka_unit_test(kubeconfig_in_cluster__given),
		cmocka_unit_test(base64_decode__rfc4648),
	};
	struct CMUnitTest tests[ARRAY_LEN(bad) + ARRAY_LEN(more)];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		tests[i] = (struct CMUnitTest){bad[i].name, kubeconfig_parse__bad, NULL, NULL,
					       (void *)(uintptr_t)&bad[i]};
	memcpy(tests + ARRAY_LEN(bad), more, sizeof(more));
	return cmocka_run_group_tests_name("kubeconfig", tests, NULL, NULL);
}
