/* SPDX-License-Identifier: Apache-2.0
 * kernel.c: what the kernel can do, found by doing it in a network namespace of its own; see
 * check.h.
 *
 * The namespace exists while the sockets into it are open. Messages are written by hand: the
 * libraries for them belong to the agent, and a dozen expressions do not need one. Numbers and
 * their order of bytes: linux/netfilter/nf_tables.h, netlink(7).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "ctl/check.h"
#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"

#define MESSAGE_MAX 8192
#define ANSWER_S    2

/* Messages one after the other; attributes go to the last one. */
struct writer {
	union {
		struct nlmsghdr align;
		char p[MESSAGE_MAX];
	} buf;
	size_t n, at; /* used; where the last message begins */
	uint32_t seq;
	const char *table; /* each trial has its own */
};

static void *room(struct writer *w, size_t n)
{
	void *p = w->buf.p + w->n;

	bug_on(w->n + NLMSG_ALIGN(n) > sizeof(w->buf.p));
	memset(p, 0, NLMSG_ALIGN(n));
	w->n += NLMSG_ALIGN(n);
	return p;
}

static void begin(struct writer *w, uint16_t type, uint16_t flags, const void *head, size_t n)
{
	struct nlmsghdr *h;

	w->at = w->n;
	h = room(w, sizeof(*h));
	*h = (struct nlmsghdr){.nlmsg_type = type,
			       .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
			       .nlmsg_seq = ++w->seq};
	memcpy(room(w, n), head, n);
}

static void end(struct writer *w)
{
	((struct nlmsghdr *)(void *)(w->buf.p + w->at))->nlmsg_len = (uint32_t)(w->n - w->at);
}

static void attr(struct writer *w, uint16_t type, const void *p, size_t n)
{
	struct nlattr *a = room(w, sizeof(*a) + n);

	*a = (struct nlattr){.nla_type = type, .nla_len = (uint16_t)(sizeof(*a) + n)};
	memcpy(a + 1, p, n);
}

static void attr_str(struct writer *w, uint16_t type, const char *s)
{
	attr(w, type, s, strlen(s) + 1);
}

static void attr_be32(struct writer *w, uint16_t type, uint32_t v)
{
	v = htonl(v);
	attr(w, type, &v, sizeof(v));
}

static size_t open_nest(struct writer *w, uint16_t type)
{
	size_t at = w->n;

	*(struct nlattr *)room(w, sizeof(struct nlattr)) =
		(struct nlattr){.nla_type = type | NLA_F_NESTED};
	return at;
}

static void close_nest(struct writer *w, size_t at)
{
	((struct nlattr *)(void *)(w->buf.p + at))->nla_len = (uint16_t)(w->n - at);
}

static void attr_data(struct writer *w, uint16_t type, const void *p, size_t n)
{
	size_t at = open_nest(w, type);

	attr(w, NFTA_DATA_VALUE, p, n);
	close_nest(w, at);
}

/* nf_tables */

static void begin_nft(struct writer *w, uint16_t msg, uint16_t flags)
{
	const struct nfgenmsg g = {.nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0};

	begin(w, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | msg), flags, &g, sizeof(g));
}

static void batch_mark(struct writer *w, uint16_t type)
{
	const struct nfgenmsg g = {.version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES)};

	begin(w, type, 0, &g, sizeof(g));
	end(w);
}

static void put_table(struct writer *w)
{
	begin_nft(w, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK);
	attr_str(w, NFTA_TABLE_NAME, w->table);
	end(w);
}

static void put_chain(struct writer *w, const char *type, uint32_t hook, uint32_t prio)
{
	size_t at;

	begin_nft(w, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_ACK);
	attr_str(w, NFTA_CHAIN_TABLE, w->table);
	attr_str(w, NFTA_CHAIN_NAME, type);
	at = open_nest(w, NFTA_CHAIN_HOOK);
	attr_be32(w, NFTA_HOOK_HOOKNUM, hook);
	attr_be32(w, NFTA_HOOK_PRIORITY, prio);
	close_nest(w, at);
	attr_str(w, NFTA_CHAIN_TYPE, type);
	end(w);
}

