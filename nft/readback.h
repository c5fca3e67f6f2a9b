/* SPDX-License-Identifier: Apache-2.0
 * readback.h: what a namespace has under our table names. Private to nft/.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "nft/model.h"

struct err;
struct nft_ns;
struct nlmsghdr;
struct strbuf;

#define NFT_FOUND_RULES_MAX  512 /* more is somebody else's doing; counted, not kept */
#define NFT_FOUND_CHAINS_MAX 64

struct nft_found_chain {
	uint8_t table;
	bool base, accepts; /* accepts: policy */
	char name[64], type[16];
	uint32_t hook;
	int32_t prio;
};
struct nft_found_rule {
	uint8_t table;
	char chain[64];
	struct nft_ops ops;
};
struct nft_found_table {
	bool there;
	uint32_t flags; /* dormant, owned */
	size_t others;	/* sets, maps, objects, flow tables */
};
struct nft_found {
	const struct nft_table_def *tables; /* those looked for */
	size_t ntables;
	uint32_t genid;
	struct nft_found_table table[NFT_TABLES_N];
	struct nft_found_chain *chains;
	struct nft_found_rule *rules;
	size_t nchains, nrules, chains_more, rules_more;
};

/* NAMES: the tables; SHAPE: chains and the number of other objects too; ALL: rules too. */
enum nft_depth { NFT_READ_NAMES, NFT_READ_SHAPE, NFT_READ_ALL };

/* Reads one generation of the rule set: starts again when it changes meanwhile. Chains, rules and
 * other things are only asked for when a table is there. */
int nft_read(struct nft_ns *ns, const struct nft_table_def *tables, size_t ntables,
	     enum nft_depth depth, struct nft_found *ret, struct err *err) _must_check_;
/* The generation alone. */
int nft_read_genid(struct nft_ns *ns, uint32_t *ret, struct err *err) _must_check_;
void nft_found_fini(struct nft_found *f);
#define _cleanup_found_ _cleanup_(nft_found_fini)

/* One kernel message into @f; anything not ours is skipped. 0 or -EBADMSG. (For the fuzzer.) */
int nft_found_take(struct nft_found *f, const struct nlmsghdr *nlh);

/* Pure. Does a present table have exactly the chains wanted and nothing besides? */
bool nft_shape_eq(const struct nft_found *f, size_t table);
/* Pure. Is this found chain one of its table's wanted ones, as wanted? */
bool nft_chain_wanted(const struct nft_found *f, const struct nft_found_chain *c);
/* Pure. One line per difference between @want and @f into @out (NULL: only counted). */
size_t nft_diff(const struct nft_ruleset *want, const struct nft_found *f, struct strbuf *out);
/* Pure. The same with a line for everything: "present: ...", and each rule of a chain or table that
 * is missing. @out must not be NULL. */
size_t nft_list(const struct nft_ruleset *want, const struct nft_found *f, struct strbuf *out);
