/* SPDX-License-Identifier: Apache-2.0
 * cni_request.h: bodies of POST /v1/cni (docs/agent-api.md) and of the stock plugin's POST /cmdadd
 * (cni-spec 1.7) to structs. Pure.
 */
#pragma once
#include "node-agent/enrol/attachment.h"
#include "node-agent/enrol/enrol.h"

enum cni_command { CNI_ADD, CNI_CHECK, CNI_DEL, CNI_GC, CNI_STATUS, CNI_COMMAND_N };

#define CNI_VALID_MAX	 1024
#define CNI_DEADLINE_MS	 9000 /* without deadlineMs: the plugin's default of 10 s, and slack */
#define CNI_DEADLINE_MAX 600000

struct cni_request {
	enum cni_command command;
	struct attachment at;
	uint64_t deadline_ms;
	struct enrol_valid *valid; /* GC */
	size_t nvalid;
};
void cni_request_fini(struct cni_request *r);

/* 0, or -EINVAL naming the field; *ret_code is then the CNI error code that fits. */
int cni_request_parse(struct str body, struct cni_request *ret, unsigned int *ret_code,
		      struct err *err) _must_check_;
/* The stock plugin's event. It names no container: the ID is made from the pod. */
int cni_request_parse_stock(struct str body, struct cni_request *ret, struct err *err) _must_check_;
int cni_request_fuzz(const uint8_t *p, size_t n);
