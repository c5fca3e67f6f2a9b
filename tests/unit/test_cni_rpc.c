/* SPDX-License-Identifier: Apache-2.0
 * test_cni_rpc.c: what is sent to either agent, byte for byte, and what their answers mean
 * (docs/agent-api.md; cni-spec 1.7; RFC 9112 for the framing).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cni/rpc.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

struct fixture {
	struct arena *arena;
	struct cni_env env;
	struct netconf conf;
	struct result prev;
	struct rpc_call call;
};

static void setup(struct fixture *x, enum cni_agent_api api, enum cni_verb verb, const char *prev)
{
	const struct doc *d = NULL;
	struct cni_fail f = {0};

	*x = (struct fixture){.arena = arena_new()};
	x->env = (struct cni_env){.container_id = "c1",
				  .netns = "/var/run/netns/cni-1",
				  .ifname = "eth0",
				  .pod_name = STR("a"),
				  .pod_namespace = STR("b"),
				  .pod_uid = STR("u")};
	assert_int_equal(netconf_parse(STR("{\"cniVersion\":\"1.1.0\",\"name\":\"n\","
					   "\"cni.dev/valid-attachments\":[{\"containerID\":\"c1\","
					   "\"ifname\":\"eth0\"}]}"),
				       x->arena, &x->conf, &f),
			 0);
	x->conf.api = api;
	if (prev != NULL)
		assert_int_equal(json_parse(str_of(prev), x->arena, &d, NULL), 0);
	assert_int_equal(result_parse(d, CNI_V_1_1_0, &x->prev, &f), 0);
	x->call = (struct rpc_call){.verb = verb,
				    .env = &x->env,
				    .conf = &x->conf,
				    .prev = &x->prev,
				    .deadline_ms = 9000};
}

#define PREV                                                                                       \
	"{\"ips\":[{\"interface\":2,\"address\":\"10.1.2.3/24\",\"gateway\":\"10.1.2.1\"},"        \
	"{\"address\":\"fd00::2/64\"}]}"
#define HEAD(path, n)                                                                              \
	"POST " path " HTTP/1.1\r\nHost: unix\r\nUser-Agent: ambient-cni/" VERSION                 \
	"\r\nContent-Type: application/json\r\nContent-Length: " n "\r\nConnection: close\r\n\r\n"

static const struct encode_row {
	const char *name;
	enum cni_agent_api api;
	enum cni_verb verb;
	const char *prev, *want;
} encode_rows[] = {
	/* the example of cni-spec 1.7, plus an IPv6 address with neither interface nor gateway */
	{"encode__istio", CNI_AGENT_ISTIO, CNI_VERB_ADD, PREV,
	 HEAD("/cmdadd",
	      "249") "{\"Netns\":\"/var/run/netns/cni-1\",\"PodName\":\"a\","
		     "\"PodNamespace\":\"b\",\"IPs\":[{\"Interface\":2,\"Address\":"
		     "{\"IP\":\"10.1.2.3\",\"Mask\":\"////AA==\"},\"Gateway\":\"10.1.2.1\"},"
		     "{\"Interface\":null,\"Address\":{\"IP\":\"fd00::2\","
		     "\"Mask\":\"//////////8AAAAAAAAAAA==\"},\"Gateway\":\"\"}]}"},
	{"encode__istio_without_addresses", CNI_AGENT_ISTIO, CNI_VERB_ADD, NULL,
	 HEAD("/cmdadd", "76") "{\"Netns\":\"/var/run/netns/cni-1\",\"PodName\":\"a\","
			       "\"PodNamespace\":\"b\",\"IPs\":null}"},
	{"encode__add", CNI_AGENT_AMBIENT, CNI_VERB_ADD, PREV,
	 HEAD("/v1/cni",
	      "182") "{\"command\":\"ADD\",\"containerID\":\"c1\","
		     "\"netns\":\"/var/run/netns/cni-1\",\"ifname\":\"eth0\",\"podName\":\"a\","
		     "\"podNamespace\":\"b\",\"podUID\":\"u\","
		     "\"ips\":[\"10.1.2.3/24\",\"fd00::2/64\"],\"deadlineMs\":9000}"},
	{"encode__del_without_addresses", CNI_AGENT_AMBIENT, CNI_VERB_DEL, NULL,
	 HEAD("/v1/cni",
	      "156") "{\"command\":\"DEL\",\"containerID\":\"c1\","
		     "\"netns\":\"/var/run/netns/cni-1\",\"ifname\":\"eth0\",\"podName\":\"a\","
		     "\"podNamespace\":\"b\",\"podUID\":\"u\",\"ips\":[],\"deadlineMs\":9000}"},
	{"encode__gc", CNI_AGENT_AMBIENT, CNI_VERB_GC, NULL,
	 HEAD("/v1/cni", "92") "{\"command\":\"GC\",\"validAttachments\":[{\"containerID\":\"c1\","
			       "\"ifname\":\"eth0\"}],\"deadlineMs\":9000}"},
	{"encode__status", CNI_AGENT_AMBIENT, CNI_VERB_STATUS, NULL,
	 HEAD("/v1/cni", "38") "{\"command\":\"STATUS\",\"deadlineMs\":9000}"},
};

