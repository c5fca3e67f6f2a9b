/* SPDX-License-Identifier: Apache-2.0
 * batch.c: see batch.h.
 *
 * Theory of operation. nf_tables handles a batch inside sendmsg(): when that returns, every answer
 * is already queued on our socket. Errors and acknowledgements arrive in message order; a failed
 * commit is reported against the batch-begin message, next to the acknowledgements of messages that
 * were fine by themselves. So: success is one acknowledgement for each message and no error.
 */
#include "nft/batch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "nft/extack.h"
#include "nft/ns.h"

#define RECV_MAX  32768 /* the kernel's largest dump packet */
#define ACK_BYTES 2048	/* what a queued acknowledgement is charged with, generously */

static void reserve(struct nft_batch *b, size_t n)
{
	if (b->cap - b->len >= n)
		return;
	b->cap = b->cap * 2 + n;
	b->buf = xrealloc_array(b->buf, b->cap, 1);
}

void nft_batch_begin(struct nft_batch *b, struct nft_ns *ns, uint32_t genid)
{
	struct nlmsghdr *nlh;

	b->len = 0;
	b->nsteps = 0;
	b->removes = false;
	b->first_seq = ++ns->seq;
	reserve(b, 4 * NFT_STEP_BYTES_MAX);
	nlh = nftnl_batch_begin(b->buf, b->first_seq);
	if (genid != 0)
		mnl_attr_put_u32(nlh, NFNL_BATCH_GENID, htonl(genid));
	b->len = MNL_ALIGN(nlh->nlmsg_len);
}

struct nlmsghdr *nft_batch_msg(struct nft_batch *b, uint16_t type, uint16_t flags,
			       const char *needs, const char *fmt, ...)
{
	struct nft_step *s;
	va_list ap;

	reserve(b, NFT_STEP_BYTES_MAX + MNL_NLMSG_HDRLEN);
	if (b->nsteps == b->cap_steps) {
		b->cap_steps = b->cap_steps * 2 + 32;
		b->steps = xrealloc_array(b->steps, b->cap_steps, sizeof(*b->steps));
	}
	b->removes |= type == NFT_MSG_DELTABLE || type == NFT_MSG_DELCHAIN ||
		      type == NFT_MSG_DELRULE || type == NFT_MSG_DELSETELEM;
	s = &b->steps[b->nsteps++];
	s->needs = needs;
	va_start(ap, fmt);
	(void)vsnprintf(s->what, sizeof(s->what), fmt, ap);
	va_end(ap);
	return nftnl_nlmsg_build_hdr(b->buf + b->len, type, NFPROTO_INET,
				     (uint16_t)(flags | NLM_F_ACK),
				     b->first_seq + (uint32_t)b->nsteps);
}

void nft_batch_push(struct nft_batch *b, const struct nlmsghdr *nlh)
{
	bug_on((const char *)nlh != b->buf + b->len || nlh->nlmsg_len > NFT_STEP_BYTES_MAX);
	b->len += MNL_ALIGN(nlh->nlmsg_len);
}

void nft_batch_fini(struct nft_batch *b)
{
	free(b->buf);
	free(b->steps);
	*b = (struct nft_batch){0};
}

/* The whole transaction must fit into the socket's buffer, and all answers into the other. */
static void make_room(int fd, size_t send, size_t nacks)
{
	int snd = (int)(send * 2 + 65536), rcv = (int)(nacks * ACK_BYTES + 65536);

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &snd, sizeof(snd)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &snd, sizeof(snd));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcv, sizeof(rcv)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcv, sizeof(rcv));
}

static int send_all(struct nft_ns *ns, const void *p, size_t n, const char *what, struct err *err)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t r;

	do
		r = sendto(mnl_socket_get_fd(ns->nf), p, n, 0, (struct sockaddr *)&kernel,
			   sizeof(kernel));
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_errno(err, errno, "%s: send to nf_tables", what);
	if ((size_t)r != n)
		return err_set(err, EIO, "%s: only %zd of %zu bytes were sent", what, r, n);
	return 0;
}

/* One packet of answers. 0 bytes never happens; ETIMEDOUT when nothing comes. */
static ssize_t receive(struct nft_ns *ns, char *buf, const char *what, struct err *err)
{
	ssize_t n;

	do
		n = mnl_socket_recvfrom(ns->nf, buf, RECV_MAX);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_errno(err, errno == EAGAIN ? ETIMEDOUT : errno,
				 "%s: answer of nf_tables", what);
	return n;
}

/* The transaction's first error, if any: the later ones follow from it. */
struct verdict {
	size_t acks;
	int code;
	uint32_t seq;
	char text[128];
};

static void note_answer(struct verdict *v, const struct nft_batch *b, const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);
	const char *text;

	if (nlh->nlmsg_type != NLMSG_ERROR || nlh->nlmsg_len < NLMSG_HDRLEN + sizeof(*e) ||
	    nlh->nlmsg_seq - b->first_seq > b->nsteps)
		return;
	if (nlh->nlmsg_seq != b->first_seq)
		v->acks++;
	if (e->error == 0 || v->code != 0)
		return;
	v->code = -e->error;
	v->seq = nlh->nlmsg_seq;
	text = nft_extack_text(nlh);
	if (text != NULL)
		(void)strncpy(v->text, text, sizeof(v->text) - 1);
}

