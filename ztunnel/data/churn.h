/* SPDX-License-Identifier: Apache-2.0
 * churn.h: when one worker alone accepts a pod's connections. Pure.
 *
 * Theory of operation. Every worker accepts for every pod, which spreads connections over the
 * cores. Connections that are over at once gain nothing by that and pay for it: each worker has
 * HBONE connections and loop turns of its own, so a record, a send and a wake-up serve fewer of
 * them (with two workers a fifth of the CPU of both proxies). So each pod has a home worker; while
 * the connections that come there are short, and it has time for more, the others stand back: they
 * stop watching the pod's listening sockets and look again after STAND_BACK_MS. Connections that
 * live, a busy home, a queue that it does not empty, or a pause bring them back.
 *
 * One for each pod, shared by the workers: the home worker writes, the others read.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define STAND_BACK_MS 50

struct churn { /* zeroed: nothing is known, all accept */
	/* relaxed everywhere: a hint, nothing is ordered by it */
	atomic_int level; /* rises with connections that end soon, falls with each that opens */
	atomic_uint busy; /* CPU time of the home worker's thread, per mille of the time */
	_Atomic uint64_t opened_ns; /* the last one, monotonic */
};

/* Home worker. @now_ns: monotonic. */
void churn_opened(struct churn *c, uint64_t now_ns);
void churn_ended(struct churn *c, uint64_t lived_ns);
/* It did not empty the queue in one turn. */
void churn_crowded(struct churn *c);
void churn_busy(struct churn *c, unsigned int permille);

/* Any worker: shall the others stand back? */
bool churn_stand_back(const struct churn *c, uint64_t now_ns);

/* How busy a thread was since the last look. Zeroed: never looked at. */
struct busy {
	uint64_t at_ns, cpu_ns;
	unsigned int permille;
};
/* @now_ns: monotonic; true when it is time for busy_look(). */
bool busy_due(const struct busy *b, uint64_t now_ns);
void busy_look(struct busy *b, uint64_t now_ns, uint64_t cpu_ns);
