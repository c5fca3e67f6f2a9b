/* SPDX-License-Identifier: Apache-2.0
 * pod.c: a pod's rules: apply, remove, check, present.
 *
 * Theory of operation. The tables are one transaction; the policy rule and the route are requests
 * of their own, inert as long as no rule sets their mark. Hence the order:
 *
 *   apply:  route, policy rule ──▶ tables        a failure of the tables takes back what was added
 *   remove: tables ──▶ policy rule, route        reverse; a failure leaves nothing that captures
 *
 * A pod that is running already has connections which the nat chains would take for new ones
 * (flows.h). It gets its tables in two transactions: first those without nat, whose mangle rules
 * switch connection tracking on, so that from then on every connection is known; then the old
 * connections are told to the kernel; then all tables.
 *
 * A table of ours that is already there is flushed and refilled within the transaction, its chains
 * untouched: a packet meets the old rules or the new ones, never none. One that has anything else
 * in it (another chain, a set, a flag) is replaced as a whole. The transaction carries the
 * generation that was read, so that nothing is done about a state that is no longer there.
 */
#include "nft/nft.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "nft/batch.h"
#include "nft/encode.h"
#include "nft/flows.h"
#include "nft/model.h"
#include "nft/ns.h"
#include "nft/readback.h"
#include "nft/route.h"

#define COMMIT_ROUNDS 16 /* somebody else changed rules between reading and writing */

static int read_pod(struct nft_ns *ns, enum nft_depth depth, struct nft_found *f, struct err *err)
{
	return nft_read(ns, nft_pod_tables, NFT_TABLES_N, depth, f, err);
}

static void put_new_table(struct nft_batch *b, const struct nft_ruleset *rs, size_t t)
{
	const struct nft_table_def *def = &rs->tables[t];

	nft_put_table(b, def);
	for (size_t c = 0; c < def->nchains; c++)
		nft_put_chain(b, def, &def->chains[c]);
	nft_put_rules(b, rs, t);
}

static void put_tables(struct nft_batch *b, const struct nft_ruleset *rs, const struct nft_found *f,
		       size_t from)
{
	for (size_t t = from; t < f->ntables; t++) {
		bool wanted = t < rs->ntables;

		if (wanted && nft_shape_eq(f, t)) {
			nft_put_flush(b, &rs->tables[t]);
			nft_put_rules(b, rs, t);
			continue;
		}
		if (f->table[t].there)
			nft_put_table_del(b, &f->tables[t]);
		if (wanted)
			put_new_table(b, rs, t);
	}
}

/* Tables number @from and up. */
static int commit_tables(struct nft_ns *ns, const struct nft_ruleset *rs, size_t from,
			 struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	int r = -ERESTART;

	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_found_ struct nft_found f = {0};

		r = read_pod(ns, NFT_READ_SHAPE, &f, err);
		if (r < 0)
			return r;
		nft_batch_begin(&b, ns, f.genid);
		put_tables(&b, rs, &f, from);
		r = nft_batch_commit(&b, ns, err);
	}
	return r;
}

static int remove_tables(struct nft_ns *ns, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	int r = -ERESTART;

	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_found_ struct nft_found f = {0};

		r = read_pod(ns, NFT_READ_NAMES, &f, err);
		if (r < 0)
			return r;
		nft_batch_begin(&b, ns, f.genid);
		for (size_t t = f.ntables; t-- > 0;)
			if (f.table[t].there)
				nft_put_table_del(&b, &f.tables[t]);
		if (b.nsteps == 0)
			return 0;
		r = nft_batch_commit(&b, ns, err);
	}
	return r;
}

/* Before nat chains come into a pod that is running. *ret_tables: this call put the tables without
 * nat in place, also on failure. A kernel that cannot do it: old connections end, as with the stock
 * agent. */
static int keep_flows(struct nft_ns *ns, int netns_fd, const struct nft_ruleset *rs,
		      bool *ret_tables, struct err *err)
{
	_cleanup_found_ struct nft_found f = {0};
	size_t n = 0;
	int r = read_pod(ns, NFT_READ_NAMES, &f, err);

	if (r < 0 || f.table[NFT_T_NAT].there)
		return r;
	r = nft_flows_count(netns_fd, &n, err);
	if (r == 0 && n == 0)
		return 0;
	if (r == -EOPNOTSUPP) /* there may be some */
		r = 0;
	if (r == 0 && !f.table[NFT_T_MANGLE].there && !f.table[NFT_T_RAW].there) {
		r = commit_tables(ns, rs, NFT_T_MANGLE, err);
		*ret_tables = r == 0;
	}
	if (r == 0)
		r = nft_flows_keep(netns_fd, ns, err);
	return r == -EOPNOTSUPP ? 0 : r;
}

int nft_pod_apply(int netns_fd, const struct nft_pod_opts *o, struct err *err)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_ns_ struct nft_ns ns = {0};
	struct nft_routes added;
	struct err undo = {0};
	bool tables = false;
	int r;

	r = nft_ns_open(netns_fd, &ns, err);
	if (r < 0)
		return r;
	nft_pod_rules(o, ns.ipv6, rs);
	r = nft_routes_add(&ns, &added, err);
	if (r == 0)
		r = keep_flows(&ns, netns_fd, rs, &tables, err);
	if (r == 0)
		r = commit_tables(&ns, rs, NFT_T_NAT, err);
	if (r == 0)
		return 0;
	if ((tables && remove_tables(&ns, &undo) < 0) || nft_routes_del(&ns, &added, &undo) < 0)
		r = err_wrap(err, "(left behind: %s)", undo.msg);
	return r;
}

