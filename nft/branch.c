/* SPDX-License-Identifier: Apache-2.0
 * branch.c: see branch.h.
 */
#include "nft/branch.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"

#define RECV_MAX   32768
#define LIST_MAX   65536 /* far more than a node has pods */
#define DUMP_TRIES 8

/* --- the decision --- */

static bool is_kernels_own(uint32_t table)
{
	return table == 0 || table == RT_TABLE_MAIN || table == RT_TABLE_LOCAL;
}

bool nft_branch_pick(const struct nft_branch_rule *rules, size_t nrules,
		     const struct nft_branch_route *routes, size_t nroutes,
		     const struct ip_addr *ip, struct nft_branch *ret)
{
	for (size_t i = 0; i < nrules; i++) {
		const struct nft_branch_rule *r = &rules[i];

		if (r->dev == 0 || is_kernels_own(r->table))
			continue;
		for (size_t k = 0; k < nroutes; k++) {
			if (routes[k].table != r->table || routes[k].dev != r->dev ||
			    !ip_eq(&routes[k].to, ip))
				continue;
			*ret = (struct nft_branch){.table = r->table,
						   .priority =
							   r->priority != 0 ? r->priority - 1 : 0};
			memcpy(ret->iif, r->iif, sizeof(ret->iif));
			return true;
		}
	}
	return false;
}

/* --- the kernel's lists --- */

struct lists {
	uint8_t family;
	struct nft_branch_rule *rules;
	struct nft_branch_route *routes;
	size_t nrules, nroutes;
};

static void lists_fini(struct lists *l)
{
	free(l->rules);
	free(l->routes);
}

static void copy_name(char to[NFT_IFNAME_MAX], const struct nlattr *a)
{
	size_t n = strnlen(mnl_attr_get_payload(a), mnl_attr_get_payload_len(a));

	memset(to, 0, NFT_IFNAME_MAX);
	memcpy(to, mnl_attr_get_payload(a), n < NFT_IFNAME_MAX - 1 ? n : NFT_IFNAME_MAX - 1);
}

/* mnl_attr_for_each() without its narrowing of a length. */
static const struct nlattr *first(const struct nlmsghdr *nlh, unsigned int header)
{
	return mnl_nlmsg_get_payload_offset(nlh, header);
}

static bool within(const struct nlmsghdr *nlh, const struct nlattr *a)
{
	const char *end = mnl_nlmsg_get_payload_tail(nlh);

	return mnl_attr_ok(a, (int)(end - (const char *)a));
}

static int on_rule(const struct nlmsghdr *nlh, void *ctx)
{
	const struct fib_rule_hdr *h = mnl_nlmsg_get_payload(nlh);
	struct nft_branch_rule r = {.table = h->table};
	const struct nlattr *a;
	struct lists *l = ctx;

	if (h->family != l->family || h->action != FR_ACT_TO_TBL || l->nrules == LIST_MAX)
		return MNL_CB_OK;
	for (a = first(nlh, sizeof(*h)); within(nlh, a); a = mnl_attr_next(a)) {
		size_t n = mnl_attr_get_payload_len(a);

		if (mnl_attr_get_type(a) == FRA_IIFNAME)
			copy_name(r.iif, a);
		else if (mnl_attr_get_type(a) == FRA_TABLE && n == sizeof(uint32_t))
			r.table = mnl_attr_get_u32(a);
		else if (mnl_attr_get_type(a) == FRA_PRIORITY && n == sizeof(uint32_t))
			r.priority = mnl_attr_get_u32(a);
	}
	l->rules = xrealloc_array(l->rules, l->nrules + 1, sizeof(r));
	l->rules[l->nrules++] = r;
	return MNL_CB_OK;
}

