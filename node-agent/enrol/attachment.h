/* SPDX-License-Identifier: Apache-2.0
 * attachment.h: one network attachment: which sandbox of which pod has which namespace. Pure.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"
#include "lib/os/netns.h"
#include "node-agent/source/pods.h"

struct err;

#define ATTACHMENT_ID_MAX     129 /* CNI container IDs: runtimes use 64 hexadecimal digits */
#define ATTACHMENT_IFNAME_MAX 16

struct attachment {
	char container_id[ATTACHMENT_ID_MAX];
	char ifname[ATTACHMENT_IFNAME_MAX];
	char *netns_path;
	struct netns_id id;
	char *name, *ns;       /* of the pod */
	char *service_account; /* NULL until the source said it */
	char uid[POD_UID_MAX]; /* "" if nobody said */
	struct ip_addr ips[POD_IPS_MAX];
	size_t nips;
	bool quarantined; /* its rules lead nowhere, on purpose (quarantine.c) */
};

void attachment_fini(struct attachment *a);				    /* frees the texts */
void attachment_copy(struct attachment *to, const struct attachment *from); /* @to is overwritten */

/* A container ID as the CNI specification wants it; it becomes a file name. 0 or -EINVAL. */
int attachment_check_id(struct str id, struct err *err) _must_check_;

/* True for an ID that we made, because the runtime's is not known: "scan-..." (found running) and
 * "stock-..." (announced by the stock plugin). */
bool attachment_is_ours(const char *container_id);

/* The text of a journal entry, and back. -EINVAL names the field. */
void attachment_print(const struct attachment *a, struct strbuf *out);
int attachment_parse(struct str text, struct attachment *ret, struct err *err) _must_check_;
