/* SPDX-License-Identifier: Apache-2.0
 * extack.h: the kernel's errors as sentences. Private to nft/. Pure.
 */
#pragma once
#include <linux/netlink.h>
#include "lib/base/attr.h"

struct err;

/* The kernel's own words in an NLMSG_ERROR message (NETLINK_EXT_ACK), or NULL. They live in @nlh.
 * A message that is cut off or malformed has none. */
const char *nft_extack_text(const struct nlmsghdr *nlh);

/* Fills @err for the kernel's answer @code (positive errno) to the operation described by @fmt.
 * @text: the kernel's words or "". @needs: the kernel feature the operation stands on, or NULL; it
 * is named when the kernel says that it knows no such thing. Returns -@code. */
int nft_kernel_error(struct err *err, int code, const char *text, const char *needs,
		     const char *fmt, ...) _printf_(5, 6);
