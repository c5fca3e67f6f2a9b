/* SPDX-License-Identifier: Apache-2.0
 * enrol_internal.h: the pod's state, shared by the files of enrol/ only.
 */
#pragma once
#include "lib/event/loop.h"
#include "nft/nft.h"
#include "node-agent/enrol/attachment.h"
#include "node-agent/enrol/custody.h"
#include "node-agent/enrol/eligibility.h"
#include "node-agent/enrol/enrol.h"
#include "node-agent/enrol/vault.h"
#include "node-agent/serve/zds.h"

#define ENROLMENT_MAGIC 0x656e726fu

enum enrol_state {
	ENROL_NEW, /* nothing decided yet */
	ENROL_NOT_IN_MESH,
	ENROL_PENDING,	/* rules are in place, ztunnel has not acknowledged */
	ENROL_ENROLLED, /* all steps done */
	ENROL_FAILED,
	ENROL_QUARANTINED, /* found running: captured, and kept from everybody */
	ENROL_STATE_N
};

/* What reading the rules back gave, and when (look.c). */
struct rules_look {
	uint64_t at;	   /* enrol->looks at that time; 0: never */
	bool rules;	   /* enrolment.rules at that time */
	const char *state; /* "present", ... */
	char *diff;	   /* owned; NULL: none */
};

/* One sandbox of one pod. Owned by enrol->all. */
struct enrolment {
	uint32_t magic;
	struct list node;
	struct enrol *owner;
	struct attachment at;
	bool by_runtime; /* false: found by a scan of /proc, no container ID to match a DEL with */

	/* what has been done, in the order of the steps */
	int netns_fd; /* owned; -1: not open */
	struct custody custody;
	bool rules;   /* our rules are, or may be, in the namespace */
	bool applied; /* they are: the kernel has taken them */
	bool passing; /* they capture nothing new: the pod was leaving (drain.c) */
	bool cleaned; /* no rules of Istio's agent are there beside them (its iptables mode) */
	struct nft_pod_opts opts;
	bool dns_wanted; /* settings and annotation ask for DNS capture; .opts: there is any */
	bool prepared;	 /* the steps before ztunnel's are done as they were last decided */
	bool announced;	 /* a ztunnel may know the pod */
	bool probes;

	bool seen;	 /* the source had the pod in this process' life */
	bool wanted;	 /* the last decision was: in the mesh */
	bool recheck;	 /* something changed while ztunnel was asked */
	bool refused;	 /* another ztunnel said no meanwhile */
	bool await_held; /* ztunnel may still hold the sockets: do not make others yet */
	enum enrol_state state;
	char reason[ERR_MSG_MAX]; /* of the decision, or what failed */
	struct rules_look look;
	struct zds_add add;
	struct list waiters;
	struct timer retry;
	unsigned int backoff_ms;
	struct timer drain; /* armed: it leaves, and its connections may not have ended yet */
	uint64_t drain_since, drain_limit_ms;
	bool drained;	/* nothing is waited for any more: the rules may go */
	bool lingering; /* it leaves, and ztunnel still serves it */
	unsigned int drain_looks;
	struct ready again;
	struct deferred dead;
};

struct enrol {
	struct loop *loop;
	const struct config *cfg;
	const struct pods *pods;
	const struct source *src;
	struct zds_server *zds;
	struct probes *probes;
	struct vault *vault;
	struct ready prune_vault; /* a pod has left */
	char *journal;
	struct list all;
	uint64_t looks; /* counts readings of rules */
	bool started;
	struct timer scan; /* pods that should be in the mesh and have no sandbox we know */
	unsigned int scan_ms;
	struct timer held_limit; /* end of waiting for sockets that ztunnel may return */
	struct timer prune;
	struct timer open_zds; /* the socket could not be opened: again */
	struct timer former;   /* pods stay in until the source is read; then all are looked at */
	void (*observer)(void *ctx, const char *ns, const char *name);
	void *observer_ctx;
};

