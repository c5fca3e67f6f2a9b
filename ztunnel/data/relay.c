/* SPDX-License-Identifier: Apache-2.0
 * relay.c: bytes between two sockets: by copy at first, by splice when a direction is busy.
 *
 * Theory of operation. Each direction is alone: take what is pending (bytes the target refused, or
 * a pipe's content) to the target; then read; then write. It stops when the target blocks, the
 * source is empty, or its budget for this turn is used; then `again` goes on in the next turn. Two
 * full copies in a row switch to splice with a pipe from the worker's pool, which goes back as soon
 * as source and pipe are empty: an idle connection owns nothing (datapath.md 6).
 *
 * End: EOF of the source, after everything pending, becomes shutdown(SHUT_WR) of the target. An
 * error on either socket resets both. Both directions done: both closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "ztunnel/data/data.h"

#define ROUNDS 4 /* per direction and turn: 256 KiB copied or 4 MiB spliced */

enum step { STEP_WAIT, STEP_MORE, STEP_FAILED };

static void count(struct conn *c, const struct dir *d, size_t n)
{
	if (d == &c->r.fwd)
		conn_bytes(c, n, 0);
	else
		conn_bytes(c, 0, n);
}

static bool would_block(void)
{
	return errno == EAGAIN || errno == EINTR;
}

/* The kernel reports an error once, and then its reader is told "end": it must not believe that. */
static enum step write_failed(struct dir *d)
{
	d->to->broken = true;
	return STEP_FAILED;
}

/* Keeps what the target refused. */
static enum step keep(struct conn *c, struct dir *d, const uint8_t *p, size_t n)
{
	leg_blocked(c->pod->w, d->to);
	d->pend = malloc(n);
	if (d->pend == NULL)
		return STEP_FAILED;
	memcpy(d->pend, p, n);
	d->pend_off = 0;
	d->pend_n = (uint32_t)n;
	stat_add(&c->pod->w->st.buffers, (int64_t)n);
	return STEP_WAIT;
}

static void drop_pending(struct conn *c, struct dir *d)
{
	if (d->pend == NULL)
		return;
	stat_add(&c->pod->w->st.buffers, -(int64_t)d->pend_n);
	free(take_ptr(d->pend));
	d->pend_n = d->pend_off = 0;
}

static enum step flush_pending(struct conn *c, struct dir *d)
{
	ssize_t n;

	if (d->pend == NULL)
		return STEP_MORE;
	n = send(d->to->w.fd, d->pend + d->pend_off, d->pend_n - d->pend_off, MSG_NOSIGNAL);
	if (n < 0 && !would_block())
		return write_failed(d);
	if (n > 0) {
		d->pend_off += (uint32_t)n;
		count(c, d, (size_t)n);
	}
	if (d->pend_off != d->pend_n) {
		leg_blocked(c->pod->w, d->to);
		return STEP_WAIT;
	}
	drop_pending(c, d);
	return STEP_MORE;
}

static enum step flush_pipe(struct conn *c, struct dir *d)
{
	while (d->pipe != NULL && d->pipe->bytes != 0) {
		ssize_t n = splice(d->pipe->rd, NULL, d->to->w.fd, NULL, d->pipe->bytes,
				   SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

		if (n <= 0 && !would_block())
			return write_failed(d);
		if (n <= 0) {
			leg_blocked(c->pod->w, d->to);
			return STEP_WAIT;
		}
		d->pipe->bytes -= (size_t)n;
		count(c, d, (size_t)n);
	}
	return STEP_MORE;
}

static void give_pipe_back(struct conn *c, struct dir *d)
{
	d->full_reads = 0;
	if (d->pipe != NULL)
		pipe_put(c->pod->w, take_ptr(d->pipe));
}

/* The source is empty, at its end, or broken. */
static enum step read_result(struct conn *c, struct dir *d, ssize_t n)
{
	if (n == 0 && d->from->broken)
		return STEP_FAILED;
	if (n == 0) {
		d->eof = true;
		give_pipe_back(c, d);
		return STEP_MORE;
	}
	if (!would_block())
		return STEP_FAILED;
	d->from->rd_ready = false;
	give_pipe_back(c, d);
	return STEP_WAIT;
}

static enum step move_copy(struct conn *c, struct dir *d)
{
	struct worker *w = c->pod->w;
	ssize_t n = recv(d->from->w.fd, w->rx, COPY_BYTES, 0), sent;

