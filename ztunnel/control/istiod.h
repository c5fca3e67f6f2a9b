/* SPDX-License-Identifier: Apache-2.0
 * istiod.h: how one service of the control plane (xDS, CA) is reached: address, trust, and who we
 * are. Control thread. Source: ztunnel-spec 2.2, 8.3, 8.6.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/wire/grpc.h"

struct istiod_header {
	char *name, *value; /* name in lower case */
};

/* Zeroed: no such service. All texts are owned. */
struct istiod_config {
	char *host;
	uint16_t port;
	char *alt_name;	     /* another DNS name that the certificate may have; NULL: none */
	char *root_ca;	     /* a path, "SYSTEM", or PEM text */
	char *token;	     /* a path (holds a '/'), the token itself, or NULL: none */
	bool token_optional; /* a missing file means: no token */
	char *cluster;	     /* metadata `clusterid` */
	struct istiod_header *header;
	size_t nheaders;
};
void istiod_config_fini(struct istiod_config *c);

/* "[https://]host:port" into .host and .port (15012 when left out); -EINVAL with the reason. */
int istiod_address(struct istiod_config *c, struct str text, struct err *err) _must_check_;
/* Appends a header; -EINVAL when it cannot be one. */
int istiod_header(struct istiod_config *c, struct str name, struct str value, struct err *err)
	_must_check_;

/* The trusted roots as they are now, to be freed: PEM, or "" for the system's. NULL with @err. */
char *istiod_roots(const struct istiod_config *c, struct err *err) _must_check_;
/* Starts connecting. NULL with @err. */
struct https_client *istiod_connect(struct loop *l, const struct istiod_config *c,
				    const char *roots, const struct https_client_ops *ops,
				    void *ctx, struct err *err) _must_check_;

/* Metadata of a call. The token's file is read each time: it is rotated under us. */
struct istiod_metadata {
	struct h2_field field[GRPC_FIELDS_MAX];
	size_t n;
	char *authorization; /* secret: wiped by istiod_metadata_fini() */
};
int istiod_metadata(const struct istiod_config *c, struct istiod_metadata *ret, struct err *err)
	_must_check_;
void istiod_metadata_fini(struct istiod_metadata *m);
/* What a refusal with @code usually comes from, in brackets, or "". */
const char *istiod_hint(enum grpc_code code);
