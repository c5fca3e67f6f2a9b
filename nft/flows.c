/* SPDX-License-Identifier: Apache-2.0
 * flows.c: see flows.h.
 *
 * Theory of operation. Sockets come from inet_diag, entries go in through ctnetlink, in packets of
 * many messages. An entry that the kernel has marked as having seen an answer is never offered to a
 * nat chain, and one made without translation stays without. Window checking starts where the
 * connection stands (BE_LIBERAL: the kernel did not see its beginning).
 *
 * Listing connections walks a hash table of the whole machine, a millisecond or more. A pod that is
 * being set up must not pay for it: /proc/net/sockstat has the number of its sockets for nothing,
 * and only listeners are listed to see that they are the mesh's own.
 */
#include "nft/flows.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/format/ip.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "lib/os/sock.h"
#include "nft/extack.h"
#include "nft/model.h"
#include "nft/ns.h"

#define PACKET_BYTES   32768
#define ENTRY_BYTES    512   /* one message with IPv6 addresses is about 250 */
#define FLOWS_MAX      65536 /* connections of one pod that are kept; more than a pod's ports */
#define SOCKSTAT_MAX   4096
#define FLOW_TIMEOUT_S 432000 /* the kernel's own for an established connection */

struct flow {
	struct ip_port local, remote;
};
struct flows {
	struct flow *f;
	size_t n, cap;
	size_t mesh_listeners, marked, transports; /* marked: with them */
};

static void flows_fini(struct flows *x)
{
	free(x->f);
}

static int open_diag(void *ctx, struct err *err)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (fd < 0)
		return err_errno(err, EOPNOTSUPP, "open socket diagnosis");
	*(int *)ctx = fd;
	return 0;
}

static bool is_mesh_port(uint16_t port)
{
	for (int i = 0; i < MESH_L_N; i++)
		if (mesh_listener_port[i] == port)
			return true;
	return port == MESH_PORT_DNS || port == MESH_PORT_SOCKS5;
}

/* Wholly open or being closed: has had its first answer. A connection that is still asking is new
 * and may be captured. */
#define BEGUN                                                                                      \
	(1u << TCP_ESTABLISHED | 1u << TCP_SYN_RECV | 1u << TCP_FIN_WAIT1 | 1u << TCP_FIN_WAIT2 |  \
	 1u << TCP_CLOSE_WAIT | 1u << TCP_LAST_ACK | 1u << TCP_CLOSING)

/* Sockets that ztunnel accepts inherit the listener's mark, those that it dials get it. */
static bool has_mesh_mark(const struct nlmsghdr *h)
{
	const char *end = mnl_nlmsg_get_payload_tail(h);
	const struct nlattr *a = mnl_nlmsg_get_payload_offset(h, sizeof(struct inet_diag_msg));

	for (; mnl_attr_ok(a, (int)(end - (const char *)a)); a = mnl_attr_next(a))
		if (mnl_attr_get_type(a) == INET_DIAG_MARK &&
		    mnl_attr_get_payload_len(a) == sizeof(uint32_t))
			return (mnl_attr_get_u32(a) & NFT_MARK_MASK) == MESH_MARK;
	return false;
}

static void take_socket(struct flows *x, const struct nlmsghdr *h)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);
	size_t len = m->idiag_family == AF_INET ? 4 : 16;
	struct flow f = {
		.local.port = ntohs(m->id.idiag_sport),
		.remote.port = ntohs(m->id.idiag_dport),
	};

	if (m->idiag_state == TCP_LISTEN) {
		x->mesh_listeners += is_mesh_port(f.local.port);
	} else if (has_mesh_mark(h)) {
		x->marked++;
		x->transports += f.local.port == MESH_PORT_INBOUND_HBONE ||
				 f.remote.port == MESH_PORT_INBOUND_HBONE;
	}
	if (m->idiag_state > TCP_CLOSING || !(BEGUN & 1u << m->idiag_state) ||
	    ip_from_bytes(m->id.idiag_src, len, &f.local.ip) < 0 ||
	    ip_from_bytes(m->id.idiag_dst, len, &f.remote.ip) < 0 || x->n == FLOWS_MAX)
		return;
	if (x->n == x->cap) {
		x->cap = x->cap * 2 + 64;
		x->f = xrealloc_array(x->f, x->cap, sizeof(*x->f));
	}
	x->f[x->n++] = f;
}

/* 0: more to come. 1: the end. -EINTR: sockets came and went; harmless, a connection that was
 * there all the time is listed. */
