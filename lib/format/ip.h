/* SPDX-License-Identifier: Apache-2.0
 * ip.h: IP addresses, ports and prefixes as values; text in and out. Pure.
 *
 * An IPv4-mapped IPv6 address is always stored as IPv4 (ztunnel-spec 1.7), so that equal addresses
 * compare equal. Parsing is strict: no zone, no octal, no short form, no surrounding blanks.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct ip_addr {
	uint8_t len;   /* 4, 16; 0 = none */
	uint8_t b[16]; /* network order; bytes past @len are zero */
};
struct ip_port {
	struct ip_addr ip;
	uint16_t port; /* host order */
};
struct ip_cidr {
	struct ip_addr ip;
	uint8_t prefix; /* bits */
};

int ip_parse(struct str s, struct ip_addr *ret) _must_check_;	   /* 0 or -EINVAL */
int ip_port_parse(struct str s, struct ip_port *ret) _must_check_; /* "1.2.3.4:80", "[::1]:80" */
/* "10.0.0.0/8", or a bare address (full length). Host bits need not be zero. */
int ip_cidr_parse(struct str s, struct ip_cidr *ret) _must_check_;
/* From 4 or 16 raw bytes; maps v4-in-v6 to v4. -EINVAL for another length. */
int ip_from_bytes(const void *p, size_t n, struct ip_addr *ret) _must_check_;
bool ip_eq(const struct ip_addr *a, const struct ip_addr *b);
bool ip_port_eq(const struct ip_port *a, const struct ip_port *b);
bool ip_in_cidr(const struct ip_addr *a, const struct ip_cidr *c); /* families must match */
bool ip_is_loopback(const struct ip_addr *a);
struct ip_addr ip_loopback(uint8_t len);	/* 127.0.0.1 for 4, ::1 for 16 */
bool ip_is_link_local(const struct ip_addr *a); /* 169.254/16, fe80::/10 */
bool ip_is_multicast(const struct ip_addr *a);
bool ip_is_unspecified(const struct ip_addr *a);
uint64_t ip_hash(const struct ip_addr *a);
uint64_t ip_port_hash(const struct ip_port *a);
#define IP_TEXT_MAX	 46
#define IP_PORT_TEXT_MAX 56
/* RFC 5952 text. Return @buf. */
const char *ip_format(const struct ip_addr *a, char buf[IP_TEXT_MAX]);
const char *ip_port_format(const struct ip_port *a, char buf[IP_PORT_TEXT_MAX]);
