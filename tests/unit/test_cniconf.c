/* SPDX-License-Identifier: Apache-2.0
 * test_cniconf.c: our entry goes into a CNI configuration and out again, and nothing else changes
 * (cni-spec 2.3, 8.7; known defects 28 and 29).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "node-agent/host/cniconf.h"

#define ENTRY(how)                                                                                 \
	"{\"type\":\"ambient-cni\",\"installed\":\"" how "\",\"cni_agent_run_dir\":\"/run/a\","    \
	"\"exclude_namespaces\":[\"kube-system\"]}"
#define OLD   "{\"type\":\"ambient-cni\",\"cni_agent_run_dir\":\"/old\"}"
#define STOCK "{\"type\":\"istio-cni\",\"log_level\":\"info\"}"

static const struct str excluded[] = {{"kube-system", 11}};
static const struct cniconf_entry entry = {
	.run_dir = {"/run/a", 6},
	.excluded = excluded,
	.nexcluded = 1,
};

static void cniconf_kind_of__table(void **state)
{
	static const struct {
		const char *name;
		enum cniconf_kind kind;
	} rows[] = {
		{"10-a.conf", CNICONF_SINGLE},
		{"10-a.conflist", CNICONF_LIST},
		{"10-a.json", CNICONF_JSON},
		{".conf", CNICONF_SINGLE}, /* so do runtimes */
		{"10-a.conf.bak", CNICONF_OTHER},
		{"10-a.conflist~", CNICONF_OTHER},
		{"10-a.CONF", CNICONF_OTHER},
		{"conf", CNICONF_OTHER},
		{"", CNICONF_OTHER},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (cniconf_kind_of(rows[i].name) != rows[i].kind)
			fail_msg("%s", rows[i].name);
}

static void cniconf_list_name__and_back(void **state)
{
	char *list = cniconf_list_name("10-a.conf"), *single = cniconf_single_name(list);

	(void)state;
	assert_string_equal(list, "10-a.conflist");
	assert_string_equal(single, "10-a.conf");
	free(list);
	free(single);
}

static const struct {
	const char *in;
	enum cniconf_kind kind;
	const char *msg; /* NULL: good */
} parsed[] = {
	{"{\"name\":\"n\",\"plugins\":[{\"type\":\"bridge\"}]}", CNICONF_LIST, NULL},
	{" {\"name\":\"n\",\"x\":{},\"plugins\":[{\"type\":\"a\"},{\"type\":\"b\"}]}\n",
	 CNICONF_LIST, NULL},
	{"{\"type\":\"bridge\"}", CNICONF_SINGLE, NULL},
	{"{\"type\":\"bridge\"}", CNICONF_JSON, NULL},
	{"", CNICONF_LIST, "JSON"},
	{"\n", CNICONF_SINGLE, "JSON"},
	{"name: n\n", CNICONF_LIST, "JSON"},
	{"{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]", CNICONF_LIST, "JSON"},
	{"{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}{}", CNICONF_LIST, "JSON"},
	{"[]", CNICONF_LIST, "expected map, got list"},
	{"7", CNICONF_SINGLE, "expected map, got number"},
	{"{\"plugins\":[{\"type\":\"a\"}]}", CNICONF_LIST, "field name is missing"},
	{"{\"name\":\"\",\"plugins\":[{\"type\":\"a\"}]}", CNICONF_LIST,
	 "name (line 1): it is empty"},
	{"{\"name\":7,\"plugins\":[{\"type\":\"a\"}]}", CNICONF_LIST, "name (line 1)"},
	{"{\"name\":\"n\"}", CNICONF_LIST, "field plugins is missing"},
	{"{\"name\":\"n\",\"plugins\":[]}", CNICONF_LIST, "plugins (line 1): it has no entry"},
	{"{\"name\":\"n\",\"plugins\":{\"type\":\"a\"}}", CNICONF_LIST, "expected list, got map"},
	{"{\"name\":\"n\",\"plugins\":null}", CNICONF_LIST, "expected list, got null"},
	{"{\"name\":\"n\",\n\"plugins\":[{\"type\":\"a\"},\n7]}", CNICONF_LIST,
	 "plugins[1] (line 3): expected map, got number"},
	{"{\"name\":\"n\",\"plugins\":[{\"name\":\"a\"}]}", CNICONF_LIST, "type"},
	{"{\"name\":\"n\",\"plugins\":[{\"type\":\"\"}]}", CNICONF_LIST,
	 "plugins[0].type (line 1): it is empty"},
	{"{\"name\":\"n\",\"plugins\":[{\"type\":[]}]}", CNICONF_LIST, "expected text, got list"},
	{"{\"name\":\"n\"}", CNICONF_SINGLE, "field type is missing"},
	{"{\"type\":\"\"}", CNICONF_SINGLE, "type (line 1): it is empty"},
	{"{\"type\":\"a\",\"cniVersion\":1}", CNICONF_SINGLE, "cniVersion (line 1)"},
	/* a list in a file that is called .conf has no type */
	{"{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}", CNICONF_SINGLE,
	 "field type is missing"},
};

