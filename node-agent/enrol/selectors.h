/* SPDX-License-Identifier: Apache-2.0
 * selectors.h: AMBIENT_ENABLEMENT_SELECTOR: which labels put a pod into the mesh. Pure.
 *
 * A YAML list of pairs {podSelector, namespaceSelector}, each a Kubernetes LabelSelector
 * (matchLabels, matchExpressions). A pod is in when both selectors of any pair match; a selector
 * that is absent or empty matches everything; an empty list matches nothing. Source: cni-spec 1.2,
 * 3.1, 3.4. What stock ignores (an unknown key, which would turn a misspelt selector into one that
 * matches everything) is refused here.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"
#include "node-agent/source/labels.h"

struct err;

/* What decides without AMBIENT_ENABLEMENT_SELECTOR, as Istio's chart spells it (cni-spec 3.4). */
#define SELECTORS_DEFAULT                                                                          \
	"- podSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}\n"                       \
	"- podSelector:\n"                                                                         \
	"    matchExpressions: [{key: istio.io/dataplane-mode, operator: NotIn, values: "          \
	"[none]}]\n"                                                                               \
	"  namespaceSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}\n"

enum selector_op {
	SELECTOR_IN,
	SELECTOR_NOT_IN, /* also when the label is absent */
	SELECTOR_EXISTS,
	SELECTOR_DOES_NOT_EXIST,
	SELECTOR_OP_N
};

struct selector_need { /* all needs of a selector must be met */
	char *key;
	enum selector_op op;
	char **values;
	size_t nvalues;
};
struct selector {
	struct selector_need *v;
	size_t n;
};
struct selector_pair {
	struct selector pod, ns;
};
struct selectors {
	struct selector_pair *v;
	size_t n;
	struct label_keys keys; /* that any of them looks at */
};

/* 0, or -EINVAL with the place. *ret ends with selectors_fini(). */
int selectors_parse(struct str yaml, struct selectors *ret, struct err *err) _must_check_;
void selectors_fini(struct selectors *s);
/* Number of the first pair that matches, from 1; 0: none. */
size_t selectors_match(const struct selectors *s, const struct labels *pod,
		       const struct labels *ns);
/* Appends them as the JSON that Istio's plugin reads (cni-spec 1.2): all needs as matchExpressions.
 */
void selectors_print(const struct selectors *s, struct strbuf *out);
int selectors_fuzz(const uint8_t *p, size_t n);
