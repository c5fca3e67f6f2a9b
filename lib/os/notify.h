/* SPDX-License-Identifier: Apache-2.0
 * notify.h: what a service tells the service manager that started it, what it is given by it, and
 * the watchdog's period.
 *
 * Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), which call the protocols stable
 * and open to other implementations: one datagram of NAME=VALUE lines to the unix socket
 * $NOTIFY_SOCKET; descriptors from number 3 on, counted and named by $LISTEN_*.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

/* Sends @state ("READY=1\nSTATUS=..."). Without a service manager nothing is sent. Never waits.
 * Returns 1 when sent, 0 without a service manager, -errno. Control thread. */
int notify_send(const char *state) _must_check_;
/* The same with descriptors ("FDSTORE=1\nFDNAME=..."; they stay ours), or taking them out of the
 * store: what must not be lost waits for a busy manager, a second at most. */
int notify_send_fds(const char *state, const int *fds, size_t nfds) _must_check_;
bool notify_enabled(void); /* whether there is a service manager that listens */

/* The period within which the manager wants to hear WATCHDOG=1; 0: it does not. @usec and @pid:
 * WATCHDOG_USEC and WATCHDOG_PID (NULL: not set), @me: our process. Pure; a value that cannot be
 * read counts as unset, since then nobody watches. */
uint64_t notify_watchdog_parse(const char *usec, const char *pid, long me);
uint64_t notify_watchdog_ms(void); /* the same, from the environment */

/* Descriptors that the manager passed to us: sockets of .socket units and its descriptor store. */
#define NOTIFY_GIVEN_FIRST 3
#define NOTIFY_GIVEN_MAX   65536
struct notify_given {
	size_t n, at;
	struct str names; /* of those not taken yet; of the environment */
};
/* @pid, @fds and @names: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES (NULL: not set), @me: our process.
 * Nothing, and 0, when they are meant for another process; -EINVAL when they cannot be read or do
 * not fit together. Pure. */
int notify_given_parse(const char *pid, const char *fds, const char *names, long me,
		       struct notify_given *ret) _must_check_;
/* The same from the environment; they are made close-on-exec. */
int notify_given(struct notify_given *ret) _must_check_;
/* The next one, which is the caller's from now on; its name is borrowed, "" when it has none. */
bool notify_given_next(struct notify_given *g, int *ret_fd, struct str *ret_name);
