/* SPDX-License-Identifier: Apache-2.0
 * http1.h: small HTTP/1.1 servers (admin, metrics, readiness, the agent's event socket) on the
 * caller's loop. Our own, because the packaged library brings a whole TLS stack into the two most
 * privileged daemons of a node (docs/architecture.md).
 *
 * Bounded: LIMIT_HTTP_HEAD_BYTES, LIMIT_HTTP_BODY_BYTES, LIMIT_HTTP_CONNECTIONS,
 * LIMIT_HTTP_IDLE_SEC. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/base/str.h"

struct err;
struct loop;
struct http1_server;
struct http1_req;

/* Called once per request, when its body is complete. Answer with http1_reply(), now or later (the
 * request stays valid until answered or until @gone of http1_keep ran). */
typedef void (*http1_handler)(void *ctx, struct http1_req *req);

/* Serves on the listening socket @listen_fd (ownership moves here). @peer_uid_only: >= 0 for unix
 * sockets: connections of another uid are answered 403 and closed, and logged. NULL with @err on
 * failure. */
struct http1_server *http1_server_new(struct loop *l, int listen_fd, int64_t peer_uid_only,
				      http1_handler fn, void *ctx, struct err *err) _must_check_;
struct http1_server *http1_server_free(struct http1_server *s); /* closes everything; NULL */
/* How long a request may take to arrive, from connecting or from the answer before it, for
 * connections made from now on. LIMIT_HTTP_IDLE_SEC unless set. */
void http1_server_set_wait(struct http1_server *s, uint64_t ms);

const char *http1_method(const struct http1_req *r);
const char *http1_path(const struct http1_req *r); /* without query */
const char *http1_query(const struct http1_req *r,
			const char *key); /* NULL if absent, "" if without value */
const char *http1_header(const struct http1_req *r, const char *name);
struct str http1_body(const struct http1_req *r);
pid_t http1_peer_pid(const struct http1_req *r); /* unix sockets; else 0 */

/* Answers and releases @r. @body is copied. */
void http1_reply(struct http1_req *r, unsigned int status, const char *content_type,
		 struct str body);
/* For an answer that comes later: suspends the connection; @gone(arg) runs if the server is freed
 * or the client goes away first (do not answer after that). A client that only shuts down its
 * sending side still waits; over TCP a close looks the same, so that it is noticed with the answer.
 * No time limit applies while a request is kept: that is the handler's business. */
void http1_keep(struct http1_req *r, void (*gone)(void *arg), void *arg);
