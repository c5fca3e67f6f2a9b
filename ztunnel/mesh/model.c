/* SPDX-License-Identifier: Apache-2.0
 * model.c: lifetimes of workloads, services and policies. Each lives in an arena of its own.
 */
#include "ztunnel/mesh/model.h"

#include <errno.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

const char *const wl_type_name[WL_TYPE_N] = {
	[WL_TYPE_DEPLOYMENT] = "deployment",
	[WL_TYPE_CRONJOB] = "cronjob",
	[WL_TYPE_POD] = "pod",
	[WL_TYPE_JOB] = "job",
};

/* A new reference needs no ordering: whoever hands it on already synchronises. The last drop must
 * see every use by the other holders (acq_rel). */
#define DEFINE_REFS(type, init)                                                                    \
	struct type *type##_new(void)                                                              \
	{                                                                                          \
		struct arena *a = arena_new();                                                     \
		struct type *p = arena_alloc(a, sizeof(*p));                                       \
                                                                                                   \
		p->arena = a;                                                                      \
		atomic_init(&p->refs, 1);                                                          \
		init(p);                                                                           \
		return p;                                                                          \
	}                                                                                          \
	struct type *type##_ref(struct type *p)                                                    \
	{                                                                                          \
		if (p != NULL)                                                                     \
			bug_on(atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed) == 0); \
		return p;                                                                          \
	}                                                                                          \
	void type##_unref(struct type *p)                                                          \
	{                                                                                          \
		if (p == NULL || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) > 1) \
			return;                                                                    \
		(void)arena_free(p->arena);                                                        \
	}

const struct gateway_ref gateway_none;

static void init_workload(struct workload *w)
{
	w->waypoint = w->network_gateway = &gateway_none;
}

#define INIT_NOTHING(p) (void)(p)
DEFINE_REFS(workload, init_workload)
DEFINE_REFS(service, INIT_NOTHING)
DEFINE_REFS(policy, INIT_NOTHING)

struct str model_text(struct arena *a, struct str s)
{
	if (s.n == 0)
		return (struct str){"", 0};
	return (struct str){arena_strndup(a, s.p, s.n), s.n};
}

static void default_text(struct str *s, const char *def)
{
	if (s->n == 0)
		*s = str_of(def);
}

int workload_complete(struct workload *w, struct err *err)
{
	_cleanup_strbuf_ struct strbuf uri = {0};
	struct spiffe_id id, back;

	default_text(&w->trust_domain, "cluster.local");
	default_text(&w->sa, "default");
	default_text(&w->cluster, "Kubernetes");
	id = (struct spiffe_id){w->trust_domain, w->ns, w->sa};
	spiffe_format(&id, &uri);
	if (spiffe_parse((struct str){uri.p, uri.n}, &back) != 0 || !spiffe_eq(&id, &back))
		return err_set(err, EINVAL,
			       "trust domain %s, namespace %s and service account %s do not form "
			       "an identity spiffe://<trust domain>/ns/<namespace>/sa/<service "
			       "account>",
			       str_shown(w->trust_domain), str_shown(w->ns), str_shown(w->sa));
	w->identity = arena_strndup(w->arena, uri.p, uri.n);
	return 0;
}