static void cniconf_parse__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(parsed); i++) {
		struct arena *a = arena_new();
		struct err err = {0};
		struct cniconf c;
		int r = cniconf_parse(str_of(parsed[i].in), parsed[i].kind, a, &c, &err);

		if (parsed[i].msg == NULL ? r != 0
					  : r != -EINVAL || strstr(err.msg, parsed[i].msg) == NULL)
			fail_msg("row %zu: %d %s", i, r, err.msg);
		(void)arena_free(a);
	}
}

static void cniconf_parse__larger_than_the_limit_is_refused(void **state)
{
	size_t n = (1u << 20) + 1;
	char *text = malloc(n);
	struct err err = {0};
	struct cniconf c;

	(void)state;
	assert_non_null(text);
	memset(text, ' ', n);
	memcpy(text, "{\"type\":\"a\"}", 12);
	assert_int_equal(cniconf_parse((struct str){text, n}, CNICONF_SINGLE, NULL, &c, &err),
			 -E2BIG);
	free(text);
}

/* --- putting in --- */

static const char mini[] =
	"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}";

/* Odd on purpose: order, spelling of numbers, escapes, unknown fields, blanks, a last line without
 * an end. */
static const char calico[] =
	"\n{\n"
	"  \"plugins\": [\n"
	"    {\n"
	"      \"type\": \"calico\", \"mtu\": 1.50e3, \"big\": 18446744073709551616,\n"
	"      \"ipam\": {\"type\": \"calico-ipam\" },\t\"s\": \"\\u00e9\\/\"\n"
	"    } ,\n"
	"    {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}}\n"
	"  ],\n"
	"  \"unknown\": [ 1, 2.0, -0 ],\n"
	"  \"name\": \"k8s-pod-network\", \"cniVersion\": \"0.3.1\"}";
static const char calico_ours[] =
	"\n{\n"
	"  \"plugins\": [\n"
	"    {\n"
	"      \"type\": \"calico\", \"mtu\": 1.50e3, \"big\": 18446744073709551616,\n"
	"      \"ipam\": {\"type\": \"calico-ipam\" },\t\"s\": \"\\u00e9\\/\"\n"
	"    } ,\n"
	"    {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}},\n"
	"    " ENTRY("chained") "\n"
				"  ],\n"
				"  \"unknown\": [ 1, 2.0, -0 ],\n"
				"  \"name\": \"k8s-pod-network\", \"cniVersion\": \"0.3.1\"}";
static const char bridge[] = "{\n\t\"cniVersion\": \"1.0.0\",\n\t\"name\": \"mynet\",\n"
			     "\t\"type\": \"bridge\"\n}\n";
