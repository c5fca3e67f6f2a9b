/* SPDX-License-Identifier: Apache-2.0
 * export_peer.c: see export_peer.h.
 */
#include "ctl/export_peer.h"

#include <stdlib.h>

#include "ctl/export_yaml.h"

#define NO_IDENTITY "notPrincipals: [!Presence []]"

void ex_peers_init(struct ex_peers *p, const struct ex_store *s, const struct ex_config *c)
{
	p->v = ex_store_sorted(s, EX_PEER, &p->n);
	p->root_ns = c->root_ns;
}

void ex_peers_fini(struct ex_peers *p)
{
	free(p->v);
}

static void older(const struct ex_peer **best, const struct ex_peer *x)
{
	if (*best == NULL || strcmp(x->created, (*best)->created) < 0)
		*best = x;
}

struct levels {
	const struct ex_peer *mesh, *ns, *workload;
};

/* @labels NULL: only what applies to all of the namespace. */
static struct levels levels_of(const struct ex_peers *p, const char *ns,
			       const struct ex_labels *labels)
{
	struct levels l = {0};

	for (size_t i = 0; i < p->n; i++) {
		const struct ex_peer *x = (const struct ex_peer *)p->v[i];
		bool in_root = strcmp(x->o.ns, p->root_ns) == 0;

		if (in_root && x->selector.n == 0)
			older(&l.mesh, x);
		if (in_root || strcmp(x->o.ns, ns) != 0)
			continue;
		if (x->selector.n == 0)
			older(&l.ns, x);
		else if (labels != NULL && ex_labels_match(&x->selector, labels))
			older(&l.workload, x);
	}
	return l;
}

static bool strict_above(const struct levels *l)
{
	if (l->ns != NULL && l->ns->mode != EX_MTLS_UNSET)
		return l->ns->mode == EX_MTLS_STRICT;
	return l->mesh != NULL && l->mesh->mode == EX_MTLS_STRICT;
}

static bool any_port(const struct ex_peer *x, bool strict, bool disable_counts)
{
	for (size_t i = 0; i < x->nports; i++) {
		enum ex_mtls m = x->port[i].mode;

		if (strict ? m == EX_MTLS_STRICT
			   : m == EX_MTLS_PERMISSIVE || (disable_counts && m == EX_MTLS_DISABLE))
			return true;
	}
	return false;
}

struct ex_peer_names ex_peers_of(const struct ex_peers *p, const char *ns,
				 const struct ex_labels *labels)
{
	struct levels l = levels_of(p, ns, labels);
	const struct ex_peer *w = l.workload;
	bool above = strict_above(&l), strict;
	bool exception;

	if (w == NULL)
		return (struct ex_peer_names){.strict = above};
	strict = w->mode == EX_MTLS_UNSET ? above : w->mode == EX_MTLS_STRICT;
	/* without a mode of its own, only PERMISSIVE ports are exceptions: as with istiod */
	exception = any_port(w, !strict, w->mode != EX_MTLS_UNSET);
	return (struct ex_peer_names){.strict = strict && !exception,
				      .ports = exception ? w : NULL};
}

bool ex_peer_rules(const struct ex_peers *p, const struct ex_peer *x, struct strbuf *out)
{
	struct levels l = levels_of(p, x->o.ns, NULL);
	bool strict = x->mode == EX_MTLS_UNSET ? strict_above(&l) : x->mode == EX_MTLS_STRICT;

	if (x->selector.n == 0 || strcmp(x->o.ns, p->root_ns) == 0 || !any_port(x, !strict, true))
		return false;
	if (strict)
		strbuf_puts(out, "  - - - {" NO_IDENTITY "}\n");
	for (size_t i = 0; i < x->nports; i++) {
		enum ex_mtls m = x->port[i].mode;

		if (strict && (m == EX_MTLS_PERMISSIVE || m == EX_MTLS_DISABLE))
			strbuf_printf(out, "    - - {notDestinationPorts: [%u]}\n",
				      x->port[i].port);
		else if (!strict && m == EX_MTLS_STRICT)
			strbuf_printf(out, "  - - - {" NO_IDENTITY ", destinationPorts: [%u]}\n",
				      x->port[i].port);
	}
	return true;
}
