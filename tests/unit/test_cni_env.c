/* SPDX-License-Identifier: Apache-2.0
 * test_cni_env.c: what the plugin requires of its environment and of CNI_ARGS (cni-spec 1.1, 1.3).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cni/env.h"

struct var {
	const char *name, *value;
};

/* A complete environment, with up to four variables replaced. */
struct fake {
	struct var change[4];
};

static const char *fake_get(void *ctx, const char *name)
{
	static const struct var base[] = {
		{"CNI_CONTAINERID", "c-1"},	 {"CNI_NETNS", "/var/run/netns/a"},
		{"CNI_IFNAME", "eth0"},		 {"CNI_PATH", "/opt/cni/bin"},
		{"CNI_ARGS", "IgnoreUnknown=1"},
	};
	const struct fake *f = ctx;

	for (size_t i = 0; i < ARRAY_LEN(f->change); i++)
		if (f->change[i].name != NULL && strcmp(f->change[i].name, name) == 0)
			return f->change[i].value;
	for (size_t i = 0; i < ARRAY_LEN(base); i++)
		if (strcmp(base[i].name, name) == 0)
			return base[i].value;
	return NULL;
}

#define UNSET(n)                                                                                   \
	{                                                                                          \
		n, NULL                                                                            \
	}

struct row {
	const char *name;
	enum cni_verb verb;
	struct fake env;
	const char *msg; /* part of the error; NULL: success */
};

static const struct row rows[] = {
	{"add__complete", CNI_VERB_ADD, {{{0}}}, NULL},
	{"add__names_every_missing_variable",
	 CNI_VERB_ADD,
	 {{UNSET("CNI_CONTAINERID"), UNSET("CNI_NETNS"), UNSET("CNI_IFNAME"), UNSET("CNI_PATH")}},
	 "missing: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"},
	{"add__empty_is_missing", CNI_VERB_ADD, {{{"CNI_NETNS", ""}}}, "missing: CNI_NETNS"},
	{"check__needs_netns", CNI_VERB_CHECK, {{UNSET("CNI_NETNS")}}, "missing: CNI_NETNS"},
	{"del__netns_may_be_absent", CNI_VERB_DEL, {{UNSET("CNI_NETNS")}}, NULL},
	{"del__needs_ifname", CNI_VERB_DEL, {{UNSET("CNI_IFNAME")}}, "missing: CNI_IFNAME"},
	{"gc__needs_only_path",
	 CNI_VERB_GC,
	 {{UNSET("CNI_CONTAINERID"), UNSET("CNI_NETNS"), UNSET("CNI_IFNAME")}},
	 NULL},
	{"gc__needs_path", CNI_VERB_GC, {{UNSET("CNI_PATH")}}, "missing: CNI_PATH"},
	{"status__needs_path", CNI_VERB_STATUS, {{UNSET("CNI_PATH")}}, "missing: CNI_PATH"},
	{"status__ignores_args", CNI_VERB_STATUS, {{{"CNI_ARGS", "nonsense"}}}, NULL},
	{"args__may_be_absent", CNI_VERB_ADD, {{UNSET("CNI_ARGS")}}, NULL},
	{"id__dots_and_dashes", CNI_VERB_ADD, {{{"CNI_CONTAINERID", "a_B.9-z"}}}, NULL},
	{"id__slash", CNI_VERB_ADD, {{{"CNI_CONTAINERID", "a/b"}}}, "CNI_CONTAINERID \"a/b\""},
	{"id__leading_dot", CNI_VERB_ADD, {{{"CNI_CONTAINERID", ".a"}}}, "CNI_CONTAINERID"},
	{"id__checked_on_del", CNI_VERB_DEL, {{{"CNI_CONTAINERID", "a b"}}}, "CNI_CONTAINERID"},
	{"ifname__15_characters", CNI_VERB_ADD, {{{"CNI_IFNAME", "abcdefghijklmno"}}}, NULL},
	{"ifname__16_characters",
	 CNI_VERB_ADD,
	 {{{"CNI_IFNAME", "abcdefghijklmnop"}}},
	 "16 characters long"},
	{"ifname__dot", CNI_VERB_ADD, {{{"CNI_IFNAME", "."}}}, "must not be \".\""},
	{"ifname__dots", CNI_VERB_ADD, {{{"CNI_IFNAME", ".."}}}, "must not be \"..\""},
	{"ifname__slash", CNI_VERB_ADD, {{{"CNI_IFNAME", "a/b"}}}, "contains '/'"},
	{"ifname__colon", CNI_VERB_ADD, {{{"CNI_IFNAME", "a:b"}}}, "contains '/'"},
	{"ifname__tab", CNI_VERB_ADD, {{{"CNI_IFNAME", "a\tb"}}}, "contains '/'"},
	{"ifname__not_utf8", CNI_VERB_ADD, {{{"CNI_IFNAME", "e\xff"}}}, "not valid UTF-8"},
	{"netns__relative", CNI_VERB_ADD, {{{"CNI_NETNS", "a"}}}, "\"a\" is not an absolute path"},
	{"args__pair_without_value", CNI_VERB_ADD, {{{"CNI_ARGS", "A"}}}, "\"A\" is not of the"},
	{"args__two_equal_signs", CNI_VERB_ADD, {{{"CNI_ARGS", "A=b=c"}}}, "\"A=b=c\" is not"},
	{"args__trailing_semicolon",
	 CNI_VERB_ADD,
	 {{{"CNI_ARGS", "K8S_POD_NAME=a;"}}},
	 "\"\" is not of the form"},
	{"args__unknown", CNI_VERB_ADD, {{{"CNI_ARGS", "COLOR=red"}}}, "argument \"COLOR=red\""},
	{"args__unknown_refused_explicitly",
	 CNI_VERB_ADD,
	 {{{"CNI_ARGS", "IgnoreUnknown=0;COLOR=red"}}},
	 "unknown argument"},
	{"args__unknown_ignored_true",
	 CNI_VERB_ADD,
	 {{{"CNI_ARGS", "COLOR=red;IgnoreUnknown=TRUE"}}},
	 NULL},
	{"args__ignore_unknown_garbage",
	 CNI_VERB_ADD,
	 {{{"CNI_ARGS", "IgnoreUnknown=yes"}}},
	 "IgnoreUnknown is \"yes\""},
	{"args__not_utf8", CNI_VERB_ADD, {{{"CNI_ARGS", "K8S_POD_NAME=\xff"}}}, "CNI_ARGS is not"},
};

