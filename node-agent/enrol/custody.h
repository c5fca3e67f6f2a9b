/* SPDX-License-Identifier: Apache-2.0
 * custody.h: the listening sockets of a pod that the agent keeps, so that the kernel queues new
 * connections while ztunnel is away.
 *
 * Created inside the pod's namespace with the options of ztunnel-spec 1.6. Under systemd every set
 * is also in the service manager's descriptor store (with the namespace) and survives us.
 * SO_REUSEPORT spreads connections over all listening sockets of a port, so a set must not stay
 * open next to the sockets of a ztunnel that does not serve it (a stock one).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/str.h"
#include "lib/os/netns.h"
#include "lib/os/sock.h"

struct err;

struct custody {
	bool held;
	int fds[MESH_L_N];
	bool dns_held;	     /* only while .held */
	int dns[MESH_DNS_N]; /* -1: a family that the namespace does not have */
};

/* Creates the sockets, with @dns those of the DNS proxy too, and stores them. @uid names them in
 * the store. What is held stays. */
int custody_open(struct custody *c, const char *uid, int netns_fd, bool dns, struct err *err)
	_must_check_;
/* Closes the DNS proxy's, which nothing leads to any more. Safe when they are not held. */
void custody_close_dns(struct custody *c, const char *uid, int netns_fd);
/* Takes duplicates of sockets that ztunnel or the store had, after checking that they are the right
 * listeners, in order, and after them any of the DNS proxy's, and belong to the namespace @id. */
int custody_adopt(struct custody *c, const char *uid, int netns_fd, struct netns_id id,
		  const int *fds, size_t n, struct err *err) _must_check_;
/* Closes and takes them out of the store; safe when not held. */
void custody_close(struct custody *c, const char *uid);
/* Closes our descriptors only: we stop, the store keeps its own. */
void custody_forget(struct custody *c);

/* What the service manager kept from our last life. */
#define CUSTODY_STORED_MAX 1024
struct custody_stored {
	char uid[64];
	int netns_fd; /* -1 if it was not there */
	int fds[MESH_L_N], dns[MESH_DNS_N];
	bool adopted; /* somebody uses it: it stays in the store */
};
/* One named descriptor of notify_given(); takes it if its name is ours. */
bool custody_stored_take(struct str name, int fd);
struct custody_stored *custody_stored_find(const char *uid); /* borrowed, NULL if none */
void custody_stored_release(void); /* closes what nobody adopted and cleans the store of it */
