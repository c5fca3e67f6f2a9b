/* SPDX-License-Identifier: Apache-2.0
 * list.h: intrusive doubly linked list. Not thread-safe.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/mem.h"

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
/* True while the node is on some list (nodes are zeroed or initialised before use). */
static inline bool list_linked(const struct list *n)
{
	return n->next != NULL && n->next != n;
}
static inline void list_insert_between(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}
static inline void list_append(struct list *head, struct list *n)
{
	list_insert_between(n, head->prev, head);
}
static inline void list_prepend(struct list *head, struct list *n)
{
	list_insert_between(n, head, head->next);
}
/* Safe on a node that is not linked. */
static inline void list_remove(struct list *n)
{
	if (n->next == NULL)
		return;
	n->next->prev = n->prev;
	n->prev->next = n->next;
	list_init(n);
}
static inline struct list *list_pop(struct list *head)
{
	struct list *n = head->next;

	if (n == head)
		return NULL;
	list_remove(n);
	return n;
}
/* Moves everything of @from to the end of @to. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}
#define list_for_each(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_for_each_safe(it, head)                                                               \
	for (struct list *it = (head)->next, *it##_next = it->next; it != (head);                  \
	     it = it##_next, it##_next = it->next)
