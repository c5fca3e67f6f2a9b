/* SPDX-License-Identifier: Apache-2.0
 * model.h: what the agent and ztunnel say about themselves, as structs; and what is wrong with it.
 * Pure: documents in, structs out. Texts are slices of the documents, everything else lives in the
 * caller's arena. Sources: docs/agent-api.md; ztunnel-spec 13.6, 13.7.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct arena;
struct doc;
struct err;

struct ctl_link { /* a ztunnel connected to the agent */
	uint32_t pid, version;
	bool snapshot, newest;
};

struct ctl_pod {
	struct str uid, name, ns, sa, state, reason, netns, container, rules, rule_diff, error;
	struct str *ips, *sockets;
	size_t nips, nsockets;
	bool custody;
	const struct ctl_cert *cert;	   /* NULL: none known */
	const struct ctl_workload *served; /* NULL: ztunnel does not know the pod */
};

struct ctl_agent {
	bool answers;
	const char *error;     /* why not */
	const struct doc *doc; /* all it said; NULL when it does not answer */
	struct str version, node, reason;
	bool ready;
	struct str install_mode, install_state, install_file, install_plugin, install_reason;
	struct str source_kind, source_where, source_error;
	bool synced, stale;
	unsigned int source_age_s; /* how long it has been stale */
	uint32_t source_pods, source_namespaces;
	struct ctl_link *links;
	struct ctl_pod *pods;
	size_t nlinks, npods;
};

struct ctl_cert {
	struct str identity, state; /* Available, Initializing, "Unavailable: ..." */
	struct str not_before_text, not_after_text;
	int64_t not_after; /* seconds since the epoch; 0: no leaf certificate */
};

struct ctl_workload {
	struct str uid, state; /* Up, Pending */
	size_t inbound, outbound;
};

enum ctl_ready { CTL_READY_UNKNOWN, CTL_READY_YES, CTL_READY_NO, CTL_READY_N };

struct ctl_ztunnel {
	bool answers;
	const char *error;
	const struct doc *doc; /* all it said; NULL when it does not answer */
	struct str version, trust_domain, ready_text;
	struct str ca; /* address, or folder of the development CA */
	bool ca_is_dev;
	struct str state_error; /* of the local mesh state: the last good one counts */
	enum ctl_ready ready;
	struct ctl_cert *certs;
	struct ctl_workload *workloads;
	size_t ncerts, nworkloads;
};

/* One line each; @act says what to do. */
struct ctl_problem {
	const char *what, *act;
};

struct ctl_report {
	int64_t now; /* seconds since the epoch */
	struct ctl_agent agent;
	struct ctl_ztunnel ztunnel;
	struct ctl_problem *problems;
	size_t nproblems;
};

/* GET /v1/status. Sets @ret->answers; -EINVAL names the field that is not as documented. */
int ctl_agent_read(const struct doc *d, struct arena *a, struct ctl_agent *ret, struct err *err)
	_must_check_;
/* GET /config_dump. Unknown keys are fine. */
int ctl_ztunnel_read(const struct doc *d, struct arena *a, struct ctl_ztunnel *ret, struct err *err)
	_must_check_;
/* GET /healthz/ready: 200, or 500 with the reason. Another status leaves it unknown. */
void ctl_ready_read(unsigned int status, struct str body, struct ctl_ztunnel *z);
/* "2026-11-25T22:00:00Z" to seconds since the epoch. 0 or -EINVAL. */
int ctl_time_parse(struct str s, int64_t *ret) _must_check_;

/* Connects pods with their certificate and with what ztunnel serves, then lists what is wrong. Call
 * once. */
void ctl_diagnose(struct ctl_report *r, struct arena *a);
