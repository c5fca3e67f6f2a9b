/* SPDX-License-Identifier: Apache-2.0
 * route.c: see route.h. Every request and its answer go through ask(): libnl's own calls turn the
 * kernel's error into a coarser one and drop its text.
 */
#include "nft/route.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/ipv6.h>
#include <linux/rtnetlink.h>
#include <netlink/cache.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
#include <netlink/route/rule.h>

#include "lib/base/err.h"
#include "nft/extack.h"
#include "nft/model.h"
#include "nft/ns.h"

#define LO_IFINDEX 1 /* in every network namespace */
#define DEL_ROUNDS 8 /* the same route with other metrics, added by somebody else */

static const uint8_t family_of[2] = {AF_INET, AF_INET6};

const char *const nft_route_text[2][NFT_ROUTE_KIND_N] = {
	{[NFT_ROUTE] = "ip route (IPv4): local default dev lo table 100",
	 [NFT_POLICY] = "ip rule (IPv4): fwmark 0x111/0xfff lookup 100 priority 32764"},
	{[NFT_ROUTE] = "ip route (IPv6): local default dev lo table 100",
	 [NFT_POLICY] = "ip rule (IPv6): fwmark 0x111/0xfff lookup 100 priority 32764"},
};

static void free_cb(struct nl_cb **cb)
{
	nl_cb_put(*cb);
}
static void free_msg(struct nl_msg **m)
{
	nlmsg_free(*m);
}
static void free_cache(struct nl_cache **c)
{
	if (*c != NULL)
		nl_cache_free(*c);
}
static void put_rule(struct rtnl_rule **r)
{
	rtnl_rule_put(*r);
}
static void put_route(struct rtnl_route **r)
{
	rtnl_route_put(*r);
}
static void put_addr(struct nl_addr **a)
{
	nl_addr_put(*a);
}

struct answer {
	bool done;
	int code; /* positive errno */
	char text[128];
};

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *arg)
{
	struct answer *a = arg;
	const char *text = nft_extack_text(
		(const struct nlmsghdr *)(const void *)((const char *)e - NLMSG_HDRLEN));

	(void)from;
	a->done = true;
	a->code = -e->error;
	if (text != NULL)
		(void)strncpy(a->text, text, sizeof(a->text) - 1);
	return NL_STOP;
}

/* An acknowledgement, or the end of a dump. */
static int on_end(struct nl_msg *m, void *arg)
{
	struct answer *a = arg;

	(void)m;
	a->done = true;
	return NL_STOP;
}

/* libnl counts a request that could not be sent and then takes the next answer for a wrong one.
 * Here every answer is compared with the request at hand; the rest of an older one is skipped. */
static int on_seq(struct nl_msg *m, void *arg)
{
	const uint32_t *seq = arg;

	return nlmsg_hdr(m)->nlmsg_seq == *seq ? NL_OK : NL_SKIP;
}

int nft_nl_errno(int nle)
{
	switch (-nle) {
	case NLE_NOMEM: /* libnl folds ENOBUFS into it */
		return -ENOMEM;
	case NLE_PERM:
		return -EPERM;
	case NLE_AGAIN: /* our time limit on the socket */
		return -ETIMEDOUT;
	case NLE_DUMP_INTR:
		return -EINTR;
	case NLE_AF_NOSUPPORT:
		return -EAFNOSUPPORT;
	default:
		return -EIO;
	}
}

/* Sends @m, waits for the end of the answer; valid messages of it go to @valid. Returns 0 or a
 * positive errno in a->code as negative. */
static int ask(const struct nft_ns *ns, struct nl_msg *m, nl_recvmsg_msg_cb_t valid, void *ctx,
	       struct answer *a)
{
	_cleanup_(free_cb) struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
	uint32_t seq;
	int r;