static void env_load__row(void **state)
{
	const struct row *row = *state;
	struct fake env = row->env;
	struct cni_env e;
	struct cni_fail f = {0};
	int r = cni_env_load(row->verb, fake_get, &env, &e, &f);

	if (row->msg == NULL) {
		if (r != 0)
			fail_msg("unexpected: %s", f.msg);
		return;
	}
	assert_int_equal(r, -1);
	assert_int_equal(f.code, CNI_BAD_ENV);
	if (strstr(f.msg, row->msg) == NULL)
		fail_msg("got \"%s\", expected \"%s\" in it", f.msg, row->msg);
}

static void env_load__takes_the_pod_from_args(void **state)
{
	struct fake env = {{{"CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-1;"
					 "K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1;X=y"},
			    {"CNI_NETNS_OVERRIDE", "TRUE"}}};
	struct cni_env e;
	struct cni_fail f = {0};

	(void)state;
	assert_int_equal(cni_env_load(CNI_VERB_ADD, fake_get, &env, &e, &f), 0);
	assert_true(str_eqc(e.pod_name, "web-1"));
	assert_true(str_eqc(e.pod_namespace, "ns"));
	assert_true(str_eqc(e.pod_uid, "u-1"));
	assert_string_equal(e.netns, "/var/run/netns/a");
	assert_true(e.netns_override);
}

static void verb_parse__all(void **state)
{
	(void)state;
	for (enum cni_verb v = CNI_VERB_ADD; v < CNI_VERB_N; v++)
		assert_int_equal(cni_verb_parse(cni_verb_name[v]), v);
	assert_int_equal(cni_verb_parse("add"), CNI_VERB_NONE);
	assert_int_equal(cni_verb_parse("ADDX"), CNI_VERB_NONE);
	assert_int_equal(cni_verb_parse(""), CNI_VERB_NONE);
}

static void fail_write__keeps_json_valid(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct cni_fail f = {0};

	(void)state;
	assert_int_equal(cni_fail_set(&f, CNI_TRY_AGAIN, "a \"b\"\n"), -1);
	assert_int_equal(cni_fail_details(&f, "c"), -1);
	cni_fail_write(&f, "1.0.0", &b);
	assert_string_equal(b.p, "{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"a \\\"b\\\"\\n\","
				 "\"details\":\"c\"}\n");
}

static void fail_write__cut_in_the_middle_of_a_character(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct cni_fail f = {0};
	char big[ERR_MSG_MAX + 8];

	(void)state;
	for (size_t i = 0; i + 2 < sizeof(big); i += 2)
		memcpy(big + i, "\xc3\xa9", 3);
	assert_int_equal(cni_fail_set(&f, CNI_IO, "xy%s", big), -1);
	cni_fail_write(&f, "1.0.0", &b);
	assert_true(str_is_utf8((struct str){b.p, b.n}));
	assert_null(strstr(b.p, "\\ufffd"));
	assert_null(strstr(b.p, "unreadable"));
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 4] = {
		cmocka_unit_test(env_load__takes_the_pod_from_args),
		cmocka_unit_test(verb_parse__all),
		cmocka_unit_test(fail_write__keeps_json_valid),
		cmocka_unit_test(fail_write__cut_in_the_middle_of_a_character),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[4 + i] = (struct CMUnitTest){.name = rows[i].name,
						   .test_func = env_load__row,
						   .initial_state = (void *)(uintptr_t)&rows[i]};
	return cmocka_run_group_tests_name("cni_env", tests, NULL, NULL);
}
