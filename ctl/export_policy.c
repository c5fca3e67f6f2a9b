/* SPDX-License-Identifier: Apache-2.0
 * export_policy.c: see export_policy.h.
 */
#include "ctl/export_policy.h"

#include <stdlib.h>

#include "ctl/export_reader.h"
#include "ctl/export_yaml.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

struct translation {
	struct ex_reader *r;
	const char *ns;
	bool deny;
	bool http; /* an attribute of HTTP was seen in this rule */
	struct strbuf *note;
};

/* Each sentence once. */
static void note(struct strbuf *b, const char *text)
{
	if (b->n != 0 && strstr(b->p, text) != NULL)
		return;
	strbuf_printf(b, "%s%s", b->n != 0 ? "; " : "", text);
}

/* --- values --- */

enum value_kind { VALUE_NAMESPACE, VALUE_PRINCIPAL, VALUE_ADDRESS, VALUE_PORT, VALUE_ACCOUNT };

static void put_text(struct strbuf *b, struct str s)
{
	_cleanup_free_ char *c = xstrndup(s.p, s.n);

	ex_yaml_text(b, c);
}

/* "*" anything, "*x" the end, "x*" the beginning, else all of it. A principal with its scheme could
 * never match: ztunnel compares without. */
static bool put_string_match(struct strbuf *b, struct str s, bool principal)
{
	const char *tag = "!Exact ";

	if (str_eqc(s, "*")) {
		strbuf_puts(b, "!Presence []");
		return true;
	}
	if (s.n != 0 && s.p[0] == '*') {
		tag = "!Suffix ";
		s = (struct str){s.p + 1, s.n - 1};
	} else if (s.n != 0 && s.p[s.n - 1] == '*') {
		tag = "!Prefix ";
		s.n--;
	}
	if (s.n == 0 || (principal && str_has_prefix(s, STR("spiffe:"))))
		return false;
	strbuf_puts(b, tag);
	put_text(b, s);
	return true;
}

static bool put_address(struct strbuf *b, struct str s)
{
	char text[IP_TEXT_MAX];
	struct ip_cidr c;

	if (ip_cidr_parse(s, &c) != 0)
		return false;
	strbuf_printf(b, "\"%s/%u\"", ip_format(&c.ip, text), c.prefix);
	return true;
}

static bool put_port(struct strbuf *b, struct str s)
{
	uint16_t port;

	if (parse_u16(s, 1, UINT16_MAX, &port) != 0)
		return false;
	strbuf_printf(b, "%u", port);
	return true;
}

/* "namespace/name", or a name in the policy's namespace. */
static bool put_account(struct strbuf *b, struct str s, const char *own_ns)
{
	struct str ns = str_of(own_ns);

	(void)str_cut(&s, '/', &ns); /* without a slash it stays as it is */
	if (ns.n == 0 || s.n == 0)
		return false;
	strbuf_puts(b, "{namespace: ");
	put_text(b, ns);
	strbuf_puts(b, ", serviceAccount: ");
	put_text(b, s);
	strbuf_putc(b, '}');
	return true;
}

static bool put_value(struct strbuf *b, struct str s, enum value_kind kind, const char *ns)
{
	switch (kind) {
	case VALUE_NAMESPACE:
	case VALUE_PRINCIPAL:
		return put_string_match(b, s, kind == VALUE_PRINCIPAL);
	case VALUE_ADDRESS:
		return put_address(b, s);
	case VALUE_PORT:
		return put_port(b, s);
	case VALUE_ACCOUNT:
		return put_account(b, s, ns);
	default:
		return false;
	}
}

/* --- matches --- */

struct match {
	struct strbuf text; /* "key: [...], key: [...]" */
	bool never;	    /* ALLOW: a value was bad, so it must not hold */
	bool lost;	    /* DENY: nothing is left of a list, so it holds without it */
};

