/* SPDX-License-Identifier: Apache-2.0
 * config.h: the environment variables of ztunnel (ztunnel-spec 2) as one struct.
 * docs/ztunnel-config.md lists them.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/os/sock.h"
#include "ztunnel/config_istiod.h"
#include "ztunnel/data/worker.h"

struct err;
struct jsonw;

struct config {
	struct worker_config workers; /* its texts belong to this struct */
	struct listener_opts listeners;
	/* Exactly one of LOCAL_XDS_PATH, LOCAL_XDS and istiod.xds.host is set. */
	char *state_path, *state_inline;
	struct config_istiod istiod; /* .ca.host NULL: the development CA */
	/* Where the state from istiod is kept; the first that can be used, "" : none. */
	char *state_dirs[2];
	char *node; /* NODE_NAME, may be empty */
	char *cluster;
	char *zds_path;
	uint32_t zds_version;
	char *ca_dir;
	uint64_t secret_ttl_s;
	uint64_t drain_ms;
	uint16_t admin_port, stats_port, ready_port;
	char *admin_socket; /* empty: none */
	bool handover;	    /* AMBIENT_HANDOVER: two generations share the surfaces' addresses */
	char *crl_path;	    /* empty: none */
	char *log_filter;
	char *resolv_conf; /* AMBIENT_DNS_RESOLV_CONF: whom the DNS proxy asks */
};

/* @env: reads a variable (getenv). @all: as environ, for variables that are known by a prefix;
 * NULL: none. 0, or -EINVAL with "invalid env var NAME=VALUE (reason)". On failure nothing needs to
 * be freed. Warnings about variables that this version does not know to honour go to @warn (one
 * call each). */
int config_load(struct config *c, const char *(*env)(const char *name), const char *const *all,
		long ncpus, void (*warn)(const char *text), struct err *err) _must_check_;
void config_free(struct config *c);
/* The DNS proxy is on, and where an agent's rules lead to. */
bool config_dns_is_captured(const struct config *c);
/* Members of the `config` object of /config_dump. */
void config_write(const struct config *c, struct jsonw *w);
