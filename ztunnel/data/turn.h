/* SPDX-License-Identifier: Apache-2.0
 * turn.h: what happens once per loop turn, after the events; and the end of a drain.
 */
#pragma once
struct worker;
struct ready;

/* Makes turn_run() run in this iteration (or the next, when called after it). Idempotent. */
void turn_request(struct worker *w);
void turn_run(struct ready *r);
/* While draining: reports to the control thread once nothing is open any more. */
void turn_check_drained(struct worker *w);
