/* SPDX-License-Identifier: Apache-2.0
 * custody.c: see custody.h.
 */
#include "node-agent/enrol/custody.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/os/fd.h"
#include "lib/os/notify.h"

#define STORE_PREFIX "ambient-pod-"

static const struct listener_opts options = {
	.mark = MESH_MARK, .reuse_port = true, .transparent = -1};

static void store_remove(const char *uid)
{
	char msg[160];

	(void)snprintf(msg, sizeof(msg), "FDSTOREREMOVE=1\nFDNAME=" STORE_PREFIX "%s", uid);
	if (notify_send_fds(msg, NULL, 0) < 0)
		log_limited(LOG_LV_WARN, "custody",
			    "sockets stay in the descriptor store until the next start uid=%s",
			    uid);
}

static void store(const struct custody *c, const char *uid, int netns_fd)
{
	char msg[160];
	int fds[1 + MESH_SOCKETS_N] = {netns_fd}, r;
	size_t n = 1 + MESH_L_N;

	memcpy(fds + 1, c->fds, sizeof(c->fds));
	for (int i = 0; c->dns_held && i < MESH_DNS_N; i++)
		if (c->dns[i] >= 0)
			fds[n++] = c->dns[i];
	(void)snprintf(msg, sizeof(msg), "FDSTORE=1\nFDNAME=" STORE_PREFIX "%s", uid);
	r = notify_send_fds(msg, fds, n);
	if (r < 0)
		log_limited(LOG_LV_WARN, "custody",
			    "sockets are not in the descriptor store uid=%s: error %d", uid, -r);
}

int custody_open(struct custody *c, const char *uid, int netns_fd, bool dns, struct err *err)
{
	const struct mesh_dns_addr at = {.port = MESH_PORT_DNS};
	bool news = false;
	int r = 0;

	if (!c->held) {
		r = mesh_listeners_open(netns_fd, &options, c->fds, err);
		if (r < 0)
			return err_wrap(err, "create the pod's listening sockets");
		c->held = news = true;
	}
	if (dns && !c->dns_held) {
		r = mesh_dns_open(netns_fd, &options, &at, c->dns, err);
		c->dns_held = r == 0;
		news |= c->dns_held;
	}
	if (news)
		store(c, uid, netns_fd);
	return r < 0 ? err_wrap(err, "create the pod's DNS sockets") : 0;
}

static void forget_dns(struct custody *c)
{
	if (c->dns_held)
		mesh_dns_close(c->dns);
	c->dns_held = false;
}

void custody_close_dns(struct custody *c, const char *uid, int netns_fd)
{
	if (!c->dns_held)
		return;
	forget_dns(c);
	store_remove(uid); /* it names a whole set */
	store(c, uid, netns_fd);
}

/* The namespace a socket lives in, as the kernel says. */
static int same_namespace(int sock, struct netns_id id, struct err *err)
{
	_cleanup_close_ int ns = ioctl(sock, SIOCGSKNS);
	struct netns_id got;
	int r;

	if (ns < 0)
		return err_errno(err, errno, "namespace of the socket");
	r = netns_id_of(ns, &got);
	if (r < 0)
		return err_errno(err, -r, "namespace of the socket");
	if (!netns_id_eq(got, id))
		return err_set(err, EINVAL, "socket belongs to another network namespace");
	return 0;
}

/* One more of a set that comes back. */
static int adopt_dns(int fd, int mine[MESH_DNS_N], struct netns_id id, struct err *err)
{
	enum mesh_dns kind;
	int r = mesh_dns_check(fd, &kind, err);

	if (r == 0)
		r = same_namespace(fd, id, err);
	if (r == 0 && mine[kind] >= 0)
		r = err_set(err, EINVAL, "it is there twice");
	if (r < 0)
		return err_wrap(err, "DNS socket");
	mine[kind] = fd_dup(fd);
	return mine[kind] < 0 ? err_errno(err, -mine[kind], "duplicate") : 0;
}

