/* SPDX-License-Identifier: Apache-2.0
 * demand.h: what is asked of istiod in on-demand mode, and which questions are answered. Pure.
 *
 * A key is "network/ip" or "namespace/hostname" (ztunnel-spec 9.6). One question per key, however
 * many wait for it. istiod tells nobody when an address that it did not know comes into being: its
 * pushes go by the names of resources (istiod-ambient-spec 1.4). So an answer is remembered for
 * DEMAND_FRESH_MS only, and a question that is asked again is a new one. Control thread; times are
 * monotonic, and no callback may call back into it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

#define DEMAND_FRESH_MS 1000
#define DEMAND_KEY_MAX	384 /* a namespace, a slash and a hostname, or an address */

struct demand;
enum demand_reply {
	DEMAND_WAIT,  /* it will be told */
	DEMAND_KNOWN, /* it was answered a moment ago */
	DEMAND_FULL,  /* LIMIT_DEMAND_WAITING questions wait already */
};

struct demand *demand_new(void) _must_check_;
struct demand *demand_free(struct demand *d); /* NULL is fine; returns NULL */
enum demand_reply demand_ask(struct demand *d, struct str key, uint64_t now_ms) _must_check_;
/* istiod has said something about this name: it is, or it is not. False: nobody waits for it. */
bool demand_answer(struct demand *d, struct str key);
/* Questions that the server has not got; they count as sent afterwards. */
void demand_unsent(struct demand *d, void (*fn)(void *ctx, struct str key), void *ctx);
bool demand_has_unsent(const struct demand *d);
bool demand_has_answered(const struct demand *d); /* for demand_tell() */
/* The stream is gone: what was sent must be sent again. */
void demand_lost(struct demand *d);
/* Hands over what was answered, for those who wait; the state must show it by now. */
void demand_tell(struct demand *d, uint64_t now_ms, void (*fn)(void *ctx, struct str key),
		 void *ctx);
/* Gives up what nobody has answered within LIMIT_WORKLOAD_WAIT_MS, and forgets answers that are no
 * longer fresh. True while there is something left to expire. */
bool demand_expire(struct demand *d, uint64_t now_ms, void (*fn)(void *ctx, struct str key),
		   void *ctx);
/* Questions that wait for an answer. */
size_t demand_count(const struct demand *d);
