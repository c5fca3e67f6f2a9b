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

enum shown { SHOWN_PENDING, SHOWN_NOT_IN_MESH, SHOWN_ENROLLED, SHOWN_FAILED, SHOWN_QUARANTINED };
const char *const enrol_shown_name[ENROL_SHOWN_N] = {
	[SHOWN_PENDING] = "pending",	     [SHOWN_NOT_IN_MESH] = "not-in-mesh",
	[SHOWN_ENROLLED] = "enrolled",	     [SHOWN_FAILED] = "failed",
	[SHOWN_QUARANTINED] = "quarantined",
};
static const enum shown shown_as[ENROL_STATE_N] = {
	[ENROL_NEW] = SHOWN_PENDING,	 [ENROL_NOT_IN_MESH] = SHOWN_NOT_IN_MESH,
	[ENROL_PENDING] = SHOWN_PENDING, [ENROL_ENROLLED] = SHOWN_ENROLLED,
	[ENROL_FAILED] = SHOWN_FAILED,	 [ENROL_QUARANTINED] = SHOWN_QUARANTINED,
};
static void print_pod(struct enrolment *x, bool rules, struct jsonw *w)
{
	bool bad = x->state == ENROL_FAILED || x->state == ENROL_QUARANTINED;

	jsonw_obj(w, NULL);
	jsonw_cstr(w, "uid", x->at.uid);
	jsonw_cstr(w, "name", x->at.name);
	jsonw_cstr(w, "namespace", x->at.ns);
	jsonw_cstr(w, "serviceAccount", x->at.service_account != NULL ? x->at.service_account : "");
	jsonw_cstr(w, "state", enrol_shown_name[shown_as[x->state]]);
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
	if (rules) {
		bool seen = x->look.at != 0 && x->look.rules == x->rules;

		jsonw_cstr(w, "rules", seen ? x->look.state : x->rules ? "unknown" : "absent");
		jsonw_cstr(w, "ruleDiff", seen && x->look.diff != NULL ? x->look.diff : "");
	}
	jsonw_list(w, "sockets");
	for (int i = 0; x->custody.held && i < MESH_L_N; i++) {
		char port[8];

		(void)snprintf(port, sizeof(port), "%u", mesh_listener_port[i]);
		jsonw_cstr(w, NULL, port);
	}
	if (x->custody.dns_held)
		jsonw_cstr(w, NULL, "15053");
	jsonw_end_list(w);
	jsonw_bool(w, "custody", x->custody.held);
	jsonw_cstr(w, "dns",
		   !x->rules		 ? ""
		   : x->opts.dns_capture ? "captured"
		   : x->dns_wanted	 ? "not captured: ztunnel does not answer DNS"
					 : "not captured");
	jsonw_cstr(w, "error", bad ? x->reason : "");
	jsonw_end_obj(w);
}

void enrol_print_pods(struct enrol *e, bool rules, struct jsonw *w)
{
	jsonw_list(w, "pods");
	list_for_each (n, &e->all)
		print_pod(container_of(n, struct enrolment, node), rules, w);
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
	jsonw_bool(w, "draining", i->draining);
	jsonw_bool(w, "dns", i->dns);
	jsonw_end_obj(w);
}

size_t enrol_count_shown(const struct enrol *e, unsigned int shown)
{
	size_t count = 0;

	list_for_each (n, &e->all)
		count += shown_as[container_of(n, struct enrolment, node)->state] == shown;
	return count;
}

static void count_peer(void *arg, const struct zds_peer_info *i)
{
	(void)i;
	++*(size_t *)arg;
}

size_t enrol_ztunnels(const struct enrol *e)
{
	size_t n = 0;

	zds_server_each_peer(e->zds, count_peer, &n);
	return n;
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
	for (int i = 0; x->custody.dns_held && i < MESH_DNS_N; i++) {
		enum mesh_dns kind;

		if (x->custody.dns[i] >= 0 && mesh_dns_check(x->custody.dns[i], &kind, err) < 0)
			return err_wrap(err, "DNS socket");
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
	if (x->state == ENROL_NEW || x->state == ENROL_PENDING) {
		found(ret, 503, CNI_TRY_AGAIN, x->reason, "");
		return;
	}
	if (x->state == ENROL_FAILED || x->state == ENROL_QUARANTINED) {
		found(ret, 500, CNI_FAILED, x->reason, "The agent goes on trying.");
		return;
	}
	rules = enrolment_rules(x, &diff);
	if (strcmp(rules, x->state == ENROL_ENROLLED ? "present" : "absent") != 0) {
		(void)err_set(&err, EINVAL, "the rules in the pod are %s", rules);
		found(ret, 500, CNI_FAILED, err.msg, diff.n != 0 ? diff.p : "");
		return;
	}
	*ret = (struct enrol_answer){.http = 200, .outcome = "ok"};
	(void)snprintf(ret->msg, sizeof(ret->msg), "%s", x->reason);
}