static void add_list(struct translation *t, struct match *m, const struct doc *map,
		     const char *from, const char *key, enum value_kind kind, bool negative)
{
	const struct doc *l = ex_rd_list(t->r, map, from);
	_cleanup_strbuf_ struct strbuf values = {0};
	size_t good = 0, bad = 0;

	for (const struct doc *c = l != NULL ? l->child : NULL; c != NULL; c = c->next) {
		size_t at = values.n;

		if (c->kind != DOC_TEXT) {
			ex_rd_bad(t->r, c, "expected text");
			return;
		}
		strbuf_puts(&values, good != 0 ? ", " : "");
		if (put_value(&values, c->text, kind, t->ns)) {
			good++;
			continue;
		}
		values.n = at;
		if (bad++ == 0) {
			_cleanup_strbuf_ struct strbuf b = {0};

			strbuf_printf(&b, "%s: %s cannot be used; the policy is made stricter",
				      from, str_shown(c->text));
			note(t->note, b.p);
		}
	}
	if (good != 0)
		strbuf_printf(&m->text, "%s%s: [%.*s]", m->text.n != 0 ? ", " : "", key,
			      (int)values.n, values.p);
	if (bad == 0)
		return;
	if (!t->deny)
		m->never |= negative || good == 0;
	else
		m->lost |= good == 0;
}

static void add_both(struct translation *t, struct match *m, const struct doc *map,
		     const char *from, const char *not_from, const char *key, const char *not_key,
		     enum value_kind kind)
{
	add_list(t, m, map, from, key, kind, false);
	add_list(t, m, map, not_from, not_key, kind, true);
}

static void find_http(struct translation *t, const struct doc *map, const char *const *keys)
{
	for (; *keys != NULL; keys++) {
		const struct doc *l = ex_rd_list(t->r, map, *keys);

		t->http |= l != NULL && l->count != 0;
	}
}

static void read_source(struct translation *t, const struct doc *d, struct match *m)
{
	static const char *const http[] = {"remoteIpBlocks", "notRemoteIpBlocks",
					   "requestPrincipals", "notRequestPrincipals", NULL};
	const struct doc *s = ex_rd_map(t->r, d, "source");

	find_http(t, s, http);
	add_both(t, m, s, "ipBlocks", "notIpBlocks", "sourceIps", "notSourceIps", VALUE_ADDRESS);
	add_both(t, m, s, "namespaces", "notNamespaces", "namespaces", "notNamespaces",
		 VALUE_NAMESPACE);
	add_both(t, m, s, "serviceAccounts", "notServiceAccounts", "serviceAccounts",
		 "notServiceAccounts", VALUE_ACCOUNT);
	add_both(t, m, s, "principals", "notPrincipals", "principals", "notPrincipals",
		 VALUE_PRINCIPAL);
}

static void read_operation(struct translation *t, const struct doc *d, struct match *m)
{
	static const char *const http[] = {"hosts", "notHosts", "methods", "notMethods",
					   "paths", "notPaths", NULL};
	const struct doc *o = ex_rd_map(t->r, d, "operation");

	find_http(t, o, http);
	add_both(t, m, o, "ports", "notPorts", "destinationPorts", "notDestinationPorts",
		 VALUE_PORT);
}

static void read_condition(struct translation *t, const struct doc *d, struct match *m)
{
	static const struct {
		const char *key, *is, *is_not;
		enum value_kind kind;
	} keys[] = {
		{"source.ip", "sourceIps", "notSourceIps", VALUE_ADDRESS},
		{"source.namespace", "namespaces", "notNamespaces", VALUE_NAMESPACE},
		{"source.principal", "principals", "notPrincipals", VALUE_PRINCIPAL},
		{"destination.ip", "destinationIps", "notDestinationIps", VALUE_ADDRESS},
		{"destination.port", "destinationPorts", "notDestinationPorts", VALUE_PORT},
	};
	struct str key = ex_rd_text(t->r, d, "key");

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (str_eqc(key, keys[i].key)) {
			add_both(t, m, d, "values", "notValues", keys[i].is, keys[i].is_not,
				 keys[i].kind);
			return;
		}
	t->http = true;
}

/* --- rules --- */

struct rule {
	struct strbuf text; /* lines */
	bool impossible;    /* a clause that never holds */
};
enum clause { CLAUSE_EMPTY, CLAUSE_WRITTEN, CLAUSE_ALWAYS };

static enum clause put_match(const struct translation *t, struct rule *rule, enum clause before,
			     const struct match *m)
{
	if (m->text.n == 0 && m->lost)
		return CLAUSE_ALWAYS;
	if (m->text.n == 0 || (m->never && !t->deny))
		return before;
	strbuf_printf(&rule->text, "%s{%s}\n",
		      before == CLAUSE_WRITTEN ? "      - "
		      : rule->text.n != 0      ? "    - - "
					       : "  - - - ",
		      m->text.p);
	return CLAUSE_WRITTEN;
}

