/* SPDX-License-Identifier: Apache-2.0
 * sendbuf.c: how much of an HBONE connection waits in the kernel.
 *
 * Many streams share one TCP connection, and what a small message finds in the socket's queues is
 * in front of it. Bulk streams fill whatever there is: the kernel lets the buffer grow to megabytes
 * (datapath.md 5.2). What has not been sent yet is limited on every connection, which costs
 * nothing. What has been sent must cover the bandwidth of a round trip, so it is limited only where
 * the peer is near: 1 MiB is 16 Gbit/s at half a millisecond. Beyond, the kernel knows better.
 */
#include <linux/tcp.h> /* not netinet/tcp.h, which lacks tcpi_min_rtt; they exclude each other */
#include <netinet/in.h>
#include <sys/socket.h>

#include "ztunnel/data/data.h"

#define NOTSENT_LOWAT (256 << 10)
#define NEAR_RTT_US   500
#define NEAR_SNDBUF   (512 << 10) /* the kernel doubles it, for what a packet costs beside data */

void sendbuf_start(int fd)
{
	int lowat = NOTSENT_LOWAT;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}

/* Of all packets so far; a connection without any says UINT32_MAX. */
static uint32_t min_rtt_us(int fd)
{
	struct tcp_info i = {.tcpi_min_rtt = UINT32_MAX}; /* older kernels leave it */
	socklen_t n = sizeof(i);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n) < 0 ? UINT32_MAX : i.tcpi_min_rtt;
}

void sendbuf_opened(int fd)
{
	int n = NEAR_SNDBUF;

	/* FORCE: net.core.wmem_max is often below it. Without the right to that it grows as before.
	 */
	if (min_rtt_us(fd) <= NEAR_RTT_US)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &n, sizeof(n));
}