	*a = (struct answer){0};
	if (cb == NULL) {
		a->code = ENOMEM;
		return -ENOMEM;
	}
	(void)nl_cb_err(cb, NL_CB_CUSTOM, on_error, a);
	(void)nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_end, a);
	(void)nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_end, a);
	if (valid != NULL)
		(void)nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, valid, ctx);
	nl_complete_msg(ns->rt, m);
	seq = nlmsg_hdr(m)->nlmsg_seq;
	(void)nl_cb_set(cb, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, on_seq, &seq);
	r = nl_send(ns->rt, m);
	while (r >= 0 && !a->done)
		r = nl_recvmsgs(ns->rt, cb);
	if (r < 0 && a->code == 0)
		a->code = -nft_nl_errno(r);
	return -a->code;
}

static int fail(struct err *err, const struct answer *a, const char *doing, const char *what)
{
	return nft_kernel_error(err, a->code, a->text, NULL, "%s %s", doing, what);
}

/* IPv6 switches */

struct ipv6_switches {
	bool any, lo;
};

/* IFLA_AF_SPEC of a link holds each family's settings as an array of 32-bit values. */
static int on_link(struct nl_msg *m, void *arg)
{
	struct ipv6_switches *s = arg;
	struct nlattr *tb[IFLA_MAX + 1], *inet6, *conf;
	const struct ifinfomsg *ifi = nlmsg_data(nlmsg_hdr(m));
	int32_t disabled;

	if (nlmsg_parse(nlmsg_hdr(m), sizeof(*ifi), tb, IFLA_MAX, NULL) < 0 ||
	    tb[IFLA_AF_SPEC] == NULL)
		return NL_OK;
	inet6 = nla_find(nla_data(tb[IFLA_AF_SPEC]), nla_len(tb[IFLA_AF_SPEC]), AF_INET6);
	if (inet6 == NULL)
		return NL_OK;
	conf = nla_find(nla_data(inet6), nla_len(inet6), IFLA_INET6_CONF);
	if (conf == NULL || nla_len(conf) < (DEVCONF_DISABLE_IPV6 + 1) * (int)sizeof(disabled))
		return NL_OK;
	memcpy(&disabled, (const char *)nla_data(conf) + DEVCONF_DISABLE_IPV6 * sizeof(disabled),
	       sizeof(disabled));
	if (disabled == 0) {
		s->any = true;
		s->lo |= ifi->ifi_index == LO_IFINDEX;
	}
	return NL_OK;
}

int nft_ipv6_read(const struct nft_ns *ns, bool *ret_any, bool *ret_lo, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};

	for (int i = 0; i < DEL_ROUNDS; i++) {
		_cleanup_(free_msg) struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, NLM_F_DUMP);
		struct ipv6_switches s = {0};
		struct answer a;

		if (m == NULL || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0)
			return err_set(err, ENOMEM, "list interfaces: out of memory");
		if (ask(ns, m, on_link, &s, &a) == -EINTR)
			continue;
		if (a.code != 0)
			return fail(err, &a, "list", "interfaces");
		*ret_any = s.any;
		*ret_lo = s.lo;
		return 0;
	}
	return err_set(err, EAGAIN, "list interfaces: they keep changing");
}

/* Reading */

static int family_index(int family)
{
	return family == AF_INET ? 0 : family == AF_INET6 ? 1 : -1;
}

static void look_at_rule(struct nl_object *o, void *arg)
{
	struct rtnl_rule *r = (struct rtnl_rule *)o;
	struct nft_routes *s = arg;
	int f = family_index(rtnl_rule_get_family(r));

	if (f >= 0 && rtnl_rule_get_mark(r) == NFT_REPLY_MARK &&
	    rtnl_rule_get_mask(r) == NFT_MARK_MASK && rtnl_rule_get_table(r) == NFT_REPLY_TABLE &&
	    rtnl_rule_get_prio(r) == NFT_REPLY_PRIORITY && rtnl_rule_get_action(r) == FR_ACT_TO_TBL)
		s->there[f][NFT_POLICY] = true;
}

