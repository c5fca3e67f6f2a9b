/* SPDX-License-Identifier: Apache-2.0
 * model.h: the mesh as this node knows it: workloads, services, policies. Pure data, immutable once
 * published.
 *
 * A `struct mesh` is one snapshot. The control thread builds it and hands it to every worker
 * through their mailboxes; each snapshot counts its holders (atomic), so a worker that is done with
 * an old one drops it and the last one frees. Workloads, services and policies have their own
 * atomic counts, so that the next snapshot shares what did not change and a connection can keep the
 * workload that its log line names. Source: ztunnel-spec 4.1, 9.8, 9.9, 10.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/attr.h"
#include "lib/base/hash.h"
#include "lib/format/ip.h"
#include "lib/wire/spiffe.h"

struct err;

enum workload_protocol { WL_TCP, WL_HBONE, WL_PROTOCOL_N };
enum wl_type { WL_TYPE_DEPLOYMENT, WL_TYPE_CRONJOB, WL_TYPE_POD, WL_TYPE_JOB, WL_TYPE_N };
extern const char *const wl_type_name[WL_TYPE_N];

struct net_ip { /* (network, IP): the key of addresses */
	struct str network;
	struct ip_addr ip;
};

/* Where a waypoint or network gateway is: an address, or ns/hostname. */
struct gateway_ref {
	bool set, by_host;
	struct net_ip addr;
	struct str ns, hostname;
	uint16_t hbone_port;
};

extern const struct gateway_ref gateway_none; /* not .set */

struct weighted_ref {
	struct gateway_ref ref;
	uint32_t weight; /* 0: never chosen */
};

struct port_map {
	uint16_t service_port, target_port; /* target 0: named, each endpoint maps it */
};

struct wl_service {	 /* membership of a workload in a service */
	struct str name; /* "namespace/hostname" */
	struct port_map *ports;
	size_t nports;
};

struct workload {
	atomic_uint refs;
	struct arena *arena; /* owns every text and array below */
	struct str uid, name, ns, sa, trust_domain, network, node, cluster;
	struct str workload_name, canonical_name, canonical_revision, hostname;
	struct str region, zone, subzone;
	enum wl_type type;
	enum workload_protocol protocol;
	bool host_network, unhealthy, native_tunnel;
	struct ip_addr *ips;
	size_t nips;
	struct wl_service *services;
	size_t nservices;
	const struct gateway_ref *waypoint, *network_gateway; /* most have none: gateway_none */
	struct str *policies; /* authorization policies attached by name ("ns/name") */
	size_t npolicies;
	struct {
		bool set, proxy;
		uint16_t port;
	} app_tunnel;
	uint32_t capacity;
	char *identity; /* "spiffe://td/ns/x/sa/y", NUL-terminated, in the arena */
};

enum lb_mode { LB_UNSPECIFIED, LB_STRICT, LB_FAILOVER, LB_PASSTHROUGH, LB_MODE_N };
enum lb_scope { LB_REGION, LB_ZONE, LB_SUBZONE, LB_NODE, LB_CLUSTER, LB_NETWORK, LB_SCOPE_N };

struct endpoint { /* borrowed from the snapshot that owns it */
	struct workload *wl;
	const struct port_map *ports;
	size_t nports;
	struct str service; /* "namespace/hostname" */
};

struct service {
	atomic_uint refs;
	struct arena *arena;
	struct str name, ns, hostname;
	struct net_ip *vips;
	size_t nvips;
	struct {
		struct str network;
		struct ip_cidr cidr;
	} * cidr_vips;
	size_t ncidr_vips;
	struct port_map *ports;
	size_t nports;
	struct str *subject_alt_names; /* SPIFFE URIs */
	size_t nsans;
	struct gateway_ref waypoint;
	struct weighted_ref
		*waypoints; /* of a canary; none, or all of weight 0: .waypoint alone counts */
	size_t nwaypoints;
	enum lb_mode lb_mode;
	enum lb_scope lb_pref[LB_SCOPE_N];
	size_t nlb_pref;
	bool allow_unhealthy, canonical, private_to_ns;
	int ip_families; /* 0 automatic, 4, 6, 10 both */
};

enum policy_scope { POLICY_GLOBAL, POLICY_NAMESPACE, POLICY_WORKLOAD, POLICY_SCOPE_N };
enum policy_action { POLICY_ALLOW, POLICY_DENY, POLICY_ACTION_N };
enum match_kind { MATCH_EXACT, MATCH_PREFIX, MATCH_SUFFIX, MATCH_PRESENCE, MATCH_KIND_N };
struct str_match {
	enum match_kind kind;
	struct str text;
};
struct sa_match {
	struct str ns, sa;
};
struct match_list_str {
	struct str_match *v;
	size_t n;
};
struct match_list_cidr {
	struct ip_cidr *v;
	size_t n;
};
struct match_list_port {
	uint16_t *v;
	size_t n;
};
struct match_list_sa {
	struct sa_match *v;
	size_t n;
};
struct policy_match {
	struct match_list_str namespaces, not_namespaces, principals, not_principals;
	struct match_list_cidr source_ips, not_source_ips, destination_ips, not_destination_ips;
	struct match_list_port destination_ports, not_destination_ports;
	struct match_list_sa service_accounts, not_service_accounts;
};
struct policy_clause { /* matches: OR */
	struct policy_match *v;
	size_t n;
};
struct policy_rule { /* clauses: AND */
	struct policy_clause *v;
	size_t n;
};
struct policy {
	atomic_uint refs;
	struct arena *arena;
	struct str name, ns, key; /* key: "ns/name" */
	enum policy_scope scope;
	enum policy_action action;
	bool dry_run;
	bool closed; /* stands for one that could not be read: a DENY that always holds, or an ALLOW
			that never does */
	struct policy_rule *rules; /* OR */
	size_t nrules;
};

/* A zeroed object with one reference and an arena of its own. Build it fully before sharing it. */
struct workload *workload_new(void) _must_check_;
struct service *service_new(void) _must_check_;
struct policy *policy_new(void) _must_check_;
/* Copies text into the arena of an object. */
struct str model_text(struct arena *a, struct str s);
/* Fills in what the wire leaves out (ztunnel-spec 4.1: trust domain, service account, cluster,
 * capacity is the caller's) and composes .identity; -EINVAL when the parts cannot form one. */
int workload_complete(struct workload *w, struct err *err) _must_check_;

struct workload *workload_ref(struct workload *w); /* NULL is fine */
void workload_unref(struct workload *w);
struct service *service_ref(struct service *s);
void service_unref(struct service *s);
struct policy *policy_ref(struct policy *p);
void policy_unref(struct policy *p);
