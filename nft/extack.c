/* SPDX-License-Identifier: Apache-2.0
 * extack.c: see extack.h.
 */
#include "nft/extack.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"

const char *nft_extack_text(const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);
	size_t skip = sizeof(*e), len;
	const struct nlattr *attr;

	if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS) || nlh->nlmsg_len < NLMSG_HDRLEN + sizeof(*e))
		return NULL;
	/* without NLM_F_CAPPED our whole request comes back before the attributes */
	if (!(nlh->nlmsg_flags & NLM_F_CAPPED) && e->msg.nlmsg_len > NLMSG_HDRLEN)
		skip += MNL_ALIGN(e->msg.nlmsg_len - NLMSG_HDRLEN);
	len = nlh->nlmsg_len - NLMSG_HDRLEN;
	if (skip >= len)
		return NULL;
	len -= skip;
	attr = (const struct nlattr *)(const void *)((const char *)e + skip);
	while (len >= sizeof(*attr) && mnl_attr_ok(attr, (int)len)) {
		size_t step = MNL_ALIGN(mnl_attr_get_len(attr));

		if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
		    mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) == 0)
			return mnl_attr_get_str(attr);
		if (step == 0 || step >= len)
			break;
		len -= step;
		attr = (const struct nlattr *)(const void *)((const char *)attr + step);
	}
	return NULL;
}

static const char *hint(int code)
{
	if (code == EPERM || code == EACCES)
		return " (needs CAP_NET_ADMIN in the user namespace that owns this network "
		       "namespace)";
	return "";
}

int nft_kernel_error(struct err *err, int code, const char *text, const char *needs,
		     const char *fmt, ...)
{
	bool unknown = code == ENOENT || code == EOPNOTSUPP || code == EAFNOSUPPORT ||
		       code == EPROTONOSUPPORT;
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(err, code, "%s%s%s%s: %s%s%s%s%s",
		       needs != NULL && unknown ? "kernel lacks " : "",
		       needs != NULL && unknown ? needs : "", needs != NULL && unknown ? ": " : "",
		       what, strerror(code), hint(code), *text != '\0' ? " [kernel: " : "", text,
		       *text != '\0' ? "]" : "");
}
