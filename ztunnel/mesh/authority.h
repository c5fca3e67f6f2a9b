/* SPDX-License-Identifier: Apache-2.0
 * authority.h: names in the :authority of a CONNECT. Pure. Source: ztunnel-spec 4.11, 5.3;
 * security.md C1.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

/* A DNS name, and nothing that could be read as an address: letters, digits, '-', '_' and inner
 * dots; the last label is not a number in any base (octal, short and hex forms of IPv4). */
bool authority_is_hostname(struct str s);
/* "host:port", port 1-65535. *ret_host is a slice of @authority. */
bool authority_split(struct str authority, struct str *ret_host, uint16_t *ret_port) _must_check_;
