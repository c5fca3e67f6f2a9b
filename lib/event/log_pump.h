/* SPDX-License-Identifier: Apache-2.0
 * log_pump.h: goes on with log lines that standard error did not take at once
 * (lib/base/log_sink.h).
 *
 * Owner thread: the loop's. Lines may come from any thread.
 */
#pragma once
#include <stdatomic.h>

#include "lib/event/loop.h"

struct log_pump {
	struct loop *loop;
	struct watch w;
	struct msg m;
	atomic_bool posted;
};

/* @p must outlive @l: a message may be on its way. */
void log_pump_start(struct log_pump *p, struct loop *l);
void log_pump_stop(struct log_pump *p);
