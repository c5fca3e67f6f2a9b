/* SPDX-License-Identifier: Apache-2.0
 * test_export.c: Kubernetes objects in, ztunnel's state file out. Every file that is composed here
 * is also read by ztunnel's own parser.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "ctl/export_read.h"
#include "ctl/export_yaml.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "ztunnel/mesh/local_state.h"

#define OBJECTS_MAX 8

static const struct ex_config config = {"Kubernetes", "cluster.local", "cluster.local",
					"istio-system"};

/* A letter for the kind, then JSON with single quotes. */
static enum ex_kind kind_of(char c)
{
	static const char letters[EX_KIND_N + 1] = "psenoam";
	const char *at = strchr(letters, c);

	assert_non_null(at);
	return (enum ex_kind)(at - letters);
}

static int put(struct ex_store *s, const char *text, char **ret_note, struct err *err)
{
	struct arena *a = arena_new();
	char *json = arena_strndup(a, text + 1, strlen(text + 1));
	struct ex_object *o = NULL;
	const struct doc *d = NULL;
	int r;

	for (char *p = json; *p != '\0'; p++)
		if (*p == '\'')
			*p = '"';
	r = json_parse(str_of(json), a, &d, err);
	if (r < 0)
		fail_msg("%s: %s", text, err->msg);
	r = ex_read(kind_of(text[0]), d, &s->texts, &o, err);
	if (r == 0 && o != NULL) {
		if (ret_note != NULL && o->note != NULL)
			*ret_note = xstrdup(o->note);
		(void)ex_store_put(s, o);
	}
	(void)arena_free(a);
	return r;
}

static char *compose(const struct ex_store *s)
{
	struct strbuf out = {0};
	struct err err = {0};
	struct ex_counts n;
	struct mesh *m;

	ex_yaml(s, &config, &out, &n);
	m = local_state_parse((struct str){out.p, out.n}, STR("node-1"), 1, &err);
	if (m == NULL)
		fail_msg("ztunnel refuses it: %s\n%s", err.msg, out.p);
	assert_int_equal(mesh_count_workloads(m), n.workloads);
	mesh_unref(m);
	return strbuf_take(&out);
}

struct row {
	const char *name;
	const char *object[OBJECTS_MAX];
	const char *want, *want_not; /* parts of the file; NULL: nothing to say */
	const char *note;	     /* part of what is said about an object */
};

#define META(more) "'metadata':{'name':'web-1','namespace':'default','uid':'u1'" more "}"
#define RUNNING                                                                                    \
	"'status':{'phase':'Running','podIP':'10.0.0.2','conditions':[{'type':'Ready','status':'"  \
	"True'}]}"
#define POD(meta)                                                                                  \
	"p{" META(meta) ",'spec':{'nodeName':'node-1','serviceAccountName':'web'}," RUNNING "}"
#define STATUS(text)  "p{" META("") ",'spec':{},'status':{" text "}}"
#define SPEC(text)    "p{" META(",'labels':{'app':'web'}") ",'spec':{" text "}," RUNNING "}"
#define SERVICE(spec) "s{'metadata':{'name':'web','namespace':'default'},'spec':{" spec "}}"
#define SELECTED                                                                                   \
	SERVICE("'selector':{'app':'web'},'ports':[{'name':'http','port':80,'targetPort':'http'}," \
		"{'name':'m','port':90,'targetPort':9090}]")
#define OWNED(by, labels)                                                                          \
	POD(",'generateName':'x-','labels':{" labels                                               \
	    "},'ownerReferences':[{'kind':'Node','name':'no'}," by "]")

