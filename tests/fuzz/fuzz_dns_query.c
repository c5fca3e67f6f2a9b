/* SPDX-License-Identifier: Apache-2.0
 * fuzz_dns_query.c: any bytes as a pod's DNS message. Properties: what is read is within the
 * message; every answer of ours fits its limit and is an answer to that query; a cut one says so.
 */
#include <stdint.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "ztunnel/dns/answer.h"
#include "ztunnel/mesh/local_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char state_yaml[] =
	"workloads:\n"
	"  - {uid: client, name: client, namespace: ns1, workloadIps: [10.0.0.1], services: "
	"{ns1/h.ns1.svc.cluster.local: {80: 80}}}\n"
	"services:\n"
	"  - {name: a, namespace: ns1, hostname: a.ns1.svc.cluster.local, vips: [/10.1.0.1, "
	"'/fd00::1'], ports: {80: 80}}\n"
	"  - {name: h, namespace: ns1, hostname: h.ns1.svc.cluster.local, vips: [], ports: {}}\n"
	"  - {name: w, namespace: ns2, hostname: '*.w', vips: [/10.1.0.2], ports: {80: 80}}\n";

static const struct dns_settings settings = {.cluster_domain = {"cluster.local", 13}, .ipv6 = true};

static void check(const struct dns_query *q, const struct dns_reply *r, size_t max)
{
	static uint8_t out[DNS_MESSAGE_MAX];
	size_t n = dns_reply_write(q, r, out, max);
	struct dns_query again;

	bug_on(n > max || n < DNS_HEADER_BYTES);
	bug_on(q->question && !dns_is_answer(out, n, q, q->id));
	out[2] &= 0x7f; /* it reads back as a query with the same question */
	bug_on(q->question &&
	       (dns_parse(out, n, &again) != DNS_KIND_QUERY || again.end != n ||
		again.type != q->type || again.edns != q->edns || again.name.n != q->name.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mesh *mesh;
	static const struct workload *client;
	struct ip_addr addrs[64];
	struct dns_query q;
	struct dns_answer a;
	enum dns_kind kind;
	char text[DNS_TEXT_MAX];

	if (mesh == NULL) {
		mesh = local_state_parse(str_of(state_yaml), STR(""), 1, NULL);
		bug_on(mesh == NULL);
		client = mesh_workload_by_uid(mesh, STR("client"));
	}
	kind = dns_parse(data, size, &q);
	if (kind == DNS_KIND_NONE)
		return 0;
	if (kind != DNS_KIND_QUERY) {
		check(&q, &(struct dns_reply){.rcode = DNS_FORMERR}, DNS_UDP_BYTES);
		return 0;
	}
	bug_on(q.end > size || q.payload < DNS_UDP_BYTES);
	if (dns_name_text(&q.name, text))
		bug_on(strlen(text) + 2 != q.name.n);
	a = dns_answer(&settings, mesh, client, &q, addrs, ARRAY_LEN(addrs), size);
	bug_on(a.naddrs > ARRAY_LEN(addrs) || (a.found == DNS_SUCCESS) != (a.naddrs != 0));
	check(&q,
	      &(struct dns_reply){.authoritative = true,
				  .alias_labels = a.alias_labels,
				  .addrs = addrs,
				  .naddrs = a.naddrs,
				  .ttl = 30},
	      DNS_UDP_BYTES);
	return 0;
}
