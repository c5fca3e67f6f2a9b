/* SPDX-License-Identifier: Apache-2.0
 * rules.c: the rule sets of the mesh, as tables to be read. Pure. docs/rules-in-pod.md explains
 * each row; cni-spec 5.2 and 6.2 are the source.
 */
#include "nft/model.h"

#include <errno.h>
#include <linux/netfilter.h>
#include <stdio.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "nft/nft.h"

#define PORT_OUTBOUND	   15001
#define PORT_INBOUND_PLAIN 15006
#define PORT_INBOUND_HBONE 15008
#define PORT_DNS_CAPTURE   15053
#define ZTUNNEL_MARK	   0x539

enum { PREROUTING, OUTPUT, MESH_PREROUTING, MESH_OUTPUT };

static const struct nft_chain_def nat_chains[] = {
	[PREROUTING] = {"prerouting", "nat", NF_INET_PRE_ROUTING, -100},
	[OUTPUT] = {"output", "nat", NF_INET_LOCAL_OUT, -100},
	[MESH_PREROUTING] = {.name = "istio-prerouting"},
	[MESH_OUTPUT] = {.name = "istio-output"},
};
/* type route: a packet whose mark the chain changed is routed again (cni-spec 5.4 row 11) */
static const struct nft_chain_def mangle_chains[] = {
	[PREROUTING] = {"prerouting", "filter", NF_INET_PRE_ROUTING, -150},
	[OUTPUT] = {"output", "route", NF_INET_LOCAL_OUT, -150},
	[MESH_PREROUTING] = {.name = "istio-prerouting"},
	[MESH_OUTPUT] = {.name = "istio-output"},
};
static const struct nft_chain_def raw_chains[] = {
	[PREROUTING] = {"prerouting", "filter", NF_INET_PRE_ROUTING, -300},
	[OUTPUT] = {"output", "filter", NF_INET_LOCAL_OUT, -300},
	[MESH_PREROUTING] = {.name = "istio-prerouting"},
	[MESH_OUTPUT] = {.name = "istio-output"},
};
const struct nft_table_def nft_pod_tables[NFT_TABLES_N] = {
	[NFT_T_NAT] = {"istio-ambient-nat", nat_chains, ARRAY_LEN(nat_chains)},
	[NFT_T_MANGLE] = {"istio-ambient-mangle", mangle_chains, ARRAY_LEN(mangle_chains)},
	[NFT_T_RAW] = {"istio-ambient-raw", raw_chains, ARRAY_LEN(raw_chains)},
};
static const struct nft_chain_def host_chains[] = {
	{"postrouting", "nat", NF_INET_POST_ROUTING, 100},
};
const struct nft_table_def nft_host_table = {"istio-ambient-nat", host_chains,
					     ARRAY_LEN(host_chains)};

/* One condition of a row. Those on an address stand for two rules, IPv4 and its IPv6 twin. */
enum cond {
	END,
	TCP,
	UDP,
	FROM_IFACE, /* came in on the interface at hand */
	TO_LO,	    /* leaves through lo */
	NOT_TO_LO,
	FROM_PROBE, /* source address of the kubelet's probes */
	TO_PROBE,
	TO_PROBED,   /* a pod in the probe set */
	NOT_TO_SELF, /* not the loopback address */
	NOT_TO_HBONE,
	TO_DNS,
	FROM_DNS,
	ZTUNNEL, /* carries ztunnel's mark */
	NOT_ZTUNNEL,
	REPLY,	    /* carries the reply mark */
	REPLY_CONN, /* of a connection with the reply mark */
	KUBELET,    /* from a socket of the kubelet's uid */
};
enum when { ALWAYS, CAPTURE_IN, DNS }; /* CAPTURE_IN: not in ingress mode */

struct row {
	uint8_t table, chain;
	enum when when;
	enum cond conds[NFT_MATCHES_MAX];
	enum nft_verdict_kind then;
	uint32_t v;
	const char *jump;
};

