/* SPDX-License-Identifier: Apache-2.0
 * ring.h: a bounded queue of records of different sizes between one producer thread and one
 * consumer thread, without locks.
 *
 * Theory of operation. @head and @tail count bytes for ever; position = count modulo size. A record
 * is never split: when it does not fit before the end, a filler takes the rest. The producer
 * releases @head after the record is written, the consumer acquires it; the consumer releases @tail
 * after it is done with a record, the producer acquires it before it overwrites.
 */
#pragma once
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
	char *data;
	size_t size;		    /* power of two */
	_Atomic(size_t) head, tail; /* on different writers; sharing a line is fine at this rate */
};
void ring_init(struct ring *r, size_t size);
void ring_fini(struct ring *r);
/* Producer: room for one record of @n bytes, or NULL when full. Fill it, then ring_commit(). */
void *ring_reserve(struct ring *r, size_t n);
void ring_commit(struct ring *r);
/* Consumer: the oldest record and its size, or NULL; then ring_release(). */
void *ring_peek(struct ring *r, size_t *ret_n);
void ring_release(struct ring *r);
