/* SPDX-License-Identifier: Apache-2.0
 * sock.c: see sock.h.
 */
#include "lib/os/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"

const uint16_t mesh_listener_port[MESH_L_N] = {
	[MESH_L_OUTBOUND] = MESH_PORT_OUTBOUND,
	[MESH_L_INBOUND_PLAIN] = MESH_PORT_INBOUND_PLAIN,
	[MESH_L_INBOUND_HBONE] = MESH_PORT_INBOUND_HBONE,
};
const char *const mesh_listener_name[MESH_L_N] = {
	[MESH_L_OUTBOUND] = "outbound",
	[MESH_L_INBOUND_PLAIN] = "inbound-plaintext",
	[MESH_L_INBOUND_HBONE] = "inbound-hbone",
};

#define LO_WITHOUT_IPV6                                                                            \
	"/proc/sys/net/ipv6/conf/lo/disable_ipv6" /* of the namespace of who opens it */

bool netns_has_ipv6(void)
{
	_cleanup_close_ int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int off = open(LO_WITHOUT_IPV6, O_RDONLY | O_CLOEXEC);
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	char c;

	if (s < 0)
		return false;
	if (off >= 0 && read(off, &c, 1) == 1)
		return c == '0';
	/* where it cannot be read: a loopback that is not up yet has no ::1, with or without IPv6
	 */
	return bind(s, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static int listener_open(const struct listener_opts *o, bool v6, uint16_t port, struct err *err)
{
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	_cleanup_close_ int s =
		socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, zero = 0, r;

	if (s < 0)
		return err_errno(err, errno, "port %u: socket", port);
	if (o->mark != 0 && setsockopt(s, SOL_SOCKET, SO_MARK, &o->mark, sizeof(o->mark)) < 0)
		return err_errno(err, errno, "port %u: set mark", port);
	if (o->reuse_port && setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
		return err_errno(err, errno, "port %u: SO_REUSEPORT", port);
	/* the IPv4 option also on an IPv6 socket, as stock does */
	if (o->transparent != 0 && setsockopt(s, SOL_IP, IP_TRANSPARENT, &one, sizeof(one)) < 0 &&
	    o->transparent > 0)
		return err_errno(err, errno, "port %u: IP_TRANSPARENT", port);
	(void)setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* inherited on accept */
	if (v6)
		(void)setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	r = v6 ? bind(s, (struct sockaddr *)&a6, sizeof(a6))
	       : bind(s, (struct sockaddr *)&a4, sizeof(a4));
	if (r < 0)
		return err_errno(err, errno, "port %u: bind", port);
	if (listen(s, o->backlog != 0 ? o->backlog : 65535) < 0)
		return err_errno(err, errno, "port %u: listen", port);
	return take_fd(s);
}

struct open_ctx {
	const struct listener_opts *o;
	int *fds;
};

static int open_inside(void *ctx, struct err *err)
{
	struct open_ctx *c = ctx;
	bool v6 = netns_has_ipv6();

	for (int i = 0; i < MESH_L_N; i++) {
		c->fds[i] = listener_open(c->o, v6, mesh_listener_port[i], err);
		if (c->fds[i] < 0)
			return c->fds[i];
	}
	return 0;
}

int mesh_listeners_open(int netns_fd, const struct listener_opts *o, int ret[MESH_L_N],
			struct err *err)
{
	int fds[MESH_L_N] = {-1, -1, -1};
	struct open_ctx c = {.o = o, .fds = fds};
	int r = netns_call(netns_fd, open_inside, &c, err);

	if (r < 0) {
		mesh_listeners_close(fds);
		return r;
	}
	memcpy(ret, fds, sizeof(fds));
	return 0;
}

void mesh_listeners_close(int fds[MESH_L_N])
{
	for (int i = 0; i < MESH_L_N; i++)
		fds[i] = xclose(fds[i]);
}

static int get_int(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	return getsockopt(fd, level, name, &v, &n) < 0 ? -1 : v;
}

int mesh_listener_check(int fd, uint16_t port, struct err *err)
{
	struct sockaddr_storage ss = {0};
	socklen_t n = sizeof(ss);
	uint16_t got;

	if (get_int(fd, SOL_SOCKET, SO_TYPE) != SOCK_STREAM ||
	    get_int(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
		return err_set(err, EINVAL, "descriptor is not a TCP socket");
	if (get_int(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)
		return err_set(err, EINVAL, "socket does not listen");
	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		return err_errno(err, errno, "getsockname");
	got = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
					     : ((struct sockaddr_in *)&ss)->sin_port);
	if (got != port)
		return err_set(err, EINVAL, "socket listens on port %u, expected %u", got, port);
	return fd_set_nonblock(fd);
}

/* ---- the DNS proxy's ---- */

#define DNS_QUEUE_BYTES                                                                            \
	(512 << 10) /* of a UDP socket: some 1,300 queries may wait for a worker                   \
		     */

union any_addr {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct dns_ctx {
	const struct listener_opts *o;
	const struct mesh_dns_addr *at;
	int *fds;
};

static bool is_v6(enum mesh_dns kind)
{
	return kind == MESH_DNS_UDP6 || kind == MESH_DNS_TCP6;
}

static bool is_tcp(enum mesh_dns kind)
{
	return kind == MESH_DNS_TCP4 || kind == MESH_DNS_TCP6;
}

static socklen_t dns_addr(const struct mesh_dns_addr *at, bool v6, union any_addr *u)
{
	*u = (union any_addr){0};
	if (v6) {
		u->v6.sin6_family = AF_INET6;
		u->v6.sin6_port = htons(at->port);
		u->v6.sin6_addr = in6addr_loopback;
		if (at->family != 0)
			memcpy(&u->v6.sin6_addr, at->ip, 16);
		return sizeof(u->v6);
	}
	u->v4.sin_family = AF_INET;
	u->v4.sin_port = htons(at->port);
	u->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (at->family != 0)
		memcpy(&u->v4.sin_addr, at->ip, 4);
	return sizeof(u->v4);
}

static int dns_socket(const struct dns_ctx *c, enum mesh_dns kind, struct err *err)
{
	const struct listener_opts *o = c->o;
	uint16_t port = c->at->port;
	union any_addr u;
	socklen_t len = dns_addr(c->at, is_v6(kind), &u);
	_cleanup_close_ int s =
		socket(u.sa.sa_family,
		       (is_tcp(kind) ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, room = DNS_QUEUE_BYTES;

	if (s < 0)
		return err_errno(err, errno, "port %u: socket", port);
	if (!is_tcp(kind)) /* without it there is the node's default */
		(void)setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (o->mark != 0 && setsockopt(s, SOL_SOCKET, SO_MARK, &o->mark, sizeof(o->mark)) < 0)
		return err_errno(err, errno, "port %u: set mark", port);
	if (o->reuse_port && setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
		return err_errno(err, errno, "port %u: SO_REUSEPORT", port);
	/* a runtime may bring the loopback up after this, or meanwhile */
	if (setsockopt(s, is_v6(kind) ? SOL_IPV6 : SOL_IP,
		       is_v6(kind) ? IPV6_FREEBIND : IP_FREEBIND, &one, sizeof(one)) < 0)
		return err_errno(err, errno, "port %u: bind before the address is there", port);
	if (bind(s, &u.sa, len) < 0)
		return err_errno(err, errno, "port %u: bind", port);
	if (is_tcp(kind) && listen(s, o->backlog != 0 ? o->backlog : 65535) < 0)
		return err_errno(err, errno, "port %u: listen", port);
	return take_fd(s);
}

static int dns_open_inside(void *ctx, struct err *err)
{
	struct dns_ctx *c = ctx;
	int family = c->at->family;

	for (int i = 0; i < MESH_DNS_N; i++) {
		if (is_v6((enum mesh_dns)i) ? family == AF_INET || !netns_has_ipv6()
					    : family == AF_INET6)
			continue;
		c->fds[i] = dns_socket(c, (enum mesh_dns)i, err);
		if (c->fds[i] < 0)
			return c->fds[i];
	}
	return 0;
}

int mesh_dns_open(int netns_fd, const struct listener_opts *o, const struct mesh_dns_addr *at,
		  int ret[MESH_DNS_N], struct err *err)
{
	int fds[MESH_DNS_N] = {-1, -1, -1, -1};
	struct dns_ctx c = {o, at, fds};
	int r = netns_call(netns_fd, dns_open_inside, &c, err);

	if (r < 0) {
		mesh_dns_close(fds);
		return r;
	}
	memcpy(ret, fds, sizeof(fds));
	return 0;
}

void mesh_dns_close(int fds[MESH_DNS_N])
{
	for (int i = 0; i < MESH_DNS_N; i++)
		fds[i] = xclose(fds[i]);
}

int mesh_dns_check(int fd, enum mesh_dns *ret, struct err *err)
{
	const struct mesh_dns_addr want = {.port = MESH_PORT_DNS};
	int type = get_int(fd, SOL_SOCKET, SO_TYPE), proto = get_int(fd, SOL_SOCKET, SO_PROTOCOL);
	bool tcp = type == SOCK_STREAM && proto == IPPROTO_TCP;
	union any_addr got = {0}, expected;
	socklen_t n = sizeof(got);

	if (!tcp && !(type == SOCK_DGRAM && proto == IPPROTO_UDP))
		return err_set(err, EINVAL, "descriptor is neither a TCP nor a UDP socket");
	if (tcp && get_int(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)
		return err_set(err, EINVAL, "socket does not listen");
	if (getsockname(fd, &got.sa, &n) < 0)
		return err_errno(err, errno, "getsockname");
	if (dns_addr(&want, got.sa.sa_family == AF_INET6, &expected) != n ||
	    memcmp(&got, &expected, n) != 0)
		return err_set(err, EINVAL, "socket is not on port %u of the loopback", want.port);
	*ret = got.sa.sa_family == AF_INET6 ? (tcp ? MESH_DNS_TCP6 : MESH_DNS_UDP6)
					    : (tcp ? MESH_DNS_TCP4 : MESH_DNS_UDP4);
	return fd_set_nonblock(fd);
}

int tcp_listen(int family, bool any, uint16_t port, int backlog, struct err *err)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} u = {0};
	socklen_t len = family == AF_INET6 ? sizeof(u.v6) : sizeof(u.v4);
	_cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1, v6only = any ? 0 : 1;

	if (fd < 0)
		return err_errno(err, errno, "socket for port %u", port);
	if (family == AF_INET6) {
		u.v6.sin6_family = AF_INET6;
		u.v6.sin6_port = htons(port);
		u.v6.sin6_addr = any ? in6addr_any : in6addr_loopback;
		if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0)
			return err_errno(err, errno, "IPV6_V6ONLY for port %u", port);
	} else {
		u.v4.sin_family = AF_INET;
		u.v4.sin_port = htons(port);
		u.v4.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
	}
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, &u.sa, len) < 0 || listen(fd, backlog) < 0)
		return err_errno(err, errno, "listen on port %u", port);
	return take_fd(fd);
}

static int unix_addr(const char *path, struct sockaddr_un *a, struct err *err)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(a->sun_path))
		return err_set(err, ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
			       sizeof(a->sun_path) - 1);
	memcpy(a->sun_path, path, strlen(path) + 1);
	return 0;
}

int unix_listen(const char *path, int type, unsigned int mode, struct err *err)
{
	_cleanup_close_ int s = -1, probe = -1;
	struct sockaddr_un a;
	mode_t old;
	int r = unix_addr(path, &a, err);

	if (r < 0)
		return r;
	s = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0 || probe < 0)
		return err_errno(err, errno, "socket for %s", path);
	if (connect(probe, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EAGAIN)
		return err_set(err, EADDRINUSE, "%s: another process is listening there", path);
	if (errno == ECONNREFUSED || errno == EPROTOTYPE)
		(void)unlink(path);
	old = umask(~mode & 0777);
	r = bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
	(void)umask(old);
	if (r != 0)
		return err_errno(err, r, "bind %s", path);
	if (listen(s, 128) < 0)
		return err_errno(err, errno, "listen on %s", path);
	return take_fd(s);
}

int unix_connect(const char *path, int type, bool nonblock, struct err *err)
{
	_cleanup_close_ int s = -1;
	struct sockaddr_un a;
	int r = unix_addr(path, &a, err);

	if (r < 0)
		return r;
	s = socket(AF_UNIX, type | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 0);
	if (s < 0)
		return err_errno(err, errno, "socket for %s", path);
	if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_errno(err, errno, "connect to %s", path);
	return take_fd(s);
}
