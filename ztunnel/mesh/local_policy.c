/* SPDX-License-Identifier: Apache-2.0
 * local_policy.c: authorization policies of the local YAML state (ztunnel-spec 9.9, 10.3).
 *
 * Stricter than stock on purpose (spec 17, item 10): a value that does not parse is an error, since
 * dropping it would widen a policy; so is a principal written with spiffe://, which could never
 * match.
 */
#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "ztunnel/mesh/local_internal.h"

static const char *const policy_keys[] = {"name",   "namespace", "scope", "action",
					  "dryRun", "rules",	 NULL};
static const char *const match_keys[] = {"namespaces",
					 "notNamespaces",
					 "principals",
					 "notPrincipals",
					 "sourceIps",
					 "notSourceIps",
					 "destinationIps",
					 "notDestinationIps",
					 "destinationPorts",
					 "notDestinationPorts",
					 "serviceAccounts",
					 "notServiceAccounts",
					 NULL};
static const char *const sa_keys[] = {"namespace", "serviceAccount", NULL};
static const char *const scope_names[POLICY_SCOPE_N] = {
	[POLICY_GLOBAL] = "Global",
	[POLICY_NAMESPACE] = "Namespace",
	[POLICY_WORKLOAD] = "WorkloadSelector",
};
static const char *const action_names[POLICY_ACTION_N] = {"Allow", "Deny"};
static const char *const kind_names[MATCH_KIND_N] = {"Exact", "Prefix", "Suffix", "Presence"};

static int parse_str_match(struct arena *a, const struct doc *d, bool principal,
			   struct str_match *ret, struct err *err)
{
	int k = 0;

	while (k < MATCH_KIND_N && !str_eqc(d->tag, kind_names[k]))
		k++;
	if (k == MATCH_KIND_N)
		return doc_err(d, err,
			       "expected a text match: !Exact text, !Prefix text, !Suffix text or "
			       "!Presence []");
	ret->kind = (enum match_kind)k;
	if (ret->kind == MATCH_PRESENCE) {
		if (d->count != 0 || (d->kind == DOC_TEXT && d->text.n != 0))
			return doc_err(d, err, "!Presence takes no value: write !Presence []");
		return 0;
	}
	if (d->kind != DOC_TEXT || d->text.n == 0)
		return doc_err(d, err, "!%s needs a text that is not empty", kind_names[k]);
	if (principal && ret->kind != MATCH_SUFFIX && str_has_prefix(d->text, STR("spiffe:")))
		return doc_err(d, err,
			       "principals are written without spiffe://, this one would never "
			       "match: %s",
			       str_shown(d->text));
	ret->text = model_text(a, d->text);
	return 0;
}

