/* SPDX-License-Identifier: Apache-2.0
 * answer.h: which names the mesh itself answers, and with what. Pure.
 *
 * Source: ztunnel-spec 11.2 to 11.4. Unlike stock, letters compare without case (RFC 4343).
 */
#pragma once
#include "ztunnel/dns/msg.h"
#include "ztunnel/mesh/mesh.h"

struct dns_settings {
	struct str cluster_domain; /* CLUSTER_DOMAIN, lower case */
	struct str prefered_ns;	   /* PREFERED_SERVICE_NAMESPACE, may be empty */
	bool ipv6;		   /* IPV6_ENABLED */
};

enum dns_found {
	DNS_FORWARD,	/* not a name of the mesh, or another type than A and AAAA */
	DNS_SUCCESS,	/* addresses */
	DNS_NO_SUPPORT, /* the service does not have this family */
	DNS_NO_RECORDS, /* it has none for this client */
};

struct dns_answer {
	enum dns_found found;
	const struct service *service; /* borrowed from @m; NULL with DNS_FORWARD */
	size_t alias_labels;	       /* as in struct dns_reply */
	size_t naddrs;
};
/* What the pod behind @client gets to hear. @addrs gets at most @max addresses in random order,
 * chosen evenly when there are more; @random seeds that. */
struct dns_answer dns_answer(const struct dns_settings *s, const struct mesh *m,
			     const struct workload *client, const struct dns_query *q,
			     struct ip_addr *addrs, size_t max, uint64_t random) _must_check_;
