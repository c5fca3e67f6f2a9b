/* SPDX-License-Identifier: Apache-2.0
 * probes.h: the kubelet's health probes pass by the mesh (cni-spec 6).
 *
 * TCP of the kubelet's user to an enrolled pod leaves the node with a fixed source address that the
 * pod's rules exempt. The kubelet's user id comes from its process; while no kubelet is found
 * nothing is set up and the search goes on slowly (a node without a kubelet needs no exemption).
 * Nothing is removed when the agent stops. Loop thread only.
 */
#pragma once
#include <stddef.h>
#include "lib/base/attr.h"
#include "lib/format/ip.h"

struct config;
struct err;
struct jsonw;
struct loop;
struct probes;

/* @found(ctx): a kubelet was found and the rules are in place; set every enrolled pod again. */
struct probes *probes_new(struct loop *l, const struct config *cfg, void (*found)(void *ctx),
			  void *ctx, struct err *err) _must_check_;
struct probes *probes_free(struct probes *p);
bool probes_active(const struct probes *p);
/* Adds the pod's addresses; nothing to do while not active. */
int probes_set(struct probes *p, const struct ip_addr *ips, size_t n, const char *uid,
	       struct err *err) _must_check_;
void probes_clear(struct probes *p, const struct ip_addr *ips, size_t n, const char *uid);
/* Removes entries for which keep() is false (a pod that left while we were away). */
void probes_prune(struct probes *p,
		  bool (*keep)(void *ctx, const struct ip_addr *ip, struct str uid), void *ctx);

/* The "probes" object: enabled, active, kubeletUID, rules (read back) and ruleDiff. */
void probes_print(const struct probes *p, struct jsonw *w);

/* Pure: does this process look like a kubelet? @cmdline: NUL-separated arguments. */
bool probes_is_kubelet(struct str comm, struct str cmdline);
/* Pure: real user id from the text of /proc/<pid>/status. 0 or -EINVAL. */
int probes_parse_uid(struct str status, uint32_t *ret) _must_check_;
