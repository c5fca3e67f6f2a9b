/* SPDX-License-Identifier: Apache-2.0
 * sock.h: the sockets of the mesh inside a pod's network namespace, and unix sockets.
 *
 * Both halves use this: the agent creates the pod's listeners for socket custody, ztunnel creates
 * them when a stock agent gave it only the namespace, so that flags and options cannot differ.
 * Source: ztunnel-spec 1.5, 1.6; cni-spec 0 (ports, mark).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct err;

#define MESH_MARK		0x539u
#define MESH_PORT_OUTBOUND	15001
#define MESH_PORT_INBOUND_PLAIN 15006
#define MESH_PORT_INBOUND_HBONE 15008
#define MESH_PORT_DNS		15053
#define MESH_PORT_SOCKS5	15080

/* Order in which listeners travel over ZDS and in every array of them. */
enum mesh_listener { MESH_L_OUTBOUND, MESH_L_INBOUND_PLAIN, MESH_L_INBOUND_HBONE, MESH_L_N };
extern const uint16_t mesh_listener_port[MESH_L_N];
extern const char *const mesh_listener_name[MESH_L_N];

struct listener_opts {
	uint32_t mark; /* SO_MARK; 0 = none */
	bool reuse_port;
	/* IP_TRANSPARENT: 1 must succeed, 0 not attempted, -1 best effort (ENABLE_ORIG_SRC) */
	int transparent;
	int backlog; /* 0: as long as the kernel allows */
};

/* Creates the three TCP listeners inside the namespace @netns_fd: [::] dual stack where the
 * namespace has IPv6, else 0.0.0.0. Non-blocking, CLOEXEC. All or none; the caller owns
 * ret[MESH_L_N]. Errors name the port. */
int mesh_listeners_open(int netns_fd, const struct listener_opts *o, int ret[MESH_L_N],
			struct err *err) _must_check_;
void mesh_listeners_close(int fds[MESH_L_N]); /* sets them to -1 */
/* Checks what was received from a peer: a TCP socket that listens on @port. 0 or -EINVAL with
 * reason. */
int mesh_listener_check(int fd, uint16_t port, struct err *err) _must_check_;

/* The DNS proxy's sockets (ztunnel-spec 1.5, 1.6): on the loopback, so that only the pod itself can
 * ask. */
enum mesh_dns { MESH_DNS_UDP4, MESH_DNS_TCP4, MESH_DNS_UDP6, MESH_DNS_TCP6, MESH_DNS_N };
#define MESH_SOCKETS_N ((int)MESH_L_N + (int)MESH_DNS_N) /* of a pod at most */
struct mesh_dns_addr {
	int family;	/* 0: 127.0.0.1 and, where the namespace has it, ::1 */
	uint8_t ip[16]; /* with AF_INET or AF_INET6 */
	uint16_t port;
};
/* Creates them inside the namespace @netns_fd; -1 stays for a family that is not there. All or
 * none; the caller owns ret[MESH_DNS_N]. Of @o the mark, the sharing of ports and the backlog
 * count. */
int mesh_dns_open(int netns_fd, const struct listener_opts *o, const struct mesh_dns_addr *at,
		  int ret[MESH_DNS_N], struct err *err) _must_check_;
void mesh_dns_close(int fds[MESH_DNS_N]); /* sets them to -1 */
/* Checks what was received from a peer: one of these, on MESH_PORT_DNS of the loopback. 0 or
 * -EINVAL with reason. */
int mesh_dns_check(int fd, enum mesh_dns *ret, struct err *err) _must_check_;
/* True if the calling thread's namespace has IPv6: sockets of it can be made, and it is not
 * switched off on the loopback, which need not be up yet. */
bool netns_has_ipv6(void);

/* Listening TCP socket of the caller's namespace, non-blocking. @any: on all addresses (AF_INET6:
 * IPv4, too), else on the loopback of @family. */
int tcp_listen(int family, bool any, uint16_t port, int backlog, struct err *err) _must_check_;

/* Listening unix socket: replaces a stale path, never a live one (-EADDRINUSE: somebody accepts
 * there).
 * @type: SOCK_STREAM or SOCK_SEQPACKET. Mode is set before the path can be connected to. */
int unix_listen(const char *path, int type, unsigned int mode, struct err *err) _must_check_;
/* Connects, non-blocking when @nonblock. Returns the descriptor or -errno. */
int unix_connect(const char *path, int type, bool nonblock, struct err *err) _must_check_;
