/* SPDX-License-Identifier: Apache-2.0
 * xds_wire.h: requests and responses of delta ADS as bytes. Pure.
 *
 * A response may hold everything that the mesh has; it is walked in place, one resource at a time.
 * Source: ztunnel-spec 9.1-9.3, 9.8.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct config_istiod;
struct err;

#define XDS_NAME_BYTES	  4096 /* of a resource; longer ones are no resources */
#define XDS_VERSION_BYTES 256

/* Appends the node: id and metadata (field 1 of a request). @node_name: NODE_NAME. */
void xds_put_node(struct strbuf *out, const struct config_istiod *c, const char *node_name);
/* Parts of a request, in any order after each other. */
void xds_put_type(struct strbuf *out, struct str type_url);
void xds_put_version(struct strbuf *out, struct str name, struct str version); /* what we hold */
void xds_put_subscribe(struct strbuf *out, struct str name);
void xds_put_unsubscribe(struct strbuf *out, struct str name);
/* The answer to a response; @error empty: taken as a whole. */
void xds_put_ack(struct strbuf *out, struct str type_url, struct str nonce, struct str error);

/* Is the stream stuck (LIMIT_XDS_STALL_MS)? The reason, or NULL. A server that is silent after its
 * first answers is not: it has nothing to say, and pings tell whether it is there. */
struct xds_progress {
	uint64_t started_ms, moved_ms; /* of the stream; when bytes of a message came last */
	size_t partial;		       /* bytes of an incomplete message at the last look */
};
const char *xds_stalled(struct xds_progress *p, uint64_t now_ms, size_t partial, bool answered);

struct xds_response { /* slices of the message */
	struct str type_url, nonce;
	size_t nresources, nremoved;
	struct str rest; /* where xds_next_*() go on */
};
/* Checks the whole frame of it, not the resources. -EINVAL. */
int xds_response_open(struct str m, struct xds_response *ret, struct err *err) _must_check_;
struct xds_resource {
	struct str name, version, value;
	bool broken;	    /* not a resource at all; .name may be missing */
	struct str aliases; /* where xds_next_alias() goes on */
};
/* The next resource; false at the end. */
bool xds_next_resource(struct xds_response *r, struct xds_resource *ret);
/* Another name by which the resource was asked for; false at the end. */
bool xds_next_alias(struct xds_resource *r, struct str *ret);
/* After xds_response_rewind(): the next name that is gone. */
void xds_response_rewind(struct xds_response *r, struct str m);
bool xds_next_removed(struct xds_response *r, struct str *ret);
