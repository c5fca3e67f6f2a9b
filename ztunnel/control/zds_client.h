/* SPDX-License-Identifier: Apache-2.0
 * zds_client.h: our end of the agent's socket: receives pods, acknowledges each message in order.
 * Control thread. Source: ztunnel-spec 3, cni-spec 4; version 2 (socket custody): proto/zds.proto.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct certs;
struct loop;
struct pods;
struct workers;
struct zds_client;

/* Connects to @path and keeps trying (20 ms doubling to 15 s). @version and @dns: what the hello
 * says; @dns is that pods' queries are answered on MESH_PORT_DNS. */
struct zds_client *zds_client_new(struct loop *l, const char *path, uint32_t version, bool dns,
				  struct pods *pods, struct workers *workers, struct certs *certs)
	_must_check_;
/* The process drains: no pod is taken any more. An agent that can be told so keeps telling of
 * removals, also when it was started anew meanwhile; the connection to another one ends and is not
 * made again. */
void zds_client_drain(struct zds_client *z);
struct zds_client *zds_client_free(struct zds_client *z); /* closes; NULL */
/* Ready: a whole snapshot is in on the present connection and nothing is pending
 * (ztunnel-spec 3.6). @ret_why, when not ready: static text. */
bool zds_client_ready(const struct zds_client *z, const char **ret_why);
