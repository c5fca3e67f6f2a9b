/* SPDX-License-Identifier: Apache-2.0
 * fuzz_netconf.c: everything the CNI plugin reads: network configuration with prevResult, CNI_ARGS,
 * and the agent's answer.
 *
 * The first byte says which: 'c' configuration, 'r' CNI_ARGS, 'a' answer of our agent, 's' answer
 * of the stock agent. Checked beyond crashes: what is handed on is valid JSON and stays the same
 * when it is handed on again; an answer that arrives in pieces means what it means in one; and no
 * answer means "not in the mesh" unless it says so.
 */
#include <stdint.h>
#include <stdlib.h>

#include "cni/env.h"
#include "cni/netconf.h"
#include "cni/result.h"
#include "cni/rpc.h"
#include "lib/base/bug.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct doc *must_parse(const struct strbuf *b, struct arena *a)
{
	const struct doc *d = NULL;

	bug_on(json_parse((struct str){b->p, b->n}, a, &d, NULL) != 0);
	bug_on(d->kind != DOC_MAP);
	return d;
}

/* Handing a result on in version @v, and that result again, gives the same bytes. */
static void hand_on(const struct result *r, enum cni_version v, struct arena *a)
{
	_cleanup_strbuf_ struct strbuf once = {0}, twice = {0};
	struct result again;
	struct cni_fail f;
	const struct doc *d;

	result_write(r, v, &once);
	d = must_parse(&once, a);
	bug_on(doc_get(d, "cniVersion") == NULL);
	bug_on(!str_eqc(doc_get(d, "cniVersion")->text, cni_version_name[v]));
	bug_on(result_parse(d, v, &again, &f) != 0);
	bug_on(again.nips != r->nips);
	result_write(&again, v, &twice);
	bug_on(!str_eq((struct str){once.p, once.n}, (struct str){twice.p, twice.n}));
}

static void send_it(const struct netconf *c, const struct result *r)
{
	struct cni_env e = {.container_id = "c", .netns = "/n", .ifname = "e"};
	struct netconf both = *c;

	for (enum cni_agent_api api = 0; api < CNI_AGENT_N; api++) {
		struct rpc_call call = {.verb = CNI_VERB_ADD, .env = &e, .conf = &both, .prev = r};
		_cleanup_strbuf_ struct strbuf out = {0};
		struct cni_fail f;

		both.api = api;
		bug_on(rpc_encode(&call, &out, &f) != 0);
		if (c->valid_attachments != NULL && api == CNI_AGENT_AMBIENT) {
			call.verb = CNI_VERB_GC;
			if (rpc_encode(&call, &out, &f) != 0)
				bug_on(f.code != CNI_BAD_CONFIG);
		}
	}
}

static void fail_is_valid(const struct cni_fail *f, struct arena *a)
{
	_cleanup_strbuf_ struct strbuf out = {0};

	bug_on(f->code == CNI_OK || f->msg[0] == '\0');
	cni_fail_write(f, "1.1.0", &out);
	(void)must_parse(&out, a);
}

static void fuzz_conf(struct str in, struct arena *a)
{
	struct cni_fail f = {0};
	struct netconf c;
	struct result r;

	if (netconf_parse(in, a, &c, &f) < 0 ||
	    result_parse(c.prev_result, c.version, &r, &f) < 0) {
		fail_is_valid(&f, a);
		return;
	}
	for (enum cni_version v = CNI_V_NONE + 1; v < CNI_V_N; v++)
		hand_on(&r, v, a);
	send_it(&c, &r);
}

static void fuzz_args(struct str in, struct arena *a)
{
	struct cni_fail f = {0};
	struct cni_env e = {0};

	if (cni_args_parse(in, &e, &f) < 0)
		fail_is_valid(&f, a);
}

static void decode(struct str in, enum cni_agent_api api, const struct http_answer *ans,
		   struct arena *a)
{
	struct cni_env e = {.pod_name = STR("a"), .pod_namespace = STR("b")};
	struct netconf c = {.api = api};
	struct rpc_call call = {.verb = CNI_VERB_ADD, .env = &e, .conf = &c};
	struct rpc_answer got;
	struct cni_fail f = {0};

	if (rpc_decode(&call, ans, a, &got, &f) < 0) {
		fail_is_valid(&f, a);
		return;
	}
	bug_on(got.outcome != RPC_ENROLLED && got.outcome != RPC_NOT_IN_MESH);
	bug_on(ans->status != 200 && got.outcome == RPC_ENROLLED);
	if (got.outcome == RPC_NOT_IN_MESH && api == CNI_AGENT_ISTIO)
		bug_on(ans->status != 500 || memmem(in.p, in.n, "not", 3) == NULL);
}

static void fuzz_answer(struct str in, enum cni_agent_api api, struct arena *a)
{
	struct http_answer whole = {0};
	struct err err = {0};
	int r = http_answer_parse(in, true, a, &whole, &err);

	bug_on(r == 0); /* at the end everything is decided */
	for (size_t n = 0; n < in.n && in.n < 512; n++) {
		struct http_answer part = {0};
		int p = http_answer_parse((struct str){in.p, n}, false, a, &part, NULL);

		if (p == 1)
			bug_on(r != 1 || part.status != whole.status ||
			       !str_eq(part.body, whole.body));
		else if (p < 0)
			bug_on(r >= 0);
	}
	if (r == 1)
		decode(in, api, &whole, a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data + 1, size - 1};
	struct arena *a;

	if (size == 0)
		return 0;
	a = arena_new();
	if (data[0] == 'c')
		fuzz_conf(in, a);
	else if (data[0] == 'r')
		fuzz_args(in, a);
	else if (data[0] == 'a' || data[0] == 's')
		fuzz_answer(in, data[0] == 'a' ? CNI_AGENT_AMBIENT : CNI_AGENT_ISTIO, a);
	(void)arena_free(a);
	return 0;
}
