/* SPDX-License-Identifier: Apache-2.0
 * test_agent_manifest.c: manifests to objects, the store of objects and what it tells.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

struct bad {
	const char *name, *text, *word[3];
};

static const struct bad bad[] = {
	{"no kind", "metadata: {name: a}\n", {"kind"}},
	{"a list at the top", "- a\n", {"line 1"}},
	{"pod of another version",
	 "kind: Pod\napiVersion: v2\nmetadata: {name: a}\n",
	 {"apiVersion", "v1"}},
	{"no metadata", "kind: Pod\n", {"metadata"}},
	{"no name", "kind: Pod\nmetadata: {}\n", {"name"}},
	{"name is a number", "kind: Pod\nmetadata:\n  name: 12\n", {"name", "line 3"}},
	{"name with a slash", "kind: Pod\nmetadata: {name: a/b}\n", {"a/b"}},
	{"namespace empty", "kind: Pod\nmetadata: {name: a, namespace: ''}\n", {"namespace"}},
	{"uid is a list", "kind: Pod\nmetadata: {name: a, uid: [1]}\n", {"uid"}},
	{"uid too long",
	 "kind: Pod\nmetadata: {name: a, uid: "
	 "x0123456789012345678901234567890123456789012345678901234567890123456789}\n",
	 {"uid", "63"}},
	{"labels is text", "kind: Pod\nmetadata: {name: a, labels: x}\n", {"labels"}},
	{"label is a bool",
	 "kind: Pod\nmetadata: {name: a, labels: {x: true}}\n",
	 {"labels.x", "quotes"}},
	{"annotation is a map",
	 "kind: Pod\nmetadata: {name: a, annotations: {y: {}}}\n",
	 {"annotations.y"}},
	{"hostNetwork is text",
	 "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: \"true\"}\n",
	 {"hostNetwork"}},
	{"spec is a list", "kind: Pod\nmetadata: {name: a}\nspec: []\n", {"spec"}},
	{"phase unknown",
	 "kind: Pod\nmetadata: {name: a}\nstatus: {phase: Done}\n",
	 {"phase", "Done"}},
	{"bad address",
	 "kind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0}\n",
	 {"podIP", "10.0.0"}},
	{"bad address in the list",
	 "kind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [{ip: 10.0.0.1}, {ip: x}]}\n",
	 {"podIPs[1].ip"}},
	{"same pod twice",
	 "kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: a}\n",
	 {"default/a", "twice"}},
	{"same namespace twice",
	 "kind: Namespace\nmetadata: {name: a}\n---\nkind: Namespace\nmetadata: {name: a}\n",
	 {"namespace a", "twice"}},
	{"items is a map", "kind: PodList\nitems: {}\n", {"items"}},
	{"item of a List without kind", "kind: List\nitems: [{metadata: {name: a}}]\n", {"kind"}},
	{"one bad document spoils the file",
	 "kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\n",
	 {"metadata"}},
	{"an alias", "kind: Pod\nmetadata: &x {name: a}\nspec: *x\n", {"line"}},
};

static void manifest_parse__bad(void **state)
{
	const struct bad *b = *state;
	struct manifest m = {0};
	struct err err = {0};

	assert_true(manifest_parse(str_of(b->text), NULL, &m, &err) < 0);
	for (size_t i = 0; i < ARRAY_LEN(b->word) && b->word[i] != NULL; i++)
		if (strstr(err.msg, b->word[i]) == NULL)
			fail_msg("\"%s\" does not name %s", err.msg, b->word[i]);
	assert_null(m.pods);
}

static const char whole[] = "apiVersion: v1\n"
			    "kind: Namespace\n"
			    "metadata:\n"
			    "  name: shop\n"
			    "  labels: {istio.io/dataplane-mode: ambient}\n"
			    "---\n"
			    "apiVersion: apps/v1\n"
			    "kind: Deployment\n"
			    "metadata: {name: 7}\n"
			    "---\n"
			    "apiVersion: v1\n"
			    "kind: Pod\n"
			    "metadata:\n"
			    "  name: web\n"
			    "  namespace: shop\n"
			    "  uid: 11111111-2222-3333-4444-555555555555\n"
			    "  labels: {app: web, istio.io/dataplane-mode: none}\n"
			    "  annotations:\n"
			    "    sidecar.istio.io/status: '{}'\n"
			    "    kubernetes.io/config.mirror: 00112233445566778899aabbccddeeff\n"
			    "    ambient.istio.io/bypass-inbound-capture: \"true\"\n"
			    "    ambient.istio.io/dns-capture: \"0\"\n"
			    "    istio.io/reroute-virtual-interfaces: tap0\n"
			    "spec: {hostNetwork: true, serviceAccountName: seller, nodeName: n1}\n"
			    "status:\n"
			    "  phase: Failed\n"
			    "  podIP: 10.0.0.1\n"
			    "  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]\n"
			    "---\n"
			    "{\"kind\": \"PodList\", \"apiVersion\": \"v1\", \"items\": "
			    "[{\"metadata\": {\"name\": \"b\"}}]}\n";

static void manifest_parse__reads_every_fact(void **state)
{
	struct manifest m = {0};
	struct err err = {0};
	const struct pod *p;

	(void)state;
	if (manifest_parse(str_of(whole), NULL, &m, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(m.npods, 2);
	assert_int_equal(m.nnamespaces, 1);
	assert_string_equal(m.namespaces[0]->mode, "ambient");
	p = m.pods[0];
	assert_string_equal(p->name, "b");
	assert_string_equal(p->ns, "default");
	assert_string_equal(p->service_account, "default");
	assert_null(p->uid);
	p = m.pods[1];
	assert_string_equal(p->uid, "11111111-2222-3333-4444-555555555555");
	assert_string_equal(p->mode, "none");
	assert_string_equal(p->app, "web");
	assert_string_equal(p->service_account, "seller");
	assert_string_equal(p->node_name, "n1");
	assert_string_equal(p->bypass_inbound, "true");
	assert_string_equal(p->dns_capture, "0");
	assert_string_equal(p->reroute_ifaces, "tap0");
	assert_true(p->sidecar && p->host_network && p->terminal);
	assert_int_equal(p->nips, 2);
	assert_string_equal(p->runtime_uid, "00112233445566778899aabbccddeeff");
	assert_string_equal(pod_runtime_uid(p), p->runtime_uid);
	manifest_fini(&m);
}

/* Anybody may annotate a pod: what cannot be a UID is no reason to refuse it. */
static void manifest_parse__mirror_that_is_no_uid(void **state)
{
	static const char *const values[] = {"''", "'1234567'", "'a/b/c/d/e/f'",
					     "'                '"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		_cleanup_free_ char *text =
			xasprintf("kind: Pod\nmetadata: {name: a, uid: u-1, annotations: "
				  "{kubernetes.io/config.mirror: %s}}\n",
				  values[i]);
		struct manifest m = {0};
		struct err err = {0};

		if (manifest_parse(str_of(text), NULL, &m, &err) != 0)
			fail_msg("%s: %s", values[i], err.msg);
		assert_null(m.pods[0]->runtime_uid);
		assert_string_equal(pod_runtime_uid(m.pods[0]), "u-1");
		manifest_fini(&m);
	}
}

