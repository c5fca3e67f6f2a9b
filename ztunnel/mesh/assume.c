/* SPDX-License-Identifier: Apache-2.0
 * assume.c: see assume.h.
 */
#include "ztunnel/mesh/assume.h"

#include "lib/base/mem.h"

struct workload *assume_workload(const struct mesh *m, const struct assume_node *n, struct str name,
				 struct str ns, struct str sa)
{
	const struct workload *like = mesh_any_local(m);
	struct workload *w;

	if (like == NULL && n->trust_domain == NULL)
		return NULL;
	w = workload_new();
	w->name = model_text(w->arena, name);
	w->ns = model_text(w->arena, ns);
	w->sa = model_text(w->arena, sa);
	w->node = model_text(w->arena, str_of(n->node));
	w->network = model_text(w->arena, str_of(n->network));
	w->trust_domain = str_of("");
	w->protocol = WL_HBONE;
	w->type = WL_TYPE_POD;
	w->capacity = 1;
	if (like != NULL) {
		w->network = model_text(w->arena, like->network);
		w->cluster = model_text(w->arena, like->cluster);
		w->region = model_text(w->arena, like->region);
		w->zone = model_text(w->arena, like->zone);
		w->subzone = model_text(w->arena, like->subzone);
		w->trust_domain = model_text(w->arena, like->trust_domain);
	}
	if (n->trust_domain != NULL)
		w->trust_domain = model_text(w->arena, str_of(n->trust_domain));
	if (workload_complete(w, NULL) == 0)
		return w;
	workload_unref(w);
	return NULL;
}
