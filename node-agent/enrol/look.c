/* SPDX-License-Identifier: Apache-2.0
 * look.c: reading rules back: all pods a little at a time, and one pod in full.
 *
 * One reading takes about 0.6 ms. Each look notes when it began; a pod that was read since then,
 * for whichever look, is not read again. So looks that overlap share their work, and each answer
 * is no older than its question.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/sock.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/probes.h"

#define TURN_NS	    2000000 /* of reading in one turn of the loop */
#define KEY_MIN_LEN 8	    /* of a container ID that is not whole */

static const char *const rules_name[NFT_STATE_N] = {
	[NFT_ABSENT] = "absent", [NFT_PRESENT] = "present", [NFT_DIFFERENT] = "different"};

const char *enrolment_rules(struct enrolment *x, struct strbuf *diff)
{
	enum nft_state st = NFT_ABSENT;
	struct err err = {0};

	if (!x->rules)
		return rules_name[NFT_ABSENT];
	if (x->netns_fd < 0)
		(void)err_set(&err, EBADF, "its network namespace is not open");
	if (x->netns_fd < 0 || nft_pod_check(x->netns_fd, &x->opts, &st, diff, &err) < 0) {
		strbuf_puts(diff, err.msg);
		return "unknown";
	}
	return rules_name[st];
}

static bool fresh(const struct enrolment *x, uint64_t since)
{
	return !x->rules || (x->look.at > since && x->look.rules == x->rules);
}

static void read_back(struct enrolment *x)
{
	struct strbuf diff = {0};

	x->look.at = ++x->owner->looks;
	x->look.rules = x->rules;
	x->look.state = enrolment_rules(x, &diff);
	free(x->look.diff);
	x->look.diff = strbuf_take(&diff);
}

static void on_turn(struct ready *r)
{
	struct enrol_look *k = container_of(r, struct enrol_look, again);
	uint64_t end = clock_mono_ns() + TURN_NS;

	list_for_each (n, &k->enrol->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if (fresh(x, k->since))
			continue;
		if (clock_mono_ns() >= end) {
			loop_ready(k->enrol->loop, &k->again);
			return;
		}
		read_back(x);
	}
	k->done(k);
}

void enrol_look_start(struct enrol *e, struct enrol_look *k)
{
	k->enrol = e;
	k->since = e->looks;
	k->again.fn = on_turn;
	loop_ready(e->loop, &k->again);
}

void enrol_look_cancel(struct enrol_look *k)
{
	if (k->enrol != NULL)
		loop_ready_cancel(&k->again);
}

/* "present: text" to an object. */
static void print_lines(struct str lines, struct jsonw *w)
{
	struct str line, state;

	jsonw_list(w, "lines");
	while (str_cut(&lines, '\n', &line)) {
		if (!str_cut(&line, ':', &state))
			continue;
		jsonw_obj(w, NULL);
		jsonw_str(w, "state", state);
		jsonw_str(w, "text", str_trim(line));
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

/* A listening socket keeps its queue where a connection counts segments (tcp(7), TCP_INFO). */
static void print_socket(const struct enrolment *x, int i, struct jsonw *w)
{
	struct tcp_info t = {0};
	socklen_t len = sizeof(t);
	struct err err = {0};

	jsonw_obj(w, NULL);
	jsonw_int(w, "port", mesh_listener_port[i]);
	jsonw_cstr(w, "name", mesh_listener_name[i]);
	if (mesh_listener_check(x->custody.fds[i], mesh_listener_port[i], &err) < 0 ||
	    getsockopt(x->custody.fds[i], IPPROTO_TCP, TCP_INFO, &t, &len) < 0) {
		jsonw_bool(w, "listening", false);
		jsonw_cstr(w, "error", err.code != 0 ? err.msg : strerror(errno));
	} else {
		jsonw_bool(w, "listening", true);
		jsonw_int(w, "waiting", t.tcpi_unacked);
		jsonw_int(w, "backlog", t.tcpi_sacked);
	}
	jsonw_end_obj(w);
}

static void print_found(struct enrolment *x, struct jsonw *w)
{
	_cleanup_strbuf_ struct strbuf lines = {0}, diff = {0};
	struct err err = {0};
	size_t carried = 0, apps;
	bool open = x->netns_fd >= 0;

	if (!open && enrolment_open_netns(x, &err) < 0) {
		jsonw_cstr(w, "rules", "unknown");
		jsonw_cstr(w, "error", err.msg);
		print_lines(STR(""), w);
		return;
	}
	jsonw_cstr(w, "rules", enrolment_rules(x, &diff));
	if (nft_pod_list(x->netns_fd, x->rules ? &x->opts : NULL, &lines, &err) < 0)
		jsonw_cstr(w, "error", err.msg);
	print_lines((struct str){lines.p, lines.n}, w);
	if (nft_pod_carried(x->netns_fd, &carried, &apps, NULL) == 0)
		jsonw_int(w, "connections", (long long)carried);
	if (!open) /* a pod outside the mesh costs no descriptor */
		x->netns_fd = xclose(x->netns_fd);
}

static void print_rules(struct enrolment *x, struct jsonw *w)
{
	jsonw_obj(w, NULL);
	jsonw_cstr(w, "namespace", x->at.ns);
	jsonw_cstr(w, "name", x->at.name);
	jsonw_cstr(w, "uid", x->at.uid);
	jsonw_cstr(w, "containerID", x->at.container_id);
	jsonw_cstr(w, "netns", x->at.netns_path);
	jsonw_bool(w, "wanted", x->rules);
	print_found(x, w);
	jsonw_bool(w, "custody", x->custody.held);
	jsonw_list(w, "sockets");
	for (int i = 0; x->custody.held && i < MESH_L_N; i++)
		print_socket(x, i, w);
	jsonw_end_list(w);
	jsonw_end_obj(w);
}

static bool named(const struct enrolment *x, const char *key)
{
	size_t n = strlen(key), ns = strlen(x->at.ns);

	return (strncmp(key, x->at.ns, ns) == 0 && key[ns] == '/' &&
		strcmp(key + ns + 1, x->at.name) == 0) ||
	       (n != 0 && strcmp(key, x->at.uid) == 0) || strcmp(key, x->at.container_id) == 0 ||
	       (n >= KEY_MIN_LEN && strncmp(key, x->at.container_id, n) == 0);
}

size_t enrol_print_rules(struct enrol *e, const char *key, struct jsonw *w)
{
	size_t n = 0;

	jsonw_list(w, "pods");
	list_for_each (i, &e->all) {
		struct enrolment *x = container_of(i, struct enrolment, node);

		if (!named(x, key))
			continue;
		print_rules(x, w);
		n++;
	}
	jsonw_end_list(w);
	return n;
}

void enrol_print_probes(const struct enrol *e, struct jsonw *w)
{
	probes_print(e->probes, w);
}
