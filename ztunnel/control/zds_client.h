/* SPDX-License-Identifier: Apache-2.0
 * zds_client.h: our end of the agent's socket: receives pods, acknowledges each message in order.
 * Control thread. Source: ztunnel-spec 3, cni-spec 4; version 2 (socket custody): proto/zds.proto.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct loop;
struct pods;
struct workers;
struct zds_client;

/* Connects to @path and keeps trying (20 ms doubling to 15 s). @version: what the hello says. */
struct zds_client *zds_client_new(struct loop *l, const char *path, uint32_t version,
				  struct pods *pods, struct workers *workers) _must_check_;
struct zds_client *zds_client_free(struct zds_client *z); /* closes; NULL */
/* Ready: a whole snapshot is in on the present connection and nothing is pending
 * (ztunnel-spec 3.6). @ret_why, when not ready: static text. */
bool zds_client_ready(const struct zds_client *z, const char **ret_why);