static const char bridge_ours[] = "{\n"
				  "  \"cniVersion\": \"1.0.0\",\n"
				  "  \"name\": \"mynet\",\n"
				  "  \"plugins\": [{\n\t\"cniVersion\": \"1.0.0\",\n\t\"name\": "
				  "\"mynet\",\n\t\"type\": \"bridge\"\n}\n,\n"
				  "    " ENTRY("wrapped") "\n"
							  "  ]\n"
							  "}\n";

#define LIST(plugins) "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[" plugins "]}"
#define A	      "{\"type\":\"a\"}"
#define B	      "{\"type\":\"b\"}"

static const struct {
	const char *name, *in;
	enum cniconf_kind kind;
	enum cniconf_place place;
	bool replace;
	const char *want; /* the text, or NULL */
	const char *msg;
} added[] = {
	{"list", mini, CNICONF_LIST, CNICONF_CHAINED, false, LIST(A "," ENTRY("chained")), NULL},
	{"odd list", calico, CNICONF_LIST, CNICONF_CHAINED, false, calico_ours, NULL},
	{"owned copy", mini, CNICONF_LIST, CNICONF_OWNED, false, LIST(A "," ENTRY("owned")), NULL},
	{"again", calico_ours, CNICONF_LIST, CNICONF_CHAINED, false, calico_ours, NULL},
	{"owned of chained", LIST(A "," ENTRY("chained")), CNICONF_LIST, CNICONF_OWNED, false,
	 LIST(A "," ENTRY("owned")), NULL},
	{"old last", LIST(A "," OLD), CNICONF_LIST, CNICONF_CHAINED, false,
	 LIST(A "," ENTRY("chained")), NULL},
	{"the gap before an old one stays", LIST(" " A " \n,\t" OLD " "), CNICONF_LIST,
	 CNICONF_CHAINED, false, LIST(" " A " \n,\t" ENTRY("chained") " "), NULL},
	{"old first", LIST(OLD ", " A), CNICONF_LIST, CNICONF_CHAINED, false,
	 LIST(A "," ENTRY("chained")), NULL},
	{"old middle", LIST(A ", " OLD "  ,\n" B), CNICONF_LIST, CNICONF_CHAINED, false,
	 LIST(A "  ,\n" B "," ENTRY("chained")), NULL},
	{"right but not last", LIST(A "," ENTRY("chained") "," B), CNICONF_LIST, CNICONF_CHAINED,
	 false, LIST(A "," B "," ENTRY("chained")), NULL},
	{"twice", LIST(OLD "," A "," ENTRY("chained")), CNICONF_LIST, CNICONF_CHAINED, false,
	 LIST(A "," ENTRY("chained")), NULL},
	{"single", bridge, CNICONF_SINGLE, CNICONF_CHAINED, false, bridge_ours, NULL},
	{"wrapped stays wrapped", bridge_ours, CNICONF_LIST, CNICONF_CHAINED, false, bridge_ours,
	 NULL},
	{"single without version and name", "{\"type\":\"a\"}", CNICONF_SINGLE, CNICONF_CHAINED,
	 false,
	 "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"k8s-pod-network\",\n  \"plugins\": "
	 "[{\"type\":\"a\"},\n    " ENTRY("wrapped") "\n  ]\n}\n",
	 NULL},
	{"single of an old version", "{\"type\":\"a\",\"cniVersion\":\"0.2.0\",\"name\":\"n\"}",
	 CNICONF_SINGLE, CNICONF_OWNED, false,
	 "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"n\",\n  \"plugins\": "
	 "[{\"type\":\"a\",\"cniVersion\":\"0.2.0\",\"name\":\"n\"},\n    " ENTRY(
		 "owned") "\n  ]\n}\n",
	 NULL},
	{"several versions",
	 "{\"cniVersions\":[\"0.2.0\",\"1.1.0\",\"2.0.0\"],\"name\":\"n\",\"plugins\":[" A "]}",
	 CNICONF_LIST, CNICONF_CHAINED, false,
	 "{\"cniVersions\":[\"0.2.0\",\"1.1.0\",\"2.0.0\"],\"name\":\"n\",\"plugins\":[" A
	 "," ENTRY("chained") "]}",
	 NULL},
	{"every character of a name",
	 "{\"cniVersion\":\"1.1.0\",\"name\":\"0azAZ9_.-\",\"plugins\":[" A "]}", CNICONF_LIST,
	 CNICONF_CHAINED, false,
	 "{\"cniVersion\":\"1.1.0\",\"name\":\"0azAZ9_.-\",\"plugins\":[" A
	 "," ENTRY("chained") "]}",
	 NULL},
	{"several versions, none good",
	 "{\"cniVersions\":[\"0.2.0\",7],\"name\":\"n\",\"plugins\":[" A "]}", CNICONF_LIST,
	 CNICONF_CHAINED, false, NULL, "cniVersion \"\""},
	{"several versions, and a good one",
	 "{\"cniVersions\":[\"0.2.0\"],\"cniVersion\":\"0.3.0\",\"name\":\"n\",\"plugins\":[" A
	 "]}",
	 CNICONF_LIST, CNICONF_CHAINED, false,
	 "{\"cniVersions\":[\"0.2.0\"],\"cniVersion\":\"0.3.0\",\"name\":\"n\",\"plugins\":[" A
	 "," ENTRY("chained") "]}",
	 NULL},
	{"stock is refused", LIST(A "," STOCK), CNICONF_LIST, CNICONF_CHAINED, false, NULL,
	 "--replace-istio-cni"},
	{"stock is refused when copied", LIST(A "," STOCK), CNICONF_LIST, CNICONF_OWNED, false,
	 NULL, "--replace-istio-cni"},
	{"stock is replaced", LIST(A "," STOCK "," B), CNICONF_LIST, CNICONF_CHAINED, true,
	 LIST(A "," B "," ENTRY("chained")), NULL},
	{"stock beside ours is replaced", LIST(A "," STOCK "," ENTRY("chained")), CNICONF_LIST,
	 CNICONF_CHAINED, true, LIST(A "," ENTRY("chained")), NULL},
	{"nothing but ours", LIST(OLD), CNICONF_LIST, CNICONF_CHAINED, false, NULL,
	 "no plugin that makes a network"},
	{"nothing but stock", LIST(STOCK), CNICONF_LIST, CNICONF_CHAINED, true, NULL,
	 "no plugin that makes a network"},
	{"list without version", "{\"name\":\"n\",\"plugins\":[" A "]}", CNICONF_LIST,
	 CNICONF_CHAINED, false, NULL, "cniVersion \"\""},
	{"list of an old version", "{\"cniVersion\":\"0.2.0\",\"name\":\"n\",\"plugins\":[" A "]}",
	 CNICONF_LIST, CNICONF_CHAINED, false, NULL, "cniVersion \"0.2.0\""},
	{"list of a new version", "{\"cniVersion\":\"1.2.0\",\"name\":\"n\",\"plugins\":[" A "]}",
	 CNICONF_LIST, CNICONF_OWNED, false, NULL, "cniVersion \"1.2.0\""},
	{"single of a new version", "{\"cniVersion\":\"2.0.0\",\"type\":\"a\"}", CNICONF_SINGLE,
	 CNICONF_CHAINED, false, NULL, "cniVersion \"2.0.0\""},
	{"name that begins with a dot",
	 "{\"cniVersion\":\"1.0.0\",\"name\":\".a\",\"plugins\":[" A "]}", CNICONF_LIST,
	 CNICONF_CHAINED, false, NULL, "name (line 1): \".a\""},
	{"name that our plugin refuses",
	 "{\"cniVersion\":\"1.0.0\",\"name\":\"a b\",\"plugins\":[" A "]}", CNICONF_LIST,
	 CNICONF_CHAINED, false, NULL, "name (line 1): \"a b\""},
};

