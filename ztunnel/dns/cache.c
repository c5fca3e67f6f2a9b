/* SPDX-License-Identifier: Apache-2.0
 * cache.c: see cache.h.
 */
#include "ztunnel/dns/cache.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"

#define TYPE_SIG    24
#define TYPE_META   128 /* to 255: questions and transactions, no data (RFC 6895 3.1) */
#define TYPE_DATA   256
#define ENTRY_EXTRA 48 /* of the allocator and the table */

struct entry {
	struct hnode h;	  /* cache->table */
	struct list used; /* cache->used */
	uint64_t since_ms, until_ms;
	uint16_t type, n; /* bytes of msg */
	uint8_t bits, name_n;
	uint8_t msg[]; /* as received: the question's name is in it */
};

/* ---- questions ---- */

static bool is_data(uint16_t type)
{
	return type != 0 && type != DNS_OPT && (type < TYPE_META || type >= TYPE_DATA);
}

bool dns_question_shared(const struct dns_query *q)
{
	/* without RD the answer tells what the resolver happens to know */
	return q->question && q->plain && q->rd && q->class == DNS_CLASS_IN && is_data(q->type);
}

static unsigned int bits_of(const struct dns_query *q)
{
	return (q->ad ? 1u : 0) | (q->cd ? 2u : 0) | (q->edns ? 4u : 0) | (q->dnssec_ok ? 8u : 0);
}

bool dns_question_same(const struct dns_query *a, const struct dns_query *b)
{
	return a->type == b->type && a->class == b->class && a->rd == b->rd &&
	       bits_of(a) == bits_of(b) && dns_name_eq(&a->name, &b->name);
}

uint64_t dns_question_hash(const struct dns_query *q)
{
	struct dns_name low;

	dns_name_lower(&q->name, &low);
	return hash_mix(hash_bytes(low.b, low.n), (uint64_t)q->type << 8 | bits_of(q));
}

/* ---- lifetimes ---- */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* What a record must not be in an answer that is given again. */
static bool is_of_one_answer(const struct dns_record *r)
{
	if (r->type == DNS_OPT) /* options, or more of the error code */
		return r->len != 0 || (r->ttl >> 24) != 0;
	return !is_data(r->type) || r->type == TYPE_SIG;
}

uint32_t dns_answer_lifetime(const struct dns_query *q, const uint8_t *answer, size_t n)
{
	enum dns_rcode rcode = dns_rcode_of(answer);
	uint32_t ttl = DNS_CACHE_MAX_S, negative = 0, soa;
	struct dns_records it;
	struct dns_record r;
	bool found = false;

	if ((rcode != DNS_NOERROR && rcode != DNS_NXDOMAIN) || dns_truncated(answer))
		return 0;
	dns_records_init(&it, answer, n);
	while (dns_records_next(&it, &r)) {
		if (is_of_one_answer(&r))
			return 0;
		if (r.type == DNS_OPT)
			continue;
		ttl = least(ttl, r.ttl);
		if (r.section == DNS_ANSWERS && r.type == q->type && r.class == q->class)
			found = true;
		if (r.section == DNS_AUTHORITY && dns_soa_ttl(answer, n, &r, &soa))
			negative = least(soa, DNS_CACHE_NEGATIVE_MAX_S);
	}
	if (it.broken)
		return 0;
	/* a negative answer that does not say for how long, or a referral, is not kept */
	return found && rcode == DNS_NOERROR ? ttl : least(ttl, negative);
}

/* ---- entries ---- */

static size_t size_of(size_t n)
{
	return sizeof(struct entry) + n + ENTRY_EXTRA;
}

static void drop(struct dns_cache *c, struct entry *e)
{
	c->bytes -= size_of(e->n);
	c->sum->bytes -= size_of(e->n);
	c->sum->entries--;
	list_remove(&e->used);
	htab_remove(&c->table, &e->h);
	free(e);
}

static bool is_for(const struct entry *e, const struct dns_query *q)
{
	struct dns_name name = {.n = e->name_n};

	if (e->type != q->type || e->bits != bits_of(q) || e->name_n != q->name.n)
		return false;
	memcpy(name.b, e->msg + DNS_HEADER_BYTES, name.n);
	return dns_name_eq(&name, &q->name);
}

static struct entry *find(const struct dns_cache *c, const struct dns_query *q, uint64_t hash)
{
	for (struct hnode *n = htab_first(&c->table, hash); n != NULL; n = htab_next(n)) {
		struct entry *e = container_of(n, struct entry, h);

		if (is_for(e, q))
			return e;
	}
	return NULL;
}

static struct entry *oldest(const struct dns_cache *c)
{
	return list_empty(&c->used) ? NULL : container_of(c->used.next, struct entry, used);
}

