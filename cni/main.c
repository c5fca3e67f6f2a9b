/* SPDX-License-Identifier: Apache-2.0
 * main.c: ambient-cni, the chained CNI plugin.
 *
 * One process per verb, a few milliseconds long: read the environment and standard input, ask the
 * node agent one question, write one document. It knows neither Kubernetes nor nftables; all
 * decisions about a pod are the agent's. What fails, fails closed: ADD succeeds only when the
 * agent said that the pod is enrolled or that it is not in the mesh, or when the configuration
 * says that the pod is none of our business (scope.h). DEL is the exception: it never fails,
 * because a runtime whose DEL fails cannot replace anything on the node, the agent included.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cni/env.h"
#include "cni/exchange.h"
#include "cni/fail.h"
#include "cni/netconf.h"
#include "cni/result.h"
#include "cni/rpc.h"
#include "cni/scope.h"
#include "cni/version.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"

#define DEL_LIMIT_MS	 1000
#define AWAY_PAUSE_MS	 100
#define VERSION_LIMIT_MS 1000
#define STDIN_LIMIT_MS	 NETCONF_TIMEOUT_MS

static const char about[] =
	"ambient-cni " VERSION
	": CNI plugin that lets a pod join the ambient mesh while its network "
	"is set up\nCNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n";
static const char usage[] =
	"Usage: ambient-cni [--help | --version]\n"
	"A container runtime runs it as a chained CNI plugin, with the verb in CNI_COMMAND (ADD, "
	"CHECK,"
	"\nDEL, GC, STATUS, VERSION) and the network configuration on standard input.\n"
	"See ambient-cni(8).\n";

struct call {
	enum cni_verb verb;
	uint64_t start_ms;
	struct cni_env env;
	struct netconf conf;
	struct result prev;
	struct arena *arena;
	struct cni_fail fail;
	bool away;	   /* .fail is that of an agent which may be back in a moment */
	struct strbuf out; /* standard output */
};

static const char *get_env(void *ctx, const char *name)
{
	(void)ctx;
	return getenv(name);
}

static int say(int fd, const char *text)
{
	return exchange_write_all(fd, text, strlen(text)) < 0 ? 1 : 0;
}

/* One line on standard error, which runtimes keep out of the result. */
static void note(const struct call *c, const char *what, const char *why)
{
	_cleanup_strbuf_ struct strbuf line = {0};

	strbuf_printf(&line, "ambient-cni: %s %.*s/%.*s: %s%s%s\n", cni_verb_name[c->verb],
		      STR_FMT(c->env.pod_namespace), STR_FMT(c->env.pod_name), what,
		      *why != '\0' ? ": " : "", why);
	(void)signal(SIGPIPE, SIG_IGN); /* nobody has to read it */
	if (exchange_write_all(STDERR_FILENO, line.p, line.n) < 0)
		return; /* nowhere left to say so */
}

/* Asks the agent; at most @limit_ms of the configured time. */
static int ask(struct call *c, uint64_t limit_ms, struct rpc_answer *ret)
{
	struct rpc_call rpc = {.verb = c->verb, .env = &c->env, .conf = &c->conf, .prev = &c->prev};
	_cleanup_strbuf_ struct strbuf request = {0};
	uint64_t limit = c->conf.timeout_ms < limit_ms ? c->conf.timeout_ms : limit_ms;
	uint64_t deadline = c->start_ms + limit, now = clock_mono_ms();
	struct http_answer ans = {0};
	struct err err = {0};

	/* A tenth is ours, so that the agent gives up, and says why, before we do. */
	rpc.deadline_ms = (deadline > now ? deadline - now : 0) * 9 / 10;
	if (rpc.deadline_ms == 0)
		rpc.deadline_ms = 1; /* what the agent takes at least */
	if (rpc_encode(&rpc, &request, &c->fail) < 0)
		return -1;
	if (exchange_agent(c->conf.socket, (struct str){request.p, request.n}, deadline, c->arena,
			   &ans, &err) < 0) {
		c->away = rpc_is_away(err.code);
		if (err.code == ETIMEDOUT) {
			struct err why = err;

			(void)err_set(&err, ETIMEDOUT, "%s (limit %llu ms)", why.msg,
				      (unsigned long long)limit);
		}
		return rpc_transport_fail(&rpc, &err, &c->fail);
	}
	if (rpc_decode(&rpc, &ans, c->arena, ret, &c->fail) < 0) {
		c->away = c->fail.code == CNI_NOT_AVAILABLE;
		return -1;
	}
	return 0;
}

/* An agent that is being replaced is away for a moment. Waiting for it here costs less than what a
 * failed ADD does: the runtime takes the sandbox down and pauses. Half of the time is for that, the
 * other half for the work. */