static void rpc_encode__row(void **state)
{
	const struct encode_row *row = *state;
	_cleanup_strbuf_ struct strbuf out = {0};
	struct cni_fail f = {0};
	struct fixture x;

	setup(&x, row->api, row->verb, row->prev);
	assert_int_equal(rpc_encode(&x.call, &out, &f), 0);
	assert_string_equal(out.p, row->want);
	(void)arena_free(x.arena);
}

static void rpc_encode__too_large(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0}, name = {0};
	struct cni_fail f = {0};
	struct fixture x;

	(void)state;
	setup(&x, CNI_AGENT_AMBIENT, CNI_VERB_ADD, NULL);
	while (name.n < RPC_REQUEST_MAX)
		strbuf_puts(&name, "0123456789");
	x.env.pod_name = (struct str){name.p, name.n};
	assert_int_equal(rpc_encode(&x.call, &out, &f), -1);
	assert_int_equal(f.code, CNI_BAD_CONFIG);
	assert_int_equal(out.n, 0);
	(void)arena_free(x.arena);
}

static void rpc_encode__hostile_names_stay_text(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct cni_fail f = {0};
	struct fixture x;

	(void)state;
	setup(&x, CNI_AGENT_ISTIO, CNI_VERB_ADD, NULL);
	x.env.pod_name = STR("a\",\"Netns\":\"/proc/1/ns/net\r\n");
	assert_int_equal(rpc_encode(&x.call, &out, &f), 0);
	assert_non_null(strstr(out.p, "\"PodName\":\"a\\\",\\\"Netns\\\":\\\"/proc/1/ns/net"));
	(void)arena_free(x.arena);
}

