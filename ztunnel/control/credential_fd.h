/* SPDX-License-Identifier: Apache-2.0
 * credential_fd.h: a certificate with its key as sealed memory, for the agent to keep, and back
 * (lib/wire/credential.h, lib/os/sealed.h). What held the key on the way is wiped. Control thread.
 */
#pragma once
#include "lib/base/attr.h"

struct err;
struct tls_identity;

/* A descriptor, or -errno. */
int credential_seal(const struct tls_identity *id, struct err *err) _must_check_;
/* @fd stays the caller's. NULL with @err unless it is sealed memory with a certificate that a peer
 * would accept now, of the identity that it says. */
struct tls_identity *credential_open(int fd, struct err *err) _must_check_;
