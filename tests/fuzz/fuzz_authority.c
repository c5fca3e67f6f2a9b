/* SPDX-License-Identifier: Apache-2.0
 * fuzz_authority.c: any bytes as :authority of a CONNECT and as its `forwarded` header. Property
 * (security.md C1): whatever is asked, the connection goes to the pod's own address, never to a
 * port of ours or port 0, and a refusal has a status and a reason.
 */
#include <stdint.h>
#include <string.h>

#include "lib/base/bug.h"
#include "ztunnel/mesh/decide.h"
#include "ztunnel/mesh/local_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char yaml[] =
	"workloads:\n"
	"  - {uid: me, name: me, namespace: ns, workloadIps: [10.0.0.2, 'fd00::2'],\n"
	"     services: {ns/svc.example: {80: 8080, 99: 15008}}}\n"
	"  - {uid: proxy, name: proxy, namespace: ns, workloadIps: [10.0.0.2], services: {},\n"
	"     applicationTunnel: {protocol: PROXY, port: 15088}}\n"
	"services:\n"
	"  - {name: viaway, namespace: ns, hostname: viaway.example, vips: [/10.1.0.2], ports: "
	"{80: "
	"8080},\n"
	"     waypoint: {destination: /10.0.0.2}}\n"
	"  - {name: svc, namespace: ns, hostname: svc.example, vips: [/10.1.0.1], ports: {80: "
	"80}}\n";

static void ask(const struct mesh *m, const char *local, struct str in, struct str host)
{
	struct ip_port conn = {{.len = 4, .b = {10, 0, 0, 2}}, 15008};
	struct inbound_target t;

	decide_inbound(m, mesh_workload_by_uid(m, str_of(local)), STR(""), in, &conn, host, &t);
	if (t.status != 0) {
		bug_on(t.status != 400 && t.status != 503);
		bug_on(t.error[0] == '\0' || memchr(t.error, '\0', sizeof(t.error)) == NULL);
		return;
	}
	bug_on(!ip_eq(&t.app.ip, &conn.ip) || t.app.port == 0 || decide_port_is_ours(t.app.port));
	bug_on(t.proxy && (t.tunnel.ip.len == 0 || t.tunnel.port == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mesh *m;
	struct str in = {(const char *)data, size}, host;
	struct ip_port from;

	if (m == NULL)
		m = local_state_parse(str_of(yaml), STR(""), 1, NULL);
	bug_on(m == NULL);
	decide_parse_forwarded(in, &from, &host);
	bug_on(host.n != 0 && (host.p < in.p || host.p + host.n > in.p + in.n));
	ask(m, "me", in, host);
	ask(m, "proxy", in, host);
	return 0;
}
