/* SPDX-License-Identifier: Apache-2.0
 * main.c: ambientctl: asks the node's agent and ztunnel how they are and says so. Reads only.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/http.h"
#include "ctl/model.h"
#include "ctl/print.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"

#define ANSWER_MS 5000 /* both programs answer from memory; the rest is a hung process */

enum { EXIT_OK = 0, EXIT_WRONG = 1, EXIT_USAGE = 2 };

static const char usage[] =
	"usage: ambientctl [options] command\n"
	"\n"
	"commands:\n"
	"  status   the agent, ztunnel, the certificates, and what is wrong with what to do\n"
	"  pods     every pod of the node: state, rules, sockets, identity, certificate\n"
	"\n"
	"options:\n"
	"  -n, --namespace NAME    pods: only this namespace\n"
	"  -o, --output FORMAT     text (default) or json\n"
	"      --agent-socket PATH    /var/run/istio-cni/pluginevent.sock\n"
	"      --ztunnel-socket PATH  /var/run/ztunnel/admin.sock\n"
	"  -h, --help\n"
	"  -V, --version\n"
	"\n"
	"exit status: 0 all is well, 1 something is wrong, 2 wrong usage\n";

struct options {
	const char *command, *ns, *agent_socket, *ztunnel_socket;
	bool json;
};

/* -1 to go on, else the exit status. */
static int read_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"namespace", required_argument, NULL, 'n'},
		{"output", required_argument, NULL, 'o'},
		{"agent-socket", required_argument, NULL, 'A'},
		{"ztunnel-socket", required_argument, NULL, 'Z'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "n:o:hV", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage, stdout);
			return EXIT_OK;
		} else if (c == 'V') {
			puts("ambientctl " VERSION);
			return EXIT_OK;
		} else if (c == 'n') {
			o->ns = optarg;
		} else if (c == 'A') {
			o->agent_socket = optarg;
		} else if (c == 'Z') {
			o->ztunnel_socket = optarg;
		} else if (c == 'o' &&
			   (strcmp(optarg, "json") == 0 || strcmp(optarg, "text") == 0)) {
			o->json = strcmp(optarg, "json") == 0;
		} else {
			if (c == 'o')
				fprintf(stderr, "ambientctl: output %s: expected text or json\n",
					optarg);
			fputs("try: ambientctl --help\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1) {
		fputs(argc == optind ? usage : "ambientctl: more than one command\n", stderr);
		return EXIT_USAGE;
	}
	o->command = argv[optind];
	return -1;
}

/* The JSON at @path of @socket. @text must outlive *ret. */
static int get_json(const char *socket, const char *path, uint64_t deadline, struct arena *a,
		    struct strbuf *text, const struct doc **ret, struct err *err)
{
	struct ctl_answer answer;
	int r = ctl_get(socket, path, deadline, text, &answer, err);

	if (r < 0)
		return r;
	if (answer.status == 403)
		return err_set(err, EACCES, "%s: refused (403); run this as root", socket);
	if (answer.status != 200)
		return err_set(err, EPROTO, "%s: GET %s gave status %u: %s", socket, path,
			       answer.status, str_shown(answer.body));
	r = json_parse(answer.body, a, ret, err);
	return r < 0 ? err_wrap(err, "%s: GET %s", socket, path) : 0;
}

static const char *reason_of(struct err *err, const char *socket, struct arena *a)
{
	if (err->code == ENOENT)
		(void)err_set(err, ENOENT, "there is no socket %s", socket);
	else if (err->code == ECONNREFUSED)
		(void)err_set(err, ECONNREFUSED, "nobody listens on %s", socket);
	else if (err->code == EACCES && strstr(err->msg, "root") == NULL)
		(void)err_set(err, EACCES, "no permission for %s; run this as root", socket);
	return arena_strndup(a, err->msg, strlen(err->msg));
}

static void ask_agent(const char *socket, uint64_t deadline, struct arena *a, struct strbuf *text,
		      struct ctl_agent *g)
{
	const struct doc *d = NULL;
	struct err err = {0};
	int r = get_json(socket, "/v1/status", deadline, a, text, &d, &err);

	if (r == 0) {
		r = ctl_agent_read(d, a, g, &err);
		if (r < 0)
			(void)err_wrap(&err, "%s: GET /v1/status", socket);
	}
	if (r < 0)
		g->error = reason_of(&err, socket, a);
}

static void ask_ztunnel(const char *socket, uint64_t deadline, struct arena *a, struct strbuf *text,
			struct strbuf *ready_text, struct ctl_ztunnel *z)
{
	const struct doc *d = NULL;
	struct ctl_answer ready;
	struct err err = {0};
	int r = get_json(socket, "/config_dump", deadline, a, text, &d, &err);

	if (r == 0) {
		r = ctl_ztunnel_read(d, a, z, &err);
		if (r < 0)
			(void)err_wrap(&err, "%s: GET /config_dump", socket);
	}
	if (r < 0)
		z->error = reason_of(&err, socket, a);
	else if (ctl_get(socket, "/healthz/ready", deadline, ready_text, &ready, NULL) == 0)
		ctl_ready_read(ready.status, ready.body, z);
}

static bool want_colour(void)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) == 1 && (no == NULL || *no == '\0') && term != NULL &&
	       strcmp(term, "dumb") != 0;
}

static void show(const struct options *o, const struct ctl_report *r, struct strbuf *out,
		 struct strbuf *notes)
{
	bool pods = strcmp(o->command, "pods") == 0;

	if (o->json && pods)
		ctl_json_pods(r, o->ns, out);
	else if (o->json)
		ctl_json_status(r, out);
	else if (pods)
		ctl_print_pods(r, o->ns, want_colour(), out, notes);
	else
		ctl_print_status(r, want_colour(), out);
	if (pods && r->nproblems != 0 && !o->json && r->agent.answers)
		strbuf_printf(notes, "%zu problem%s: see `ambientctl status`\n", r->nproblems,
			      r->nproblems == 1 ? "" : "s");
}

static int run(const struct options *o)
{
	_cleanup_strbuf_ struct strbuf agent = {0}, dump = {0}, ready = {0}, out = {0}, notes = {0};
	struct ctl_report r = {.now = clock_wall_us() / 1000000};
	struct arena *a = arena_new();
	int status;

	ask_agent(o->agent_socket, clock_mono_ms() + ANSWER_MS, a, &agent, &r.agent);
	ask_ztunnel(o->ztunnel_socket, clock_mono_ms() + ANSWER_MS, a, &dump, &ready, &r.ztunnel);
	ctl_diagnose(&r, a);
	show(o, &r, &out, &notes);
	status = r.nproblems == 0 ? EXIT_OK : EXIT_WRONG;
	arena_free(a);
	if (out.n != 0 && fwrite(out.p, 1, out.n, stdout) != out.n)
		status = EXIT_WRONG;
	if (fflush(stdout) != 0)
		status = EXIT_WRONG;
	if (notes.n != 0)
		fputs(notes.p, stderr);
	return status;
}

int main(int argc, char **argv)
{
	struct options o = {
		.agent_socket = "/var/run/istio-cni/pluginevent.sock",
		.ztunnel_socket = "/var/run/ztunnel/admin.sock",
	};
	int status = read_options(argc, argv, &o);

	if (status >= 0)
		return status;
	if (strcmp(o.command, "status") != 0 && strcmp(o.command, "pods") != 0) {
		fprintf(stderr, "ambientctl: no such command: %s\ntry: ambientctl --help\n",
			o.command);
		return EXIT_USAGE;
	}
	return run(&o);
}