static const struct row rows[] = {
	/* existence (istiod-ambient-spec 4.1) */
	{"pod__full",
	 {POD(",'labels':{'app':'web','version':'v2'},'annotations':{'ambient.istio.io/"
	      "redirection':'enabled'}")},
	 "workloads:\n- uid: Kubernetes//Pod/default/web-1\n  name: web-1\n  namespace: default\n"
	 "  trustDomain: cluster.local\n  serviceAccount: web\n  clusterId: Kubernetes\n"
	 "  workloadIps: [\"10.0.0.2\"]\n  protocol: HBONE\n  node: node-1\n  workloadName: web-1\n"
	 "  workloadType: pod\n  canonicalName: web\n  canonicalRevision: v2\n  services: {}\n"
	 "services: []\npolicies: []\n",
	 NULL,
	 NULL},
	{"pod__pending_without_address",
	 {STATUS("'phase':'Pending'")},
	 "workloads: []",
	 NULL,
	 NULL},
	{"pod__pending_with_address",
	 {STATUS("'phase':'Pending','podIP':'10.0.0.2'")},
	 "status: Unhealthy",
	 NULL,
	 NULL},
	{"pod__succeeded",
	 {STATUS("'phase':'Succeeded','podIP':'10.0.0.2'")},
	 "workloads: []",
	 NULL,
	 NULL},
	{"pod__failed",
	 {STATUS("'phase':'Failed','podIP':'10.0.0.2'")},
	 "workloads: []",
	 NULL,
	 NULL},
	{"pod__address_that_is_none",
	 {STATUS("'phase':'Running','podIPs':[{'ip':'10.0.0.2'},{'ip':'x'}]")},
	 "workloads: []",
	 NULL,
	 NULL},
	{"pod__two_addresses",
	 {STATUS("'podIP':'10.0.0.2','podIPs':[{'ip':'10.0.0.2'},{'ip':'fd00::2'},{'ip':'10.0.0.2'}"
		 "]")},
	 "workloadIps: [\"10.0.0.2\", \"fd00::2\"]",
	 NULL,
	 NULL},
	{"pod__empty_list_of_addresses_leaves_the_one",
	 {STATUS("'podIP':'10.0.0.2','podIPs':[]")},
	 "workloadIps: [\"10.0.0.2\"]",
	 NULL,
	 NULL},
	{"pod__deleted_while_it_runs",
	 {POD(",'deletionTimestamp':'2026-01-01T00:00:00Z'")},
	 "status: Unhealthy",
	 NULL,
	 NULL},
	{"pod__ready_is_no_news", {POD("")}, "node: node-1", "status:", NULL},
	{"pod__host_network", {SPEC("'hostNetwork':true")}, "networkMode: HostNetwork", NULL, NULL},
	{"pod__default_account", {SPEC("")}, "serviceAccount: default", NULL, NULL},
	{"pod__not_scheduled_has_no_node", {SPEC("")}, NULL, "node:", NULL},
	/* tunnel protocol (4.1.1) */
	{"protocol__plain", {POD("")}, "protocol: TCP", "HBONE", NULL},
	{"protocol__pending_does_not_count",
	 {POD(",'annotations':{'ambient.istio.io/redirection':'pending'}")},
	 "protocol: TCP",
	 "HBONE",
	 NULL},
	{"protocol__own_tunnel",
	 {POD(",'labels':{'networking.istio.io/tunnel':'x, http'}")},
	 "protocol: HBONE\n  nativeTunnel: true\n",
	 NULL,
	 NULL},
	{"protocol__other_tunnel",
	 {POD(",'labels':{'networking.istio.io/tunnel':'https'}")},
	 "protocol: TCP",
	 NULL,
	 NULL},
	/* names */
	{"name__deployment",
	 {OWNED("{'kind':'ReplicaSet','name':'shop-6b7','controller':true}",
		"'pod-template-hash':'6b7'")},
	 "workloadName: shop\n",
	 NULL,
	 NULL},
	{"name__replica_set_of_nobody",
	 {OWNED("{'kind':'ReplicaSet','name':'shop-6b7','controller':true}", "")},
	 "workloadName: shop-6b7\n",
	 NULL,
	 NULL},
	{"name__rollout",
	 {OWNED("{'kind':'ReplicaSet','name':'shop-9','controller':true}",
		"'rollouts-pod-template-hash':'9'")},
	 "workloadName: shop\n",
	 NULL,
	 NULL},
	{"name__cron_job",
	 {OWNED("{'kind':'Job','name':'nightly-28000000','controller':true}", "")},
	 "workloadName: nightly\n",
	 NULL,
	 NULL},
	{"name__job_with_a_short_number",
	 {OWNED("{'kind':'Job','name':'nightly-2800000','controller':true}", "")},
	 "workloadName: nightly-2800000\n",
	 NULL,
	 NULL},
	{"name__stateful_set",
	 {OWNED("{'kind':'StatefulSet','name':'db','controller':true}", "")},
	 "workloadName: db\n",
	 NULL,
	 NULL},
	{"name__owner_that_does_not_control",
	 {OWNED("{'kind':'Job','name':'x'}", "")},
	 "workloadName: web-1\n",
	 NULL,
	 NULL},
	{"name__static_pod",
	 {POD(",'ownerReferences':[{'kind':'Node','name':'n','controller':true}]")},
	 "workloadName: web-1\n",
	 NULL,
	 NULL},
	{"name__by_label",
	 {POD(",'labels':{'service.istio.io/workload-name':'mine'}")},
	 "workloadName: mine\n",
	 NULL,
	 NULL},
	{"canonical__order",
	 {POD(",'labels':{'app':'c','app.kubernetes.io/name':'b','service.istio.io/"
	      "canonical-name':'a','version':'3','app.kubernetes.io/version':'2'}")},
	 "canonicalName: a\n  canonicalRevision: \"2\"\n",
	 NULL,
	 NULL},
	{"canonical__none",
	 {POD("")},
	 "canonicalName: web-1\n  canonicalRevision: latest\n",
	 NULL,
	 NULL},
	/* nodes and network */
	{"locality__of_the_node",
	 {POD(""), "o{'metadata':{'name':'node-1','labels':{'topology.kubernetes.io/"
		   "region':'eu','topology.kubernetes.io/zone':'eu-1'}}}"},
	 "locality: {region: eu, zone: eu-1, subzone: \"\"}",
	 NULL,
	 NULL},
	{"locality__node_says_nothing",
	 {POD(""), "o{'metadata':{'name':'node-1'}}"},
	 NULL,
	 "locality",
	 NULL},
	{"network__label_of_the_root_namespace",
	 {POD(""), SERVICE("'clusterIP':'10.96.0.1','ports':[]"),
	  "n{'metadata':{'name':'istio-system','labels':{'topology.istio.io/network':'east'}}}"},
	 "  network: east\n",
	 NULL,
	 NULL},
	{"network__in_front_of_vips",
	 {SERVICE("'clusterIP':'10.96.0.1','ports':[]"),
	  "n{'metadata':{'name':'istio-system','labels':{'topology.istio.io/network':'east'}}}"},
	 "vips: [east/10.96.0.1]",
	 NULL,
	 NULL},
	/* membership (4.1.2) */
	{"member__named_and_numeric_port",
	 {SPEC("'containers':[{'ports':[{'name':'http','containerPort':8080}]}]"), SELECTED},
	 "  services:\n    default/web.default.svc.cluster.local: {80: 8080, 90: 9090}\n",
	 NULL,
	 NULL},
	{"member__named_port_is_missing",
	 {SPEC("'containers':[{'ports':[{'name':'other','containerPort':8080}]}]"), SELECTED},
	 "    default/web.default.svc.cluster.local: {90: 9090}\n",
	 NULL,
	 NULL},
	{"member__named_port_is_udp",
	 {SPEC("'containers':[{'ports':[{'name':'http','containerPort':8080,'protocol':'UDP'}]}]"),
	  SELECTED},
	 "    default/web.default.svc.cluster.local: {90: 9090}\n",
	 NULL,
	 NULL},
	{"member__port_of_a_restartable_init_container",
	 {SPEC("'containers':[{}],'initContainers':[{'restartPolicy':'Always','ports':[{'name':'"
	       "http','containerPort':81}]}]"),
	  SELECTED},
	 "{80: 81, 90: 9090}",
	 NULL,
	 NULL},
	{"member__port_of_a_plain_init_container",
	 {SPEC("'initContainers':[{'ports':[{'name':'http','containerPort':81}]}]"), SELECTED},
	 "svc.cluster.local: {90: 9090}",
	 NULL,
	 NULL},
	{"member__labels_differ",
	 {SPEC(""), SERVICE("'selector':{'app':'db'},'ports':[{'port':80}]")},
	 "  services: {}\n",
	 NULL,
	 NULL},
	{"member__one_of_two_labels",
	 {SPEC(""), SERVICE("'selector':{'app':'web','x':'y'},'ports':[{'port':80}]")},
	 "  services: {}\n",
	 NULL,
	 NULL},
	{"member__other_namespace",
	 {SPEC(""), "s{'metadata':{'name':'web','namespace':'shop'},'spec':{'selector':{'app':'web'"
		    "},'ports':[{'port':80}]}}"},
	 "  services: {}\n",
	 NULL,
	 NULL},
	{"member__no_selector_selects_nobody",
	 {SPEC(""), SERVICE("'ports':[{'port':80}]")},
	 "  services: {}\n",
	 NULL,
	 NULL},
	{"member__target_is_the_port_itself",
	 {SPEC(""), SERVICE("'selector':{'app':'web'},'ports':[{'port':80}]")},
	 "local: {80: 80}",
	 NULL,
	 NULL},
	{"member__by_slice",
	 {SPEC(""), SERVICE("'ports':[{'name':'http','port':80}]"),
	  "e{'metadata':{'name':'web-x','namespace':'default','labels':{'kubernetes.io/"
	  "service-name':'web'}},'ports':[{'name':'http','port':8081}],"
	  "'endpoints':[{'addresses':['10.0.0.2'],'targetRef':{'kind':'Pod','namespace':'default','"
	  "name':'web-1','uid':'u1'}}]}"},
	 "    default/web.default.svc.cluster.local: {80: 8081}\nservices:",
	 NULL,
	 NULL},
	{"member__slice_means_a_pod_that_is_gone",
	 {SPEC(""), SERVICE("'ports':[{'name':'http','port':80}]"),
	  "e{'metadata':{'name':'web-x','namespace':'default','labels':{'kubernetes.io/"
	  "service-name':'web'}},'ports':[{'name':'http','port':8081}],"
	  "'endpoints':[{'addresses':['10.0.0.2'],'targetRef':{'kind':'Pod','namespace':'default','"
	  "name':'web-1','uid':'u0'}}]}"},
	 "  services: {}\nservices:",
	 NULL,
	 NULL},
	/* endpoints that are no pods (4.4) */
	{"slice__addresses",
	 {SERVICE("'clusterIP':'10.96.0.1','ports':[{'name':'https','port':443}]"),
	  "e{'metadata':{'name':'web-x','namespace':'default','labels':{'kubernetes.io/"
	  "service-name':'web'}},"
	  "'ports':[{'name':'https','port':6443,'protocol':'TCP'},{'name':'dns','port':53,'"
	  "protocol':'UDP'}],"
	  "'endpoints':[{'addresses':['192.0.2.1']},{'addresses':['192.0.2.1']},{'addresses':['192."
	  "0.2.2'],'conditions':{'ready':false}}]}"},
	 "- uid: Kubernetes/discovery.k8s.io/EndpointSlice/default/web-x/192.0.2.1\n  name: web-x\n"
	 "  namespace: default\n  trustDomain: cluster.local\n  serviceAccount: default\n"
	 "  clusterId: Kubernetes\n  workloadIps: [\"192.0.2.1\"]\n  protocol: TCP\n"
	 "  networkMode: HostNetwork\n  services:\n"
	 "    default/web.default.svc.cluster.local: {443: 6443}\n"
	 "- uid: Kubernetes/discovery.k8s.io/EndpointSlice/default/web-x/192.0.2.2\n  name: web-x\n"
	 "  namespace: default\n  trustDomain: cluster.local\n  serviceAccount: default\n"
	 "  clusterId: Kubernetes\n  workloadIps: [\"192.0.2.2\"]\n  protocol: TCP\n"
	 "  networkMode: HostNetwork\n  status: Unhealthy\n",
	 NULL,
	 NULL},
	{"slice__of_no_service",
	 {"e{'metadata':{'name':'web-x','namespace':'default','labels':{'kubernetes.io/"
	  "service-name':'web'}},'endpoints':[{'addresses':['192.0.2.1']}]}"},
	 "workloads: []",
	 NULL,
	 NULL},
	{"slice__of_names",
	 {SERVICE("'ports':[{'port':443}]"),
	  "e{'addressType':'FQDN','metadata':{'name':'web-x','namespace':'default','labels':{'"
	  "kubernetes.io/service-name':'web'}},'endpoints':[{'addresses':['a.b']}]}"},
	 "workloads: []",
	 NULL,
	 NULL},
	/* services (5.1, 5.3) */
	{"service__full",
	 {SERVICE("'clusterIP':'10.96.0.1','clusterIPs':['10.96.0.1','fd00::1'],'ipFamilies':['"
		  "IPv4','IPv6'],"
		  "'ports':[{'port':80,'targetPort':'http'},{'port':90,'targetPort':91},{'port':53,"
		  "'protocol':'UDP'}]")},
	 "services:\n- name: web\n  namespace: default\n  hostname: web.default.svc.cluster.local\n"
	 "  vips: [\"/10.96.0.1\", \"/fd00::1\"]\n  ports: {80: 0, 90: 91}\n  ipFamilies: Dual\n"
	 "  canonical: true\npolicies: []\n",
	 "loadBalancer",
	 NULL},
	{"service__headless",
	 {SERVICE("'clusterIP':'None','clusterIPs':['None'],'ports':[{'port':80}]")},
	 "vips: []\n",
	 NULL,
	 NULL},
	{"service__one_number_for_tcp_and_udp",
	 {SERVICE("'ports':[{'name':'u','port':53,'protocol':'UDP'},{'name':'t','port':53}]")},
	 "ports: {53: 53}",
	 NULL,
	 NULL},
	{"service__external_name",
	 {SERVICE("'type':'ExternalName','externalName':'a.b'")},
	 "services: []",
	 NULL,
	 NULL},
	{"balance__local",
	 {SERVICE(
		 "'internalTrafficPolicy':'Local','trafficDistribution':'PreferClose','ports':[]")},
	 "loadBalancer: {routingPreferences: [Node], mode: Strict, healthPolicy: OnlyHealthy}",
	 NULL,
	 NULL},
	{"balance__close",
	 {SERVICE("'trafficDistribution':'PreferClose','ports':[]")},
	 "loadBalancer: {routingPreferences: [Network, Region, Zone], mode: Failover, "
	 "healthPolicy: OnlyHealthy}",
	 NULL,
	 NULL},
	{"balance__same_node",
	 {SERVICE("'trafficDistribution':'PreferSameNode','ports':[]")},
	 "loadBalancer: {routingPreferences: [Network, Region, Zone, Subzone, Node], mode: "
	 "Failover",
	 NULL,
	 NULL},
	{"balance__not_ready_too",
	 {SERVICE("'publishNotReadyAddresses':true,'ports':[]")},
	 "loadBalancer: {routingPreferences: [], mode: Standard, healthPolicy: AllowAll}",
	 NULL,
	 NULL},
	{"balance__annotation_of_the_namespace",
	 {SERVICE("'ports':[]"), "n{'metadata':{'name':'default','annotations':{'networking.istio."
				 "io/traffic-distribution':'preferclose'}}}"},
	 "mode: Failover",
	 NULL,
	 NULL},
	{"balance__unknown_wish_hides_the_namespace",
	 {"s{'metadata':{'name':'web','namespace':'default','annotations':{'networking.istio.io/"
	  "traffic-distribution':'Any'}},'spec':{'ports':[]}}",
	  "n{'metadata':{'name':'default','annotations':{'networking.istio.io/"
	  "traffic-distribution':'PreferClose'}}}"},
	 NULL,
	 "loadBalancer",
	 NULL},
	/* order */
	{"order__by_namespace_and_name",
	 {"n{'metadata':{'name':'z'}}",
	  "s{'metadata':{'name':'b','namespace':'v'},'spec':{'ports':[]}}",
	  "s{'metadata':{'name':'c','namespace':'u'},'spec':{'ports':[]}}",
	  "s{'metadata':{'name':'a','namespace':'v'},'spec':{'ports':[]}}"},
	 "services:\n- name: c\n  namespace: u\n  hostname: c.u.svc.cluster.local\n  vips: []\n  "
	 "ports: {}\n"
	 "  canonical: true\n- name: a\n  namespace: v\n  hostname: a.v.svc.cluster.local\n  vips: "
	 "[]\n  ports: {}\n"
	 "  canonical: true\n- name: b\n  namespace: v\n",
	 NULL,
	 NULL},
};