static void look_at_route(struct nl_object *o, void *arg)
{
	struct rtnl_route *r = (struct rtnl_route *)o;
	struct nft_routes *s = arg;
	int f = family_index(rtnl_route_get_family(r));
	struct nl_addr *dst = rtnl_route_get_dst(r);

	if (f >= 0 && rtnl_route_get_table(r) == NFT_REPLY_TABLE &&
	    rtnl_route_get_type(r) == RTN_LOCAL && rtnl_route_get_tos(r) == 0 &&
	    (dst == NULL || nl_addr_get_prefixlen(dst) == 0) && rtnl_route_get_nnexthops(r) == 1 &&
	    rtnl_route_nh_get_ifindex(rtnl_route_nexthop_n(r, 0)) == LO_IFINDEX)
		s->there[f][NFT_ROUTE] = true;
}

int nft_routes_read(const struct nft_ns *ns, struct nft_routes *ret, struct err *err)
{
	_cleanup_(free_cache) struct nl_cache *rules = NULL;
	_cleanup_(free_cache) struct nl_cache *routes = NULL;
	struct nft_routes s = {0};
	int r;

	/* libnl restarts a dump that changed under it */
	r = rtnl_rule_alloc_cache(ns->rt, AF_UNSPEC, &rules);
	if (r < 0)
		return err_errno(err, -nft_nl_errno(r), "list policy rules");
	r = rtnl_route_alloc_cache(ns->rt, AF_UNSPEC, 0, &routes);
	if (r < 0)
		return err_errno(err, -nft_nl_errno(r), "list routes");
	nl_cache_foreach(rules, look_at_rule, &s);
	nl_cache_foreach(routes, look_at_route, &s);
	*ret = s;
	return 0;
}

struct nft_routes nft_routes_wanted(const struct nft_ns *ns)
{
	return (struct nft_routes){.there = {{true, true}, {ns->ipv6_lo, ns->ipv6}}};
}

/* Changing */

static int build_policy(int f, bool add, struct nl_msg **ret)
{
	_cleanup_(put_rule) struct rtnl_rule *r = rtnl_rule_alloc();

	if (r == NULL)
		return -NLE_NOMEM;
	rtnl_rule_set_family(r, family_of[f]);
	rtnl_rule_set_mark(r, NFT_REPLY_MARK);
	rtnl_rule_set_mask(r, NFT_MARK_MASK);
	rtnl_rule_set_table(r, NFT_REPLY_TABLE);
	rtnl_rule_set_prio(r, NFT_REPLY_PRIORITY);
	rtnl_rule_set_action(r, FR_ACT_TO_TBL);
	return add ? rtnl_rule_build_add_request(r, NLM_F_CREATE | NLM_F_EXCL, ret)
		   : rtnl_rule_build_delete_request(r, 0, ret);
}

static int build_route(int f, bool add, struct nl_msg **ret)
{
	_cleanup_(put_route) struct rtnl_route *r = rtnl_route_alloc();
	_cleanup_(put_addr) struct nl_addr *any = nl_addr_build(family_of[f], NULL, 0);
	struct rtnl_nexthop *lo = rtnl_route_nh_alloc();

	if (r == NULL || any == NULL || lo == NULL || rtnl_route_set_family(r, family_of[f]) < 0) {
		rtnl_route_nh_free(lo);
		return -NLE_NOMEM;
	}
	rtnl_route_nh_set_ifindex(lo, LO_IFINDEX);
	rtnl_route_add_nexthop(r, lo); /* owned by the route from here on */
	rtnl_route_set_table(r, NFT_REPLY_TABLE);
	rtnl_route_set_scope(r, f == 0 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE);
	rtnl_route_set_protocol(r, RTPROT_BOOT); /* as ip(8) and the stock agent have it */
	if (rtnl_route_set_type(r, RTN_LOCAL) < 0 || rtnl_route_set_dst(r, any) < 0)
		return -NLE_INVAL;
	/* Another default route in our table number would eat the replies: it is replaced, as the
	 * stock agent does. */
	return add ? rtnl_route_build_add_request(r, NLM_F_CREATE | NLM_F_REPLACE, ret)
		   : rtnl_route_build_del_request(r, 0, ret);
}

