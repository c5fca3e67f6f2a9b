/* SPDX-License-Identifier: Apache-2.0
 * wds_policy.c: see wds.h: policies. A value that cannot be taken literally refuses the policy:
 * without it, a DENY would deny less or an ALLOW allow more. What is in force instead is as strict
 * as the policy can have been meant.
 */
#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "proto/authorization.pb-c.h"
#include "ztunnel/mesh/wds.h"
#include "ztunnel/mesh/wds_internal.h"

static int take_string(struct arena *a, const Istio__Security__StringMatch *p, const char *field,
		       struct str_match *ret, struct err *err)
{
	switch (p->match_type_case) {
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
		ret->kind = MATCH_EXACT;
		return wds_text(a, p->exact, field, &ret->text, err);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
		ret->kind = MATCH_PREFIX;
		return wds_text(a, p->prefix, field, &ret->text, err);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
		ret->kind = MATCH_SUFFIX;
		return wds_text(a, p->suffix, field, &ret->text, err);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
		ret->kind = MATCH_PRESENCE;
		ret->text = STR("");
		return 0;
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE__NOT_SET:
	case _ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE__CASE_IS_INT_SIZE:
	default:
		return err_set(err, EINVAL, "%s: a match of no known kind", field);
	}
}

static int take_strings(struct arena *a, Istio__Security__StringMatch *const *v, size_t n,
			const char *field, struct match_list_str *ret, struct err *err)
{
	if (n == 0)
		return 0;
	ret->v = arena_alloc(a, n * sizeof(*ret->v));
	for (size_t i = 0; i < n; i++)
		if (take_string(a, v[i], field, &ret->v[ret->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int take_cidrs(struct arena *a, Istio__Security__Address *const *v, size_t n,
		      const char *field, struct match_list_cidr *ret, struct err *err)
{
	if (n == 0)
		return 0;
	ret->v = arena_alloc(a, n * sizeof(*ret->v));
	for (size_t i = 0; i < n; i++) {
		struct ip_cidr *c = &ret->v[ret->n++];
		size_t len = v[i]->address.len;
		uint32_t bits = v[i]->length;

		if (ip_from_bytes(v[i]->address.data, len, &c->ip) != 0)
			return err_set(err, EINVAL, "%s: an address of %zu bytes, expected 4 or 16",
				       field, len);
		if (bits > len * 8 || (c->ip.len == 4 && len == 16 && bits < 96))
			return err_set(err, EINVAL, "%s: a prefix of %u bits", field, bits);
		c->prefix = (uint8_t)(c->ip.len == 4 && len == 16 ? bits - 96 : bits);
	}
	return 0;
}

static int take_ports(struct arena *a, const uint32_t *v, size_t n, const char *field,
		      struct match_list_port *ret, struct err *err)
{
	if (n == 0)
		return 0;
	ret->v = arena_alloc(a, n * sizeof(*ret->v));
	for (size_t i = 0; i < n; i++) {
		if (v[i] > UINT16_MAX)
			return err_set(err, EINVAL, "%s: port %u", field, v[i]);
		ret->v[ret->n++] = (uint16_t)v[i];
	}
	return 0;
}

static int take_accounts(struct arena *a, Istio__Security__ServiceAccountMatch *const *v, size_t n,
			 const char *field, struct match_list_sa *ret, struct err *err)
{
	if (n == 0)
		return 0;
	ret->v = arena_alloc(a, n * sizeof(*ret->v));
	for (size_t i = 0; i < n; i++) {
		struct sa_match *m = &ret->v[ret->n++];

		if (wds_text(a, v[i]->namespace_, field, &m->ns, err) != 0 ||
		    wds_text(a, v[i]->service_account, field, &m->sa, err) != 0)
			return -EINVAL;
	}
	return 0;
}

#define STRINGS(f) take_strings(a, p->f, p->n_##f, #f, &m->f, err)
#define CIDRS(f)   take_cidrs(a, p->f, p->n_##f, #f, &m->f, err)
#define PORTS(f)   take_ports(a, p->f, p->n_##f, #f, &m->f, err)
#define SAS(f)	   take_accounts(a, p->f, p->n_##f, #f, &m->f, err)

static int take_match(struct arena *a, const Istio__Security__Match *p, struct policy_match *m,
		      struct err *err)
{
	if (STRINGS(namespaces) != 0 || STRINGS(not_namespaces) != 0 || STRINGS(principals) != 0 ||
	    STRINGS(not_principals) != 0 || CIDRS(source_ips) != 0 || CIDRS(not_source_ips) != 0 ||
	    CIDRS(destination_ips) != 0 || CIDRS(not_destination_ips) != 0 ||
	    PORTS(destination_ports) != 0 || PORTS(not_destination_ports) != 0 ||
	    SAS(service_accounts) != 0)
		return -EINVAL;
	return SAS(not_service_accounts);
}

static int take_clause(struct arena *a, const Istio__Security__Rules *p, struct policy_clause *c,
		       struct err *err)
{
	if (p->n_matches == 0)
		return 0;
	c->v = arena_alloc(a, p->n_matches * sizeof(*c->v));
	for (size_t i = 0; i < p->n_matches; i++)
		if (take_match(a, p->matches[i], &c->v[c->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int take_rule(struct arena *a, const Istio__Security__Group *p, struct policy_rule *r,
		     struct err *err)
{
	if (p->n_rules == 0)
		return 0;
	r->v = arena_alloc(a, p->n_rules * sizeof(*r->v));
	for (size_t i = 0; i < p->n_rules; i++)
		if (take_clause(a, p->rules[i], &r->v[r->n++], err) != 0)
			return -EINVAL;
	return 0;
}

static int fill(struct policy *p, const Istio__Security__Authorization *in, struct err *err)
{
	if (wds_text(p->arena, in->name, "name", &p->name, err) != 0 ||
	    wds_text(p->arena, in->namespace_, "namespace", &p->ns, err) != 0 ||
	    wds_enum(in->scope, POLICY_SCOPE_N, "scope", err) != 0 ||
	    wds_enum(in->action, POLICY_ACTION_N, "action", err) != 0)
		return -EINVAL;
	p->scope = (enum policy_scope)in->scope;
	p->action = (enum policy_action)in->action;
	p->dry_run = in->dry_run != 0;
	if (in->n_groups == 0)
		return 0;
	p->rules = arena_alloc(p->arena, in->n_groups * sizeof(*p->rules));
	for (size_t i = 0; i < in->n_groups; i++)
		if (take_rule(p->arena, in->groups[i], &p->rules[p->nrules++], err) != 0)
			return -EINVAL;
	return 0;
}

struct policy *wds_policy(struct str name, struct str value, struct err *err)
{
	Istio__Security__Authorization *in =
		istio__security__authorization__unpack(NULL, value.n, (const uint8_t *)value.p);
	struct policy *p;

	if (in == NULL) {
		(void)err_set(err, EINVAL, "not an istio.security.Authorization");
		return NULL;
	}
	p = policy_new();
	p->key = model_text(p->arena, name);
	if (fill(p, in, err) != 0) {
		policy_unref(p);
		p = NULL;
	}
	istio__security__authorization__free_unpacked(in, NULL);
	return p;
}

/* How far it reaches; false: nothing need be in force. */
static bool closed_scope(struct policy *p, const Istio__Security__Authorization *in)
{
	struct err err = {0};

	p->scope = POLICY_GLOBAL;
	p->action = POLICY_DENY;
	p->name = p->key;
	p->ns = STR("");
	if (in == NULL)
		return true;
	if (in->dry_run != 0 || in->scope == POLICY_WORKLOAD)
		return false;
	if (in->action == POLICY_ALLOW)
		p->action = POLICY_ALLOW;
	if (in->scope == POLICY_NAMESPACE && in->namespace_.len != 0 &&
	    wds_text(p->arena, in->namespace_, "namespace", &p->ns, &err) == 0)
		p->scope = POLICY_NAMESPACE;
	return true;
}

struct policy *wds_policy_closed(struct str name, struct str value)
{
	Istio__Security__Authorization *in =
		istio__security__authorization__unpack(NULL, value.n, (const uint8_t *)value.p);
	struct policy *p = policy_new();

	p->key = model_text(p->arena, name);
	p->closed = true;
	if (!closed_scope(p, in)) {
		policy_unref(p);
		p = NULL;
	} else if (p->action == POLICY_DENY) { /* a rule without clauses always holds */
		p->rules = arena_alloc(p->arena, sizeof(*p->rules));
		p->nrules = 1;
	}
	if (in != NULL)
		istio__security__authorization__free_unpacked(in, NULL);
	return p;
}
