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
/* True if the calling thread's namespace can bind IPv6 (socket works, lo not disabled). */
bool netns_has_ipv6(void);

/* Listening unix socket: replaces a stale path, never a live one (-EADDRINUSE: somebody accepts
 * there).
 * @type: SOCK_STREAM or SOCK_SEQPACKET. Mode is set before the path can be connected to. */
int unix_listen(const char *path, int type, unsigned int mode, struct err *err) _must_check_;
/* Connects, non-blocking when @nonblock. Returns the descriptor or -errno. */
int unix_connect(const char *path, int type, bool nonblock, struct err *err) _must_check_;