/* clang-format off */
static const struct row jump_rows[] = {
	{NFT_T_NAT,    PREROUTING, ALWAYS, {END}, .then = NFT_V_JUMP, .jump = "istio-prerouting"},
	{NFT_T_NAT,    OUTPUT,     ALWAYS, {END}, .then = NFT_V_JUMP, .jump = "istio-output"},
	{NFT_T_MANGLE, PREROUTING, ALWAYS, {END}, .then = NFT_V_JUMP, .jump = "istio-prerouting"},
	{NFT_T_MANGLE, OUTPUT,     ALWAYS, {END}, .then = NFT_V_JUMP, .jump = "istio-output"},
	{NFT_T_RAW,    PREROUTING, DNS,    {END}, .then = NFT_V_JUMP, .jump = "istio-prerouting"},
	{NFT_T_RAW,    OUTPUT,     DNS,    {END}, .then = NFT_V_JUMP, .jump = "istio-output"},
};
/* For each of nft_pod_opts.ifaces. The second cannot be reached; stock has it. */
static const struct row iface_rows[] = {
	{NFT_T_NAT, MESH_PREROUTING, ALWAYS, {FROM_IFACE, TCP}, .then = NFT_V_REDIRECT, .v = PORT_OUTBOUND},
	{NFT_T_NAT, MESH_PREROUTING, ALWAYS, {FROM_IFACE, TCP}, .then = NFT_V_RETURN},
};
static const struct row pod_rows[] = {
	{NFT_T_NAT, MESH_PREROUTING, CAPTURE_IN, {TCP, FROM_PROBE}, .then = NFT_V_ACCEPT},
	{NFT_T_NAT, MESH_PREROUTING, CAPTURE_IN, {NOT_TO_SELF, TCP, NOT_TO_HBONE, NOT_ZTUNNEL},
		.then = NFT_V_REDIRECT, .v = PORT_INBOUND_PLAIN},

	{NFT_T_NAT, MESH_OUTPUT, ALWAYS, {TCP, TO_PROBE}, .then = NFT_V_ACCEPT},
	{NFT_T_NAT, MESH_OUTPUT, DNS,    {NOT_TO_LO, NOT_ZTUNNEL, UDP, TO_DNS},
		.then = NFT_V_REDIRECT, .v = PORT_DNS_CAPTURE},
	{NFT_T_NAT, MESH_OUTPUT, DNS,    {NOT_TO_SELF, TCP, TO_DNS, NOT_ZTUNNEL},
		.then = NFT_V_REDIRECT, .v = PORT_DNS_CAPTURE},
	{NFT_T_NAT, MESH_OUTPUT, ALWAYS, {TCP, REPLY}, .then = NFT_V_ACCEPT},
	{NFT_T_NAT, MESH_OUTPUT, ALWAYS, {TO_LO, NOT_TO_SELF}, .then = NFT_V_ACCEPT},
	{NFT_T_NAT, MESH_OUTPUT, ALWAYS, {TCP, NOT_TO_SELF, NOT_ZTUNNEL},
		.then = NFT_V_REDIRECT, .v = PORT_OUTBOUND},

	{NFT_T_MANGLE, MESH_PREROUTING, ALWAYS, {ZTUNNEL}, .then = NFT_V_CTMARK_SET, .v = NFT_REPLY_MARK},
	{NFT_T_MANGLE, MESH_OUTPUT, ALWAYS, {REPLY_CONN}, .then = NFT_V_MARK_FROM_CT},

	{NFT_T_RAW, MESH_PREROUTING, DNS, {UDP, FROM_DNS, NOT_ZTUNNEL}, .then = NFT_V_CTZONE, .v = NFT_DNS_ZONE},
	{NFT_T_RAW, MESH_OUTPUT,     DNS, {UDP, TO_DNS, ZTUNNEL},       .then = NFT_V_CTZONE, .v = NFT_DNS_ZONE},
};
static const struct row host_rows[] = {
	{0, 0, ALWAYS, {TCP, KUBELET, TO_PROBED}, .then = NFT_V_SNAT},
};
/* clang-format on */

