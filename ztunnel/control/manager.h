/* SPDX-License-Identifier: Apache-2.0
 * manager.h: ztunnel as a service: readiness, status text and watchdog for the service manager.
 * Control thread. Source: sd_notify(3); without a service manager nothing happens.
 *
 * READY=1 goes out when every pod of the agent's snapshot is served, so a unit that has started has
 * taken over. The watchdog is fed only after the control loop and every worker have turned.
 */
#pragma once
#include <stdint.h>
#include "lib/base/attr.h"

struct loop;
struct strbuf;
struct workers;

struct manager;
/* @pending: writes what is still missing, nothing when all is served. */
struct manager *manager_new(struct loop *l, struct workers *workers,
			    void (*pending)(void *ctx, struct strbuf *out), void *ctx) _must_check_;
/* The process drains and needs up to @limit_ms: the manager is asked for that time. */
void manager_stopping(struct manager *s, uint64_t limit_ms);
struct manager *manager_free(struct manager *s); /* before the workers; NULL */