static void cniconf_add__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(added); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		struct arena *a = arena_new();
		struct err err = {0};
		struct cniconf c;
		int r;

		assert_int_equal(cniconf_parse(str_of(added[i].in), added[i].kind, a, &c, &err), 0);
		r = cniconf_add(&c, added[i].place, &entry, added[i].replace, &out, &err);
		if (added[i].want != NULL
			    ? r != 0 || out.p == NULL || strcmp(out.p, added[i].want) != 0
			    : r >= 0 || strstr(err.msg, added[i].msg) == NULL)
			fail_msg("%s: %d %s\n%s", added[i].name, r, err.msg,
				 out.p != NULL ? out.p : "");
		(void)arena_free(a);
	}
}

/* One level below the limit: the list around it would be one too deep for whoever reads it. */
static void cniconf_add__a_result_that_nobody_could_read_is_refused(void **state)
{
	_cleanup_strbuf_ struct strbuf in = {0}, out = {0};
	struct arena *a = arena_new();
	struct err err = {0};
	struct cniconf c;

	(void)state;
	strbuf_puts(&in, "{\"type\":\"a\",\"x\":");
	for (int i = 0; i < 31; i++)
		strbuf_putc(&in, '[');
	for (int i = 0; i < 31; i++)
		strbuf_putc(&in, ']');
	strbuf_putc(&in, '}');
	assert_int_equal(cniconf_parse((struct str){in.p, in.n}, CNICONF_SINGLE, a, &c, &err), 0);
	assert_true(cniconf_add(&c, CNICONF_CHAINED, &entry, false, &out, &err) < 0);
	assert_non_null(strstr(err.msg, "nested too deeply"));
	(void)arena_free(a);
}

