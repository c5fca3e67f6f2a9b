/* SPDX-License-Identifier: Apache-2.0
 * rbac.c: see rbac.h. Every comparison is on bytes: exact, prefix, suffix or presence, never a
 * pattern language (security.md A1). What cannot be decided denies.
 */
#include "ztunnel/mesh/rbac.h"

#include <stdio.h>

#define PRINCIPAL_MAX 2048 /* SPIFFE IDs are at most 2048 bytes */

/* The connection with what is derived from it once. */
struct facts {
	const struct rbac_conn *c;
	struct str principal; /* identity without spiffe://; NULL text: no identity */
	char buf[PRINCIPAL_MAX];
};

static bool text_matches(const struct str_match *m, struct str s)
{
	switch (m->kind) {
	case MATCH_EXACT:
		return str_eq(s, m->text);
	case MATCH_PREFIX:
		return str_has_prefix(s, m->text);
	case MATCH_SUFFIX:
		return str_has_suffix(s, m->text);
	case MATCH_PRESENCE:
		return s.n != 0;
	case MATCH_KIND_N:
		break;
	}
	return false;
}

static bool any_text(const struct match_list_str *l, struct str s)
{
	for (size_t i = 0; i < l->n; i++)
		if (text_matches(&l->v[i], s))
			return true;
	return false;
}

static bool any_cidr(const struct match_list_cidr *l, const struct ip_addr *ip)
{
	for (size_t i = 0; i < l->n; i++)
		if (ip_in_cidr(ip, &l->v[i]))
			return true;
	return false;
}

static bool any_port(const struct match_list_port *l, uint16_t port)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i] == port)
			return true;
	return false;
}

static bool any_sa(const struct match_list_sa *l, const struct rbac_conn *c)
{
	for (size_t i = 0; c->has_identity && i < l->n; i++)
		if (str_eq(l->v[i].ns, c->identity.ns) && str_eq(l->v[i].sa, c->identity.sa))
			return true;
	return false;
}

/* A group holds when its positive list is empty or matches, and its negative list does not match.
 */
#define GROUP(list, not_list, matches)                                                             \
	(((list).n == 0 || matches(&(list))) && !matches(&(not_list)))

static bool match_holds(const struct policy_match *m, const struct facts *f)
{
	const struct rbac_conn *c = f->c;
	struct str ns = c->has_identity ? c->identity.ns : STR("");
	size_t total = m->namespaces.n + m->not_namespaces.n + m->principals.n +
		       m->not_principals.n + m->source_ips.n + m->not_source_ips.n +
		       m->destination_ips.n + m->not_destination_ips.n + m->destination_ports.n +
		       m->not_destination_ports.n + m->service_accounts.n +
		       m->not_service_accounts.n;

	if (total == 0)
		return false; /* completely empty: never (ztunnel-spec 10.3) */
#define BY_NS(l)	any_text(l, ns)
#define BY_PRINCIPAL(l) (c->has_identity && any_text(l, f->principal))
#define BY_SA(l)	any_sa(l, c)
#define BY_SRC(l)	any_cidr(l, &c->src)
#define BY_DST(l)	any_cidr(l, &c->dst.ip)
#define BY_PORT(l)	any_port(l, c->dst.port)
	return GROUP(m->namespaces, m->not_namespaces, BY_NS) &&
	       GROUP(m->principals, m->not_principals, BY_PRINCIPAL) &&
	       GROUP(m->service_accounts, m->not_service_accounts, BY_SA) &&
	       GROUP(m->source_ips, m->not_source_ips, BY_SRC) &&
	       GROUP(m->destination_ips, m->not_destination_ips, BY_DST) &&
	       GROUP(m->destination_ports, m->not_destination_ports, BY_PORT);
}

static bool clause_holds(const struct policy_clause *cl, const struct facts *f)
{
	for (size_t i = 0; i < cl->n; i++)
		if (match_holds(&cl->v[i], f))
			return true;
	return cl->n == 0;
}

static bool rule_holds(const struct policy_rule *r, const struct facts *f)
{
	for (size_t i = 0; i < r->n; i++)
		if (!clause_holds(&r->v[i], f))
			return false;
	return true;
}

static bool policy_holds(const struct policy *p, const struct facts *f)
{
	for (size_t i = 0; i < p->nrules; i++)
		if (rule_holds(&p->rules[i], f))
			return true;
	return false;
}

static bool make_facts(struct facts *f, const struct rbac_conn *c)
{
	const struct spiffe_id *id = &c->identity;
	int n;

	f->c = c;
	f->principal = (struct str){NULL, 0};
	if (!c->has_identity)
		return true;
	n = snprintf(f->buf, sizeof(f->buf), "%.*s/ns/%.*s/sa/%.*s", STR_FMT(id->trust_domain),
		     STR_FMT(id->ns), STR_FMT(id->sa));
	f->principal = (struct str){f->buf, (size_t)n};
	return n >= 0 && (size_t)n < sizeof(f->buf);
}

/* What was seen so far of the policies that apply. */
struct tally {
	const struct facts *facts;
	const struct policy *deny, *allow;
	bool any_allow;
	struct str missing;
};

