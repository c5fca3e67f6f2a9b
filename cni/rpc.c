/* SPDX-License-Identifier: Apache-2.0
 * rpc.c: see rpc.h. Pure.
 */
#include "cni/rpc.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/mem.h"
#include "lib/format/json.h"

static const char *const outcome_name[] = {
	[RPC_ENROLLED] = "enrolled",
	[RPC_NOT_IN_MESH] = "not-in-mesh",
	[RPC_DONE] = "ok",
};
static_assert(ARRAY_LEN(outcome_name) == RPC_OUTCOME_N, "one name per outcome");

/* Raw bytes of a netmask in base64, as Go prints a net.IPMask: 4 bytes give 8 characters, 16 give
 * 24. */
static struct str mask_base64(const struct ip_cidr *c, char out[25])
{
	static const char digit[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned char m[18] = {0}; /* two more: the last group may read past the end */
	size_t len = c->ip.len, o = 0;

	for (unsigned int bit = 0; bit < c->prefix && bit < len * 8; bit++)
		m[bit / 8] |= (unsigned char)(0x80u >> bit % 8);
	for (size_t i = 0; i < len; i += 3) {
		unsigned int v = (unsigned int)m[i] << 16 | (unsigned int)m[i + 1] << 8 | m[i + 2];

		out[o++] = digit[v >> 18];
		out[o++] = digit[v >> 12 & 63];
		out[o++] = i + 1 < len ? digit[v >> 6 & 63] : '=';
		out[o++] = i + 2 < len ? digit[v & 63] : '=';
	}
	out[o] = '\0';
	return (struct str){out, o};
}

static void write_ips(struct jsonw *w, const struct result *r)
{
	jsonw_list(w, "ips");
	for (size_t i = 0; r != NULL && i < r->nips; i++) {
		char ip[IP_TEXT_MAX], text[IP_TEXT_MAX + 4];
		int n;

		n = snprintf(text, sizeof(text), "%s/%u", ip_format(&r->ips[i].addr.ip, ip),
			     r->ips[i].addr.prefix);
		jsonw_str(w, NULL, (struct str){text, n > 0 ? (size_t)n : 0});
	}
	jsonw_end_list(w);
}

static void write_attachments(struct jsonw *w, const struct doc *list)
{
	jsonw_list(w, "validAttachments");
	for (const struct doc *d = list->child; d != NULL; d = d->next) {
		jsonw_obj(w, NULL);
		jsonw_str(w, "containerID", doc_get(d, "containerID")->text);
		jsonw_str(w, "ifname", doc_get(d, "ifname")->text);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

static void ambient_body(const struct rpc_call *c, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "command", cni_verb_name[c->verb]);
	if (c->verb == CNI_VERB_GC) {
		write_attachments(&w, c->conf->valid_attachments);
	} else if (c->verb != CNI_VERB_STATUS) {
		jsonw_cstr(&w, "containerID", c->env->container_id);
		jsonw_cstr(&w, "netns", c->env->netns);
		jsonw_cstr(&w, "ifname", c->env->ifname);
		jsonw_str(&w, "podName", c->env->pod_name);
		jsonw_str(&w, "podNamespace", c->env->pod_namespace);
		jsonw_str(&w, "podUID", c->env->pod_uid);
		write_ips(&w, c->prev);
	}
	jsonw_int(&w, "deadlineMs", (long long)c->deadline_ms);
	jsonw_end_obj(&w);
}

/* Key names, their order and the null are Go's, byte for byte. */
static void istio_body(const struct rpc_call *c, struct strbuf *out)
{
	const struct result *r = c->prev;
	struct jsonw w;

	jsonw_init(&w, out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "Netns", c->env->netns);
	jsonw_str(&w, "PodName", c->env->pod_name);
	jsonw_str(&w, "PodNamespace", c->env->pod_namespace);
	if (r == NULL || r->nips == 0) {
		jsonw_null(&w, "IPs");
	} else {
		jsonw_list(&w, "IPs");
		for (size_t i = 0; i < r->nips; i++) {
			const struct result_ip *ip = &r->ips[i];
			char text[IP_TEXT_MAX], mask[25];

			jsonw_obj(&w, NULL);
			if (ip->has_interface)
				jsonw_int(&w, "Interface", ip->interface);
			else
				jsonw_null(&w, "Interface");
			jsonw_obj(&w, "Address");
			jsonw_cstr(&w, "IP", ip_format(&ip->addr.ip, text));
			jsonw_str(&w, "Mask", mask_base64(&ip->addr, mask));
			jsonw_end_obj(&w);
			jsonw_cstr(&w, "Gateway",
				   ip->gateway.len != 0 ? ip_format(&ip->gateway, text) : "");
			jsonw_end_obj(&w);
		}
		jsonw_end_list(&w);
	}
	jsonw_end_obj(&w);
}

int rpc_encode(const struct rpc_call *c, struct strbuf *out, struct cni_fail *f)
{
	_cleanup_strbuf_ struct strbuf body = {0};
	bool istio = c->conf->api == CNI_AGENT_ISTIO;

	if (istio)
		istio_body(c, &body);
	else
		ambient_body(c, &body);
	if (body.n > RPC_REQUEST_MAX) {
		(void)cni_fail_set(f, CNI_BAD_CONFIG,
				   "the request to the node agent has %zu bytes, at most %u are "
				   "allowed",
				   body.n, RPC_REQUEST_MAX);
		return cni_fail_details(f, "CNI_ARGS, CNI_NETNS or the list of valid attachments "
					   "is far longer than a node can need.");
	}
	strbuf_printf(out,
		      "POST %s HTTP/1.1\r\nHost: unix\r\nUser-Agent: ambient-cni/" VERSION
		      "\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
		      "Connection: close\r\n\r\n",
		      istio ? "/cmdadd" : "/v1/cni", body.n);
	strbuf_add(out, body.p, body.n);
	return 0;
}

const char *rpc_where_to_look(enum cni_agent_api api)
{
	if (api == CNI_AGENT_ISTIO)
		return "kubectl -n istio-system logs -l k8s-app=istio-cni-node, limited to this "
		       "node's pod";
	return "systemctl status ambient-agent and journalctl -u ambient-agent (in a cluster: "
	       "kubectl -n istio-system logs -l k8s-app=istio-cni-node, this node's pod)";
}

static int not_understood(const struct rpc_call *c, const struct http_answer *ans, const char *why,
			  struct cni_fail *f)
{
	(void)cni_fail_set(f, CNI_INTERNAL,
			   "the node agent's answer is not understood: status %u, %s", ans->status,
			   why);
	return cni_fail_details(f,
				"Agent and plugin may be of different versions, or agent_api does "
				"not name the agent that listens on %s. The answer began \"%s\". "
				"See %s.",
				c->conf->socket, str_shown(ans->body),
				rpc_where_to_look(c->conf->api));
}

/* The agent's own error goes to the runtime unchanged. */
static int agent_error(const struct rpc_call *c, const struct http_answer *ans, const struct doc *d,
		       struct cni_fail *f)
{
	struct str msg = {0}, details = {0};
	uint32_t code = 0;
	struct err err = {0};

	if (doc_map(d, &err) < 0 || doc_need_text(d, "msg", &msg, &err) < 0 ||
	    doc_opt_text(d, "details", &details, &err) < 0 ||
	    doc_opt_u32(d, "code", 1, INT32_MAX, &code, &err) < 0)
		return not_understood(c, ans, err.msg, f);
	if (code == 0 || msg.n == 0)
		return not_understood(c, ans, "code or msg is missing", f);
	(void)cni_fail_set(f, (int)code, "%.*s", STR_FMT(msg));
	(void)cni_fail_details(f, "%.*s", STR_FMT(details));
	return -1;
}

static int ambient_decode(const struct rpc_call *c, const struct http_answer *ans, struct arena *a,
			  struct rpc_answer *ret, struct cni_fail *f)
{
	struct rpc_answer got = {.outcome = RPC_OUTCOME_N};
	const struct doc *d = NULL;
	struct str outcome = {0};
	struct err err = {0};

	if (json_parse(ans->body, a, &d, &err) < 0)
		return not_understood(c, ans, err.msg, f);
	if (ans->status != 200)
		return agent_error(c, ans, d, f);
	if (doc_map(d, &err) < 0 || doc_need_text(d, "outcome", &outcome, &err) < 0 ||
	    doc_opt_text(d, "reason", &got.reason, &err) < 0)
		return not_understood(c, ans, err.msg, f);
	for (enum rpc_outcome i = 0; i < RPC_OUTCOME_N; i++)
		if (str_eqc(outcome, outcome_name[i]))
			got.outcome = i;
	/* "ok" does not say whether the pod is in the mesh: for ADD that is no answer */
	if (got.outcome == RPC_OUTCOME_N || (c->verb == CNI_VERB_ADD && got.outcome == RPC_DONE))
		return not_understood(c, ans, "outcome is not one that this verb can have", f);
	*ret = got;
	return 0;
}

/* Stock's sentence about exactly this pod: it knows the pod and finds it not eligible. The stock
 * plugin has asked the API server before it calls the agent, we have not, so to us this is the
 * answer that the pod is not in the mesh. Every other failure, and a pod that the agent does not
 * know, is an error. */
static bool says_not_eligible(const struct rpc_call *c, struct str body)
{
	_cleanup_strbuf_ struct strbuf want = {0};

	strbuf_printf(&want, "pod %.*s/%.*s is unexpectedly not eligible for ambient",
		      STR_FMT(c->env->pod_namespace), STR_FMT(c->env->pod_name));
	return str_has_prefix(body, (struct str){want.p, want.n});
}

static int istio_decode(const struct rpc_call *c, const struct http_answer *ans,
			struct rpc_answer *ret, struct cni_fail *f)
{
	if (ans->status == 200) {
		*ret = (struct rpc_answer){.outcome = RPC_ENROLLED};
		return 0;
	}
	if (ans->status == 500 && says_not_eligible(c, ans->body)) {
		*ret = (struct rpc_answer){.outcome = RPC_NOT_IN_MESH};
		return 0;
	}
	(void)cni_fail_set(f, ans->status == 500 ? CNI_TRY_AGAIN : CNI_INTERNAL,
			   "the node agent refused the pod: status %u: %s", ans->status,
			   str_shown(str_trim(ans->body)));
	return cni_fail_details(f, "See %s. The agent answers on %s; the runtime tries again.",
				rpc_where_to_look(c->conf->api), c->conf->socket);
}

int rpc_decode(const struct rpc_call *c, const struct http_answer *ans, struct arena *a,
	       struct rpc_answer *ret, struct cni_fail *f)
{
	if (c->conf->api == CNI_AGENT_ISTIO)
		return istio_decode(c, ans, ret, f);
	return ambient_decode(c, ans, a, ret, f);
}

/* By what went wrong: what the operator can do about it. */
static int transport_code(int error)
{
	switch (error) {
	case EACCES:
	case EPERM:
		return CNI_IO;
	case EBADMSG:
	case EMSGSIZE:
	case EKEYREJECTED:
		return CNI_INTERNAL;
	default:
		return CNI_TRY_AGAIN;
	}
}

bool rpc_is_away(int error)
{
	return error == ENOENT || error == ECONNREFUSED || error == ECONNRESET || error == EPIPE;
}

int rpc_transport_fail(const struct rpc_call *c, const struct err *err, struct cni_fail *f)
{
	const char *look = rpc_where_to_look(c->conf->api), *socket = c->conf->socket;

	(void)cni_fail_set(
		f, c->verb == CNI_VERB_STATUS ? CNI_NOT_AVAILABLE : transport_code(err->code),
		"node agent at %s: %s", socket, err->msg);
	switch (err->code) {
	case ENOENT:
	case ENOTDIR:
	case ECONNREFUSED:
		return cni_fail_details(f,
					"The agent is not running, or listens elsewhere: compare "
					"cni_agent_run_dir and agent_socket of the network "
					"configuration with the agent's. See %s. The runtime tries "
					"again; nothing was changed in the pod.",
					look);
	case EACCES:
	case EPERM:
		return cni_fail_details(
			f,
			"The socket is for root only. The container runtime must "
			"run the plugin as root; check the owner and mode of %s and "
			"of its directory, and AppArmor or SELinux denials.",
			socket);
	case ETIMEDOUT:
		return cni_fail_details(f,
					"The time limit is the key timeout of the network "
					"configuration. The agent is alive but stuck or "
					"overloaded: see %s.",
					look);
	case ECONNRESET:
	case EPIPE:
		return cni_fail_details(f,
					"The agent stopped while it worked on this pod, or refuses "
					"this user. See %s. The runtime tries again.",
					look);
	case EKEYREJECTED:
		return cni_fail_details(f,
					"Only an agent that runs as root is believed. Find out who "
					"made %s, for instance with ss -xlp.",
					socket);
	default:
		return cni_fail_details(
			f,
			"Something else than the node agent may be listening "
			"there, or agent_api names the wrong kind of agent. See %s.",
			look);
	}
}