static void cniconf_add__says_which_pod_is_the_agents(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct cniconf_entry e = {.run_dir = STR("/r\"x"), .pod_namespace = STR("istio-system")};
	struct arena *a = arena_new();
	struct cniconf c;

	(void)state;
	assert_int_equal(cniconf_parse(str_of(mini), CNICONF_LIST, a, &c, NULL), 0);
	assert_int_equal(cniconf_add(&c, CNICONF_CHAINED, &e, false, &out, NULL), 0);
	assert_string_equal(out.p,
			    LIST(A ",{\"type\":\"ambient-cni\",\"installed\":\"chained\","
				   "\"cni_agent_run_dir\":\"/r\\\"x\",\"exclude_namespaces\":"
				   "[],\"pod_namespace\":\"istio-system\"}"));
	(void)arena_free(a);
}

/* Under stock's name: what stock's program reads is in it, and it is ours again afterwards. */
static void cniconf_add__in_stocks_place(void **state)
{
	static const char want[] =
		LIST(A ",{\"type\":\"istio-cni\",\"installed\":\"chained\","
		       "\"cni_agent_run_dir\":\"/run/a\",\"exclude_namespaces\":[\"kube-system\"],"
		       "\"agent_in_pod_network\":true,\"plugin_log_level\":\"debug\","
		       "\"ambient_enabled\":true,\"enablement_selectors\":[{}]}");
	static const char *const in[] = {LIST(A "," STOCK), LIST(A "," OLD), LIST(A), want};
	struct cniconf_entry e = entry;

	(void)state;
	e.as_stock = e.debug = e.in_pod_network = true;
	e.selectors = STR("[{}]");
	for (size_t i = 0; i < ARRAY_LEN(in); i++) {
		_cleanup_strbuf_ struct strbuf out = {0}, back = {0}, own = {0};
		struct arena *a = arena_new();
		struct cniconf c;

		assert_int_equal(cniconf_parse(str_of(in[i]), CNICONF_LIST, a, &c, NULL), 0);
		assert_int_equal(cniconf_add(&c, CNICONF_CHAINED, &e, true, &out, NULL), 0);
		assert_string_equal(out.p, want);
		assert_int_equal(
			cniconf_parse((struct str){out.p, out.n}, CNICONF_LIST, a, &c, NULL), 0);
		assert_true(c.place == CNICONF_CHAINED && !c.has_stock && c.has_others);
		assert_int_equal(cniconf_remove(&c, &back), CNICONF_REST_LIST);
		assert_string_equal(back.p, LIST(A));
		/* and from there to our own name */
		assert_int_equal(cniconf_add(&c, CNICONF_CHAINED, &entry, false, &own, NULL), 0);
		assert_string_equal(own.p, LIST(A "," ENTRY("chained")));
		(void)arena_free(a);
	}
}

