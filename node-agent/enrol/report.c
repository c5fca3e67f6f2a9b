/* SPDX-License-Identifier: Apache-2.0
 * report.c: what the agent says about its pods: CHECK and GET /v1/status.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/format/json.h"
#include "lib/os/fd.h"
#include "lib/wire/zds.h"
#include "node-agent/enrol/enrol_internal.h"
#include "node-agent/enrol/netns_check.h"

static const char *const state_name[ENROL_STATE_N] = {
	[ENROL_NEW] = "pending",     [ENROL_NOT_IN_MESH] = "not-in-mesh",
	[ENROL_PENDING] = "pending", [ENROL_ENROLLED] = "enrolled",
	[ENROL_FAILED] = "failed",
};
static const char *const rules_name[NFT_STATE_N] = {
	[NFT_ABSENT] = "absent", [NFT_PRESENT] = "present", [NFT_DIFFERENT] = "different"};

/* Reads the rules back. "unknown" when that is not possible, with the reason in @diff. */
static const char *rules_state(struct enrolment *x, struct strbuf *diff)
{
	enum nft_state st = NFT_ABSENT;
	struct err err = {0};

	if (!x->rules)
		return rules_name[NFT_ABSENT];
	if (x->netns_fd < 0 || nft_pod_check(x->netns_fd, &x->opts, &st, diff, &err) < 0) {
		strbuf_puts(diff, err.msg);
		return "unknown";
	}
	return rules_name[st];
}

static void print_pod(struct enrolment *x, struct jsonw *w)
{
	_cleanup_strbuf_ struct strbuf diff = {0};
	bool bad = x->state == ENROL_FAILED;

	jsonw_obj(w, NULL);
	jsonw_cstr(w, "uid", x->at.uid);
	jsonw_cstr(w, "name", x->at.name);
	jsonw_cstr(w, "namespace", x->at.ns);
	jsonw_cstr(w, "serviceAccount", x->at.service_account != NULL ? x->at.service_account : "");
	jsonw_cstr(w, "state", state_name[x->state]);
	jsonw_cstr(w, "reason", bad ? "" : x->reason);
	jsonw_cstr(w, "netns", x->at.netns_path);
	jsonw_int(w, "netnsInode", (long long)x->at.id.ino);
	jsonw_cstr(w, "containerID", x->at.container_id);
	jsonw_list(w, "ips");
	for (size_t i = 0; i < x->at.nips; i++) {
		char text[IP_TEXT_MAX];

		jsonw_cstr(w, NULL, ip_format(&x->at.ips[i], text));
	}
	jsonw_end_list(w);
	jsonw_cstr(w, "rules", rules_state(x, &diff));
	jsonw_str(w, "ruleDiff", (struct str){diff.p, diff.n});
	jsonw_list(w, "sockets");
	for (int i = 0; x->custody.held && i < MESH_L_N; i++) {
		char port[8];

		(void)snprintf(port, sizeof(port), "%u", mesh_listener_port[i]);
		jsonw_cstr(w, NULL, port);
	}
	jsonw_end_list(w);
	jsonw_bool(w, "custody", x->custody.held);
	jsonw_cstr(w, "error", bad ? x->reason : "");
	jsonw_end_obj(w);
}

void enrol_print_pods(struct enrol *e, struct jsonw *w)
{
	jsonw_list(w, "pods");
	list_for_each (n, &e->all)
		print_pod(container_of(n, struct enrolment, node), w);
	jsonw_end_list(w);
}

static void print_peer(void *arg, const struct zds_peer_info *i)
{
	struct jsonw *w = arg;

	jsonw_obj(w, NULL);
	jsonw_int(w, "pid", i->pid);
	jsonw_int(w, "version", i->version);
	jsonw_bool(w, "snapshot", i->snapshot);
	jsonw_bool(w, "newest", i->newest);
	jsonw_end_obj(w);
}

void enrol_print_ztunnels(const struct enrol *e, struct jsonw *w)
{
	jsonw_list(w, "ztunnels");
	zds_server_each_peer(e->zds, print_peer, w);
	jsonw_end_list(w);
}

static void found(struct enrol_answer *a, unsigned int http, unsigned int code, const char *msg,
		  const char *details)
{
	*a = (struct enrol_answer){.http = http, .code = code};
	(void)snprintf(a->msg, sizeof(a->msg), "%s", msg);
	(void)snprintf(a->details, sizeof(a->details), "%s", details);
}

/* The path must still lead to the namespace of the ADD. */
static int check_netns(struct enrolment *x, const char *path, struct err *err)
{
	_cleanup_close_ int fd = -1;
	struct netns_id id;

	fd = netns_check_open(path != NULL && path[0] != '\0' ? path : x->at.netns_path, &id, err);
	if (fd < 0)
		return fd;
	if (!netns_id_eq(id, x->at.id))
		return err_set(err, EINVAL, "network namespace inode is %llu, %llu at ADD",
			       (unsigned long long)id.ino, (unsigned long long)x->at.id.ino);
	return 0;
}

static int check_sockets(struct enrolment *x, struct err *err)
{
	for (int i = 0; x->custody.held && i < MESH_L_N; i++) {
		int r = mesh_listener_check(x->custody.fds[i], mesh_listener_port[i], err);

		if (r < 0)
			return err_wrap(err, "%s socket", mesh_listener_name[i]);
	}
	return 0;
}

void enrol_check(struct enrol *e, const struct attachment *req, struct enrol_answer *ret)
{
	struct enrolment *x = enrolment_find(e, req->container_id, req->ifname);
	_cleanup_strbuf_ struct strbuf diff = {0};
	struct err err = {0};
	const char *rules;

	if (x == NULL) {
		found(ret, 500, CNI_FAILED, "the agent does not know this container",
		      "There was no successful ADD, or a DEL came since. Delete the sandbox.");
		return;
	}
	if (check_netns(x, req->netns_path, &err) < 0 || check_sockets(x, &err) < 0) {
		found(ret, 500, CNI_FAILED, err.msg, "Delete the sandbox and create it again.");
		return;
	}
	if (x->state == ENROL_PENDING) {
		found(ret, 503, CNI_TRY_AGAIN, x->reason, "");
		return;
	}
	if (x->state == ENROL_FAILED) {
		found(ret, 500, CNI_FAILED, x->reason, "The agent goes on trying.");
		return;
	}
	rules = rules_state(x, &diff);
	if (strcmp(rules, rules_name[x->state == ENROL_ENROLLED ? NFT_PRESENT : NFT_ABSENT]) != 0) {
		(void)err_set(&err, EINVAL, "the rules in the pod are %s", rules);
		found(ret, 500, CNI_FAILED, err.msg, diff.n != 0 ? diff.p : "");
		return;
	}
	*ret = (struct enrol_answer){.http = 200, .outcome = "ok"};
	(void)snprintf(ret->msg, sizeof(ret->msg), "%s", x->reason);
}