/* --- policies --- */

#define POLICY(ns, spec)  "a{'metadata':{'name':'p','namespace':'" ns "'},'spec':{" spec "}}"
#define RULES(rules)	  POLICY("default", "'rules':[" rules "]")
#define DENY(rules)	  POLICY("default", "'action':'DENY','rules':[" rules "]")
#define FROM(source)	  "{'from':[{'source':{" source "}}]}"
#define TO(operation)	  "{'to':[{'operation':{" operation "}}]}"
#define WHEN(key, values) "{'when':[{'key':'" key "'," values "}]}"
#define HEAD(action)                                                                               \
	"- name: p\n  namespace: default\n  scope: Namespace\n  action: " action                   \
	"\n  dryRun: false\n"
#define ALLOWS HEAD("Allow")
#define DENIES HEAD("Deny")

static const struct row policy_rows[] = {
	/* 7.1 */
	{"policy__nothing_allowed", {POLICY("default", "")}, ALLOWS "  rules: []\n", NULL, NULL},
	{"policy__everything_allowed", {RULES("{}")}, ALLOWS "  rules:\n  - []\n", NULL, NULL},
	{"policy__global",
	 {POLICY("istio-system", "'rules':[{}]")},
	 "  scope: Global\n",
	 NULL,
	 NULL},
	{"policy__target_is_a_waypoint",
	 {POLICY("default", "'targetRefs':[{'kind':'Gateway','name':'w'}],'rules':[{}]")},
	 "policies: []",
	 NULL,
	 "targetRef"},
	{"policy__audit",
	 {POLICY("default", "'action':'AUDIT','rules':[{}]")},
	 "policies: []",
	 NULL,
	 "ALLOW and DENY only"},
	{"policy__dry_run",
	 {"a{'metadata':{'name':'p','namespace':'default','annotations':{'istio.io/"
	  "dry-run':'true'}},'spec':{'rules':[{}]}}"},
	 "policies: []",
	 NULL,
	 "dry run"},
	{"policy__selector",
	 {POLICY("default", "'selector':{'matchLabels':{'app':'web'}},'rules':[{}]"), SPEC("")},
	 "  scope: WorkloadSelector\n",
	 NULL,
	 NULL},
	{"policy__is_named_by_the_pods_it_selects",
	 {POLICY("default", "'selector':{'matchLabels':{'app':'web'}},'rules':[{}]"), SPEC("")},
	 "  authorizationPolicies: [default/p]\n",
	 NULL,
	 NULL},
	{"policy__is_not_named_by_others",
	 {POLICY("default", "'selector':{'matchLabels':{'app':'db'}},'rules':[{}]"), SPEC("")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"policy__of_a_namespace_is_not_named",
	 {RULES("{}"), SPEC("")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"policy__selector_of_the_root_reaches_all",
	 {POLICY("istio-system", "'selector':{'matchLabels':{'app':'web'}},'rules':[{}]"),
	  SPEC("")},
	 "authorizationPolicies: [istio-system/p]",
	 NULL,
	 NULL},
	{"policy__selector_of_another_namespace",
	 {POLICY("shop", "'selector':{'matchLabels':{'app':'web'}},'rules':[{}]"), SPEC("")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	/* 7.2 */
	{"rule__principals",
	 {RULES(FROM("'principals':['*','*/sa/x','td/ns/a/*','td/ns/a/sa/b']"))},
	 "  - - - {principals: [!Presence [], !Suffix \"/sa/x\", !Prefix td/ns/a/, !Exact "
	 "td/ns/a/sa/b]}\n",
	 NULL,
	 NULL},
	{"rule__addresses",
	 {RULES(FROM("'ipBlocks':['10.0.0.0/8','10.1.2.3'],'notIpBlocks':['fd00::/8']"))},
	 "  - - - {sourceIps: [\"10.0.0.0/8\", \"10.1.2.3/32\"], notSourceIps: [\"fd00::/8\"]}\n",
	 NULL,
	 NULL},
	{"rule__accounts",
	 {RULES(FROM("'serviceAccounts':['shop/a','b']"))},
	 "{serviceAccounts: [{namespace: shop, serviceAccount: a}, {namespace: default, "
	 "serviceAccount: b}]}",
	 NULL,
	 NULL},
	{"rule__from_to_when",
	 {RULES("{'from':[{'source':{'namespaces':['a']}},{'source':{'namespaces':['b']}}],'to':[{'"
		"operation':{'ports':['80'],'notPorts':['81']}}],"
		"'when':[{'key':'destination.port','values':['80']},{'key':'source.namespace','"
		"notValues':['c']}]}")},
	 "  - - - {destinationPorts: [80], notDestinationPorts: [81]}\n    - - {namespaces: "
	 "[!Exact a]}\n      - {namespaces: [!Exact b]}\n"
	 "    - - {destinationPorts: [80]}\n    - - {notNamespaces: [!Exact c]}\n",
	 NULL,
	 NULL},
	{"rule__all_conditions",
	 {RULES(WHEN("source.ip", "'values':['1.2.3.4']") "," WHEN(
		 "source.principal", "'values':['x']") "," WHEN("destination.ip",
								"'notValues':['1.2.3.4']"))},
	 "  - - - {sourceIps: [\"1.2.3.4/32\"]}\n  - - - {principals: [!Exact x]}\n  - - - "
	 "{notDestinationIps: [\"1.2.3.4/32\"]}\n",
	 NULL,
	 NULL},
	{"rule__empty_source_never_holds",
	 {RULES("{'from':[{}]}")},
	 ALLOWS "  rules: []\n",
	 NULL,
	 NULL},
	/* 7.3 */
	{"http__allow_rule_is_left_out",
	 {RULES(TO("'ports':['80'],'methods':['GET']") "," TO("'ports':['90']"))},
	 ALLOWS "  rules:\n  - - - {destinationPorts: [90]}\n",
	 NULL,
	 "allows less"},
	{"http__only_allows_nothing",
	 {RULES(TO("'paths':['/x']"))},
	 ALLOWS "  rules: []\n",
	 NULL,
	 "allows less"},
	{"http__deny_without_it",
	 {DENY(TO("'ports':['80'],'methods':['GET']"))},
	 DENIES "  rules:\n  - - - {destinationPorts: [80]}\n",
	 NULL,
	 "denies more"},
	{"http__deny_of_it_only",
	 {DENY("{'from':[{'source':{'namespaces':['a']}}],'to':[{'operation':{'methods':['GET']}}]"
	       "}")},
	 DENIES "  rules: []\n",
	 NULL,
	 "has no effect"},
	{"http__deny_when_header",
	 {DENY(WHEN("request.headers[x]", "'values':['y']"))},
	 DENIES "  rules: []\n",
	 NULL,
	 "has no effect"},
	{"http__request_principals",
	 {RULES(FROM("'requestPrincipals':['*']"))},
	 ALLOWS "  rules: []\n",
	 NULL,
	 "allows less"},
	/* values that cannot be used: stricter, never wider */
	{"bad__allow_of_a_port_that_is_none",
	 {RULES(TO("'ports':['http']"))},
	 ALLOWS "  rules: []\n",
	 NULL,
	 "ports: http cannot be used"},
	{"bad__allow_keeps_the_good_ports",
	 {RULES(TO("'ports':['http','80']"))},
	 "destinationPorts: [80]",
	 NULL,
	 "stricter"},
	{"bad__allow_except_what_is_unknown",
	 {RULES(FROM("'ipBlocks':['10.0.0.0/8'],'notIpBlocks':['10.1.0.0/16','x']"))},
	 ALLOWS "  rules: []\n",
	 NULL,
	 "notIpBlocks: x"},
	{"bad__one_of_two_sources",
	 {RULES("{'from':[{'source':{'ipBlocks':['x']}},{'source':{'ipBlocks':['10.0.0.0/8']}}]}")},
	 "  - - - {sourceIps: [\"10.0.0.0/8\"]}\n",
	 NULL,
	 "ipBlocks"},
	{"bad__deny_of_a_port_that_is_none",
	 {DENY(TO("'ports':['http']"))},
	 DENIES "  rules:\n  - []\n",
	 NULL,
	 "stricter"},
	{"bad__deny_keeps_the_good_ports",
	 {DENY(TO("'ports':['http','80']"))},
	 "destinationPorts: [80]",
	 NULL,
	 "stricter"},
	{"bad__deny_keeps_other_clauses",
	 {DENY("{'from':[{'source':{'namespaces':['a']}}],'to':[{'operation':{'ports':['x']}}]}")},
	 DENIES "  rules:\n  - - - {namespaces: [!Exact a]}\n",
	 NULL,
	 "stricter"},
	{"bad__deny_except_what_is_unknown",
	 {DENY(FROM("'notNamespaces':['']"))},
	 DENIES "  rules:\n  - []\n",
	 NULL,
	 "stricter"},
	{"bad__principal_with_a_scheme",
	 {RULES(FROM("'principals':['spiffe://td/ns/a/sa/b']"))},
	 ALLOWS "  rules: []\n",
	 NULL,
	 "principals"},
	{"bad__port_zero", {RULES(TO("'ports':['0']"))}, ALLOWS "  rules: []\n", NULL, "ports"},
	{"bad__rules_that_are_no_list",
	 {POLICY("default", "'rules':'x'")},
	 DENIES "  rules:\n  - []\n",
	 NULL,
	 "everything in its scope is denied"},
	{"bad__action_that_is_unknown",
	 {POLICY("default", "'action':'ALOW','rules':[{}]")},
	 DENIES "  rules:\n  - []\n",
	 NULL,
	 "ALLOW or DENY"},
	{"bad__value_that_is_no_text",
	 {RULES(TO("'ports':[80]"))},
	 DENIES "  rules:\n  - []\n",
	 NULL,
	 "is denied"},
};

/* --- PeerAuthentication (7.4): each row is a line of its table --- */

#define PEER(name, ns, spec)                                                                       \
	"m{'metadata':{'name':'" name "','namespace':'" ns                                         \
	"','creationTimestamp':'2026-01-02T00:00:00Z'},'spec':{" spec "}}"
#define MESH(mode)  PEER("mesh", "istio-system", "'mtls':{'mode':'" mode "'}")
#define OF_NS(mode) PEER("ns", "default", "'mtls':{'mode':'" mode "'}")
#define OF_POD(mode, ports)                                                                        \
	PEER("w", "default",                                                                       \
	     "'selector':{'matchLabels':{'app':'web'}},'mtls':{'mode':'" mode                      \
	     "'},'portLevelMtls':{" ports "}")
#define P(port, mode) "'" port "':{'mode':'" mode "'}"
#define STATIC	      "authorizationPolicies: [istio-system/istio_converted_static_strict]\n"
#define CONVERTED     "authorizationPolicies: [default/converted_peer_authentication_w]\n"

static const struct row peer_rows[] = {
	{"peer__none", {SPEC("")}, "policies: []", "authorizationPolicies", NULL},
	{"peer__mesh_strict", {SPEC(""), MESH("STRICT")}, STATIC, NULL, NULL},
	{"peer__static_policy",
	 {MESH("PERMISSIVE")},
	 "- name: istio_converted_static_strict\n  namespace: istio-system\n  scope: "
	 "WorkloadSelector\n  action: Deny\n  dryRun: false\n  rules:\n  - - - {notPrincipals: "
	 "[!Presence []]}\n",
	 NULL,
	 NULL},
	{"peer__mesh_permissive",
	 {SPEC(""), MESH("PERMISSIVE")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__namespace_relaxes_the_mesh",
	 {SPEC(""), MESH("STRICT"), OF_NS("PERMISSIVE")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__disable_is_permissive",
	 {SPEC(""), MESH("STRICT"), OF_NS("DISABLE")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__namespace_unset_inherits",
	 {SPEC(""), MESH("STRICT"), OF_NS("UNSET")},
	 STATIC,
	 NULL,
	 NULL},
	{"peer__namespace_strict", {SPEC(""), OF_NS("STRICT")}, STATIC, NULL, NULL},
	{"peer__workload_strict", {SPEC(""), OF_POD("STRICT", "")}, STATIC, NULL, NULL},
	{"peer__workload_permissive",
	 {SPEC(""), OF_NS("STRICT"), OF_POD("PERMISSIVE", "")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__workload_of_others",
	 {SPEC(""),
	  PEER("w", "default", "'selector':{'matchLabels':{'app':'db'}},'mtls':{'mode':'STRICT'}")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__selector_in_the_root_is_ignored",
	 {SPEC(""), PEER("w", "istio-system",
			 "'selector':{'matchLabels':{'app':'web'}},'mtls':{'mode':'STRICT'}")},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__empty_selector_is_the_namespace",
	 {SPEC(""), PEER("w", "default", "'selector':{'matchLabels':{}},'mtls':{'mode':'STRICT'}")},
	 STATIC,
	 NULL,
	 NULL},
	{"peer__strict_and_strict_ports",
	 {SPEC(""), OF_POD("STRICT", P("80", "STRICT"))},
	 STATIC,
	 "converted_peer",
	 NULL},
	{"peer__strict_with_exceptions",
	 {SPEC(""), OF_POD("STRICT", P("9091", "DISABLE") "," P("9090", "PERMISSIVE"))},
	 CONVERTED,
	 NULL,
	 NULL},
	{"peer__strict_with_exceptions_rules",
	 {OF_POD("STRICT", P("9091", "DISABLE") "," P("9090", "PERMISSIVE"))},
	 "- name: converted_peer_authentication_w\n  namespace: default\n  scope: "
	 "WorkloadSelector\n  action: Deny\n  dryRun: false\n  rules:\n"
	 "  - - - {notPrincipals: [!Presence []]}\n    - - {notDestinationPorts: [9090]}\n    - - "
	 "{notDestinationPorts: [9091]}\n",
	 NULL,
	 NULL},
	{"peer__permissive_with_strict_port",
	 {SPEC(""), OF_POD("PERMISSIVE", P("80", "STRICT"))},
	 CONVERTED,
	 NULL,
	 NULL},
	{"peer__permissive_with_strict_port_rules",
	 {OF_POD("PERMISSIVE", P("80", "STRICT") "," P("81", "STRICT"))},
	 "  rules:\n  - - - {notPrincipals: [!Presence []], destinationPorts: [80]}\n  - - - "
	 "{notPrincipals: [!Presence []], destinationPorts: [81]}\n",
	 NULL,
	 NULL},
	{"peer__permissive_with_permissive_port",
	 {SPEC(""), OF_POD("PERMISSIVE", P("80", "PERMISSIVE"))},
	 NULL,
	 "converted_peer",
	 NULL},
	{"peer__unset_under_strict_with_permissive_port",
	 {SPEC(""), MESH("STRICT"), OF_POD("UNSET", P("80", "PERMISSIVE"))},
	 CONVERTED,
	 NULL,
	 NULL},
	{"peer__unset_under_strict_rules",
	 {MESH("STRICT"), OF_POD("UNSET", P("80", "PERMISSIVE"))},
	 "  - - - {notPrincipals: [!Presence []]}\n    - - {notDestinationPorts: [80]}\n",
	 NULL,
	 NULL},
	/* istiod names the policy here and does not send it */
	{"peer__unset_namespace_between_has_its_policy",
	 {MESH("STRICT"), OF_NS("UNSET"), OF_POD("UNSET", P("80", "PERMISSIVE"))},
	 "    - - {notDestinationPorts: [80]}\n",
	 NULL,
	 NULL},
	{"peer__unset_under_strict_with_disable_port",
	 {SPEC(""), MESH("STRICT"), OF_POD("UNSET", P("80", "DISABLE"))},
	 STATIC,
	 NULL,
	 NULL},
	{"peer__unset_under_permissive_with_strict_port",
	 {SPEC(""), OF_POD("UNSET", P("80", "STRICT"))},
	 CONVERTED,
	 NULL,
	 NULL},
	{"peer__unset_under_permissive",
	 {SPEC(""), OF_POD("UNSET", P("80", "PERMISSIVE"))},
	 NULL,
	 "authorizationPolicies",
	 NULL},
	{"peer__oldest_wins",
	 {SPEC(""), OF_NS("PERMISSIVE"),
	  "m{'metadata':{'name':'z','namespace':'default','creationTimestamp':'2026-01-01T00:00:"
	  "00Z'},'spec':{'mtls':{'mode':'STRICT'}}}"},
	 STATIC,
	 NULL,
	 NULL},
	{"peer__unknown_mode_is_strict",
	 {SPEC(""), OF_NS("LAX")},
	 STATIC,
	 NULL,
	 "counts as STRICT"},
	{"peer__port_that_is_none",
	 {SPEC(""), OF_POD("PERMISSIVE", P("http", "PERMISSIVE"))},
	 STATIC,
	 NULL,
	 "counts as STRICT"},
};

static void run_row(void **state)
{
	const struct row *r = *state;
	_cleanup_free_ char *text = NULL, *note = NULL;
	struct ex_store s = {0};
	struct err err = {0};

	for (size_t i = 0; i < OBJECTS_MAX && r->object[i] != NULL; i++)
		if (put(&s, r->object[i], &note, &err) != 0)
			fail_msg("%s: %s", r->object[i], err.msg);
	text = compose(&s);
	if (r->want != NULL && strstr(text, r->want) == NULL)
		fail_msg("expected\n%s\nin\n%s", r->want, text);
	if (r->want_not != NULL && strstr(text, r->want_not) != NULL)
		fail_msg("did not expect %s in\n%s", r->want_not, text);
	if (r->note == NULL ? note != NULL : note == NULL || strstr(note, r->note) == NULL)
		fail_msg("expected the note %s, got %s", r->note, note);
	ex_store_fini(&s);
}

/* --- objects that cannot be read --- */

static void read__refused(void **state)
{
	static const struct {
		const char *object, *why;
	} bad[] = {
		{"p{}", "metadata.name"},
		{"p{'metadata':{'name':'a'}}", "metadata.namespace"},
		{"p{'metadata':{'name':'a/b','namespace':'c'}}", "metadata.name"},
		{"n{'metadata':{'name':'a','namespace':'c'}}", "expected none"},
		{"p{'metadata':{'name':'a','namespace':'c','labels':{'x':1}},'status':{'podIP':'1."
		 "2.3.4'}}",
		 "expected text"},
		{"p{'metadata':{'name':'a','namespace':'c'},'spec':{'serviceAccountName':'a/"
		 "b'},'status':{'podIP':'1.2.3.4'}}",
		 "serviceAccountName"},
		{"p{'metadata':{'name':'a','namespace':'c'},'spec':{'containers':[{'ports':[{'name'"
		 ":'x','containerPort':70000}]}]},'status':{'podIP':'1.2.3.4'}}",
		 "65535"},
		{"s{'metadata':{'name':'a','namespace':'c'},'spec':{'ports':'x'}}",
		 "expected a list"},
		{"e{'metadata':[]}", "expected an object"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct ex_store s = {0};
		struct err err = {0};

		assert_int_equal(put(&s, bad[i].object, NULL, &err), -EINVAL);
		if (strstr(err.msg, bad[i].why) == NULL)
			fail_msg("%s: %s", bad[i].object, err.msg);
		ex_store_fini(&s);
	}
}

/* --- the store --- */

static void store__says_what_is_news(void **state)
{
	static const char changed[] = "p{" META(",'labels':{'app':'db'}") ",'spec':{}," RUNNING "}";
	static const char same[] =
		"p{" META(",'labels':{'app':'web'},'managedFields':[1]") ",'spec':{'x':1}," RUNNING
									 "}";
	struct arena *a = arena_new();
	struct ex_store s = {0};
	struct err err = {0};
	const struct {
		const char *object;
		bool news;
	} steps[] = {{SPEC(""), true}, {SPEC(""), false}, {same, false}, {changed, true}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		char *json = arena_strndup(a, steps[i].object + 1, strlen(steps[i].object + 1));
		struct ex_object *o = NULL;
		const struct doc *d = NULL;

		for (char *p = json; *p != '\0'; p++)
			if (*p == '\'')
				*p = '"';
		assert_int_equal(json_parse(str_of(json), a, &d, &err), 0);
		assert_int_equal(ex_read(EX_POD, d, &s.texts, &o, &err), 0);
		assert_int_equal(ex_store_put(&s, o), steps[i].news);
	}
	assert_int_equal(ex_store_count(&s, EX_POD), 1);
	ex_store_fini(&s);
	(void)arena_free(a);
}

static void store__sweep_keep_remove(void **state)
{
	struct ex_store s = {0};
	struct err err = {0};

	(void)state;
	assert_int_equal(put(&s, POD(""), NULL, &err), 0);
	assert_int_equal(put(&s,
			     "p{'metadata':{'name':'b','namespace':'default'},'status':{'podIP':'"
			     "10.0.0.3'}}",
			     NULL, &err),
			 0);
	assert_false(ex_store_sweep(&s, EX_POD, 0));
	ex_store_keep(&s, EX_POD, STR("default"), STR("b"), 7);
	ex_store_keep(&s, EX_POD, STR("default"), STR("nobody"), 7);
	assert_true(ex_store_sweep(&s, EX_POD, 7));
	assert_null(ex_store_get(&s, EX_POD, STR("default"), STR("web-1")));
	assert_non_null(ex_store_get(&s, EX_POD, STR("default"), STR("b")));
	assert_true(ex_store_remove(&s, EX_POD, STR("default"), STR("b")));
	assert_false(ex_store_remove(&s, EX_POD, STR("default"), STR("b")));
	assert_int_equal(s.texts.table.count, 0);
	ex_store_fini(&s);
}

/* --- text --- */

static void yaml__text(void **state)
{
	static const struct {
		const char *text, *want;
	} t[] = {
		{"web", "web"},
		{"a/b.c_d-1", "a/b.c_d-1"},
		{"", "\"\""},
		{"10", "\"10\""},
		{"1e5", "\"1e5\""},
		{"Yes", "\"Yes\""},
		{"null", "\"null\""},
		{"nullx", "nullx"},
		{"-a", "\"-a\""},
		{"a: b", "\"a: b\""},
		{"a\"\\b", "\"a\\\"\\\\b\""},
		{"a\nb", "\"a\\U0000000ab\""},
		{"\x7f", "\"\\U0000007f\""},
		{"\xc3\xa4", "\"\\U000000e4\""},
		{"\xe2\x82\xac", "\"\\U000020ac\""},
		{"\xf0\x9f\x98\x80", "\"\\U0001f600\""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};

		ex_yaml_text(&b, t[i].text);
		assert_string_equal(b.p, t[i].want);
	}
}

int main(void)
{
	static struct CMUnitTest
		tests[ARRAY_LEN(rows) + ARRAY_LEN(policy_rows) + ARRAY_LEN(peer_rows) + 4];
	const struct {
		const struct row *v;
		size_t n;
	} tables[] = {{rows, ARRAY_LEN(rows)},
		      {policy_rows, ARRAY_LEN(policy_rows)},
		      {peer_rows, ARRAY_LEN(peer_rows)}};
	size_t n = 0;

	for (size_t k = 0; k < ARRAY_LEN(tables); k++)
		for (size_t i = 0; i < tables[k].n; i++)
			tests[n++] = (struct CMUnitTest){tables[k].v[i].name, run_row, NULL, NULL,
							 (void *)(uintptr_t)&tables[k].v[i]};
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(read__refused);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(store__says_what_is_news);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(store__sweep_keep_remove);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(yaml__text);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