static int change(const struct nft_ns *ns, int f, enum nft_route_kind k, bool add, struct answer *a)
{
	_cleanup_(free_msg) struct nl_msg *m = NULL;
	int r = k == NFT_POLICY ? build_policy(f, add, &m) : build_route(f, add, &m);

	if (r < 0) {
		*a = (struct answer){.code = -nft_nl_errno(r)};
		return -a->code;
	}
	return ask(ns, m, NULL, NULL, a);
}

/* Runtimes run the loopback plugin beside the chain, not before it: lo may still be down, and the
 * kernel takes no route through it then. Bringing it up is what that plugin is about to do. */
static int bring_lo_up(const struct nft_ns *ns, struct answer *a)
{
	_cleanup_(free_msg) struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWLINK, 0);
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC,
				.ifi_index = LO_IFINDEX,
				.ifi_flags = IFF_UP,
				.ifi_change = IFF_UP};

	if (m == NULL || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		*a = (struct answer){.code = ENOMEM};
		return -ENOMEM;
	}
	return ask(ns, m, NULL, NULL, a);
}

static int add_one(const struct nft_ns *ns, int f, enum nft_route_kind k, struct answer *a)
{
	int r = change(ns, f, k, true, a);

	if (r == -ENETDOWN && bring_lo_up(ns, a) == 0)
		r = change(ns, f, k, true, a);
	return r;
}

int nft_routes_add(const struct nft_ns *ns, struct nft_routes *ret_added, struct err *err)
{
	const struct nft_routes want = nft_routes_wanted(ns);
	struct nft_routes have;
	struct answer a;
	int r;

	*ret_added = (struct nft_routes){0};
	r = nft_routes_read(ns, &have, err);
	if (r < 0)
		return r;
	for (int f = 0; f < 2; f++)
		for (enum nft_route_kind k = 0; k < NFT_ROUTE_KIND_N; k++) {
			if (!want.there[f][k] || have.there[f][k])
				continue;
			r = add_one(ns, f, k, &a);
			if (r == -EEXIST) /* somebody was faster, with the same */
				continue;
			if (r < 0)
				return fail(err, &a, "add", nft_route_text[f][k]);
			ret_added->there[f][k] = true;
		}
	return 0;
}

static bool nothing_in(const struct nft_routes *s)
{
	static const struct nft_routes none;

	return memcmp(s, &none, sizeof(none)) == 0;
}

/* Gone: no such rule (ENOENT), no such route (ESRCH), no such family (EAFNOSUPPORT). */
static int del_once(const struct nft_ns *ns, const struct nft_routes *which, struct err *err)
{
	struct answer a;

	for (int f = 1; f >= 0; f--)
		for (int k = NFT_ROUTE_KIND_N - 1; k >= 0; k--) {
			int r = 0;

			if (which->there[f][k])
				r = change(ns, f, (enum nft_route_kind)k, false, &a);
			if (r < 0 && r != -ENOENT && r != -ESRCH && r != -EAFNOSUPPORT)
				return fail(err, &a, "delete", nft_route_text[f][k]);
		}
	return 0;
}

int nft_routes_del(const struct nft_ns *ns, const struct nft_routes *which, struct err *err)
{
	struct nft_routes left = *which;

	for (int i = 0; i < DEL_ROUNDS && !nothing_in(&left); i++) {
		struct nft_routes have;
		int r = del_once(ns, &left, err);

		if (r == 0)
			r = nft_routes_read(ns, &have, err);
		if (r < 0)
			return r;
		for (int f = 0; f < 2; f++)
			for (int k = 0; k < NFT_ROUTE_KIND_N; k++)
				left.there[f][k] &= have.there[f][k];
	}
	if (!nothing_in(&left))
		return err_set(err, EBUSY,
			       "policy rules and routes of table %d come back after each delete; "
			       "who else programs them?",
			       NFT_REPLY_TABLE);
	return 0;
}