/* code 0: success with that outcome */
static const struct decode_row {
	const char *name;
	enum cni_agent_api api;
	enum cni_verb verb;
	unsigned int status;
	const char *body;
	int code;
	enum rpc_outcome outcome;
	const char *msg;
} decode_rows[] = {
#define OURS  CNI_AGENT_AMBIENT, CNI_VERB_ADD
#define STOCK CNI_AGENT_ISTIO, CNI_VERB_ADD
	{"decode__enrolled", OURS, 200, "{\"outcome\":\"enrolled\",\"reason\":\"r\"}", 0,
	 RPC_ENROLLED, NULL},
	{"decode__not_in_mesh", OURS, 200, "{\"outcome\":\"not-in-mesh\",\"reason\":\"\"}", 0,
	 RPC_NOT_IN_MESH, NULL},
	{"decode__newer_agent", OURS, 200, "{\"outcome\":\"enrolled\",\"later\":[1]}", 0,
	 RPC_ENROLLED, NULL},
	{"decode__ok_is_no_answer_to_add", OURS, 200, "{\"outcome\":\"ok\"}", CNI_INTERNAL, 0,
	 "not understood"},
	{"decode__ok_for_del", CNI_AGENT_AMBIENT, CNI_VERB_DEL, 200, "{\"outcome\":\"ok\"}", 0,
	 RPC_DONE, NULL},
	{"decode__unknown_outcome", OURS, 200, "{\"outcome\":\"ENROLLED\"}", CNI_INTERNAL, 0,
	 "not understood"},
	{"decode__no_outcome", OURS, 200, "{}", CNI_INTERNAL, 0, "field outcome is missing"},
	{"decode__outcome_type", OURS, 200, "{\"outcome\":true}", CNI_INTERNAL, 0, "expected text"},
	{"decode__empty_200", OURS, 200, "", CNI_INTERNAL, 0, "not understood"},
	{"decode__text_200", OURS, 200, "fine", CNI_INTERNAL, 0, "not understood"},
	{"decode__list_200", OURS, 200, "[]", CNI_INTERNAL, 0, "not understood"},
	{"decode__agent_error_unchanged", OURS, 409,
	 "{\"code\":11,\"msg\":\"pod b/a is not known yet\",\"details\":\"wait\"}", 11, 0,
	 "pod b/a is not known yet"},
	{"decode__error_beats_outcome", OURS, 503,
	 "{\"outcome\":\"enrolled\",\"code\":50,\"msg\":\"no ztunnel\"}", 50, 0, "no ztunnel"},
	{"decode__error_without_code", OURS, 500, "{\"msg\":\"x\"}", CNI_INTERNAL, 0,
	 "status 500, code or msg is missing"},
	{"decode__error_code_zero", OURS, 500, "{\"code\":0,\"msg\":\"x\"}", CNI_INTERNAL, 0,
	 "not understood"},
	{"decode__error_code_text", OURS, 500, "{\"code\":\"11\",\"msg\":\"x\"}", CNI_INTERNAL, 0,
	 "not understood"},
	{"decode__error_without_msg", OURS, 500, "{\"code\":11}", CNI_INTERNAL, 0, "msg"},
	{"decode__404_of_a_stock_agent", OURS, 404, "404 page not found\n", CNI_INTERNAL, 0,
	 "status 404"},
	{"decode__201_is_not_200", OURS, 201, "{\"outcome\":\"enrolled\"}", CNI_INTERNAL, 0,
	 "not understood"},
	{"decode__duplicate_outcome", OURS, 200,
	 "{\"outcome\":\"enrolled\",\"outcome\":\"not-in-mesh\"}", CNI_INTERNAL, 0, "twice"},
	{"stock__200", STOCK, 200, "", 0, RPC_ENROLLED, NULL},
	{"stock__200_body_ignored", STOCK, 200, "anything", 0, RPC_ENROLLED, NULL},
	{"stock__not_eligible", STOCK, 500,
	 "pod b/a is unexpectedly not eligible for ambient enrollment\n", 0, RPC_NOT_IN_MESH, NULL},
	{"stock__other_pod_not_eligible", STOCK, 500,
	 "pod b/other is unexpectedly not eligible for ambient enrollment\n", CNI_TRY_AGAIN, 0,
	 "status 500"},
	{"stock__quoted_not_eligible", STOCK, 500,
	 "failed: pod b/a is unexpectedly not eligible for ambient enrollment\n", CNI_TRY_AGAIN, 0,
	 "status 500"},
	{"stock__not_eligible_with_400", STOCK, 400,
	 "pod b/a is unexpectedly not eligible for ambient enrollment\n", CNI_INTERNAL, 0, "400"},
	{"stock__unknown_pod", STOCK, 500, "failed to get pod b/a: pod \"a\" not found\n",
	 CNI_TRY_AGAIN, 0, "failed to get pod b/a"},
	{"stock__no_ztunnel", STOCK, 500, "no ztunnel connection\n", CNI_TRY_AGAIN, 0,
	 "no ztunnel connection"},
	{"stock__bad_request", STOCK, 400, "invalid character\n", CNI_INTERNAL, 0, "status 400"},
	{"stock__404_of_another_server", STOCK, 404, "", CNI_INTERNAL, 0, "status 404"},
	{"stock__202_is_not_200", STOCK, 202, "", CNI_INTERNAL, 0, "status 202"},
};

static void rpc_decode__row(void **state)
{
	const struct decode_row *row = *state;
	struct http_answer ans = {.status = row->status, .body = str_of(row->body)};
	struct rpc_answer got = {0};
	struct cni_fail f = {0};
	struct fixture x;
	int r;

	setup(&x, row->api, row->verb, NULL);
	r = rpc_decode(&x.call, &ans, x.arena, &got, &f);
	assert_int_equal(r, row->code == 0 ? 0 : -1);
	assert_int_equal(f.code, row->code);
	if (row->code == 0) {
		assert_int_equal(got.outcome, row->outcome);
	} else {
		if (strstr(f.msg, row->msg) == NULL)
			fail_msg("got \"%s\", expected \"%s\"", f.msg, row->msg);
	}
	(void)arena_free(x.arena);
}

