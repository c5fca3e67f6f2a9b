/* SPDX-License-Identifier: Apache-2.0
 * result.h: the result of the plugins before us: its addresses, and handing it on. Pure.
 *
 * A chained plugin that adds nothing must hand on what it got. In the same protocol version that is
 * done with the very bytes; between versions only what the specification changed is changed
 * (`ips[].version` exists below 1.0.0 only), and fields that we do not know are kept.
 */
#pragma once
#include "cni/fail.h"
#include "cni/version.h"
#include "lib/format/doc.h"
#include "lib/format/ip.h"

#define RESULT_IPS_MAX 64 /* addresses of one pod; more is a mistake of the chain */

struct result_ip {
	struct ip_cidr addr;	/* the address with its prefix length */
	struct ip_addr gateway; /* len 0: none */
	bool has_interface;
	uint32_t interface; /* index into interfaces */
};

struct result {
	const struct doc *doc;	  /* NULL: there was none */
	enum cni_version version; /* of the document; that of the request when it names none */
	bool names_version;
	struct result_ip ips[RESULT_IPS_MAX];
	size_t nips;
};

/* Checks prevResult (@prev may be NULL) of a request in version @version. 0, or -1 with the field
 * named. */
int result_parse(const struct doc *prev, enum cni_version version, struct result *ret,
		 struct cni_fail *f) _must_check_;
/* Writes the result for the runtime in @version and a newline. */
void result_write(const struct result *r, enum cni_version version, struct strbuf *out);
