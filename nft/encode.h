/* SPDX-License-Identifier: Apache-2.0
 * encode.h: tables, chains, rules and sets as messages of a transaction, and a rule's expressions
 * back into steps. Private to nft/. All through libnftnl.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "nft/batch.h"
#include "nft/model.h"

struct nftnl_rule;

void nft_put_table(struct nft_batch *b, const struct nft_table_def *t);
void nft_put_table_del(struct nft_batch *b, const struct nft_table_def *t);
/* Deletes every rule of the table, not its chains and sets. */
void nft_put_flush(struct nft_batch *b, const struct nft_table_def *t);
void nft_put_chain(struct nft_batch *b, const struct nft_table_def *t,
		   const struct nft_chain_def *c);
void nft_put_chain_del(struct nft_batch *b, const struct nft_table_def *t, const char *name);
/* A rule by its steps; @needs as in struct nft_step. */
void nft_put_ops(struct nft_batch *b, const struct nft_table_def *t, const char *chain,
		 const struct nft_ops *ops, const char *needs, size_t n);
/* @n: the rule's number in its chain, from 1 (for messages). */
void nft_put_rule(struct nft_batch *b, const struct nft_ruleset *rs, const struct nft_rule *r,
		  size_t n);
/* Every rule of table @t of the set, in order. */
void nft_put_rules(struct nft_batch *b, const struct nft_ruleset *rs, size_t t);

/* The steps of a rule that the kernel listed. */
void nft_decode_rule(const struct nftnl_rule *r, struct nft_ops *ret);
