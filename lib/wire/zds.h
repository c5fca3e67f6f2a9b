/* SPDX-License-Identifier: Apache-2.0
 * zds.h: messages of the agent's socket to ztunnel: bytes to structs and back. Pure.
 * Source: cni-spec 4, ztunnel-spec 3; proto/zds.proto. Versions 2 (custody) and 3
 * (credentials) are ours.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/limits.h"
#include "lib/base/str.h"

struct err;

#define ZDS_V1	       1
#define ZDS_V2_CUSTODY 2
#define ZDS_V3_KEYS    3
#define ZDS_UID_MAX    64
#define ZDS_NAME_MAX   254
#define ZDS_PORTS_MAX  (LIMIT_ZDS_FDS - 3)
#define ZDS_SPIFFE_MAX 512

enum zds_kind {
	ZDS_HELLO, /* ztunnel -> agent */
	ZDS_ADD,   /* agent -> ztunnel, with the netns descriptor and, from V2 on, listeners */
	ZDS_DEL,
	ZDS_KEEP,
	ZDS_SNAPSHOT_SENT,
	ZDS_ACK,	/* ztunnel -> agent; error empty = success */
	ZDS_HELD,	/* ztunnel -> agent, V2, with netns and listener descriptors */
	ZDS_DRAINING,	/* ztunnel -> agent, V2: from now on removals only */
	ZDS_CREDENTIAL, /* ztunnel -> agent, V3, with sealed memory */
	ZDS_KIND_N
};

struct zds_msg {
	enum zds_kind kind;
	uint32_t version, held; /* HELLO */
	bool dns;		/* HELLO, V2: answers DNS, and takes the sockets for it */
	char uid[ZDS_UID_MAX];	/* ADD, DEL, KEEP, HELD */
	bool has_info;		/* ADD */
	bool dns_not_captured;	/* ADD, to who said .dns */
	char name[ZDS_NAME_MAX], ns[ZDS_NAME_MAX], sa[ZDS_NAME_MAX];
	uint16_t ports[ZDS_PORTS_MAX]; /* ADD, HELD */
	size_t nports;
	uint32_t agent_version;	       /* ADD, V3 */
	bool credential;	       /* ADD, V3: the last descriptor */
	char identity[ZDS_SPIFFE_MAX]; /* CREDENTIAL */
	char error[512];	       /* ACK */
};

/* Returns the number of bytes written to @buf (LIMIT_ZDS_PACKET_BYTES), or -EMSGSIZE. V1 messages
 * are byte for byte those of cni-spec 4.8. */
int zds_encode(const struct zds_msg *m, uint8_t buf[LIMIT_ZDS_PACKET_BYTES], struct err *err)
	_must_check_;
/* Decoders for the three message types; texts with NUL or bad UTF-8, and too long ones, are refused
 * with the field's name. */
int zds_decode_hello(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err) _must_check_;
int zds_decode_request(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err)
	_must_check_;
int zds_decode_response(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err)
	_must_check_;
