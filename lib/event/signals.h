/* SPDX-License-Identifier: Apache-2.0
 * signals.h: a process' signals as events of one loop.
 */
#pragma once
#include <signal.h>
#include "lib/base/attr.h"
#include "lib/base/err.h"
#include "lib/event/loop.h"

/* Embed it; recover your object with container_of. .w.fd is its own. */
struct signals {
	struct watch w;
	void (*fn)(struct signals *s, int signo);
};

/* From here on the signals of @set come as calls of @fn on @l's thread, and SIGPIPE is ignored.
 * Call before the process has other threads: they inherit that the signals are blocked. Returns 0
 * or -errno; then nothing is to be undone. */
int signals_watch(struct loop *l, struct signals *s, const sigset_t *set,
		  void (*fn)(struct signals *, int signo), struct err *err) _must_check_;
/* They stay blocked. Safe on a zeroed object and after a failure. */
void signals_unwatch(struct loop *l, struct signals *s);
