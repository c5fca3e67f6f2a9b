/* SPDX-License-Identifier: Apache-2.0
 * kube_self.h: at the end of an agent that Istio's chart started: is it replaced, or taken off the
 * node for good?
 *
 * The chart has no other way to say so than that its DaemonSet is gone. Taking the plugin off a
 * node whose agent comes back would let pods start outside of the mesh; leaving it on one whose
 * agent does not would let none start. It is gone, too, for a node that its selector or required
 * affinity does not mean any more. Source: cni-spec 2.7. Where nothing is known, it stays:
 * unlike stock, which takes a plugin in the network's own file off then. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/event/loop.h"
#include "lib/wire/https_client.h"

struct kube_conn;

#define KUBE_SELF_DAEMONSET "istio-cni-node" /* in the agent's own namespace; cni-spec 0 */
#define KUBE_SELF_MS	    3000	     /* of the whole question */
#define KUBE_SELF_BODY_MAX  (1u << 20)

enum kube_self_verdict { KUBE_SELF_STAYS, KUBE_SELF_LEAVES, KUBE_SELF_UNKNOWN };

/* Pure: what the API server's answer means; @why is one phrase. A DaemonSet that is being deleted
 * leaves, and so does one that we may not ask about any more (its role or its account is gone). */
enum kube_self_verdict kube_self_decide(unsigned int status, struct str body, const char **why);

/* Embed it, zeroed. */
struct kube_self {
	struct loop *loop;
	struct kube_conn *conn;
	char *path, *node_path;
	bool at_node; /* the DaemonSet is there: does it still want this node? */
	void (*done)(void *ctx, bool leaves, const char *why);
	void *ctx;
	struct https_req req;
	struct timer again, limit;
	unsigned int status;
	struct strbuf body, daemonset;
};

/* Asks about the DaemonSet in @ns and the node @node, again and again while there is no answer, for
 * at most KUBE_SELF_MS; @done comes once, from the loop. */
void kube_self_ask(struct kube_self *s, struct loop *l, struct kube_conn *c, const char *ns,
		   const char *node, void (*done)(void *ctx, bool leaves, const char *why),
		   void *ctx);
void kube_self_fini(struct kube_self *s); /* also when it was never asked */
