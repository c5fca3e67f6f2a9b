/* SPDX-License-Identifier: Apache-2.0
 * netns_check.c: see netns_check.h.
 */
#include "node-agent/enrol/netns_check.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "node-agent/view.h"

/* Set once at start. */
static struct netns_id host_ids[2];

static int nothing(void *ctx, struct err *err)
{
	(void)ctx;
	(void)err;
	return 0;
}

int netns_check_init(struct err *err)
{
	_cleanup_close_ int self = netns_open("/proc/thread-self/ns/net", err);
	_cleanup_free_ char *first = view_path("/proc/1/ns/net");
	struct stat st;
	int r;

	if (self < 0)
		return self;
	r = netns_id_of(self, &host_ids[0]);
	if (r < 0)
		return err_errno(err, -r, "identity of the node's network namespace");
	/* what cannot be entered at all should be known now, not at the first pod */
	r = netns_call(self, nothing, NULL, err);
	if (r < 0)
		return r;
	host_ids[1] = host_ids[0];
	/* process 1 may be invisible (hidepid): our own namespace is then the only known one */
	if (stat(first, &st) == 0)
		host_ids[1] = (struct netns_id){.dev = st.st_dev, .ino = st.st_ino};
	else if (view_root()[0] != '\0')
		return err_errno(err, errno, "the node's network (is its /proc mounted?): %s",
				 first);
	return 0;
}

bool netns_check_is_host(struct netns_id id)
{
	return netns_id_eq(id, host_ids[0]) || netns_id_eq(id, host_ids[1]);
}

int netns_check_open(const char *path, struct netns_id *ret_id, struct err *err)
{
	_cleanup_free_ char *seen = view_path(path);
	_cleanup_close_ int fd = -1;
	struct netns_id id;
	int r;

	if (path[0] != '/')
		return err_set(err, EINVAL, "network namespace %s: expected an absolute path",
			       str_shown(str_of(path)));
	fd = netns_open(seen, err);
	if (fd < 0)
		return fd;
	r = netns_id_of(fd, &id);
	if (r < 0)
		return err_errno(err, -r, "identity of network namespace %s", path);
	if (netns_check_is_host(id))
		return err_set(err, EINVAL,
			       "network namespace %s is the node's own, expected the pod's", path);
	*ret_id = id;
	return take_fd(fd);
}

struct look_for {
	const struct ip_addr *ips;
	size_t n;
	bool found;
};

static int look_inside(void *ctx, struct err *err)
{
	struct look_for *l = ctx;
	struct ifaddrs *all;

	if (getifaddrs(&all) < 0)
		return err_errno(err, errno, "list addresses");
	for (struct ifaddrs *i = all; i != NULL && !l->found; i = i->ifa_next) {
		const struct sockaddr *sa = i->ifa_addr;
		struct ip_addr ip;
		int r = -EINVAL;

		if (sa == NULL)
			continue;
		if (sa->sa_family == AF_INET) {
			const struct sockaddr_in *a = (const void *)sa;

			r = ip_from_bytes(&a->sin_addr, 4, &ip);
		} else if (sa->sa_family == AF_INET6) {
			const struct sockaddr_in6 *a = (const void *)sa;

			r = ip_from_bytes(&a->sin6_addr, 16, &ip);
		}
		for (size_t k = 0; r == 0 && k < l->n; k++)
			l->found = l->found || ip_eq(&ip, &l->ips[k]);
	}
	freeifaddrs(all);
	return 0;
}

int netns_check_addresses(int netns_fd, const struct ip_addr *ips, size_t n, struct err *err)
{
	struct look_for l = {.ips = ips, .n = n};
	char text[IP_TEXT_MAX];
	int r;

	if (n == 0)
		return 0;
	r = netns_call(netns_fd, look_inside, &l, err);
	if (r < 0)
		return r;
	if (!l.found)
		return err_set(err, EINVAL,
			       "no interface in the network namespace carries the pod's address %s",
			       ip_format(&ips[0], text));
	return 0;
}