/* One clause of the elements from @first on; @all of them, or just one. */
static void put_clause(struct translation *t, struct rule *rule, const struct doc *first, bool all,
		       void (*read)(struct translation *, const struct doc *, struct match *))
{
	size_t began = rule->text.n;
	enum clause is = CLAUSE_EMPTY;

	for (const struct doc *c = first; c != NULL; c = all ? c->next : NULL) {
		struct match m = {0};

		read(t, c, &m);
		if (is != CLAUSE_ALWAYS)
			is = put_match(t, rule, is, &m);
		strbuf_fini(&m.text);
	}
	if (is == CLAUSE_ALWAYS)
		rule->text.n = began;
	rule->impossible |= is == CLAUSE_EMPTY;
}

static void put_rule(struct translation *t, const struct doc *d, struct strbuf *out)
{
	const struct doc *from = ex_rd_list(t->r, d, "from"), *to = ex_rd_list(t->r, d, "to");
	const struct doc *when = ex_rd_list(t->r, d, "when");
	struct rule rule = {0};

	t->http = false;
	if (to != NULL && to->count != 0)
		put_clause(t, &rule, to->child, true, read_operation);
	if (from != NULL && from->count != 0)
		put_clause(t, &rule, from->child, true, read_source);
	for (const struct doc *c = when != NULL ? when->child : NULL; c != NULL; c = c->next)
		put_clause(t, &rule, c, false, read_condition);
	if (t->http && !t->deny)
		note(t->note, "a rule with HTTP attributes is left out: ztunnel allows less than "
			      "the policy says");
	else if (t->http && rule.impossible)
		note(t->note, "a rule of HTTP attributes only has no effect: ztunnel does not see "
			      "HTTP");
	else if (t->http)
		note(t->note, "HTTP attributes are left out: ztunnel denies more than the policy "
			      "says");
	if (!rule.impossible && !(t->http && !t->deny)) {
		if (rule.text.n != 0)
			strbuf_add(out, rule.text.p, rule.text.n);
		else
			strbuf_puts(out, "  - []\n");
	}
	strbuf_fini(&rule.text);
}

static bool is_true(struct str s)
{
	static const char *const yes[] = {"1", "t", "T", "true", "True", "TRUE"};

	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		if (str_eqc(s, yes[i]))
			return true;
	return false;
}

static bool has_target(struct ex_reader *r, const struct doc *spec)
{
	const struct doc *l = ex_rd_list(r, spec, "targetRefs");

	return ex_rd_map(r, spec, "targetRef") != NULL || (l != NULL && l->count != 0);
}

static void read_selector(struct ex_reader *r, const struct doc *spec, struct ex_labels *ret,
			  bool *ret_there)
{
	const struct doc *s = ex_rd_map(r, spec, "selector");

	*ret_there = s != NULL;
	ex_rd_labels(r, ex_rd_map(r, s, "matchLabels"), ret);
}

/* Why ztunnel has nothing to do with it, or NULL. */
static const char *not_ours(struct ex_reader *r, const struct doc *d, const struct doc *spec,
			    struct str action)
{
	const struct doc *notes = ex_rd_map(r, ex_rd_map(r, d, "metadata"), "annotations");

	if (has_target(r, spec))
		return "left out: it has a targetRef, which is for a waypoint";
	if (is_true(ex_rd_text(r, notes, "istio.io/dry-run")))
		return "left out: it is a dry run";
	if (str_eqc(action, "AUDIT") || str_eqc(action, "CUSTOM"))
		return "left out: ztunnel knows the actions ALLOW and DENY only";
	return NULL;
}

static void deny_everything(struct ex_reader *r, struct ex_policy *p, struct strbuf *why)
{
	p->omitted = false;
	p->deny = true;
	free(p->rules);
	p->rules = xstrdup("  - []\n");
	note(why,
	     r->err != NULL && r->err->msg[0] != '\0' ? r->err->msg : "a field is not as expected");
	note(why, "it cannot be understood, so everything in its scope is denied");
	r->bad = false;
}