static int on_route(const struct nlmsghdr *nlh, void *ctx)
{
	const struct rtmsg *h = mnl_nlmsg_get_payload(nlh);
	struct nft_branch_route r = {.table = h->rtm_table};
	size_t len = h->rtm_family == AF_INET ? 4 : 16;
	const struct nlattr *a;
	struct lists *l = ctx;

	if (h->rtm_family != l->family || h->rtm_type != RTN_UNICAST || h->rtm_dst_len != len * 8 ||
	    l->nroutes == LIST_MAX)
		return MNL_CB_OK;
	for (a = first(nlh, sizeof(*h)); within(nlh, a); a = mnl_attr_next(a)) {
		size_t n = mnl_attr_get_payload_len(a);

		if (mnl_attr_get_type(a) == RTA_DST && n == len) {
			r.to.len = (uint8_t)len;
			memcpy(r.to.b, mnl_attr_get_payload(a), len);
		} else if (mnl_attr_get_type(a) == RTA_TABLE && n == sizeof(uint32_t)) {
			r.table = mnl_attr_get_u32(a);
		} else if (mnl_attr_get_type(a) == RTA_OIF && n == sizeof(uint32_t)) {
			r.dev = mnl_attr_get_u32(a);
		}
	}
	if (r.to.len == 0 || r.dev == 0 || is_kernels_own(r.table))
		return MNL_CB_OK;
	l->routes = xrealloc_array(l->routes, l->nroutes + 1, sizeof(r));
	l->routes[l->nroutes++] = r;
	return MNL_CB_OK;
}

static int open_socket(void *ctx, struct err *err)
{
	static const struct timeval limit = {.tv_sec = 5};
	struct mnl_socket **ret = ctx, *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

	if (s == NULL || mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) < 0) {
		int e = errno;

		if (s != NULL)
			(void)mnl_socket_close(s);
		return err_errno(err, e, "open route netlink socket");
	}
	(void)setsockopt(mnl_socket_get_fd(s), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	*ret = s;
	return 0;
}

static void close_socket(struct mnl_socket **s)
{
	if (*s != NULL)
		(void)mnl_socket_close(*s);
}

/* Sends @nlh and reads all of its answer. 0 or -errno, of the kernel's too. */
static int ask(struct mnl_socket *s, struct nlmsghdr *nlh, mnl_cb_t fn, void *ctx)
{
	_cleanup_free_ char *buf = xmalloc(RECV_MAX);
	unsigned int port = mnl_socket_get_portid(s);
	int r = MNL_CB_OK;

	nlh->nlmsg_seq = 1;
	if (mnl_socket_sendto(s, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (r == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(s, buf, RECV_MAX);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		r = mnl_cb_run(buf, (size_t)n, 1, port, fn, ctx);
		if (r < 0)
			return -errno;
	}
	return 0;
}

static int dump(struct mnl_socket *s, uint16_t type, struct lists *l, mnl_cb_t fn)
{
	char buf[MNL_NLMSG_HDRLEN + 64] = {0};
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct rtmsg *h =
		mnl_nlmsg_put_extra_header(nlh, sizeof(*h)); /* fib_rule_hdr is the same */

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	h->rtm_family = l->family;
	return ask(s, nlh, fn, l);
}

static int number_rules(void *ctx, struct err *err)
{
	struct lists *l = ctx;

	(void)err;
	for (size_t i = 0; i < l->nrules; i++)
		if (l->rules[i].iif[0] != '\0')
			l->rules[i].dev = if_nametoindex(l->rules[i].iif);
	return 0;
}

/* A list that changed while it was read is read again. */
static int read_lists(int netns_fd, struct mnl_socket *s, uint8_t family, struct lists *l,
		      struct err *err)
{
	int r = -EINTR;

	for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
		lists_fini(l);
		*l = (struct lists){.family = family};
		r = dump(s, RTM_GETRULE, l, on_rule);
		if (r == 0)
			r = dump(s, RTM_GETROUTE, l, on_route);
	}
	if (r < 0)
		return err_errno(err, -r, "list policy rules and routes");
	return netns_call(netns_fd, number_rules, l, err);
}

/* --- the two rules --- */

static int change(struct mnl_socket *s, bool add, const struct ip_addr *to, const char *iif,
		  uint32_t table, uint32_t priority)
{
	char buf[MNL_NLMSG_HDRLEN + 256] = {0};
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct fib_rule_hdr *h = mnl_nlmsg_put_extra_header(nlh, sizeof(*h));

	nlh->nlmsg_type = add ? RTM_NEWRULE : RTM_DELRULE;
	nlh->nlmsg_flags =
		(uint16_t)(NLM_F_REQUEST | NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0));
	h->family = to->len == 4 ? AF_INET : AF_INET6;
	h->action = FR_ACT_TO_TBL;
	h->table = table < 256 ? (uint8_t)table : RT_TABLE_UNSPEC;
	mnl_attr_put_u32(nlh, FRA_TABLE, table);
	mnl_attr_put_u32(nlh, FRA_PRIORITY, priority);
	if (iif != NULL) {
		mnl_attr_put_strz(nlh, FRA_IIFNAME, iif);
	} else {
		h->dst_len = (uint8_t)(to->len * 8);
		mnl_attr_put(nlh, FRA_DST, to->len, to->b);
	}
	return ask(s, nlh, NULL, NULL);
}

