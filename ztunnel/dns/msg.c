/* SPDX-License-Identifier: Apache-2.0
 * msg.c: see msg.h.
 *
 * Every read is against the message's end. A name's compression pointer must lead backwards, and
 * only skip_name() meets one: it stops there, for what follows the pointer is where the record goes
 * on. The question's name may have none, since nothing is before it (RFC 1035 4.1.4).
 */
#include "ztunnel/dns/msg.h"

#include "lib/base/bug.h"

#define FLAG_QR	    0x8000u
#define FLAG_AA	    0x0400u
#define FLAG_TC	    0x0200u
#define FLAG_RD	    0x0100u
#define FLAG_RA	    0x0080u
#define FLAG_AD	    0x0020u
#define FLAG_CD	    0x0010u
#define LABEL_MAX   63
#define RECORD_HEAD 10 /* type, class, TTL, length */
#define OPT_BYTES   11
#define POINTER	    0xc0

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

static unsigned int opcode_of(uint16_t flags)
{
	return (flags >> 11) & 15;
}

/* A name without pointers at @at. Returns the offset behind it, or 0. */
static size_t take_name(const uint8_t *p, size_t n, size_t at, struct dns_name *ret)
{
	size_t len = 0;

	for (;;) {
		size_t label = at < n ? p[at] : POINTER;

		if (label > LABEL_MAX || at + 1 + label > n || len + 1 + label > DNS_NAME_MAX)
			return 0;
		memcpy(ret->b + len, p + at, 1 + label);
		len += 1 + label;
		at += 1 + label;
		if (label == 0)
			break;
	}
	ret->n = (uint8_t)len;
	return at;
}

/* Any name. Returns the offset behind it, or 0. */
static size_t skip_name(const uint8_t *p, size_t n, size_t at)
{
	size_t start = at;

	for (;;) {
		size_t label = at < n ? p[at] : LABEL_MAX + 1;

		if ((label & POINTER) == POINTER) {
			if (at + 2 > n || (get16(p + at) & 0x3fffu) >= start)
				return 0;
			return at + 2;
		}
		if (label > LABEL_MAX || at + 1 + label > n || at - start > DNS_NAME_MAX)
			return 0;
		at += 1 + label;
		if (label == 0)
			return at;
	}
}

/* Name, type and class at @at: the offset behind them, or 0. */
static size_t take_question(const uint8_t *p, size_t n, struct dns_query *q)
{
	size_t at = take_name(p, n, DNS_HEADER_BYTES, &q->name);

	if (at == 0 || at + 4 > n)
		return 0;
	q->type = get16(p + at);
	q->class = get16(p + at + 2);
	q->question = true;
	return at + 4;
}

/* One resource record at @at. Returns the offset behind it, or 0. */
static size_t take_record(const uint8_t *p, size_t n, size_t at, bool additional,
			  struct dns_query *q)
{
	size_t head = skip_name(p, n, at), end;

	if (head == 0 || head + RECORD_HEAD > n)
		return 0;
	end = head + RECORD_HEAD + get16(p + head + 8);
	if (end > n)
		return 0;
	if (get16(p + head) != DNS_OPT) {
		q->plain = false;
		return end;
	}
	/* RFC 6891 6.1.1: once, among the additional records, and it belongs to the root */
	if (!additional || q->edns || head != at + 1)
		return 0;
	q->edns = true;
	q->payload = get16(p + head + 2) > DNS_UDP_BYTES ? get16(p + head + 2) : DNS_UDP_BYTES;
	q->edns_version = p[head + 5];
	q->dnssec_ok = (p[head + 6] & 0x80) != 0;
	if (p[head + 4] != 0 || (get16(p + head + 6) & 0x7fff) != 0 || end != head + RECORD_HEAD)
		q->plain = false;
	return end;
}

enum dns_kind dns_parse(const uint8_t *p, size_t n, struct dns_query *ret)
{
	size_t at, others, additional;
	uint16_t flags;

