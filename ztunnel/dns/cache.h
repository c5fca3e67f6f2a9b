/* SPDX-License-Identifier: Apache-2.0
 * cache.h: answers of resolvers, kept for as long as their records say. Pure.
 *
 * One cache is one pod's, on one worker. What a pod is told comes from its own namespace, where it
 * may have put anything between itself and the resolver, and a resolver may answer by who asks. So
 * nothing is shared between pods: neither can one put words into another's cache, nor can it hear
 * by the time an answer takes what others ask.
 *
 * An answer is kept whole and given to the same question only: name (without case), type, and the
 * bits that change answers. Records about other names that came with it answer nothing else, so
 * they can poison nothing. Kept are complete answers that say NOERROR or NXDOMAIN, without
 * signatures of transactions and options of EDNS, for the shortest lifetime in them (negative ones:
 * RFC 2308 5). Lifetimes are counted down in what is given out (RFC 1035 3.2.1), and its addresses
 * take turns. Memory is bounded in bytes; what was not asked for longest goes first.
 */
#pragma once
#include "lib/base/hash.h"
#include "lib/base/list.h"
#include "ztunnel/dns/msg.h"

#define DNS_CACHE_MAX_S		 3600
#define DNS_CACHE_NEGATIVE_MAX_S 300

/* Of all caches of a worker; zeroed at first. */
struct dns_cache_sum {
	size_t bytes, entries;
	uint64_t evicted; /* for want of room */
};

struct dns_cache {
	struct htab table;
	struct list used; /* asked for longest ago first */
	size_t bytes, max_bytes;
	struct dns_cache_sum *sum;
};
/* @max_bytes 0: it keeps nothing. @sum is borrowed for good. */
void dns_cache_init(struct dns_cache *c, size_t max_bytes, struct dns_cache_sum *sum);
void dns_cache_fini(struct dns_cache *c);
void dns_cache_clear(struct dns_cache *c);

/* Whether the answer to @q may be that of another question, for which dns_question_same(). */
bool dns_question_shared(const struct dns_query *q);
bool dns_question_same(const struct dns_query *a, const struct dns_query *b);
uint64_t dns_question_hash(const struct dns_query *q); /* of what dns_question_same() compares */

/* Seconds that @answer (dns_is_answer() is true) to @q may be kept; 0: not at all. */
uint32_t dns_answer_lifetime(const struct dns_query *q, const uint8_t *answer, size_t n);
/* Keeps @answer (copied), if it may be kept and the letters of its question are those of @q. */
void dns_cache_put(struct dns_cache *c, const struct dns_query *q, const uint8_t *answer, size_t n,
		   uint64_t now_ms);
/* Writes the answer to @q to @out, for dns_forwarded(): as the resolver sent it, with the
 * question's letters and what is left of the lifetimes. Returns its length; 0: there is none of
 * @max bytes at most (the resolver cuts better than we could: it leaves the records that fit). */
size_t dns_cache_get(struct dns_cache *c, const struct dns_query *q, uint64_t now_ms, uint8_t *out,
		     size_t max);
/* Makes room: the entry that was not asked for longest is forgotten. False: it is empty. */
bool dns_cache_evict(struct dns_cache *c);
