/* SPDX-License-Identifier: Apache-2.0
 * test_ctl.c: ambientctl's pure half: documents in, tables, JSON and problems out.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/model.h"
#include "ctl/print.h"
#include "ctl/table.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define NOW 1790000000 /* 2026-09-21T14:13:20Z */

static const char agent_ok[] =
	"{\"version\":\"0.1.0\",\"node\":\"n1\",\"ready\":true,\"reason\":\"\","
	"\"source\":{\"kind\":\"manifests\",\"where\":\"/etc/ambient\",\"synced\":true,\"pods\":2,"
	"\"namespaces\":1,\"error\":\"\"},"
	"\"ztunnels\":[{\"pid\":7,\"version\":2,\"snapshot\":true,\"newest\":true}],"
	"\"pods\":[{\"uid\":\"u1\",\"name\":\"web\",\"namespace\":\"shop\",\"serviceAccount\":"
	"\"front\","
	"\"state\":\"enrolled\",\"reason\":\"\",\"netns\":\"/var/run/netns/a\",\"netnsInode\":1,"
	"\"containerID\":\"c1\",\"ips\":[\"10.0.0.2\"],\"rules\":\"present\",\"ruleDiff\":\"\","
	"\"sockets\":[\"15001\",\"15006\",\"15008\"],\"custody\":true,\"error\":\"\"},"
	"{\"uid\":\"u2\",\"name\":\"batch\",\"namespace\":\"old\",\"serviceAccount\":\"default\","
	"\"state\":\"not-in-mesh\",\"reason\":\"the namespace is not "
	"labelled\",\"rules\":\"absent\","
	"\"sockets\":[],\"custody\":false}]}";
static const char dump_ok[] =
	"{\"version\":{\"version\":\"0.1.0\"},\"config\":{\"devCaDir\":\"/var/lib/"
	"ca\"},\"other\":[1],"
	"\"certificates\":[{\"identity\":\"spiffe://td/ns/shop/sa/front\",\"state\":\"Available\","
	"\"certChain\":[{\"pem\":\"\",\"serialNumber\":\"1\",\"validFrom\":\"2026-09-21T14:00:"
	"00Z\","
	"\"expirationTime\":\"2026-09-22T14:13:20Z\"}],\"rootCerts\":[]}],"
	"\"workloadState\":{\"u1\":{\"state\":\"Up\",\"connections\":{\"inbound\":[{}],"
	"\"outbound\":"
	"[{},{}]},\"info\":{\"name\":\"web\"}}}}";

struct fixture {
	struct arena *a;
	struct ctl_report r;
};

/* The text with the first @from replaced by @to; the caller frees. */
static char *with(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);

	assert_non_null(at);
	return xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void load(struct fixture *f, const char *agent, const char *dump, unsigned int ready)
{
	const struct doc *d = NULL;
	struct err e = {0};

	f->a = arena_new();
	f->r = (struct ctl_report){.now = NOW};
	f->r.agent.error = "there is no socket A";
	f->r.ztunnel.error = "there is no socket Z";
	if (agent != NULL) {
		assert_int_equal(json_parse(str_of(agent), f->a, &d, &e), 0);
		assert_int_equal(ctl_agent_read(d, f->a, &f->r.agent, &e), 0);
	}
	if (dump != NULL) {
		assert_int_equal(json_parse(str_of(dump), f->a, &d, &e), 0);
		assert_int_equal(ctl_ztunnel_read(d, f->a, &f->r.ztunnel, &e), 0);
	}
	ctl_ready_read(ready, ready == 200 ? STR("ready\n") : STR("not ready, pending: a\n"),
		       &f->r.ztunnel);
	ctl_diagnose(&f->r, f->a);
}

static void unload(struct fixture *f)
{
	f->a = arena_free(f->a);
}