	if (n < DNS_HEADER_BYTES)
		return DNS_KIND_NONE;
	flags = get16(p + 2);
	*ret = (struct dns_query){.id = get16(p),
				  .opcode = (uint8_t)opcode_of(flags),
				  .rd = (flags & FLAG_RD) != 0,
				  .ad = (flags & FLAG_AD) != 0,
				  .cd = (flags & FLAG_CD) != 0,
				  .plain = (flags & ~(FLAG_RD | FLAG_AD | FLAG_CD)) == 0,
				  .payload = DNS_UDP_BYTES};
	if ((flags & FLAG_QR) != 0)
		return DNS_KIND_RESPONSE;
	if (ret->opcode != 0)
		return DNS_KIND_NOTIMP;
	at = get16(p + 4) == 1 ? take_question(p, n, ret) : 0;
	others = (size_t)get16(p + 6) + get16(p + 8);
	additional = get16(p + 10);
	/* a record has 11 bytes at least, so the message's length bounds this */
	for (size_t i = 0; at != 0 && i < others + additional; i++)
		at = take_record(p, n, at, i >= others, ret);
	if (at == 0) {
		ret->edns = false;
		ret->payload = DNS_UDP_BYTES;
		return DNS_KIND_BROKEN;
	}
	ret->end = at;
	return DNS_KIND_QUERY;
}