/* printf format and arguments that name a pod in the log */
#define ENROL_POD     "pod=%s/%s uid=%s"
#define ENROL_ARGS(x) (x)->at.ns, (x)->at.name, (x)->at.uid

/* enrol.c */
struct enrolment *enrolment_new(struct enrol *e, const struct attachment *at);
struct enrolment *enrolment_find(struct enrol *e, const char *container_id, const char *ifname);
struct enrolment *enrolment_find_uid(struct enrol *e, const char *uid);
/* Compares what should be with what has been done, and does the difference. May drop @x. */
void enrolment_reconcile(struct enrolment *x);
void enrolment_again(struct enrolment *x); /* the same, soon and once */
enum eligibility enrolment_decide(const struct enrolment *x, const struct pod *p, char *reason);

/* mesh.c */
void enrolment_tell(const struct enrolment *x);

/* transaction.c */
/* The steps in. Ends in enrolment_finish() or enrolment_failed(), perhaps later. */
void enrolment_go_in(struct enrolment *x, const struct pod *p, const char *reason);
void enrolment_finish(struct enrolment *x, const char *reason);
/* Undoes everything and drops @x when somebody waits; else keeps what is there and retries. */
void enrolment_failed(struct enrolment *x, unsigned int http, unsigned int code,
		      const struct err *why);
void enrolment_refused(struct enrolment *x, const char *error); /* by a ztunnel, unasked */
void enrolment_retry(struct enrolment *x);
void enrolment_go_out(struct enrolment *x, const char *reason);
/* Undoes the steps in reverse. Without @remove_rules the namespace keeps them (it is gone, or must
 * stay closed). Without @tell ztunnel is not told (the pod comes back under the same UID). */
int enrolment_leave(struct enrolment *x, bool remove_rules, bool tell, struct err *err)
	_must_check_;
/* Ends everybody's waiting, takes the journal entry away and frees. Call after leave. */
void enrolment_drop(struct enrolment *x, bool keep_journal);
int enrolment_open_netns(struct enrolment *x, struct err *err) _must_check_;
/* A ztunnel is connected, or left so recently that connections may wait for it. */
bool enrol_ztunnel_usable(const struct enrol *e);

/* ztunnel.c */
/* Credentials that no pod needs any more go, soon. */
void enrol_prune_vault(struct enrol *e);

/* look.c */
/* Reads the rules back: "absent", "present", "different" or, with the reason in @diff, "unknown".
 */
const char *enrolment_rules(struct enrolment *x, struct strbuf *diff);

/* quarantine.c */
/* Refuses all TCP of a running pod, in both directions, and tries again later. @x->netns_fd is
 * open. */
void enrolment_quarantine(struct enrolment *x, const char *why);
void enrolment_unquarantine(struct enrolment *x);     /* it is in, or out; notes it */
bool enrolment_was_in(const struct pod *p);	      /* the API says so; @p may be NULL */
bool enrolment_netns_gone(const struct enrolment *x); /* its path leads to another, or nowhere */

/* drain.c */
/* Stops the capture of a running pod, and lets ztunnel go when its connections have ended. True: it
 * is under way, enrolment_reconcile() comes again. False: there is nothing (more) to wait for. */
bool enrolment_drain(struct enrolment *x);
/* True from there until enrolment_leave() has taken away what was left to take. */
bool enrolment_drains(const struct enrolment *x);

/* add.c */
void enrolment_answer(struct enrolment *x, const struct enrol_answer *a);
void enrol_answer_error(struct enrol_answer *a, unsigned int http, unsigned int code,
			const char *msg, const char *details);
void enrol_answer_ok(struct enrol_answer *a, const char *outcome, const char *reason);

/* discover.c */
void discover_restore(struct enrol *e); /* journal and descriptor store */
void discover_scan_soon(struct enrol *e);
