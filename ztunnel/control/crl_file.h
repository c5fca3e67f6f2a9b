/* SPDX-License-Identifier: Apache-2.0
 * crl_file.h: the file of revocation lists (CRL_PATH), read again when it changes. Control thread.
 * Source: ztunnel-spec 8.7.
 *
 * A file that is not there yet, or that cannot be used, is looked at again and again; what was read
 * before stays in use, and there is one log line for each reason.
 */
#pragma once
#include "lib/base/attr.h"

struct crl_file;
struct loop;
struct tls_crl;

/* Reads it at once, if it is there. @fn gets every new set of lists (borrowed). */
struct crl_file *crl_file_new(struct loop *l, const char *path,
			      void (*fn)(void *ctx, struct tls_crl *crl), void *ctx) _must_check_;
struct crl_file *crl_file_free(struct crl_file *f); /* NULL is fine; returns NULL */