static void put_set(struct writer *w)
{
	begin_nft(w, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_ACK);
	attr_str(w, NFTA_SET_TABLE, w->table);
	attr_str(w, NFTA_SET_NAME, "pods");
	attr_be32(w, NFTA_SET_ID, 1);
	attr_be32(w, NFTA_SET_KEY_TYPE, 7); /* an IPv4 address, for nft(8) */
	attr_be32(w, NFTA_SET_KEY_LEN, 4);
	end(w);
}

/* A rule is open between these two; its expressions come between. */
struct rule {
	size_t list;
};

static struct rule open_rule(struct writer *w, const char *chain)
{
	begin_nft(w, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK);
	attr_str(w, NFTA_RULE_TABLE, w->table);
	attr_str(w, NFTA_RULE_CHAIN, chain);
	return (struct rule){open_nest(w, NFTA_RULE_EXPRESSIONS)};
}

static void close_rule(struct writer *w, struct rule r)
{
	close_nest(w, r.list);
	end(w);
}

/* An expression whose attributes are numbers: pairs of attribute and value, ended by 0. */
static void expr(struct writer *w, const char *name, const uint32_t *pairs)
{
	size_t elem = open_nest(w, NFTA_LIST_ELEM), data;

	attr_str(w, NFTA_EXPR_NAME, name);
	data = open_nest(w, NFTA_EXPR_DATA);
	for (; pairs[0] != 0; pairs += 2)
		attr_be32(w, (uint16_t)pairs[0], pairs[1]);
	close_nest(w, data);
	close_nest(w, elem);
}
#define EXPR(w, name, ...) expr(w, name, (const uint32_t[]){__VA_ARGS__ __VA_OPT__(, ) 0, 0})

static void expr_value(struct writer *w, const char *name, uint16_t reg_attr, uint16_t data_attr,
		       const void *value, size_t n)
{
	size_t elem = open_nest(w, NFTA_LIST_ELEM), data;

	attr_str(w, NFTA_EXPR_NAME, name);
	data = open_nest(w, NFTA_EXPR_DATA);
	attr_be32(w, reg_attr, NFT_REG_1);
	if (data_attr == NFTA_CMP_DATA && strcmp(name, "cmp") == 0)
		attr_be32(w, NFTA_CMP_OP, NFT_CMP_EQ);
	attr_data(w, data_attr, value, n);
	close_nest(w, data);
	close_nest(w, elem);
}

static void expr_tcp(struct writer *w)
{
	const uint8_t tcp = IPPROTO_TCP;

	EXPR(w, "meta", NFTA_META_DREG, NFT_REG_1, NFTA_META_KEY, NFT_META_L4PROTO);
	expr_value(w, "cmp", NFTA_CMP_SREG, NFTA_CMP_DATA, &tcp, 1);
}

static void expr_masked(struct writer *w)
{
	const uint32_t mask = 0xfff, none = 0;
	size_t elem = open_nest(w, NFTA_LIST_ELEM), data;

	attr_str(w, NFTA_EXPR_NAME, "bitwise");
	data = open_nest(w, NFTA_EXPR_DATA);
	attr_be32(w, NFTA_BITWISE_SREG, NFT_REG_1);
	attr_be32(w, NFTA_BITWISE_DREG, NFT_REG_1);
	attr_be32(w, NFTA_BITWISE_LEN, 4);
	attr_data(w, NFTA_BITWISE_MASK, &mask, 4);
	attr_data(w, NFTA_BITWISE_XOR, &none, 4);
	close_nest(w, data);
	close_nest(w, elem);
}

