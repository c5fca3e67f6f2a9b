/* SPDX-License-Identifier: Apache-2.0
 * signals.c: see signals.h.
 */
#include "lib/event/signals.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lib/base/list.h"
#include "lib/os/fd.h"

static void on_readable(struct watch *w, uint32_t events)
{
	struct signals *s = container_of(w, struct signals, w);
	struct signalfd_siginfo si;

	(void)events;
	while (w->added && read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		s->fn(s, (int)si.ssi_signo);
}

int signals_watch(struct loop *l, struct signals *s, const sigset_t *set,
		  void (*fn)(struct signals *, int signo), struct err *err)
{
	int fd, r;

	*s = (struct signals){.fn = fn};
	if (sigprocmask(SIG_BLOCK, set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_errno(err, errno, "block signals");
	fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_errno(err, errno, "signalfd");
	r = loop_watch(l, &s->w, fd, EPOLLIN, on_readable);
	if (r == 0)
		return 0;
	(void)xclose(fd);
	return err_errno(err, -r, "watch signals");
}

void signals_unwatch(struct loop *l, struct signals *s)
{
	if (!s->w.added)
		return;
	loop_unwatch(l, &s->w);
	(void)xclose(s->w.fd);
}
