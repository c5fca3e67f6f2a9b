/* SPDX-License-Identifier: Apache-2.0
 * rpc.h: the one request to the node agent and what its answer means. Pure.
 *
 * Two agents are spoken to: ours (docs/agent-api.md, `POST /v1/cni`) and the stock one (cni-spec
 * 1.7, `POST /cmdadd`, ADD only). Nothing that the agent sends can turn into "this pod is not in
 * the mesh" except the one outcome that says so.
 */
#pragma once
#include "cni/env.h"
#include "cni/fail.h"
#include "cni/http_answer.h"
#include "cni/netconf.h"
#include "cni/result.h"

#define RPC_REQUEST_MAX	     (64u << 10) /* body; docs/agent-api.md */
#define RPC_ANSWER_MAX	     (64u << 10) /* head and body together */
#define RPC_ISTIO_TIMEOUT_MS 5000	 /* what the stock plugin waits, cni-spec 1.7 */

struct rpc_call {
	enum cni_verb verb;
	const struct cni_env *env;
	const struct netconf *conf;
	const struct result *prev;
	uint64_t deadline_ms; /* what is left for the agent, relative */
};

enum rpc_outcome { RPC_ENROLLED, RPC_NOT_IN_MESH, RPC_DONE, RPC_OUTCOME_N };

struct rpc_answer {
	enum rpc_outcome outcome;
	struct str reason; /* one sentence for the debug line; may be empty */
};

/* Appends the whole HTTP request. 0, or -1 with @f when the body exceeds RPC_REQUEST_MAX. */
int rpc_encode(const struct rpc_call *c, struct strbuf *out, struct cni_fail *f) _must_check_;
/* What the answer of the agent means: 0 with *ret, or -1 with the CNI error in @f (the agent's own,
 * unchanged, when it sent one). Slices of *ret live as long as @ans and @a. */
int rpc_decode(const struct rpc_call *c, const struct http_answer *ans, struct arena *a,
	       struct rpc_answer *ret, struct cni_fail *f) _must_check_;
/* Is a failure of the exchange (a positive errno) that of an agent which is being replaced: no
 * socket, nobody behind it, or gone before its answer? */
bool rpc_is_away(int error);
/* The CNI error for a request that got no usable answer; @err is what exchange() said. Returns -1.
 */
int rpc_transport_fail(const struct rpc_call *c, const struct err *err, struct cni_fail *f);
/* Where an operator looks when the agent does not do what it should. */
const char *rpc_where_to_look(enum cni_agent_api api);