int nft_pod_remove(int netns_fd, struct err *err)
{
	_cleanup_ns_ struct nft_ns ns = {0};
	struct nft_routes have;
	int r;

	r = nft_ns_open(netns_fd, &ns, err);
	if (r == 0)
		r = remove_tables(&ns, err);
	if (r == 0)
		r = nft_routes_read(&ns, &have, err);
	if (r == 0)
		r = nft_routes_del(&ns, &have, err);
	return r;
}

int nft_pod_release(int netns_fd, struct err *err)
{
	_cleanup_batch_ struct nft_batch b = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	int r = nft_ns_open(netns_fd, &ns, err);

	if (r < 0)
		return r;
	r = -ERESTART;
	for (int i = 0; i < COMMIT_ROUNDS && r == -ERESTART; i++) {
		_cleanup_found_ struct nft_found f = {0};

		r = read_pod(&ns, NFT_READ_NAMES, &f, err);
		if (r < 0 || !f.table[NFT_T_NAT].there)
			return r;
		nft_batch_begin(&b, &ns, f.genid);
		nft_put_flush(&b, &f.tables[NFT_T_NAT]);
		r = nft_batch_commit(&b, &ns, err);
	}
	return r;
}

int nft_pod_carried(int netns_fd, size_t *ret_all, size_t *ret_apps, struct err *err)
{
	return nft_flows_carried(netns_fd, ret_all, ret_apps, err);
}

/* Counts how much of ours is there at all, and the differences into @out; with @all also what is
 * as wanted. */
static size_t diff_routes(const struct nft_routes want, const struct nft_routes *have, bool all,
			  size_t *present, struct strbuf *out)
{
	size_t n = 0;

	for (int f = 0; f < 2; f++)
		for (enum nft_route_kind k = 0; k < NFT_ROUTE_KIND_N; k++) {
			*present += have->there[f][k];
			if (have->there[f][k] == want.there[f][k]) {
				if (all && have->there[f][k])
					strbuf_printf(out, "present: %s\n", nft_route_text[f][k]);
				continue;
			}
			n++;
			if (out != NULL)
				strbuf_printf(out, "%s: %s\n",
					      want.there[f][k] ? "missing" : "unexpected",
					      nft_route_text[f][k]);
		}
	return n;
}

/* Opens the namespace into @ns and reads all that may be ours in it. */
static int look(int netns_fd, struct nft_ns *ns, struct nft_found *f, struct nft_routes *routes,
		struct err *err)
{
	int r = nft_ns_open(netns_fd, ns, err);

	if (r == 0)
		r = read_pod(ns, NFT_READ_ALL, f, err);
	if (r == 0)
		r = nft_routes_read(ns, routes, err);
	return r;
}

int nft_pod_check(int netns_fd, const struct nft_pod_opts *o, enum nft_state *ret,
		  struct strbuf *ret_diff, struct err *err)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_found_ struct nft_found f = {0};
	_cleanup_strbuf_ struct strbuf diff = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	struct nft_routes routes;
	size_t present = 0, ndiff;
	int r = look(netns_fd, &ns, &f, &routes, err);

	if (r < 0)
		return r;
	nft_pod_rules(o, ns.ipv6, rs);
	ndiff = nft_diff(rs, &f, &diff);
	ndiff += diff_routes(nft_routes_wanted(&ns), &routes, false, &present, &diff);
	for (size_t t = 0; t < f.ntables; t++)
		present += f.table[t].there;
	*ret = ndiff == 0 ? NFT_PRESENT : present == 0 ? NFT_ABSENT : NFT_DIFFERENT;
	if (*ret == NFT_DIFFERENT && ret_diff != NULL)
		strbuf_add(ret_diff, diff.p, diff.n);
	return 0;
}

int nft_pod_list(int netns_fd, const struct nft_pod_opts *o, struct strbuf *out, struct err *err)
{
	_cleanup_free_ struct nft_ruleset *rs = xcalloc(1, sizeof(*rs));
	_cleanup_found_ struct nft_found f = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	struct nft_routes routes, want = {0};
	size_t present = 0;
	int r = look(netns_fd, &ns, &f, &routes, err);

	if (r < 0)
		return r;
	if (o != NULL) {
		nft_pod_rules(o, ns.ipv6, rs);
		want = nft_routes_wanted(&ns);
	}
	(void)nft_list(rs, &f, out);
	(void)diff_routes(want, &routes, true, &present, out);
	return 0;
}

int nft_pod_present(int netns_fd, bool *ret, struct err *err)
{
	_cleanup_found_ struct nft_found f = {0};
	_cleanup_ns_ struct nft_ns ns = {0};
	int r;

	r = nft_ns_open(netns_fd, &ns, err);
	if (r == 0)
		r = read_pod(&ns, NFT_READ_NAMES, &f, err);
	if (r < 0)
		return r;
	*ret = false;
	for (size_t t = 0; t < f.ntables; t++)
		*ret |= f.table[t].there;
	return 0;
}
