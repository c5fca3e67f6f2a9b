/* SPDX-License-Identifier: Apache-2.0
 * cniconf.h: a file of the node's CNI configuration, with our plugin's entry put in or taken out.
 * Pure.
 *
 * What others wrote is never written anew: their bytes are copied as they are (order, spelling of
 * numbers, unknown fields, blanks), and taking our entry out gives back what was there before.
 * A list gets our entry as its last plugin. A single configuration is wrapped into a list that
 * holds its text unchanged and takes over its name and version. Source: cni-spec 2.3.
 *
 * In a pod of Istio's chart our plugin has stock's name, so that whichever agent starts there next
 * puts its own in the place of ours. An entry of that type is ours when it says "installed".
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/str.h"

struct arena;
struct doc;
struct err;

#define CNICONF_PLUGIN	     "ambient-cni"     /* our "type", the name of the program */
#define CNICONF_STOCK	     "istio-cni"       /* also ours, where we stand in for it */
#define CNICONF_DEFAULT_NAME "k8s-pod-network" /* of a list made from a nameless configuration */

/* What a file is, by its name alone. */
enum cniconf_kind {
	CNICONF_OTHER,	/* not read by anybody */
	CNICONF_SINGLE, /* .conf: one plugin */
	CNICONF_LIST,	/* .conflist */
	CNICONF_JSON,	/* .json: a single one that some runtimes read and the stock installer does
			   not */
	CNICONF_KIND_N
};
enum cniconf_kind cniconf_kind_of(const char *file_name);
/* "10-x.conf" to "10-x.conflist" and back; the caller frees. The name must be of that kind. */
char *cniconf_list_name(const char *single_name);
char *cniconf_single_name(const char *list_name);

/* How our entry came into a file; it says so itself ("installed"). */
enum cniconf_place {
	CNICONF_ABSENT,
	CNICONF_CHAINED, /* put into somebody's list (also an entry that says nothing) */
	CNICONF_WRAPPED, /* the list was made around a single configuration */
	CNICONF_OWNED,	 /* the whole file is ours: a copy */
	CNICONF_PLACE_N
};

struct cniconf {
	enum cniconf_kind kind;
	struct str text;
	const struct doc *root, *plugins; /* @plugins: of a list */
	enum cniconf_place place;
	bool has_stock;	 /* an entry of the stock plugin */
	bool has_others; /* an entry that is neither ours nor stock's: it may be a primary */
};

/* What our entry says. */
struct cniconf_entry {
	struct str run_dir;
	struct str pod_namespace; /* of the agent's own pod; empty: it is no pod */
	bool as_stock;		  /* under stock's name, with the keys that stock's program reads */
	struct str selectors;	  /* as_stock: a JSON list of selector pairs */
	bool debug;		  /* as_stock: the plugin tells what it does */
	bool in_pod_network; /* the agent's pod gets its network from the chain that we are in */
	const struct str *excluded;
	size_t nexcluded;
};

/* Checks what runtimes check: a list has a name and at least one plugin, every plugin a type. @text
 * must live as long as *ret, whose tree is in @a. 0 or -EINVAL/-E2BIG naming what is wrong. */
int cniconf_parse(struct str text, enum cniconf_kind kind, struct arena *a, struct cniconf *ret,
		  struct err *err) _must_check_;

/* Appends the text of the list with our entry last. @place is CNICONF_CHAINED (which becomes
 * CNICONF_WRAPPED where there was a single configuration) or CNICONF_OWNED. The same bytes come out
 * when nothing has to change. Entries of the stock plugin are dropped when @replace_stock is true,
 * else they are an error. -EINVAL: the version does not chain, or nothing but ours is in there. */
int cniconf_add(const struct cniconf *c, enum cniconf_place place, const struct cniconf_entry *e,
		bool replace_stock, struct strbuf *out, struct err *err) _must_check_;

/* What is left without us, appended to @out. */
enum cniconf_rest {
	CNICONF_REST_NOTHING, /* the file was ours: delete it */
	CNICONF_REST_SAME,    /* we are not in there */
	CNICONF_REST_LIST,
	CNICONF_REST_SINGLE, /* what was wrapped: it belongs into the .conf file again */
};
enum cniconf_rest cniconf_remove(const struct cniconf *c, struct strbuf *out);