static void put_redirect(struct writer *w)
{
	const uint16_t port = htons(15001);
	struct rule r;

	put_chain(w, "nat", NF_INET_PRE_ROUTING, (uint32_t)-100);
	r = open_rule(w, "nat");
	expr_tcp(w);
	EXPR(w, "counter");
	expr_value(w, "immediate", NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA, &port, 2);
	EXPR(w, "redir", NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
	close_rule(w, r);
}

static void put_marks(struct writer *w)
{
	struct rule r;

	put_chain(w, "filter", NF_INET_PRE_ROUTING, (uint32_t)-150);
	r = open_rule(w, "filter");
	EXPR(w, "meta", NFTA_META_DREG, NFT_REG_1, NFTA_META_KEY, NFT_META_MARK);
	expr_masked(w);
	EXPR(w, "ct", NFTA_CT_SREG, NFT_REG_1, NFTA_CT_KEY, NFT_CT_MARK);
	EXPR(w, "ct", NFTA_CT_DREG, NFT_REG_1, NFTA_CT_KEY, NFT_CT_MARK);
	EXPR(w, "meta", NFTA_META_SREG, NFT_REG_1, NFTA_META_KEY, NFT_META_MARK);
	close_rule(w, r);
}

static void put_route_chain(struct writer *w)
{
	put_chain(w, "route", NF_INET_LOCAL_OUT, (uint32_t)-150);
}

static void put_zone(struct writer *w)
{
	const uint32_t zone = 1;
	struct rule r;

	put_chain(w, "filter", NF_INET_LOCAL_OUT, (uint32_t)-300);
	r = open_rule(w, "filter");
	expr_value(w, "immediate", NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA, &zone, 2);
	EXPR(w, "ct", NFTA_CT_SREG, NFT_REG_1, NFTA_CT_KEY, NFT_CT_ZONE);
	close_rule(w, r);
}

static void put_probes(struct writer *w)
{
	const uint8_t to[4] = {169, 254, 7, 127};
	size_t elem, data;
	struct rule r;

	put_set(w);
	put_chain(w, "nat", NF_INET_POST_ROUTING, 100);
	r = open_rule(w, "nat");
	EXPR(w, "meta", NFTA_META_DREG, NFT_REG_1, NFTA_META_KEY, NFT_META_SKUID);
	EXPR(w, "payload", NFTA_PAYLOAD_DREG, NFT_REG_1, NFTA_PAYLOAD_BASE,
	     NFT_PAYLOAD_NETWORK_HEADER, NFTA_PAYLOAD_OFFSET, 16, NFTA_PAYLOAD_LEN, 4);
	elem = open_nest(w, NFTA_LIST_ELEM);
	attr_str(w, NFTA_EXPR_NAME, "lookup");
	data = open_nest(w, NFTA_EXPR_DATA);
	attr_str(w, NFTA_LOOKUP_SET, "pods");
	attr_be32(w, NFTA_LOOKUP_SET_ID, 1);
	attr_be32(w, NFTA_LOOKUP_SREG, NFT_REG_1);
	close_nest(w, data);
	close_nest(w, elem);
	expr_value(w, "immediate", NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA, to, sizeof(to));
	EXPR(w, "nat", NFTA_NAT_TYPE, NFT_NAT_SNAT, NFTA_NAT_FAMILY, NFPROTO_IPV4,
	     NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
	close_rule(w, r);
}

static void put_nothing(struct writer *w)
{
	(void)w;
}

/* Routes */

static void put_lo_up(struct writer *w)
{
	const struct ifinfomsg i = {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

	begin(w, RTM_NEWLINK, NLM_F_ACK, &i, sizeof(i));
	end(w);
}

static void put_policy(struct writer *w)
{
	const struct fib_rule_hdr h = {
		.family = AF_INET, .table = RT_TABLE_UNSPEC, .action = FR_ACT_TO_TBL};
	const uint32_t mark = 0x111, mask = 0xfff, table = 100, prio = 32764;

	begin(w, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &h, sizeof(h));
	attr(w, FRA_FWMARK, &mark, 4);
	attr(w, FRA_FWMASK, &mask, 4);
	attr(w, FRA_TABLE, &table, 4);
	attr(w, FRA_PRIORITY, &prio, 4);
	end(w);
}

static void put_route(struct writer *w)
{
	const struct rtmsg m = {.rtm_family = AF_INET,
				.rtm_table = RT_TABLE_UNSPEC,
				.rtm_protocol = RTPROT_BOOT,
				.rtm_scope = RT_SCOPE_HOST,
				.rtm_type = RTN_LOCAL};
	const uint32_t table = 100, lo = 1;

	begin(w, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_ACK, &m, sizeof(m));
	attr(w, RTA_TABLE, &table, 4);
	attr(w, RTA_OIF, &lo, 4);
	end(w);
}

static void put_routing(struct writer *w)
{
	put_lo_up(w);
	put_policy(w);
	put_route(w);
}

/* What is tried */

static const struct trial {
	const char *what;
	void (*put)(struct writer *w);
	bool routes;   /* else nf_tables */
	bool optional; /* only some settings need it */
	const char *needs;
} trials[] = {
	{"kernel: nf_tables", put_nothing, .needs = "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET"},
	{"kernel: redirect", put_redirect,
	 .needs = "CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NF_NAT"},
	{"kernel: connection marks", put_marks,
	 .needs = "CONFIG_NFT_CT, CONFIG_NF_CONNTRACK, CONFIG_NF_CONNTRACK_MARK"},
	{"kernel: route chain", put_route_chain, .needs = "CONFIG_NF_TABLES_INET, type route"},
	{"kernel: probe exemption", put_probes, .needs = "CONFIG_NFT_NAT, sets of nf_tables"},
	{"kernel: policy routing", put_routing, .routes = true,
	 .needs = "CONFIG_IP_MULTIPLE_TABLES"},
	{"kernel: tracking zones", put_zone, .optional = true,
	 .needs = "CONFIG_NF_CONNTRACK_ZONES"},
};

/* One answer per message with NLM_F_ACK, an error for any. 0 or the first -errno. */
static int answers(int fd, uint32_t last_seq)
{
	for (;;) {
		union {
			struct nlmsghdr align;
			char p[MESSAGE_MAX];
		} b;
		ssize_t n = recv(fd, b.p, sizeof(b.p), 0);

		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		for (struct nlmsghdr *h = &b.align; NLMSG_OK(h, (size_t)n); h = NLMSG_NEXT(h, n)) {
			const struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
				continue;
			if (e->error != 0)
				return e->error;
			if (h->nlmsg_seq == last_seq)
				return 0;
		}
	}
}

static int try_one(int nf, int rt, const struct trial *t)
{
	_cleanup_free_ struct writer *w = xcalloc(1, sizeof(*w));
	int fd = t->routes ? rt : nf;
	uint32_t last;

	w->table = t->what;
	if (!t->routes) {
		batch_mark(w, NFNL_MSG_BATCH_BEGIN);
		put_table(w);
	}
	t->put(w);
	last = w->seq;
	if (!t->routes)
		batch_mark(w, NFNL_MSG_BATCH_END);
	return send(fd, w->buf.p, w->n, 0) < 0 ? -errno : answers(fd, last);
}

static int open_netlink(int protocol, int *ret, struct err *err)
{
	const struct timeval limit = {.tv_sec = ANSWER_S};

	*ret = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (*ret < 0 || setsockopt(*ret, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		return err_errno(err, errno, "netlink socket %d", protocol);
	return 0;
}

/* Two sockets into a new namespace; the thread is back home afterwards. */
static int open_scratch(int *ret_nf, int *ret_rt, struct err *err)
{
	_cleanup_close_ int home = netns_open("/proc/thread-self/ns/net", err);
	int r;

	if (home < 0)
		return home;
	if (unshare(CLONE_NEWNET) < 0)
		return err_errno(err, errno, "new network namespace");
	r = open_netlink(NETLINK_NETFILTER, ret_nf, err);
	if (r == 0)
		r = open_netlink(NETLINK_ROUTE, ret_rt, err);
	bug_on(setns(home, CLONE_NEWNET) < 0);
	return r;
}

void ctl_check_kernel(struct ctl_rows *rows)
{
	_cleanup_close_ int nf = -1, rt = -1;
	struct err err = {0};

	if (open_scratch(&nf, &rt, &err) < 0) {
		ctl_row_add(rows, "kernel", err.code == EPERM ? CTL_NOT_CHECKED : CTL_FAILED,
			    err.code == EPERM ? "run this as root"
					      : "use a kernel with CONFIG_NET_NS and nf_tables",
			    "%s", err.msg);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(trials); i++) {
		const struct trial *t = &trials[i];
		int r = try_one(nf, rt, t);

		if (r == 0)
			ctl_row_add(rows, t->what, CTL_OK, NULL, "works");
		else
			ctl_row_add(rows, t->what, t->optional ? CTL_WARNING : CTL_FAILED,
				    "use a kernel with what is named, or load its module",
				    "does not work (%s); it needs %s", strerror(-r), t->needs);
	}
}