/* --- taking out --- */

static const struct {
	const char *name, *in;
	enum cniconf_kind kind;
	enum cniconf_rest rest;
	const char *want; /* NULL: nothing */
} removed[] = {
	{"not in a list", calico, CNICONF_LIST, CNICONF_REST_SAME, calico},
	{"not in a single one", bridge, CNICONF_SINGLE, CNICONF_REST_SAME, bridge},
	{"chained", calico_ours, CNICONF_LIST, CNICONF_REST_LIST, calico},
	{"wrapped", bridge_ours, CNICONF_LIST, CNICONF_REST_SINGLE, bridge},
	{"wrapped, and written anew by somebody",
	 LIST(A "  ,\n\n{\"installed\":\"wrapped\",\"type\":\"ambient-cni\"}"), CNICONF_LIST,
	 CNICONF_REST_SINGLE, A "  "},
	{"wrapped, and somebody else came in",
	 LIST(A "," B ",{\"type\":\"ambient-cni\",\"installed\":\"wrapped\"}"), CNICONF_LIST,
	 CNICONF_REST_LIST, LIST(A "," B)},
	{"wrapped, and somebody came last",
	 LIST(A ",{\"type\":\"ambient-cni\",\"installed\":\"wrapped\"}," B), CNICONF_LIST,
	 CNICONF_REST_LIST, LIST(A "," B)},
	{"wrapped, and turned round",
	 LIST("{\"type\":\"ambient-cni\",\"installed\":\"wrapped\"}," B), CNICONF_LIST,
	 CNICONF_REST_LIST, LIST(B)},
	{"owned", LIST(A "," ENTRY("owned")), CNICONF_LIST, CNICONF_REST_NOTHING, NULL},
	{"only ours", LIST(OLD), CNICONF_LIST, CNICONF_REST_NOTHING, NULL},
	{"a single one of ours", OLD, CNICONF_SINGLE, CNICONF_REST_NOTHING, NULL},
	{"by hand, in the middle", LIST(A " , " OLD " , " B), CNICONF_LIST, CNICONF_REST_LIST,
	 LIST(A " , " B)},
	{"twice", LIST(OLD "," A "," OLD), CNICONF_LIST, CNICONF_REST_LIST, LIST(A)},
	{"beside stock", LIST(STOCK "," OLD), CNICONF_LIST, CNICONF_REST_LIST, LIST(STOCK)},
	{"stock is none of our business", LIST(A "," STOCK), CNICONF_LIST, CNICONF_REST_SAME,
	 LIST(A "," STOCK)},
};

static void cniconf_remove__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(removed); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};
		struct arena *a = arena_new();
		enum cniconf_rest rest;
		struct cniconf c;

		assert_int_equal(cniconf_parse(str_of(removed[i].in), removed[i].kind, a, &c, NULL),
				 0);
		rest = cniconf_remove(&c, &out);
		if (rest != removed[i].rest ||
		    (removed[i].want == NULL ? out.n != 0 : strcmp(out.p, removed[i].want) != 0))
			fail_msg("%s: %d\n%s", removed[i].name, rest, out.p != NULL ? out.p : "");
		(void)arena_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cniconf_kind_of__table),
		cmocka_unit_test(cniconf_list_name__and_back),
		cmocka_unit_test(cniconf_parse__table),
		cmocka_unit_test(cniconf_parse__larger_than_the_limit_is_refused),
		cmocka_unit_test(cniconf_add__table),
		cmocka_unit_test(cniconf_add__a_result_that_nobody_could_read_is_refused),
		cmocka_unit_test(cniconf_add__says_which_pod_is_the_agents),
		cmocka_unit_test(cniconf_add__in_stocks_place),
		cmocka_unit_test(cniconf_remove__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