static int take_packet(struct flows *x, const char *buf, ssize_t n)
{
	int left = (int)n;

	for (const struct nlmsghdr *m = (const void *)buf; mnl_nlmsg_ok(m, left);
	     m = mnl_nlmsg_next(m, &left)) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(m);

		if (m->nlmsg_type == NLMSG_DONE)
			return 1;
		if (m->nlmsg_type == NLMSG_ERROR)
			return m->nlmsg_len >= NLMSG_HDRLEN + sizeof(*e) ? e->error : -EBADMSG;
		if (m->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
		    m->nlmsg_len >= NLMSG_HDRLEN + sizeof(struct inet_diag_msg))
			take_socket(x, m);
	}
	return 0;
}

static int list_family(int fd, uint8_t family, uint32_t states, char *buf, struct flows *x)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} q = {
		.h = {.nlmsg_len = sizeof(q),
		      .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.r = {.sdiag_family = family,
		      .sdiag_protocol = IPPROTO_TCP,
		      .idiag_states = states},
	};
	int r = 0;

	if (send(fd, &q, sizeof(q), 0) < 0)
		return -errno;
	while (r == 0) {
		ssize_t n = recv(fd, buf, PACKET_BYTES, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		r = take_packet(x, buf, n);
	}
	return r < 0 ? r : 0;
}

static int list(int netns_fd, uint32_t states, struct flows *x, struct err *err)
{
	static const struct timeval limit = {.tv_sec = 5};
	_cleanup_free_ char *buf = xmalloc(PACKET_BYTES);
	_cleanup_close_ int fd = -1;
	int r = netns_call(netns_fd, open_diag, &fd, err);

	if (r < 0)
		return r;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	r = list_family(fd, AF_INET, states, buf, x);
	if (r == 0)
		r = list_family(fd, AF_INET6, states, buf, x);
	if (r == -ENOENT || r == -EAFNOSUPPORT || r == -EINVAL)
		r = -EOPNOTSUPP;
	if (r < 0)
		return err_errno(err, -r, "list the TCP sockets of the namespace");
	return 0;
}

/* The number behind "TCP: inuse " or "TCP6: inuse " in a sockstat file, 0 without such a line. */
static uint64_t in_use(struct str text, struct str label)
{
	struct str line;

	while (str_cut(&text, '\n', &line)) {
		struct str rest, number;
		uint64_t v;

		if (!str_has_prefix(line, label))
			continue;
		rest = (struct str){line.p + label.n, line.n - label.n};
		if (!str_cut(&rest, ' ', &number))
			number = rest;
		return parse_u64(number, 0, UINT32_MAX, &v) == 0 ? v : 0;
	}
	return 0;
}

/* Inside the namespace: these files show the one of the thread that opens them. */
static int read_sockstat(void *ctx, struct err *err)
{
	_cleanup_free_ char *v4 = NULL;
	_cleanup_free_ char *v6 = NULL;
	size_t *sockets = ctx;

	if (file_read("/proc/thread-self/net/sockstat", SOCKSTAT_MAX, &v4, NULL, err) < 0)
		return -EOPNOTSUPP;
	*sockets = in_use(str_of(v4), STR("TCP: inuse "));
	/* not there on a kernel without IPv6 */
	if (file_read("/proc/thread-self/net/sockstat6", SOCKSTAT_MAX, &v6, NULL, NULL) == 0)
		*sockets += in_use(str_of(v6), STR("TCP6: inuse "));
	return 0;
}

int nft_flows_count(int netns_fd, size_t *ret, struct err *err)
{
	_cleanup_(flows_fini) struct flows x = {0};
	size_t sockets = 0;
	int r = netns_call(netns_fd, read_sockstat, &sockets, err);

	if (r == 0 && sockets != 0)
		r = list(netns_fd, 1u << TCP_LISTEN, &x, err);
	if (r == 0)
		*ret = sockets > x.mesh_listeners ? sockets - x.mesh_listeners : 0;
	return r;
}

int nft_flows_carried(int netns_fd, size_t *ret_all, size_t *ret_apps, struct err *err)
{
	_cleanup_(flows_fini) struct flows x = {0};
	int r = list(netns_fd, BEGUN | 1u << TCP_SYN_SENT, &x, err);

	if (r == 0) {
		*ret_all = x.marked;
		*ret_apps = x.marked - x.transports;
	}
	return r;
}

static void put_tuple(struct nlmsghdr *m, uint16_t attr, const struct ip_port *from,
		      const struct ip_port *to)
{
	bool v4 = from->ip.len == 4;
	struct nlattr *tuple = mnl_attr_nest_start(m, attr), *nest;

	nest = mnl_attr_nest_start(m, CTA_TUPLE_IP);
	mnl_attr_put(m, v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, from->ip.len, from->ip.b);
	mnl_attr_put(m, v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, to->ip.len, to->ip.b);
	mnl_attr_nest_end(m, nest);
	nest = mnl_attr_nest_start(m, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(m, CTA_PROTO_NUM, IPPROTO_TCP);
	mnl_attr_put_u16(m, CTA_PROTO_SRC_PORT, htons(from->port));
	mnl_attr_put_u16(m, CTA_PROTO_DST_PORT, htons(to->port));
	mnl_attr_nest_end(m, nest);
	mnl_attr_nest_end(m, tuple);
}

static size_t put_entry(char *buf, const struct flow *f, uint32_t seq)
{
	static const struct nf_ct_tcp_flags liberal = {IP_CT_TCP_FLAG_BE_LIBERAL,
						       IP_CT_TCP_FLAG_BE_LIBERAL};
	struct nlmsghdr *m = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(m, sizeof(*g));
	struct nlattr *info, *tcp;

	m->nlmsg_type = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW;
	m->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
	m->nlmsg_seq = seq;
	g->nfgen_family = f->local.ip.len == 4 ? AF_INET : AF_INET6;
	g->version = NFNETLINK_V0;
	put_tuple(m, CTA_TUPLE_ORIG, &f->local, &f->remote);
	put_tuple(m, CTA_TUPLE_REPLY, &f->remote, &f->local);
	mnl_attr_put_u32(m, CTA_TIMEOUT, htonl(FLOW_TIMEOUT_S));
	mnl_attr_put_u32(m, CTA_STATUS, htonl(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED));
	info = mnl_attr_nest_start(m, CTA_PROTOINFO);
	tcp = mnl_attr_nest_start(m, CTA_PROTOINFO_TCP);
	mnl_attr_put_u8(m, CTA_PROTOINFO_TCP_STATE, TCP_CONNTRACK_ESTABLISHED);
	mnl_attr_put(m, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, sizeof(liberal), &liberal);
	mnl_attr_put(m, CTA_PROTOINFO_TCP_FLAGS_REPLY, sizeof(liberal), &liberal);
	mnl_attr_nest_end(m, tcp);
	mnl_attr_nest_end(m, info);
	bug_on(m->nlmsg_len > ENTRY_BYTES);
	return MNL_ALIGN(m->nlmsg_len);
}

/* Answers to the messages first..last. Present already is fine. */
static int read_answers(struct nft_ns *ns, char *buf, uint32_t first, size_t n, struct err *err)
{
	for (size_t answered = 0; answered < n;) {
		ssize_t got = mnl_socket_recvfrom(ns->nf, buf, PACKET_BYTES);
		int left = (int)got;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_errno(err, errno, "connection tracking: no answer");
		for (const struct nlmsghdr *m = (const void *)buf; mnl_nlmsg_ok(m, left);
		     m = mnl_nlmsg_next(m, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(m);
			const char *text;

			if (m->nlmsg_type != NLMSG_ERROR || m->nlmsg_seq - first >= n)
				continue;
			answered++;
			if (e->error == 0 || e->error == -EEXIST)
				continue;
			/* nfnetlink says EINVAL when it has no ctnetlink */
			text = nft_extack_text(m);
			return nft_kernel_error(err, e->error == -EINVAL ? EOPNOTSUPP : -e->error,
						text != NULL ? text : "",
						"conntrack over netlink (CONFIG_NF_CT_NETLINK)",
						"keep an established connection");
		}
	}
	return 0;
}

static int send_some(struct nft_ns *ns, char *buf, const struct flow *f, size_t n, struct err *err)
{
	uint32_t first = ns->seq + 1;
	size_t len = 0;

	for (size_t i = 0; i < n; i++)
		len += put_entry(buf + len, &f[i], first + (uint32_t)i);
	ns->seq += (uint32_t)n;
	if (mnl_socket_sendto(ns->nf, buf, len) < 0)
		return err_errno(err, errno, "connection tracking: send");
	return read_answers(ns, buf, first, n, err);
}

int nft_flows_keep(int netns_fd, struct nft_ns *ns, struct err *err)
{
	const size_t per_packet = PACKET_BYTES / ENTRY_BYTES;
	_cleanup_free_ char *buf = xmalloc(PACKET_BYTES);
	_cleanup_(flows_fini) struct flows x = {0};
	int r = list(netns_fd, BEGUN, &x, err);

	for (size_t i = 0; r == 0 && i < x.n; i += per_packet)
		r = send_some(ns, buf, &x.f[i], x.n - i < per_packet ? x.n - i : per_packet, err);
	return r;
}
