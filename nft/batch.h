/* SPDX-License-Identifier: Apache-2.0
 * batch.h: requests to nf_tables: one transaction as one packet, and dumps. Private to nft/.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/attr.h"

struct err;
struct nft_ns;
struct nlmsghdr;

/* One transaction: everything in it happens or nothing does. It is sent with one sendmsg() and is
 * never split; each message is acknowledged by its sequence number, so that an error names the
 * message at fault. */
struct nft_step {
	char what[112];	   /* "add rule istio-ambient-nat istio-output rule 4" */
	const char *needs; /* kernel feature it stands on; a literal */
};
struct nft_batch {
	char *buf;
	size_t len, cap;
	uint32_t first_seq;
	struct nft_step *steps; /* [i] has sequence first_seq + 1 + i */
	size_t nsteps, cap_steps;
	bool removes; /* something ends with it */
};

/* @genid: the transaction fails with -ERESTART if the rule set has another generation by then; 0:
 * whatever the generation. */
void nft_batch_begin(struct nft_batch *b, struct nft_ns *ns, uint32_t genid);
/* Starts a message of the transaction; the caller adds at most NFT_STEP_BYTES_MAX bytes of
 * attributes and then calls nft_batch_push(). */
#define NFT_STEP_BYTES_MAX 8192
struct nlmsghdr *nft_batch_msg(struct nft_batch *b, uint16_t type, uint16_t flags,
			       const char *needs, const char *fmt, ...) _printf_(5, 6);
void nft_batch_push(struct nft_batch *b, const struct nlmsghdr *nlh);
/* Sends it and reads the acknowledgements. 0 or -errno, nothing changed then; -ERESTART as above.
 */
int nft_batch_commit(struct nft_batch *b, struct nft_ns *ns, struct err *err) _must_check_;
void nft_batch_fini(struct nft_batch *b);
#define _cleanup_batch_ _cleanup_(nft_batch_fini)

/* Sends one read request (a dump when @flags has NLM_F_DUMP) and gives each answer to @fn, which
 * returns 0 or stops with a negative errno. -EINTR: the rules changed meanwhile, ask again. */
struct nlmsghdr *nft_query(char buf[], struct nft_ns *ns, uint16_t type, uint16_t flags);
#define NFT_QUERY_MAX 512
int nft_ask(struct nft_ns *ns, const struct nlmsghdr *nlh, const char *what,
	    int (*fn)(const struct nlmsghdr *nlh, void *ctx), void *ctx, struct err *err)
	_must_check_;
