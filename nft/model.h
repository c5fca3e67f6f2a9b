/* SPDX-License-Identifier: Apache-2.0
 * model.h: what a rule is in this room: tables, chains and rules as values. Private to nft/.
 *
 *   struct nft_pod_opts ── rules.c ──▶ struct nft_ruleset (symbolic)
 *                                          │ ops.c
 *                                          ▼
 *        encode.c ◀── struct nft_ops (what nf_tables executes) ◀── readback.c
 *           │                              │ diff.c
 *        batch.c                       "missing: ..."
 *
 * Everything here is pure data without pointers into anything that can go away.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/format/ip.h"

struct nft_pod_opts;
struct strbuf;

#define NFT_TCP		   6
#define NFT_UDP		   17
#define NFT_MARK_MASK	   0xfffu /* the bits of packet and connection marks that are ours */
#define NFT_REPLY_MARK	   0x111u
#define NFT_REPLY_TABLE	   100
#define NFT_REPLY_PRIORITY 32764
#define NFT_DNS_ZONE	   1
#define NFT_SET_V4	   "istio-inpod-probes-v4"
#define NFT_SET_V6	   "istio-inpod-probes-v6"

#define NFT_TABLES_N	3
#define NFT_RULES_MAX	64 /* 6 jumps, 2 for each of 8 interfaces, 19 others */
#define NFT_MATCHES_MAX 5

/* A base chain has a type; a regular one (type NULL) is only jumped to. */
struct nft_chain_def {
	const char *name, *type;
	uint32_t hook;
	int32_t prio;
};
struct nft_table_def {
	const char *name;
	const struct nft_chain_def *chains;
	size_t nchains;
};
enum nft_table_id { NFT_T_NAT, NFT_T_MANGLE, NFT_T_RAW };
extern const struct nft_table_def nft_pod_tables[NFT_TABLES_N];
extern const struct nft_table_def nft_host_table;

enum nft_match_kind {
	NFT_M_IIFNAME,
	NFT_M_OIFNAME,
	NFT_M_L4PROTO,
	NFT_M_SADDR,
	NFT_M_DADDR,
	NFT_M_DADDR_SET,
	NFT_M_SPORT,
	NFT_M_DPORT,
	NFT_M_MARK,   /* meta mark & NFT_MARK_MASK */
	NFT_M_CTMARK, /* ct mark & NFT_MARK_MASK */
	NFT_M_SKUID,
	NFT_M_N
};
struct nft_match {
	enum nft_match_kind kind;
	bool differs;	   /* != instead of == */
	uint32_t v;	   /* protocol, port, mark, uid */
	struct ip_addr ip; /* SADDR, DADDR; DADDR_SET: only its len */
	char name[32];	   /* interface or set */
};

enum nft_verdict_kind {
	NFT_V_ACCEPT,
	NFT_V_RETURN,
	NFT_V_JUMP,	    /* to the chain @jump of the same table */
	NFT_V_REDIRECT,	    /* to port @v */
	NFT_V_SNAT,	    /* to @ip */
	NFT_V_CTMARK_SET,   /* ct mark = (ct mark & ~NFT_MARK_MASK) | @v */
	NFT_V_MARK_FROM_CT, /* meta mark = ct mark */
	NFT_V_CTZONE,	    /* ct zone = @v */
	NFT_V_N
};
struct nft_rule {
	uint8_t table, chain; /* index into the ruleset's tables, and into that table's chains */
	uint8_t nmatches;
	struct nft_match match[NFT_MATCHES_MAX];
	enum nft_verdict_kind verdict;
	uint32_t v;
	struct ip_addr ip;
	const char *jump;
};
struct nft_ruleset {
	const struct nft_table_def *tables;
	size_t ntables; /* the first so many of @tables are wanted */
	size_t nrules;
	struct nft_rule rules[NFT_RULES_MAX];
};

/* The rules of a pod (cni-spec 5.2) and of the host (6.2). Pure. @rs is overwritten. */
void nft_pod_rules(const struct nft_pod_opts *o, bool ipv6, struct nft_ruleset *rs);
void nft_host_rules(uint32_t kubelet_uid, const struct nft_pod_opts *o, bool ipv6,
		    struct nft_ruleset *rs);
/* "tcp mark 0x111/0xfff accept" */
void nft_rule_print(const struct nft_rule *r, struct strbuf *out);

/* What the kernel executes for a rule, one step each, registers left out where there is only one in
 * use. Zero-filled, so that equal steps are equal bytes. */
enum nft_op_kind {
	NFT_OP_META,	/* load meta @key */
	NFT_OP_CT,	/* load ct @key */
	NFT_OP_PAYLOAD, /* load @len bytes at @key of header @base */
	NFT_OP_CMP,	/* compare @len bytes with @data; @flag: 1 differs */
	NFT_OP_BITWISE, /* & @data ^ @data2 */
	NFT_OP_LOOKUP,	/* in the set @name; @flag: 1 inverted */
	NFT_OP_COUNTER,
	NFT_OP_IMMEDIATE, /* load @len bytes of @data */
	NFT_OP_VERDICT,	  /* @key: NF_ACCEPT, NFT_RETURN, NFT_JUMP (to @name) */
	NFT_OP_REDIRECT,
	NFT_OP_NAT,	 /* @key: type, @base: family */
	NFT_OP_META_SET, /* store into meta @key */
	NFT_OP_CT_SET,
	NFT_OP_OTHER, /* @name: an expression we never write */
	NFT_OP_N
};
struct nft_op {
	uint8_t kind, flag, base, len;
	uint32_t key;
	uint8_t data[16], data2[4];
	char name[36];
};
#define NFT_OPS_MAX 24
struct nft_ops {
	size_t n; /* NFT_OPS_MAX + 1: longer than any rule of ours */
	struct nft_op op[NFT_OPS_MAX];
};
/* Pure. */
void nft_rule_ops(const struct nft_rule *r, struct nft_ops *ret);
bool nft_ops_eq(const struct nft_ops *a, const struct nft_ops *b);
void nft_ops_print(const struct nft_ops *o, struct strbuf *out);
