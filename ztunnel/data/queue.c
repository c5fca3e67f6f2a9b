/* SPDX-License-Identifier: Apache-2.0
 * queue.c: memory that a connection owns only while somebody is slow: undelivered bytes and pipes.
 *
 * Chunks have room to grow, so that a peer that sends single bytes cannot make a byte cost more
 * than a few. What is allocated is what is counted (LIMIT_UNDELIVERED_BYTES).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/os/fd.h"
#include "ztunnel/data/data.h"

#define CHUNK_MIN (16u << 10)
#define PIPE_MIN  (256u << 10) /* smaller pipes are not worth having (datapath.md 6) */

static void account(struct worker *w, int64_t delta)
{
	w->undelivered += (size_t)delta;
	stat_add(&w->st.undelivered, delta);
	stat_add(&w->st.buffers, delta);
}

int queue_add(struct worker *w, struct queue *q, const uint8_t *p, size_t n)
{
	struct chunk *c = q->tail;
	size_t k = c != NULL ? c->cap - c->n : 0, cap;

	if (k > n)
		k = n;
	if (k != 0) {
		memcpy(c->data + c->n, p, k);
		c->n += (uint32_t)k;
		q->bytes += k;
	}
	if (k == n)
		return 0;
	cap = n - k > CHUNK_MIN ? n - k : CHUNK_MIN;
	c = malloc(sizeof(*c) + cap);
	if (c == NULL)
		return -ENOMEM;
	*c = (struct chunk){.n = (uint32_t)(n - k), .cap = (uint32_t)cap};
	memcpy(c->data, p + k, n - k);
	q->bytes += n - k;
	account(w, (int64_t)cap);
	if (q->tail != NULL)
		q->tail->next = c;
	else
		q->head = c;
	q->tail = c;
	return 0;
}

static void free_head(struct worker *w, struct queue *q)
{
	struct chunk *c = q->head;

	q->head = c->next;
	if (q->head == NULL)
		q->tail = NULL;
	account(w, -(int64_t)c->cap);
	free(c);
}

void queue_drop(struct worker *w, struct queue *q, size_t n)
{
	q->bytes -= n;
	while (n != 0) {
		struct chunk *c = q->head;
		size_t k = c->n - c->off < n ? c->n - c->off : n;

		c->off += (uint32_t)k;
		n -= k;
		if (c->off == c->n)
			free_head(w, q);
	}
}

void queue_clear(struct worker *w, struct queue *q)
{
	while (q->head != NULL)
		free_head(w, q);
	q->bytes = 0;
}

static struct pipe_pair *pipe_new(struct worker *w)
{
	struct pipe_pair *p;
	int fds[2], cap;

	if (w->npipes >= PIPES_MAX || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return NULL;
	cap = fcntl(fds[1], F_SETPIPE_SZ, (int)PIPE_BYTES);
	if (cap < (int)PIPE_MIN)
		cap = fcntl(fds[1], F_SETPIPE_SZ, (int)PIPE_MIN);
	p = cap >= (int)PIPE_MIN ? calloc(1, sizeof(*p)) : NULL;
	if (p == NULL) {
		(void)xclose(fds[0]);
		(void)xclose(fds[1]);
		return NULL;
	}
	p->rd = fds[0];
	p->wr = fds[1];
	p->cap = (size_t)cap;
	w->npipes++;
	return p;
}

struct pipe_pair *pipe_get(struct worker *w)
{
	struct list *n = list_pop(&w->pipes);
	struct pipe_pair *p;

	if (n != NULL) {
		w->nidle_pipes--;
		p = container_of(n, struct pipe_pair, node);
	} else {
		p = pipe_new(w);
	}
	if (p != NULL)
		stat_add(&w->st.buffers, (int64_t)p->cap);
	return p;
}

static void pipe_close(struct worker *w, struct pipe_pair *p)
{
	(void)xclose(p->rd);
	(void)xclose(p->wr);
	free(p);
	w->npipes--;
}

void pipe_put(struct worker *w, struct pipe_pair *p)
{
	stat_add(&w->st.buffers, -(int64_t)p->cap);
	if (p->bytes != 0 || w->nidle_pipes >= PIPES_KEPT) {
		pipe_close(w, p);
		return;
	}
	list_prepend(&w->pipes, &p->node);
	w->nidle_pipes++;
}

void pipes_free(struct worker *w)
{
	struct list *n;

	while ((n = list_pop(&w->pipes)) != NULL)
		pipe_close(w, container_of(n, struct pipe_pair, node));
}