static void ctl_print_status__all_well(void **state)
{
	static const char want[] =
		"No problem found.\n"
		"\n"
		"pods          1 enrolled, 0 pending, 1 not-in-mesh, 0 failed\n"
		"agent         0.1.0 on node n1, ready\n"
		"source        manifests /etc/ambient, synced, pods: 2, namespaces: 1\n"
		"connected     pid 7, protocol 2 (socket custody), snapshot confirmed\n"
		"ztunnel       0.1.0, ready\n"
		"workloads     1 up, 0 waiting; connections: 1 in, 2 out\n"
		"CA            /var/lib/ca (development CA, not for production)\n"
		"certificates  1 valid, 0 awaited, 0 unavailable or expired, the first ends in "
		"24h\n";
	_cleanup_strbuf_ struct strbuf out = {0};
	struct fixture f;

	(void)state;
	load(&f, agent_ok, dump_ok, 200);
	assert_int_equal(f.r.nproblems, 0);
	ctl_print_status(&f.r, false, &out);
	assert_string_equal(out.p, want);
	unload(&f);
}

/* A node with 100 pods in trouble of one kind: a few lines, and each says what to do. */
static void ctl_diagnose__many_pods(void **state)
{
	static const struct {
		const char *state, *links, *source;
		const char *problems[3]; /* parts of some, NULL: no more */
		size_t max;
	} rows[] = {
		{"pending", "", "", {"100 pods wait for ztunnel", "ztunnel does not answer"}, 2},
		{"failed",
		 "{\"pid\":7,\"snapshot\":true}",
		 "",
		 {"pod n/p0 failed: no route", "95 more pods failed"},
		 7},
		{"quarantined",
		 "{\"pid\":7,\"snapshot\":true}",
		 "",
		 {"95 more pods are in quarantine"},
		 7},
		{"pending",
		 "{\"pid\":7,\"snapshot\":true}",
		 "",
		 {"95 more pods have their rules"},
		 7},
		{"not-in-mesh",
		 "{\"pid\":7,\"snapshot\":true}",
		 ",\"stale\":true,\"ageSeconds\":90,\"where\":\"https://api\"",
		 {"is 90 s old, its source https://api does not answer"},
		 2},
		{"not-in-mesh",
		 "{\"pid\":7,\"snapshot\":true}",
		 "},\"install\":{\"mode\":\"owned\",\"state\":\"preempted\",\"reason\":\"00-x "
		 "comes first\"",
		 {"start WITHOUT the mesh", "00-x comes first"},
		 2},
		{"not-in-mesh",
		 "{\"pid\":7,\"snapshot\":true}",
		 "},\"install\":{\"mode\":\"owned\",\"state\":\"installed\",\"reason\":\"\"",
		 {"ztunnel does not answer"},
		 1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf b = {0}, out = {0};
		struct fixture f;

		strbuf_printf(&b,
			      "{\"ready\":true,\"source\":{\"synced\":true%s},\"ztunnels\":[%s],"
			      "\"pods\":[",
			      rows[i].source, rows[i].links);
		for (size_t k = 0; k < 100; k++)
			strbuf_printf(&b,
				      "%s{\"uid\":\"u%zu\",\"name\":\"p%zu\",\"namespace\":\"n\","
				      "\"state\":\"%s\",\"error\":\"no route\"}",
				      k != 0 ? "," : "", k, k, rows[i].state);
		strbuf_puts(&b, "]}");
		load(&f, b.p, NULL, 0);
		ctl_print_status(&f.r, false, &out);
		if (f.r.nproblems > rows[i].max)
			fail_msg("row %zu: %zu problems\n%s", i, f.r.nproblems, out.p);
		for (size_t k = 0; k < 3 && rows[i].problems[k] != NULL; k++)
			if (strstr(out.p, rows[i].problems[k]) == NULL)
				fail_msg("row %zu: no %s in\n%s", i, rows[i].problems[k], out.p);
		for (size_t k = 0; k < f.r.nproblems; k++)
			assert_true(f.r.problems[k].act[0] != '\0');
		unload(&f);
	}
}

static void ctl_print_pods__table(void **state)
{
	static const char want[] =
		"NAMESPACE  NAME   STATE        RULES    SOCKETS                      "
		"IDENTITY             CERTIFICATE                       REASON\n"
		"shop       web    enrolled     present  15001,15006,15008 (custody)  "
		"td/ns/shop/sa/front  until 2026-09-22T14:13:20Z (24h)  -\n"
		"old        batch  not-in-mesh  absent   -                            "
		"-                    -                                 the namespace is not "
		"labelled\n";
	_cleanup_strbuf_ struct strbuf out = {0}, notes = {0}, one = {0}, none = {0};
	struct fixture f;

	(void)state;
	load(&f, agent_ok, dump_ok, 200);
	ctl_print_pods(&f.r, NULL, false, &out, &notes);
	assert_string_equal(out.p, want);
	assert_int_equal(notes.n, 0);
	ctl_print_pods(&f.r, "old", false, &one, &notes);
	assert_null(strstr(one.p, "web"));
	assert_non_null(strstr(one.p, "batch"));
	ctl_print_pods(&f.r, "nowhere", false, &none, &notes);
	assert_int_equal(none.n, 0);
	assert_string_equal(notes.p, "the agent knows no pod of that namespace\n");
	unload(&f);
}

static void ctl_print_pods__certificate_states(void **state)
{
	static const struct {
		const char *from, *to, *part;
	} rows[] = {
		{"td/ns/shop/sa/front", "td/ns/shop/sa/other", "home/ns/shop/sa/front  none yet"},
		{"td/ns/shop/sa/front", "td/ns/elsewhere/sa/front",
		 "home/ns/shop/sa/front  none yet"},
		{"\"certChain\":[{", "\"certChain\":[],\"x\":[{", "td/ns/shop/sa/front  Available"},
		{"\"2026-09-22T14:13:20Z", "\"2026-09-21T12:13:20Z", "EXPIRED 2h ago"},
		{"\"2026-09-22T14:13:20Z", "\"2026-09-21T14:14:20Z",
		 "until 2026-09-21T14:14:20Z (60s)"},
		{"\"2026-09-22T14:13:20Z", "\"2026-10-01T14:14:20Z", "(10d)"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_free_ char *home =
			with(dump_ok, "\"devCaDir\"", "\"trustDomain\":\"home\",\"devCaDir\"");
		_cleanup_free_ char *dump = with(home, rows[i].from, rows[i].to);
		_cleanup_strbuf_ struct strbuf out = {0}, notes = {0};
		struct fixture f;

		load(&f, agent_ok, dump, 200);
		ctl_print_pods(&f.r, NULL, false, &out, &notes);
		if (strstr(out.p, rows[i].part) == NULL)
			fail_msg("no \"%s\" in %s", rows[i].part, out.p);
		unload(&f);
	}
}

static void ctl_print_pods__daemons_away(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0}, notes = {0};
	struct fixture f;

	(void)state;
	load(&f, agent_ok, NULL, 0);
	ctl_print_pods(&f.r, NULL, false, &out, &notes);
	assert_non_null(strstr(out.p, "?/ns/shop/sa/front  -"));
	assert_string_equal(notes.p,
			    "ztunnel does not answer, certificates are unknown: there is no "
			    "socket Z\n");
	unload(&f);
	load(&f, NULL, dump_ok, 200);
	strbuf_fini(&out);
	ctl_print_pods(&f.r, NULL, false, &out, &notes);
	assert_int_equal(out.n, 0);
	unload(&f);
}

static void ctl_diagnose__one_fault_one_line(void **state)
{
	static const struct {
		const char *agent_from, *agent_to, *dump_from, *dump_to, *what;
	} rows[] = {
		{"\"ready\":true,\"reason\":\"\"", "\"ready\":false,\"reason\":\"no sources\"",
		 NULL, NULL, "the agent is not ready, new pods are refused: no sources"},
		{"\"synced\":true", "\"synced\":false", NULL, NULL,
		 "the agent has not read its source /etc/ambient yet"},
		{"1,\"error\":\"\"", "1,\"error\":\"web.yaml line 3\"", NULL, NULL,
		 "the agent's source has an error: web.yaml line 3"},
		{"{\"pid\":7,\"version\":2,\"snapshot\":true,\"newest\":true}", "", NULL, NULL,
		 "no ztunnel is connected to the agent"},
		{"\"snapshot\":true", "\"snapshot\":false", NULL, NULL,
		 "ztunnel is connected but has not confirmed the agent's snapshot"},
		{"\"enrolled\",\"reason\":\"\"", "\"failed\",\"reason\":\"no netns\"", NULL, NULL,
		 "pod shop/web failed: no netns"},
		{"\"enrolled\",\"reason\":\"\"", "\"pending\",\"reason\":\"no ack\"", NULL, NULL,
		 "pod shop/web has its rules but ztunnel has not taken it: no ack"},
		{"\"present\",\"ruleDiff\":\"\"",
		 "\"different\",\"ruleDiff\":\"missing: a\\nextra: b\"", NULL, NULL,
		 "the rules of pod shop/web are different: missing: a"},
		{NULL, NULL, "\"other\":[1]", "\"localState\":{\"error\":\"line 3\"}",
		 "ztunnel's mesh state has an error: line 3"},
		{"\"present\"", "\"unknown\"", NULL, NULL, "the rules of pod shop/web are unknown"},
		{NULL, NULL, "\"u1\"", "\"u9\"",
		 "pod shop/web is enrolled but ztunnel does not know it"},
		{NULL, NULL, "\"Up\"", "\"Pending\"",
		 "ztunnel has not started to serve pod shop/web"},
		{NULL, NULL, "\"Available\"", "\"Unavailable: CA refused\"",
		 "no certificate for spiffe://td/ns/shop/sa/front: Unavailable: CA refused"},
		{NULL, NULL, "2026-09-22T14:13:20Z", "2026-09-21T14:13:20Z",
		 "the certificate of spiffe://td/ns/shop/sa/front expired at 2026-09-21T14:13:20Z"},
		{NULL, NULL, "2026-09-22T14:13:20Z", "2026-09-21T14:18:19Z",
		 "the certificate of spiffe://td/ns/shop/sa/front expires at 2026-09-21T14:18:19Z "
		 "and was "
		 "not renewed"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_free_ char *agent =
			rows[i].agent_from != NULL
				? with(agent_ok, rows[i].agent_from, rows[i].agent_to)
				: xstrdup(agent_ok);
		_cleanup_free_ char *dump =
			rows[i].dump_from != NULL
				? with(dump_ok, rows[i].dump_from, rows[i].dump_to)
				: xstrdup(dump_ok);
		_cleanup_strbuf_ struct strbuf out = {0};
		struct fixture f;

		load(&f, agent, dump, 200);
		if (f.r.nproblems != 1)
			fail_msg("%s: %zu problems", rows[i].what, f.r.nproblems);
		assert_string_equal(f.r.problems[0].what, rows[i].what);
		assert_true(strlen(f.r.problems[0].act) > 0);
		ctl_print_status(&f.r, false, &out);
		assert_non_null(strstr(out.p, rows[i].what));
		assert_null(strstr(out.p, "No problem"));
		unload(&f);
	}
}

static void ctl_diagnose__away_and_not_ready(void **state)
{
	struct fixture f;

	(void)state;
	load(&f, NULL, NULL, 0);
	assert_int_equal(f.r.nproblems, 2);
	assert_string_equal(f.r.problems[0].what,
			    "the agent does not answer: there is no socket A");
	assert_string_equal(f.r.problems[1].what, "ztunnel does not answer: there is no socket Z");
	unload(&f);
	load(&f, agent_ok, dump_ok, 500);
	assert_int_equal(f.r.nproblems, 1);
	assert_string_equal(f.r.problems[0].what, "ztunnel is not ready: not ready, pending: a");
	unload(&f);
	load(&f, agent_ok, dump_ok, 404); /* nobody answers there: no statement, no problem */
	assert_int_equal(f.r.nproblems, 0);
	assert_int_equal(f.r.ztunnel.ready, CTL_READY_UNKNOWN);
	unload(&f);
}

static void ctl_read__wrong_types_are_named(void **state)
{
	static const struct {
		const char *in, *msg;
		bool dump;
	} rows[] = {
		{"[]", "top level (line 1): expected map, got list", false},
		{"{\"ready\":1}", "ready (line 1): expected true or false, got number", false},
		{"{\"pods\":{}}", "pods (line 1): expected list, got map", false},
		{"{\"pods\":[1]}", "pods[0] (line 1): expected map, got number", false},
		{"{\"pods\":[{},{\"ips\":[1]}]}", "pods[1].ips[0] (line 1): expected text", false},
		{"{\"ztunnels\":[{\"pid\":-1}]}",
		 "ztunnels[0].pid (line 1): expected a whole number from 0 to 4294967295, got -1",
		 false},
		{"{\"source\":\"x\"}", "source (line 1): expected map, got text", false},
		{"[]", "top level (line 1): expected map, got list", true},
		{"{\"certificates\":[{\"certChain\":[{\"expirationTime\":\"soon\"}]}]}",
		 "certificates[0].certChain[0] (line 1): expirationTime soon is no time", true},
		{"{\"workloadState\":[]}", "workloadState (line 1): expected map, got list", true},
		{"{\"workloadState\":{\"u\":{\"connections\":{\"inbound\":1}}}}",
		 "workloadState.u.connections.inbound (line 1): expected list, got number", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct arena *a = arena_new();
		struct ctl_agent g = {0};
		struct ctl_ztunnel z = {0};
		const struct doc *d = NULL;
		struct err e = {0};

		assert_int_equal(json_parse(str_of(rows[i].in), a, &d, NULL), 0);
		assert_int_equal(rows[i].dump ? ctl_ztunnel_read(d, a, &z, &e)
					      : ctl_agent_read(d, a, &g, &e),
				 -EINVAL);
		assert_string_equal(e.msg, rows[i].msg);
		assert_false(g.answers || z.answers);
		arena_free(a);
	}
}

static void ctl_read__empty_documents_are_fine(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct fixture f;

	(void)state;
	load(&f, "{}", "{}", 200);
	ctl_print_status(&f.r, false, &out);
	assert_non_null(strstr(out.p, "? on node ?, NOT READY"));
	assert_true(f.r.nproblems > 0);
	unload(&f);
}

static void ctl_time_parse__table(void **state)
{
	static const struct {
		const char *in;
		int r;
		int64_t t;
	} rows[] = {
		{"1970-01-01T00:00:00Z", 0, 0},
		{"2000-02-29T23:59:59Z", 0, 951868799},
		{"2026-09-21T14:13:20Z", 0, NOW},
		{"2100-03-01T00:00:00Z", 0, 4107542400},
		{"2026-09-21T14:13:20", -EINVAL, 0},
		{"2026-09-21 14:13:20Z", -EINVAL, 0},
		{"2026-13-21T14:13:20Z", -EINVAL, 0},
		{"2026-00-21T14:13:20Z", -EINVAL, 0},
		{"2026-09-32T14:13:20Z", -EINVAL, 0},
		{"2026-09-21T24:13:20Z", -EINVAL, 0},
		{"2026-09-21T14:13:2xZ", -EINVAL, 0},
		{"2026-09-21T14:13:20.5Z", -EINVAL, 0},
		{"", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		int64_t t = 0;

		assert_int_equal(ctl_time_parse(str_of(rows[i].in), &t), rows[i].r);
		assert_true(t == rows[i].t);
	}
}

static void ctl_put__escapes_what_moves_the_cursor(void **state)
{
	static const struct {
		const char *in, *out;
		size_t max;
	} rows[] = {
		{"plain", "plain", 0},
		{"\033[2Jx", "\\x1b[2Jx", 0},
		{"a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f", 0},
		{"\xc2\x9b"
		 "2J",
		 "\\xc2\\x9b2J", 0},
		{"\xc3\xa4\xe2\x82\xac", "\xc3\xa4\xe2\x82\xac", 0},
		{"\xff\xc3\xa4", "\\xff\\xc3\\xa4", 0},
		{"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4", "\xc3\xa4...", 4},
		{"abcd", "abcd", 4},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		_cleanup_strbuf_ struct strbuf out = {0};

		ctl_put(&out, str_of(rows[i].in), rows[i].max, CTL_RED, false);
		assert_string_equal(out.p, rows[i].out);
	}
}

static void ctl_table__colour_does_not_move_columns(void **state)
{
	_cleanup_strbuf_ struct strbuf plain = {0}, colour = {0};
	struct ctl_table t = {.columns = 2};

	(void)state;
	ctl_table_add(&t, STR("\xc3\xa4"), CTL_RED);
	ctl_table_add(&t, STR("b"), CTL_PLAIN);
	ctl_table_add(&t, STR("long"), CTL_PLAIN);
	ctl_table_add(&t, STR(""), CTL_GREEN);
	ctl_table_print(&t, false, &plain);
	assert_string_equal(plain.p, "\xc3\xa4     b\nlong  -\n");
	ctl_table_print(&t, true, &colour);
	assert_string_equal(colour.p, "\033[31m\xc3\xa4\033[0m     b\nlong  \033[32m-\033[0m\n");
	ctl_table_fini(&t);
}

static void ctl_json__parses_back(void **state)
{
	_cleanup_strbuf_ struct strbuf status = {0}, pods = {0}, away = {0};
	const struct doc *d = NULL, *p;
	struct fixture f;

	(void)state;
	load(&f, agent_ok, dump_ok, 200);
	ctl_json_status(&f.r, &status);
	assert_int_equal(json_parse((struct str){status.p, status.n}, f.a, &d, NULL), 0);
	assert_true(doc_get(d, "ok")->truth);
	assert_true(str_eqc(doc_get(doc_get(d, "agent"), "node")->text, "n1"));
	assert_true(doc_get(doc_get(d, "ztunnel"), "ready")->truth);
	p = doc_get(d, "pods")->child;
	assert_true(str_eqc(doc_get(doc_get(p, "certificate"), "expirationTime")->text,
			    "2026-09-22T14:13:20Z"));
	assert_true(str_eqc(doc_get(p, "ztunnelState")->text, "Up"));
	assert_int_equal(doc_get(p->next, "certificate")->kind, DOC_NULL);
	ctl_json_pods(&f.r, "old", &pods);
	assert_int_equal(json_parse((struct str){pods.p, pods.n}, f.a, &d, NULL), 0);
	assert_int_equal(doc_get(d, "pods")->count, 1);
	unload(&f);
	load(&f, NULL, NULL, 0);
	ctl_json_status(&f.r, &away);
	assert_int_equal(json_parse((struct str){away.p, away.n}, f.a, &d, NULL), 0);
	assert_false(doc_get(d, "ok")->truth);
	assert_true(str_eqc(doc_get(doc_get(d, "agent"), "error")->text, "there is no socket A"));
	unload(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ctl_print_status__all_well),
		cmocka_unit_test(ctl_diagnose__many_pods),
		cmocka_unit_test(ctl_print_pods__table),
		cmocka_unit_test(ctl_print_pods__certificate_states),
		cmocka_unit_test(ctl_print_pods__daemons_away),
		cmocka_unit_test(ctl_diagnose__one_fault_one_line),
		cmocka_unit_test(ctl_diagnose__away_and_not_ready),
		cmocka_unit_test(ctl_read__wrong_types_are_named),
		cmocka_unit_test(ctl_read__empty_documents_are_fine),
		cmocka_unit_test(ctl_time_parse__table),
		cmocka_unit_test(ctl_put__escapes_what_moves_the_cursor),
		cmocka_unit_test(ctl_table__colour_does_not_move_columns),
		cmocka_unit_test(ctl_json__parses_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