static int change_in(struct mnl_socket *s, bool add, const struct ip_addr *ip,
		     const struct nft_branch *b)
{
	return change(s, add, ip, NULL, b->table, NFT_BRANCH_PRIORITY);
}

static int change_out(struct mnl_socket *s, bool add, const struct ip_addr *ip,
		      const struct nft_branch *b)
{
	return change(s, add, ip, b->iif, RT_TABLE_LOCAL, b->priority);
}

static int find(int netns_fd, struct mnl_socket *s, const struct ip_addr *ip,
		struct nft_branch *ret, struct err *err)
{
	_cleanup_(lists_fini) struct lists l = {0};
	int r = read_lists(netns_fd, s, ip->len == 4 ? AF_INET : AF_INET6, &l, err);

	*ret = (struct nft_branch){0};
	if (r == 0)
		(void)nft_branch_pick(l.rules, l.nrules, l.routes, l.nroutes, ip, ret);
	return r;
}

int nft_branch_find(int netns_fd, const struct ip_addr *ip, struct nft_branch *ret, struct err *err)
{
	_cleanup_(close_socket) struct mnl_socket *s = NULL;
	int r = netns_call(netns_fd, open_socket, &s, err);

	return r < 0 ? r : find(netns_fd, s, ip, ret, err);
}

int nft_branch_add(int netns_fd, const struct ip_addr *ip, struct nft_branch *ret, struct err *err)
{
	_cleanup_(close_socket) struct mnl_socket *s = NULL;
	struct nft_branch b = {0};
	int r = netns_call(netns_fd, open_socket, &s, err);
	bool there;

	*ret = b;
	if (r == 0)
		r = find(netns_fd, s, ip, &b, err);
	if (r < 0 || b.table == 0)
		return r;
	r = change_in(s, true, ip, &b);
	there = r == -EEXIST;
	if (r < 0 && !there)
		return err_errno(err, -r, "add the policy rule to a pod's branch interface");
	r = change_out(s, true, ip, &b);
	if (r < 0 && r != -EEXIST) {
		if (!there)
			(void)change_in(s, false, ip, &b); /* both or none */
		return err_errno(err, -r, "add the policy rule from a pod's branch interface");
	}
	*ret = b;
	return 0;
}

int nft_branch_del(int netns_fd, const struct ip_addr *ip, const struct nft_branch *b,
		   struct err *err)
{
	_cleanup_(close_socket) struct mnl_socket *s = NULL;
	int r = netns_call(netns_fd, open_socket, &s, err), in, out;

	if (r < 0)
		return r;
	out = change_out(s, false, ip, b);
	in = change_in(s, false, ip, b);
	r = out < 0 && out != -ENOENT ? out : in < 0 && in != -ENOENT ? in : 0;
	return r < 0 ? err_errno(err, -r, "remove policy rules of a pod's branch interface") : 0;
}

static int read_demux(void *ctx, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	bool *off = ctx;
	size_t n;
	int r = file_read("/proc/sys/net/ipv4/tcp_early_demux", 64, &text, &n, err);

	*off = r == 0 && n != 0 && text[0] == '0';
	return r;
}

bool nft_branch_needed(int netns_fd)
{
	bool off = false;

	return netns_call(netns_fd, read_demux, &off, NULL) == 0 && off;
}