static void pod_has_uid__table(void **state)
{
	static const struct {
		const char *uid, *runtime, *asked;
		bool strict, loose;
	} rows[] = {
		{"a-b", NULL, "a-b", true, true},    {"a-b", NULL, "ab", false, true},
		{"ab", NULL, "a-b-", false, true},   {"-ab", NULL, "ab", false, true},
		{"a-b", NULL, "a-bc", false, false}, {"a-bc", NULL, "a-b", false, false},
		{"a-b", "cd", "cd", true, true},     {"a-b", "cd", "c-d", false, true},
		{"a-b", "cd", "", false, false},     {NULL, "cd", "cd", true, true},
		{NULL, NULL, "x", false, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct pod p = {.uid = (char *)(uintptr_t)rows[i].uid,
				.runtime_uid = (char *)(uintptr_t)rows[i].runtime};

		if (pod_has_uid(&p, rows[i].asked, false) != rows[i].strict ||
		    pod_has_uid(&p, rows[i].asked, true) != rows[i].loose)
			fail_msg("row %zu", i);
	}
}

static void manifest_parse__empty_documents(void **state)
{
	static const char *const texts[] = {"", "\n", "---\n---\n", "# only a comment\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct manifest m = {0};

		assert_int_equal(manifest_parse(str_of(texts[i]), NULL, &m, NULL), 0);
		assert_int_equal(m.npods + m.nnamespaces, 0);
		manifest_fini(&m);
	}
}

static char heard[256];

static void hear(void *ctx, const char *ns, const char *name)
{
	size_t n = strlen(heard);

	(void)ctx;
	(void)snprintf(heard + n, sizeof(heard) - n, "%s/%s ", ns, name);
}

static struct pod *make_pod(const char *name, const char *mode)
{
	struct pod *p = xcalloc(1, sizeof(*p));

	p->name = xstrdup(name);
	p->ns = xstrdup("d");
	p->mode = mode != NULL ? xstrdup(mode) : NULL;
	return p;
}

static struct pod_namespace *make_namespace(const char *mode)
{
	struct pod_namespace *n = xcalloc(1, sizeof(*n));

	n->name = xstrdup("d");
	n->mode = mode != NULL ? xstrdup(mode) : NULL;
	return n;
}

#define expect_heard(what)                                                                         \
	do {                                                                                       \
		assert_string_equal(heard, what);                                                  \
		heard[0] = '\0';                                                                   \
	} while (0)

static void pods__tells_only_of_changes(void **state)
{
	struct pods *s = pods_new(hear, NULL);
	int file1, file2;

	(void)state;
	heard[0] = '\0';
	pods_put(s, make_pod("a", NULL), &file1, 1);
	expect_heard("d/a ");
	pods_put(s, make_pod("a", NULL), &file1, 2);
	expect_heard("");
	pods_put(s, make_pod("a", "ambient"), &file1, 3);
	expect_heard("d/a ");
	pods_put(s, make_pod("b", NULL), &file2, 3);
	expect_heard("d/b ");
	/* a namespace concerns all its pods, but only when it changes */
	pods_put_namespace(s, make_namespace(NULL), &file1, 3);
	assert_int_equal(strlen(heard), strlen("d/a d/b "));
	heard[0] = '\0';
	pods_put_namespace(s, make_namespace(NULL), &file1, 4);
	expect_heard("");
	/* moved to another file: no change */
	assert_ptr_equal(pods_other_owner(s, "d", "a", &file2), &file1);
	pods_put(s, make_pod("a", "ambient"), &file2, 4);
	pods_sweep(s, &file1, 4);
	expect_heard("");
	assert_int_equal(pods_count(s), 2);
	/* not put again: gone */
	pods_sweep(s, &file2, 4);
	expect_heard("d/b ");
	assert_null(pods_find(s, "d", "b"));
	pods_sweep(s, &file2, 0);
	expect_heard("d/a ");
	assert_int_equal(pods_count(s), 0);
	(void)pods_free(s);
}

int main(void)
{
	static const struct CMUnitTest more[] = {
		cmocka_unit_test(manifest_parse__reads_every_fact),
		cmocka_unit_test(manifest_parse__mirror_that_is_no_uid),
		cmocka_unit_test(pod_has_uid__table),
		cmocka_unit_test(manifest_parse__empty_documents),
		cmocka_unit_test(pods__tells_only_of_changes),
	};
	struct CMUnitTest tests[ARRAY_LEN(bad) + ARRAY_LEN(more)];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		tests[i] = (struct CMUnitTest){bad[i].name, manifest_parse__bad, NULL, NULL,
					       (void *)(uintptr_t)&bad[i]};
	memcpy(tests + ARRAY_LEN(bad), more, sizeof(more));
	return cmocka_run_group_tests_name("agent_manifest", tests, NULL, NULL);
}