static int parse_strs(struct arena *a, const struct doc *map, const char *key, bool principal,
		      struct match_list_str *ret, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(map, key, &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	ret->v = arena_alloc(a, (l->count + 1) * sizeof(*ret->v));
	for (const struct doc *c = l->child; c != NULL; c = c->next)
		if (parse_str_match(a, c, principal, &ret->v[ret->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int parse_cidrs(struct arena *a, const struct doc *map, const char *key,
		       struct match_list_cidr *ret, struct err *err)
{
	const struct doc *l = NULL;
	struct str s;

	if (doc_opt_list(map, key, &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	ret->v = arena_alloc(a, (l->count + 1) * sizeof(*ret->v));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		if (local_item_text(c, &s, err) != 0)
			return -EINVAL;
		if (ip_cidr_parse(s, &ret->v[ret->n++]) != 0)
			return doc_err(c, err, "expected an address or CIDR, got %s", str_shown(s));
	}
	return 0;
}

static int parse_match_ports(struct arena *a, const struct doc *map, const char *key,
			     struct match_list_port *ret, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(map, key, &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	ret->v = arena_alloc(a, (l->count + 1) * sizeof(*ret->v));
	for (const struct doc *c = l->child; c != NULL; c = c->next)
		if (c->kind != DOC_NUMBER ||
		    parse_u16(c->text, 1, UINT16_MAX, &ret->v[ret->n++]) != 0)
			return doc_err(c, err, "expected a port number from 1 to 65535");
	return 0;
}

static int parse_sas(struct arena *a, const struct doc *map, const char *key,
		     struct match_list_sa *ret, struct err *err)
{
	const struct doc *l = NULL;

	if (doc_opt_list(map, key, &l, err) != 0)
		return -EINVAL;
	if (l == NULL)
		return 0;
	ret->v = arena_alloc(a, (l->count + 1) * sizeof(*ret->v));
	for (const struct doc *c = l->child; c != NULL; c = c->next) {
		struct sa_match *m = &ret->v[ret->n++];

		if (doc_map(c, err) != 0 || doc_only_keys(c, sa_keys, err) != 0 ||
		    local_need_text(a, c, "namespace", &m->ns, err) != 0 ||
		    local_need_text(a, c, "serviceAccount", &m->sa, err) != 0)
			return -EINVAL;
	}
	return 0;
}

static int parse_match(struct arena *a, const struct doc *d, struct policy_match *m,
		       struct err *err)
{
	if (doc_map(d, err) != 0 || doc_only_keys(d, match_keys, err) != 0 ||
	    parse_strs(a, d, "namespaces", false, &m->namespaces, err) != 0 ||
	    parse_strs(a, d, "notNamespaces", false, &m->not_namespaces, err) != 0 ||
	    parse_strs(a, d, "principals", true, &m->principals, err) != 0 ||
	    parse_strs(a, d, "notPrincipals", true, &m->not_principals, err) != 0 ||
	    parse_cidrs(a, d, "sourceIps", &m->source_ips, err) != 0 ||
	    parse_cidrs(a, d, "notSourceIps", &m->not_source_ips, err) != 0 ||
	    parse_cidrs(a, d, "destinationIps", &m->destination_ips, err) != 0 ||
	    parse_cidrs(a, d, "notDestinationIps", &m->not_destination_ips, err) != 0 ||
	    parse_match_ports(a, d, "destinationPorts", &m->destination_ports, err) != 0 ||
	    parse_match_ports(a, d, "notDestinationPorts", &m->not_destination_ports, err) != 0 ||
	    parse_sas(a, d, "serviceAccounts", &m->service_accounts, err) != 0)
		return -EINVAL;
	return parse_sas(a, d, "notServiceAccounts", &m->not_service_accounts, err);
}

static int parse_clause(struct arena *a, const struct doc *d, struct policy_clause *cl,
			struct err *err)
{
	if (doc_list(d, err) != 0)
		return -EINVAL;
	cl->v = arena_alloc(a, (d->count + 1) * sizeof(*cl->v));
	for (const struct doc *c = d->child; c != NULL; c = c->next)
		if (parse_match(a, c, &cl->v[cl->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int parse_rule(struct arena *a, const struct doc *d, struct policy_rule *r, struct err *err)
{
	if (doc_list(d, err) != 0)
		return -EINVAL;
	r->v = arena_alloc(a, (d->count + 1) * sizeof(*r->v));
	for (const struct doc *c = d->child; c != NULL; c = c->next)
		if (parse_clause(a, c, &r->v[r->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int need_enum(const struct doc *d, const char *key, const char *const *names, int n,
		     int *ret, struct err *err)
{
	*ret = -1;
	if (local_enum(d, key, names, n, ret, err) != 0)
		return -EINVAL;
	return *ret < 0 ? doc_err(d, err, "field %s is missing", key) : 0;
}

int local_policy_fill(struct policy *p, const struct doc *d, struct err *err)
{
	_cleanup_strbuf_ struct strbuf key = {0};
	const struct doc *rules;
	int scope, action;

	if (doc_map(d, err) != 0 || doc_only_keys(d, policy_keys, err) != 0 ||
	    local_need_text(p->arena, d, "name", &p->name, err) != 0 ||
	    local_need_text(p->arena, d, "namespace", &p->ns, err) != 0 ||
	    need_enum(d, "scope", scope_names, POLICY_SCOPE_N, &scope, err) != 0 ||
	    need_enum(d, "action", action_names, POLICY_ACTION_N, &action, err) != 0 ||
	    doc_opt_bool(d, "dryRun", &p->dry_run, err) != 0)
		return -EINVAL;
	p->scope = (enum policy_scope)scope;
	p->action = (enum policy_action)action;
	strbuf_printf(&key, "%.*s/%.*s", STR_FMT(p->ns), STR_FMT(p->name));
	p->key = model_text(p->arena, (struct str){key.p, key.n});
	rules = doc_get(d, "rules");
	if (rules == NULL)
		return doc_err(d, err, "field rules is missing (write \"rules: []\" for none)");
	if (doc_list(rules, err) != 0)
		return -EINVAL;
	p->rules = arena_alloc(p->arena, (rules->count + 1) * sizeof(*p->rules));
	for (const struct doc *c = rules->child; c != NULL; c = c->next)
		if (parse_rule(p->arena, c, &p->rules[p->nrules++], err) != 0)
			return -EINVAL;
	return 0;
}