	if (n <= 0)
		return read_result(c, d, n);
	d->full_reads = (size_t)n == COPY_BYTES ? (uint8_t)(d->full_reads + 1) : 0;
	if ((size_t)n < COPY_BYTES && !d->from->rdhup)
		d->from->rd_ready = false;
	sent = send(d->to->w.fd, w->rx, (size_t)n, MSG_NOSIGNAL);
	if (sent < 0 && !would_block())
		return write_failed(d);
	if (sent < 0)
		sent = 0;
	count(c, d, (size_t)sent);
	if (sent < n)
		return keep(c, d, w->rx + sent, (size_t)(n - sent));
	return STEP_MORE;
}

static enum step move_splice(struct conn *c, struct dir *d)
{
	ssize_t n = splice(d->from->w.fd, NULL, d->pipe->wr, NULL, d->pipe->cap,
			   SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

	if (n < 0 && !would_block())
		return STEP_FAILED;
	if (n <= 0) { /* splice stops in front of urgent data: only recv() knows what is there */
		give_pipe_back(c, d);
		return move_copy(c, d);
	}
	d->pipe->bytes += (size_t)n;
	return flush_pipe(c, d);
}

static enum step dir_once(struct conn *c, struct dir *d)
{
	enum step s = flush_pending(c, d);

	if (s == STEP_MORE)
		s = flush_pipe(c, d);
	if (s != STEP_MORE)
		return s;
	if (d->eof) {
		if (!d->fin_sent && shutdown(d->to->w.fd, SHUT_WR) < 0)
			return STEP_FAILED;
		d->fin_sent = true;
		return STEP_WAIT;
	}
	if (!d->from->rd_ready)
		return STEP_WAIT;
	if (d->full_reads >= 2 && d->pipe == NULL)
		d->pipe = pipe_get(c->pod->w);
	return d->pipe != NULL ? move_splice(c, d) : move_copy(c, d);
}

static enum step dir_run(struct conn *c, struct dir *d)
{
	enum step s = STEP_MORE;

	if (d->fin_sent || d->to->wr_block)
		return STEP_WAIT;
	for (int i = 0; i < ROUNDS && s == STEP_MORE; i++)
		s = dir_once(c, d);
	return s;
}

static void run_both(struct conn *c)
{
	enum step a = dir_run(c, &c->r.fwd), b;

	/* also after a failed write: what the broken end had sent before comes first */
	b = dir_run(c, &c->r.back);
	if (a == STEP_FAILED || b == STEP_FAILED) {
		conn_end(c, END_RESET, FLAG_NONE, NULL); /* a reset is an ordinary end */
		return;
	}
	if (c->r.fwd.fin_sent && c->r.back.fin_sent)
		conn_end(c, END_CLOSE, FLAG_NONE, NULL);
	else if (c->r.fwd.fin_sent || c->r.back.fin_sent)
		conn_half_closed(c);
	if (c->state != CS_DEAD && (a == STEP_MORE || b == STEP_MORE))
		loop_ready(c->pod->w->loop, &c->r.again);
}

static void on_again(struct ready *r)
{
	struct conn *c = container_of(r, struct conn, r.again);

	OBJ_CHECK(c, CONN_MAGIC);
	run_both(c);
}

/* A dead socket whose bytes have nowhere to go would otherwise be noticed only when the other side
 * reads again. */
static void on_event(struct conn *c, struct leg *l, uint32_t events)
{
	OBJ_CHECK(c, CONN_MAGIC);
	leg_events(l, events);
	run_both(c);
	if ((events & EPOLLERR) != 0 && c->state != CS_DEAD && leg_so_error(l) != 0)
		conn_end(c, END_RESET, FLAG_NONE, NULL);
}

static void on_app_event(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, app.w);

	on_event(c, &c->app, events);
}

static void on_up_event(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, r.up.w);

	on_event(c, &c->r.up, events);
}

void relay_start(struct conn *c)
{
	struct worker *w = c->pod->w;

	c->state = CS_OPEN;
	c->r.again.fn = on_again;
	c->r.fwd = (struct dir){.from = &c->app, .to = &c->r.up};
	c->r.back = (struct dir){.from = &c->r.up, .to = &c->app};
	if (leg_watch(w, &c->app, on_app_event) < 0 || leg_watch(w, &c->r.up, on_up_event) < 0)
		conn_end(c, END_RESET, FLAG_CONNECT, "io error: cannot watch the socket");
	else if (c->r.up.rd_ready) /* what came with the end of connect() has no event of its own */
		loop_ready(w->loop, &c->r.again);
}

void relay_stop(struct conn *c)
{
	loop_ready_cancel(&c->r.again);
	drop_pending(c, &c->r.fwd);
	drop_pending(c, &c->r.back);
	give_pipe_back(c, &c->r.fwd);
	give_pipe_back(c, &c->r.back);
}