bool dns_cache_evict(struct dns_cache *c)
{
	struct entry *e = oldest(c);

	if (e == NULL)
		return false;
	drop(c, e);
	c->sum->evicted++;
	return true;
}

void dns_cache_init(struct dns_cache *c, size_t max_bytes, struct dns_cache_sum *sum)
{
	*c = (struct dns_cache){.max_bytes = max_bytes, .sum = sum};
	htab_init(&c->table);
	list_init(&c->used);
}

void dns_cache_clear(struct dns_cache *c)
{
	while (!list_empty(&c->used))
		drop(c, oldest(c));
}

void dns_cache_fini(struct dns_cache *c)
{
	dns_cache_clear(c);
	htab_fini(&c->table);
}

/* What is over anyway makes room first, one for each that comes. */
static void make_room(struct dns_cache *c, size_t size, uint64_t now_ms)
{
	struct entry *e = oldest(c);

	if (e != NULL && e->until_ms <= now_ms)
		drop(c, e);
	while (c->bytes + size > c->max_bytes && dns_cache_evict(c))
		;
}

void dns_cache_put(struct dns_cache *c, const struct dns_query *q, const uint8_t *answer, size_t n,
		   uint64_t now_ms)
{
	size_t size = size_of(n);
	uint64_t hash;
	uint32_t ttl;
	struct entry *e;

	/* one answer is not worth all others */
	if (n > DNS_MESSAGE_MAX || size > c->max_bytes / 4 || !dns_question_shared(q) ||
	    !dns_same_letters(answer, q))
		return;
	ttl = dns_answer_lifetime(q, answer, n);
	if (ttl == 0)
		return;
	hash = dns_question_hash(q);
	e = find(c, q, hash);
	if (e != NULL)
		drop(c, e);
	make_room(c, size, now_ms);
	e = malloc(sizeof(*e) + n);
	if (e == NULL)
		return;
	*e = (struct entry){
		.since_ms = now_ms,
		.until_ms = now_ms + ttl * 1000ull,
		.type = q->type,
		.n = (uint16_t)n,
		.bits = (uint8_t)bits_of(q),
		.name_n = q->name.n,
	};
	memcpy(e->msg, answer, n);
	list_append(&c->used, &e->used);
	htab_insert(&c->table, &e->h, hash);
	c->bytes += size;
	c->sum->bytes += size;
	c->sum->entries++;
}

/* ---- what is given out ---- */

/* The data of the addresses that were asked for, each one place on: who takes the first of them
 * spreads over all, as with a resolver that does so. */
static void take_turns(struct entry *e)
{
	size_t len = e->type == DNS_A ? 4 : 16, last = 0, owner = 0, owner_n = 0, start;
	uint8_t first[16];
	struct dns_records it;
	struct dns_record r;

	if (e->type != DNS_A && e->type != DNS_AAAA)
		return;
	dns_records_init(&it, e->msg, e->n);
	for (start = it.at; dns_records_next(&it, &r) && r.section == DNS_ANSWERS; start = it.at) {
		size_t n = r.ttl_at - 4 - start; /* type and class are before it */

		/* of the first one's owner, as it is written there: others keep their place */
		if (r.type != e->type || r.class != DNS_CLASS_IN || r.len != len ||
		    (last != 0 && (n != owner_n || memcmp(e->msg + start, e->msg + owner, n) != 0)))
			continue;
		if (last == 0) {
			owner = start;
			owner_n = n;
			memcpy(first, e->msg + r.at, len);
		} else {
			memcpy(e->msg + last, e->msg + r.at, len);
		}
		last = r.at;
	}
	if (last != 0)
		memcpy(e->msg + last, first, len);
}

static void count_down(uint8_t *p, size_t n, uint32_t age_s)
{
	struct dns_records it;
	struct dns_record r;

	dns_records_init(&it, p, n);
	while (dns_records_next(&it, &r))
		if (r.type != DNS_OPT)
			dns_set_ttl(p, &r, r.ttl > age_s ? r.ttl - age_s : 0);
	bug_on(it.broken);
}

size_t dns_cache_get(struct dns_cache *c, const struct dns_query *q, uint64_t now_ms, uint8_t *out,
		     size_t max)
{
	struct entry *e;

	if (c->table.count == 0 || !dns_question_shared(q))
		return 0;
	e = find(c, q, dns_question_hash(q));
	if (e == NULL)
		return 0;
	if (e->until_ms <= now_ms) {
		drop(c, e);
		return 0;
	}
	if (e->n > max)
		return 0;
	list_remove(&e->used);
	list_append(&c->used, &e->used);
	memcpy(out, e->msg, e->n);
	count_down(out, e->n, (uint32_t)((now_ms - e->since_ms) / 1000));
	dns_set_letters(out, q);
	take_turns(e);
	return e->n;
}
