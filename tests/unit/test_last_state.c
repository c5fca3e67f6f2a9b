/* SPDX-License-Identifier: Apache-2.0
 * test_last_state.c: the last good picture comes back as it was, and only where it belongs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "node-agent/source/last_state.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

static const char whole[] =
	"kind: Namespace\n"
	"metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, team: a, x: y}}\n"
	"---\n"
	"kind: Namespace\n"
	"metadata: {name: bare}\n"
	"---\n"
	"kind: Pod\n"
	"metadata:\n"
	"  {name: web, namespace: shop, uid: u-1,\n"
	"   labels: {istio.io/dataplane-mode: none, app: web, team: 'b \"c\"', x: y},\n"
	"   annotations: {sidecar.istio.io/status: '{}', ambient.istio.io/redirection: enabled,\n"
	"     ambient.istio.io/bypass-inbound-capture: 'true', ambient.istio.io/dns-capture: '0',\n"
	"     istio.io/reroute-virtual-interfaces: 'tap0, tap1', other: z}}\n"
	"spec: {nodeName: n1, serviceAccountName: web, hostNetwork: true}\n"
	"status: {phase: Failed, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n"
	"---\n"
	"kind: Pod\n"
	"metadata: {name: plain, namespace: bare, uid: u-2}\n"
	"status: {phase: Running}\n";

static void ignore(void *ctx, const char *ns, const char *name)
{
	(void)ctx;
	(void)ns;
	(void)name;
}

static struct pods *store_of(struct manifest *m)
{
	struct pods *s = pods_new(ignore, NULL);

	for (size_t i = 0; i < m->nnamespaces; i++) {
		pods_put_namespace(s, m->namespaces[i], m, 1);
		m->namespaces[i] = NULL;
	}
	for (size_t i = 0; i < m->npods; i++) {
		pods_put(s, m->pods[i], m, 1);
		m->pods[i] = NULL;
	}
	return s;
}

static struct pods *picture(const struct label_keys *keep)
{
	struct manifest m = {0};
	struct err err = {0};
	struct pods *s;

	if (manifest_parse(str_of(whole), keep, &m, &err) < 0)
		fail_msg("%s", err.msg);
	s = store_of(&m);
	manifest_fini(&m);
	return s;
}

static void print(const struct pods *s, const struct last_state_of *of, struct strbuf *out)
{
	last_state_print(s, of, "17", "18", out);
}

static void last_state__round_trip(void **state)
{
	struct label_keys keep = {0};
	struct last_state_of of = {.node = "n1", .server = "https://api:1", .keep = &keep};
	_cleanup_strbuf_ struct strbuf one = {0}, two = {0};
	struct manifest m = {0};
	struct err err = {0};
	struct pods *s, *back;
	const struct pod *p;

	(void)state;
	assert_int_equal(label_keys_add(&keep, STR("team"), &err), 0);
	assert_int_equal(label_keys_add(&keep, STR("app"), &err), 0);
	s = picture(&keep);
	print(s, &of, &one);
	assert_null(strstr(one.p, "\"x\""));
	if (last_state_parse((struct str){one.p, one.n}, &of, &m, &err) < 0)
		fail_msg("%s", err.msg);
	back = store_of(&m);
	manifest_fini(&m);
	assert_int_equal(pods_count(back), 2);
	assert_int_equal(pods_namespace_count(back), 2);
	p = pods_find(back, "shop", "web");
	assert_true(p->sidecar && p->host_network && p->terminal && p->nips == 2);
	assert_string_equal(p->mode, "none");
	assert_string_equal(p->app, "web");
	assert_string_equal(p->uid, "u-1");
	assert_string_equal(p->service_account, "web");
	assert_string_equal(p->node_name, "n1");
	assert_string_equal(p->redirection, "enabled");
	assert_string_equal(p->bypass_inbound, "true");
	assert_string_equal(p->dns_capture, "0");
	assert_string_equal(p->reroute_ifaces, "tap0, tap1");
	assert_string_equal(labels_get(&p->labels, "team"), "b \"c\"");
	assert_string_equal(labels_get(&p->labels, "app"), "web");
	assert_string_equal(pods_namespace(back, "shop")->mode, "ambient");
	assert_string_equal(labels_get(&pods_namespace(back, "shop")->labels, "team"), "a");
	assert_null(pods_namespace(back, "bare")->mode);
	print(back, &of, &two);
	assert_int_equal(one.n, two.n);
	(void)pods_free(s);
	(void)pods_free(back);
	label_keys_fini(&keep);
}

static void refused(const char *text, size_t n, const struct last_state_of *of, const char *word)
{
	struct manifest m = {0};
	struct err err = {0};

	assert_true(last_state_parse((struct str){text, n}, of, &m, &err) < 0);
	if (strstr(err.msg, word) == NULL)
		fail_msg("no \"%s\" in: %s", word, err.msg);
}

static void last_state_parse__only_where_it_belongs(void **state)
{
	struct label_keys other = {0};
	struct last_state_of of = {.node = "n1", .server = "https://api:1"}, not_us = of;
	_cleanup_strbuf_ struct strbuf b = {0};
	struct pods *s = picture(NULL);
	struct err err = {0};

	(void)state;
	print(s, &of, &b);
	not_us.node = "n2";
	refused(b.p, b.n, &not_us, "node n1, not n2");
	not_us = of;
	not_us.server = "https://other";
	refused(b.p, b.n, &not_us, "server");
	not_us = of;
	assert_int_equal(label_keys_add(&other, STR("team"), &err), 0);
	not_us.keep = &other;
	refused(b.p, b.n, &not_us, "selectors");
	label_keys_fini(&other);
	(void)pods_free(s);
}

/* Every prefix and every flipped bit is refused: half a picture would be a wrong one. */
static void last_state_parse__damage(void **state)
{
	struct last_state_of of = {.node = "n1", .server = "https://api:1"};
	_cleanup_strbuf_ struct strbuf b = {0};
	struct pods *s = picture(NULL);

	(void)state;
	print(s, &of, &b);
	for (size_t n = 0; n < b.n; n++)
		refused(b.p, n, &of, "");
	for (size_t i = 0; i < b.n; i++) {
		b.p[i] ^= 4;
		refused(b.p, b.n, &of, "");
		b.p[i] ^= 4;
	}
	refused("ambient-agent last state 2 0123456789abcdef 0\n", 46, &of,
		"version 2, expected 1");
	(void)pods_free(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(last_state__round_trip),
		cmocka_unit_test(last_state_parse__only_where_it_belongs),
		cmocka_unit_test(last_state_parse__damage),
	};

	return cmocka_run_group_tests_name("last_state", tests, NULL, NULL);
}