/* Every policy that applies to @dst (ztunnel-spec 10.1), and the names that stand for none. */
static void each_policy(const struct mesh *m, const struct workload *dst,
			void (*fn)(void *ctx, const struct policy *p),
			void (*missing)(void *ctx, struct str name), void *ctx)
{
	size_t n;
	struct policy *const *v = mesh_policies(m, POLICY_GLOBAL, STR(""), &n);

	for (size_t i = 0; i < n; i++)
		fn(ctx, v[i]);
	v = mesh_policies(m, POLICY_NAMESPACE, dst->ns, &n);
	for (size_t i = 0; i < n; i++)
		fn(ctx, v[i]);
	for (size_t i = 0; i < dst->npolicies; i++) {
		const struct policy *p = mesh_policy(m, dst->policies[i]);

		if (p != NULL)
			fn(ctx, p);
		else
			missing(ctx, dst->policies[i]);
	}
}

static void take(void *ctx, const struct policy *p)
{
	struct tally *t = ctx;

	if (p->dry_run) /* never changes the result (ztunnel-spec 10.2) */
		return;
	switch (p->action) {
	case POLICY_DENY:
		if (t->deny == NULL && policy_holds(p, t->facts))
			t->deny = p;
		return;
	case POLICY_ALLOW:
		t->any_allow = true;
		if (t->allow == NULL && policy_holds(p, t->facts))
			t->allow = p;
		return;
	case POLICY_ACTION_N:
		break;
	}
	t->deny = p; /* an action we do not know */
}

static void take_missing(void *ctx, struct str name)
{
	struct tally *t = ctx;

	if (t->missing.n == 0)
		t->missing = name;
}

struct rbac_result rbac_evaluate(const struct mesh *m, const struct workload *dst,
				 const struct rbac_conn *c)
{
	struct facts f;
	struct tally t = {.facts = &f};

	if (!make_facts(&f, c))
		return (struct rbac_result){.verdict = RBAC_DENY_NO_ALLOW};
	each_policy(m, dst, take, take_missing, &t);
	if (t.deny != NULL)
		return (struct rbac_result){.verdict = RBAC_DENY_EXPLICIT, .policy = t.deny};
	if (t.missing.n != 0)
		return (struct rbac_result){.verdict = RBAC_DENY_MISSING, .missing = t.missing};
	if (t.any_allow && t.allow == NULL)
		return (struct rbac_result){.verdict = RBAC_DENY_NO_ALLOW};
	return (struct rbac_result){.verdict = RBAC_ALLOW, .policy = t.allow};
}

/* One walk over the dry-run policies of one action. */
struct dry_run {
	const struct facts *facts;
	enum policy_action action;
	const char *message;
	void (*fn)(void *ctx, const char *message, struct str policy);
	void *ctx;
	bool any, any_enforced, matched;
};

static void dry_run_one(void *ctx, const struct policy *p)
{
	struct dry_run *d = ctx;

	if (p->action != d->action)
		return;
	if (!p->dry_run) {
		d->any_enforced = true;
		return;
	}
	d->any = true;
	if (!policy_holds(p, d->facts))
		return;
	d->matched = true;
	d->fn(d->ctx, d->message, p->key);
}

static void dry_run_missing(void *ctx, struct str name)
{
	(void)ctx; /* what it is, nobody knows */
	(void)name;
}

void rbac_explain(const struct mesh *m, const struct workload *dst, const struct rbac_conn *c,
		  const struct rbac_result *r,
		  void (*fn)(void *ctx, const char *message, struct str policy), void *ctx)
{
	struct facts f;
	struct dry_run d = {.facts = &f,
			    .action = POLICY_DENY,
			    .message = "dry-run: deny policy match",
			    .fn = fn,
			    .ctx = ctx};

	if (!make_facts(&f, c))
		return;
	each_policy(m, dst, dry_run_one, dry_run_missing, &d);
	if (r->verdict == RBAC_DENY_EXPLICIT) {
		fn(ctx, "deny policy match", r->policy->key);
		return;
	}
	d.any = d.any_enforced = d.matched = false;
	d.action = POLICY_ALLOW;
	d.message = "dry-run: allow policy match";
	each_policy(m, dst, dry_run_one, dry_run_missing, &d);
	if (d.any && !d.matched && !d.any_enforced)
		fn(ctx, "dry-run: no allow policies match", STR(""));
	switch (r->verdict) {
	case RBAC_ALLOW:
		if (r->policy != NULL)
			fn(ctx, "allow policy match", r->policy->key);
		else
			fn(ctx, "no allow policies, allow", STR(""));
		return;
	case RBAC_DENY_MISSING:
		fn(ctx, "policy is not known yet, deny", r->missing);
		return;
	case RBAC_DENY_EXPLICIT:
	case RBAC_DENY_NO_ALLOW:
	case RBAC_VERDICT_N:
		fn(ctx, "no allow policies matched", STR(""));
		return;
	}
}

const char *rbac_reason(const struct rbac_result *r, char *buf, size_t cap)
{
	static const char head[] = "connection closed due to policy rejection: ";

	switch (r->verdict) {
	case RBAC_ALLOW:
		(void)snprintf(buf, cap, "allowed");
		return buf;
	case RBAC_DENY_EXPLICIT:
		(void)snprintf(buf, cap, "%sexplicitly denied by: %.*s%s", head,
			       STR_FMT(r->policy->key),
			       r->policy->closed ? " (it cannot be read, so it denies all)" : "");
		return buf;
	case RBAC_DENY_NO_ALLOW:
		(void)snprintf(buf, cap, "%sallow policies exist, but none allowed", head);
		return buf;
	case RBAC_DENY_MISSING:
		(void)snprintf(buf, cap, "%spolicy %.*s is not known yet", head,
			       STR_FMT(r->missing));
		return buf;
	case RBAC_VERDICT_N:
		break;
	}
	(void)snprintf(buf, cap, "%sno verdict", head);
	return buf;
}
