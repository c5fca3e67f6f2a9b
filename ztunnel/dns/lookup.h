/* SPDX-License-Identifier: Apache-2.0
 * lookup.h: the addresses of a name as ztunnel itself is told them, with their lifetime.
 */
#pragma once
struct resolve_answer;

/* A look-up for resolve_start(): /etc/hosts first, then the resolvers of /etc/resolv.conf, with
 * its search list and options, A and AAAA. Blocks: any thread but a loop's. @ret is
 * zeroed by the caller. */
void lookup_addresses(const char *host, struct resolve_answer *ret);
