/* SPDX-License-Identifier: Apache-2.0
 * fuzz_yaml_state.c: any bytes as the local mesh state. Properties: a refusal says why; what is
 * accepted can be asked for everything, gives the same answers from a second parse, and every
 * identity in it is one.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/local_state.h"
#include "ztunnel/mesh/rbac.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_workload(void *ctx, struct workload *w)
{
	struct mesh *m = ctx;
	struct rbac_conn c = {.src = {.len = 4, .b = {10, 0, 0, 1}},
			      .dst = {{.len = 4, .b = {10, 0, 0, 2}}, 80}};
	struct ip_port dst = {{.len = 4, .b = {10, 1, 0, 1}}, 80};
	struct rbac_result r;
	struct spiffe_id id;
	struct route route;
	char reason[256];

	bug_on(spiffe_parse(str_of(w->identity), &id) != 0);
	bug_on(mesh_workload_by_uid(m, w->uid) != w);
	if (w->nips != 0)
		dst.ip = w->ips[0];
	decide_outbound(m, w, STR(""), &dst, w->nips * 7919u, &route);
	bug_on(route.kind == ROUTE_HBONE && (route.nidentities == 0 || route.dst == NULL));
	bug_on(route.kind == ROUTE_REFUSE && route.error[0] == '\0');
	r = rbac_evaluate(m, w, &c);
	(void)rbac_reason(&r, reason, sizeof(reason));
	c.has_identity = true;
	c.identity = id;
	r = rbac_evaluate(m, w, &c);
	(void)rbac_reason(&r, reason, sizeof(reason));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	struct err err = {0};
	struct mesh *m = local_state_parse(in, STR("n1"), 1, &err), *again;

	if (m == NULL) {
		bug_on(err.msg[0] == '\0');
		return 0;
	}
	again = local_state_parse(in, STR("n1"), 2, NULL);
	bug_on(again == NULL || mesh_count_workloads(m) != mesh_count_workloads(again));
	mesh_each_workload(m, use_workload, m);
	mesh_unref(again);
	mesh_unref(m);
	return 0;
}