void ex_read_policy(struct ex_reader *r, const struct doc *d, struct ex_policy *p)
{
	const struct doc *spec = ex_rd_map(r, d, "spec");
	struct str action = ex_rd_text(r, spec, "action");
	_cleanup_strbuf_ struct strbuf rules = {0}, why = {0};
	struct translation t = {
		.r = r, .ns = p->o.ns, .deny = str_eqc(action, "DENY"), .note = &why};
	const struct doc *l = ex_rd_list(r, spec, "rules");
	const char *out = not_ours(r, d, spec, action);

	read_selector(r, spec, &p->selector, &p->selective);
	if (out != NULL)
		note(&why, out);
	else if (action.n != 0 && !t.deny && !str_eqc(action, "ALLOW"))
		ex_rd_bad(r, doc_get(spec, "action"), "expected ALLOW or DENY");
	for (const struct doc *c = l != NULL && out == NULL ? l->child : NULL; c != NULL;
	     c = c->next)
		put_rule(&t, c, &rules);
	p->omitted = out != NULL;
	p->deny = t.deny;
	p->rules = rules.n != 0 ? strbuf_take(&rules) : xstrdup("");
	if (r->bad)
		deny_everything(r, p, &why);
	ex_rd_mix(r, p->selective | p->deny << 1 | p->omitted << 2);
	ex_rd_mix(r, hash_str(str_of(p->rules)));
	if (why.n != 0)
		p->o.note = strbuf_take(&why);
}

/* --- PeerAuthentication --- */

static enum ex_mtls read_mode(struct ex_reader *r, const struct doc *map)
{
	static const char *const names[EX_MTLS_N] = {
		[EX_MTLS_UNSET] = "UNSET",
		[EX_MTLS_DISABLE] = "DISABLE",
		[EX_MTLS_PERMISSIVE] = "PERMISSIVE",
		[EX_MTLS_STRICT] = "STRICT",
	};
	struct str s = ex_rd_text(r, map, "mode");

	if (s.n == 0)
		return EX_MTLS_UNSET;
	for (int i = 0; i < EX_MTLS_N; i++)
		if (str_eqc(s, names[i]))
			return (enum ex_mtls)i;
	ex_rd_bad(r, doc_get(map, "mode"), "expected STRICT, PERMISSIVE, DISABLE or UNSET");
	return EX_MTLS_STRICT;
}

static int by_port(const void *a, const void *b)
{
	return ((const struct ex_port_mtls *)a)->port - ((const struct ex_port_mtls *)b)->port;
}

static void read_port_modes(struct ex_reader *r, const struct doc *map, struct ex_peer *p)
{
	p->port = map != NULL && map->count != 0 ? xcalloc(map->count, sizeof(*p->port)) : NULL;
	for (const struct doc *c = map != NULL ? map->child : NULL; c != NULL; c = c->next) {
		struct ex_port_mtls *m = &p->port[p->nports];

		if (c->kind != DOC_MAP || parse_u16(c->key, 1, UINT16_MAX, &m->port) != 0) {
			ex_rd_bad(r, c, "expected a port from 1 to 65535 and its mode");
			continue;
		}
		m->mode = read_mode(r, c);
		p->nports++;
	}
	if (p->nports > 1)
		qsort(p->port, p->nports, sizeof(*p->port), by_port);
}

void ex_read_peer(struct ex_reader *r, const struct doc *d, struct ex_peer *p)
{
	const struct doc *spec = ex_rd_map(r, d, "spec");
	bool there;

	p->created = ex_rd_keep(r, ex_rd_text(r, ex_rd_map(r, d, "metadata"), "creationTimestamp"));
	read_selector(r, spec, &p->selector, &there);
	p->mode = read_mode(r, ex_rd_map(r, spec, "mtls"));
	read_port_modes(r, ex_rd_map(r, spec, "portLevelMtls"), p);
	if (r->bad) {
		_cleanup_strbuf_ struct strbuf why = {0};

		note(&why, r->err != NULL && r->err->msg[0] != '\0' ? r->err->msg
								    : "a field is not as expected");
		note(&why, "it cannot be understood, so it counts as STRICT");
		p->o.note = strbuf_take(&why);
		p->mode = EX_MTLS_STRICT;
		p->nports = 0;
		r->bad = false;
	}
	ex_rd_mix(r, p->mode);
	for (size_t i = 0; i < p->nports; i++)
		ex_rd_mix(r, (uint64_t)p->port[i].port << 8 | p->port[i].mode);
}