static int ask_patiently(struct call *c, struct rpc_answer *ret)
{
	uint64_t until = c->start_ms + c->conf.timeout_ms / 2;
	int r;

	for (;;) {
		c->fail = (struct cni_fail){0};
		c->away = false;
		r = ask(c, UINT64_MAX, ret);
		if (r == 0 || !c->away || clock_mono_ms() + AWAY_PAUSE_MS >= until)
			return r;
		(void)poll(NULL, 0, AWAY_PAUSE_MS);
	}
}

static int check_version(struct call *c)
{
	static const enum cni_version since[CNI_VERB_N] = {
		[CNI_VERB_CHECK] = CNI_V_0_4_0,
		[CNI_VERB_GC] = CNI_V_1_1_0,
		[CNI_VERB_STATUS] = CNI_V_1_1_0,
	};

	if (c->conf.version >= since[c->verb])
		return 0;
	return cni_fail_set(&c->fail, CNI_INCOMPATIBLE_VERSION,
			    "cniVersion %s of the network configuration does not allow %s, which "
			    "needs %s",
			    cni_version_name[c->conf.version], cni_verb_name[c->verb],
			    cni_version_name[since[c->verb]]);
}

/* As the reference library does: a runtime that mixed the two up would have the node's own
 * network changed. A path that does not exist is the agent's to judge. */
static int check_netns(struct call *c)
{
	struct stat own, pod;

	if (c->env.netns_override)
		return 0;
	if (stat("/proc/self/ns/net", &own) < 0)
		return cni_fail_set(&c->fail, CNI_BAD_NETNS,
				    "the plugin's own network namespace cannot be read: is /proc "
				    "mounted?");
	if (stat(c->env.netns, &pod) < 0 || own.st_dev != pod.st_dev || own.st_ino != pod.st_ino)
		return 0;
	(void)cni_fail_set(&c->fail, CNI_BAD_NETNS,
			   "CNI_NETNS %s is the network namespace that the plugin runs in",
			   c->env.netns);
	return cni_fail_details(&c->fail, "A pod in the node's own namespace is never enrolled. "
					  "CNI_NETNS_OVERRIDE=1 allows it for tests.");
}

static int run_add(struct call *c)
{
	const char *skip;
	struct rpc_answer ans = {0};

	if (check_netns(c) < 0 ||
	    result_parse(c->conf.prev_result, c->conf.version, &c->prev, &c->fail) < 0)
		return -1;
	skip = scope_pass_through(&c->conf, &c->env);
	if (skip == NULL) {
		int r = c->conf.api == CNI_AGENT_ISTIO ? ask(c, RPC_ISTIO_TIMEOUT_MS, &ans)
						       : ask_patiently(c, &ans);

		if (r < 0)
			return -1;
	}
	if (c->conf.debug) {
		_cleanup_free_ char *why = xstrndup(ans.reason.n ? ans.reason.p : "", ans.reason.n);

		note(c,
		     skip != NULL		   ? "passed through"
		     : ans.outcome == RPC_ENROLLED ? "enrolled"
						   : "not in the mesh",
		     skip != NULL ? skip : why);
	}
	result_write(&c->prev, c->conf.version, &c->out);
	return 0;
}

static int run_check(struct call *c)
{
	struct rpc_answer ans;

	if (c->conf.prev_result == NULL)
		return cni_fail_set(&c->fail, CNI_BAD_CONFIG,
				    "network configuration: prevResult is missing; CHECK needs the "
				    "result of ADD");
	if (result_parse(c->conf.prev_result, c->conf.version, &c->prev, &c->fail) < 0)
		return -1;
	if (c->conf.api == CNI_AGENT_ISTIO || scope_pass_through(&c->conf, &c->env) != NULL)
		return 0; /* the stock agent has no such question */
	return ask(c, UINT64_MAX, &ans);
}

/* Without a list nothing is collected: to take its absence for "no pod is valid" would cut off
 * every pod of the node. */
static int run_gc(struct call *c)
{
	struct rpc_answer ans;

	if (c->conf.api == CNI_AGENT_ISTIO)
		return 0;
	if (c->conf.valid_attachments == NULL) {
		if (c->conf.debug)
			note(c, "nothing collected", "cni.dev/valid-attachments is absent");
		return 0;
	}
	return ask(c, UINT64_MAX, &ans);
}

/* The stock agent has no status request. And while an agent is away that is a pod outside the
 * host's network, as in Istio's chart, to call the node not ready would keep it away. */
static int run_status(struct call *c)
{
	bool never = c->conf.api == CNI_AGENT_ISTIO || c->conf.agent_in_pod_network;
	struct rpc_answer ans;

	return never ? 0 : ask(c, UINT64_MAX, &ans);
}

/* Best effort: the agent also learns of the pod's end from its own watch. */
static int run_del(struct call *c)
{
	struct rpc_answer ans;
	struct cni_fail ignored = {0};

	if (c->conf.api == CNI_AGENT_ISTIO)
		return 0;
	if (result_parse(c->conf.prev_result, c->conf.version, &c->prev, &ignored) < 0)
		c->prev = (struct result){0};
	return ask(c, DEL_LIMIT_MS, &ans);
}

