/* SPDX-License-Identifier: Apache-2.0
 * fuzz_wds.c: any bytes as a response of istiod, its resources as workloads, services and policies.
 * Property: what is taken is text without NUL, named as the resource, and goes into a snapshot.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "ztunnel/control/xds_wire.h"
#include "ztunnel/mesh/store.h"
#include "ztunnel/mesh/wds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(struct store *s, const struct xds_resource *r)
{
	struct err err = {0};
	struct wds_address a;
	struct policy *p = wds_policy(r->name, r->value, &err);

	bug_on(p == NULL && err.msg[0] == '\0');
	if (p != NULL) {
		bug_on(!str_is_utf8(p->name) || !str_eq(p->key, r->name));
		store_policy(s, p, r->version, r->value);
	} else if ((p = wds_policy_closed(r->name, r->value)) != NULL) {
		bug_on(!p->closed || p->scope == POLICY_WORKLOAD ||
		       (p->scope == POLICY_NAMESPACE && p->ns.n == 0) ||
		       p->nrules != (p->action == POLICY_DENY));
		store_policy(s, p, STR(""), r->value);
	}
	err = (struct err){0};
	if (wds_address(r->name, r->value, &a, &err) != 0) {
		bug_on(a.workload != NULL || a.service != NULL || err.msg[0] == '\0');
		return;
	}
	bug_on((a.workload == NULL) == (a.service == NULL));
	if (a.workload != NULL) {
		bug_on(!str_eq(a.workload->uid, r->name) || a.workload->identity == NULL);
		store_workload(s, a.workload, r->version, STR("v"));
	} else {
		store_service(s, a.service, r->name, r->version, STR("v"));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str m = {(const char *)data, size}, name;
	struct store *s = store_new(STR(""), true);
	struct xds_response resp;
	struct xds_resource r;
	size_t n = 0, gone = 0;
	struct err err;

	if (xds_response_open(m, &resp, &err) == 0) {
		for (; xds_next_resource(&resp, &r); n++)
			if (!r.broken)
				take(s, &r);
		bug_on(n != resp.nresources);
		xds_response_rewind(&resp, m);
		for (; xds_next_removed(&resp, &name); gone++)
			(void)store_remove(s, STORE_ADDRESS, name);
		bug_on(gone != resp.nremoved);
		mesh_unref(store_snapshot(s, 1));
	}
	(void)store_free(s);
	return 0;
}
