/* SPDX-License-Identifier: Apache-2.0
 * closer.h: closes descriptors whose closing waits, on a thread of its own.
 *
 * A netlink socket to nf_tables that removed something waits in close() until the kernel has freed
 * it, a grace period of read-copy-update: 5 to 15 ms each, measured on Linux 6.18.
 */
#pragma once

/* Takes @fd (>= 0). It is closed soon, in order; at once and here when too many wait already or no
 * thread can be started. Any thread. */
void closer_close(int fd);