static int read_acks(struct nft_ns *ns, const struct nft_batch *b, struct verdict *v,
		     struct err *err)
{
	_cleanup_free_ char *buf = xmalloc(RECV_MAX);

	while (v->acks < b->nsteps && (v->code == 0 || v->seq != b->first_seq)) {
		ssize_t n = receive(ns, buf, "commit", err);
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (const struct nlmsghdr *nlh = (const void *)buf; mnl_nlmsg_ok(nlh, left);
		     nlh = mnl_nlmsg_next(nlh, &left))
			note_answer(v, b, nlh);
	}
	return 0;
}

static const char *const needs_nf_tables = "nf_tables (CONFIG_NF_TABLES, module nf_tables)";

static int explain(const struct nft_batch *b, const struct verdict *v, struct err *err)
{
	size_t i = v->seq - b->first_seq;

	if (v->code == ERESTART)
		return err_set(err, ERESTART, "the rule set changed while it was being replaced");
	if (i == 0)
		return nft_kernel_error(err, v->code, v->text, needs_nf_tables,
					"commit of %zu changes", b->nsteps);
	return nft_kernel_error(err, v->code, v->text, b->steps[i - 1].needs, "%s",
				b->steps[i - 1].what);
}

int nft_batch_commit(struct nft_batch *b, struct nft_ns *ns, struct err *err)
{
	struct verdict v = {0};
	struct nlmsghdr *nlh;
	int r;

	reserve(b, NFT_STEP_BYTES_MAX);
	ns->seq = b->first_seq + (uint32_t)b->nsteps + 1;
	nlh = nftnl_batch_end(b->buf + b->len, ns->seq);
	b->len += MNL_ALIGN(nlh->nlmsg_len);
	make_room(mnl_socket_get_fd(ns->nf), b->len, b->nsteps);
	ns->removed |= b->removes;
	r = send_all(ns, b->buf, b->len, "commit", err);
	if (r == 0)
		r = read_acks(ns, b, &v, err);
	if (r < 0)
		return r;
	return v.code != 0 ? explain(b, &v, err) : 0;
}

struct nlmsghdr *nft_query(char buf[], struct nft_ns *ns, uint16_t type, uint16_t flags)
{
	return nftnl_nlmsg_build_hdr(buf, type, NFPROTO_INET, flags, ++ns->seq);
}

/* One answer to a query. 1: that was the last one. */
static int one_answer(const struct nlmsghdr *nlh, const char *what,
		      int (*fn)(const struct nlmsghdr *, void *), void *ctx, struct err *err)
{
	const int *code = mnl_nlmsg_get_payload(nlh);
	const char *text = NULL;
	int r = 0;

	if (nlh->nlmsg_flags & NLM_F_DUMP_INTR)
		return err_set(err, EINTR, "%s: the rule set changed meanwhile", what);
	if (nlh->nlmsg_type == NLMSG_ERROR || nlh->nlmsg_type == NLMSG_DONE) {
		/* both carry an error number; a dump that fails midway ends with such a DONE */
		if (nlh->nlmsg_len >= NLMSG_HDRLEN + sizeof(*code))
			r = *code;
		if (nlh->nlmsg_type == NLMSG_ERROR)
			text = nft_extack_text(nlh);
		/* nfnetlink says EINVAL when it has no nf_tables at all */
		if (r == -EINVAL)
			return nft_kernel_error(err, EOPNOTSUPP, text != NULL ? text : "",
						needs_nf_tables, "%s", what);
		if (r < 0)
			return nft_kernel_error(err, -r, text != NULL ? text : "", NULL, "%s",
						what);
		return 1;
	}
	if (nlh->nlmsg_type < NLMSG_MIN_TYPE)
		return 0;
	r = fn(nlh, ctx);
	if (r < 0)
		return err_errno(err, -r, "%s: unexpected answer of nf_tables", what);
	return nlh->nlmsg_flags & NLM_F_MULTI ? 0 : 1;
}

int nft_ask(struct nft_ns *ns, const struct nlmsghdr *nlh, const char *what,
	    int (*fn)(const struct nlmsghdr *, void *), void *ctx, struct err *err)
{
	_cleanup_free_ char *buf = xmalloc(RECV_MAX);
	int r = send_all(ns, nlh, nlh->nlmsg_len, what, err);

	while (r == 0) {
		ssize_t n = receive(ns, buf, what, err);
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (const struct nlmsghdr *m = (const void *)buf; r == 0 && mnl_nlmsg_ok(m, left);
		     m = mnl_nlmsg_next(m, &left))
			if (m->nlmsg_seq == nlh->nlmsg_seq) /* not the rest of an older one */
				r = one_answer(m, what, fn, ctx, err);
	}
	return r < 0 ? r : 0;
}
