/* SPDX-License-Identifier: Apache-2.0
 * plan.h: what has to be written into the directory of CNI configurations. Pure.
 *
 * The primary is the configuration that runtimes would use without us: the first usable one by
 * name, or the one that the operator names. It is decided again at every look, so that a file that
 * comes first later is followed. Source: cni-spec 2.3, 2.4.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/err.h"
#include "lib/base/str.h"
#include "node-agent/host/confdir.h"

#define PLAN_OWNED_NAME	      "05-ambient.conflist"
#define PLAN_OWNED_NAME_FIRST "00-ambient.conflist" /* where something sorts before the other */
#define PLAN_OWNED_MODE	      0600
#define PLAN_STOCK_OWNED_NAME "02-istio-cni.conflist" /* cni-spec 0 */

struct plan_opts {
	bool owned;		/* a file of our own; else in the primary's */
	const char *conf_name;	/* the primary; "" takes the first usable file */
	const char *owned_name; /* "": one of the two above */
	const char *written;	/* the file of our own that this process has written, or NULL */
	bool replace_stock;
	struct cniconf_entry entry;
};

struct plan {
	const struct confdir_file *primary; /* borrowed from the directory */
	char *target;			    /* name of the file that gets our entry */
	struct strbuf text;		    /* what it must hold */
	mode_t mode;
	bool write; /* it holds something else now */
	bool wrap;  /* the primary was wrapped into @target and must go */
	bool replace_stock;
	bool preempted; /* runtimes use another file than @target: pods are not seen by us */
	char warning[ERR_MSG_MAX]; /* why, or what may make it so; "" */
};

/* 0; -ENOENT while there is no primary yet; -EEXIST or -EINVAL when the primary cannot be used, the
 * sentence naming the file and what to do. plan_fini() is due in any case. */
int plan_make(const struct confdir *d, const struct plan_opts *o, struct plan *ret, struct err *err)
	_must_check_;
void plan_fini(struct plan *p);
/* A file of our own that the plan does not want any more (another name, another mode), or stock's
 * copy of the primary, where stock is replaced. */
bool plan_is_stale(const struct plan *p, const struct confdir_file *f);