static const struct ip_addr default_probe_v4 = {4, {169, 254, 7, 127}};
static const struct ip_addr default_probe_v6 = {
	16,
	{0xfd, 0x16, 0x92, 0x54, 0x71, 0x27, 0x13, 0x37, 255, 255, 255, 255, 255, 255, 255, 255}};
static const struct ip_addr self_v4 = {4, {127, 0, 0, 1}};
static const struct ip_addr self_v6 = {16, {[15] = 1}};

/* What the conditions refer to. */
struct ctx {
	struct ip_addr probe, self; /* of the family at hand */
	const char *iface;
	uint32_t kubelet_uid;
};

static void copy_name(struct nft_match *m, const char *name)
{
	memcpy(m->name, name, strnlen(name, sizeof(m->name) - 1));
}

static struct nft_match match_of(enum cond c, const struct ctx *x)
{
	struct nft_match m = {0};

#define M(k, ...) (m = (struct nft_match){.kind = NFT_M_##k, __VA_ARGS__})
	switch (c) {
	case END:
		bug_on(c == END);
		break;
	case TCP:
		M(L4PROTO, .v = NFT_TCP);
		break;
	case UDP:
		M(L4PROTO, .v = NFT_UDP);
		break;
	case FROM_IFACE:
		M(IIFNAME);
		copy_name(&m, x->iface);
		break;
	case TO_LO:
		M(OIFNAME, .name = "lo");
		break;
	case NOT_TO_LO:
		M(OIFNAME, .name = "lo", .differs = true);
		break;
	case FROM_PROBE:
		M(SADDR, .ip = x->probe);
		break;
	case TO_PROBE:
		M(DADDR, .ip = x->probe);
		break;
	case TO_PROBED:
		M(DADDR_SET, .ip.len = x->probe.len);
		(void)snprintf(m.name, sizeof(m.name), "%s",
			       x->probe.len == 4 ? NFT_SET_V4 : NFT_SET_V6);
		break;
	case NOT_TO_SELF:
		M(DADDR, .ip = x->self, .differs = true);
		break;
	case NOT_TO_HBONE:
		M(DPORT, .v = PORT_INBOUND_HBONE, .differs = true);
		break;
	case TO_DNS:
		M(DPORT, .v = 53);
		break;
	case FROM_DNS:
		M(SPORT, .v = 53);
		break;
	case ZTUNNEL:
		M(MARK, .v = ZTUNNEL_MARK);
		break;
	case NOT_ZTUNNEL:
		M(MARK, .v = ZTUNNEL_MARK, .differs = true);
		break;
	case REPLY:
		M(MARK, .v = NFT_REPLY_MARK);
		break;
	case REPLY_CONN:
		M(CTMARK, .v = NFT_REPLY_MARK);
		break;
	case KUBELET:
		M(SKUID, .v = x->kubelet_uid);
		break;
	}
#undef M
	return m;
}

static bool has_address(const struct row *w)
{
	for (size_t i = 0; i < NFT_MATCHES_MAX; i++) {
		enum cond c = w->conds[i];

		if (c == FROM_PROBE || c == TO_PROBE || c == TO_PROBED || c == NOT_TO_SELF)
			return true;
	}
	return false;
}

static void add_rule(struct nft_ruleset *rs, const struct row *w, const struct ctx *x)
{
	struct nft_rule *r = &rs->rules[rs->nrules];

	bug_on(rs->nrules >= NFT_RULES_MAX);
	rs->nrules++;
	*r = (struct nft_rule){
		.table = w->table,
		.chain = w->chain,
		.verdict = w->then,
		.v = w->v,
		.jump = w->jump,
	};
	if (w->then == NFT_V_SNAT)
		r->ip = x->probe;
	for (size_t i = 0; i < NFT_MATCHES_MAX && w->conds[i] != END; i++)
		r->match[r->nmatches++] = match_of(w->conds[i], x);
}