static int load(struct call *c, struct str in)
{
	struct cni_fail env_fail = {0};
	int env = cni_env_load(c->verb, get_env, NULL, &c->env, &env_fail);
	int conf = netconf_parse(in, c->arena, &c->conf, &c->fail);

	if (env < 0) /* named first; the configuration was read for its cniVersion */
		c->fail = env_fail;
	return env < 0 || conf < 0 ? -1 : check_version(c);
}

static int run(struct call *c, char **ret_stdin)
{
	static int (*const verbs[CNI_VERB_N])(struct call *) = {
		[CNI_VERB_ADD] = run_add, [CNI_VERB_CHECK] = run_check,	  [CNI_VERB_DEL] = run_del,
		[CNI_VERB_GC] = run_gc,	  [CNI_VERB_STATUS] = run_status,
	};
	uint64_t limit = c->verb == CNI_VERB_DEL ? DEL_LIMIT_MS : STDIN_LIMIT_MS;
	struct err err = {0};
	size_t n = 0;

	if (exchange_read_all(STDIN_FILENO, LIMIT_NETCONF_BYTES, c->start_ms + limit, ret_stdin, &n,
			      &err) < 0) {
		(void)cni_fail_set(&c->fail, err.code == EFBIG ? CNI_BAD_CONFIG : CNI_IO,
				   "network configuration on standard input: %s", err.msg);
		return cni_fail_details(&c->fail, "The runtime writes one JSON document of at most "
						  "1 MiB to the plugin's standard input and closes "
						  "it.");
	}
	if (load(c, (struct str){*ret_stdin, n}) < 0)
		return -1;
	return verbs[c->verb](c);
}

/* The request may carry the version to answer in; nobody has to send one. */
static void run_version(struct call *c)
{
	_cleanup_free_ char *in = NULL;
	enum cni_version v = CNI_V_NONE;
	const struct doc *d = NULL;
	struct str text = {0};
	struct jsonw w;
	size_t n = 0;

	if (exchange_read_all(STDIN_FILENO, LIMIT_NETCONF_BYTES, c->start_ms + VERSION_LIMIT_MS,
			      &in, &n, NULL) == 0 &&
	    json_parse((struct str){in, n}, c->arena, &d, NULL) == 0 &&
	    doc_opt_text(d, "cniVersion", &text, NULL) == 0)
		v = cni_version_parse(text);
	jsonw_init(&w, &c->out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "cniVersion", cni_version_name[v != CNI_V_NONE ? v : CNI_V_NEWEST]);
	jsonw_list(&w, "supportedVersions");
	for (v = CNI_V_NONE + 1; v < CNI_V_N; v++)
		jsonw_cstr(&w, NULL, cni_version_name[v]);
	jsonw_end_list(&w);
	jsonw_end_obj(&w);
	strbuf_putc(&c->out, '\n');
}

/* The exit status. */
static int finish(struct call *c, int r)
{
	enum cni_version v = c->conf.version != CNI_V_NONE ? c->conf.version : CNI_V_NEWEST;

	if (r < 0 && c->verb == CNI_VERB_DEL) {
		note(c, "ignored", c->fail.msg);
		r = 0;
	}
	if (r < 0)
		cni_fail_write(&c->fail, cni_version_name[v], &c->out);
	if (c->out.n != 0 && exchange_write_all(STDOUT_FILENO, c->out.p, c->out.n) < 0)
		return 1;
	return r < 0 ? 1 : 0;
}

static int by_hand(int argc, char **argv)
{
	if (argc == 1)
		return say(STDERR_FILENO, about);
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return say(STDOUT_FILENO, "ambient-cni " VERSION "\n");
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return say(STDOUT_FILENO, usage);
	(void)say(STDERR_FILENO, usage);
	return 2;
}

int main(int argc, char **argv)
{
	const char *command = getenv("CNI_COMMAND");
	_cleanup_free_ char *in = NULL;
	struct call c = {.start_ms = clock_mono_ms()};
	int r = 0;

	if (argc > 1 || command == NULL || *command == '\0')
		return by_hand(argc, argv);
	c.arena = arena_new();
	c.verb = cni_verb_parse(command);
	if (c.verb == CNI_VERB_NONE)
		r = cni_fail_set(&c.fail, CNI_BAD_ENV,
				 "CNI_COMMAND \"%s\" is not ADD, CHECK, DEL, GC, STATUS or VERSION",
				 str_shown(str_of(command)));
	else if (c.verb == CNI_VERB_VERSION)
		run_version(&c);
	else
		r = run(&c, &in);
	r = finish(&c, r);
	strbuf_fini(&c.out);
	(void)arena_free(c.arena);
	return r;
}