int custody_adopt(struct custody *c, const char *uid, int netns_fd, struct netns_id id,
		  const int *fds, size_t n, struct err *err)
{
	int mine[MESH_L_N] = {-1, -1, -1}, dns[MESH_DNS_N] = {-1, -1, -1, -1};

	if (c->held)
		return err_set(err, EEXIST, "the sockets are here already");
	if (n < MESH_L_N || n > MESH_SOCKETS_N)
		return err_set(err, EINVAL, "expected %d to %d sockets, got %zu", MESH_L_N,
			       MESH_SOCKETS_N, n);
	for (size_t i = MESH_L_N; i < n; i++) {
		int r = adopt_dns(fds[i], dns, id, err);

		if (r < 0) {
			mesh_dns_close(dns);
			return r;
		}
	}
	for (size_t i = 0; i < MESH_L_N; i++) {
		int r = mesh_listener_check(fds[i], mesh_listener_port[i], err);

		if (r == 0)
			r = same_namespace(fds[i], id, err);
		if (r == 0 && (mine[i] = fd_dup(fds[i])) < 0)
			r = err_errno(err, -mine[i], "duplicate");
		if (r < 0) {
			mesh_listeners_close(mine);
			mesh_dns_close(dns);
			return err_wrap(err, "%s socket", mesh_listener_name[i]);
		}
	}
	memcpy(c->fds, mine, sizeof(mine));
	memcpy(c->dns, dns, sizeof(dns));
	c->dns_held = n > MESH_L_N;
	c->held = true;
	store(c, uid, netns_fd);
	return 0;
}

void custody_forget(struct custody *c)
{
	if (c->held)
		mesh_listeners_close(c->fds);
	forget_dns(c);
	c->held = false;
}

void custody_close(struct custody *c, const char *uid)
{
	if (!c->held)
		return;
	store_remove(uid);
	custody_forget(c);
}

/* Only between the start and the end of discovery. */
static struct custody_stored **stored;
static size_t nstored;

struct custody_stored *custody_stored_find(const char *uid)
{
	for (size_t i = 0; i < nstored; i++)
		if (strcmp(stored[i]->uid, uid) == 0)
			return stored[i];
	return NULL;
}

/* Puts one descriptor into the place that its kind says; what fits nowhere is closed. */
static void place(struct custody_stored *s, int fd)
{
	enum mesh_dns kind;

	if (netns_check(fd, NULL) == 0 && s->netns_fd < 0) {
		s->netns_fd = fd;
		return;
	}
	if (mesh_dns_check(fd, &kind, NULL) == 0 && s->dns[kind] < 0) {
		s->dns[kind] = fd;
		return;
	}
	for (int i = 0; i < MESH_L_N; i++)
		if (s->fds[i] < 0 && mesh_listener_check(fd, mesh_listener_port[i], NULL) == 0) {
			s->fds[i] = fd;
			return;
		}
	(void)xclose(fd);
}

bool custody_stored_take(struct str name, int fd)
{
	char uid[sizeof((struct custody_stored){0}.uid)];
	struct custody_stored *s;

	if (!str_has_prefix(name, STR(STORE_PREFIX)))
		return false;
	name.p += sizeof(STORE_PREFIX) - 1;
	name.n -= sizeof(STORE_PREFIX) - 1;
	if (str_to_cstr(name, uid, sizeof(uid), NULL) < 0) {
		(void)xclose(fd);
		return true;
	}
	s = custody_stored_find(uid);
	if (s == NULL) {
		if (nstored == CUSTODY_STORED_MAX) {
			(void)xclose(fd);
			return true;
		}
		s = xcalloc(1, sizeof(*s));
		memcpy(s->uid, uid, sizeof(uid));
		s->netns_fd = -1;
		for (int i = 0; i < MESH_L_N; i++)
			s->fds[i] = -1;
		for (int i = 0; i < MESH_DNS_N; i++)
			s->dns[i] = -1;
		stored = xrealloc_array(stored, nstored + 1, sizeof(*stored));
		stored[nstored++] = s;
	}
	place(s, fd);
	return true;
}

void custody_stored_release(void)
{
	for (size_t i = 0; i < nstored; i++) {
		struct custody_stored *s = stored[i];

		if (!s->adopted)
			store_remove(s->uid);
		(void)xclose(s->netns_fd);
		mesh_listeners_close(s->fds);
		mesh_dns_close(s->dns);
		free(s);
	}
	free(stored);
	stored = NULL;
	nstored = 0;
}
