/* SPDX-License-Identifier: Apache-2.0
 * ca_internal.h: what a provider of ca.h is. Between ca*.c only.
 */
#pragma once
#include "ztunnel/control/ca.h"

struct ca_ops {
	void (*free)(struct ca *ca);
	void (*issue)(struct ca *ca, const char *spiffe,
		      void (*done)(void *ctx, struct tls_identity *id, const char *error),
		      void *ctx);
	bool dev;
};

struct ca { /* first member of a provider */
	const struct ca_ops *ops;
	char *name; /* owned */
};