/* The rule of a row, and its twin right after it. */
static void add_row(struct nft_ruleset *rs, const struct row *w, const struct nft_pod_opts *o,
		    bool ipv6, struct ctx x)
{
	if (w->when == DNS && !o->dns_capture)
		return;
	if (w->when == CAPTURE_IN && o->ingress_mode)
		return;
	x.probe = o->probe_v4.len == 4 ? o->probe_v4 : default_probe_v4;
	x.self = self_v4;
	add_rule(rs, w, &x);
	if (!ipv6 || !has_address(w))
		return;
	x.probe = o->probe_v6.len == 16 ? o->probe_v6 : default_probe_v6;
	x.self = self_v6;
	add_rule(rs, w, &x);
}

static void ruleset_start(struct nft_ruleset *rs, const struct nft_table_def *tables, size_t n)
{
	rs->tables = tables;
	rs->ntables = n;
	rs->nrules = 0;
}

void nft_pod_rules(const struct nft_pod_opts *o, bool ipv6, struct nft_ruleset *rs)
{
	ruleset_start(rs, nft_pod_tables, o->dns_capture ? NFT_TABLES_N : NFT_TABLES_N - 1);
	for (size_t i = 0; i < ARRAY_LEN(jump_rows); i++)
		add_row(rs, &jump_rows[i], o, ipv6, (struct ctx){0});
	for (size_t n = 0; n < o->nifaces && n < NFT_IFACES_MAX; n++)
		for (size_t i = 0; i < ARRAY_LEN(iface_rows); i++)
			add_row(rs, &iface_rows[i], o, ipv6, (struct ctx){.iface = o->ifaces[n]});
	for (size_t i = 0; i < ARRAY_LEN(pod_rows); i++)
		add_row(rs, &pod_rows[i], o, ipv6, (struct ctx){0});
}

void nft_host_rules(uint32_t kubelet_uid, const struct nft_pod_opts *o, bool ipv6,
		    struct nft_ruleset *rs)
{
	ruleset_start(rs, &nft_host_table, 1);
	for (size_t i = 0; i < ARRAY_LEN(host_rows); i++)
		add_row(rs, &host_rows[i], o, ipv6, (struct ctx){.kubelet_uid = kubelet_uid});
}

static int check_iface(struct str name, struct err *err)
{
	if (name.n >= NFT_IFNAME_MAX)
		return err_set(err, EINVAL, "interface name '%s' is longer than %d bytes",
			       str_shown(name), NFT_IFNAME_MAX - 1);
	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];

		/* ':' is an alias separator and never part of a device's name */
		if (c <= ' ' || c == '/' || c == ':' || c == 0x7f)
			return err_set(err, EINVAL,
				       "interface name '%s' has a character that no device name "
				       "may have",
				       str_shown(name));
	}
	if (str_eq(name, STR(".")) || str_eq(name, STR("..")))
		return err_set(err, EINVAL, "'%s' is not an interface name", str_shown(name));
	return 0;
}

int nft_parse_ifaces(struct str list, struct nft_pod_opts *o, struct err *err)
{
	char names[NFT_IFACES_MAX][NFT_IFNAME_MAX] = {0};
	size_t n = 0;

	for (bool more = true; more;) {
		struct str name;

		more = str_cut(&list, ',', &name);
		if (!more)
			name = list;
		name = str_trim(name);
		if (name.n == 0)
			continue;
		if (check_iface(name, err) < 0)
			return -EINVAL;
		if (n == NFT_IFACES_MAX)
			return err_set(err, EINVAL, "more than %d interfaces; '%s' is too many",
				       NFT_IFACES_MAX, str_shown(name));
		memcpy(names[n++], name.p, name.n);
	}
	memcpy(o->ifaces, names, sizeof(names));
	o->nifaces = n;
	return 0;
}