static const struct http_row {
	const char *name, *in;
	int eof, r;
	unsigned int status;
	const char *body_or_msg;
} http_rows[] = {
#define H "HTTP/1.1 200 OK\r\n"
	{"http__length", H "Content-Length: 2\r\n\r\nok", 0, 1, 200, "ok"},
	{"http__length_zero", H "Content-Length: 0\r\n\r\n", 0, 1, 200, ""},
	{"http__length_and_more", H "content-length:2\r\n\r\nokHTTP", 0, 1, 200, "ok"},
	{"http__until_end", "HTTP/1.0 503 Busy\r\n\r\nlater", 1, 1, 503, "later"},
	{"http__until_end_not_there", "HTTP/1.0 503 Busy\r\n\r\nlater", 0, 0, 0, NULL},
	{"http__no_phrase", "HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", 0, 1, 500, ""},
	{"http__bare_lf", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 0, 1, 200, "x"},
	{"http__chunks",
	 "HTTP/1.1 500 E\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n"
	 "0\r\n\r\n",
	 0, 1, 500, "abc0123456789"},
	{"http__chunks_not_done", H "Transfer-Encoding: chunked\r\n\r\n3\r\nab", 0, 0, 0, NULL},
	{"http__chunks_cut", H "Transfer-Encoding: chunked\r\n\r\n3\r\nab", 1, -ECONNRESET, 0,
	 "middle of the answer's body"},
	{"http__chunk_size_garbage", H "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 0, -EBADMSG, 0,
	 "chunk without a size"},
	{"http__chunk_size_empty", H "Transfer-Encoding: chunked\r\n\r\n\r\n", 0, -EBADMSG, 0,
	 "chunk without a size"},
	{"http__chunk_size_huge", H "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 0,
	 -EBADMSG, 0, "chunk without a size"},
	{"http__chunk_above_limit", H "Transfer-Encoding: chunked\r\n\r\n10001\r\n", 0, -EBADMSG, 0,
	 "larger than 64 KiB"},
	{"http__chunk_longer_than_said", H "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n", 0,
	 -EBADMSG, 0, "another size"},
	{"http__length_and_chunks",
	 H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 0, -EBADMSG, 0,
	 "both a length and chunks"},
	{"http__length_twice", H "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 0, -EBADMSG, 0,
	 "twice"},
	{"http__length_negative", H "Content-Length: -1\r\n\r\n", 0, -EBADMSG, 0, "Content-Length"},
	{"http__length_huge", H "Content-Length: 65537\r\n\r\n", 0, -EBADMSG, 0, "Content-Length"},
	{"http__gzip", H "Transfer-Encoding: gzip\r\n\r\n", 0, -EBADMSG, 0, "Transfer-Encoding"},
	{"http__nothing_yet", "", 0, 0, 0, NULL},
	{"http__nothing_at_all", "", 1, -ECONNRESET, 0, "closed without an answer"},
	{"http__head_half", "HTTP/1.1 200 OK\r\nConte", 0, 0, 0, NULL},
	{"http__head_cut", "HTTP/1.1 200 OK\r\nConte", 1, -ECONNRESET, 0, "answer's head"},
	{"http__line_cut", "HTTP/1.", 1, -ECONNRESET, 0, "first line"},
	{"http__body_cut", H "Content-Length: 3\r\n\r\nok", 1, -ECONNRESET, 0, "answer's body"},
	{"http__ssh", "SSH-2.0-OpenSSH\r\n", 0, -EBADMSG, 0, "not HTTP/1.1"},
	{"http__ssh_first_byte", "S", 0, -EBADMSG, 0, "not HTTP/1.1"},
	{"http__http2", "HTTP/2 200\r\n\r\n", 0, -EBADMSG, 0, "not HTTP/1.1"},
	{"http__status_text", "HTTP/1.1 OK\r\n\r\n", 0, -EBADMSG, 0, "status number"},
	{"http__status_100", "HTTP/1.1 100 Continue\r\n\r\n", 0, -EBADMSG, 0, "200 to 599"},
	{"http__status_4_digits", "HTTP/1.1 2000 OK\r\n\r\n", 0, -EBADMSG, 0, "status number"},
	{"http__header_without_colon", H "hello\r\n\r\n", 0, -EBADMSG, 0, "no name"},
	{"http__header_without_name", H ": x\r\n\r\n", 0, -EBADMSG, 0, "no name"},
};

static void http_answer__row(void **state)
{
	const struct http_row *row = *state;
	struct arena *a = arena_new();
	struct http_answer got = {0};
	struct err err = {0};
	int r = http_answer_parse(str_of(row->in), row->eof, a, &got, &err);

	if (r != row->r)
		fail_msg("got %d %s, expected %d", r, err.msg, row->r);
	if (r == 1) {
		assert_int_equal(got.status, row->status);
		assert_true(str_eqc(got.body, row->body_or_msg));
	} else if (r < 0) {
		if (strstr(err.msg, row->body_or_msg) == NULL)
			fail_msg("got \"%s\", expected \"%s\"", err.msg, row->body_or_msg);
	}
	(void)arena_free(a);
}

