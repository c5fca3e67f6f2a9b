/* SPDX-License-Identifier: Apache-2.0
 * ns.c: see ns.h.
 */
#include "nft/ns.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "lib/base/err.h"
#include "lib/os/closer.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "nft/route.h"

/* The kernel answers while we send; this only bounds the wait if that is ever untrue. */
static const struct timeval reply_limit = {.tv_sec = 5};

static int open_sockets(void *ctx, struct err *err)
{
	struct nft_ns *ns = ctx;
	int r;

	ns->nf = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	if (ns->nf == NULL)
		return errno == EPROTONOSUPPORT
			       ? err_errno(err, errno,
					   "kernel lacks nfnetlink (CONFIG_NETFILTER_NETLINK)")
			       : err_errno(err, errno, "open netfilter netlink socket");
	if (mnl_socket_bind(ns->nf, 0, MNL_SOCKET_AUTOPID) < 0)
		return err_errno(err, errno, "bind netfilter netlink socket");
	r = nl_connect(ns->rt, NETLINK_ROUTE);
	if (r < 0)
		return err_errno(err, -nft_nl_errno(r), "open route netlink socket");
	return 0;
}

static void set_options(int fd)
{
	static const int on = 1;

	/* Without these errors are a bare number; kernels before 4.12 do not know them. */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &reply_limit, sizeof(reply_limit));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &reply_limit, sizeof(reply_limit));
}

int nft_ns_open(int netns_fd, struct nft_ns *ns, struct err *err)
{
	int r;

	*ns = (struct nft_ns){0};
	r = netns_check(netns_fd, err);
	if (r < 0)
		return r;
	ns->rt = nl_socket_alloc();
	if (ns->rt == NULL)
		return err_set(err, ENOMEM, "netlink socket: out of memory");
	nl_socket_disable_seq_check(ns->rt); /* see on_seq() in route.c */
	r = netns_call(netns_fd, open_sockets, ns, err);
	if (r < 0)
		goto fail;
	set_options(mnl_socket_get_fd(ns->nf));
	set_options(nl_socket_get_fd(ns->rt));
	r = nft_ipv6_read(ns, &ns->ipv6, &ns->ipv6_lo, err);
	if (r < 0)
		goto fail;
	return 0;
fail:
	nft_ns_fini(ns);
	return r;
}

void nft_ns_fini(struct nft_ns *ns)
{
	if (ns->nf != NULL) {
		/* the last descriptor of a socket is the one whose closing waits */
		int last = ns->removed ? fd_dup(mnl_socket_get_fd(ns->nf)) : -1;

		(void)mnl_socket_close(ns->nf);
		if (last >= 0)
			closer_close(last);
	}
	if (ns->rt != NULL)
		nl_socket_free(ns->rt);
	*ns = (struct nft_ns){0};
}
