/* SPDX-License-Identifier: Apache-2.0
 * view.c: see view.h.
 */
#include "node-agent/view.h"

#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"

static const char *root = "";

void view_set(const char *new_root)
{
	root = new_root;
}

const char *view_root(void)
{
	return root;
}

char *view_path(const char *path)
{
	bool run = root[0] != '\0' && str_has_prefix(str_of(path), STR("/run/netns/"));

	return xasprintf("%s%s%s", root, run ? "/var" : "", path);
}

int view_netns(struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int fd;

	if (root[0] == '\0')
		return netns_open("/proc/thread-self/ns/net", err);
	path = xasprintf("%s/proc/1/ns/net", root);
	fd = netns_open(path, err);
	return fd < 0 ? err_wrap(err, "the node's network (is its /proc mounted at %s/proc?)", root)
		      : fd;
}

bool view_shares_network(void)
{
	_cleanup_close_ int fd = -1;
	struct netns_id node, own;

	if (root[0] == '\0')
		return true;
	fd = view_netns(NULL);
	return fd >= 0 && netns_id_of(fd, &node) == 0 && netns_id_self(&own) == 0 &&
	       netns_id_eq(node, own);
}
