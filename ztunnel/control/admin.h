/* SPDX-License-Identifier: Apache-2.0
 * admin.h: the HTTP surfaces: admin (15000 on localhost and a unix socket), statistics (15020),
 * readiness (15021). Control thread. Source: ztunnel-spec 13.1, 13.6, 13.7.
 */
#pragma once
#include <stdbool.h>
#include "lib/base/str.h"

struct certs;
struct config;
struct dump_in;
struct err;
struct loop;
struct mesh;
struct workers;

/* What the surfaces show, asked when a request comes. */
struct admin_ops {
	const struct config *config;
	struct workers *workers;
	struct certs *certs;
	struct mesh *(*mesh)(void *ctx);		/* borrowed */
	const char *(*state_error)(void *ctx);		/* "" for none */
	void (*pending)(void *ctx, struct strbuf *out); /* "a, b"; empty: ready */
	void (*quit)(void *ctx);
	void (*kept)(void *ctx, struct dump_in *in); /* fills in what is about xDS */
	void *ctx;
};

struct admin;
/* Binds everything; an address that is taken is an error (ztunnel-spec 1.3), except the socket in
 * the file system, and others with config.handover: then it belongs to the generation before, and
 * is taken over when that lets go.
 */
struct admin *admin_new(struct loop *l, const struct admin_ops *ops, struct err *err) _must_check_;
/* Lets go of every address, for the next generation. Not from within a request. */
void admin_give_up(struct admin *a);
struct admin *admin_free(struct admin *a); /* NULL */