bool dns_name_text(const struct dns_name *name, char ret[DNS_TEXT_MAX])
{
	size_t out = 0;

	if (name->n < 3)
		return false;
	for (size_t at = 0; name->b[at] != 0;) {
		size_t label = name->b[at++];

		if (out != 0)
			ret[out++] = '.';
		for (; label > 0; label--, at++) {
			char c = (char)name->b[at];

			if (c <= ' ' || c >= 0x7f || c == '.')
				return false;
			ret[out++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
		}
	}
	ret[out] = '\0';
	return true;
}

const char *dns_type_text(uint16_t type)
{
	static const struct {
		uint16_t type;
		const char *text;
	} t[] = {
		{DNS_A, "a"},	    {2, "ns"},	   {DNS_CNAME, "cname"}, {6, "soa"},
		{12, "ptr"},	    {13, "hinfo"}, {15, "mx"},		 {16, "txt"},
		{DNS_AAAA, "aaaa"}, {33, "srv"},   {35, "naptr"},	 {43, "ds"},
		{46, "rrsig"},	    {47, "nsec"},  {48, "dnskey"},	 {52, "tlsa"},
		{64, "svcb"},	    {65, "https"}, {255, "any"},	 {257, "caa"},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		if (t[i].type == type)
			return t[i].text;
	return "other";
}

/* ---- answers ---- */

struct writer {
	uint8_t *p;
	size_t n, max;
	uint16_t answers;
	bool cut;
};

/* Bytes of the first @labels labels. */
static size_t labels_bytes(const struct dns_name *name, size_t labels)
{
	size_t at = 0;

	for (; labels > 0 && name->b[at] != 0; labels--)
		at += 1u + name->b[at];
	return at;
}

static bool room(struct writer *w, size_t n)
{
	if (w->cut || w->n + n > w->max)
		w->cut = true;
	return !w->cut;
}

/* Owner, type, class, TTL and length of a record. */
static void put_head(struct writer *w, size_t owner, uint16_t type, uint32_t ttl, size_t rdlen)
{
	put16(w->p + w->n, POINTER << 8 | owner);
	put16(w->p + w->n + 2, type);
	put16(w->p + w->n + 4, DNS_CLASS_IN);
	put32(w->p + w->n + 6, ttl);
	put16(w->p + w->n + 10, rdlen);
	w->n += 2 + RECORD_HEAD;
	w->answers++;
}

/* Returns the offset of the name that the addresses belong to. */
static size_t put_alias(struct writer *w, const struct dns_query *q, const struct dns_reply *r)
{
	size_t n = labels_bytes(&q->name, r->alias_labels), at;

	if (r->alias_labels == 0 || !room(w, 2 + RECORD_HEAD + n + 1))
		return DNS_HEADER_BYTES;
	put_head(w, DNS_HEADER_BYTES, DNS_CNAME, r->ttl, n + 1);
	at = w->n;
	memcpy(w->p + w->n, q->name.b, n);
	w->p[w->n + n] = 0;
	w->n += n + 1;
	return at;
}

static void put_addresses(struct writer *w, const struct dns_query *q, const struct dns_reply *r)
{
	size_t owner = put_alias(w, q, r);

	for (size_t i = 0; i < r->naddrs; i++) {
		const struct ip_addr *a = &r->addrs[i];

		if (!room(w, 2u + RECORD_HEAD + a->len))
			return;
		put_head(w, owner, q->type, r->ttl, a->len);
		memcpy(w->p + w->n, a->b, a->len);
		w->n += a->len;
	}
}

/* RFC 6891 6.1.2: what we take over UDP is what the client said of itself (ztunnel-spec 11.4). */
static void put_edns(struct writer *w, const struct dns_query *q, enum dns_rcode rcode)
{
	uint8_t *p = w->p + w->n;

	memset(p, 0, OPT_BYTES);
	put16(p + 1, DNS_OPT);
	put16(p + 3, q->payload);
	p[5] = (uint8_t)((unsigned int)rcode >> 4);
	p[7] = q->dnssec_ok ? 0x80 : 0;
	w->n += OPT_BYTES;
}

size_t dns_reply_write(const struct dns_query *q, const struct dns_reply *r, uint8_t *out,
		       size_t max)
{
	size_t opt = q->edns ? OPT_BYTES : 0;
	struct writer w = {.p = out, .n = DNS_HEADER_BYTES, .max = max - opt};
	unsigned int flags;

	bug_on(max < DNS_UDP_BYTES || (r->rcode > 15 && !q->edns));
	if (q->question) {
		memcpy(out + w.n, q->name.b, q->name.n);
		w.n += q->name.n;
		put16(out + w.n, q->type);
		put16(out + w.n + 2, q->class);
		w.n += 4;
	}
	put_addresses(&w, q, r);
	flags = FLAG_QR | FLAG_RA | (unsigned int)q->opcode << 11 | (r->rcode & 15) |
		(q->rd ? FLAG_RD : 0) | (r->authoritative ? FLAG_AA : 0) | (w.cut ? FLAG_TC : 0);
	if (q->edns)
		put_edns(&w, q, r->rcode);
	put16(out, q->id);
	put16(out + 2, flags);
	put16(out + 4, q->question ? 1 : 0);
	put16(out + 6, w.answers);
	put16(out + 8, 0);
	put16(out + 10, q->edns ? 1 : 0);
	return w.n;
}

/* ---- what a resolver sent ---- */

/* Lengths of labels are below 'A', so they can be compared the same way. */
bool dns_name_eq(const struct dns_name *a, const struct dns_name *b)
{
	return str_eq_nocase((struct str){(const char *)a->b, a->n},
			     (struct str){(const char *)b->b, b->n});
}

void dns_name_lower(const struct dns_name *name, struct dns_name *ret)
{
	ret->n = name->n;
	for (size_t i = 0; i < name->n; i++)
		ret->b[i] = (uint8_t)ascii_lower((char)name->b[i]);
}

void dns_records_init(struct dns_records *it, const uint8_t *p, size_t n)
{
	struct dns_query q = {0};

	*it = (struct dns_records){.p = p, .n = n};
	if (n >= DNS_HEADER_BYTES && get16(p + 4) == 1)
		it->at = take_question(p, n, &q);
	it->broken = it->at == 0;
	for (int i = 0; !it->broken && i < DNS_SECTION_N; i++)
		it->left[i] = get16(p + 6 + 2 * i);
}

/* RFC 2181 8: with the highest bit it is none. */
static uint32_t lifetime(uint32_t ttl)
{
	return ttl > INT32_MAX ? 0 : ttl;
}

bool dns_records_next(struct dns_records *it, struct dns_record *ret)
{
	size_t section = 0, head;

	while (section < DNS_SECTION_N && it->left[section] == 0)
		section++;
	if (it->broken || section == DNS_SECTION_N) {
		it->broken = it->broken || it->at != it->n;
		return false;
	}
	it->broken = true; /* unless it is whole */
	head = skip_name(it->p, it->n, it->at);
	if (head == 0 || head + RECORD_HEAD > it->n)
		return false;
	*ret = (struct dns_record){.section = (enum dns_section)section,
				   .type = get16(it->p + head),
				   .class = get16(it->p + head + 2),
				   .ttl = get32(it->p + head + 4),
				   .ttl_at = head + 4,
				   .at = head + RECORD_HEAD,
				   .len = get16(it->p + head + 8)};
	if (ret->at + ret->len > it->n)
		return false;
	if (ret->type != DNS_OPT)
		ret->ttl = lifetime(ret->ttl);
	it->at = ret->at + ret->len;
	it->left[section]--;
	it->broken = false;
	return true;
}

bool dns_soa_ttl(const uint8_t *p, size_t n, const struct dns_record *r, uint32_t *ret)
{
	size_t end = r->at + r->len, at;
	uint32_t minimum;

	if (r->type != DNS_SOA || r->class != DNS_CLASS_IN || end > n)
		return false;
	at = skip_name(p, end, r->at);
	at = at != 0 ? skip_name(p, end, at) : 0;
	if (at == 0 || at + 20 != end) /* five numbers follow: RFC 1035 3.3.13 */
		return false;
	minimum = lifetime(get32(p + at + 16));
	*ret = minimum < r->ttl ? minimum : r->ttl;
	return true;
}

bool dns_is_answer(const uint8_t *p, size_t n, const struct dns_query *q, uint16_t id)
{
	struct dns_query got = {0};
	uint16_t flags, count;

	if (n < DNS_HEADER_BYTES || get16(p) != id)
		return false;
	flags = get16(p + 2);
	count = get16(p + 4);
	if ((flags & FLAG_QR) == 0 || opcode_of(flags) != 0)
		return false;
	/* a server that could not read the question may not repeat it */
	if (count == 0)
		return (flags & 15) != DNS_NOERROR && (flags & 15) != DNS_NXDOMAIN;
	return count == 1 && take_question(p, n, &got) != 0 && got.type == q->type &&
	       got.class == q->class && dns_name_eq(&got.name, &q->name);
}

enum dns_rcode dns_rcode_of(const uint8_t *p)
{
	return (enum dns_rcode)(p[3] & 15);
}

void dns_set_id(uint8_t *p, uint16_t id)
{
	put16(p, id);
}

void dns_set_ttl(uint8_t *p, const struct dns_record *r, uint32_t ttl)
{
	put32(p + r->ttl_at, ttl);
}

bool dns_truncated(const uint8_t *p)
{
	return (get16(p + 2) & FLAG_TC) != 0;
}

bool dns_same_letters(const uint8_t *p, const struct dns_query *q)
{
	return get16(p + 4) == 1 && memcmp(p + DNS_HEADER_BYTES, q->name.b, q->name.n) == 0;
}

void dns_set_letters(uint8_t *p, const struct dns_query *q)
{
	if (get16(p + 4) == 1)
		memcpy(p + DNS_HEADER_BYTES, q->name.b, q->name.n);
}

size_t dns_forwarded(uint8_t *p, size_t n, const struct dns_query *q, size_t max)
{
	unsigned int flags = get16(p + 2);

	bug_on(n < DNS_HEADER_BYTES);
	if (n > max) {
		struct dns_reply r = {.rcode = (enum dns_rcode)(flags & 15)};

		n = dns_reply_write(q, &r, p, DNS_UDP_BYTES);
		flags = get16(p + 2) | FLAG_TC;
	}
	put16(p + 2, (flags & ~FLAG_AA) | FLAG_RA);
	dns_set_id(p, q->id);
	return n;
}
