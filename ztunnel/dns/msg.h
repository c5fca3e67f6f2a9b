/* SPDX-License-Identifier: Apache-2.0
 * msg.h: DNS messages: reading what a client or a resolver sent, building answers. Pure.
 *
 * Nothing is allocated: a message stays where it was received, and an answer is written into the
 * caller's room. A forwarded message keeps its bytes, but for the id and three flags. Source: RFC
 * 1035 4, RFC 6891 (EDNS), RFC 2181; ztunnel-spec 11.1, 11.4.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"
#include "lib/format/ip.h"

#define DNS_HEADER_BYTES 12
#define DNS_NAME_MAX	 255 /* octets of a name as it travels */
#define DNS_TEXT_MAX	 254 /* of its text, NUL included */
#define DNS_UDP_BYTES	 512 /* of an answer to a client without EDNS */
#define DNS_MESSAGE_MAX	 65535
#define DNS_CLASS_IN	 1

enum dns_type { DNS_A = 1, DNS_CNAME = 5, DNS_SOA = 6, DNS_AAAA = 28, DNS_OPT = 41 };
enum dns_rcode {
	DNS_NOERROR,
	DNS_FORMERR,
	DNS_SERVFAIL,
	DNS_NXDOMAIN,
	DNS_NOTIMP,
	DNS_REFUSED,
	DNS_BADVERS = 16, /* RFC 6891 6.1.3: needs EDNS in the answer */
};

/* Labels with their lengths, the root's zero included; not compressed, case as received. */
struct dns_name {
	uint8_t n;
	uint8_t b[DNS_NAME_MAX];
};

struct dns_query {
	uint16_t id, type, class;
	uint8_t opcode;
	bool rd;
	bool question; /* name, type and class are there */
	struct dns_name name;
	size_t end;  /* bytes of the message that mean something */
	bool ad, cd; /* RFC 6840 5.7, RFC 4035 3.2.2 */
	bool edns, dnssec_ok;
	uint8_t edns_version;
	bool plain; /* all that can change the answer is in the fields here: no option of EDNS, no
		       other flag, no other record, a signature for one */
	uint16_t payload; /* largest UDP answer the client takes, never below DNS_UDP_BYTES */
};

/* What a message from a client is. */
enum dns_kind {
	DNS_KIND_QUERY,	   /* all of @ret is set */
	DNS_KIND_RESPONSE, /* it says that it is an answer */
	DNS_KIND_NOTIMP,   /* another operation than QUERY */
	DNS_KIND_BROKEN,   /* RFC 1035: a format error; @ret has the id */
	DNS_KIND_NONE,	   /* not even a header: there is nobody to answer */
};
enum dns_kind dns_parse(const uint8_t *p, size_t n, struct dns_query *ret) _must_check_;

/* The name as lower-case text without the final dot. False for one that no host has: the root, or a
 * label with a dot, a blank or a byte outside ASCII in it. */
bool dns_name_text(const struct dns_name *name, char ret[DNS_TEXT_MAX]) _must_check_;
/* "a", "aaaa", "mx" ...; "other" for those that have no name here (metric labels are bounded). */
const char *dns_type_text(uint16_t type);

/* One answer of ours. */
struct dns_reply {
	enum dns_rcode rcode;
	bool authoritative;
	size_t alias_labels; /* not 0: a CNAME from the name asked to its first labels, and the
				addresses are there */
	const struct ip_addr *addrs; /* of the family that was asked for */
	size_t naddrs;
	uint32_t ttl; /* seconds */
};
/* Writes the answer to @q into @out: at most @max bytes, the rest is cut off at a record's edge and
 * flagged (TC). @max is 512 at least. Returns its length. */
size_t dns_reply_write(const struct dns_query *q, const struct dns_reply *r, uint8_t *out,
		       size_t max);

/* The records of a message that was received, one after the other. */
enum dns_section { DNS_ANSWERS, DNS_AUTHORITY, DNS_ADDITIONAL, DNS_SECTION_N };
struct dns_record {
	enum dns_section section;
	uint16_t type, class;
	uint32_t ttl; /* 0 for one that is none: RFC 2181 8. Of an OPT: as it stands there */
	size_t ttl_at, at, len; /* offsets of the TTL and of the data, and its length */
};
struct dns_records {
	const uint8_t *p;
	size_t n, at;
	uint16_t left[DNS_SECTION_N];
	bool broken; /* it ended where the message is not as it says */
};
/* @p is borrowed. A message without a question, with two, or with a compressed name in it is broken
 * from the start. */
void dns_records_init(struct dns_records *it, const uint8_t *p, size_t n);
/* False at the end, or when ->broken: also by bytes behind the last record. */
bool dns_records_next(struct dns_records *it, struct dns_record *ret);
/* The lifetime of a negative answer by the SOA record @r: RFC 2308 5. False: it is none. */
bool dns_soa_ttl(const uint8_t *p, size_t n, const struct dns_record *r, uint32_t *ret);

/* Whether @p is an answer to @q that was sent with @id: RFC 5452 9.1. */
bool dns_is_answer(const uint8_t *p, size_t n, const struct dns_query *q, uint16_t id);
enum dns_rcode dns_rcode_of(const uint8_t *p); /* of a message with a header; not extended */
void dns_set_id(uint8_t *p, uint16_t id);
void dns_set_ttl(uint8_t *p, const struct dns_record *r, uint32_t ttl);
bool dns_truncated(const uint8_t *p);
/* Whether the answer repeats the question's name letter for letter; of one by dns_is_answer(). */
bool dns_same_letters(const uint8_t *p, const struct dns_query *q);
/* The question's name with the letters of @q, in an answer for which dns_is_answer() is true. */
void dns_set_letters(uint8_t *p, const struct dns_query *q);
/* Names compare without case: RFC 4343. */
bool dns_name_eq(const struct dns_name *a, const struct dns_name *b);
void dns_name_lower(const struct dns_name *name, struct dns_name *ret);
/* Makes a resolver's answer one of ours, in place: the client's id, not authoritative, recursion
 * available; longer than @max it is cut to the question and flagged. Returns the length. */
size_t dns_forwarded(uint8_t *p, size_t n, const struct dns_query *q, size_t max);