/* However the bytes arrive, nothing is decided before the end and the answer is the same. */
static void http_answer__every_split(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(http_rows); i++) {
		struct str in = str_of(http_rows[i].in);

		if (http_rows[i].r != 1 || http_rows[i].eof || strstr(in.p, "okHTTP") != NULL)
			continue;
		for (size_t n = 0; n <= in.n; n++) {
			struct arena *a = arena_new();
			struct http_answer got = {0};
			int r = http_answer_parse((struct str){in.p, n}, false, a, &got, NULL);

			/* the last CRLF of the last chunk is not waited for */
			if (r == 1)
				assert_true(str_eqc(got.body, http_rows[i].body_or_msg));
			else
				assert_int_equal(r, 0);
			if (n == in.n)
				assert_int_equal(r, 1);
			(void)arena_free(a);
		}
	}
}

static const struct transport_row {
	const char *name;
	enum cni_verb verb;
	int error, code;
	const char *details;
} transport_rows[] = {
	{"transport__gone", CNI_VERB_ADD, ENOENT, CNI_TRY_AGAIN, "systemctl status ambient-agent"},
	{"transport__refused", CNI_VERB_ADD, ECONNREFUSED, CNI_TRY_AGAIN, "cni_agent_run_dir"},
	{"transport__hang", CNI_VERB_ADD, ETIMEDOUT, CNI_TRY_AGAIN, "key timeout"},
	{"transport__closed", CNI_VERB_CHECK, ECONNRESET, CNI_TRY_AGAIN, "stopped while"},
	{"transport__permission", CNI_VERB_ADD, EACCES, CNI_IO, "as root"},
	{"transport__garbage", CNI_VERB_ADD, EBADMSG, CNI_INTERNAL, "agent_api"},
	{"transport__huge", CNI_VERB_ADD, EMSGSIZE, CNI_INTERNAL, "agent_api"},
	{"transport__impostor", CNI_VERB_ADD, EKEYREJECTED, CNI_INTERNAL, "ss -xlp"},
	{"transport__status_gone", CNI_VERB_STATUS, ENOENT, CNI_NOT_AVAILABLE, "not running"},
	{"transport__status_hang", CNI_VERB_STATUS, ETIMEDOUT, CNI_NOT_AVAILABLE, "stuck"},
	{"transport__status_garbage", CNI_VERB_STATUS, EBADMSG, CNI_NOT_AVAILABLE, "agent_api"},
};

static void rpc_transport_fail__row(void **state)
{
	const struct transport_row *row = *state;
	struct err err = {.code = row->error, .msg = "because"};
	struct cni_fail f = {0};
	struct fixture x;

	setup(&x, CNI_AGENT_AMBIENT, row->verb, NULL);
	assert_int_equal(rpc_transport_fail(&x.call, &err, &f), -1);
	assert_int_equal(f.code, row->code);
	assert_string_equal(f.msg, "node agent at /var/run/istio-cni/pluginevent.sock: because");
	if (strstr(f.details, row->details) == NULL)
		fail_msg("got \"%s\", expected \"%s\"", f.details, row->details);
	(void)arena_free(x.arena);
}

#define ADD_ROWS(rows, fn)                                                                         \
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)                                               \
		tests[n++] = (struct CMUnitTest)                                                   \
		{                                                                                  \
			.name = (rows)[i].name, .test_func = (fn),                                 \
			.initial_state = (void *)(uintptr_t) & (rows)[i]                           \
		}

int main(void)
{
	struct CMUnitTest tests[3 + ARRAY_LEN(encode_rows) + ARRAY_LEN(decode_rows) +
				ARRAY_LEN(http_rows) + ARRAY_LEN(transport_rows)] = {
		cmocka_unit_test(rpc_encode__too_large),
		cmocka_unit_test(rpc_encode__hostile_names_stay_text),
		cmocka_unit_test(http_answer__every_split),
	};
	size_t n = 3;

	ADD_ROWS(encode_rows, rpc_encode__row);
	ADD_ROWS(decode_rows, rpc_decode__row);
	ADD_ROWS(http_rows, http_answer__row);
	ADD_ROWS(transport_rows, rpc_transport_fail__row);
	return cmocka_run_group_tests_name("cni_rpc", tests, NULL, NULL);
}
